"""Run the tutorial, then show what each way to call a pool costs: as a table, and as bars.

    python examples/tutorial/demo.py [--module NAME] [--rounds N] [--no-examples]

`--module` puts another package in manycore's place (`--module multiprocessing` shows the standard one beside itself).
Every (package, round) is a fresh interpreter; the packages take turns; the figures are medians.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
EXAMPLES = ("01_cpu_count", "02_processes", "03_count_in_range", "04_count_in_range_async", "05_order")
METHODS = ("apply", "map", "starmap", "apply_async", "map_async", "starmap_async")
PER_CALL = ("apply", "apply_async")
STANDARD = "multiprocessing"
N_ROWS = 200_000
N_WORKERS = 2
# What one call costs is measured on so many rows first. Where all rows would take longer than the budget, fewer are
# run and the time is scaled up: the standard package needs most of a minute for 200 000 calls of apply.
N_PILOT_ROWS = 500
BUDGET_SECONDS = 0.6
# Rows for the examples that make one call a row, when they run on the standard package.
N_SLOW_ROWS = 5_000
SHIM = "import sys\n\nimport {module}\n\nsys.modules[__name__] = sys.modules[{module!r}]\n"

Rows = list[list[int]]


def howmany_within_range(row: list[int], minimum: int, maximum: int) -> int:
    """Count the numbers of `row` from `minimum` to `maximum`."""
    count = 0
    for number in row:
        if minimum <= number <= maximum:
            count = count + 1
    return count


def howmany_within_range_rowonly(row: list[int], minimum: int = 4, maximum: int = 8) -> int:
    """Count the same with the limits as defaults."""
    count = 0
    for number in row:
        if minimum <= number <= maximum:
            count = count + 1
    return count


def serial(rows: Rows) -> list[int]:
    """Count in this process."""
    results = []
    for row in rows:
        results.append(howmany_within_range(row, 4, 8))
    return results


def arguments_of(method: str, rows: Rows) -> list[Any]:
    """Return what the tutorial passes to a method of a pool."""
    return [(row, 4, 8) for row in rows] if method.startswith("starmap") else [row for row in rows]


def call(pool: Any, method: str, rows: list[Any]) -> list[int]:
    """Count with one method of a pool, over what `arguments_of` gave."""
    if method == "apply":
        return [pool.apply(howmany_within_range, args=(row, 4, 8)) for row in rows]
    if method == "apply_async":
        handles = [pool.apply_async(howmany_within_range, args=(row, 4, 8)) for row in rows]
        return [handle.get() for handle in handles]
    if method.startswith("map"):
        results = getattr(pool, method)(howmany_within_range_rowonly, rows)
    else:
        results = getattr(pool, method)(howmany_within_range, rows)
    return results.get() if method.endswith("_async") else results


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the time a call took, and its result."""
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


def measure(module: str) -> dict[str, dict[str, float]]:
    """Time each method of one package in a new pool, the serial loop just before it."""
    import numpy as np

    package = importlib.import_module(module)
    np.random.seed(100)
    data = np.random.randint(0, 10, size=[N_ROWS, 5]).tolist()
    figures: dict[str, dict[str, float]] = {}
    for method in METHODS:
        serial_s, expected = timed(lambda: serial(data))
        n_rows = N_ROWS
        with package.Pool(N_WORKERS) as pool:
            if method in PER_CALL:
                pilot_s, _ = timed(lambda pool=pool, method=method: call(pool, method, data[:N_PILOT_ROWS]))
                n_rows = max(N_PILOT_ROWS, min(N_ROWS, int(N_PILOT_ROWS * BUDGET_SECONDS / pilot_s)))
                # Nearly all of them is all of them: no scaling where none is needed.
                n_rows = N_ROWS if n_rows > N_ROWS // 4 else n_rows
            list_s, rows = timed(lambda method=method, n_rows=n_rows: arguments_of(method, data[:n_rows]))
            seconds, results = timed(lambda pool=pool, method=method, rows=rows: call(pool, method, rows))
            if results != expected[:n_rows]:
                sys.exit(f"{module}, {method}: the results differ from the serial loop's")
            pool.close()
            pool.join()
        figures[method] = {"serial": serial_s, "seconds": seconds * N_ROWS / n_rows, "rows": n_rows, "list": list_s}
    return figures


