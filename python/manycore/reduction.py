"""Pickling for other processes: the pickler that knows our reducers, and descriptors that travel.

`import manycore` does not import this module, and this module imports only the C half of `pickle`.
"""

from __future__ import annotations

import copyreg
import io
import os
import sys
from abc import ABCMeta

from . import context

try:
    # The class that `pickle` hands on, without the 4 ms its Python half takes to import.
    import _pickle as pickle
except ImportError:
    import pickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import IO, Any, ClassVar

__all__ = ["DupFd", "ForkingPickler", "dump", "recv_handle", "recvfds", "register", "send_handle", "sendfds"]

HAVE_SEND_HANDLE = True


class _PicklerType(type):
    """Tells the engine when a program puts its own methods into `ForkingPickler`: otherwise it does without them."""

    def __setattr__(cls, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in ("dumps", "loads"):
            from ._engine import pickler_patched

            pickler_patched()


class ForkingPickler(pickle.Pickler, metaclass=_PicklerType):
    """A pickler with reducers of its own, added by `register`, besides those of `copyreg`."""

    # One table, changed in place: what was registered after a pickler class was derived applies to it as well.
    _extra_reducers: ClassVar[dict[type, Callable[[Any], Any]]] = {}
    _copyreg_dispatch = copyreg.dispatch_table

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        register_late()
        self.dispatch_table = {**self._copyreg_dispatch, **self._extra_reducers}

    @classmethod
    def register(cls, type: type, reduce: Callable[[Any], Any]) -> None:
        """Have objects of exactly this type pickled as `reduce(obj)` says."""
        first = not cls._extra_reducers
        cls._extra_reducers[type] = reduce
        if first:
            _tell_engine(cls._extra_reducers)

    @classmethod
    def dumps(cls, obj: Any, protocol: int | None = None) -> memoryview:
        """Return `obj` pickled, as a view of the pickler's buffer."""
        buffer = io.BytesIO()
        cls(buffer, protocol).dump(obj)
        return buffer.getbuffer()

    loads = staticmethod(pickle.loads)


register = ForkingPickler.register


_sockets_known = False


def register_late() -> None:
    """Register the reducers of types whose modules were too heavy to import for it, if these are loaded by now."""
    global _sockets_known
    # A module that another thread is importing is there before its classes are.
    if not _sockets_known and hasattr(sys.modules.get("socket"), "socket"):
        _sockets_known = True
        socket_type = sys.modules["socket"].socket
        if socket_type not in ForkingPickler._extra_reducers:
            register(socket_type, _reduce_socket)


def _reduce_socket(sock: Any) -> tuple[Any, ...]:
    return _rebuild_socket, (DupFd(sock.fileno()), sock.family, sock.type, sock.proto)


def _rebuild_socket(handle: Any, family: int, type: int, proto: int) -> Any:
    import socket

    return socket.socket(family, type, proto, fileno=handle.detach())


def _tell_engine(reducers: dict[type, Callable[[Any], Any]]) -> None:
    """Give the engine the table of reducers, which it reads whenever it encodes; unneeded while the table is empty."""
    try:
        from . import _engine  # type: ignore[attr-defined]
    except ImportError:
        return
    set_reducers = getattr(_engine, "set_reducers", None)
    if set_reducers is not None:
        set_reducers(reducers)


def dump(obj: Any, file: IO[bytes], protocol: int | None = None) -> None:
    """Pickle `obj` into `file`."""
    pickler = ForkingPickler(file, protocol)
    # The standard package's objects in the arguments of a process travel as its own table says.
    theirs = sys.modules.get("multiprocessing.reduction")
    if theirs is not None and theirs is not sys.modules[__name__]:
        pickler.dispatch_table = {**theirs.ForkingPickler._extra_reducers, **pickler.dispatch_table}
    pickler.dump(obj)


# ----------------------------------------------------------------------------------------------------------------------
# Descriptors


def sendfds(sock: Any, fds: Sequence[int]) -> None:
    """Send descriptors over a Unix socket."""
    import _socket

    packed = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
    sock.sendmsg([bytes([len(fds) % 256])], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])


def recvfds(sock: Any, size: int) -> list[int]:
    """Receive exactly `size` descriptors over a Unix socket.

    Raises EOFError if the sender has gone, RuntimeError if another number of them came.
    """
    import _socket

    message, ancillary, _, _ = sock.recvmsg(1, _socket.CMSG_SPACE(4 * size), _socket.MSG_CMSG_CLOEXEC)
    if not message and not ancillary:
        raise EOFError("no descriptors came: the sender has gone")
    fds = unpack_fds(ancillary)
    if len(fds) != size or message != bytes([size % 256]):
        for fd in fds:
            os.close(fd)
        raise RuntimeError(
            f"expected {size} descriptors, received {len(fds)}: the sender sent something else, "
            "or the limit of open files is reached"
        )
    return fds


def unpack_fds(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in the ancillary data of a `recvmsg`."""
    import _socket

    return [
        int.from_bytes(data[start : start + 4], sys.byteorder, signed=True)
        for level, kind, data in ancillary
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS
        for start in range(0, len(data) - len(data) % 4, 4)
    ]


def send_handle(conn: Any, handle: int, destination_pid: int | None) -> None:
    """Send one descriptor over a connection. `destination_pid` is not needed here; it is for other systems."""
    with _socket_on(conn) as sock:
        sendfds(sock, [handle])


def recv_handle(conn: Any) -> int:
    """Receive one descriptor over a connection. Raises as `recvfds` does."""
    with _socket_on(conn) as sock:
        return recvfds(sock, 1)[0]


def _socket_on(conn: Any) -> Any:
    import socket

    return socket.socket(fileno=os.dup(conn.fileno()))


def DupFd(fd: int) -> Any:
    """Return a picklable stand-in for `fd`, whose `detach()` gives the descriptor in the receiving process.

    While a process is being started the descriptor goes to that child along with it; otherwise whoever unpickles the
    stand-in fetches it from this process, see `resource_sharer`.
    """
    popen = context.get_spawning_popen()
    if popen is not None:
        return popen.DupFd(popen.duplicate_for_child(fd))
    from .resource_sharer import DupFd as SharedFd

    return SharedFd(fd)


class ChildFd:
    """A descriptor to be passed in the arguments of a Process, whatever its start method.

    The parent keeps its own descriptor, and may close it once `start()` has returned; the child calls `detach()` and
    owns what it gets. Under fork the child's is the inherited one, under its number.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def detach(self) -> int:
        """Return the descriptor, in the child. It is the caller's to close."""
        return self._fd

    def __reduce__(self) -> tuple[Any, ...]:
        context.assert_spawning(self)
        return _rebuild_child_fd, (DupFd(self._fd),)


def _rebuild_child_fd(handle: Any) -> ChildFd:
    return ChildFd(handle.detach())


class AbstractReducer(metaclass=ABCMeta):
    """Base for a replacement of this module, to be set as the `reducer` of a context."""

    ForkingPickler = ForkingPickler
    register = staticmethod(register)
    dump = staticmethod(dump)
    send_handle = staticmethod(send_handle)
    recv_handle = staticmethod(recv_handle)
    sendfds = staticmethod(sendfds)
    recvfds = staticmethod(recvfds)
    DupFd = staticmethod(DupFd)
    HAVE_SEND_HANDLE = HAVE_SEND_HANDLE

    def __init__(self, *args: Any) -> None:
        pass
