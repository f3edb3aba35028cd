"""A pool of worker processes: the standard `multiprocessing.pool.Pool` on shared memory.

The work is done by `_engine`: this module starts and replaces processes and keeps the standard package's names. No
thread stands between a caller and the workers; a pool starts one, its keeper, when there is something nobody waits for.
"""

from __future__ import annotations

import _thread
import os
import time
import warnings
import weakref
from itertools import islice

from . import _engine, _worker, util
from ._postpone import Postponed
from ._remote import MaybeEncodingError, RemoteTraceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

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

# Seconds a terminated worker has before it is killed: it may ignore SIGTERM, and nobody may hang for that.
PATIENCE = 1.0

ApplyResult = _engine.ApplyResult
AsyncResult = ApplyResult
MapResult = ApplyResult
IMapIterator = _engine.IMapIterator
IMapUnorderedIterator = IMapIterator

# Inputs that a caller may pull itself while it waits for results: to ask them for an item cannot block.
_IMMEDIATE = (list, tuple, range, str, bytes, bytearray, dict, set, frozenset)

__all__ += ["ApplyResult", "AsyncResult", "IMapIterator", "MapResult", "MaybeEncodingError", "RemoteTraceback"]


# Pools of this process whose results may be views of shared memory.
_cores: weakref.WeakSet[_engine.Core] = weakref.WeakSet()


def _before_fork() -> None:
    """Make received arrays this process's own, so that a forked child gets copies and not the same memory."""
    for core in list(_cores):
        core.before_fork()


os.register_at_fork(before=_before_fork)


class _Crew:
    """The worker processes of one pool, apart from it so that an unused pool can be collected."""

    def __init__(
        self,
        make_process: Callable[..., BaseProcess],
        size: int,
        initializer: Callable[..., object] | None,
        initargs: Iterable[Any],
        maxtasksperchild: int | None,
    ) -> None:
        # A third of what the package would take to import. But not later than here: the interpreter takes the first
        # thread that imports it for the main one, and that makes the pools as a rule.
        import threading

        self.make_process = make_process
        self.size = size
        self.arguments = (initializer, initargs, maxtasksperchild)
        self.processes: list[BaseProcess] = []
        self.by_seat: dict[int, BaseProcess] = {}
        self.keeper: threading.Thread | None = None
        self.keeper_lock = threading.Lock()
        # Held while workers are started; again by the same thread, when a collection ends another pool's life in it.
        self.roster = threading.RLock()
        self.hiring = True
        self.owner = os.getpid()
        # The engine keeps the callback, and must not keep the crew that keeps the engine.
        this = weakref.ref(self)

        def on_exit(seat: int) -> None:
            crew = this()
            if crew is not None:
                crew.on_exit(seat)

        self.core = _engine.Core(size, on_exit)
        _cores.add(self.core)

    def hire(self) -> None:
        """Start a worker in an empty seat."""
        # Ctrl-C reaches a worker only when it is ready for it: interrupted in its start, each would print a traceback.
        # And it comes through here only when the worker is known to us.
        with Postponed() as postponed:
            seat = self.core.take_seat()
            process = None
            try:
                place = _worker.Seat(self.core, seat, postponed.was_blocked)
                process = self.make_process(target=_worker.main, args=(place, *self.arguments))
                process.name = process.name.replace("Process", "PoolWorker")
                process.daemon = True
                # A pool's worker may have pools of its own; their lifelines end with it.
                # A stand-in that a subclass gives may not have the attribute.
                getattr(process, "_config", {})["pool_worker"] = True
                process.start()
                self.by_seat[seat] = process
                self.processes.append(process)
                assert process.pid is not None
                self.core.enlist(seat, process.pid, process.sentinel)
            except BaseException:
                self.by_seat.pop(seat, None)
                if getattr(process, "_popen", None) is not None:
                    process.kill()  # type: ignore[union-attr]
                    process.join()  # type: ignore[union-attr]
                if process in self.processes:
                    self.processes.remove(process)
                self.core.leave_seat(seat)
                raise

    def on_exit(self, seat: int) -> None:
        """Bury the worker of `seat`, which has ended, and start another where there is work for it."""
        # Ctrl-C may end this anywhere; it is then called again for the same seat, so what marks it as done comes last,
        # and another worker may sit there by then.
        process = self.by_seat.get(seat)
        exitcode = None
        if process is not None:
            process.join(0)
            exitcode = process.exitcode
            if exitcode is None:
                return
            # A stand-in that a subclass gives may not have the attribute.
            if getattr(getattr(process, "_popen", None), "status_lost", False):
                exitcode = None
        go_on = self.core.bury(seat, exitcode)
        self.by_seat.pop(seat, None)
        self.processes[:] = [process for process in self.processes if process in self.by_seat.values()]
        if go_on:
            self.refill()

    def refill(self) -> None:
        """Start workers for empty seats where there is work for them."""
        # Two threads may see deaths at once, and a worker that is being started sits in no seat yet.
        with self.roster:
            while len(self.by_seat) < self.size and (self.hiring or self.core.has_waiting):
                try:
                    self.hire()
                except OSError:
                    # With fewer workers the rest is done all the same, and the next one that ends is another chance;
                    # with none it never would be.
                    if not self.processes:
                        self.core.terminate()
                        raise
                    return

    def terminate(self) -> None:
        """Answer what is open, and end every worker; one that ignores SIGTERM is killed after `PATIENCE` seconds."""
        if self.owner != os.getpid():
            return
        with self.roster:
            self.hiring = False
            self.core.terminate()
        for process in list(self.processes):
            process.terminate()
        deadline = time.monotonic() + PATIENCE
        for process in list(self.processes):
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
        self.join()
        self.dismiss_keeper()

    def dismiss_keeper(self) -> None:
        """End the keeper and wait for it: no thread of ours may be left when the interpreter goes."""
        self.core.stop()
        keeper = self.keeper
        if keeper is not None and keeper.ident != _thread.get_ident():
            keeper.join()

    def join(self) -> None:
        """Wait for every worker to end."""
        for process in list(self.processes):
            process.join()
        self.core.watch()
        if not self.processes:
            self.core.retire()


