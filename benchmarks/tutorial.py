"""The tutorial: count the numbers between 4 and 8 in 200 000 rows of five, by every verb of a pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers import PEERS, Peer
from benchmarks.tasks import howmany_within_range, howmany_within_range_rowonly
from benchmarks.workload import Metric, Settings, Workload, check, median_time, timed

PILOT = 200


def make_rows(settings: Settings) -> list[list[int]]:
    """Return the tutorial's data, the same in every run."""
    import numpy as np

    np.random.seed(100)
    return np.random.randint(0, 10, size=[settings.size(200_000, 20_000), 5]).tolist()


def serial(rows: list[list[int]]) -> list[int]:
    """Count in one process, as the tutorial begins."""
    results = []
    for row in rows:
        results.append(howmany_within_range(row, 4, 8))
    return results


def _whole(
    lib: str,
    settings: Settings,
    arguments: Callable[[list[list[int]]], list[Any]],
    call: Callable[[Peer, list[Any]], list[int]],
) -> dict[str, float]:
    rows = make_rows(settings)
    expected = serial(rows)
    serial_s = median_time(lambda: serial(rows))
    with PEERS[lib]() as pool:
        # No warm-up: the tutorial makes its pool and maps once. The second call shows what a warm-up would hide.
        list_s, items = timed(lambda: arguments(rows))
        call_s, results = timed(lambda: call(pool, items))
        check(results == expected, "the counts")
        del results
        again_s, results = timed(lambda: call(pool, items))
        check(results == expected, "the counts, second call")
    return {
        "serial": serial_s,
        "list": list_s,
        "call": call_s,
        "outside": call_s / serial_s,
        "inside": (list_s + call_s) / serial_s,
        "again": again_s / serial_s,
    }


def measure_map(lib: str, settings: Settings) -> dict[str, float]:
    """Time `map` with the library's default chunks."""
    return _whole(
        lib,
        settings,
        lambda rows: [row for row in rows],
        lambda pool, items: pool.map(howmany_within_range_rowonly, items),
    )


def measure_starmap(lib: str, settings: Settings) -> dict[str, float]:
    """Time `starmap` with the library's default chunks."""
    return _whole(
        lib,
        settings,
        lambda rows: [(row, 4, 8) for row in rows],
        lambda pool, items: pool.starmap(howmany_within_range, items),
    )


def _by_row(pool: Peer, rows: list[list[int]]) -> list[int]:
    return [pool.apply(howmany_within_range, (row, 4, 8)) for row in rows]


def _by_row_async(pool: Peer, rows: list[list[int]]) -> list[int]:
    results = [pool.apply_async(howmany_within_range, (row, 4, 8)) for row in rows]
    return [pool.fetch(result) for result in results]


def _per_row(lib: str, settings: Settings, call: Callable[[Peer, list[list[int]]], list[int]]) -> dict[str, float]:
    rows = make_rows(settings)
    expected = serial(rows)
    serial_s = median_time(lambda: serial(rows)) / len(rows)
    with PEERS[lib]() as pool:
        call(pool, rows[:PILOT])
        pilot_s, _ = timed(lambda: call(pool, rows[:PILOT]))
        n_tasks = settings.fit(len(rows), pilot_s / PILOT)
        call_s, results = timed(lambda: call(pool, rows[:n_tasks]))
        check(results == expected[:n_tasks], "the counts")
    return {"per task": call_s / n_tasks, "serial": serial_s, "ratio": call_s / n_tasks / serial_s, "tasks": n_tasks}


def measure_apply(lib: str, settings: Settings) -> dict[str, float]:
    """Time one `apply` a row, the caller looping."""
    return _per_row(lib, settings, _by_row)


def measure_apply_async(lib: str, settings: Settings) -> dict[str, float]:
    """Time `apply_async` for every row, then every `get()`."""
    return _per_row(lib, settings, _by_row_async)


_WHOLE = {
    "outside": Metric("call/serial", "x", 0.85),
    "inside": Metric("(list+call)/serial", "x"),
    "again": Metric("2nd call/serial", "x"),
    "serial": Metric("serial ms", "ms"),
    "list": Metric("list ms", "ms"),
    "call": Metric("call ms", "ms"),
}


def _per_row_metrics(goal: float) -> dict[str, Metric]:
    return {
        "per task": Metric("us/task", "us", goal),
        "ratio": Metric("x serial", "x"),
        "serial": Metric("serial us", "us"),
        "tasks": Metric("tasks", "n"),
    }


WORKLOADS = [
    Workload("tutorial-map", "200 000 rows by map, default chunks, against the serial loop", measure_map, _WHOLE),
    Workload("tutorial-starmap", "200 000 rows by starmap, default chunks", measure_starmap, _WHOLE),
    Workload("tutorial-apply", "one apply a row while the caller loops", measure_apply, _per_row_metrics(6e-6)),
    Workload(
        "tutorial-apply-async",
        "apply_async for each of 200 000 rows, then every get()",
        measure_apply_async,
        _per_row_metrics(3e-6),
    ),
]
