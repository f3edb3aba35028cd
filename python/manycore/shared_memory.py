"""Shared memory under a name: `SharedMemory`, a segment of bytes, and `ShareableList`, a list of fixed length in one.

Names and layouts are the standard package's, so a program of one package can attach to what the other has made.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from functools import partial
from types import GenericAlias

from . import _memory, resource_tracker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, ClassVar

__all__ = ["SharedMemory", "ShareableList"]

_USE_POSIX = True
_SHM_NAME_PREFIX = "/psm_"
# Some systems allow no more; the standard package keeps to it everywhere.
_SHM_SAFE_NAME_LENGTH = 14
_O_CREX = os.O_CREAT | os.O_EXCL


def _make_filename() -> str:
    """Return a random name for a segment."""
    return _SHM_NAME_PREFIX + os.urandom((_SHM_SAFE_NAME_LENGTH - len(_SHM_NAME_PREFIX)) // 2).hex()


def _open_segment(name: str, flags: int, mode: int) -> int:
    try:
        return os.open(resource_tracker.segment_path(name), flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None


def _has_views(mapping: mmap.mmap) -> bool:
    """Return whether there are views of this memory: a change of its size, this one refused in any case, tells them."""
    try:
        mapping.resize(-1)
    except BufferError:
        return True
    except (OSError, SystemError, TypeError, ValueError):
        pass
    return False


def _has_no_files_without_names(error: OSError) -> bool:
    """Return whether a system cannot make a file without a name, or cannot name one without /proc."""
    return error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


class SharedMemory:
    """A segment of shared memory, made new (`create=True`, of `size` bytes) or attached to by its `name`.

    `buf` is its memory. `close()` gives back this process's access, `unlink()` takes the name away, once for all; what
    is mapped stays usable until it is closed. A new segment without `name` gets a random one; `size` says nothing when
    one is attached to.

    `track` says whether the segment is this program's to free when all its processes have ended, however they ended:
    True: it is; False: it is not; not given: it is if this program makes it. So a program that only attaches never
    frees what another one has made. (In the standard package it does, unless `track=False`.) To be freed is to lose the
    name: whoever has mapped the segment keeps the memory.

    Raises FileExistsError if a new one's name is taken, FileNotFoundError if there is none to attach to, OSError with
    ENOSPC or ENOMEM if there is less room or memory than a new one needs, ValueError for a size below 1, or no name to
    attach to.
    """

    _name: str | None = None
    _fd = -1
    _mmap: mmap.mmap | None = None
    _buf: memoryview | None = None
    _flags = os.O_RDWR
    _mode = 0o600
    _prepend_leading_slash = True
    _track = False
    # Whether the tracker is told that the name was taken away, as the standard package does unless `track=False`.
    _is_told = True
    _size = 0
    _file = 0, 0

    def __init__(
        self, name: str | None = None, create: bool = False, size: int = 0, *, track: bool | None = None
    ) -> None:
        if not size >= 0:
            raise ValueError("'size' must be a positive integer")
        if create:
            self._flags = _O_CREX | os.O_RDWR
            if size == 0:
                raise ValueError("'size' must be a positive number different from zero")
        if name is None and not self._flags & os.O_EXCL:
            raise ValueError("'name' can only be None if create=True")
        self._track = create if track is None else bool(track)
        self._is_told = track is not False
        if create:
            self._create(name, size)
        else:
            self._name = self._full_name(name)  # type: ignore[arg-type]
            self._fd = _open_segment(self._name, self._flags, self._mode)
        try:
            self._file = self._identity()
            self._size = os.fstat(self._fd).st_size
            self._mmap = mmap.mmap(self._fd, self._size)
            if self._track and not create:
                resource_tracker.track_segment(self._name, self._file)  # type: ignore[arg-type]
        except BaseException:
            # Somebody else's stays; it only cannot be mapped.
            if create:
                self.unlink()
            self.close()
            raise
        self._buf = memoryview(self._mmap)

    def _identity(self) -> tuple[int, int]:
        status = os.fstat(self._fd)
        return status.st_dev, status.st_ino

    def _full_name(self, name: str) -> str:
        return f"/{name}" if self._prepend_leading_slash else name

    def _create(self, name: str | None, size: int) -> None:
        """Make a segment. It gets its name last, when it has its memory and the tracker knows the file: a process that
        is killed on the way leaves nothing, and nobody attaches to what has no size yet.
        """
        while True:
            full = _make_filename() if name is None else self._full_name(name)
            path = resource_tracker.segment_path(full)
            try:
                if os.path.lexists(path):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), full)
                if self._fd < 0 and not self._open_without_name(size):
                    self._create_by_name(full, size)
                else:
                    self._give_name(full, path)
            except FileExistsError:
                if name is None:
                    continue
                self.close()
                raise
            except BaseException:
                self.close()
                raise
            self._name = full
            return

    def _open_without_name(self, size: int) -> bool:
        """Make a file without a name that has its memory; False where the system has no such files."""
        flags = self._flags & ~_O_CREX | os.O_TMPFILE | os.O_CLOEXEC
        try:
            fd = os.open(resource_tracker.SHM_FOLDER, flags, self._mode)
        except OSError as error:
            if _has_no_files_without_names(error):
                return False
            raise
        if not os.path.exists(f"/proc/self/fd/{fd}"):
            os.close(fd)
            return False
        self._fd = fd
        _memory.reserve(fd, size)
        return True

    def _create_by_name(self, full: str, size: int) -> None:
        """Make a file that has its name from the start: a process that is killed before it is registered leaves it."""
        self._fd = _open_segment(full, self._flags, self._mode)
        try:
            if self._track:
                resource_tracker.track_segment(full, self._identity())
            _memory.reserve(self._fd, size)
        except BaseException:
            resource_tracker.unlink_segment(full)
            if self._track:
                resource_tracker.untrack_segment(full, self._identity())
            raise

    def _give_name(self, full: str, path: str) -> None:
        if self._track:
            resource_tracker.track_segment(full, self._identity())
        try:
            # With a folder's descriptor, which an absolute path does not need, Python calls linkat, which follows.
            os.link(f"/proc/self/fd/{self._fd}", path, src_dir_fd=self._fd, follow_symlinks=True)
        except OSError as error:
            if self._track:
                resource_tracker.untrack_segment(full, self._identity())
            raise OSError(error.errno, error.strerror, full) from None

    def __del__(self) -> None:
        try:
            self.close()
        except (OSError, BufferError):
            # Views of the memory live on, and with them the mapping.
            pass

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, False, self.size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, size={self.size})"

    @property
    def buf(self) -> memoryview:
        """The memory; None after `close()`."""
        return self._buf  # type: ignore[return-value]

    @property
    def name(self) -> str:
        """The name by which others attach."""
        name = self._name
        return name[1:] if self._prepend_leading_slash and name and name[0] == "/" else name  # type: ignore[return-value]

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self._size

    def close(self) -> None:
        """Give back this process's access; the segment stays. BufferError while there are views of `buf`.

        Memory that an array of NumPy lies in, made by `numpy.ndarray(..., buffer=segment.buf)`, stays mapped as long as
        that array lives.
        """
        if self._buf is not None:
            self._buf.release()
            self._buf = None
        if self._mmap is not None:
            if _has_views(self._mmap):
                raise BufferError("cannot close exported pointers exist")
            # Not closed, which would unmap at once: NumPy gives its view back and keeps only this object.
            self._mmap = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def unlink(self) -> None:
        """Take the segment's name away, so that it is freed when the last process closes it.

        To be called once among all processes. FileNotFoundError if that has been done.
        """
        if self._name:
            resource_tracker.unlink_tracked_segment(self._name, self._file, self._is_told)


# ----------------------------------------------------------------------------------------------------------------------
# A list

_encoding = "utf8"
_WORD = 8


class ShareableList:
    """A list in shared memory: its length is fixed, its items are int (64 bits), float, bool, str, bytes or None.

    Made new from `sequence`, under `name` if given, or attached to by `name` alone. A str or bytes can be replaced by
    one that is as long, rounded up to a multiple of 8 bytes.

    The segment holds, in this order: the length; length + 1 offsets of the items from the beginning of the data; the
    data; 8 characters for each item, the `struct` format it is stored by; one byte for each, how it is read back.

    A str or bytes is stored by a format as long as its room, and ends before the zeros at its end. One that ends with a
    zero has a format of just its length and a space, which `struct` ignores: the standard package reads it, though
    without those zeros, and writes a format of its own when it replaces the item.
    """

    _types_mapping: ClassVar[dict[type, str]] = {
        int: "q",
        float: "d",
        bool: "xxxxxxx?",
        str: "%ds",
        bytes: "%ds",
        type(None): "xxxxxx?x",
    }
    _alignment = _WORD
    _back_transforms_mapping: ClassVar[dict[int, Callable[[Any], Any]]] = {
        0: lambda value: value,
        1: lambda value: value.decode(_encoding),
        2: lambda value: value,
        3: lambda _value: None,
    }

    def __init__(self, sequence: Iterable[Any] | None = None, *, name: str | None = None) -> None:
        if name is None or sequence is not None:
            self._make([] if sequence is None else list(sequence), name)
        else:
            self._attach(name)

    def _make(self, items: list[Any], name: str | None) -> None:
        stored = [self._stored(item) for item in items]
        formats = [self._format_for(item, value) for item, value in zip(items, stored)]  # noqa: B905
        self._list_len = len(items)
        self._allocated_offsets = [0]
        for form in formats:
            size = int(form[:-1]) if form[-1] == "s" else self._alignment
            self._allocated_offsets.append(self._allocated_offsets[-1] + size)
        formats = [
            form if value is None else self._format_in(int(form[:-1]), value)
            for form, value in zip(formats, stored)  # noqa: B905
        ]
        self.shm = SharedMemory(name, create=True, size=self._offset_back_transform_codes + self._list_len)
        try:
            self._fill(items, stored, formats)
        except BaseException:
            self.shm.unlink()
            self.shm.close()
            raise

    def _fill(self, items: list[Any], stored: list[bytes | None], formats: list[str]) -> None:
        buf = self.shm.buf
        struct.pack_into(f"{self._list_len + 2}q", buf, 0, self._list_len, *self._allocated_offsets)
        for position, (item, value, form) in enumerate(zip(items, stored, formats)):  # noqa: B905
            start = self._offset_data_start + self._allocated_offsets[position]
            struct.pack_into(form, buf, start, item if value is None else value)
            self._set_packing_format_and_transform(position, form, item)

    def _attach(self, name: str) -> None:
        self.shm = SharedMemory(name)
        try:
            self._list_len, self._allocated_offsets = self._read_offsets()
        except BaseException as error:
            self.shm.close()
            if isinstance(error, struct.error):
                raise ValueError(f"the segment {name!r} holds no list: {error}") from None
            raise

    def _read_offsets(self) -> tuple[int, list[int]]:
        """Return the length and the offsets. ValueError unless every part they speak of lies in the segment."""
        (length,) = struct.unpack_from("q", self.shm.buf, 0)
        # An item has an offset, a format and a byte at least.
        room = self.shm.size - 2 * _WORD - length * (2 * _WORD + 1)
        if length < 0 or room < 0:
            raise ValueError(f"the segment {self.shm.name!r} holds no list: its length would be {length}")
        offsets = list(struct.unpack_from(f"{length + 1}q", self.shm.buf, _WORD))
        if offsets[0] != 0 or offsets[-1] > room or offsets != sorted(offsets):
            raise ValueError(f"the segment {self.shm.name!r} holds no list: its items would lie outside")
        return length, offsets

    @staticmethod
    def _stored(value: Any) -> bytes | None:
        """Return the bytes that a str or bytes is stored as, None for another value."""
        if isinstance(value, str):
            return value.encode(_encoding)
        return value if isinstance(value, bytes) else None

    def _format_for(self, value: Any, stored: bytes | None) -> str:
        try:
            form = self._types_mapping[type(value)]
        except KeyError:
            raise KeyError(
                f"a ShareableList holds int, float, bool, str, bytes and None, not {type(value).__name__}"
            ) from None
        if form != "%ds":
            return form
        size = len(stored or b"")
        # A character more than there is, as the standard package counts: it takes a str's characters for its bytes.
        form = form % (self._alignment * max(len(value) // self._alignment + 1, -(-size // self._alignment)))
        if len(form) > _WORD:
            raise ValueError(f"a {type(value).__name__} of {size} bytes is too long for a ShareableList")
        return form

    @staticmethod
    def _format_in(room: int, stored: bytes) -> str:
        """Return the format of the bytes of a str or bytes that have `room` bytes."""
        if not stored.endswith(b"\0"):
            return f"{room}s"
        form = f"{len(stored)}s "
        if len(form) <= _WORD:
            return form
        if len(stored) < room:
            # No place for the space: what is shorter than its room is read as it is.
            return form[:-1]
        raise ValueError(f"an item of {len(stored)} bytes that fills its place cannot end with a zero")

    @staticmethod
    def _extract_recreation_code(value: Any) -> int:
        """Return how a stored value is turned back into one like `value`: the key of `_back_transforms_mapping`."""
        if isinstance(value, str):
            return 1
        if isinstance(value, bytes):
            return 2
        return 3 if value is None else 0

    def _index(self, position: int, message: str) -> int:
        index = position if position >= 0 else position + self._list_len
        if not 0 <= index < self._list_len:
            raise IndexError(message)
        return index

    def _get_packing_format(self, position: int) -> str:
        """Return the `struct` format of one item."""
        index = self._index(position, "Requested position out of range.")
        (form,) = struct.unpack_from("8s", self.shm.buf, self._offset_packing_formats + index * _WORD)
        return form.rstrip(b"\0").decode("latin-1")

    def _get_back_transform(self, position: int) -> Callable[[Any], Any]:
        """Return the function that turns one stored item into its value."""
        index = self._index(position, "Requested position out of range.")
        (code,) = struct.unpack_from("b", self.shm.buf, self._offset_back_transform_codes + index)
        try:
            return self._back_transforms_mapping[code]
        except KeyError:
            raise self._damaged(index) from None

    def _damaged(self, index: int) -> ValueError:
        return ValueError(f"item {index} of the ShareableList {self.shm.name!r} is damaged")

    def _set_packing_format_and_transform(self, position: int, fmt_as_str: str, value: Any) -> None:
        index = self._index(position, "Requested position out of range.")
        formats, codes = self._offset_packing_formats, self._offset_back_transform_codes
        struct.pack_into("8s", self.shm.buf, formats + index * _WORD, fmt_as_str.encode(_encoding))
        struct.pack_into("b", self.shm.buf, codes + index, self._extract_recreation_code(value))

    def __getitem__(self, position: int) -> Any:
        index = self._index(position, "index out of range")
        start, stop = self._allocated_offsets[index : index + 2]
        form = self._get_packing_format(index)
        transform = self._get_back_transform(index)
        text = form.rstrip(" ")
        is_bytes = transform in (self._back_transforms_mapping[1], self._back_transforms_mapping[2])
        if is_bytes:
            digits = text[:-1]
            if text[-1:] != "s" or not digits.isascii() or not digits.isdigit() or int(digits) > stop - start:
                raise self._damaged(index)
        elif text not in self._types_mapping.values() or stop - start < self._alignment:
            raise self._damaged(index)
        (value,) = struct.unpack_from(text, self.shm.buf, self._offset_data_start + start)
        if is_bytes and form == f"{stop - start}s":
            value = value.rstrip(b"\0")
        return transform(value)

    def __setitem__(self, position: int, value: Any) -> None:
        index = self._index(position, "assignment index out of range")
        start, stop = self._allocated_offsets[index : index + 2]
        room = stop - start
        stored = self._stored(value)
        if stored is None:
            form = self._format_for(value, None)
            if room < self._alignment:
                # No list has such a place: an item has 8 bytes at least.
                raise self._damaged(index)
            data = struct.pack(form, value)
        else:
            if len(stored) > room:
                raise ValueError(f"bytes/str item exceeds available storage: {len(stored)} bytes, there are {room}")
            form = self._format_in(room, stored)
            if len(form) > _WORD:
                raise self._damaged(index)
            data = struct.pack(form, stored)
        self._set_packing_format_and_transform(index, form, value)
        start += self._offset_data_start
        self.shm.buf[start : start + len(data)] = data

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), name=self.shm.name), ()

    def __len__(self) -> int:
        return self._list_len

    def __iter__(self) -> Iterator[Any]:
        return (self[position] for position in range(self._list_len))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)}, name={self.shm.name!r})"

    @property
    def format(self) -> str:
        """The `struct` formats of all items, as they are now."""
        return "".join(map(self._get_packing_format, range(self._list_len)))

    # What `struct` calls the parts of the segment around the items.

    @property
    def _format_size_metainfo(self) -> str:
        return "q" * (self._list_len + 1)

    @property
    def _format_packing_metainfo(self) -> str:
        return "8s" * self._list_len

    @property
    def _format_back_transform_codes(self) -> str:
        return "b" * self._list_len

    @property
    def _offset_data_start(self) -> int:
        return (self._list_len + 2) * _WORD

    @property
    def _offset_packing_formats(self) -> int:
        return self._offset_data_start + self._allocated_offsets[-1]

    @property
    def _offset_back_transform_codes(self) -> int:
        return self._offset_packing_formats + self._list_len * _WORD

    def count(self, value: Any) -> int:
        """Return how many items equal `value`."""
        return sum(value == item for item in self)

    def index(self, value: Any) -> int:
        """Return the first position of `value`. ValueError if it is not there."""
        for position, item in enumerate(self):
            if value == item:
                return position
        raise ValueError(f"{value!r} not in this container")

    __class_getitem__ = classmethod(GenericAlias)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