class Pool:
    """A pool of worker processes to which jobs can be given.

    `processes` is the number of workers (default: the processors this process may use); each calls
    `initializer(*initargs)` when it starts, and is replaced after `maxtasksperchild` tasks (default: never). `context`
    says how they are started.
    """

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
    ) -> None:
        self._state = INIT
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
        make, ctx = self.Process, context
        self._crew = _Crew(
            lambda *args, **kwds: make(ctx, *args, **kwds), processes, initializer, initargs, maxtasksperchild
        )
        self._core = self._crew.core
        # Before there is a worker: whatever ends this, no worker is nobody's.
        self._terminate = util.Finalize(self, self._crew.terminate, exitpriority=15)
        try:
            for _ in range(processes):
                self._crew.hire()
            self._state = RUN
        except BaseException:
            self._terminate()
            raise

    @property
    def _pool(self) -> list[BaseProcess]:
        """The worker processes, as applications that reach for them expect; one that has ended is replaced first."""
        if self._crew.owner == os.getpid():
            self._core.watch()
        return self._crew.processes

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
        if crew.keeper is not None:
            return
        with crew.keeper_lock, Postponed():
            if crew.keeper is None:
                crew.keeper = _start_thread("manycore-keeper", self._core.keep)

    # ------------------------------------------------------------------------------------------------------------------
    # Jobs

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Mapping[str, Any] | None = None) -> Any:
        """Return `func(*args, **kwds)`, run in a worker; raises what it raises."""
        if self._state != RUN:
            raise ValueError("Pool not running")
        return self._core.apply(func, args if type(args) is tuple else tuple(args), dict(kwds) if kwds else None)

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """Return `[func(x) for x in iterable]`, run in the workers.

        `chunksize` items make one task; without it, tasks are sized by what they turn out to cost. When a call raises,
        its exception is raised here after every task has been answered.
        """
        self._check_running()
        return self._core.map(func, _listed(iterable), False, self._processes, _checked(chunksize))

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list:
        """Return `[func(*x) for x in iterable]`; otherwise as `map`."""
        self._check_running()
        return self._core.map(func, _listed(iterable), True, self._processes, _checked(chunksize))

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> ApplyResult:
        """Start `func(*args, **kwds)` in a worker and return its result's handle.

        A callback is called by the pool's own thread, with the value or the exception, before the handle is ready.
        """
        if self._state != RUN:
            raise ValueError("Pool not running")
        if self._crew.keeper is None:
            self._keep()
        if type(args) is not tuple:
            args = tuple(args)
        return self._core.apply_async(self, func, args, dict(kwds) if kwds else None, callback, error_callback)

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> ApplyResult:
        """Start `map` and return its result's handle; callbacks as in `apply_async`."""
        return self._map_async(func, iterable, False, chunksize, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> ApplyResult:
        """Start `starmap` and return its result's handle; callbacks as in `apply_async`."""
        return self._map_async(func, iterable, True, chunksize, callback, error_callback)

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        starred: bool,
        chunksize: int | None,
        callback: Callable[[list[Any]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> ApplyResult:
        self._check_running()
        self._keep()
        # A copy: the caller may change its list while chunks are still being cut from it.
        items = iterable if type(iterable) is range else tuple(iterable)
        workers, size = self._processes, _checked(chunksize)
        return self._core.map_async(self, func, items, starred, workers, size, callback, error_callback)

    def imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
    ) -> IMapIterator:
        """Return an iterator over `func(x) for x in iterable`, in order.

        Input is consumed as results are taken: at most `buffersize` tasks of `chunksize` items (default: 1024) are in
        flight or wait to be taken. `next(timeout)` raises TimeoutError when the result is not there in time.
        """
        return self._imap(func, iterable, True, chunksize, buffersize)

    def imap_unordered(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
    ) -> IMapIterator:
        """Return an iterator over the results in the order they arrive; otherwise as `imap`."""
        return self._imap(func, iterable, False, chunksize, buffersize)

    def _imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        ordered: bool,
        chunksize: int,
        buffersize: int | None,
    ) -> IMapIterator:
        self._check_running()
        _check_imap(chunksize, buffersize)
        self._keep()
        threaded = type(iterable) not in _IMMEDIATE
        source = iter(iterable)
        results = self._core.imap(self, func, source, ordered, chunksize, buffersize or WINDOW, threaded)
        if threaded:
            feeder = _engine.Feeder(results)
            _start_thread("manycore-feeder", _feed, feeder, source)
        return results

    # ------------------------------------------------------------------------------------------------------------------
    # The end

    def close(self) -> None:
        """Accept no more jobs. Workers end when those accepted are done."""
        if self._state == RUN:
            self._state = CLOSE
            self._crew.hiring = False
            self._core.close()

    def terminate(self) -> None:
        """End the workers at once. Open results fail with ProcessError."""
        self._state = TERMINATE
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
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
