"""Objects that live in a process of their own, a manager's, and that others use by proxies, also from other machines.

The server is in `_manager_server`, the proxies in `_manager_proxies`, those of a `SyncManager` in
`_manager_types`, what they say to each other in `_manager_wire`.
"""

from __future__ import annotations

import array
import queue as queue
import threading

from . import (
    _manager_proxies,
    _manager_server,
    _manager_types,
    _manager_wire,
    connection,
    context,
    process,
    reduction,
    util,
)
from ._manager_proxies import AutoProxy, BaseProxy, State
from ._manager_proxies import MakeProxyType as MakeProxyType
from ._manager_proxies import ProcessLocalSet as ProcessLocalSet
from ._manager_proxies import RebuildProxy as RebuildProxy
from ._manager_server import Server, SharedMemoryServer
from ._manager_server import _SharedMemoryTracker as _SharedMemoryTracker
from ._manager_types import (
    AcquirerProxy,
    ArrayProxy,
    BarrierProxy,
    ConditionProxy,
    DictProxy,
    EventProxy,
    IteratorProxy,
    ListProxy,
    NamespaceProxy,
    PoolProxy,
    SetProxy,
    ValueProxy,
    _Barrier,
    _Queue,
)
from ._manager_types import BaseDictProxy as BaseDictProxy
from ._manager_types import BaseListProxy as BaseListProxy
from ._manager_types import BasePoolProxy as BasePoolProxy
from ._manager_types import BaseSetProxy as BaseSetProxy
from ._manager_wire import Anchor, Token, anchor_of, dispatch, listener_client, new_local, request
from ._manager_wire import RemoteError as RemoteError
from ._manager_wire import all_methods as all_methods
from ._manager_wire import convert_to_error as convert_to_error
from ._manager_wire import public_methods as public_methods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import ModuleType
    from typing import Any, ClassVar

    from .shared_memory import ShareableList, SharedMemory

__all__ = ["BaseManager", "BaseProxy", "SharedMemoryManager", "SyncManager", "Token"]


def _adopt(*homes: ModuleType) -> None:
    """Have what `homes` define pickled, and shown, by the names under which everybody knows it: as ours."""
    for home in homes:
        for thing in vars(home).values():
            if getattr(thing, "__module__", None) == home.__name__ and thing is not Anchor:
                thing.__module__ = __name__


_adopt(_manager_wire, _manager_server, _manager_proxies, _manager_types)


HAS_SHMEM = True


def reduce_array(a: array.array[Any]) -> tuple[Any, ...]:
    """Reduce an array for a pickler, as one of items of its type."""
    return array.array, (a.typecode, a.tobytes())


def rebuild_as_list(obj: Iterable[Any]) -> tuple[Any, ...]:
    """Reduce anything that can be iterated over for a pickler, as a list."""
    return list, (list(obj),)


# Views of a dict arrive as lists.
view_types = [type(view) for view in ({}.items(), {}.keys(), {}.values())]
for view_type in view_types:
    reduction.register(view_type, rebuild_as_list)


