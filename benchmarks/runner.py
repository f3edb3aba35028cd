"""Runs cells: each in a fresh interpreter with a time limit, the libraries taking turns round by round."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cell import MARK
from benchmarks.peers import PEERS
from benchmarks.workload import Workload

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Options:
    """How to run."""

    rounds: int = 5
    quick: bool = False
    budget: float = 4.0
    timeout: float = 180.0
    python: str = sys.executable


@dataclass
class Column:
    """What one library did in one workload: every round's figures, or why there are none."""

    figures: list[dict[str, float]] = field(default_factory=list)
    trouble: str = ""

    def median(self, metric: str) -> float | None:
        """Return the median over the rounds."""
        values = [figures[metric] for figures in self.figures if metric in figures]
        return statistics.median(values) if values else None


def environment() -> dict[str, str]:
    """Return the environment of a cell: this checkout importable, one thread a numeric library."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # A BLAS of several threads would measure the machine's appetite, not the library.
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def run(command: Sequence[str], timeout: float) -> tuple[int | None, str, str]:
    """Run a command in its own process group and end the whole group afterwards; a return code of None is a timeout."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err
    except subprocess.TimeoutExpired:
        return None, "", ""
    finally:
        # Workers of a library that hangs would otherwise disturb every later cell.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def installed(python: str, libs: Sequence[str]) -> dict[str, str | None]:
    """Return the version of each library under `python`, or None where it does not import."""
    versions: dict[str, str | None] = {}
    probe = "import sys, importlib as i; m = i.import_module(sys.argv[1]); print(getattr(m, '__version__', '') or '')"
    for lib in libs:
        code, out, _ = run([python, "-c", probe, PEERS[lib].module], 60)
        versions[lib] = out.strip().rpartition("\n")[2] if code == 0 else None
    return versions


def _last_words(err: str) -> str:
    lines = [line for line in err.strip().splitlines() if line.strip()]
    return (lines[-1] if lines else "no message")[:100]


def run_cell(group: str, workload: Workload, lib: str, options: Options) -> dict[str, Any]:
    """Run one cell and return its answer: `figures`, `unsupported` or `trouble`."""
    order = {"group": group, "workload": workload.name, "lib": lib, "quick": options.quick, "budget": options.budget}
    main = ["-m", "benchmarks.cell"] if not workload.main else [str(ROOT / "benchmarks" / "mains" / workload.main)]
    code, out, err = run([options.python, *main, json.dumps(order)], options.timeout)
    if code is None:
        return {"trouble": f"no answer in {options.timeout:.0f} s"}
    for line in out.splitlines():
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    return {"trouble": f"failed: {_last_words(err)}"}


def run_workload(
    group: str,
    workload: Workload,
    libs: Sequence[str],
    options: Options,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Column]:
    """Run every round of a workload, each library once a round."""
    columns = {lib: Column() for lib in libs}
    for n_round in range(options.rounds):
        # The order turns with the round, so that nobody always follows the heaviest.
        shift = n_round % len(libs)
        for lib in [*libs[shift:], *libs[:shift]]:
            column = columns[lib]
            if column.trouble:
                continue
            say(f"{workload.name}: round {n_round + 1} of {options.rounds}, {lib}")
            answer = run_cell(group, workload, lib, options)
            if "figures" in answer:
                column.figures.append(answer["figures"])
            else:
                column.trouble = answer.get("trouble") or f"not offered ({answer['unsupported']})"
    return columns
