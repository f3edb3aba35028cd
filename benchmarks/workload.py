"""What a workload is, and the small tools every workload's timing uses."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

# Standard library names only from here down the imports of a cell: what a cell imports is on every library's bill.


class Metric:
    """One column: its heading, its unit, and what manycore is to reach."""

    def __init__(self, heading: str, unit: str, goal: float | None = None, goal_of: str = "") -> None:
        """Describe a column; values are in seconds, MiB or plain.

        `unit` is one of us, ms, s, MiB, x (a ratio) and n (a count). `goal_of` names the library whose own figure of
        the same run is the goal.
        """
        self.heading = heading
        self.unit = unit
        self.goal = goal
        self.goal_of = goal_of

    def show(self, value: float | None) -> str:
        """Return `value` as a person reads it."""
        if value is None:
            return "-"
        scale = {"us": 1e6, "ms": 1e3}.get(self.unit, 1.0)
        digits = {"n": 0, "x": 2, "us": 2, "ms": 1, "s": 2, "MiB": 1}[self.unit]
        return f"{value * scale:,.{digits}f}"


class Workload:
    """One table: what is done, how one cell of it is measured, and its columns."""

    def __init__(
        self,
        name: str,
        title: str,
        measure: Callable[[str, Settings], Mapping[str, float]],
        metrics: dict[str, Metric],
        main: str = "",
    ) -> None:
        """`measure` runs in the cell's process; `main` names a script of `mains/` when the main module matters."""
        self.name = name
        self.title = title
        self.measure = measure
        self.metrics = metrics
        self.main = main


class Settings:
    """Sizes of a run: the real ones, or small ones to see that everything works."""

    def __init__(self, quick: bool = False, budget: float = 4.0) -> None:
        """`budget` is how long one measured call may take before a slow library gets fewer tasks."""
        self.quick = quick
        self.budget = min(budget, 0.5) if quick else budget

    def size(self, full: int, quick: int) -> int:
        """Return the size for this run."""
        return quick if self.quick else full

    def fit(self, n_full: int, seconds_per_task: float) -> int:
        """Return how many tasks of a known price fit into the budget, rounded down to a round number."""
        if seconds_per_task * n_full <= self.budget * 1.5:
            return n_full
        n = int(self.budget / seconds_per_task)
        magnitude = 10 ** max(0, len(str(n)) - 1)
        return max(100, min(n_full, n // magnitude * magnitude))


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long `function` took, and what it returned."""
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


def median_time(function: Callable[[], Any], n_runs: int = 3) -> float:
    """Return the median time of several runs."""
    return statistics.median(timed(function)[0] for _ in range(n_runs))


def check(condition: bool, what: str) -> None:
    """Refuse the figure of a library that computed something else. An `assert` would vanish under -O."""
    if not condition:
        raise ValueError(f"wrong result: {what}")
