"""The results of a `ThreadPool`: of calls and maps, and the iterators over lazy maps.

The threads hand in the outcome of each task (`settle`); the last task of a job answers it. A job holds its pool until
then.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from itertools import islice

from . import _remote, context, util
from ._pool_work import job_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


__all__ = ["Result", "Results", "Stream"]


class Result:
    """The result of a call or a map, as `Pool` gives it."""

    _is_a_result = True

    def __init__(
        self,
        owner: Any,
        values: list[Any],
        tasks: int,
        chunksize: int | None,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        # The pool must live until the answer is there: nobody else may hold it.
        self._pool: Any = owner
        # What its threads share, which knows its jobs.
        self._work: Any = owner._work
        self._job = next(job_counter)
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._values = values
        self._number_left = tasks
        # None: the result is the one value.
        self._chunksize = chunksize
        self._failure: BaseException | None = None
        self._callback, self._error_callback = callback, error_callback
        owner._work.accept(self)
        if tasks == 0:
            self._answer()

    def ready(self) -> bool:
        """Say whether the result is there."""
        return self._event.is_set()

    def successful(self) -> bool:
        """Say whether the task returned without raising. ValueError before it is ready."""
        if not self._event.is_set():
            raise ValueError(f"{self!r} not ready")
        return self._failure is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, for `timeout` seconds at the longest."""
        self._event.wait(util.limit(timeout))

    def get(self, timeout: float | None = None) -> Any:
        """Return the value or raise what the task raised; TimeoutError after `timeout` seconds."""
        # An event that is set is not asked to wait, which takes its lock: at a fork another thread may have had it.
        if not self._event.is_set() and not self._event.wait(util.limit(timeout)):
            raise context.TimeoutError
        if self._failure is not None:
            raise self._failure
        return self._value

    @property
    def _value(self) -> Any:
        return self._values[0] if self._chunksize is None else self._values

    @property
    def _success(self) -> bool:
        return self._failure is None

    def settle(self, place: int, value: Any, failure: BaseException | None) -> None:
        """Take in the result of one task."""
        with self._lock:
            if self._number_left == 0:
                return
            self._number_left -= 1
            if failure is not None:
                self._failure = self._failure or failure
            elif self._chunksize is None:
                self._values[0] = value
            else:
                self._values[place * self._chunksize : (place + 1) * self._chunksize] = value
            if self._number_left:
                return
        self._answer()

    def forget_in_child(self, reason: BaseException) -> None:
        """Fail without a word to anybody."""
        self._lock, self._event = threading.Lock(), threading.Event()
        self._number_left, self._failure = 0, reason
        self._work = self._callback = self._error_callback = None
        self._event.set()

    def abort(self, reason: BaseException) -> None:
        """Fail, unless everything is done."""
        with self._lock:
            if self._number_left == 0:
                return
            self._number_left = 0
            self._failure = reason
        self._answer()

    def _answer(self) -> None:
        work, self._work = self._work, None
        called = self._callback if self._failure is None else self._error_callback
        self._callback = self._error_callback = None
        assert work is not None
        if called is not None:
            with work.callbacks:
                raised = _remote.call_back(called, self._value if self._failure is None else self._failure)
            if raised is not None:
                # As in a pool of processes, it takes the place of the outcome.
                if self._failure is not None:
                    _remote.keep_in_context(raised, self._failure)
                self._failure = raised
        self._event.set()
        work.answered(self)
        # At last, and with no lock in hand: the pool may end here.
        self._pool = None

    def __class_getitem__(cls, item: Any) -> Any:
        from types import GenericAlias

        return GenericAlias(cls, item)


class Held:
    """The pool of a lazy map that is not answered yet."""

    __slots__ = ("__weakref__", "pool")

    def __init__(self, pool: Any) -> None:
        self.pool = pool


