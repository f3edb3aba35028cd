"""What a manager's server and its clients say to each other, and the connections they say it on.

The words are the standard package's, so a client of either package can use a server of either. A request is
`(ident, method, args, kwds)`: of the object `ident`, or with None of the server itself. The answer is `(kind, result)`:

| kind | result |
|---|---|
| `#RETURN` | what the method returned |
| `#ERROR` | the exception it raised |
| `#PROXY` | (exposed methods, token) of a new shared object that stands for what it returned |
| `#TRACEBACK` | text: the request could not be carried out |
| `#UNSERIALIZABLE` | text: the answer could not be sent |

A connection carries one request to the server and ends, unless that is `accept_connection`: then any number of requests
to objects follow. Ours, and this is all that is new, takes requests to itself on such a connection, too, and says so by
what `accept_connection` returns. It keeps account of the references a connection has taken and gives them back when it
ends. So each process has one connection to a manager, its *anchor*, on which it takes and gives back references: a
reference costs one message each way instead of a new connection with its two proofs of the key, and those of a killed
client come back at once.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import weakref
from collections import deque
from types import SimpleNamespace

from . import _locks, connection, process, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

__all__ = ()

# What `accept_connection` of ours returns: this connection is kept account of.
KEEPS_ACCOUNT = "#ACCOUNT"

listener_client: dict[str, tuple[Any, Any]] = {
    "pickle": (connection.Listener, connection.Client),
    "xmlrpclib": (connection.XmlListener, connection.XmlClient),
}


class Token:
    """The name of one shared object: its type, its manager's address, its number there."""

    __slots__ = ("address", "id", "typeid")

    def __init__(self, typeid: str, address: Any, id: str) -> None:
        self.typeid = typeid
        self.address = address
        self.id = id

    def __getstate__(self) -> tuple[Any, ...]:
        return self.typeid, self.address, self.id

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.typeid, self.address, self.id = state

    def __repr__(self) -> str:
        return f"{type(self).__name__}(typeid={self.typeid!r}, address={self.address!r}, id={self.id!r})"


def plain(token: Any) -> SimpleNamespace:
    """Return a token that the other package can unpickle, too."""
    return SimpleNamespace(typeid=token.typeid, address=token.address, id=token.id)


class RemoteError(Exception):
    """Something went wrong in the manager's process; `args[0]` is the traceback there."""

    def __str__(self) -> str:
        return f"\n{'-' * 75}\n{self.args[0]}{'-' * 75}"


