"""What it costs to use what processes share: an object of a manager, a value with its lock.

Only the standard package and what has its face have these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers import context_of
from benchmarks.workload import Metric, Settings, Workload, check, timed

N_CALLS = 20_000
N_INCREMENTS = 400_000
N_PROCESSES = 2


def measure_manager(lib: str, settings: Settings) -> dict[str, float]:
    """Time single calls of a dict's and a list's proxy, from one client."""
    n_calls = settings.size(N_CALLS, 500)
    with context_of(lib).Manager() as manager:
        shared, appended = manager.dict(key=1), manager.list()
        figures = {
            "get": timed(lambda: _repeat(n_calls, shared.__getitem__, "key"))[0] / n_calls,
            "set": timed(lambda: _repeat(n_calls, shared.__setitem__, "key", 2))[0] / n_calls,
            "append": timed(lambda: _repeat(n_calls, appended.append, 3))[0] / n_calls,
        }
        check(shared["key"] == 2 and len(appended) == n_calls, "what the manager holds")
    return figures


def _repeat(n_times: int, function: Callable[..., Any], *arguments: Any) -> None:
    for _ in range(n_times):
        function(*arguments)


def _increment(value: Any, n_times: int) -> None:
    for _ in range(n_times):
        with value.get_lock():
            value.value += 1


def measure_value(lib: str, settings: Settings) -> dict[str, float]:
    """Time two processes that increment one value under its lock."""
    context = context_of(lib)
    n_each = settings.size(N_INCREMENTS, 4_000) // N_PROCESSES
    value = context.Value("i", 0)
    processes = [context.Process(target=_increment, args=(value, n_each)) for _ in range(N_PROCESSES)]

    def run() -> None:
        for process in processes:
            process.start()
        for process in processes:
            process.join()

    seconds, _ = timed(run)
    check(value.value == n_each * N_PROCESSES, "the value")
    return {"all": seconds}


WORKLOADS = [
    Workload(
        "manager",
        f"{N_CALLS} calls of a manager's dict and list, each waited for",
        measure_manager,
        {
            "get": Metric("dict get us", "us", 12e-6),
            "set": Metric("dict set us", "us", 12e-6),
            "append": Metric("list append us", "us", 12e-6),
        },
    ),
    Workload(
        "value",
        f"a Value incremented under its lock by two processes, {N_INCREMENTS} times in all",
        measure_value,
        {"all": Metric("all s", "s", 0.3)},
    ),
]
