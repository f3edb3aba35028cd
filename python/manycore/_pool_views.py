"""What programs find in an ordinary pool when they reach for the parts of the standard package's pool.

An ordinary pool has no queues in Python and no table of open jobs. Whoever reads them gets stand-ins: the table counts
what the engine has to answer, and a task that is put into the queue goes to the engine, whose answer is given to the
result that waits for it. So recipes that put tasks of their own into a pool need no other pool.
"""

from __future__ import annotations

import threading
import time
import weakref

from . import _engine, _pool_results, context, pool, util
from .context import ProcessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

# Seconds for a thread to end.
PATIENCE = 1.0

TERMINATED = "the pool was terminated before its task was answered"

__all__ = ["Routed", "attribute", "find", "map_by"]


def find(name: str, owner: Any) -> Any:
    """Return the stand-in `name` of the pool `owner`, made when it is first asked for."""
    kept = vars(owner)
    if "_work" in kept or hasattr(kept.get("_crew"), "core"):
        make = _MAKERS.get(name)
    else:
        make = None if "_crew" in kept else _MADE_BY_SUBCLASS.get(name)
    if make is None:
        raise AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}")
    # From now on it is found in the pool itself.
    return kept.setdefault(name, make(owner))


class _ThreadCore:
    """What this module asks of the engine, of a pool of threads."""

    def __init__(self, work: Any) -> None:
        self._work = work
        self.close = work.close

    def open_work(self) -> tuple[int, int]:
        """As the engine's."""
        return len(self._work.open), self._work.tasks.qsize()

    def apply_async(
        self,
        owner: Any,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        callback: Callable[[Any], object],
        error_callback: Callable[[BaseException], object],
    ) -> None:
        """Start a call."""
        from ._thread_calls import Call
        from ._thread_results import Result

        result = Result(self, [None], 1, None, callback, error_callback)
        self._work.tasks.put((result, 0, Call(function, kwargs), args))


def _core_of(owner: Any) -> Any:
    return _ThreadCore(owner._work) if "_work" in vars(owner) else owner._crew.core


def _open_work(core: Any) -> tuple[int, int]:
    """Return how many jobs are not answered, and how many tasks no worker has begun."""
    return core.open_work() if isinstance(core, _ThreadCore) else _engine.open_work(core)


