"""What a pool costs before its first result, what a process costs, and what importing the package costs.

The cell's main module is one of `mains/`, because `spawn` and `forkserver` import it again in every child.
"""

from __future__ import annotations

import compileall
import importlib
import os
import statistics
import subprocess
import sys
from collections.abc import Callable

from benchmarks.peers import PEERS, WORKERS, context_of
from benchmarks.workload import Metric, Settings, Workload, check, timed

N_LATER = 5
N_PROCESSES = 15
N_IMPORTS = 11


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


def _measure_process(method: str) -> Callable[[str, Settings], dict[str, float]]:
    def measure(lib: str, settings: Settings) -> dict[str, float]:
        context = context_of(lib, method)
        function = sys.modules["__main__"].double

        def once() -> None:
            process = context.Process(target=function, args=(1,))
            process.start()
            process.join()
            check(process.exitcode == 0, "the exit code")

        first_s, _ = timed(once)
        later = [timed(once)[0] for _ in range(settings.size(N_PROCESSES, 2))]
        return {"first": first_s, "later": statistics.median(later)}

    return measure


def measure_import(lib: str, settings: Settings) -> dict[str, float]:
    """Time a program that imports the package with all its Pool needs, beside one that does nothing."""
    context_of(lib)
    programs = (f"import {lib}.pool", "pass")
    # As it is once installed.
    compileall.compile_dir(os.path.dirname(importlib.import_module(lib).__file__ or ""), quiet=1)
    commands = [[sys.executable, "-c", program] for program in programs]
    rounds = [
        [timed(lambda command=command: subprocess.run(command, check=True))[0] for command in commands]
        for _ in range(settings.size(N_IMPORTS, 2))
    ]
    with_package, bare = (statistics.median(times) for times in zip(*rounds, strict=True))
    return {"import": with_package - bare, "bare": bare}


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


def _processes() -> list[Workload]:
    later = {
        "fork": Metric("later ones ms", "ms"),
        "forkserver": Metric("later ones ms", "ms", 0.003),
        "spawn": Metric("later ones ms", "ms", goal_of="multiprocessing"),
    }
    return [
        Workload(
            f"process-{method}",
            f"Process start and join by {method}, an empty target; main imports NumPy",
            _measure_process(method),
            {"later": later[method], "first": Metric("1st one ms", "ms")},
            "with_numpy.py",
        )
        for method in later
    ]


WORKLOADS = [
    *_workloads(),
    *_processes(),
    Workload(
        "import",
        "a program that imports the package and its pool, over one that does nothing",
        measure_import,
        {"import": Metric("import ms", "ms", 0.006), "bare": Metric("bare ms", "ms")},
    ),
]
