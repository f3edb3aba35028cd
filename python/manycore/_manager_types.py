"""The proxies of what a `SyncManager` makes."""

from __future__ import annotations

import collections.abc
import queue
import threading
import time
from types import GenericAlias

from . import util
from ._manager_proxies import BaseProxy, MakeProxyType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

__all__ = ()


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


def _within(timeout: float | None) -> float | None:
    """Return a timeout that the server's `threading` and `queue` take: what is longer than they can count is None.

    ValueError if it is not a number. A negative one is returned as it is: `threading` and `queue` refuse it themselves.
    """
    return timeout if timeout is not None and timeout < 0 else util.limit(timeout)


class _Queue(queue.Queue):
    """The queue of a manager's server: as in `queue`, and any timeout will do."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """As in `queue.Queue`."""
        super().put(item, block, _within(timeout) if block else timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """As in `queue.Queue`."""
        return super().get(block, _within(timeout) if block else timeout)


class _Barrier(threading.Barrier):
    """The barrier of a manager's server: as in `threading`, and any timeout will do."""

    def __init__(self, parties: int, action: Any = None, timeout: float | None = None) -> None:
        super().__init__(parties, action, _within(timeout))


class AcquirerProxy(BaseProxy):
    """A lock or a semaphore. An RLock is given back when the thread that holds it is gone."""

    _exposed_: Sequence[str] = ("acquire", "release", "locked")

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take it; returns whether that was done in `timeout` seconds."""
        seconds = _within(timeout)
        return self._callmethod("acquire", (blocking,) if seconds is None else (blocking, seconds))

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
        return self._callmethod("wait", (_within(timeout),))

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
        return self._callmethod("wait", (_within(timeout),))


class BarrierProxy(BaseProxy):
    """A barrier."""

    _exposed_ = ("__getattribute__", "wait", "abort", "reset")

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties do; returns a number of one's own."""
        return self._callmethod("wait", (_within(timeout),))

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


# What `isinstance` says of the proxies is what the standard package says since CPython 3.14, but for its set, which
# that package calls a mapping by mistake.
collections.abc.MutableSequence.register(BaseListProxy)  # type: ignore[attr-defined]
collections.abc.MutableMapping.register(BaseDictProxy)  # type: ignore[attr-defined]
collections.abc.MutableSet.register(BaseSetProxy)  # type: ignore[attr-defined]

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
