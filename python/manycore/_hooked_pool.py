"""A hooked pool: what is in the place of the engine where somebody has replaced a part of the standard package's pool.

The methods of `Pool` find here what they else find in the engine's `Core` and in `Crew`. Tasks and answers go through
queues of Python, see `_pool_hooks` for the callers, and `_pool_notes` for the answers of workers that die.
"""

from __future__ import annotations

import os
import threading
import weakref

from . import _pool_hooks, _pool_views, pool, util
from ._pool_notes import Notes
from ._pool_results import FORKED, Cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from ._pool_results import ApplyResult

__all__ = ["Core", "Crew", "set_up"]


def set_up(self: Any) -> None:
    """Make `self`, whose parameters are known, a hooked pool, as the standard package makes its pools."""
    from queue import SimpleQueue

    self._pool = []
    _pool_hooks.takes_notes(self)
    self._crew = Crew(self)
    self._core = Core(self)
    self._setup_queues()
    self._taskqueue = SimpleQueue()
    self._change_notifier = self._ctx.SimpleQueue()
    self._cache = Cache(notifier=self._change_notifier)
    self._cache.notes = Notes(self._cache)
    self._cache.owner = weakref.ref(self)
    try:
        self._repopulate_pool()
    except BaseException:
        _pool_hooks.end_workers(self._pool)
        raise
    # By the class, not by the pool's own: so does the standard package, whose subclasses have parts with these names
    # that were made for older versions.
    kind: Any = pool.Pool
    self._worker_handler = _start(
        kind._handle_workers,
        self._cache,
        self._taskqueue,
        self._ctx,
        self.Process,
        self._processes,
        self._pool,
        self._inqueue,
        self._outqueue,
        self._initializer,
        self._initargs,
        self._maxtasksperchild,
        self._wrap_exception,
        self._get_sentinels(),
        self._change_notifier,
    )
    self._task_handler = _start(
        kind._handle_tasks, self._taskqueue, self._quick_put, self._outqueue, self._pool, self._cache
    )
    self._result_handler = _start(kind._handle_results, self._outqueue, self._quick_get, self._cache)
    self._terminate = util.Finalize(
        self,
        self._terminate_pool,
        args=(
            self._taskqueue,
            self._inqueue,
            self._outqueue,
            self._pool,
            self._change_notifier,
            self._worker_handler,
            self._task_handler,
            self._result_handler,
            self._cache,
        ),
        exitpriority=15,
    )
    self._state = pool.RUN


def _start(part: Callable[..., None], *args: Any) -> Any:
    thread: Any = threading.Thread(target=part, args=args, name=f"manycore{part.__name__}", daemon=True)
    # The standard package's threads have it, and ask it whether to go on.
    thread._state = pool.RUN
    thread.start()
    return thread


class Core(_pool_views.Routed):
    """What the methods of `Pool` ask of the engine, for a hooked pool, or one that was set up by a subclass alone."""

    def __init__(self, owner: Any) -> None:
        super().__init__(None, owner)

    def apply_async(
        self,
        owner: Any,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        options: None = None,
    ) -> ApplyResult:
        """Start a call."""
        _check_ours(owner)
        # By its name in `pool`, which a program may have replaced.
        kind: Any = pool.ApplyResult
        result = kind(owner, callback, error_callback)
        owner._taskqueue.put(([(result._job, 0, function, args, kwargs or {})], None))
        return result

    def map_async(
        self,
        owner: Any,
        function: Callable[..., Any],
        items: Sequence[Any],
        starred: bool,
        workers: int,
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        options: None = None,
    ) -> ApplyResult:
        """Start a map."""
        _check_ours(owner)
        mapper = pool.starmapstar if starred else pool.mapstar
        return _pool_views.map_by(owner, mapper, function, items, chunksize, callback, error_callback)

    def imap(
        self,
        owner: Any,
        function: Callable[..., Any],
        source: Iterator[Any],
        ordered: bool,
        chunksize: int,
        window: int,
        threaded: bool,
        options: None = None,
    ) -> Any:
        """Start a lazy map. Its input is read as the queue of tasks takes it, unless the program says how far ahead."""
        _check_ours(owner)
        kind: Any = pool.IMapIterator if ordered else pool.IMapUnorderedIterator
        result = kind(owner)
        tasks: Any = source
        if chunksize > 1:
            function, tasks = pool.mapstar, owner._get_tasks(function, source, chunksize)
        if window != pool.WINDOW:
            tasks = _ahead(tasks, result, window)
        owner._taskqueue.put((owner._guarded_task_generation(result._job, function, tasks), result._set_length))
        return result if chunksize == 1 else (item for chunk in result for item in chunk)

    def close(self) -> None:
        """Let the threads end when all is answered."""
        owner = self.owner()
        owner._worker_handler._state = pool.CLOSE
        owner._change_notifier.put(None)

    def drain(self) -> None:
        """Do nothing: `join` waits for the threads."""

    watch = before_fork = drain


def _check_ours(owner: Any) -> None:
    """Raise ValueError in a forked child, which has none of the threads."""
    if owner._crew.owner != os.getpid():
        raise ValueError(FORKED)


def _ahead(tasks: Iterable[Any], result: Any, window: int) -> Iterator[Any]:
    """Yield `tasks`, no further ahead of what was taken from `result` than `window`."""
    thread: Any = threading.current_thread()
    for sent, task in enumerate(tasks):
        with result._cond:
            # It looks up now and then: nobody tells it that the pool is terminated.
            while sent - (result._index - len(result._items)) >= window and thread._state == pool.RUN:
                result._cond.wait(_pool_hooks.PATIENCE / 10)
        yield task


class Crew:
    """What the methods of `Pool` ask of the keeper of its workers, for a hooked pool."""

    # No thread need be started for what nobody waits for.
    keeper = True

    def __init__(self, owner: Any) -> None:
        self.pool = weakref.ref(owner)
        self.owner = os.getpid()
        self.hiring = True

    @property
    def processes(self) -> list[Any]:
        """The workers."""
        return self.pool()._pool  # type: ignore[union-attr]

    def refill(self) -> None:
        """Start workers until there are as many as the pool is to have."""
        owner: Any = self.pool()
        owner._repopulate_pool_static(
            owner._ctx,
            owner.Process,
            owner._processes,
            owner._pool,
            owner._inqueue,
            owner._outqueue,
            owner._initializer,
            owner._initargs,
            owner._maxtasksperchild,
            owner._wrap_exception,
        )

    def join(self) -> None:
        """Do nothing: `dismiss_keeper`, which is called next, waits for all."""

    def dismiss_keeper(self) -> None:
        """Wait for the threads and the workers to end."""
        owner: Any = self.pool()
        notes = getattr(owner._cache, "notes", None)
        for thread in (owner._worker_handler, owner._task_handler, owner._result_handler):
            while thread.is_alive():
                thread.join(_pool_hooks.PATIENCE)
                if notes is not None and notes.broken is not None:
                    # It may wait for what no worker will ever send.
                    break
        if notes is not None and notes.broken is not None:
            _pool_hooks.end_workers(owner._pool)
            _pool_hooks.let_reader_go(owner._outqueue, owner._result_handler)
        for worker in owner._pool:
            worker.join()
