"""The tracker: a process that frees what a program has left under a name when the program is gone.

Only `SharedMemory` has a name here, so a program that makes no segment never has a tracker.

The names stand in a file in memory that all processes of the program hold open, the family's file (`_descriptors`): one
record for each name, changed in place under a lock that the kernel gives back when its holder dies. The tracker reads
it once: it sleeps until nobody holds the file any more. So to register is one write and wakes nobody; and a tracker
that is killed loses nothing, the next call starts another one that finds the same names.

Locks of the kernel, each given back when its holder ends:

| lock | on | held by | means |
|---|---|---|---|
| flock, shared | the family's file | every process of the program, by inheritance | the program lives |
| record lock of byte 0, of an open file | the family's file | the tracker | there is a tracker |
| record lock of byte 1, of a process | the family's file | who changes the names | nobody else does |

A segment loses its name as soon as the program is gone; another program that has it mapped keeps the memory. The record
of a segment says which file it is: a name that another program has taken away, and perhaps used again, is not ours.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import fcntl
import os
import struct
import sys

from . import _descriptors, spawn, util
from ._locks import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["ensure_running", "register", "unregister"]

# Where shm_open of the C library keeps the segments.
SHM_FOLDER = "/dev/shm"

# A record is "type:name", filled up with zeros, then the device and inode of a segment's file, or zeros; a free one is
# all zeros. It never crosses a page, so a killed process has written all of it or nothing.
RECORD = 512
_FILE = struct.Struct("QQ")
_NAME = RECORD - _FILE.size
# In the place of a file: whichever has the name.
_ANY = 0, 0
# struct flock: kind, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")
_FIRST_BYTE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
# What a terminal sends to all of a program, and `killall`.
_IGNORED = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM)


_HAVE_SIGMASK = True
_IGNORED_SIGNALS = (_signal.SIGINT, _signal.SIGTERM)


class ReentrantCallError(RuntimeError):
    """What the standard package's tracker raises when it is called within its own call; this one never does."""


def segment_path(name: str) -> str:
    """Return the file of the segment that shm_open calls `name`; ValueError if no segment can have that name."""
    stem = name.lstrip("/")
    if "\0" in name:
        raise ValueError("embedded null byte in the name of a shared memory segment")
    if not stem or "/" in stem or stem in (".", "..") or len(os.fsencode(stem)) > 255:
        raise OSError(22, f"no segment can have this name: {os.strerror(22)}", name)
    return f"{SHM_FOLDER}/{stem}"


def unlink_segment(name: str) -> None:
    """Take away the name of a segment. FileNotFoundError if there is none of this name."""
    try:
        os.unlink(segment_path(name))
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None


def _cleanup_noop(name: str) -> None:
    raise RuntimeError(f"nothing of type noop is ever registered; asked to clean up {name!r}")


# What is freed how, by the type it is registered under. `dummy` is for tests.
_CLEANUP_FUNCS: dict[str, Callable[[str], object]] = {
    "noop": _cleanup_noop,
    "shared_memory": unlink_segment,
}
if sys.version_info >= (3, 13):
    _CLEANUP_FUNCS["dummy"] = lambda name: None
# A program may take a type out of the table, so that this process frees none; the tracker has a table of its own.
_TYPES = tuple(_CLEANUP_FUNCS)


