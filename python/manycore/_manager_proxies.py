"""What a client has instead of a shared object: a proxy, whose methods are carried out in the manager's process."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from functools import partial

from . import context, process, util
from ._engine import carrier, if_lost
from ._manager_wire import (
    Anchor,
    RemoteError,
    Token,
    anchor_of,
    ask,
    convert_to_error,
    dispatch,
    in_transit,
    known_key,
    listener_client,
    new_local,
    new_ticket,
    open_line,
    own_name,
    plain,
    request_alone,
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


# Types of shared objects by name, for proxies whose manager is not in this process; filled by `managers`.
default_registry: dict[str, tuple[Any, ...]] = {}


def _entry(kinds: Mapping[str, tuple[Any, ...]], typeid: str) -> tuple[Any, ...] | None:
    return kinds.get(typeid) or default_registry.get(typeid)


def _kinds_for_travel(kinds: Mapping[str, tuple[Any, ...]], typeid: str) -> dict[str, tuple[Any, ...]]:
    """Return what of a registry the proxy of an object of type `typeid` needs elsewhere to make further proxies.

    That is the type itself, and those that its methods return, and theirs, as far as a SyncManager does not know them.
    A type of proxies that cannot be found by its name is left to `AutoProxy`.
    """
    found: dict[str, tuple[Any, ...]] = {}
    new = [typeid]
    while new:
        typeid = new.pop()
        entry = _entry(kinds, typeid)
        if entry is None or typeid in found:
            continue
        method_to_typeid = entry[2] or {}
        found[typeid] = None, None, method_to_typeid, entry[3] if _has_a_name(entry[3]) else AutoProxy
        new += method_to_typeid.values()
    if not any(entry[2] for entry in found.values()):
        return {}
    return {typeid: entry for typeid, entry in found.items() if default_registry.get(typeid) != kinds.get(typeid)}


def _has_a_name(kind: Any) -> bool:
    found: Any = sys.modules.get(getattr(kind, "__module__", None) or "")
    for name in getattr(kind, "__qualname__", "").split("."):
        found = getattr(found, name, None)
    return found is kind


class BaseProxy:
    """Base of the proxies: holds a reference to one shared object and calls its methods.

    Each thread has a connection of its own to the manager; a call is one message each way.
    """

    # By address: the threads' connections, and the numbers of the objects this process refers to.
    _address_to_local: ClassVar[dict[Any, tuple[util.ForkAwareLocal, ProcessLocalSet]]] = {}
    _mutex = util.ForkAwareThreadLock()

    _exposed_: Sequence[str]
    _isauto = False
    # The process that holds the reference, and for whom the anchor does.
    _holder: tuple[int | None, object] = None, None

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
        local = BaseProxy._address_to_local.get(token.address)
        if local is None:
            # Without the lock, which an exception between its acquisition and its `with` block would leave locked.
            local = BaseProxy._address_to_local.setdefault(token.address, (new_local(), ProcessLocalSet()))
        self._tls, self._idset = local
        self._token = token
        self._id = token.id
        self._manager = manager
        # The types that its methods return; without a manager, those that came with it.
        self._kinds: Mapping[str, tuple[Any, ...]] = {} if manager is None else manager._registry
        self._serializer = serializer
        self._Client = listener_client[serializer][1]
        # One that lives within the manager's process, in a shared list perhaps, is no reference from outside.
        self._owned_by_manager = manager_owned
        self._authkey = _key(authkey, manager, token.address)
        self._anchor: Anchor = anchor_of(token.address, serializer, self._authkey)
        if incref:
            self._incref()
        util.register_after_fork(self, BaseProxy._after_fork)

    def _connect(self) -> Any:
        """Give this thread its connection, and return it."""
        return open_line(self._tls, self._to())

    def _callmethod(self, methodname: str, args: tuple[Any, ...] = (), kwds: Mapping[str, Any] = {}) -> Any:
        """Call a method of the shared object and return a copy of the result; raises what the method raises.

        EOFError or OSError if the manager is gone, RemoteError if it cannot carry out the call. An exception that comes
        from elsewhere, such as a signal handler, before there is an answer, costs this thread its connection.
        """
        try:
            conn = self._tls.connection
        except AttributeError:
            conn = self._connect()
        kind, result = ask(self._tls, conn, (self._id, methodname, args, kwds))
        if kind == "#RETURN":
            return result
        if kind == "#PROXY":
            return self._proxy_for(conn, *result)
        try:
            raise convert_to_error(kind, result)
        finally:
            # The traceback of the exception refers to this frame.
            del result

    def _proxy_for(self, conn: Any, exposed: Sequence[str], token: Any) -> Any:
        """Return a proxy for what a method has returned, instead of a copy."""
        entry = _entry(self._kinds, token.typeid)
        kind = AutoProxy if entry is None else entry[3]
        token = Token(token.typeid, self._token.address, token.id)
        try:
            proxy = kind(token, self._serializer, manager=self._manager, authkey=self._authkey, exposed=exposed)
            if self._manager is None and isinstance(proxy, BaseProxy):
                proxy._kinds = self._kinds
            return proxy
        finally:
            # The reference that the server took for us; the proxy has its own.
            if self._tls.kept:
                dispatch(conn, None, "decref", (token.id,))
            else:
                request_alone(self._to(), "decref", (token.id,))

    def _to(self) -> tuple[Any, ...]:
        return self._token.address, self._serializer, self._authkey

    def _getvalue(self) -> Any:
        """Return a copy of the shared object."""
        return self._callmethod("#GETVALUE")

    def _incref(self) -> None:
        """Take a reference; it is given back when the proxy goes."""
        if self._owned_by_manager:
            util.debug("owned_by_manager skipped INCREF of %r", self._token.id)
            return
        holder = object()
        # First, so that what is interrupted afterwards is given back.
        self._hold(holder)
        try:
            self._anchor.take(self._id, holder, self.__dict__.pop("_ticket", None))
        except BaseException:
            self._close()
            raise
        util.debug("INCREF %r", self._token.id)
        self._holder = process.current_process().pid, holder

    def _hold(self, holder: object) -> None:
        self._idset.add(self._id)
        state = self._manager and self._manager._state
        self._close = util.Finalize(
            self,
            BaseProxy._decref,
            args=(self._token, self._authkey, state, self._tls, self._idset, self._anchor, holder),
            exitpriority=10,
        )

    @staticmethod
    def _decref(
        token: Any, authkey: bytes, state: Any, tls: Any, idset: set[str], anchor: Anchor, holder: object
    ) -> None:
        """Give back a reference; with the last one, close this thread's connection."""
        idset.discard(token.id)
        if state is None or state.value == State.STARTED:
            util.debug("DECREF %r", token.id)
            anchor.give_back(token.id, holder)
        else:
            util.debug("DECREF %r -- manager already shutdown", token.id)
        if not idset and hasattr(tls, "connection"):
            util.debug("thread %r has no more proxies so closing conn", threading.current_thread().name)
            tls.connection.close()
            del tls.connection

    def _after_fork(self) -> None:
        """Take a reference of this process's own, in a new child."""
        self._manager = None
        pid, holder = self._holder
        if pid == process.current_process().pid:
            # Unpickled by this very process as it was started, before it forgot the finalizers.
            self._hold(holder)
            return
        try:
            self._incref()
        except Exception as error:
            # The proxy may be for a manager that has shut down.
            util.info("incref failed: %s", error)

    def __reduce__(self) -> tuple[Any, ...]:
        kwds: dict[str, Any] = {}
        answered = getattr(in_transit, "proxies", None) if self._owned_by_manager else None
        popen = context.get_spawning_popen()
        if popen is not None:
            kwds["authkey"] = self._authkey
            # The process object forgets its arguments, and the child takes its own reference only when it runs.
            context.keep_for_child(popen, self)
        elif answered is not None:
            answered.append(self)
        else:
            ticket = self._lend()
            if ticket is not None:
                kwds["ticket"] = ticket
        if self._isauto:
            kwds["exposed"] = self._exposed_
        kinds = _kinds_for_travel(self._kinds, self._token.typeid)
        if kinds:
            kwds["kinds"] = kinds
        return RebuildProxy, (AutoProxy if self._isauto else type(self), self._token, self._serializer, kwds)

    def _lend(self) -> str | None:
        """Have the manager hold the object for what is being pickled; return the ticket to be written into that.

        None if it lends nothing, is gone, or lends to all who unpickle this. See `_manager_loans`.
        """
        sent_by = carrier()
        file, many = None, False
        if sent_by is not None:
            fd, many = sent_by
            try:
                fd = util.family() if fd < 0 else fd
                fcntl.flock(fd, fcntl.LOCK_SH)
                status = os.fstat(fd)
                file = os.getpid(), fd, status.st_dev, status.st_ino
            except OSError as error:
                util.info("a pickled proxy is not tied to its message: %s", error)
        ticket = new_ticket()
        if self._owned_by_manager:
            server = getattr(process.current_process(), "_manager_server", None)
            if server is None:
                return None
            server.lend(None, self._id, ticket, own_name(), file)
            take_back = partial(server.take_back, None, ticket)
        elif self._manager is not None and self._manager._state.value != State.STARTED:
            return None
        elif self._lend_at_anchor(ticket, file):
            take_back = partial(self._anchor.take_back, ticket)
        else:
            return None
        if_lost(take_back)
        return None if many else ticket

    def _lend_at_anchor(self, ticket: str, file: tuple[int, ...] | None) -> bool:
        try:
            return self._anchor.lend(self._id, ticket, file)
        except (RemoteError, context.ProcessError) as error:
            util.info("no reference for a pickled proxy: %s", error)
            return False
        except (EOFError, OSError):
            # The manager is gone, or a signal handler raises what looks like it.
            try:
                self._anchor.take_back(ticket)
            except (EOFError, OSError):
                return False
            raise

    def __deepcopy__(self, memo: Any) -> Any:
        return self._getvalue()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} object, typeid {self._token.typeid!r} at {id(self):#x}>"

    def __str__(self) -> str:
        try:
            return self._callmethod("__repr__")
        except Exception:
            return f"{repr(self)[:-1]}; '__str__()' failed>"


def _key(authkey: bytes | None, manager: Any, address: Any) -> process.AuthenticationString:
    if authkey is None:
        authkey = (known_key(address) or process.current_process().authkey) if manager is None else manager._authkey
    return process.AuthenticationString(authkey or b"")


def RebuildProxy(func: Callable[..., Any], token: Any, serializer: str, kwds: dict[str, Any]) -> Any:
    """Return a proxy from its pickled parts."""
    server = getattr(process.current_process(), "_manager_server", None)
    kwds = dict(kwds)
    incref = kwds.pop("incref", True)
    ticket = kwds.pop("ticket", None)
    kinds = kwds.pop("kinds", {})
    if server is not None and server.address == token.address:
        util.debug("Rebuild a proxy owned by manager, token=%r", token)
        server.keep_local(token.id)
        if ticket is not None:
            server.take_back(None, ticket)
        proxy = func(token, serializer, incref=incref, manager_owned=True, **kwds)
        util.Finalize(proxy, server.release_local, (token.id,))
        proxy._kinds = kinds
        return proxy
    proxy = func(token, serializer, incref=False, **kwds)
    proxy._kinds = kinds
    if not incref:
        return proxy
    if ticket is not None:
        proxy._ticket = ticket
    try:
        proxy._incref()
    except Exception as error:
        if not getattr(process.current_process(), "_inheriting", False):
            raise
        # A child is not to fail as it starts: it may never use the proxy.
        util.info("incref failed: %s", error)
    return proxy


_proxy_types: dict[Any, type] = {}


def MakeProxyType(name: str, exposed: Sequence[str], _cache: dict[Any, type] = _proxy_types) -> Any:
    """Return a class of proxies with the methods `exposed`; the same one for the same arguments."""
    key = name, tuple(exposed)
    if key not in _cache:
        methods: dict[str, Any] = {method: _method(method) for method in exposed}
        methods["__module__"] = f"{__package__}.managers"
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
    authkey = _key(authkey, manager, token.address)
    if exposed is None:
        exposed = request_alone((token.address, serializer, authkey), "get_methods", (plain(token),))
    kind = MakeProxyType(f"AutoProxy[{token.typeid}]", exposed or ())
    proxy = kind(token, serializer, manager=manager, authkey=authkey, incref=incref, manager_owned=manager_owned)
    proxy._isauto = True
    return proxy
