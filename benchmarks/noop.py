"""What one task costs that does nothing: 100 000 of them, one a message."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.peers import PEERS, Peer, consume
from benchmarks.tasks import nothing
from benchmarks.workload import Metric, Settings, Workload, check, timed

PILOT = 200


def _measure(lib: str, settings: Settings, call: Callable[[Peer, int], int]) -> dict[str, float]:
    with PEERS[lib]() as pool:
        call(pool, PILOT)
        pilot_s, _ = timed(lambda: call(pool, PILOT))
        n_tasks = settings.fit(settings.size(100_000, 5_000), pilot_s / PILOT)
        call_s, n_results = timed(lambda: call(pool, n_tasks))
        check(n_results == n_tasks, "the number of results")
    return {"per task": call_s / n_tasks, "tasks": n_tasks}


def measure_map(lib: str, settings: Settings) -> dict[str, float]:
    """Time `map(chunksize=1)`."""
    return _measure(lib, settings, lambda pool, n: len(pool.map(nothing, range(n), 1)))


def measure_imap(lib: str, settings: Settings) -> dict[str, float]:
    """Time `imap`."""
    return _measure(lib, settings, lambda pool, n: consume(pool.imap(nothing, range(n))))


def measure_imap_unordered(lib: str, settings: Settings) -> dict[str, float]:
    """Time `imap_unordered`."""
    return _measure(lib, settings, lambda pool, n: consume(pool.imap_unordered(nothing, range(n))))


_METRICS = {"per task": Metric("us/task", "us", 2.5e-6), "tasks": Metric("tasks", "n")}

WORKLOADS = [
    Workload("noop-map", "100 000 no-op tasks, map(chunksize=1)", measure_map, _METRICS),
    Workload("noop-imap", "100 000 no-op tasks, imap", measure_imap, _METRICS),
    Workload("noop-imap-unordered", "100 000 no-op tasks, imap_unordered", measure_imap_unordered, _METRICS),
]
