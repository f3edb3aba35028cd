"""A pool of worker processes: the standard `multiprocessing.pool.Pool` on shared memory.

The work is done by `_engine`: this module starts and replaces processes and keeps the standard package's names. No
thread stands between a caller and the workers; a pool starts one, its keeper, when there is something nobody waits for.
"""

from __future__ import annotations

import os
import warnings
from itertools import islice

from . import _engine, _options, _pool_parts, _worker, util
from ._crew import Crew
from ._postpone import Postponed
from ._remote import MaybeEncodingError, RemoteTraceback
from ._remote import TimeoutError as TimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, Unpack

    from ._threads import ThreadPool
    from .context import BaseContext
    from .process import BaseProcess

__all__ = ["Pool", "ThreadPool"]

# States of a pool, the standard package's.
INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"

# Chunks of a lazy map in flight or waiting to be taken, unless the caller says otherwise: enough that workers do not
# run dry with the smallest tasks, few enough that an endless input costs little.
WINDOW = 1024

if TYPE_CHECKING:
    ApplyResult = _engine.ApplyResult
    AsyncResult = ApplyResult
    MapResult = ApplyResult
    IMapIterator = _engine.IMapIterator
    IMapUnorderedIterator = IMapIterator

HOOKED = "a pool of which the program has replaced a part has the standard package's options and no others"

# Inputs that a caller may pull itself while it waits for results: to ask them for an item cannot block.
_IMMEDIATE = (list, tuple, range, str, bytes, bytearray, dict, set, frozenset)

__all__ += ["ApplyResult", "AsyncResult", "IMapIterator", "MapResult", "MaybeEncodingError", "RemoteTraceback"]


def mapstar(args: tuple[Callable[..., Any], Iterable[Any]]) -> list[Any]:
    """Run one chunk of a map: a function and the items to call it with."""
    return list(map(*args))


def starmapstar(args: tuple[Callable[..., Any], Iterable[Iterable[Any]]]) -> list[Any]:
    """Run one chunk of a starmap: a function and the tuples of arguments to call it with."""
    function, items = args
    return [function(*item) for item in items]


