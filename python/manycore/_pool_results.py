"""The results of tasks that go through queues in Python; `pool` hands these classes on.

The results of an ordinary pool are made by the engine, and count as instances of these classes. These themselves are
for tasks that a program puts into a pool by hand, and for all tasks of a hooked pool (`_pool_hooks`). They register
themselves with their pool's `_cache` under the number of their job; whoever has an answer calls `_set`.
"""

from __future__ import annotations

import collections
import os
import threading
import types

from . import _engine, _remote, context, util
from ._pool_work import NOTES, job_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["ApplyResult", "AsyncResult", "IMapIterator", "IMapUnorderedIterator", "MapResult"]

FORKED = "Pool not running: it belongs to the process this one was forked from"


class _Kind(type):
    """The type of the classes of results: what other parts make in their place are instances, too."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return type.__instancecheck__(cls, instance) or cls._stands_in(instance)

    def _stands_in(cls, instance: Any) -> bool:
        return False


class _CallKind(_Kind):
    def _stands_in(cls, instance: Any) -> bool:
        if cls.__dict__.get("_of_maps") is None:
            return False
        stand_in = isinstance(instance, _engine.ApplyResult) or getattr(instance, "_is_a_result", False) is True
        return stand_in and (not cls._of_maps or getattr(instance, "_chunksize", None) is not None)

    _of_maps: bool | None


class _IteratorKind(_Kind):
    def _stands_in(cls, instance: Any) -> bool:
        if cls.__dict__.get("_of_streams") is None:
            return False
        return isinstance(instance, _engine.IMapIterator) or getattr(instance, "_is_an_iterator", False) is True

    _of_streams: bool | None


def _is_an_answer(result: ApplyResult | IMapIterator, place: int) -> bool:
    """Tell the notes of a hooked pool that a task is answered; return whether that was not known before."""
    notes = getattr(result._cache, "notes", None)
    return notes is None or notes.answers((result._job, place))


class ApplyResult(metaclass=_CallKind):
    """The result of an asynchronous call."""

    _of_maps = False

    def __init__(
        self,
        pool: Any,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        # The pool must live until the answer is there.
        self._pool = pool
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._job = next(job_counter)
        self._cache = pool._cache
        self._callback, self._error_callback = callback, error_callback
        self._success, self._value = True, None
        self._owner = os.getpid()
        self._cache[self._job] = self

    def ready(self) -> bool:
        """Return whether the result is there."""
        return self._event.is_set()

    def successful(self) -> bool:
        """Return whether the task returned without raising. ValueError before it is ready."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._success

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, for `timeout` seconds at the longest."""
        # An event that is set is not asked to wait: that takes a lock, which another thread may have had at a fork.
        if not self._event.is_set():
            if self._owner != os.getpid():
                raise ValueError(FORKED)
            self._event.wait(util.limit(timeout))

    def get(self, timeout: float | None = None) -> Any:
        """Return the value or raise what the task raised; TimeoutError after `timeout` seconds."""
        self.wait(timeout)
        if not self.ready():
            raise context.TimeoutError
        if not self._success:
            raise self._value  # type: ignore[misc]
        return self._value

    def _set(self, i: int, obj: tuple[bool, Any]) -> None:
        """Take in the answer of task `i`: whether it succeeded, and its value or exception."""
        if not _is_an_answer(self, i):
            return
        with self._lock:
            if self._event.is_set() or not self._accept(i, *obj):
                return
        self._finish()

    def _accept(self, i: int, success: bool, value: Any) -> bool:
        """Note an answer; return whether it was the last one that was missing. Called with the lock in hand."""
        self._success, self._value = success, value
        return True

    def _finish(self) -> None:
        called = self._callback if self._success else self._error_callback
        if called is not None:
            raised = _remote.call_back(called, self._value)
            if raised is not None:
                # As in an ordinary pool, it takes the place of the outcome.
                if not self._success:
                    _remote.keep_in_context(raised, self._value)  # type: ignore[arg-type]
                self._success, self._value = False, raised
        self._event.set()
        self._forget()

    def _forget(self) -> None:
        try:
            del self._cache[self._job]
        except KeyError:
            pass  # a program has emptied it
        self._pool = self._callback = self._error_callback = None

    def _fail(self, reason: BaseException) -> None:
        """Fail, unless everything is there."""
        with self._lock:
            if self._event.is_set():
                return
            self._success, self._value = False, reason
        self._finish()

    __class_getitem__ = classmethod(types.GenericAlias)


AsyncResult = ApplyResult


class MapResult(ApplyResult):
    """The result of an asynchronous map of `length` items, `chunksize` of them to a task."""

    _of_maps = True

    def __init__(
        self,
        pool: Any,
        chunksize: int,
        length: int,
        callback: Callable[[list[Any]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        super().__init__(pool, callback, error_callback)
        self._value: Any = [None] * length
        self._chunksize = chunksize
        self._number_left = -(-length // chunksize) if chunksize > 0 else 0
        if self._number_left == 0:
            # Nobody is called back, as in the standard package.
            self._event.set()
            self._forget()

    def _accept(self, i: int, success: bool, value: Any) -> bool:
        self._number_left -= 1
        if not success:
            if self._success:
                self._success, self._value = False, value
        elif self._success:
            self._value[i * self._chunksize : (i + 1) * self._chunksize] = value
        return self._number_left == 0


class IMapIterator(metaclass=_IteratorKind):
    """An iterator over the results of a lazy map, in the order of its items."""

    _of_streams = True

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._cond = threading.Condition(threading.Lock())
        self._job = next(job_counter)
        self._cache = pool._cache
        self._items: collections.deque[tuple[bool, Any]] = collections.deque()
        # How many have come, and of how many. The place of one that has come out of order is in `_unsorted`.
        self._index = 0
        self._length: int | None = None
        self._unsorted: dict[int, tuple[bool, Any]] = {}
        self._owner = os.getpid()
        self._cache[self._job] = self

    def __iter__(self) -> Any:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result; TimeoutError after `timeout` seconds, StopIteration when there is none."""
        if self._owner != os.getpid():
            raise ValueError(FORKED)
        with self._cond:
            if not self._cond.wait_for(lambda: self._items or self._index == self._length, util.limit(timeout)):
                raise context.TimeoutError
            if not self._items:
                self._pool = None
                raise StopIteration
            success, value = self._items.popleft()
        if not success:
            raise value
        return value

    __next__ = next

    def _set(self, i: int, obj: tuple[bool, Any]) -> None:
        """Take in the answer of task `i`: whether it succeeded, and its value or exception."""
        if not _is_an_answer(self, i):
            return
        with self._cond:
            if not self._has_ended():
                self._accept(i, obj)
                self._cond.notify_all()
                self._forget_if_done()

    def _accept(self, i: int, obj: tuple[bool, Any]) -> None:
        self._unsorted[i] = obj
        while self._index in self._unsorted:
            self._items.append(self._unsorted.pop(self._index))
            self._index += 1

    def _set_length(self, length: int) -> None:
        """Take in how many tasks there are."""
        with self._cond:
            if not self._has_ended():
                self._length = length
                self._cond.notify_all()
                self._forget_if_done()

    def _has_ended(self) -> bool:
        return self._length is not None and self._index == self._length

    def _forget_if_done(self) -> None:
        if self._has_ended():
            try:
                del self._cache[self._job]
            except KeyError:
                pass  # a program has emptied it
            self._pool = None

    def _fail(self, reason: BaseException) -> None:
        """Give `reason` behind what has come, and nothing after it."""
        with self._cond:
            if not self._has_ended():
                self._items.append((False, reason))
                self._index += 1
                self._length = self._index
                self._cond.notify_all()
                self._forget_if_done()