def dispatch(c: Any, id: str | None, methodname: str, args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> Any:
    """Send a request on the connection `c` and return the result, or raise what came back instead of one."""
    try:
        c.send((id, methodname, args, kwds))
        kind, result = c.recv()
    except BaseException:
        # The answer may still come, and the next one to ask must not take it for his own.
        if not is_in_step(c) and hasattr(c, "close"):
            c.close()
        raise
    try:
        return unpack(kind, result)
    finally:
        # The traceback of the exception refers to this frame, too.
        del result


def is_in_step(conn: Any) -> bool:
    """Say whether every request that was begun on `conn` has been answered, as far as it is known."""
    return getattr(conn, "_owed", 1) == 0


def unpack(kind: str, result: Any) -> Any:
    """Return what an answer says was returned, or raise what it stands for instead."""
    if kind == "#RETURN":
        return result
    try:
        raise convert_to_error(kind, result)
    finally:
        # The traceback of the exception refers to this frame.
        del result


def convert_to_error(kind: str, result: Any) -> BaseException:
    """Return the exception that an answer stands for."""
    if kind == "#ERROR":
        return result
    if kind not in ("#TRACEBACK", "#UNSERIALIZABLE"):
        return ValueError(f"Unrecognized message type {kind!r}")
    if not isinstance(result, str):
        return TypeError(f"Result {result!r} (kind '{kind}') type is {type(result)}, not str")
    return RemoteError(result if kind == "#TRACEBACK" else f"Unserializable message: {result}\n")


def all_methods(obj: Any) -> list[str]:
    """Return the names of the methods of `obj`."""
    return [name for name in dir(obj) if callable(getattr(obj, name))]


def public_methods(obj: Any) -> list[str]:
    """Return the names of the methods of `obj` that do not begin with an underscore."""
    return [name for name in all_methods(obj) if name[0] != "_"]


# ----------------------------------------------------------------------------------------------------------------------
# Connections

# Connections and listeners that belong to this process alone: a forked child that kept one would keep the other end
# from seeing that we have ended.
_own: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def keep_from_children(conn: Any, address: Any = None) -> Any:
    """Have `conn` closed in every child that is forked from now on, and with the manager at `address`. Returns it."""
    _own[conn] = address
    return conn


# Where threads keep their connections. Of those, a forked child has only the forking thread's, which are closed in it.
_locals: weakref.WeakSet[Any] = weakref.WeakSet()


def new_local() -> util.ForkAwareLocal:
    """Return a place for a connection of each thread."""
    tls = util.ForkAwareLocal()
    _locals.add(tls)
    return tls


def connect(address: Any, serializer: str, authkey: bytes) -> tuple[Any, bool]:
    """Return a connection for any number of requests, and whether the server keeps account of it.

    Raises what `connection.Client` raises.
    """
    conn = keep_from_children(listener_client[serializer][1](address, authkey=authkey), address)
    try:
        name = process.current_process().name
        if threading.current_thread() is not threading.main_thread():
            name += f"|{threading.current_thread().name}"
        return conn, dispatch(conn, None, "accept_connection", (name,)) == KEEPS_ACCOUNT
    except BaseException:
        conn.close()
        raise


# In a server's thread that sends an answer, `proxies`: those in it, kept until the client has asked for something else.
# By then it has taken references of its own.
in_transit = threading.local()


def request(tls: Any, to: tuple[Any, ...], name: str, args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> Any:
    """Have the server at `to` call its function `name`, and return the result.

    The request goes on the thread's connection, `tls.connection`, so what it takes a reference to is on the account of
    that. To a server of the standard package each request has a connection of its own.
    """
    conn = open_line(tls, to)
    if tls.kept:
        return unpack(*ask(tls, conn, (None, name, args, kwds)))
    return request_alone(to, name, args, kwds)


def request_alone(to: tuple[Any, ...], name: str, args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> Any:
    """Send a request as `request` does, on a connection of its own."""
    address, serializer, authkey = to
    with contextlib.closing(listener_client[serializer][1](address, authkey=authkey)) as conn:
        return dispatch(conn, None, name, args, kwds)


def open_line(tls: Any, to: tuple[Any, ...]) -> Any:
    """Return the thread's connection with the server at `to`: `tls.connection`."""
    try:
        return tls.connection
    except AttributeError:
        util.debug("making connection to manager")
        conn, tls.kept = connect(*to)
        tls.connection = conn
        return conn


def ask(tls: Any, conn: Any, message: tuple[Any, ...]) -> tuple[str, Any]:
    """Send a request on `conn`, which is `tls.connection`, and return the answer.

    Meanwhile the thread has no connection: what runs in the midst of it, a signal handler or a finalizer, opens another
    one. An exception between the request and its answer costs the connection, so that nobody takes the answer for
    another's; one that comes when nothing was sent, or everything received, does not.
    """
    del tls.connection
    try:
        conn.send(message)
        answer = conn.recv()
    except BaseException:
        if is_in_step(conn):
            _put_back(tls, conn)
        else:
            conn.close()
        raise
    _put_back(tls, conn)
    return answer


def _put_back(tls: Any, conn: Any) -> None:
    # The older one stays: the server may have given it locks.
    between = tls.__dict__.pop("connection", None)
    tls.connection = conn
    if between is not None:
        between.close()


class Anchor:
    """The account of this process's references at one manager, and the connection that they belong to.

    The connection is opened by the first reference, and closed with the last user. What it holds would be lost with it.
    So when an exchange was broken off by an exception, and it is in doubt what the server has done, the next exchange
    opens a new connection, says what is to be held (`hold`), and only then closes the one that was broken off.
    """

    def __init__(self, address: Any, serializer: str, authkey: bytes) -> None:
        self._to = address, serializer, authkey
        # Re-entrant: a collection in the midst of an exchange may give back references.
        self._lock = _locks.RLock()
        self._busy = False
        # Serves requests that come in the midst of another one in the same thread.
        self._inner: Anchor | None = None
        self._conn: Any = None
        # Whether the server keeps account of references; one of the standard package does not.
        self._kept = True
        self.has_connected = False
        # Connections that were broken off.
        self._doubtful: list[Any] = []
        # Tickets that nobody has, though the server may have issued them.
        self._void: list[str] = []
        # By object, those here that refer to it.
        self._held: dict[str, set[object]] = {}
        # References to be given back, in order.
        self._late: deque[tuple[str, object]] = deque()

    def take(self, ident: str, holder: object, ticket: str | None = None) -> None:
        """Take a reference to `ident` for `holder`, in exchange for `ticket` if there is one."""
        args = (ident,) if ticket is None else (ident, ticket)
        self._work(self._take, ident, holder, "incref" if ticket is None else "redeem", args)

    def _take(self, ident: str, holder: object, name: str, args: tuple[Any, ...]) -> None:
        if not self._is_kept():
            name, args = "incref", (ident,)

        def enter() -> None:
            self._held.setdefault(ident, set()).add(holder)

        self._ask(name, args, enter)

    def lend(self, ident: str, ticket: str, file: tuple[int, ...] | None) -> bool:
        """Have the server hold `ident` for the holder of `ticket`; False if it does not do such a thing.

        It does so until the ticket is redeemed, or nobody holds `file` open any more, or this process ends if that is
        None. See `_manager_loans`.
        """
        return self._work(self._lend, ident, ticket, file)

    def _lend(self, ident: str, ticket: str, file: tuple[int, ...] | None) -> bool:
        if not self._is_kept():
            return False
        self._void.append(ticket)
        self._ask("lend", (ident, ticket, own_name(), file), self._void.clear)
        return True

    def take_back(self, ticket: str) -> None:
        """End a loan: nobody will redeem the ticket."""
        self._work(self._ask, "take_back", (ticket,))

    def give_back(self, ident: str, holder: object) -> None:
        """Give back the reference of `holder`; if this is not the moment, whoever is at it does it afterwards."""
        self._late.append((ident, holder))
        self._give_back_late()

    def _work(self, step: Callable[..., Any], *args: Any) -> Any:
        with self._lock:
            if self._busy:
                if self._inner is None:
                    self._inner = Anchor(*self._to)
                return getattr(self._inner, step.__name__)(*args)
            self._busy = True
            try:
                return step(*args)
            finally:
                self._busy = False
                self._give_back_late()

    def _give_back_late(self) -> None:
        while self._late and self._lock.acquire(blocking=False):
            try:
                if self._busy:
                    return
                self._busy = True
                try:
                    self._give_back(*self._late[0])
                except Exception as error:
                    # The manager may be gone, and the reference with it.
                    util.debug("... decref failed %s", error)
                finally:
                    # Whatever has happened: what was not given back is not in the account of the next connection.
                    self._late.popleft()
                    self._busy = False
            finally:
                self._lock.release()

    def _give_back(self, ident: str, holder: object) -> None:
        holders = self._held.get(ident, ())
        if holder not in holders:
            if self._inner is not None:
                self._inner.give_back(ident, holder)
            if self._doubtful and self._conn is None:
                # It may have been taken all the same.
                self._sound()
            return
        holders.discard(holder)  # type: ignore[union-attr]
        if not holders:
            del self._held[ident]
        if self._conn is not None or not self._kept:
            self._ask("decref", (ident,))
        elif self._doubtful:
            # What the next connection holds is without it.
            self._sound()

    def _is_kept(self) -> bool:
        self._sound()
        return self._kept

    def _ask(self, name: str, args: tuple[Any, ...], enter: Callable[[], object] | None = None) -> Any:
        """Have the server call its function `name`, and call `enter` here when that was done."""
        conn = self._sound()
        if not self._kept:
            address, serializer, authkey = self._to
            with contextlib.closing(listener_client[serializer][1](address, authkey=authkey)) as conn:
                result = dispatch(conn, None, name, args)
                if enter is not None:
                    enter()
                return result
        self._doubtful.append(conn)
        self._conn = None
        conn.send((None, name, args, {}))
        kind, result = conn.recv()
        if enter is not None and kind == "#RETURN":
            enter()
        # In this order: a connection without a holder would be closed.
        self._conn = conn
        self._doubtful.pop()
        return unpack(kind, result)

    def _sound(self) -> Any:
        """Return the connection, by which exactly what is in `_held` is held. None if the server keeps no account."""
        if self._conn is not None or not self._kept:
            return self._conn
        conn, self._kept = connect(*self._to)
        self.has_connected = True
        if not self._kept:
            conn.close()
            return None
        try:
            if self._held or self._void:
                counts = {ident: len(holders) for ident, holders in self._held.items()}
                dispatch(conn, None, "hold", (own_name(), counts, self._void))
                self._void.clear()
        except BaseException:
            conn.close()
            raise
        self._conn = conn
        self._close_doubtful()
        return conn

    def _close_doubtful(self) -> None:
        while self._doubtful:
            if self._doubtful[-1] is not self._conn:
                self._doubtful[-1].close()
            self._doubtful.pop()

    def close(self) -> None:
        """Close the connection; a later request opens another one."""
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()
        self._close_doubtful()
        if self._inner is not None:
            self._inner.close()

    def _forget(self) -> None:
        """In a forked child, which has no references yet."""
        self._lock._at_fork_reinit()  # type: ignore[attr-defined]
        self._busy, self._kept = False, True
        for what in (self._late, self._void, self._held):
            what.clear()
        self._inner = None
        self.close()

    def __del__(self) -> None:
        self.close()


_own_name: str | None = None
_tickets = itertools.count()


def own_name() -> str:
    """Return this process's name in what it says to managers. No other process has the same, also elsewhere."""
    global _own_name
    if _own_name is None:
        _own_name = f"{os.getpid()}-{os.urandom(8).hex()}"
    return _own_name


def new_ticket() -> str:
    """Return a number for a loan that nobody else uses."""
    return f"{own_name()}-{next(_tickets)}"


def known_key(address: Any) -> bytes | None:
    """Return a key by which this process has got into the manager at `address`, if there is one."""
    with _anchors_lock:
        for (at, _, key), anchor in list(_anchors.items()):
            if at == address and anchor.has_connected:
                return key
    return None


_anchors: weakref.WeakValueDictionary[tuple[Any, ...], Anchor] = weakref.WeakValueDictionary()
_anchors_lock = _locks.RLock()


def anchor_of(address: Any, serializer: str, authkey: bytes) -> Anchor:
    """Return this process's anchor at a manager. It lives as long as somebody holds it."""
    with _anchors_lock:
        key = address, serializer, bytes(authkey)
        anchor = _anchors.get(key)
        if anchor is None:
            anchor = _anchors[key] = Anchor(address, serializer, authkey)
        return anchor


def close_all(address: Any) -> None:
    """Close this process's connections with a manager that has ended."""
    with _anchors_lock:
        ended = [anchor for key, anchor in _anchors.items() if key[0] == address]
    for anchor in ended:
        anchor.close()
    for conn in [conn for conn, at in list(_own.items()) if at == address]:
        conn.close()


def _close_in_child() -> None:
    global _own_name
    _own_name = None
    _anchors_lock._at_fork_reinit()  # type: ignore[attr-defined]
    for anchor in list(_anchors.values()):
        anchor._forget()
    for tls in list(_locals):
        tls.__dict__.clear()
    for conn in list(_own):
        conn.close()
    _own.clear()


os.register_at_fork(after_in_child=_close_in_child)
