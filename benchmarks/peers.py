"""One face for every library: the verbs of a pool, spelled each library's own best way.

A library is imported only inside its own adapter, so a cell pays for one library and no other. A verb that a library
does not have raises `Unsupported` and is shown as such; nothing is emulated, because an emulation would be measured
in the library's name.
"""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

WORKERS = 2


class Unsupported(Exception):
    """The library has no such verb, or not with this start method."""


def default_chunksize(n_tasks: int, n_workers: int = WORKERS) -> int:
    """Return the standard Pool's own choice, four chunks a worker.

    Given to executors whose default is one task a message: nobody maps 200 000 rows that way, and measuring it would
    only flatter the others.
    """
    return max(1, -(-n_tasks // (4 * n_workers)))


#: The start method of all workloads that name none. A library that has only fork refuses the others.
METHOD_VARIABLE = "MANYCORE_BENCH_METHOD"
METHOD = os.environ.get(METHOD_VARIABLE) or multiprocessing.get_all_start_methods()[0]


class Peer:
    """A running pool of one library. `module` is what has to be importable, `note` what a reader must know."""

    module = ""
    note = ""

    def __init__(self, n_workers: int = WORKERS, method: str = METHOD) -> None:
        """Start the pool."""
        raise NotImplementedError

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """Return the results in order; `chunksize=None` is the library's own choice."""
        raise Unsupported("map")

    def starmap(self, function: Callable[..., Any], items: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the results of calls with several arguments, in order."""
        raise Unsupported("starmap")

    def apply(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Make one call and wait for it."""
        raise Unsupported("apply")

    def apply_async(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Submit one call and return what the library gives for it."""
        raise Unsupported("apply_async")

    def fetch(self, result: Any) -> Any:
        """Wait for the value of what `apply_async` gave."""
        return result.get()

    def imap(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """Yield the results in order, one task a message."""
        raise Unsupported("imap")

    def imap_unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """Yield the results as they come, one task a message."""
        raise Unsupported("imap_unordered")

    def close(self) -> None:
        """Stop the pool and wait until its workers are gone."""
        raise NotImplementedError

    def __enter__(self) -> Peer:
        """Return the pool."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pool."""
        self.close()


class StandardPool(Peer):
    """`multiprocessing` and every module with its names."""

    module = "multiprocessing"

    def __init__(self, n_workers: int = WORKERS, method: str = METHOD) -> None:
        """Start the pool through a context, as an application that names its start method does."""
        self.pool = importlib.import_module(self.module).get_context(method).Pool(n_workers)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """`Pool.map`."""
        return self.pool.map(function, items, chunksize)

    def starmap(self, function: Callable[..., Any], items: Sequence[tuple[Any, ...]]) -> list[Any]:
        """`Pool.starmap`."""
        return self.pool.starmap(function, items)

    def apply(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """`Pool.apply`."""
        return self.pool.apply(function, args)

    def apply_async(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """`Pool.apply_async`."""
        return self.pool.apply_async(function, args)

    def imap(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """`Pool.imap`."""
        return self.pool.imap(function, items)

    def imap_unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """`Pool.imap_unordered`."""
        return self.pool.imap_unordered(function, items)

    def close(self) -> None:
        """`Pool.close` and `Pool.join`."""
        self.pool.close()
        self.pool.join()


class Manycore(StandardPool):
    """Ours."""

    module = "manycore"


class Billiard(StandardPool):
    """Celery's fork of the standard package."""

    module = "billiard"


class Multiprocess(StandardPool):
    """The standard package with dill."""

    module = "multiprocess"


class Executor(Peer):
    """`concurrent.futures.ProcessPoolExecutor` and what has its face."""

    module = "concurrent.futures"
    note = "map with the standard Pool's chunk size; its own default is 1"

    def __init__(self, n_workers: int = WORKERS, method: str = METHOD) -> None:
        """Start the executor; its workers come with the first task."""
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        self.executor: Any = ProcessPoolExecutor(n_workers, mp_context=get_context(method))

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """`Executor.map`."""
        return list(self.executor.map(function, items, chunksize=chunksize or default_chunksize(len(items))))

    def starmap(self, function: Callable[..., Any], items: Sequence[tuple[Any, ...]]) -> list[Any]:
        """`Executor.map` over the columns."""
        return list(self.executor.map(function, *zip(*items, strict=True), chunksize=default_chunksize(len(items))))

    def apply(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """`submit` and `result` at once."""
        return self.executor.submit(function, *args).result()

    def apply_async(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """`submit`."""
        return self.executor.submit(function, *args)

    def fetch(self, result: Any) -> Any:
        """`Future.result`."""
        return result.result()

    def imap(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """`Executor.map`, which yields in order."""
        return self.executor.map(function, items)

    def imap_unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """`as_completed`."""
        from concurrent.futures import as_completed

        return (future.result() for future in as_completed([self.executor.submit(function, item) for item in items]))

    def close(self) -> None:
        """`shutdown`."""
        self.executor.shutdown()


class Loky(Executor):
    """joblib's executor."""

    module = "loky"
    note = "its own start method (fork and exec); map with the standard Pool's chunk size"

    def __init__(self, n_workers: int = WORKERS, method: str = METHOD) -> None:
        """Start the executor."""
        if method != "fork":
            raise Unsupported("loky has one start method, shown in fork's column")
        from loky import ProcessPoolExecutor

        self.executor = ProcessPoolExecutor(n_workers)


class Joblib(Peer):
    """`joblib.Parallel`, kept open so that the workers stay."""

    module = "joblib"
    note = "loky workers; arrays above 1 MB go in through memory-mapped files, the same array only once"

    def __init__(self, n_workers: int = WORKERS, method: str = METHOD) -> None:
        """Open one `Parallel`."""
        if method != "fork":
            raise Unsupported("joblib's loky has one start method, shown in fork's column")
        from joblib import Parallel

        self.n_workers = n_workers
        self.parallel = Parallel(n_jobs=n_workers)
        self.parallel.__enter__()

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """`Parallel` over `delayed` calls, its own batches unless told."""
        from joblib import delayed

        self.parallel.batch_size = chunksize or "auto"
        return self.parallel(delayed(function)(item) for item in items)

    def starmap(self, function: Callable[..., Any], items: Sequence[tuple[Any, ...]]) -> list[Any]:
        """`Parallel` over `delayed` calls."""
        from joblib import delayed

        self.parallel.batch_size = "auto"
        return self.parallel(delayed(function)(*item) for item in items)

    def imap(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """`Parallel(return_as="generator")`."""
        return self._generate(function, items, "generator")

    def imap_unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """`Parallel(return_as="generator_unordered")`."""
        return self._generate(function, items, "generator_unordered")

    def _generate(self, function: Callable[[Any], Any], items: Iterable[Any], return_as: str) -> Iterator[Any]:
        from joblib import Parallel, delayed

        # The workers are those already running: loky's executor is one a process.
        parallel = Parallel(n_jobs=self.n_workers, return_as=return_as, batch_size=1)
        yield from parallel(delayed(function)(item) for item in items)

    def close(self) -> None:
        """Close `Parallel`, then loky's executor, which would idle on for five minutes."""
        from joblib.externals.loky import get_reusable_executor

        self.parallel.__exit__(None, None, None)
        get_reusable_executor().shutdown(wait=True)


class Mpire(Peer):
    """`mpire.WorkerPool` with `keep_alive`."""

    module = "mpire"
    note = "map wraps each argument, because it unpacks lists into arguments"

    def __init__(self, n_workers: int = WORKERS, method: str = METHOD) -> None:
        """Make the pool; its workers come with the first map."""
        from mpire import WorkerPool

        self.pool = WorkerPool(n_workers, start_method=method, keep_alive=True)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """`WorkerPool.map`."""
        wrapped = [(item,) for item in items]
        return self.pool.map(function, wrapped, chunk_size=chunksize, concatenate_numpy_output=False)

    def starmap(self, function: Callable[..., Any], items: Sequence[tuple[Any, ...]]) -> list[Any]:
        """`WorkerPool.map`, which unpacks."""
        return self.pool.map(function, items)

    def apply(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """`WorkerPool.apply`."""
        return self.pool.apply(function, args)

    def apply_async(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """`WorkerPool.apply_async`."""
        return self.pool.apply_async(function, args)

    def imap(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """`WorkerPool.imap`."""
        return self.pool.imap(function, items, chunk_size=1)

    def imap_unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """`WorkerPool.imap_unordered`."""
        return self.pool.imap_unordered(function, items, chunk_size=1)

    def close(self) -> None:
        """`stop_and_join`."""
        self.pool.stop_and_join()


class Pebble(Peer):
    """`pebble.ProcessPool`."""

    module = "pebble"
    note = "map with the standard Pool's chunk size; its own default is 1"

    def __init__(self, n_workers: int = WORKERS, method: str = METHOD) -> None:
        """Make the pool; its workers come with the first task."""
        from multiprocessing import get_context

        from pebble import ProcessPool

        self.pool = ProcessPool(max_workers=n_workers, context=get_context(method))

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """`ProcessPool.map`."""
        size = chunksize or default_chunksize(len(items))
        return list(self.pool.map(function, items, chunksize=size).result())

    def starmap(self, function: Callable[..., Any], items: Sequence[tuple[Any, ...]]) -> list[Any]:
        """`ProcessPool.map` over the columns."""
        columns = zip(*items, strict=True)
        return list(self.pool.map(function, *columns, chunksize=default_chunksize(len(items))).result())

    def apply(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """`schedule` and `result` at once."""
        return self.pool.schedule(function, args=args).result()

    def apply_async(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """`schedule`."""
        return self.pool.schedule(function, args=args)

    def fetch(self, result: Any) -> Any:
        """`Future.result`."""
        return result.result()

    def imap(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """`ProcessPool.map`, which yields in order."""
        return self.pool.map(function, items, chunksize=1).result()

    def close(self) -> None:
        """`close` and `join`."""
        self.pool.close()
        self.pool.join()


class Ray(StandardPool):
    """`ray.util.multiprocessing.Pool`."""

    module = "ray"
    note = "a local cluster with its own start method; start-up is that of the cluster"

    def __init__(self, n_workers: int = WORKERS, method: str = METHOD) -> None:
        """Start a local cluster of the pool's size, then the pool."""
        if method != "fork":
            raise Unsupported("ray has one start method, shown in fork's column")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import logging

        import ray
        from ray.util.multiprocessing import Pool

        if not ray.is_initialized():
            ray.init(num_cpus=n_workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        self.pool = Pool(n_workers)

    def close(self) -> None:
        """Close the pool and the cluster."""
        super().close()
        import ray

        ray.shutdown()


class FasterFifo(Peer):
    """faster-fifo has queues and no pool."""

    module = "faster_fifo"
    note = "queues only"

    def __init__(self, n_workers: int = WORKERS, method: str = METHOD) -> None:
        """Refuse: there is nothing to start."""
        raise Unsupported("has queues only")


PEERS: dict[str, type[Peer]] = {
    "manycore": Manycore,
    "multiprocessing": StandardPool,
    "executor": Executor,
    "mpire": Mpire,
    "joblib": Joblib,
    "loky": Loky,
    "billiard": Billiard,
    "multiprocess": Multiprocess,
    "pebble": Pebble,
    "ray": Ray,
    "faster-fifo": FasterFifo,
}


def consume(results: Iterable[Any]) -> int:
    """Take every result and return how many there were."""
    counter = itertools.count()
    for _ in zip(results, counter, strict=False):
        pass
    return next(counter)


#: Packages with the standard one's classes, each with processes, locks and queues of its own.
PACKAGES = ("manycore", "multiprocessing", "billiard", "multiprocess")


def context_of(lib: str, method: str = METHOD) -> Any:
    """Return a context of a package with the standard one's classes."""
    if lib not in PACKAGES:
        raise Unsupported("no classes of its own beside its pool")
    return importlib.import_module(lib).get_context(method)
