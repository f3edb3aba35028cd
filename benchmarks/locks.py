"""Locks: alone, and there and back between two processes."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.peers import context_of
from benchmarks.workload import Metric, Settings, Workload, check, timed

Side = Callable[[], None]


# ----------------------------------------------------------------------------------------------------------------------
# Uncontended


def measure_alone(lib: str, settings: Settings) -> dict[str, float]:
    """Time acquire + release, and `with`, of a lock that nobody else wants; the loop itself is not counted."""
    lock = context_of(lib).Lock()
    n = settings.size(400_000, 20_000)
    numbers = range(n)

    def loop() -> None:
        for _ in numbers:
            pass

    def by_calls() -> None:
        for _ in numbers:
            lock.acquire()
            lock.release()

    def by_with() -> None:
        for _ in numbers:
            with lock:
                pass

    def best(run: Side) -> float:
        return min(timed(run)[0] for _ in range(5)) / n

    bare = best(loop)
    return {"acquire + release": best(by_calls) - bare, "with": best(by_with) - bare}


# ----------------------------------------------------------------------------------------------------------------------
# There and back


def _semaphore(context: Any, n: int) -> tuple[Side, Side]:
    there, back = context.Semaphore(0), context.Semaphore(0)

    def here() -> None:
        for _ in range(n):
            there.release()
            back.acquire()

    def other() -> None:
        for _ in range(n):
            there.acquire()
            back.release()

    return here, other


def _event(context: Any, n: int) -> tuple[Side, Side]:
    there, back = context.Event(), context.Event()

    def here() -> None:
        for _ in range(n):
            there.set()
            back.wait()
            back.clear()

    def other() -> None:
        for _ in range(n):
            there.wait()
            there.clear()
            back.set()

    return here, other


def _condition(context: Any, n: int) -> tuple[Side, Side]:
    # Whose turn it is, in one byte; the condition's lock protects it.
    condition, turn = context.Condition(), context.RawValue("b", 0)

    def side(mine: int) -> Side:
        def run() -> None:
            for _ in range(n):
                with condition:
                    while turn.value != mine:
                        condition.wait()
                    turn.value = 1 - mine
                    condition.notify()

        return run

    return side(0), side(1)


def _barrier(context: Any, n: int) -> tuple[Side, Side]:
    barrier = context.Barrier(2)

    def run() -> None:
        for _ in range(2 * n):
            barrier.wait()

    return run, run


def _counter(context: Any, n: int) -> tuple[Side, Side]:
    value = context.Value("i", 0)
    expected = 2 * n

    def run() -> None:
        for _ in range(n):
            with value.get_lock():
                value.value += 1

    def here() -> None:
        run()
        while value.value < expected:
            pass
        check(value.value == expected, "every increment counts")

    return here, run


def _together(lib: str, make: Callable[[Any, int], tuple[Side, Side]], n: int) -> float:
    """Return how long the two sides take that `make` gives, one of them in a child that has started before."""
    context = context_of(lib, "fork")
    here, other = make(context, n)
    ready, go = context.Semaphore(0), context.Semaphore(0)

    def run() -> None:
        ready.release()
        go.acquire()
        other()

    child = context.Process(target=run)
    child.start()
    ready.acquire()
    go.release()
    seconds, _ = timed(here)
    child.join()
    check(child.exitcode == 0, "the other side")
    return seconds


def _there_and_back(make: Callable[[Any, int], tuple[Side, Side]]) -> Callable[[str, Settings], dict[str, float]]:
    def measure(lib: str, settings: Settings) -> dict[str, float]:
        n = settings.size(10_000, 500)
        _together(lib, make, n // 10)
        return {"there and back": statistics.median(_together(lib, make, n) for _ in range(3)) / n}

    return measure


def measure_counter(lib: str, settings: Settings) -> dict[str, float]:
    """Time 400 000 increments by two processes."""
    return {"in all": _together(lib, _counter, settings.size(200_000, 5_000))}


def _two(name: str, make: Callable[[Any, int], tuple[Side, Side]], words: str, goal: float) -> Workload:
    metrics = {"there and back": Metric("us", "us", goal)}
    return Workload(f"lock-{name}", f"there and back between two processes: {words}", _there_and_back(make), metrics)


WORKLOADS = [
    Workload(
        "lock-alone",
        "a Lock nobody else wants",
        measure_alone,
        {
            "acquire + release": Metric("acquire+release", "us", 0.060e-6),
            "with": Metric("with", "us", 0.120e-6),
        },
    ),
    _two("semaphore", _semaphore, "two semaphores", 4e-6),
    _two("event", _event, "two events, each cleared by its waiter", 4e-6),
    _two("condition", _condition, "one condition, the lock taken and a turn handed over each time", 8e-6),
    _two("barrier", _barrier, "one barrier, passed twice", 8e-6),
    Workload(
        "lock-counter",
        "a Value under its lock, 400 000 increments by two processes",
        measure_counter,
        {"in all": Metric("s", "s", 0.3)},
    ),
]
