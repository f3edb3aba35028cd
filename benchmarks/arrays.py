"""Moving arrays: time over that of a warm memcpy of the same bytes, measured in the same process just before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.tasks import double, made_array, make_ready, ready_array, total_of, touch
from benchmarks.workload import Metric, Settings, Workload, check, median_time, timed

FLOAT = 8


def _shape(settings: Settings, large: bool) -> tuple[int, int]:
    """Return how many arrays, and how many numbers in each."""
    if large:
        return settings.size(16, 4), settings.size(64 << 20, 8 << 20) // FLOAT
    return settings.size(2000, 200), (64 << 10) // FLOAT


def warm_memcpy(n_arrays: int, n_items: int) -> float:
    """Return the time to copy `n_arrays` arrays, one after the other, into one buffer whose pages have been touched.

    One buffer, not one for each: the strictest yardstick, because 64 KiB of it stay in the cache (10 GB/s where a fresh
    part of a large buffer each time gave 6; for 64 MiB it makes no difference).
    """
    import numpy as np

    sources = [np.full(n_items, float(i)) for i in range(n_arrays)]
    buffer = np.zeros(n_items)

    def copy() -> None:
        for source in sources:
            np.copyto(buffer, source)

    copy()
    return median_time(copy, 5)


def _measure(
    lib: str,
    settings: Settings,
    large: bool,
    function: Callable[[Any], Any],
    send_arrays: bool,
    right: Callable[[list[Any]], bool],
) -> dict[str, float]:
    import numpy as np

    n_arrays, n_items = _shape(settings, large)
    memcpy_s = warm_memcpy(n_arrays, n_items)
    items: list[Any] = [((n_arrays, n_items), i) for i in range(n_arrays)]
    if send_arrays:
        items = [np.full(n_items, float(i)) for i in range(n_arrays)]
    with PEERS[lib]() as pool:
        # One tiny warm-up: what it costs to start is another table.
        pool.map(double, range(4), 1)
        if function is ready_array:
            pool.map(make_ready, [(n_arrays, n_items)] * 8, 1)
        first_s, results = timed(lambda: pool.map(function, items))
        check(right(results), "the first call's arrays")
        writable = all(result.flags.writeable for result in results if isinstance(result, np.ndarray))
        # Given back before the second call, as a loop that rebinds one name does at the latest.
        del results
        second_s, results = timed(lambda: pool.map(function, items))
        check(right(results), "the second call's arrays")
        del results
    return {
        "first": first_s / memcpy_s,
        "second": second_s / memcpy_s,
        "memcpy": memcpy_s,
        "first seconds": first_s,
        "second seconds": second_s,
        "writable": float(writable),
    }


def _sums_right(n_items: int) -> Callable[[list[Any]], bool]:
    return lambda results: results == [float(i) * n_items for i in range(len(results))]


def _touched_right(results: list[Any]) -> bool:
    return all(a[0] == i + 1 and a[-1] == i for i, a in enumerate(results))


def _ones_right(results: list[Any]) -> bool:
    return all(a[0] == 1.0 and a[-1] == 1.0 for a in results)


def _in(large: bool) -> Callable[[str, Settings], dict[str, float]]:
    return lambda lib, s: _measure(lib, s, large, total_of, True, _sums_right(_shape(s, large)[1]))


def _out(large: bool, function: Callable[[Any], Any]) -> Callable[[str, Settings], dict[str, float]]:
    return lambda lib, s: _measure(lib, s, large, function, False, _ones_right)


def _in_and_out(large: bool) -> Callable[[str, Settings], dict[str, float]]:
    return lambda lib, s: _measure(lib, s, large, touch, True, _touched_right)


def _metrics(goal: float | None) -> dict[str, Metric]:
    return {
        "first": Metric("1st call/memcpy", "x", goal),
        "second": Metric("2nd call/memcpy", "x", goal),
        "memcpy": Metric("memcpy ms", "ms"),
        "first seconds": Metric("1st ms", "ms"),
        "second seconds": Metric("2nd ms", "ms"),
        # 0: the results are read-only, so a program that writes into them pays one more copy.
        "writable": Metric("writable", "n"),
    }


WORKLOADS = [
    Workload("arrays-large-in", "16 arrays of 64 MiB to the workers, which sum them", _in(True), _metrics(3)),
    Workload("arrays-large-out", "16 arrays of 64 MiB from the workers", _out(True, ready_array), _metrics(3)),
    Workload(
        "arrays-large-made",
        "the same, each array new in the worker (its page faults included)",
        _out(True, made_array),
        _metrics(None),
    ),
    Workload(
        "arrays-large-in-out",
        "16 arrays of 64 MiB to the workers and back; the memcpy is that of one way",
        _in_and_out(True),
        _metrics(5),
    ),
    Workload("arrays-small-in", "2000 arrays of 64 KiB to the workers, which sum them", _in(False), _metrics(8)),
    Workload("arrays-small-out", "2000 arrays of 64 KiB from the workers", _out(False, ready_array), _metrics(8)),
]
