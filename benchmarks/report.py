"""Tables and bars, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.runner import Column
from benchmarks.workload import Metric, Workload


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned text, the first row a heading, the first column to the left."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    lines = []
    for n_row, row in enumerate(rows):
        cells = [cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        lines.append("  " + "  ".join(cells).rstrip())
        if n_row == 0:
            lines.append("  " + "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def bar(value: float, largest: float, width: int = 40) -> str:
    """Return a bar whose length is `value`'s share of `largest`, never quite nothing."""
    eighths = max(1, round(width * 8 * min(value / largest, 1.0)))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def workload_table(workload: Workload, columns: Mapping[str, Column]) -> str:
    """Return one workload's table: a row a library, a column a metric, medians."""
    metrics = workload.metrics
    rows = [["library", *(metric.heading for metric in metrics.values()), "spread"]]
    leading = next(iter(metrics))
    notes = []
    for lib, column in columns.items():
        if column.trouble:
            notes.append(f"  {lib}: {column.trouble}")
        if not column.figures:
            rows.append([lib, *("-" for _ in metrics), "-"])
            continue
        values = [figures[leading] for figures in column.figures]
        # Smallest to largest of the first column: a wide one says the machine was not quiet.
        spread = f"{metrics[leading].show(min(values))}..{metrics[leading].show(max(values))}"
        rows.append([lib, *(metric.show(column.median(name)) for name, metric in metrics.items()), spread])
    goals = {name: _goal(name, metric, columns) for name, metric in metrics.items()}
    if any(goal is not None for goal in goals.values()):
        rows.append(["to reach", *("" if goals[name] is None else m.show(goals[name]) for name, m in metrics.items())])
    lines = [f"{workload.name}: {workload.title}", table(rows), *notes]
    ours = columns.get("manycore")
    for name, metric in metrics.items():
        goal, value = goals[name], ours.median(name) if ours else None
        if goal is not None and value is not None:
            verdict = "reached" if value <= goal else "NOT reached"
            lines.append(f"  manycore: {metric.heading} {metric.show(value)}, {verdict} (at most {metric.show(goal)})")
    return "\n".join(lines)


def _goal(name: str, metric: Metric, columns: Mapping[str, Column]) -> float | None:
    if metric.goal_of:
        rival = columns.get(metric.goal_of)
        return rival.median(name) if rival else None
    return metric.goal
