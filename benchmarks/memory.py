"""Proportional set size of a program and its idle pool, from /proc."""

from __future__ import annotations

import os
import time

from benchmarks.peers import PEERS
from benchmarks.tasks import double, nothing
from benchmarks.workload import Metric, Settings, Workload, check

# Long enough for a pool to have gone idle, short of any library's idle shutdown.
IDLE_SECONDS = 0.5


def descendants(pid: int) -> list[int]:
    """Return a process and everything below it: workers, but also fork servers, trackers and daemons."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as stat:
                    parents[int(name)] = int(stat.read().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    family = [pid]
    for member in family:
        family.extend(child for child, parent in parents.items() if parent == member)
    return family


def pss_mib(pids: list[int]) -> float:
    """Return the sum of what each process's mappings cost it, in MiB; shared pages are shared out."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as rollup:
                total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total / 1024


def measure(lib: str, settings: Settings) -> dict[str, float]:
    """Weigh the family after a small map, and after 100 000 tasks."""
    before = pss_mib([os.getpid()])
    n_tasks = settings.size(100_000, 5_000)
    with PEERS[lib]() as pool:
        check(pool.map(double, range(8), 1) == list(range(0, 16, 2)), "eight doubles")
        time.sleep(IDLE_SECONDS)
        family = descendants(os.getpid())
        small = pss_mib(family)
        check(len(pool.map(nothing, range(n_tasks), 1)) == n_tasks, "the number of results")
        time.sleep(IDLE_SECONDS)
        large = pss_mib(descendants(os.getpid()))
    return {"small": small, "large": large, "before": before, "processes": len(family)}


WORKLOADS = [
    Workload(
        "memory",
        "PSS of parent and two idle workers; to reach: the standard package's",
        measure,
        {
            "small": Metric("small map MiB", "MiB", goal_of="multiprocessing"),
            "large": Metric("100 000 tasks MiB", "MiB", goal_of="multiprocessing"),
            "before": Metric("no pool MiB", "MiB"),
            "processes": Metric("processes", "n"),
        },
    )
]
