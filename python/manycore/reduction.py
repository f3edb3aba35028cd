"""Pickling for other processes: the pickler that knows our reducers, and descriptors that travel.

`import manycore` does not import this module, and this module imports only the C half of `pickle`.
"""

from __future__ import annotations

import copyreg
import io
import os
import sys
import types
from abc import ABCMeta

from . import _main_module, context, process

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
        if name == "_extra_reducers" and type(value) is dict:
            value = _Reducers(value)
        super().__setattr__(name, value)
        if name == "_extra_reducers" and isinstance(value, _Reducers) and cls is _OwnPickler:
            _tell_engine(value)
        if name in ("dumps", "loads"):
            from ._engine import pickler_patched

            pickler_patched()


class _Reducers(dict[type, "Callable[[Any], Any]"]):
    """Reducers by type. The engine refers to them weakly."""

    __slots__ = ("__weakref__",)


class ForkingPickler(pickle.Pickler, metaclass=_PicklerType):
    """A pickler with reducers of its own, added by `register`, besides those of `copyreg`."""

    # One table, changed in place: what was registered after a pickler class was derived applies to it as well.
    _extra_reducers: ClassVar[dict[type, Callable[[Any], Any]]] = _Reducers()
    _copyreg_dispatch_table = copyreg.dispatch_table

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        register_late()
        self.dispatch_table = {**self._copyreg_dispatch_table, **self._extra_reducers}

    @classmethod
    def register(cls, type: type, reduce: Callable[[Any], Any]) -> None:
        """Have objects of exactly this type pickled as `reduce(obj)` says."""
        first = not cls._extra_reducers
        cls._extra_reducers[type] = reduce
        if first and isinstance(cls._extra_reducers, _Reducers):
            _tell_engine(cls._extra_reducers)

    @classmethod
    def dumps(cls, obj: Any, protocol: int | None = None) -> memoryview:
        """Return `obj` pickled, as a view of the pickler's buffer."""
        buffer = io.BytesIO()
        pickler = cls(buffer, protocol)
        _dump_to(pickler, buffer, obj, protocol, cls is _OwnPickler)
        return buffer.getbuffer()

    loads = staticmethod(pickle.loads)


register = ForkingPickler.register

# As they are before a program replaces one of them.
_OwnPickler = ForkingPickler
_OWN_METHODS = vars(ForkingPickler)["dumps"], vars(ForkingPickler)["loads"]


def replaced_pickler() -> Any:
    """Return the class that a program has put in the place of `ForkingPickler`, or given other methods; else None.

    Queues and pools pickle with it. The standard package asks for it once, when it loads its module of queues; here it
    is asked for whenever something is pickled.
    """
    queues = sys.modules.get(f"{__package__}.queues")
    found = None if queues is None else vars(queues).get("_ForkingPickler")
    if found is None:
        # A reducer that is only an object with a `dump` leaves the pickler as it is.
        found = getattr(context.reduction, "ForkingPickler", _OwnPickler)
    is_own = found is _OwnPickler and (vars(found)["dumps"], vars(found)["loads"]) == _OWN_METHODS
    return None if is_own else found


class _Pickled:
    """A pickle that a program's own pickler has written, on its way to that program's `loads`."""

    __slots__ = ("_data",)

    def __init__(self, data: Any) -> None:
        # Not what `bytes` would make of a number.
        self._data = bytes(memoryview(data))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self._data,)


class _Unpickled:
    """An object that a program's own pickler has read, on its way out of a queue."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _unpickle(data: bytes) -> Any:
    pickler = replaced_pickler()
    return _OwnPickler.loads(data) if pickler is None else _Unpickled(pickler.loads(data))


def _for_queue(obj: Any) -> Any:
    """Return `obj` as a queue is to send it. The engine asks when a pickler may have been replaced."""
    pickler = replaced_pickler()
    return obj if pickler is None else _Pickled(pickler.dumps(obj))


def _from_queue(obj: Any) -> Any:
    """Return the object that `get` returns for `obj`, which a queue has received: the counterpart of `_for_queue`."""
    if type(obj) is _Unpickled:
        return obj.value
    # Whoever sent it has the package's pickler, and its pickles are for everybody.
    pickler = replaced_pickler()
    return obj if pickler is None else pickler.loads(_OwnPickler.dumps(obj))


class Watched(types.ModuleType):
    """A module whose pickler a program may replace; the engine is told of it."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in ("ForkingPickler", "_ForkingPickler"):
            from ._engine import pickler_patched

            pickler_patched()


sys.modules[__name__].__class__ = Watched


_sockets_known = False


def register_late() -> None:
    """Register the reducers of types whose modules were too heavy to import for it, if these are loaded by now."""
    global _sockets_known
    # A module that another thread is importing is there before its classes are.
    if not _sockets_known and hasattr(sys.modules.get("socket"), "socket"):
        _sockets_known = True
        socket_type = sys.modules["socket"].socket
        if socket_type not in _OwnPickler._extra_reducers:
            register(socket_type, _reduce_socket)


def _let_go() -> None:
    """Forget the reducers of the program's own: see `util._let_go`."""
    from .util import is_of_package

    reducers = _OwnPickler._extra_reducers
    for kind, reduce in list(reducers.items()):
        if not is_of_package(reduce):
            del reducers[kind]


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
    if not isinstance(pickler, _OwnPickler):
        # A program's own, which does as it likes.
        from ._engine import for_sending

        for_sending(pickler.dump, obj)
        return
    # The standard package's objects in the arguments of a process travel as its own table says.
    theirs = sys.modules.get("multiprocessing.reduction")
    if theirs is not None and theirs is not sys.modules[__name__]:
        pickler.dispatch_table = {**theirs.ForkingPickler._extra_reducers, **pickler.dispatch_table}
    _dump_to(pickler, file, obj, protocol, True)