def run_examples(module: str, environment: dict[str, str]) -> None:
    """Run the tutorial's files one after the other, their output shown."""
    for name in EXAMPLES:
        # Only where every call is waited for, and only with a package that needs a minute for it.
        arguments = [str(N_SLOW_ROWS)] if module == STANDARD and "count_in_range" in name else []
        print(f"\n== {name}.py {' '.join(arguments)}".rstrip(), flush=True)
        subprocess.run([sys.executable, str(HERE / f"{name}.py"), *arguments], env=environment, check=True)


def bar(value: float, largest: float, width: int = 44) -> str:
    """Return a bar of `value`'s length, in eighths of a character, never quite nothing."""
    eighths = max(1, round(8 * width * min(1.0, value / largest)))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def show(ours: str, rounds: dict[str, list[dict[str, dict[str, float]]]]) -> None:
    """Print the table and the bars."""

    def median(module: str, method: str, key: str) -> float:
        return statistics.median(figures[method][key] for figures in rounds[module])

    serial_s = statistics.median(f[m]["serial"] for figures in rounds.values() for f in figures for m in METHODS)
    n_rounds = len(next(iter(rounds.values())))
    print(f"\n== {N_ROWS} rows, {N_WORKERS} workers, medians of {n_rounds} interleaved rounds")
    list_s = statistics.median(f["starmap"]["list"] for figures in rounds.values() for f in figures)
    print(f"   the serial loop takes {serial_s * 1e3:.1f} ms; the argument lists are built before the clock starts")
    print(f"   (the tuples for starmap take {list_s * 1e3:.1f} ms, whatever the package)\n")
    print(f"   {'method':14} {ours:>15} {'x serial':>9}   {STANDARD:>15} {'x serial':>9}   {'gain':>7}")
    scaled = False
    for method in METHODS:
        line = f"   {method:14}"
        seconds = {module: median(module, method, "seconds") for module in rounds}
        for module in rounds:
            star = "*" if median(module, method, "rows") < N_ROWS else " "
            scaled |= star == "*"
            line += f" {seconds[module] * 1e3:11,.1f} ms{star} {seconds[module] / serial_s:8.2f}x  "
        print(f"{line} {seconds[STANDARD] / seconds[ours]:6.1f}x")
    if scaled:
        print(f"   * timed on as many rows as fit into {BUDGET_SECONDS} s and scaled to {N_ROWS} by the time per call")
    for title, methods in (("in one call", [m for m in METHODS if m not in PER_CALL]), ("one call a row", PER_CALL)):
        values = [("serial loop", serial_s)]
        values += [(f"{m} {lib}", median(lib, m, "seconds")) for m in methods for lib in rounds]
        largest = max(value for _, value in values)
        print(f"\n   {title}, in ms (shorter is better)")
        for label, value in values:
            print(f"   {label:30} {value * 1e3:11,.1f} {bar(value, largest)}")


def main() -> None:
    """Run the examples, measure, show."""
    parser = argparse.ArgumentParser(description="Run the tutorial and compare each method.")
    parser.add_argument("--module", default="manycore", help="the package to stand in manycore's place")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-examples", action="store_true", help="only the comparison")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory() as shims:
        environment = dict(os.environ)
        if options.module != "manycore":
            # A package called manycore that is the other one: the examples stay as they are.
            Path(shims, "manycore.py").write_text(SHIM.format(module=options.module))
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [shims, os.environ.get("PYTHONPATH")]))
        if not options.no_examples:
            run_examples(options.module, environment)
    ours = options.module
    # A label of its own, so that the standard package can also stand beside itself.
    labels = {ours if ours != STANDARD else "in our place": ours, STANDARD: STANDARD}
    rounds: dict[str, list[dict[str, dict[str, float]]]] = {label: [] for label in labels}
    for n_round in range(options.rounds):
        order = list(labels) if n_round % 2 == 0 else list(reversed(labels))
        for label in order:
            command = [sys.executable, str(Path(__file__).resolve()), "--measure", labels[label]]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout
            rounds[label].append(json.loads(output.splitlines()[-1]))
    show(next(iter(labels)), rounds)


if __name__ == "__main__":
    main()