class Stream:
    """A lazy map: what its feeder, the threads and the iterator share."""

    def __init__(self, owner: Any, ordered: bool, chunksize: int, window: int) -> None:
        # The pool must live until all is answered, and nobody else may hold it: the iterator does, and from its end on
        # this. Not before: what feeds this is a thread, which would keep a pool for ever that has its own iterator.
        self.held: Callable[[], Held | None] = lambda: None
        self.work: Any = owner._work
        self.ordered = ordered
        self.chunksize = chunksize
        self.window: float = window
        # Of a lock that its holder may take again: a collection may drop the iterator in a thread that holds the lock.
        self.changed = threading.Condition()
        self.sent = self.arrived = self.taken = 0
        self.ready: deque[tuple[list[Any] | None, BaseException | None]] = deque()
        self.early: dict[int, tuple[list[Any] | None, BaseException | None]] = {}
        self.complete = False
        # Nobody can take results any more.
        self.dropped = False
        self.failure: BaseException | None = None
        self.work.accept(self)

    def feed(self, function: Callable[[list[Any]], list[Any]], source: Iterator[Any]) -> None:
        """Pull the input, no further ahead of the taker than the window allows. The body of a thread."""
        failure = None
        try:
            while self._wait_for_room():
                chunk = list(islice(source, self.chunksize))
                if not chunk:
                    break
                with self.changed:
                    if self.complete:
                        break
                    place, self.sent = self.sent, self.sent + 1
                self.work.tasks.put((self, place, function, chunk))
        except BaseException as error:
            # Raised where the results are taken, after those of the items before it.
            failure = error
        self._end(failure)

    def _wait_for_room(self) -> bool:
        with self.changed:
            while not self.complete and self.sent - self.taken >= self.window:
                self.changed.wait()
            return not self.complete

    def settle(self, place: int, value: Any, failure: BaseException | None) -> None:
        """Take in the result of one chunk."""
        with self.changed:
            if self._is_done():
                return
            if not self.ordered:
                self.ready.append((value, failure))
            else:
                self.early[place] = value, failure
                while (first := self.taken + len(self.ready)) in self.early:
                    self.ready.append(self.early.pop(first))
            self.arrived += 1
            if self.dropped:
                self.ready.clear()
                self.early.clear()
                self.taken = self.arrived
            self.changed.notify_all()
        self._answer_if_done()

    def take(self, timeout: float | None) -> tuple[list[Any] | None, BaseException | None]:
        """Return the next chunk of results, or why there is none."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.ready or self._is_done(), util.limit(timeout)):
                raise context.TimeoutError
            if self.ready:
                self.taken += 1
                self.changed.notify_all()
                return self.ready.popleft()
            failure, self.failure = self.failure, None
            raise failure or StopIteration

    def _is_done(self) -> bool:
        return self.complete and self.arrived >= self.sent

    def _end(self, failure: BaseException | None) -> None:
        with self.changed:
            if not self.complete:
                self.complete, self.failure = True, failure
                self.changed.notify_all()
        self._answer_if_done()

    def _answer_if_done(self) -> None:
        with self.changed:
            done = self._is_done()
        if done:
            self._let_go()

    def _let_go(self) -> None:
        self.work.answered(self)
        held = self.held()
        if held is not None:
            # At last, and with no lock in hand: the pool may end here.
            held.pool = None

    def hurry(self) -> None:
        """Pull all of the input: nobody is to wait for a taker any more."""
        with self.changed:
            self.window = float("inf")
            self.changed.notify_all()

    def abort(self, reason: BaseException) -> None:
        """Give no more results than there are."""
        with self.changed:
            if not self.complete or self.arrived < self.sent:
                self.complete, self.failure = True, reason
                self.sent = self.arrived
                self.changed.notify_all()
        self._let_go()

    def forget_in_child(self, reason: BaseException) -> None:
        """Give no more results than there are."""
        self.changed = threading.Condition()
        self.complete, self.failure, self.sent = True, reason, self.arrived

    def abandon(self, held: Held) -> None:
        """Run what is left, as close() and join() promise, and keep no results: nobody can take them."""
        self.dropped = True
        self.held = lambda: held
        if self._is_done():
            held.pool = None
        if not self.complete:
            with self.changed:
                self.taken = self.arrived
                self.changed.notify_all()


class Results:
    """The iterator over a lazy map."""

    _is_an_iterator = True

    def __init__(self, stream: Stream, owner: Any) -> None:
        self._stream = stream
        self._held = Held(owner)
        stream.held = weakref.ref(self._held)
        self._job = next(job_counter)
        self._items: deque[Any] = deque()
        if stream._is_done():
            self._held.pool = None

    # Not a finalizer of `weakref`, which would hold the pool.
    def __del__(self) -> None:
        self._stream.abandon(self._held)

    @property
    def _pool(self) -> Any:
        return self._held.pool

    def __iter__(self) -> Results:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result; TimeoutError after `timeout` seconds, StopIteration when there is none."""
        if not self._items:
            values, failure = self._stream.take(timeout)
            if failure is not None:
                raise failure
            self._items.extend(values)  # type: ignore[arg-type]
        return self._items.popleft()

    __next__ = next
