"""A pool of threads with the interface of `Pool`: `ThreadPool`, which `pool` hands on.

Nothing of the engine is needed: tasks go through a queue to the threads, and the thread that finishes the last task of
a job answers it. A lazy map has a thread of its own that pulls the input, so that an input which blocks stops nobody.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections import deque
from itertools import islice
from queue import Empty, SimpleQueue

from . import _forks, _pool_parts, _remote, context, pool, util
from ._thread_calls import Call as _Call
from ._thread_calls import Map as _Map
from ._thread_calls import lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, Unpack

    from ._options import JobOptions

__all__ = ["ThreadPool"]


class _Work:
    """What the threads of one pool share. It does not know the pool, so that an unused pool can be collected."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.tasks: SimpleQueue[Any] = SimpleQueue()
        self.lock = threading.Lock()
        # Jobs that are not answered yet.
        self.open: set[_Result | _Stream] = set()
        self.closing = False
        self.terminated = False
        self.stopped = False
        # Held while the tasks of a map are put. None is begun before all are there, which takes milliseconds: a pool
        # that is terminated at once would else have begun some, and a thread cannot be ended.
        self.putting = threading.Lock()
        # What an initializer has raised: no task can be run.
        self.broken: BaseException | None = None
        # One callback at a time, as if a single thread called them; again by one that a callback has waited for.
        self.callbacks = threading.RLock()
        self.forked = False
        _forks.renew(self, _Work.forget_in_child)

    def forget_in_child(self) -> None:
        """Be the copy in a forked child, which has none of the threads: what they had to answer fails."""
        self.lock, self.putting, self.callbacks = threading.Lock(), threading.Lock(), threading.RLock()
        self.forked = self.closing = self.stopped = True
        reason = ValueError("Pool not running: it belongs to the process this one was forked from")
        for job in self.open:
            job.forget_in_child(reason)
        self.open = set()

    def accept(self, job: _Result | _Stream) -> None:
        with self.lock:
            if self.closing:
                raise ValueError("Pool not running")
            self.open.add(job)
            broken = self.broken
        if broken is not None:
            job.abort(broken)

    def answered(self, job: _Result | _Stream) -> None:
        with self.lock:
            self.open.discard(job)
        self.stop_if_done()

    def stop_if_done(self) -> None:
        with self.lock:
            if self.stopped or not self.closing or self.open:
                return
            self.stopped = True
        for _ in range(self.size):
            self.tasks.put(None)

    def close(self) -> None:
        with self.lock:
            self.closing = True
            streams = [job for job in self.open if isinstance(job, _Stream)]
        for stream in streams:
            stream.hurry()
        self.stop_if_done()

    def terminate(self) -> None:
        with self.lock:
            self.closing = self.terminated = True
        try:
            while True:
                if self.tasks.get_nowait() is None:
                    # Meant for a thread that has yet to see it.
                    self.tasks.put(None)
                    break
        except Empty:
            pass
        self.abort(context.ProcessError("the pool was terminated before its task was answered"))
        self.stop_if_done()

    def abort(self, reason: BaseException) -> None:
        with self.lock:
            jobs = list(self.open)
        for job in jobs:
            job.abort(reason)

    def run(self, initializer: Callable[..., object] | None, initargs: Iterable[Any]) -> None:
        """The body of a thread."""
        if initializer is not None:
            try:
                initializer(*initargs)
            except BaseException as error:
                with self.lock:
                    self.broken = error
                self.abort(error)
        while True:
            task = self.tasks.get()
            if task is None or self.forked:
                return
            job, place, function, argument = task
            with self.putting:
                pass
            if self.terminated:
                # Its job has been told.
                del task, job, function, argument
                continue
            try:
                value, failure = function(argument), None
            except Exception as error:
                value, failure = None, error
            except BaseException as error:
                value, failure = None, lost(error, function)
            job.settle(place, value, failure)
            # Not kept until the next task comes.
            del task, job, function, argument, value, failure