class IMapUnorderedIterator(IMapIterator):
    """An iterator over the results of a lazy map, in the order in which they come."""

    _of_streams = True

    def _accept(self, i: int, obj: tuple[bool, Any]) -> None:
        self._items.append(obj)
        self._index += 1


class Cache(dict[int, "ApplyResult | IMapIterator"]):
    """The open results of a pool, by the numbers of their jobs. `notifier` is a queue that hears when none is left."""

    def __init__(self, /, *args: Any, notifier: Any = None, **kwds: Any) -> None:
        self.notifier = notifier
        # What a hooked pool knows of its workers, and the pool.
        self.notes: Any = None
        self.owner: Callable[[], Any] = lambda: None
        super().__init__(*args, **kwds)

    def __missing__(self, job: Any) -> Any:
        # Whoever hands out answers by `cache[job]._set(place, outcome)` hands out notes, too.
        if job == NOTES and self.notes is not None:
            return self.notes
        raise KeyError(job)

    def __delitem__(self, job: int) -> None:
        super().__delitem__(job)
        if not self and self.notifier is not None:
            self.notifier.put(None)


_CLASSES = (ApplyResult, MapResult, IMapIterator, IMapUnorderedIterator)
for _class in _CLASSES:
    _class.__module__ = "manycore.pool"


# What a program may replace, as it was before: the names in `pool`, and what is in the classes.
OURS = {"AsyncResult": ApplyResult, **{_class.__name__: _class for _class in _CLASSES}}
_CALLED_BY_SYNTAX = ("__init__", "__iter__", "__next__", "__del__")


def _parts(cls: type) -> dict[str, Any]:
    # Python itself keeps notes in a class, under names such as `__annotations_cache__`.
    return {name: part for name, part in vars(cls).items() if not name.startswith("__") or name in _CALLED_BY_SYNTAX}


_before = [_parts(_class) for _class in _CLASSES]


def is_patched() -> bool:
    """Return whether a program has put something into these classes, which results of the engine would not have."""
    return [_parts(cls) for cls in _CLASSES] != _before
