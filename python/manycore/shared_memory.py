"""Shared memory under a name: `SharedMemory`, a segment of bytes, and `ShareableList`, a list of fixed length in one.

Names and layouts are the standard package's, so a program of one package can attach to what the other has made.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from functools import partial
from types import GenericAlias

from . import resource_tracker

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


class SharedMemory:
    """A segment of shared memory, made new (`create=True`, of `size` bytes) or attached to by its `name`.

    `buf` is its memory. `close()` gives back this process's access, `unlink()` takes the name away, once for all; what
    is mapped stays usable until it is closed. A new segment without `name` gets a random one; `size` says nothing when
    one is attached to.

    `track` says whether the segment is this program's to free when all its processes have ended, however they ended:
    True: it is; False: it is not; not given: it is if this program makes it. So a program that only attaches never
    frees what another one has made. (In the standard package it does, unless `track=False`.) A segment that another
    program of this package still has open is freed when that one closes it.

    Raises FileExistsError if a new one's name is taken, FileNotFoundError if there is none to attach to, ValueError for
    a size below 1, or no name to attach to.
    """

    _name: str | None = None
    _fd = -1
    _mmap: mmap.mmap | None = None
    _buf: memoryview | None = None
    _flags = os.O_RDWR
    _mode = 0o600
    _prepend_leading_slash = True
    _track = False
    _size = 0

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
        if name is None:
            self._open_new()
        else:
            full = f"/{name}" if self._prepend_leading_slash else name
            self._fd = _open_segment(full, self._flags, self._mode)
            self._name = full
        try:
            if create and self._track:
                # First of all: a process killed from here on leaves nothing.
                resource_tracker.register(self._name, "shared_memory")  # type: ignore[arg-type]
            # Says that it is in use, to the tracker of whichever program is to free it.
            fcntl.flock(self._fd, fcntl.LOCK_SH)
            if create:
                os.ftruncate(self._fd, size)
            self._size = os.fstat(self._fd).st_size
            self._mmap = mmap.mmap(self._fd, self._size)
        except BaseException:
            # Somebody else's stays; it only cannot be mapped.
            if create:
                self.unlink()
            self.close()
            raise
        self._buf = memoryview(self._mmap)
        if self._track and not create:
            resource_tracker.register(self._name, "shared_memory")  # type: ignore[arg-type]

    def _open_new(self) -> None:
        while True:
            name = _make_filename()
            try:
                self._fd = _open_segment(name, self._flags, self._mode)
            except FileExistsError:
                continue
            self._name = name
            return

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
        """Give back this process's access; the segment stays. BufferError while there are views of `buf`."""
        if self._buf is not None:
            self._buf.release()
            self._buf = None
        if self._mmap is not None:
            self._mmap.close()
            self._mmap = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def unlink(self) -> None:
        """Take the segment's name away, so that it is freed when the last process closes it.

        To be called once among all processes. FileNotFoundError if that has been done.
        """
        if self._name:
            resource_tracker.unlink_segment(self._name)
            # Also one that this handle did not register: the name is gone, there is nothing left to free.
            resource_tracker.unregister(self._name, "shared_memory")


# ----------------------------------------------------------------------------------------------------------------------
# A list

_encoding = "utf8"
_WORD = 8


class ShareableList:
    """A list in shared memory: its length is fixed, its items are int (64 bits), float, bool, str, bytes or None.

    Made new from `sequence`, under `name` if given, or attached to by `name` alone. A str or bytes can be replaced by
    one that is as long, rounded up to a multiple of 8 bytes. Zeros at the end of str and bytes are lost.

    The segment holds, in this order: the length; length + 1 offsets of the items from the beginning of the data; the
    data; 8 characters for each item, the `struct` format it is stored by; one byte for each, how it is read back.
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
        1: lambda value: value.rstrip(b"\0").decode(_encoding),
        2: lambda value: value.rstrip(b"\0"),
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
        self.shm = SharedMemory(name, create=True, size=self._offset_back_transform_codes + self._list_len)
        buf = self.shm.buf
        struct.pack_into(f"{self._list_len + 2}q", buf, 0, self._list_len, *self._allocated_offsets)
        for position, (item, value, form) in enumerate(zip(items, stored, formats)):  # noqa: B905
            start = self._offset_data_start + self._allocated_offsets[position]
            struct.pack_into(form, buf, start, item if value is None else value)
            self._set_packing_format_and_transform(position, form, item)

    def _attach(self, name: str) -> None:
        self.shm = SharedMemory(name)
        try:
            self._list_len = len(self)
            if not 0 <= self._list_len <= self.shm.size // _WORD:
                raise ValueError(f"the segment {name!r} holds no list: its length would be {self._list_len}")
            self._allocated_offsets = list(struct.unpack_from(f"{self._list_len + 1}q", self.shm.buf, _WORD))
        except struct.error as error:
            raise ValueError(f"the segment {name!r} holds no list: {error}") from None

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
        return form.rstrip(b"\0").decode(_encoding)

    def _get_back_transform(self, position: int) -> Callable[[Any], Any]:
        """Return the function that turns one stored item into its value."""
        index = self._index(position, "Requested position out of range.")
        (code,) = struct.unpack_from("b", self.shm.buf, self._offset_back_transform_codes + index)
        return self._back_transforms_mapping[code]

    def _set_packing_format_and_transform(self, position: int, fmt_as_str: str, value: Any) -> None:
        index = self._index(position, "Requested position out of range.")
        formats, codes = self._offset_packing_formats, self._offset_back_transform_codes
        struct.pack_into("8s", self.shm.buf, formats + index * _WORD, fmt_as_str.encode(_encoding))
        struct.pack_into("b", self.shm.buf, codes + index, self._extract_recreation_code(value))

    def __getitem__(self, position: int) -> Any:
        index = self._index(position, "index out of range")
        start = self._offset_data_start + self._allocated_offsets[index]
        (value,) = struct.unpack_from(self._get_packing_format(index), self.shm.buf, start)
        return self._get_back_transform(index)(value)

    def __setitem__(self, position: int, value: Any) -> None:
        index = self._index(position, "assignment index out of range")
        start = self._allocated_offsets[index]
        stored = self._stored(value)
        if stored is None:
            form = self._format_for(value, None)
        else:
            room = self._allocated_offsets[index + 1] - start
            if len(stored) > room:
                raise ValueError(f"bytes/str item exceeds available storage: {len(stored)} bytes, there are {room}")
            form = self._get_packing_format(index)
            if form[-1] != "s":
                form = f"{room}s"
        self._set_packing_format_and_transform(index, form, value)
        struct.pack_into(form, self.shm.buf, self._offset_data_start + start, value if stored is None else stored)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), name=self.shm.name), ()

    def __len__(self) -> int:
        return struct.unpack_from("q", self.shm.buf, 0)[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[position] for position in range(self._list_len))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)}, name={self.shm.name!r})"

    @property
    def format(self) -> str:
        """The `struct` formats of all items, as they are now."""
        return "".join(map(self._get_packing_format, range(self._list_len)))

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
