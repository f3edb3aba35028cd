"""Pipes: a small object there and back, and a gibibyte in large ones."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.peers import context_of
from benchmarks.workload import Metric, Settings, Workload, check, timed

SMALL = {"int": 7, "tuple": (7, "seven"), "dict": {"task": 7, "args": [1, 2, 3]}}
LARGE = 64 << 20
GIB = 1 << 30


def _echo(connection: Any) -> None:
    while (value := connection.recv()) is not None:
        connection.send(value)


def measure_ping_pong(lib: str, settings: Settings) -> dict[str, float]:
    """Time one object there and back, a median of ten parts of the run."""
    context = context_of(lib)
    ours, theirs = context.Pipe()
    child = context.Process(target=_echo, args=(theirs,))
    child.start()
    n_turns = settings.size(2_000, 100)

    def turns(value: Any) -> Any:
        for _ in range(n_turns):
            ours.send(value)
            answer = ours.recv()
        return answer

    figures = {}
    for name, value in SMALL.items():
        turns(value)
        parts = [timed(lambda value=value: turns(value)) for _ in range(10)]
        check(all(answer == value for _, answer in parts), "the answer")
        figures[name] = statistics.median(seconds for seconds, _ in parts) / n_turns
    ours.send(None)
    child.join()
    return figures


def _take(connection: Any, answers: Any, method: str, n_messages: int) -> None:
    for _ in range(n_messages):
        message = getattr(connection, method)()
    answers.send((len(message), message[0], message[-1]))


def measure_large(lib: str, settings: Settings, duplex: bool) -> dict[str, float]:
    """Time a gibibyte of bytes in objects of 64 MiB, by `send` and by `send_bytes`, and of arrays by `send`."""
    context = context_of(lib)
    n_messages = settings.size(GIB // LARGE, 1)
    message = b"a" + bytes(LARGE - 2) + b"z"
    cases: dict[str, tuple[str, str, Any]] = {
        "send": ("send", "recv", message),
        "send_bytes": ("send_bytes", "recv_bytes", message),
    }
    try:
        import numpy

        cases["array"] = ("send", "recv", numpy.frombuffer(message, dtype="u1").copy())
    except ImportError:
        pass
    figures = {}
    for name, (send, receive, value) in cases.items():
        reader, writer = context.Pipe(duplex)
        answers, told = context.Pipe(False)
        child = context.Process(target=_take, args=(reader, told, receive, n_messages))
        child.start()

        def run(writer: Any = writer, send: str = send, value: Any = value, answers: Any = answers) -> Any:
            for _ in range(n_messages):
                getattr(writer, send)(value)
            return answers.recv()

        seconds, (length, first, last) = timed(run)
        check((length, first, last) == (LARGE, ord("a"), ord("z")), "the message")
        child.join()
        figures[name] = seconds * GIB / (n_messages * LARGE)
    return figures


_PING_PONG = {name: Metric(f"{name}, us", "us", 4e-6 if name == "int" else None) for name in SMALL}
# Three gigabytes a second.
_LARGE = {
    "send": Metric("send, s/GiB", "s", GIB / 3e9),
    "send_bytes": Metric("send_bytes, s/GiB", "s", GIB / 3e9),
    "array": Metric("send an array, s/GiB", "s"),
}

WORKLOADS = [
    Workload("pipe-ping-pong", "one object there and back through Pipe()", measure_ping_pong, _PING_PONG),
    Workload("pipe-large", "1 GiB in 64 MiB objects, Pipe()", lambda lib, s: measure_large(lib, s, True), _LARGE),
    Workload(
        "pipe-large-one-way",
        "1 GiB in 64 MiB objects, Pipe(duplex=False)",
        lambda lib, s: measure_large(lib, s, False),
        _LARGE,
    ),
]