# What pickle raises for what it cannot write.
_REFUSALS = (pickle.PicklingError, AttributeError, TypeError)


def _dump_to(pickler: ForkingPickler, file: IO[bytes], obj: Any, protocol: int | None, by_value: bool) -> None:
    """Have `pickler` write `obj` into `file`: by name what it can, and the rest by value if `by_value`."""
    from ._engine import for_sending

    if not (by_value and file.seekable()):
        for_sending(pickler.dump, obj)
        return
    refused = None
    if not _main_module.is_hidden():
        start = file.tell()
        try:
            for_sending(pickler.dump, obj)
            if not (_main_module.has_late() and _names_main(file, start)):
                return
            _main_module.settle_late()
        except _REFUSALS as error:
            refused = error
        file.seek(start)
        file.truncate()
    from ._by_value import dumps_instead

    table: dict[type, Callable[[Any], Any]] = pickler.dispatch_table  # type: ignore[assignment]
    root = "process" if isinstance(obj, process.BaseProcess) else "value"

    def by_value_or_raise() -> bytes:
        pickled = dumps_instead(obj, protocol, None, table, refused, root)
        if isinstance(pickled, BaseException):
            raise pickled
        return pickled

    file.write(for_sending(by_value_or_raise))


def _names_main(file: IO[bytes], start: int) -> bool:
    """Return whether the pickle that begins at `start` may name something of the main module."""
    file.seek(start)
    return b"_main__" in file.read()


# ----------------------------------------------------------------------------------------------------------------------
# Descriptors


# From CPython 3.14 on the receiver of descriptors answers by a byte, for which the sender waits. The other end may be a
# process of the standard package, so ours do as that package of the same version does. What is ours alone, between a
# sharer and those who ask it, has no such answer: a sharer must not wait for one process while others ask.
ACKNOWLEDGES = sys.version_info >= (3, 14)


def sendfds(sock: Any, fds: Sequence[int]) -> None:
    """Send descriptors over a Unix socket. From CPython 3.14 on it returns when they were received.

    Raises RuntimeError if the receiver has gone, or answers something else.
    """
    _send(sock, fds)
    if ACKNOWLEDGES and sock.recv(1) != b"A":
        raise RuntimeError("the receiver of descriptors did not say that they have come")


def _send(sock: Any, fds: Sequence[int]) -> None:
    import _socket

    packed = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
    sock.sendmsg([bytes([len(fds) % 256])], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])


def recvfds(sock: Any, size: int) -> list[int]:
    """Receive exactly `size` descriptors over a Unix socket.

    Raises EOFError if the sender has gone, RuntimeError if another number of them came.
    """
    return _receive(sock, size, ACKNOWLEDGES)


def _receive(sock: Any, size: int, acknowledges: bool) -> list[int]:
    import _socket

    message, ancillary, _, _ = sock.recvmsg(1, _socket.CMSG_SPACE(4 * size), _socket.MSG_CMSG_CLOEXEC)
    if not message and not ancillary:
        raise EOFError("no descriptors came: the sender has gone")
    if acknowledges:
        try:
            sock.send(b"A")
        except OSError:
            pass  # the sender has gone; what it sent is here
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


def lend(conn: Any, fd: int) -> None:
    """Send one descriptor to a process that calls `borrow`, without waiting for it."""
    with _socket_on(conn) as sock:
        _send(sock, [fd])


def borrow(conn: Any) -> int:
    """Receive a descriptor that another process lends. Raises as `recvfds` does."""
    with _socket_on(conn) as sock:
        return _receive(sock, 1, False)[0]


def _socket_on(conn: Any) -> Any:
    import socket

    return socket.socket(fileno=os.dup(conn.fileno()))


def DupFd(fd: int) -> Any:
    """Return a picklable stand-in for `fd`, whose `detach()` gives the descriptor in the receiving process.

    While a process is being started the descriptor goes to that child along with it; otherwise, or if another
    package starts that process and says nothing of descriptors, whoever unpickles the stand-in fetches it from this
    process, see `resource_sharer`.
    """
    popen = context.get_spawning_popen()
    duplicate, stand_in = getattr(popen, "duplicate_for_child", None), getattr(popen, "DupFd", None)
    if duplicate is not None and stand_in is not None:
        return stand_in(duplicate(fd))
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


# Reducers of callables, which `pickle` has learned to do by itself. Programs register them with picklers of their own.


def _reduce_method(m: Any) -> tuple[Any, ...]:
    return getattr, (type(m) if m.__self__ is None else m.__self__, m.__func__.__name__)


def _reduce_method_descriptor(m: Any) -> tuple[Any, ...]:
    return getattr, (m.__objclass__, m.__name__)


def _reduce_partial(p: Any) -> tuple[Any, ...]:
    return _rebuild_partial, (p.func, p.args, p.keywords or {})


def _rebuild_partial(func: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]) -> Any:
    from functools import partial

    return partial(func, *args, **keywords)


class _C:
    def f(self) -> None:
        """Be the example of a method."""


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
    _reduce_method = _reduce_method
    _reduce_method_descriptor = _reduce_method_descriptor
    _rebuild_partial = _rebuild_partial
    _reduce_socket = _reduce_socket
    _rebuild_socket = _rebuild_socket

    def __init__(self, *args: Any) -> None:
        pass


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
