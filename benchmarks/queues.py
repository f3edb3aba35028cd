"""Queues: small messages one way, there and back, and a megabyte at a time."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable
from typing import Any

from benchmarks.peers import PEERS, Unsupported
from benchmarks.workload import Metric, Settings, Workload, check, timed

#: Libraries that have the standard package's queues, by its names.
WITH_QUEUES = ("manycore", "multiprocessing", "multiprocess", "billiard")

MEBI = 1 << 20


def _makers(lib: str) -> dict[str, Callable[[], Any]]:
    """Return what makes each kind of queue that the library has."""
    if lib == "faster-fifo":
        faster_fifo = importlib.import_module(PEERS[lib].module)
        return {"Queue": lambda: faster_fifo.Queue(max_size_bytes=64 * MEBI)}
    if lib not in WITH_QUEUES:
        raise Unsupported("no Queue")
    context = importlib.import_module(PEERS[lib].module).get_context("fork")
    return {"Queue": context.Queue, "SimpleQueue": context.SimpleQueue}


def _start(lib: str, target: Callable[..., None], *arguments: Any) -> Any:
    own = importlib.import_module(PEERS[lib].module) if lib in WITH_QUEUES else multiprocessing
    process = own.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def _put(numbers: Any, start: Any, n_messages: int) -> None:
    start.get(timeout=60)
    for number in range(n_messages):
        numbers.put(number)


def measure_one_way(lib: str, settings: Settings, pairs: int) -> dict[str, float]:
    """Time small ints from `pairs` processes to as many, a message."""
    n_messages = settings.size(100_000, 2_000)
    signals = multiprocessing.get_context("fork").Queue
    figures = {}
    for kind, make in _makers(lib).items():
        numbers, start, done = make(), signals(), signals()
        get = _get_with_timeout if kind == "Queue" else _get_simply
        family = [_start(lib, _put, numbers, start, n_messages) for _ in range(pairs)]
        family += [_start(lib, get, numbers, done, n_messages) for _ in range(pairs)]

        def run(start: Any = start, done: Any = done) -> int:
            for _ in range(pairs):
                start.put(None)
            return sum(done.get() for _ in range(pairs))

        seconds, total = timed(run)
        check(total == pairs * sum(range(n_messages)), "what arrived")
        for process in family:
            process.join()
        figures[kind] = seconds / (pairs * n_messages)
    return figures


def _get_with_timeout(numbers: Any, done: Any, n_messages: int) -> None:
    # As programs do: some of these queues give up after ten seconds unless told otherwise.
    done.put(sum(numbers.get(True, 60.0) for _ in range(n_messages)))


def _get_simply(numbers: Any, done: Any, n_messages: int) -> None:
    done.put(sum(numbers.get() for _ in range(n_messages)))


def _echo(there: Any, back: Any, n_messages: int) -> None:
    for _ in range(n_messages):
        back.put(there.get())


def measure_there_and_back(lib: str, settings: Settings) -> dict[str, float]:
    """Time one small int there and back."""
    n_messages = settings.size(20_000, 500)
    figures = {}
    for kind, make in _makers(lib).items():
        there, back = make(), make()
        child = _start(lib, _echo, there, back, n_messages + 1)

        def turns(n_turns: int, there: Any = there, back: Any = back) -> int:
            for number in range(n_turns):
                there.put(number)
                answer = back.get()
            return answer

        turns(1)
        seconds, answer = timed(lambda turns=turns: turns(n_messages))
        check(answer == n_messages - 1, "the answer")
        child.join()
        figures[kind] = seconds / n_messages
    return figures


def _drain(numbers: Any, done: Any, n_messages: int) -> None:
    for _ in range(n_messages):
        value = numbers.get()
    done.put((len(value), value[0], value[-1]))


def measure_large(lib: str, settings: Settings) -> dict[str, float]:
    """Time bytes of 1 MiB, a message."""
    n_messages = settings.size(1_000, 20)
    message = b"a" + bytes(MEBI - 2) + b"z"
    figures = {}
    for kind, make in _makers(lib).items():
        numbers, done = make(), multiprocessing.get_context("fork").Queue()
        child = _start(lib, _drain, numbers, done, n_messages)

        def run(numbers: Any = numbers, done: Any = done) -> Any:
            for _ in range(n_messages):
                numbers.put(message)
            return done.get()

        seconds, answer = timed(run)
        check(answer == (MEBI, ord("a"), ord("z")), "what arrived")
        child.join()
        figures[kind] = seconds / n_messages
    return figures


def _columns(unit: str, goal: float) -> dict[str, Metric]:
    return {kind: Metric(kind, unit, goal) for kind in ("Queue", "SimpleQueue")}


WORKLOADS = [
    Workload(
        "queue-1-1",
        "small ints from one process to one, a message",
        lambda lib, settings: measure_one_way(lib, settings, 1),
        _columns("us", 1e-6),
    ),
    Workload(
        "queue-2-2",
        "small ints from two processes to two, a message",
        lambda lib, settings: measure_one_way(lib, settings, 2),
        _columns("us", 1e-6),
    ),
    Workload("queue-there-and-back", "a small int there and back", measure_there_and_back, _columns("us", 5e-6)),
    Workload(
        "queue-large",
        "bytes of 1 MiB from one process to one, a message (175 us are 6 GB/s)",
        measure_large,
        _columns("us", MEBI / 6e9),
    ),
]
