"""What a client has instead of a shared object: a proxy, whose methods are carried out in the manager's process."""

from __future__ import annotations

import os
import threading
import time
from types import GenericAlias

from . import context, process, util
from ._manager_wire import (
    Anchor,
    Token,
    anchor_of,
    connect,
    convert_to_error,
    dispatch,
    in_transit,
    listener_client,
    plain,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, ClassVar

__all__ = ()


class State:
    """How far a manager has got."""

    __slots__ = ("value",)
    INITIAL = 0
    STARTED = 1
    SHUTDOWN = 2


class ProcessLocalSet(set):
    """A set that is empty in a forked child."""

    def __init__(self) -> None:
        util.register_after_fork(self, lambda obj: obj.clear())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


# Types of proxies by name, for proxies whose manager is not in this process; filled by `managers`.
default_registry: dict[str, tuple[Any, ...]] = {}


class BaseProxy:
    """Base of the proxies: holds a reference to one shared object and calls its methods.

    Each thread has a connection of its own to the manager; a call is one message each way.
    """

    # By address: the threads' connections, and the numbers of the objects this process refers to.
    _address_to_local: ClassVar[dict[Any, tuple[util.ForkAwareLocal, ProcessLocalSet]]] = {}
    _mutex = util.ForkAwareThreadLock()

    _exposed_: Sequence[str]
    _isauto = False
    # The process that holds the reference.
    _holder: int | None = None

    def __init__(
        self,
        token: Any,
        serializer: str,
        manager: Any = None,
        authkey: bytes | None = None,
        exposed: Sequence[str] | None = None,
        incref: bool = True,
        manager_owned: bool = False,
    ) -> None:
        with BaseProxy._mutex:
            local = BaseProxy._address_to_local.get(token.address)
            if local is None:
                local = BaseProxy._address_to_local[token.address] = util.ForkAwareLocal(), ProcessLocalSet()
        self._tls, self._idset = local
        self._token = token
        self._id = token.id
        self._manager = manager
        self._serializer = serializer
        self._Client = listener_client[serializer][1]
        # One that lives within the manager's process, in a shared list perhaps, is no reference from outside.
        self._owned_by_manager = manager_owned
        self._authkey = _key(authkey, manager)
        self._anchor: Anchor = anchor_of(token.address, serializer, self._authkey)
        if incref:
            self._incref()
        util.register_after_fork(self, BaseProxy._after_fork)

    def _connect(self) -> Any:
        """Give this thread its connection, and return it."""
        util.debug("making connection to manager")
        conn, self._tls.kept = connect(self._token.address, self._serializer, self._authkey)
        self._tls.connection = conn
        return conn

    def _callmethod(self, methodname: str, args: tuple[Any, ...] = (), kwds: Mapping[str, Any] = {}) -> Any:
        """Call a method of the shared object and return a copy of the result; raises what the method raises.

        EOFError or OSError if the manager is gone, RemoteError if it cannot carry out the call.
        """
        try:
            conn = self._tls.connection
        except AttributeError:
            conn = self._connect()
        try:
            conn.send((self._id, methodname, args, kwds))
            kind, result = conn.recv()
        except (EOFError, OSError):
            self._disconnect()
            raise
        except Exception:
            # What does not pickle was not sent, or has been received.
            raise
        except BaseException:
            # The answer is still to come, and nobody must take it for another's.
            self._disconnect()
            raise
        if kind == "#RETURN":
            return result
        if kind == "#PROXY":
            return self._proxy_for(conn, *result)
        try:
            raise convert_to_error(kind, result)
        finally:
            # The traceback of the exception refers to this frame.
            del result

    def _disconnect(self) -> None:
        conn = self._tls.__dict__.pop("connection", None)
        if conn is not None:
            conn.close()

    def _proxy_for(self, conn: Any, exposed: Sequence[str], token: Any) -> Any:
        """Return a proxy for what a method has returned, instead of a copy."""
        registry = default_registry if self._manager is None else self._manager._registry
        token = Token(token.typeid, self._token.address, token.id)
        try:
            return registry[token.typeid][-1](
                token, self._serializer, manager=self._manager, authkey=self._authkey, exposed=exposed
            )
        finally:
            # The reference that the server took for us; the proxy has its own.
            if self._tls.kept:
                dispatch(conn, None, "decref", (token.id,))
            else:
                self._anchor.give_back(token.id)

    def _getvalue(self) -> Any:
        """Return a copy of the shared object."""
        return self._callmethod("#GETVALUE")

    def _incref(self) -> None:
        """Take a reference; it is given back when the proxy goes."""
        if self._owned_by_manager:
            util.debug("owned_by_manager skipped INCREF of %r", self._token.id)
            return
        self._anchor.request("incref", (self._id,))
        util.debug("INCREF %r", self._token.id)
        self._holder = process.current_process().pid
        self._hold()

    def _hold(self) -> None:
        self._idset.add(self._id)
        state = self._manager and self._manager._state
        self._close = util.Finalize(
            self,
            BaseProxy._decref,
            args=(self._token, self._authkey, state, self._tls, self._idset, self._anchor),
            exitpriority=10,
        )

    @staticmethod
    def _decref(token: Any, authkey: bytes, state: Any, tls: Any, idset: set[str], anchor: Anchor) -> None:
        """Give back a reference; with the last one, close this thread's connection."""
        idset.discard(token.id)
        if state is None or state.value == State.STARTED:
            util.debug("DECREF %r", token.id)
            anchor.give_back(token.id)
        else:
            util.debug("DECREF %r -- manager already shutdown", token.id)
        if not idset and hasattr(tls, "connection"):
            util.debug("thread %r has no more proxies so closing conn", threading.current_thread().name)
            tls.connection.close()
            del tls.connection

    def _after_fork(self) -> None:
        """Take a reference of this process's own, in a new child."""
        self._manager = None
        if self._holder == process.current_process().pid:
            # Unpickled by this very process as it was started, before it forgot the finalizers.
            self._hold()
            return
        try:
            self._incref()
        except Exception as error:
            # The proxy may be for a manager that has shut down.
            util.info("incref failed: %s", error)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._owned_by_manager and hasattr(in_transit, "proxies"):
            in_transit.proxies.append(self)
        kwds: dict[str, Any] = {}
        popen = context.get_spawning_popen()
        if popen is not None:
            kwds["authkey"] = self._authkey
            # The process object forgets its arguments, and the child takes its own reference only when it runs.
            popen.keep_for_child(self)
        if self._isauto:
            kwds["exposed"] = self._exposed_
        return RebuildProxy, (AutoProxy if self._isauto else type(self), self._token, self._serializer, kwds)

    def __deepcopy__(self, memo: Any) -> Any:
        return self._getvalue()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} object, typeid {self._token.typeid!r} at {id(self):#x}>"

    def __str__(self) -> str:
        try:
            return self._callmethod("__repr__")
        except Exception:
            return f"{repr(self)[:-1]}; '__str__()' failed>"


def _key(authkey: bytes | None, manager: Any) -> process.AuthenticationString:
    if authkey is None:
        authkey = process.current_process().authkey if manager is None else manager._authkey
    return process.AuthenticationString(authkey or b"")


def RebuildProxy(func: Callable[..., Any], token: Any, serializer: str, kwds: dict[str, Any]) -> Any:
    """Return a proxy from its pickled parts."""
    server = getattr(process.current_process(), "_manager_server", None)
    incref = kwds.pop("incref", True)
    if server is not None and server.address == token.address:
        util.debug("Rebuild a proxy owned by manager, token=%r", token)
        server.keep_local(token.id)
        proxy = func(token, serializer, incref=incref, manager_owned=True, **kwds)
        util.Finalize(proxy, server.release_local, (token.id,))
        return proxy
    try:
        return func(token, serializer, incref=incref, **kwds)
    except Exception as error:
        if not getattr(process.current_process(), "_inheriting", False):
            raise
        # A child is not to fail as it starts: it may never use the proxy.
        util.info("incref failed: %s", error)
        return func(token, serializer, incref=False, **kwds)


_proxy_types: dict[Any, type] = {}


def MakeProxyType(name: str, exposed: Sequence[str], _cache: dict[Any, type] = _proxy_types) -> Any:
    """Return a class of proxies with the methods `exposed`; the same one for the same arguments."""
    key = name, tuple(exposed)
    if key not in _cache:
        methods: dict[str, Any] = {method: _method(method) for method in exposed}
        methods["__doc__"] = f"A proxy with the methods {', '.join(exposed)}."
        _cache[key] = kind = type(name, (BaseProxy,), methods)
        kind._exposed_ = key[1]
    return _cache[key]


def _method(name: str) -> Callable[..., Any]:
    def method(self: BaseProxy, /, *args: Any, **kwds: Any) -> Any:
        return self._callmethod(name, args, kwds)

    method.__name__ = name
    method.__qualname__ = f"Proxy.{name}"
    method.__doc__ = f"Call `{name}` of the shared object and return a copy of the result."
    return method


def AutoProxy(
    token: Any,
    serializer: str,
    manager: Any = None,
    authkey: bytes | None = None,
    exposed: Sequence[str] | None = None,
    incref: bool = True,
    manager_owned: bool = False,
) -> BaseProxy:
    """Return a proxy with the methods `exposed`, by default those the server exposes."""
    authkey = _key(authkey, manager)
    if exposed is None:
        exposed = anchor_of(token.address, serializer, authkey).request("get_methods", (plain(token),))
    kind = MakeProxyType(f"AutoProxy[{token.typeid}]", exposed or ())
    proxy = kind(token, serializer, manager=manager, authkey=authkey, incref=incref, manager_owned=manager_owned)
    proxy._isauto = True
    return proxy


# ----------------------------------------------------------------------------------------------------------------------
# The types of a SyncManager


class IteratorProxy(BaseProxy):
    """An iterator or a generator."""

    _exposed_ = ("__next__", "send", "throw", "close")

    def __iter__(self) -> IteratorProxy:
        return self

    def __next__(self, *args: Any) -> Any:
        return self._callmethod("__next__", args)

    def send(self, *args: Any) -> Any:
        """Go on with a value for the generator; returns what it yields."""
        return self._callmethod("send", args)

    def throw(self, *args: Any) -> Any:
        """Go on with an exception in the generator; returns what it yields."""
        return self._callmethod("throw", args)

    def close(self, *args: Any) -> Any:
        """End the generator."""
        return self._callmethod("close", args)


class AcquirerProxy(BaseProxy):
    """A lock or a semaphore. An RLock is given back when the thread that holds it is gone."""

    _exposed_: Sequence[str] = ("acquire", "release", "locked")

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take it; returns whether that was done in `timeout` seconds."""
        return self._callmethod("acquire", (blocking,) if timeout is None else (blocking, timeout))

    def release(self) -> None:
        """Give it back."""
        return self._callmethod("release")

    def locked(self) -> bool:
        """Say whether nobody could take it now."""
        return self._callmethod("locked")

    def __enter__(self) -> bool:
        return self._callmethod("acquire")

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        return self._callmethod("release")


class ConditionProxy(AcquirerProxy):
    """A condition variable."""

    _exposed_ = ("acquire", "release", "locked", "wait", "notify", "notify_all")

    def wait(self, timeout: float | None = None) -> bool:
        """Release it, wait to be notified, and take it again; returns whether that was in `timeout` seconds."""
        return self._callmethod("wait", (timeout,))

    def notify(self, n: int = 1) -> None:
        """Wake `n` that wait."""
        return self._callmethod("notify", (n,))

    def notify_all(self) -> None:
        """Wake all that wait."""
        return self._callmethod("notify_all")

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until `predicate()`, which runs here, is true, for `timeout` seconds at most; returns its last value."""
        until = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result


class EventProxy(BaseProxy):
    """An event."""

    _exposed_ = ("is_set", "set", "clear", "wait")

    def is_set(self) -> bool:
        """Say whether it is set."""
        return self._callmethod("is_set")

    def set(self) -> None:
        """Set it."""
        return self._callmethod("set")

    def clear(self) -> None:
        """Unset it."""
        return self._callmethod("clear")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; returns whether it was in `timeout` seconds."""
        return self._callmethod("wait", (timeout,))


class BarrierProxy(BaseProxy):
    """A barrier."""

    _exposed_ = ("__getattribute__", "wait", "abort", "reset")

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties do; returns a number of one's own."""
        return self._callmethod("wait", (timeout,))

    def abort(self) -> None:
        """Break it: whoever waits gets BrokenBarrierError."""
        return self._callmethod("abort")

    def reset(self) -> None:
        """Make it as new; whoever waits gets BrokenBarrierError."""
        return self._callmethod("reset")

    @property
    def parties(self) -> int:
        """How many must wait."""
        return self._callmethod("__getattribute__", ("parties",))

    @property
    def n_waiting(self) -> int:
        """How many wait."""
        return self._callmethod("__getattribute__", ("n_waiting",))

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return self._callmethod("__getattribute__", ("broken",))


class NamespaceProxy(BaseProxy):
    """An object for attributes; those that begin with an underscore are the proxy's own."""

    _exposed_ = ("__getattribute__", "__setattr__", "__delattr__")

    def __getattr__(self, key: str) -> Any:
        if key[0] == "_":
            return object.__getattribute__(self, key)
        return object.__getattribute__(self, "_callmethod")("__getattribute__", (key,))

    def __setattr__(self, key: str, value: Any) -> None:
        if key[0] == "_":
            return object.__setattr__(self, key, value)
        return object.__getattribute__(self, "_callmethod")("__setattr__", (key, value))

    def __delattr__(self, key: str) -> None:
        if key[0] == "_":
            return object.__delattr__(self, key)
        return object.__getattribute__(self, "_callmethod")("__delattr__", (key,))


class ValueProxy(BaseProxy):
    """One value."""

    _exposed_ = ("get", "set")

    def get(self) -> Any:
        """Return the value."""
        return self._callmethod("get")

    def set(self, value: Any) -> None:
        """Replace the value."""
        return self._callmethod("set", (value,))

    value = property(get, set)
    __class_getitem__ = classmethod(GenericAlias)


# Operators first, then methods, each in the order of the alphabet.
BaseListProxy = MakeProxyType(
    "BaseListProxy",
    (
        *("__add__", "__contains__", "__delitem__", "__getitem__", "__imul__", "__len__", "__mul__", "__reversed__"),
        *("__rmul__", "__setitem__"),
        *("append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"),
    ),
)
BaseDictProxy = MakeProxyType(
    "DictProxy",
    (
        *("__contains__", "__delitem__", "__getitem__", "__ior__", "__iter__", "__len__", "__or__", "__reversed__"),
        *("__ror__", "__setitem__"),
        *("clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"),
    ),
)
BaseDictProxy._method_to_typeid_ = {"__iter__": "Iterator"}
BaseSetProxy = MakeProxyType(
    "BaseSetProxy",
    (
        *("__and__", "__contains__", "__ge__", "__gt__", "__iand__", "__ior__", "__isub__", "__iter__", "__ixor__"),
        *("__le__", "__len__", "__lt__", "__or__", "__rand__", "__ror__", "__rsub__", "__rxor__", "__sub__", "__xor__"),
        *("add", "clear", "copy", "difference", "difference_update", "discard", "intersection"),
        *("intersection_update", "isdisjoint", "issubset", "issuperset", "pop", "remove", "symmetric_difference"),
        *("symmetric_difference_update", "union", "update"),
    ),
)
BaseSetProxy._method_to_typeid_ = {"__iter__": "Iterator"}


def _forget_connections() -> None:
    """In a child forked by whatever means, whose copies of its parent's connections are closed."""
    for tls, _ in BaseProxy._address_to_local.values():
        tls.__dict__.clear()


os.register_at_fork(after_in_child=_forget_connections)


def _in_place(name: str) -> Callable[..., Any]:
    """Return the method for an operator such as `+=`: the proxy stands for the changed object."""

    def method(self: Any, value: Any) -> Any:
        return NotImplemented if self._callmethod(name, (value,)) is NotImplemented else self

    method.__name__ = name
    return method


class ListProxy(BaseListProxy):
    """A list."""

    def __iadd__(self, value: Any) -> ListProxy:
        self._callmethod("extend", (value,))
        return self

    __imul__ = _in_place("__imul__")
    __class_getitem__ = classmethod(GenericAlias)


class DictProxy(BaseDictProxy):
    """A dict."""

    __ior__ = _in_place("__ior__")
    __class_getitem__ = classmethod(GenericAlias)


class SetProxy(BaseSetProxy):
    """A set."""

    __iand__ = _in_place("__iand__")
    __ior__ = _in_place("__ior__")
    __isub__ = _in_place("__isub__")
    __ixor__ = _in_place("__ixor__")
    __class_getitem__ = classmethod(GenericAlias)


ArrayProxy = MakeProxyType("ArrayProxy", ("__len__", "__getitem__", "__setitem__"))

BasePoolProxy = MakeProxyType(
    "PoolProxy",
    (
        *("apply", "apply_async", "close", "imap", "imap_unordered", "join", "map", "map_async", "starmap"),
        *("starmap_async", "terminate"),
    ),
)
BasePoolProxy._method_to_typeid_ = {
    "apply_async": "AsyncResult",
    "map_async": "AsyncResult",
    "starmap_async": "AsyncResult",
    "imap": "Iterator",
    "imap_unordered": "Iterator",
}


class PoolProxy(BasePoolProxy):
    """A pool, whose workers are children of the manager."""

    def __enter__(self) -> PoolProxy:
        return self

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        self.terminate()