class BaseManager:
    """Starts, or connects to, a process that holds shared objects, and makes them.

    `register` says of which types. `address` is where the server listens (default: somewhere on this machine, without a
    file); `authkey` what a client must know (default: the key of this process); `serializer` how messages are written,
    "pickle" or "xmlrpclib"; `ctx` how the process is started; `shutdown_timeout` how many seconds it has to end.
    """

    _registry: ClassVar[dict[str, tuple[Any, ...]]] = {}
    _Server: ClassVar[type[Server]] = Server
    # A Finalize once the process is started: ends it.
    shutdown: util.Finalize

    def __init__(
        self,
        address: Any = None,
        authkey: bytes | None = None,
        serializer: str = "pickle",
        ctx: Any = None,
        *,
        shutdown_timeout: float = 1.0,
    ) -> None:
        if authkey is None:
            authkey = process.current_process().authkey
        self._address = address
        self._authkey = process.AuthenticationString(authkey)
        self._state = State()
        self._state.value = State.INITIAL
        self._serializer = serializer
        self._Listener, self._Client = listener_client[serializer]
        self._ctx = ctx or context._default_context.get_context()
        self._shutdown_timeout = shutdown_timeout
        # The connections of the threads for what is asked of the server itself.
        self._tls = new_local()
        self._process: process.BaseProcess | None = None

    def get_server(self) -> Server:
        """Return a server to be run by `serve_forever()` in this process. ProcessError if one was started."""
        self._check_initial()
        return self._Server(self._registry, self._address, self._authkey, self._serializer)

    def connect(self) -> None:
        """Use the server that runs at `address`, which somebody else has started.

        Raises OSError if there is none, AuthenticationError if it has another key.
        """
        conn = self._Client(self._address, authkey=self._authkey)
        try:
            dispatch(conn, None, "dummy")
        finally:
            conn.close()
        self._be_started()

    def start(self, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()) -> None:
        """Start the server in a process of its own, which calls `initializer(*initargs)` first.

        The process ends with this one, at the latest. Raises ProcessError if it was started before, TypeError if
        `initializer` cannot be called, OSError if the address cannot be had, EOFError if the process ended otherwise.
        """
        self._check_initial()
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        reader, writer = connection.Pipe(duplex=False)
        with reader:
            with writer:
                child = self._process = self._server_process(writer, initializer, initargs)
                child.start()
            try:
                address = reader.recv()
            except EOFError:
                child.join()
                raise EOFError(
                    f"the process of the manager ended before it served, with exit code {child.exitcode}"
                ) from None
            except BaseException:
                # Interrupted: nobody would ever end it.
                child.kill()
                child.join()
                raise
        if isinstance(address, OSError):
            child.join()
            raise address
        self._address = address
        self._be_started()
        self.shutdown = util.Finalize(
            self,
            type(self)._finalize_manager,
            args=(self._process, self._address, self._authkey, self._state, self._Client, self._shutdown_timeout),
            exitpriority=0,
        )

    def _server_process(self, writer: Any, initializer: Any, initargs: Any) -> process.BaseProcess:
        settings = self._registry, self._address, self._authkey, self._serializer, writer, initializer, initargs
        child: process.BaseProcess = self._ctx.Process(target=type(self)._run_server, args=settings)
        child.name = f"{type(self).__name__}-{':'.join(map(str, child._identity))}"
        # Gone with us, however we end.
        child.daemon = True
        return child

    def _be_started(self) -> None:
        self._state.value = State.STARTED
        # So that references taken one after the other go over one connection.
        self._anchor = anchor_of(self._address, self._serializer, self._authkey)

    def _check_initial(self) -> None:
        if self._state.value == State.STARTED:
            raise context.ProcessError("Already started server")
        if self._state.value == State.SHUTDOWN:
            raise context.ProcessError("Manager has shut down")
        if self._state.value != State.INITIAL:
            raise context.ProcessError(f"Unknown state {self._state.value!r}")

    @classmethod
    def _run_server(
        cls,
        registry: dict[str, tuple[Any, ...]],
        address: Any,
        authkey: bytes,
        serializer: str,
        writer: Any,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        """Be the server's process: say the address to the one that started us, and serve."""
        import signal

        # Ctrl-C is for the program; it says when we are to end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if initializer is not None:
            initializer(*initargs)
        with writer:
            try:
                server = cls._Server(registry, address, authkey, serializer)
            except OSError as error:
                writer.send(error)
                return
            writer.send(server.address)
        util.info("manager serving at %r", server.address)
        server.serve_forever()

    def _create(self, typeid: str, /, *args: Any, **kwds: Any) -> tuple[Token, Sequence[str]]:
        """Have an object made, and return its token and its exposed methods."""
        if self._state.value != State.STARTED:
            raise AssertionError("server not yet started")
        ident, exposed = self._request("create", (typeid, *args), kwds)
        return Token(typeid, self._address, ident), exposed

    def _disconnect(self) -> None:
        conn = self._tls.__dict__.pop("connection", None)
        if conn is not None:
            conn.close()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the server's process has ended, for `timeout` seconds at most."""
        if self._process is not None:
            self._process.join(timeout)
            if not self._process.is_alive():
                self._process = None

    def _debug_info(self) -> str:
        """Return text about each shared object."""
        return self._request("debug_info")

    def _number_of_objects(self) -> int:
        """Return how many shared objects there are."""
        return self._request("number_of_objects")

    def _request(self, name: str, args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> Any:
        return request(self._tls, (self._address, self._serializer, self._authkey), name, args, kwds)

    def __enter__(self) -> BaseManager:
        if self._state.value == State.INITIAL:
            self.start()
        if self._state.value == State.SHUTDOWN:
            raise context.ProcessError("Manager has shut down")
        return self

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        self.shutdown()

    @staticmethod
    def _finalize_manager(
        process: process.BaseProcess,
        address: Any,
        authkey: bytes,
        state: State,
        _Client: Any,  # noqa: N803
        shutdown_timeout: float,
    ) -> None:
        """End the server's process: by a message, by SIGTERM, by SIGKILL, whichever it obeys."""
        if process.is_alive():
            util.info("sending shutdown message to manager")
            try:
                conn = _Client(address, authkey=authkey)
                try:
                    dispatch(conn, None, "shutdown")
                finally:
                    conn.close()
            except Exception as error:
                util.info("the manager does not answer: %s", error)
            process.join(shutdown_timeout)
            for end in (process.terminate, process.kill):
                if process.is_alive():
                    util.info("manager still alive; trying %s", end.__name__)
                    end()
                    process.join(shutdown_timeout)
        state.value = State.SHUTDOWN
        local = BaseProxy._address_to_local.pop(address, None)
        conn = local and local[0].__dict__.pop("connection", None)
        if conn:
            conn.close()
        _manager_wire.close_all(address)

    @property
    def address(self) -> Any:
        """Where the server listens."""
        return self._address

    @classmethod
    def register(
        cls,
        typeid: str,
        callable: Callable[..., Any] | None = None,
        proxytype: Any = None,
        exposed: Sequence[str] | None = None,
        method_to_typeid: Mapping[str, str] | None = None,
        create_method: bool = True,
    ) -> None:
        """Make a type of shared objects known, to this class of managers.

        `callable` makes an object, in the server's process; None for a manager that only connects. `proxytype` makes
        what a client gets (default: a proxy with all public methods, or those `exposed`). What a method named in
        `method_to_typeid` returns is shared, too, under that type, instead of copied. With `create_method` the manager
        has a method named `typeid` that makes an object and returns its proxy.
        """
        if "_registry" not in cls.__dict__:
            cls._registry = cls._registry.copy()
        if proxytype is None:
            proxytype = AutoProxy
        exposed = exposed or getattr(proxytype, "_exposed_", None)
        method_to_typeid = method_to_typeid or getattr(proxytype, "_method_to_typeid_", None)
        for word in (*(method_to_typeid or {}), *(method_to_typeid or {}).values()):
            if type(word) is not str:
                raise AssertionError(f"{word!r} is not a string")
        cls._registry[typeid] = callable, exposed, method_to_typeid, proxytype
        if create_method:
            setattr(cls, typeid, _creator(typeid, proxytype))


def _creator(typeid: str, proxytype: Any) -> Callable[..., Any]:
    def create(self: BaseManager, /, *args: Any, **kwds: Any) -> Any:
        util.debug("requesting creation of a shared %r object", typeid)
        try:
            token, exposed = self._create(typeid, *args, **kwds)
            proxy = proxytype(token, self._serializer, manager=self, authkey=self._authkey, exposed=exposed)
            # The reference that the server took for us; the proxy has its own.
            self._request("decref", (token.id,))
        except BaseException:
            # It is on the account of this connection.
            self._disconnect()
            raise
        return proxy

    create.__name__ = typeid
    create.__doc__ = f"Return a proxy of a new shared object of type {typeid!r}."
    return create


# ----------------------------------------------------------------------------------------------------------------------
# What `Manager()` returns


class Namespace:
    """An object for attributes."""

    def __init__(self, /, **kwds: Any) -> None:
        self.__dict__.update(kwds)

    def __repr__(self) -> str:
        shown = sorted(f"{name}={value!r}" for name, value in self.__dict__.items() if not name.startswith("_"))
        return f"{type(self).__name__}({', '.join(shown)})"


class Value:
    """One value. `typecode` and `lock` say nothing."""

    def __init__(self, typecode: Any, value: Any, lock: Any = True) -> None:
        self._typecode = typecode
        self._value = value

    def get(self) -> Any:
        """Return the value."""
        return self._value

    def set(self, value: Any) -> None:
        """Replace the value."""
        self._value = value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._typecode!r}, {self._value!r})"

    value = property(get, set)


