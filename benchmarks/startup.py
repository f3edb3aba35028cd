"""What a pool costs before its first result: Pool(2), map over two items, close, join.

The cell's main module is one of `mains/`, because `spawn` and `forkserver` import it again in every child.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

from benchmarks.peers import PEERS, WORKERS
from benchmarks.workload import Metric, Settings, Workload, check, timed

N_LATER = 5


def _once(lib: str, method: str, function: Callable[[int], int]) -> None:
    with PEERS[lib](WORKERS, method) as pool:
        check(pool.map(function, range(2), 1) == [0, 2], "two doubles")


def _measure(method: str) -> Callable[[str, Settings], dict[str, float]]:
    def measure(lib: str, settings: Settings) -> dict[str, float]:
        # The main module's own function, so that a child cannot do without importing it.
        function = sys.modules["__main__"].double
        first_s, _ = timed(lambda: _once(lib, method, function))
        later = [timed(lambda: _once(lib, method, function))[0] for _ in range(settings.size(N_LATER, 2))]
        return {"first": first_s, "later": statistics.median(later)}

    return measure


def _workloads() -> list[Workload]:
    # Seconds to reach, by method: with a plain main, and with one that imports NumPy.
    goals = {"fork": (0.008, 0.008), "forkserver": (0.012, 0.015), "spawn": (0.084, 0.300)}
    return [
        Workload(
            f"start-{method}{suffix}",
            f"Pool(2), map(range(2)), close, join by {method}; main {words}",
            _measure(method),
            {"later": Metric("later calls ms", "ms", goals[method][with_numpy]), "first": Metric("1st call ms", "ms")},
            main,
        )
        for method in goals
        for with_numpy, suffix, words, main in (
            (False, "", "plain", "plain.py"),
            (True, "-numpy", "imports NumPy", "with_numpy.py"),
        )
    ]


WORKLOADS = _workloads()