class Routed:
    """The engine's half of a pool whose class has its own `apply_async` or `_map_async`: `apply` and `map` use them."""

    def __init__(self, core: Any, owner: Any) -> None:
        self.core = core
        self.owner: Callable[[], Any] = weakref.ref(owner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)

    def apply(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        """Return the value of a call."""
        return self.owner().apply_async(function, args, kwargs or {}).get()

    def map(
        self,
        function: Callable[..., Any],
        items: Iterable[Any],
        starred: bool,
        workers: int,
        chunksize: int | None = None,
    ) -> Any:
        """Return the values of a map."""
        return self.owner()._map_async(function, items, pool.starmapstar if starred else pool.mapstar, chunksize).get()


def map_by(
    owner: Any,
    mapper: Callable[..., Any],
    function: Callable[..., Any],
    items: Any,
    chunksize: int | None,
    callback: Callable[[list[Any]], object] | None,
    error_callback: Callable[[BaseException], object] | None,
) -> Any:
    """Start a map whose chunks are run by `mapper((function, items))`; return its result."""
    length = len(items)
    if chunksize is None:
        chunksize = max(1, -(-length // (4 * max(1, len(owner._pool)))))
    kind: Any = pool.MapResult
    result = kind(owner, chunksize if length else 0, length, callback, error_callback)
    if length:
        chunks = owner._get_tasks(function, items, chunksize)
        owner._taskqueue.put((owner._guarded_task_generation(result._job, mapper, chunks), None))
    return result


# ----------------------------------------------------------------------------------------------------------------------
# The parts of an ordinary pool


class _Cache(_pool_results.Cache):
    """The results that a program has made by hand, by their jobs. Its length counts the engine's, too."""

    def __init__(self, owner: Any) -> None:
        super().__init__()
        self._core = _core_of(owner)
        # Calls of the engine that are tasks of these results.
        self.fed = 0

    def __len__(self) -> int:
        return super().__len__() + max(0, _open_work(self._core)[0] - self.fed)

    def __bool__(self) -> bool:
        return len(self) > 0


class _TaskQueue:
    """The queue of sequences of tasks: one that is put goes to the engine, task by task, by a thread of its own."""

    def __init__(self, owner: Any) -> None:
        from queue import SimpleQueue

        self._core = _core_of(owner)
        self._cache = owner._cache
        self._sequences: Any = SimpleQueue()
        # How many tasks may be with the engine at once.
        self._room = threading.Semaphore(pool.WINDOW)
        self._lock = threading.Lock()
        self._unread = 0
        self._closed = self._stopped = False
        self._thread: threading.Thread | None = None
        self._keep = None if "_work" in vars(owner) else weakref.WeakMethod(owner._keep)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put a pair: a sequence of tasks, and None or a function that is called with the number of the tasks."""
        if item is None:
            return
        with self._lock:
            if self._closed:
                raise ValueError("Pool not running")
            self._unread += 1
            if self._thread is None:
                keep = None if self._keep is None else self._keep()
                if keep is not None:
                    # Somebody must take the answers.
                    keep()
                self._thread = threading.Thread(target=self._feed, name="manycore-tasks", daemon=True)
                self._thread.start()
        self._sequences.put(item)

    def qsize(self) -> int:
        """Return how many tasks, or sequences of them, no worker has begun."""
        return self._unread + _open_work(self._core)[1]

    def empty(self) -> bool:
        """Return whether there is none of them."""
        return self.qsize() == 0

    def close(self) -> None:
        """Accept no more sequences, and close the engine's half when it has all tasks of those there are."""
        with self._lock:
            closed, self._closed = self._closed, True
            if self._thread is None:
                self._core.close()
            elif not closed:
                self._sequences.put(None)

    def join(self) -> None:
        """Wait until the engine has all tasks. After `close`."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def stop(self) -> None:
        """Let the thread end, of a pool that ends, and fail what is open."""
        with self._lock:
            self._closed = self._stopped = True
            self._sequences.put(None)
            self._room.release()
        if self._thread is not None and self._thread is not threading.current_thread():
            # Not for ever: a program's input may block it.
            self._thread.join(PATIENCE)
        self._fail_all(ProcessError(TERMINATED))

    # --- the thread

    def _feed(self) -> None:
        try:
            while (item := self._sequences.get()) is not None:
                tasks, set_length = item
                task = None
                for task in tasks:
                    self._submit(*task)
                if set_length:
                    set_length(task[1] + 1 if task else 0)
                with self._lock:
                    self._unread -= 1
                item = tasks = task = set_length = None
            self._core.close()
        except BaseException as error:
            # The pool was terminated, or a sequence is none.
            with self._lock:
                self._closed = True
            self._fail_all(error)

    def _fail_all(self, reason: BaseException) -> None:
        for result in list(self._cache.values()):
            result._fail(reason)

    def _submit(self, job: int, place: int, function: Callable[..., Any], args: Any, kwds: Any) -> None:
        self._room.acquire()
        with self._lock:
            if self._stopped:
                raise ProcessError(TERMINATED)
            self._cache.fed += 1
        self._core.apply_async(
            None,
            function,
            tuple(args),
            dict(kwds),
            lambda value: self._answer(job, place, True, value),
            lambda error: self._answer(job, place, False, error),
        )

    def _answer(self, job: int, place: int, success: bool, value: Any) -> None:
        with self._lock:
            self._cache.fed -= 1
        self._room.release()
        result = self._cache.get(job)
        if result is not None:
            result._set(place, (success, value))


class _FedCore:
    """The engine's half of a pool into whose queue a program puts tasks: it is closed when it has them all."""

    def __init__(self, core: Any, tasks: _TaskQueue) -> None:
        self._core, self._tasks = core, tasks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def close(self) -> None:
        """Accept no more tasks."""
        self._tasks.close()

    def drain(self) -> None:
        """Wait until every task is answered."""
        self._tasks.join()
        self._core.drain()


class _Queue:
    """A queue between the pool and its workers, for who looks whether something waits there, or puts a task."""

    def __init__(self, owner: Any, is_of_tasks: bool) -> None:
        self._core = _core_of(owner)
        self._tasks = owner._taskqueue if is_of_tasks else None
        self._reader = self

    def qsize(self) -> int:
        """Return how many tasks no worker has begun; answers do not wait."""
        return 0 if self._tasks is None else _open_work(self._core)[1]

    def empty(self) -> bool:
        """Return whether nothing waits."""
        return self.qsize() == 0

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Return whether something waits; it is not waited for."""
        return self.qsize() > 0

    def put(self, task: tuple[Any, ...]) -> None:
        """Put one task."""
        if self._tasks is None or task is None:
            raise ValueError("an ordinary pool takes answers from its workers alone")
        self._tasks.put(([task], None))

    def __reduce__(self) -> Any:
        raise TypeError(
            "the queues of an ordinary pool are not for other processes: give it a `_setup_queues` of your own"
        )


def _make_taskqueue(owner: Any) -> _TaskQueue:
    tasks = _TaskQueue(owner)
    if "_work" not in vars(owner):
        owner._core = _FedCore(owner._core, tasks)
    # The thread ends with the pool: when that is terminated, collected, or the interpreter exits. It ends before
    # the engine: what it gave to an engine that has ended would be answered by nobody.
    terminate, stop = owner._terminate, util.Finalize(owner, tasks.stop, exitpriority=16)
    owner._terminate = lambda: (stop(), terminate())
    return tasks


def _make_core(owner: Any) -> Any:
    from ._hooked_pool import Core

    return Core(owner)


def _make_crew(owner: Any) -> Any:
    from ._hooked_pool import Crew

    return Crew(owner)


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "_cache": _Cache,
    # A pool of processes has its own; a pool of threads needs none, and must not settle the default start method.
    "_ctx": lambda owner: context._default_context.get_context(),
    "_taskqueue": _make_taskqueue,
    "_inqueue": lambda owner: _Queue(owner, True),
    "_outqueue": lambda owner: _Queue(owner, False),
    "_quick_put": lambda owner: owner._inqueue.put,
}

# For a pool whose class has an `__init__` that does everything itself, with the parts of the standard package's.
_MADE_BY_SUBCLASS: dict[str, Callable[[Any], Any]] = {"_core": _make_core, "_crew": _make_crew}


# ----------------------------------------------------------------------------------------------------------------------
# The results of an ordinary pool


class _Settled:
    """The event of a result that is there."""

    def __init__(self, result: Any) -> None:
        self.is_set = result.ready
        self._wait = result.wait

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the result is there."""
        self._wait(timeout)
        return self.is_set()


def attribute(result: Any, name: str) -> Any:
    """Return what the standard package's result has under `name`. AttributeError if ours has nothing like it."""
    if name == "_job":
        return id(result)
    if name == "_event":
        return _Settled(result)
    if name == "_success":
        return not result.ready() or result.successful()
    if name == "_value" and result.ready() and result.successful():
        return result.get()
    if name in ("_number_left", "_chunksize"):
        # It takes in what has come.
        result.ready()
        while (left := _engine.items_left(result)) is None:
            # Another thread has it in hand.
            time.sleep(0)
        if left >= 0:
            # In items: chunks are not all of one size.
            return left if name == "_number_left" else 1
        if name == "_chunksize":
            return None
    raise AttributeError(f"{type(result).__name__!r} object has no attribute {name!r}")