def Array(typecode: str, sequence: Iterable[Any], lock: Any = True) -> array.array[Any]:
    """Return an array of a type code. `lock` says nothing."""
    return array.array(typecode, sequence)  # type: ignore[arg-type]


def _make_pool(*args: Any, **kwds: Any) -> Any:
    from .pool import Pool

    return Pool(*args, **kwds)


class SyncManager(BaseManager):
    """A manager with the types that threads share: queues, locks, containers, values, pools."""


SyncManager.register("Queue", _Queue)
SyncManager.register("JoinableQueue", _Queue)
SyncManager.register("Event", threading.Event, EventProxy)
SyncManager.register("Lock", threading.Lock, AcquirerProxy)
SyncManager.register("RLock", threading.RLock, AcquirerProxy)
SyncManager.register("Semaphore", threading.Semaphore, AcquirerProxy)
SyncManager.register("BoundedSemaphore", threading.BoundedSemaphore, AcquirerProxy)
SyncManager.register("Condition", threading.Condition, ConditionProxy)
SyncManager.register("Barrier", _Barrier, BarrierProxy)
SyncManager.register("Pool", _make_pool, PoolProxy)
SyncManager.register("list", list, ListProxy)
SyncManager.register("dict", dict, DictProxy)
SyncManager.register("set", set, SetProxy)
SyncManager.register("Value", Value, ValueProxy)
SyncManager.register("Array", Array, ArrayProxy)
SyncManager.register("Namespace", Namespace, NamespaceProxy)
# What methods of proxies return.
SyncManager.register("Iterator", proxytype=IteratorProxy, create_method=False)
SyncManager.register("AsyncResult", create_method=False)

