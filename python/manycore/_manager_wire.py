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

import os
import threading
import weakref
from collections import deque
from types import SimpleNamespace

from . import connection, process, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
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
    c.send((id, methodname, args, kwds))
    kind, result = c.recv()
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
_own: weakref.WeakSet[Any] = weakref.WeakSet()


def keep_from_children(conn: Any) -> Any:
    """Have `conn` closed in every child that is forked from now on. Returns it."""
    _own.add(conn)
    return conn


def connect(address: Any, serializer: str, authkey: bytes) -> tuple[Any, bool]:
    """Return a connection for any number of requests, and whether the server keeps account of it.

    Raises what `connection.Client` raises.
    """
    conn = keep_from_children(listener_client[serializer][1](address, authkey=authkey))
    try:
        name = process.current_process().name
        if threading.current_thread() is not threading.main_thread():
            name += f"|{threading.current_thread().name}"
        return conn, dispatch(conn, None, "accept_connection", (name,)) == KEEPS_ACCOUNT
    except BaseException:
        conn.close()
        raise


# In a server's thread, `proxies`: those in its last answer, kept until the client has asked for something else. By then
# it has taken references of its own.
in_transit = threading.local()


class Anchor:
    """This process's own connection to one manager: opened by the first request, closed with the last user.

    To a server of the standard package each request has a connection of its own.
    """

    def __init__(self, address: Any, serializer: str, authkey: bytes) -> None:
        self._to = address, serializer, authkey
        # Re-entrant: a collection in the midst of a request may give back references.
        self._lock = threading.RLock()
        self._asking = False
        self._conn: Any = None
        self._kept = True
        # Answers that somebody who was interrupted did not wait for.
        self._unread = 0
        # References to be given back, in order.
        self._late: deque[str] = deque()

    def request(self, name: str, args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> Any:
        """Have the server call its function `name`, and return the result."""
        with self._lock:
            self._asking = True
            try:
                return self._ask(name, args, kwds)
            finally:
                self._asking = False
                self._give_back_late()

    def give_back(self, ident: str) -> None:
        """Give back one reference to `ident`; if this is not the moment, whoever is at it does it afterwards."""
        self._late.append(ident)
        self._give_back_late()

    def _give_back_late(self) -> None:
        while self._late and self._lock.acquire(blocking=False):
            try:
                if self._asking:
                    return
                self._asking = True
                try:
                    self._ask("decref", (self._late.popleft(),), {})
                except Exception as error:
                    # The manager may be gone, and the reference with it.
                    util.debug("... decref failed %s", error)
                finally:
                    self._asking = False
            finally:
                self._lock.release()

    def _ask(self, name: str, args: Iterable[Any], kwds: Mapping[str, Any]) -> Any:
        if self._conn is None and self._kept:
            self._conn, self._kept = connect(*self._to)
            if not self._kept:
                self.close()
        if not self._kept:
            address, serializer, authkey = self._to
            conn = listener_client[serializer][1](address, authkey=authkey)
            try:
                return dispatch(conn, None, name, args, kwds)
            finally:
                conn.close()
        conn: Any = self._conn
        try:
            while self._unread:
                conn.recv()
                self._unread -= 1
            conn.send((None, name, args, kwds))
            self._unread = 1
            kind, result = conn.recv()
            self._unread = 0
        except (EOFError, OSError):
            self.close()
            raise
        if kind == "#RETURN":
            return result
        try:
            raise convert_to_error(kind, result)
        finally:
            del result

    def close(self) -> None:
        """Close the connection; a later request opens another one."""
        conn, self._conn, self._unread = self._conn, None, 0
        if conn is not None:
            conn.close()

    def _forget(self) -> None:
        self._lock._at_fork_reinit()  # type: ignore[attr-defined]
        self._asking, self._kept = False, True
        self._late.clear()
        self.close()

    def __del__(self) -> None:
        self.close()


_anchors: weakref.WeakValueDictionary[tuple[Any, ...], Anchor] = weakref.WeakValueDictionary()
_anchors_lock = threading.Lock()


def anchor_of(address: Any, serializer: str, authkey: bytes) -> Anchor:
    """Return this process's anchor at a manager. It lives as long as somebody holds it."""
    with _anchors_lock:
        key = address, serializer, bytes(authkey)
        anchor = _anchors.get(key)
        if anchor is None:
            anchor = _anchors[key] = Anchor(address, serializer, authkey)
        return anchor


def close_anchors(address: Any) -> None:
    """Close this process's anchors at a manager that has ended."""
    with _anchors_lock:
        ended = [anchor for key, anchor in _anchors.items() if key[0] == address]
    for anchor in ended:
        anchor.close()


def _close_in_child() -> None:
    _anchors_lock._at_fork_reinit()  # type: ignore[attr-defined]
    for anchor in list(_anchors.values()):
        anchor._forget()
    for conn in list(_own):
        conn.close()
    _own.clear()


os.register_at_fork(after_in_child=_close_in_child)