class _Result:
    """The result of a call or a map, as `Pool` gives it."""

    _is_a_result = True

    def __init__(
        self,
        work: _Work,
        values: list[Any],
        tasks: int,
        chunksize: int | None,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        self._work: _Work | None = work
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._values = values
        self._number_left = tasks
        # None: the result is the one value.
        self._chunksize = chunksize
        self._failure: BaseException | None = None
        self._callbacks = callback, error_callback
        work.accept(self)
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
        self._work, self._callbacks = None, (None, None)
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
        called = self._callbacks[self._failure is not None]
        self._callbacks = None, None
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

    def __class_getitem__(cls, item: Any) -> Any:
        from types import GenericAlias

        return GenericAlias(cls, item)


class _Stream:
    """A lazy map: what its feeder, the threads and the iterator share."""

    def __init__(self, work: _Work, ordered: bool, chunksize: int, window: int) -> None:
        self.work = work
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
        work.accept(self)

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
            self.work.answered(self)

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
        self.work.answered(self)

    def forget_in_child(self, reason: BaseException) -> None:
        """Give no more results than there are."""
        self.changed = threading.Condition()
        self.complete, self.failure, self.sent = True, reason, self.arrived

    def abandon(self) -> None:
        """Run what is left, as close() and join() promise, and keep no results: nobody can take them."""
        self.dropped = True
        if not self.complete:
            with self.changed:
                self.taken = self.arrived
                self.changed.notify_all()


class _Results:
    """The iterator over a lazy map."""

    _is_an_iterator = True

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._items: deque[Any] = deque()
        weakref.finalize(self, stream.abandon).atexit = False

    def __iter__(self) -> _Results:
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


class ThreadPool(pool.Pool):
    """A pool of threads of this process, with the methods of `Pool`.

    Functions, arguments and results are used as they are, so nothing has to be picklable, and an exception is raised by
    the result just as the task raised it. `terminate` ends no task that runs; its result fails all the same.
    """

    _wrap_exception = False
    _of_threads = True
    # A pool in which a subclass or a program has replaced a part does as `Pool` does then, with threads.
    _is_hooked = False

    @staticmethod
    def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
        """Return an unstarted worker thread; a subclass may return another kind."""
        from .dummy import Process

        return Process(*args, **kwds)

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        self._state = pool.INIT
        if processes is None:
            processes = context._usable_cpu_count()
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        processes = operator.index(processes)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._processes = processes
        if _pool_parts.is_hooked(type(self)):
            from ._hooked_pool import set_up

            self._is_hooked = True
            self._initializer, self._initargs, self._maxtasksperchild = initializer, initargs, None
            self._ctx = context._default_context.get_context()
            return set_up(self)
        self._work = _Work(processes)
        self._pool: list[Any] = []
        self._terminate = util.Finalize(self, self._work.terminate, exitpriority=15)
        for _ in range(processes):
            thread = self.Process(None, target=self._work.run, args=(initializer, tuple(initargs)))
            thread.name = thread.name.replace("Process", "PoolWorker")
            thread.daemon = True
            thread.start()
            self._pool.append(thread)
        self._state = pool.RUN

    def _repopulate_pool(self) -> None:
        """Start threads until there are `_processes`, if hooks could have ended some; else threads do not get lost."""
        if self._is_hooked:
            self._crew.refill()

    # Bound here: at the end of the interpreter the module's names may be gone.
    def __del__(self, _warn: Any = pool.warnings.warn, _running: str = pool.RUN, _getpid: Any = None) -> None:
        if getattr(self, "_state", None) == _running:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def _wishes(self, options: JobOptions, verb: str) -> None:
        for name in options:
            raise TypeError(f"{verb}() of a ThreadPool takes no {name!r}: only a pool of processes has such options")

    def statistics(self) -> dict[str, float]:
        """NotImplementedError: a pool of threads keeps no statistics."""
        raise NotImplementedError("a ThreadPool keeps no statistics; a Pool does")

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        **options: Unpack[JobOptions],
    ) -> Any:
        """Return `func(*args, **kwds)`, run in a thread of the pool; raises what it raises."""
        self._wishes(options, "apply")
        return self.apply_async(func, args, kwds).get()

    def map(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        **options: Unpack[JobOptions],
    ) -> list[Any]:
        """Return `[func(x) for x in iterable]`, run in the threads, `chunksize` items at a time."""
        self._wishes(options, "map")
        return self._map_async(func, iterable, pool.mapstar, chunksize).get()

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        **options: Unpack[JobOptions],
    ) -> list:
        """Return `[func(*x) for x in iterable]`; otherwise as `map`."""
        self._wishes(options, "starmap")
        return self._map_async(func, iterable, pool.starmapstar, chunksize).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[JobOptions],
    ) -> Any:
        """Start `func(*args, **kwds)` in a thread and return its result's handle.

        A callback is called by a thread of the pool, one at a time, before the handle is ready.
        """
        self._wishes(options, "apply_async")
        if self._is_hooked:
            return super().apply_async(func, args, kwds, callback, error_callback)
        self._check_running()
        result = _Result(self._work, [None], 1, None, callback, error_callback)
        self._work.tasks.put((result, 0, _Call(func, kwds), args))
        return result

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        mapper: Callable[..., Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        wishes: object = None,
    ) -> Any:
        if self._is_hooked:
            return super()._map_async(func, iterable, mapper, chunksize, callback, error_callback)
        self._check_running()
        items = iterable if type(iterable) is range else tuple(iterable)
        size = pool._checked(chunksize) or max(1, -(-len(items) // (4 * self._processes)))
        values, tasks = [None] * len(items), -(-len(items) // size)
        # As in the standard package, nobody is called where there was nothing to do.
        called = (callback, error_callback) if items else (None, None)
        result = _Result(self._work, values, tasks, size, *called)
        run = _Map(func, mapper)
        with self._work.putting:
            for place in range(tasks):
                self._work.tasks.put((result, place, run, items[place * size : (place + 1) * size]))
        return result

    def _imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        ordered: bool,
        chunksize: int,
        buffersize: int | None,
        wishes: object = None,
    ) -> Any:
        if self._is_hooked:
            return super()._imap(func, iterable, ordered, chunksize, buffersize)
        self._check_running()
        pool._check_imap(chunksize, buffersize)
        source = iter(iterable)
        stream = _Stream(self._work, ordered, chunksize, buffersize or pool.WINDOW)
        feeder = threading.Thread(target=stream.feed, args=(_Map(func, pool.mapstar), source), name="manycore-feeder")
        feeder.daemon = True
        feeder.start()
        return _Results(stream)

    def close(self) -> None:
        """Accept no more jobs. The threads end when those accepted are done."""
        if self._is_hooked:
            super().close()
        elif self._state == pool.RUN:
            self._state = pool.CLOSE
            # A program that puts tasks of its own into the pool closes it when there are no more.
            vars(self).get("_taskqueue", self._work).close()

    def terminate(self) -> None:
        """Start no more tasks. Open results fail with ProcessError."""
        self._state = pool.TERMINATE
        self._terminate()

    def join(self) -> None:
        """Wait until every thread has ended. ValueError while the pool still runs."""
        if self._is_hooked:
            return super().join()
        if self._state == pool.RUN:
            raise ValueError("Pool is still running")
        if self._state not in (pool.CLOSE, pool.TERMINATE):
            raise ValueError("In unknown state")
        for thread in self._pool:
            thread.join()


ThreadPool.__module__ = pool.__name__
_pool_parts.install(ThreadPool)
