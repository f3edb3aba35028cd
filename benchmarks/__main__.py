"""`python -m benchmarks`: every workload, manycore and its peers, in one run."""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import importlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.peers import METHOD_VARIABLE, PEERS, WORKERS
from benchmarks.report import workload_table
from benchmarks.runner import ROOT, Column, Options, installed, run, run_workload
from benchmarks.workload import Workload

GROUPS = (
    "tutorial",
    "noop",
    "arrays",
    "balance",
    "startup",
    "memory",
    "shared",
    "pipes",
    "queues",
    "locks",
    "payloads",
)


def workloads(patterns: Sequence[str]) -> Iterator[tuple[str, Workload]]:
    """Yield every workload that a pattern names, with its group."""
    for group in GROUPS:
        for workload in importlib.import_module(f"benchmarks.{group}").WORKLOADS:
            if not patterns or group in patterns or any(fnmatch.fnmatch(workload.name, p) for p in patterns):
                yield group, workload


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--workload", action="append", default=[], help="name, group or pattern; may be repeated")
    parser.add_argument("--lib", action="append", default=[], choices=list(PEERS), help="may be repeated; all if none")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (5; with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, measures nothing")
    parser.add_argument("--budget", type=float, default=4.0, help="seconds a call may take before it gets fewer tasks")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds a cell may take")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to measure under")
    parser.add_argument(
        "--start-method",
        choices=("fork", "forkserver", "spawn"),
        help="for workloads that name none; default: the interpreter's own, from CPython 3.14 on forkserver",
    )
    parser.add_argument("--list", action="store_true", help="name the workloads and stop")
    return parser.parse_args(arguments)


def save(options: Options, versions: dict[str, str | None], python: str, tables: dict[str, dict[str, Column]]) -> str:
    """Write everything measured to a file of its own and return its name."""
    content: dict[str, Any] = {
        "python": python,
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "workers": WORKERS,
        "rounds": options.rounds,
        "quick": options.quick,
        "versions": versions,
        "workloads": {
            name: {lib: {"rounds": column.figures, "trouble": column.trouble} for lib, column in columns.items()}
            for name, columns in tables.items()
        },
    }
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{os.getpid()}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return str(path.relative_to(ROOT))


def main() -> int:
    """Run what the command line asks for."""
    arguments = parse()
    chosen = list(workloads(arguments.workload))
    if not chosen:
        print("no such workload; see --list", file=sys.stderr)
        return 2
    if arguments.list:
        for _, workload in chosen:
            print(f"{workload.name:22} {workload.title}")
        return 0
    if arguments.start_method:
        # Cells are processes of their own.
        os.environ[METHOD_VARIABLE] = arguments.start_method
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    options = Options(rounds, arguments.quick, arguments.budget, arguments.timeout, arguments.python)
    libs = [lib for lib in PEERS if not arguments.lib or lib in arguments.lib]
    versions = installed(options.python, libs)
    python = run([options.python, "-c", "import platform; print(platform.python_version())"], 60)[1].strip()
    print(f"CPython {python}, {WORKERS} workers on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", end="")
    print(f", medians of {rounds} interleaved rounds{', QUICK: sizes too small to quote' if options.quick else ''}")
    for lib in libs:
        version = versions[lib]
        note = f"; {PEERS[lib].note}" if PEERS[lib].note else ""
        print(f"  {lib:16} {'ABSENT: does not import' if version is None else (version or 'installed') + note}")
    present = [lib for lib in libs if versions[lib] is not None]
    if not present:
        print("none of these libraries imports", file=sys.stderr)
        return 1

    terminal = sys.stderr.isatty()

    def say(line: str) -> None:
        if terminal:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)

    tables: dict[str, dict[str, Column]] = {}
    try:
        for group, workload in chosen:
            columns = run_workload(group, workload, present, options, say)
            say("")
            columns = {lib: columns.get(lib, Column(trouble="absent")) for lib in libs}
            tables[workload.name] = columns
            print(f"\n{workload_table(workload, columns)}", flush=True)
    except KeyboardInterrupt:
        # What has been measured is kept: a whole run takes more than an hour.
        print("\ninterrupted", file=sys.stderr)
    print(f"\nevery round's figures: {save(options, versions, python, tables)}")
    return 0 if len(tables) == len(chosen) else 130


if __name__ == "__main__":
    sys.exit(main())