class ResourceTracker:
    """The way to one tracker, and the file of names it watches."""

    #: The standard package's choice between two forms of its messages to the tracker. There are no messages here.
    _use_simple_format = True
    #: Whether a tracker had to be left behind when it was to end; ours ends when it is told.
    _waitpid_timed_out = False

    def __init__(self) -> None:
        # Re-entrant: a collection in the midst of a change may run a finalizer that wants another one.
        self._lock = RLock()
        self._changing = False
        self._deferred: list[Callable[[int], None]] = []
        self._fd: int | None = None
        self._watch: int | None = None
        self._pid: int | None = None
        self._exitcode: int | None = None

    def register(self, name: str, rtype: str) -> None:
        """Have `name` freed when all processes of this program have ended. ValueError if it is too long."""
        file = _ANY
        if rtype == "shared_memory":
            try:
                status = os.stat(segment_path(name), follow_symlinks=False)
                file = status.st_dev, status.st_ino
            except OSError:
                # Freed by its name alone.
                pass
        self._send("REGISTER", name, rtype, file)

    def register_segment(self, name: str, file: tuple[int, int]) -> None:
        """Have the name of a segment's file (device, inode) freed like that, if it still is the file's name then."""
        self._send("REGISTER", name, "shared_memory", file)

    def unregister_segment(self, name: str, file: tuple[int, int]) -> None:
        """Take the name of a segment's file (device, inode) off the list; another one of the same name stays on it."""
        self._send("UNREGISTER", name, "shared_memory", file)

    def unlink_segment(self, name: str) -> None:
        """Take away the name of a segment, and its record; a new segment that gets the name meanwhile keeps its own."""
        try:
            status = os.stat(segment_path(name), follow_symlinks=False)
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from None
        unlink_segment(name)
        self.unregister_segment(name, (status.st_dev, status.st_ino))

    def unregister(self, name: str, rtype: str) -> None:
        """Take `name` off the list; nothing happens if it is not on it."""
        self._send("UNREGISTER", name, rtype)

    def ensure_running(self) -> None:
        """Start the tracker unless there is one."""
        self._change(self._start_unless_alive)

    def getfd(self) -> int:
        """Return the descriptor of the file of names, which a process must hold to be one of the program's."""
        self.ensure_running()
        assert self._fd is not None
        return self._fd

    def _send(self, cmd: str, name: str, rtype: str, file: tuple[int, int] = _ANY) -> None:
        if rtype not in _TYPES:
            raise ValueError(f"cannot track {name!r}: types are {', '.join(_TYPES)}, not {rtype!r}")
        record = f"{rtype}:{name}".encode()
        if len(record) > _NAME:
            raise ValueError(f"the name of a resource is too long to be tracked: {name[:40]!r}...")
        record = record.ljust(_NAME, b"\0")
        if cmd == "REGISTER":

            def add(fd: int) -> None:
                _add(fd, record, _FILE.pack(*file))
                self._start_unless_alive(fd)

            self._change(add)
        elif cmd == "UNREGISTER":
            self._change(lambda fd: _remove(fd, record, () if file == _ANY else (_FILE.pack(*file), _FILE.pack(*_ANY))))
        else:
            raise ValueError(f"{cmd!r} is neither REGISTER nor UNREGISTER")

    # ------------------------------------------------------------------------------------------------------------------

    def _open(self) -> int:
        """Return the descriptor of the file of names."""
        if self._fd is None:
            self._fd = _descriptors.locked_memory_file("manycore-names")
        return self._fd

    def _change(self, step: Callable[[int], None]) -> None:
        """Call `step` with the file of names while no other process and no other thread changes it."""
        with self._lock:
            if self._changing:
                self._deferred.append(step)
                return
            fd = self._open()
            self._changing = True
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX, 1, 1)
                try:
                    step(fd)
                finally:
                    while self._deferred:
                        self._deferred.pop(0)(fd)
            finally:
                self._changing = False
                fcntl.lockf(fd, fcntl.LOCK_UN, 1, 1)
                if self._watch is not None:
                    # Not before: to close any descriptor of the file gives back the process's own lock.
                    _descriptors.close_fds(self._watch)
                    self._watch = None

    def _check_alive(self) -> bool:
        """Return whether there is a tracker."""
        with self._lock:
            return self._is_alive(self._open())

    def _is_alive(self, fd: int) -> bool:
        asked = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FIRST_BYTE)
        if _FLOCK.unpack(asked)[0] != fcntl.F_UNLCK:
            return True
        if self._pid is not None:
            self._collect(os.WNOHANG)
        return False

    def _collect(self, options: int = 0) -> None:
        try:
            pid, status = os.waitpid(self._pid, options)  # type: ignore[arg-type]
            if pid == self._pid:
                self._exitcode = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            pass
        self._pid = None

    def _start_unless_alive(self, fd: int) -> None:
        if self._is_alive(fd):
            return
        self._exitcode = None
        executable = spawn.get_executable()
        # The lock goes along with the open file: there is a tracker from now on, and never a second one.
        with _descriptors.fd_lock:
            self._watch = watch = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
            _descriptors.make_private(watch)
        fcntl.fcntl(watch, fcntl.F_OFD_SETLK, _FIRST_BYTE)
        program = f"{spawn.import_statement('resource_tracker')}; m.main({watch})"
        command = [os.fsdecode(executable), *util._args_from_interpreter_flags(), "-S", "-c", program]
        # Blocked until it ignores them, so that Ctrl-C does not find it half started.
        self._pid = util.spawnv_passfds(executable, command, (watch,), block=_IGNORED)

    def _end_if_idle(self, fd: int) -> None:
        """End our tracker if there is nothing to track: a program leaves no process. Else see that there is one."""
        if any(_records(fd)):
            self._start_unless_alive(fd)
        elif self._pid is not None:
            try:
                os.kill(self._pid, _signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._collect()
            # It had done its work. (It need not have begun to run yet, so it could not say so itself.)
            self._exitcode = 0

    def _stop(self, wait_timeout: float | None = None) -> None:
        """Give up the file of names; the tracker then frees what is left on it and ends."""
        with self._lock:
            fd, self._fd = self._fd, None
            if fd is not None:
                os.close(fd)
            if self._pid is not None:
                self._collect()

    def _forget_in_child(self) -> None:
        self._lock._at_fork_reinit()  # type: ignore[attr-defined]
        self._changing = False
        self._deferred.clear()
        self._watch = None
        self._pid = None


class _FamilyTracker(ResourceTracker):
    """The tracker of this program."""

    def _open(self) -> int:
        self._fd = _descriptors.family()
        return self._fd

    def _stop(self, wait_timeout: float | None = None) -> None:
        """End the tracker if there is nothing to track. We do not leave the family before we end."""
        if self._fd is not None:
            self._change(self._end_if_idle)


# ----------------------------------------------------------------------------------------------------------------------
# The file of names


def _contents(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    parts = []
    while size > 0:
        part = os.pread(fd, size, sum(map(len, parts)))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _records(fd: int) -> list[bytes]:
    """Return the records that are not free, each with its file."""
    contents = _contents(fd)
    records = [contents[start : start + RECORD].ljust(RECORD, b"\0") for start in range(0, len(contents), RECORD)]
    return [record for record in records if record[0]]


def _places(contents: bytes, record: bytes, files: tuple[bytes, ...]) -> list[int]:
    """Return where `record` stands with one of `files`, or, if there are none given, with any."""
    found, place = [], contents.find(record)
    while place >= 0:
        file = contents[place + _NAME : place + RECORD].ljust(_FILE.size, b"\0")
        if place % RECORD == 0 and (not files or file in files):
            found.append(place)
        place = contents.find(record, place + 1)
    return found


def _add(fd: int, record: bytes, file: bytes) -> None:
    contents = _contents(fd)
    # Two processes may be about to give the same name to a file each: both have a record, until one has failed.
    if _places(contents, record, (file,)):
        return
    free = contents[::RECORD].find(b"\0")
    os.pwrite(fd, record + file, free * RECORD if free >= 0 else -(-len(contents) // RECORD) * RECORD)


def _remove(fd: int, record: bytes, files: tuple[bytes, ...]) -> None:
    for place in _places(_contents(fd), record, files):
        os.pwrite(fd, bytes(RECORD), place)


# ----------------------------------------------------------------------------------------------------------------------
# The tracker


def main(fd: int) -> None:
    """Be the tracker: wait until the program is gone, then free what it has left. Does not return.

    `fd` is the file of names, opened apart from the program's, with the lock that says that there is a tracker.
    """
    # The tracker serves the whole program: a pool that ends a task, and what the task has started, spares processes of
    # this name (the engine's `kin.rs`).
    with open("/proc/self/comm", "w") as file:
        file.write("manycore-serves")
    for number in _IGNORED:
        _signal.signal(number, _signal.SIG_IGN)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _IGNORED)
    _let_go(0, 1)
    os.chdir("/")
    os.set_inheritable(fd, False)
    fcntl.flock(fd, fcntl.LOCK_EX)
    sys.exit(_free(_records(fd)))


def _let_go(*fds: int) -> None:
    """Put the null device in the place of standard streams, which others may wait to see closed."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in fds:
        os.dup2(null, fd)
    os.close(null)


def _free(records: list[bytes]) -> int:
    """Free what the records name, and say on stderr what was left. Returns the exit code."""
    import warnings

    exitcode = 0
    by_type: dict[str, set[str]] = {}
    for record in records:
        rtype, _, name = record[:_NAME].rstrip(b"\0").decode("utf-8", "surrogateescape").partition(":")
        if rtype != "shared_memory" or _is_ours(name, _FILE.unpack(record[_NAME:])):
            by_type.setdefault(rtype, set()).add(name)
    for rtype, names in by_type.items():
        exitcode = exitcode or 1
        if rtype != "dummy":
            warnings.warn(
                f"resource_tracker: There appear to be {len(names)} leaked {rtype} objects to clean up at shutdown: "
                f"{names}",
                stacklevel=2,
            )
        for name in names:
            try:
                _CLEANUP_FUNCS[rtype](name)
            except Exception as error:
                exitcode = 2
                warnings.warn(f"resource_tracker: {name!r}: {error}", stacklevel=2)
    return exitcode


def _is_ours(name: str, file: tuple[int, ...]) -> bool:
    """Return whether the name is that of the file it was registered with, or of none.

    One that is gone is reported, as in the standard package; one that was used again is another program's.
    """
    if file == _ANY:
        return True
    try:
        status = os.stat(segment_path(name), follow_symlinks=False)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == file


_resource_tracker = _FamilyTracker()
os.register_at_fork(after_in_child=_resource_tracker._forget_in_child)

ensure_running = _resource_tracker.ensure_running
register = _resource_tracker.register
unregister = _resource_tracker.unregister
getfd = _resource_tracker.getfd

_OURS = register, unregister


def track_segment(name: str, file: tuple[int, int]) -> None:
    """Have the name of a segment's file (device, inode) freed, or do what a program has put in place of `register`."""
    if register is _OURS[0]:
        _resource_tracker.register_segment(name, file)
    else:
        register(name, "shared_memory")


def untrack_segment(name: str, file: tuple[int, int]) -> None:
    """Undo `track_segment`, or do what a program has put in the place of `unregister`."""
    if unregister is _OURS[1]:
        _resource_tracker.unregister_segment(name, file)
    else:
        unregister(name, "shared_memory")


def unlink_tracked_segment(name: str, file: tuple[int, int], is_told: bool) -> None:
    """Take a segment's name away, and its record. `file` is what the caller has by that name.

    What a program has put in the place of `unregister` is called if it `is_told`.
    """
    if unregister is not _OURS[1]:
        unlink_segment(name)
        if is_told:
            unregister(name, "shared_memory")
        return
    # Also the record of one that the caller did not register: the name is gone, there is nothing left to free.
    try:
        _resource_tracker.unlink_segment(name)
    finally:
        # Where another segment has got the name meanwhile, the caller's own has none any more.
        _resource_tracker.unregister_segment(name, file)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