class Pool:
    """A pool of worker processes to which jobs can be given.

    `processes` is the number of workers (default: the processors this process may use); each calls
    `initializer(*initargs)` when it starts, and is replaced after `maxtasksperchild` tasks (default: never). `context`
    says how they are started.

    Beyond the standard package: `task_timeout` is the time in seconds that each call may take, also each call of a map;
    one that takes longer fails with `TaskTimeout` and its worker is replaced. A worker can have `memory_limit` bytes of
    its own at most: what asks for more gets MemoryError. A worker with more than `max_worker_rss` bytes of memory after
    a task is replaced. `finalizer()` is called in a worker that ends normally.
    """

    # Whether exceptions of tasks take their tracebacks along; asked by workers of a hooked pool alone.
    _wrap_exception = True
    _of_threads = False
    _pool: Any = _pool_parts.Workers()
    # What jobs want that are told nothing.
    _options: _engine.JobOptions | None = None
    _task_timeout: float | None = None

    @staticmethod
    def Process(ctx: BaseContext, *args: Any, **kwds: Any) -> BaseProcess:
        """Return an unstarted worker process; a subclass may return another kind."""
        return ctx.Process(*args, **kwds)

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
        *,
        task_timeout: float | None = None,
        memory_limit: int | None = None,
        max_worker_rss: int | None = None,
        finalizer: Callable[..., object] | None = None,
    ) -> None:
        self._state = INIT
        # What makes a call at once, where nothing else has to be looked at: in a pool that runs and has no options.
        self._direct_apply: Callable[..., Any] | None = None
        if context is None:
            from .context import _default_context

            context = _default_context.get_context()
        self._ctx = context
        if processes is None:
            processes = context.usable_cpu_count()
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._processes = processes
        self._initializer = initializer
        self._initargs = initargs
        self._maxtasksperchild = maxtasksperchild
        self._task_timeout = _options.seconds("task_timeout", task_timeout)
        self._options = None if task_timeout is None else _options.of_job({}, "Pool", self._task_timeout)
        rules = _worker.Rules(
            initializer,
            initargs,
            maxtasksperchild,
            _options.callable_or_none("finalizer", finalizer),
            _options.size("memory_limit", memory_limit),
            _options.size("max_worker_rss", max_worker_rss),
        )
        if _pool_parts.is_hooked(type(self)) or _pool_parts.has_own_way(self._ctx):
            from ._hooked_pool import set_up

            if not (task_timeout is memory_limit is max_worker_rss is finalizer is None):
                raise TypeError(HOOKED)
            return set_up(self)
        make, ctx = self.Process, context
        self._crew = Crew(lambda *args, **kwds: make(ctx, *args, **kwds), processes, rules)
        self._core: Any = self._crew.core
        if (type(self).apply_async, type(self)._map_async) != _ASYNC:
            from ._pool_views import Routed

            self._core = Routed(self._core, self)
        # Before there is a worker: whatever ends this, no worker is nobody's.
        self._terminate = util.Finalize(self, self._crew.terminate, exitpriority=15)
        try:
            for _ in range(processes):
                self._crew.hire()
            self._state = RUN
            if self._options is None:
                self._direct_apply = self._core.apply
        except BaseException:
            self._terminate()
            raise

    def _repopulate_pool(self) -> None:
        """Start workers until there are `_processes`, as applications that reach for it expect."""
        self._core.watch()
        self._crew.refill()

    # Bound here: at the end of the interpreter the module's names may be gone.
    def __del__(self, _warn: Any = warnings.warn, _running: str = RUN, _getpid: Any = os.getpid) -> None:
        if getattr(self, "_state", None) == _running and self._crew.owner == _getpid():
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __repr__(self) -> str:
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={len(self._pool)}>"

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        self.terminate()

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    def _keep(self) -> None:
        """Start the keeper, if there is none: somebody may stop waiting before everything is done."""
        crew = self._crew
        # In a forked child the job is refused.
        if crew.keeper is not None or crew.owner != os.getpid():
            return
        # In this order: from CPython 3.14 on, an interrupt may come between a lock's acquisition and the block that
        # releases the lock.
        with Postponed(), crew.keeper_lock:
            if crew.keeper is None:
                crew.keeper = _start_thread("manycore-keeper", self._core.keep)

    # ------------------------------------------------------------------------------------------------------------------
    # Jobs

    def _wishes(self, options: _options.JobOptions, verb: str) -> _engine.JobOptions | None:
        if not options:
            return self._options
        if not isinstance(self._crew, Crew):
            raise TypeError(HOOKED)
        return _options.of_job(options, verb, self._task_timeout)

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        **options: Unpack[_options.JobOptions],
    ) -> Any:
        """Return `func(*args, **kwds)`, run in a worker; raises what it raises.

        Every verb takes these options: `task_timeout`, the seconds that each call may take (default: the pool's);
        `retries`, how often a call is run again whose worker was lost, or that raised one of `retry_on`; `priority`,
        higher first; and `return_exceptions=True`, by which what a call raises becomes its result.
        """
        try:
            call = self._direct_apply
        except AttributeError:
            # A subclass that sets itself up has none.
            call = None
        if options or call is None:
            return self._apply(func, args, kwds, options)
        return call(func, args if type(args) is tuple else tuple(args), dict(kwds) if kwds else None)

    def _apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any],
        kwds: Mapping[str, Any] | None,
        options: _options.JobOptions,
    ) -> Any:
        self._check_running()
        if options or self._options is not None:
            # Not a subclass's, which may not know the options.
            return Pool.apply_async(self, func, args, kwds, **options).get()
        return self._core.apply(func, tuple(args), dict(kwds) if kwds else None)

    def map(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        **options: Unpack[_options.JobOptions],
    ) -> list[Any]:
        """Return `[func(x) for x in iterable]`, run in the workers.

        `chunksize` items make one task; without it, tasks are sized by what they turn out to cost. When a call raises,
        its exception is raised here after every task has been answered. If a worker dies, exactly the item that it was
        running fails. Options as in `apply`.
        """
        self._check_running()
        if options or self._options is not None:
            return Pool.map_async(self, func, iterable, chunksize, **options).get()
        return self._core.map(func, _listed(iterable), False, self._processes, _checked(chunksize))

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        **options: Unpack[_options.JobOptions],
    ) -> list:
        """Return `[func(*x) for x in iterable]`; otherwise as `map`."""
        self._check_running()
        if options or self._options is not None:
            return Pool.starmap_async(self, func, iterable, chunksize, **options).get()
        return self._core.map(func, _listed(iterable), True, self._processes, _checked(chunksize))

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[_options.JobOptions],
    ) -> ApplyResult:
        """Start `func(*args, **kwds)` in a worker and return its result's handle.

        A callback is called by the pool's own thread, with the value or the exception, before the handle is ready.
        Options as in `apply`. The handle can be awaited, and cancelled.
        """
        if self._state != RUN:
            raise ValueError("Pool not running")
        wishes = self._wishes(options, "apply_async") if options else self._options
        if self._crew.keeper is None:
            self._keep()
        if type(args) is not tuple:
            args = tuple(args)
        return self._core.apply_async(self, func, args, dict(kwds) if kwds else None, callback, error_callback, wishes)

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[_options.JobOptions],
    ) -> ApplyResult:
        """Start `map` and return its result's handle; callbacks and options as in `apply_async`."""
        if options or self._options is not None:
            # Not a subclass's, which may not know the options.
            wishes = self._wishes(options, "map_async")
            return Pool._map_async(self, func, iterable, mapstar, chunksize, callback, error_callback, wishes)
        return self._map_async(func, iterable, mapstar, chunksize, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[_options.JobOptions],
    ) -> ApplyResult:
        """Start `starmap` and return its result's handle; callbacks and options as in `apply_async`."""
        if options or self._options is not None:
            wishes = self._wishes(options, "starmap_async")
            return Pool._map_async(self, func, iterable, starmapstar, chunksize, callback, error_callback, wishes)
        return self._map_async(func, iterable, starmapstar, chunksize, callback, error_callback)

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        mapper: Callable[..., Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        wishes: _engine.JobOptions | None = None,
    ) -> ApplyResult:
        self._check_running()
        self._keep()
        # A copy: the caller may change its list while chunks are still being cut from it.
        items = iterable if type(iterable) is range else tuple(iterable)
        workers, size = self._processes, _checked(chunksize)
        if mapper not in (mapstar, starmapstar):
            from ._pool_views import map_by

            return map_by(self, mapper, func, items, size, callback, error_callback)
        starred = mapper is starmapstar
        return self._core.map_async(self, func, items, starred, workers, size, callback, error_callback, wishes)

    def imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        **options: Unpack[_options.JobOptions],
    ) -> IMapIterator:
        """Return an iterator over `func(x) for x in iterable`, in order.

        Input is consumed as results are taken: at most `buffersize` tasks of `chunksize` items (default: 1024) are in
        flight or wait to be taken. `next(timeout)` raises TimeoutError when the result is not there in time. Options as
        in `apply`; `async for` takes the results in an event loop.
        """
        return self._imap(func, iterable, True, chunksize, buffersize, self._wishes(options, "imap"))

    def imap_unordered(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        **options: Unpack[_options.JobOptions],
    ) -> IMapIterator:
        """Return an iterator over the results in the order they arrive; otherwise as `imap`."""
        return self._imap(func, iterable, False, chunksize, buffersize, self._wishes(options, "imap_unordered"))

    def _imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        ordered: bool,
        chunksize: int,
        buffersize: int | None,
        wishes: _engine.JobOptions | None = None,
    ) -> IMapIterator:
        self._check_running()
        _check_imap(chunksize, buffersize)
        self._keep()
        threaded = type(iterable) not in _IMMEDIATE
        source = iter(iterable)
        results = self._core.imap(self, func, source, ordered, chunksize, buffersize or WINDOW, threaded, wishes)
        if threaded and type(results) is _engine.IMapIterator:
            feeder = _engine.Feeder(results)
            _start_thread("manycore-feeder", _feed, feeder, source)
        return results

    def statistics(self) -> dict[str, float]:
        """Return what the pool has done so far: tasks and workers by what became of them, and seconds of work.

        A task is one call, or the chunk of calls that a map sends at once.
        """
        crew = self._crew
        return {"workers": len(crew.processes), "workers_started": crew.started, **self._core.statistics()}

    # ------------------------------------------------------------------------------------------------------------------
    # The end

    def close(self) -> None:
        """Accept no more jobs. Workers end when those accepted are done."""
        if self._state == RUN:
            self._state = CLOSE
            self._direct_apply = None
            self._crew.hiring = False
            self._core.close()

    def terminate(self) -> None:
        """End the workers at once. Open results fail with ProcessError."""
        self._state = TERMINATE
        self._direct_apply = None
        self._terminate()

    def join(self) -> None:
        """Wait until every job is done and every worker has ended. ValueError while the pool still runs."""
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        if self._state == CLOSE:
            self._core.drain()
            self._crew.join()
        self._crew.dismiss_keeper()


