"""Two hundred CPU-bound tasks of very different length: how near two workers come to half the work each."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

from benchmarks.peers import PEERS
from benchmarks.tasks import double, spin
from benchmarks.workload import Metric, Settings, Workload, check, median_time, timed

N_TASKS = 200
# Shape of the tail, and the share one task may have: with more, not even a perfect schedule could be even. With this
# seed, dealing tasks one at a time costs 1.01 of half the total (longest first 1.00); chunks of 25, the standard
# package's choice, cost 1.18 and 1.57 before any overhead.
ALPHA = 0.7
LARGEST_SHARE = 0.1
SEED = 23


def heavy_tailed(total: float) -> list[float]:
    """Return the durations, the same in every run, that sum up to `total`."""
    generator = random.Random(SEED)
    weights = [generator.paretovariate(ALPHA) for _ in range(N_TASKS)]
    for _ in range(20):
        limit = LARGEST_SHARE * sum(weights)
        weights = [min(weight, limit) for weight in weights]
    return [total * weight / sum(weights) for weight in weights]


def two_processes(turns: Sequence[int]) -> None:
    """Run the tasks on two bare forks, dealt so that both have the same to do: the floor for any pool."""
    halves: list[list[int]] = [[], []]
    for n_turns in sorted(turns, reverse=True):
        min(halves, key=sum).append(n_turns)
    children = []
    for half in halves:
        pid = os.fork()
        if pid == 0:
            for n_turns in half:
                spin(n_turns)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)


def measure(lib: str, settings: Settings) -> dict[str, float]:
    """Time `map` with default chunks, tasks shuffled and tasks longest first."""
    probe = 200_000
    spin(probe)
    turns_per_second = probe / median_time(lambda: spin(probe), 5)
    shuffled = [int(s * turns_per_second) for s in heavy_tailed(settings.size(20, 4) / 10)]
    orders = {"shuffled": shuffled, "longest first": sorted(shuffled, reverse=True)}
    serial_s, expected = timed(lambda: [spin(n) for n in shuffled])
    floor_s, _ = timed(lambda: two_processes(shuffled))
    figures = {"total": serial_s, "floor": floor_s / (serial_s / 2)}
    with PEERS[lib]() as pool:
        pool.map(double, range(4), 1)
        for name, turns in orders.items():
            call_s, results = timed(lambda turns=turns: pool.map(spin, turns))
            check(sum(results) == sum(expected), "the spun numbers")
            figures[name] = call_s / (serial_s / 2)
            figures[f"{name}, floor"] = call_s / floor_s
    return figures


WORKLOADS = [
    Workload(
        "balance",
        "200 heavy-tailed tasks, map with default chunks: makespan over half the serial total",
        measure,
        {
            "shuffled": Metric("shuffled", "x", 1.05),
            "longest first": Metric("longest first", "x", 1.05),
            # What is left when the machine itself is not two quiet cores.
            "shuffled, floor": Metric("shuffled/forks", "x"),
            "longest first, floor": Metric("longest/forks", "x"),
            "floor": Metric("two bare forks", "x"),
            "total": Metric("total s", "s"),
        },
    )
]