_manager_proxies.default_registry = SyncManager._registry


class SharedMemoryManager(BaseManager):
    """A manager of segments of shared memory: it frees those made by it when it is shut down."""

    _Server = SharedMemoryServer

    def SharedMemory(self, size: int) -> SharedMemory:
        """Return a new segment of `size` bytes. ValueError if the manager is not started."""
        from .shared_memory import SharedMemory

        self._check_started()
        segment = SharedMemory(None, create=True, size=size)
        self._track(segment)
        return segment

    def ShareableList(self, sequence: Iterable[Any] | None) -> ShareableList:
        """Return a new list in shared memory. ValueError if the manager is not started."""
        from .shared_memory import ShareableList

        self._check_started()
        shared = ShareableList(sequence)
        self._track(shared.shm)
        return shared

    def _check_started(self) -> None:
        if self._state.value != State.STARTED:
            raise ValueError("the manager is not started, or has been shut down: there is nobody to free the segment")

    def _track(self, segment: SharedMemory) -> None:
        try:
            self._request("track_segment", (segment.name,))
        except BaseException:
            segment.unlink()
            raise


# What there is before a program registers anything.
_OWN = {kind: dict(kind._registry) for kind in (BaseManager, SyncManager)}


def _let_go() -> None:
    """Forget the types of the program's own: see `util._let_go`."""
    for kind, own in _OWN.items():
        kind._registry.clear()
        kind._registry.update(own)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