_pool_parts.install(Pool)
_ASYNC = Pool.apply_async, Pool._map_async


def _start_thread(name: str, target: Callable[..., object], *args: Any) -> threading.Thread:
    import threading

    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    return thread


def _feed(feeder: _engine.Feeder, source: Iterator[Any]) -> None:
    """The body of a thread that pulls an input which may block."""
    failure = None
    try:
        while chunk := list(islice(source, feeder.chunksize)):
            if not feeder.offer(chunk):
                return
    except BaseException as error:
        # Raised where the results are taken, after those of the items before it.
        failure = error
    feeder.end(failure)


def _listed(iterable: Iterable[Any]) -> list[Any] | tuple[Any, ...] | range:
    # A range stays one: its items are made as chunks are cut.
    return iterable if type(iterable) in (list, tuple, range) else list(iterable)  # type: ignore[return-value]


def _checked(chunksize: int | None) -> int | None:
    if chunksize is not None and chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
    return chunksize


def _check_imap(chunksize: int, buffersize: int | None) -> None:
    if chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
    if buffersize is not None:
        if not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize < 1:
            raise ValueError("buffersize must be None or > 0")


def __getattr__(name: str) -> Any:
    # A pool of processes needs nothing of the pool of threads.
    if name == "ThreadPool":
        from ._threads import ThreadPool

        return ThreadPool
    # And the results of an ordinary pool are made by the engine.
    if name in ("ApplyResult", "AsyncResult", "MapResult", "IMapIterator", "IMapUnorderedIterator"):
        from . import _pool_results

        return getattr(_pool_results, name)
    if name == "__path__":  # every `from ... import ...` asks
        raise AttributeError(name)

    from ._names import find

    return find(__name__, name)
