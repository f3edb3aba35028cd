"""A pool of threads with the interface of `Pool`: `ThreadPool`, which `pool` hands on.

Nothing of the engine is needed: tasks go through a queue to the threads, and the thread that finishes the last task of
a job answers it. A lazy map has a thread of its own that pulls the input, so that an input which blocks stops nobody.
"""

from __future__ import annotations

import operator
import threading
from queue import Empty, SimpleQueue

from . import _forks, _pool_parts, context, pool, util
from ._thread_calls import Call as _Call
from ._thread_calls import Map as _Map
from ._thread_calls import lost
from ._thread_results import Result, Results, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Unpack

    from ._options import JobOptions

__all__ = ["ThreadPool"]


class Work:
    """What the threads of one pool share. It does not know the pool, so that an unused pool can be collected."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.tasks: SimpleQueue[Any] = SimpleQueue()
        # To be taken again by the thread that has it: a collection in the midst may end the pool.
        self.lock = threading.RLock()
        # Jobs that are not answered yet.
        self.open: set[Result | Stream] = set()
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
        _forks.renew(self, Work.forget_in_child)

    def forget_in_child(self) -> None:
        """Be the copy in a forked child, which has none of the threads: what they had to answer fails."""
        self.lock, self.putting, self.callbacks = threading.RLock(), threading.Lock(), threading.RLock()
        self.forked = self.closing = self.stopped = True
        reason = ValueError("Pool not running: it belongs to the process this one was forked from")
        for job in self.open:
            job.forget_in_child(reason)
        self.open = set()

    def accept(self, job: Result | Stream) -> None:
        with self.lock:
            if self.closing:
                raise ValueError("Pool not running")
            self.open.add(job)
            broken = self.broken
        if broken is not None:
            job.abort(broken)

    def answered(self, job: Result | Stream) -> None:
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
            streams = [job for job in self.open if isinstance(job, Stream)]
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
        self._initializer, self._initargs, self._maxtasksperchild = initializer, initargs, None
        if _pool_parts.is_hooked(type(self)):
            from ._hooked_pool import set_up

            self._is_hooked = True
            self._ctx = context._default_context.get_context()
            return set_up(self)
        self._work = Work(processes)
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
        result = Result(self, [None], 1, None, callback, error_callback)
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
        result = Result(self, values, tasks, size, *called)
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
        stream = Stream(self, ordered, chunksize, buffersize or pool.WINDOW)
        feeder = threading.Thread(target=stream.feed, args=(_Map(func, pool.mapstar), source), name="manycore-feeder")
        feeder.daemon = True
        feeder.start()
        return Results(stream, self)

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
