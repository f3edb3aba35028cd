"""What a pool's worker process runs."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import sys

from . import _engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

# What a shell reports for a program that Ctrl-C ended.
INTERRUPTED = 130


def run_map(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Return the results of one chunk of a map."""
    return [function(item) for item in items]


def run_starred(function: Callable[..., Any], items: _engine.Items) -> list[Any]:
    """Return the results of one chunk of a starmap."""
    results: list[Any] = []
    for first in items:
        results.append(function(*first))
        if type(first) is tuple and len(first) in _LOOPS:
            # Nearly always all of them are alike; the stream ends early where one is not.
            items.expect(len(first))
            results += _LOOPS[len(first)](function, items)
            items.expect(None)
    return results


# A call with so many positional arguments is three times as quick as one with an unpacked tuple.
_LOOPS: dict[int, Callable[[Callable[..., Any], Iterable[Any]], list[Any]]] = {
    1: lambda function, items: [function(a) for (a,) in items],
    2: lambda function, items: [function(a, b) for a, b in items],
    3: lambda function, items: [function(a, b, c) for a, b, c in items],
    4: lambda function, items: [function(a, b, c, d) for a, b, c, d in items],
    5: lambda function, items: [function(a, b, c, d, e) for a, b, c, d, e in items],
}


class Seat:
    """A worker's place in a pool, as it travels to the worker: inherited by fork, by descriptors otherwise."""

    def __init__(self, core: _engine.Core, number: int, keep_blocked: bool) -> None:
        self._core = core
        self._number = number
        self.keep_blocked = keep_blocked

    def sit(self) -> _engine.Worker:
        """Return this process's half of the pool. Called once, in the worker."""
        return _engine.Worker.inherit(self._core, self._number)

    def __reduce__(self) -> tuple[Any, ...]:
        from .reduction import ChildFd

        region, bell = self._core.handles()
        return _RemoteSeat, (ChildFd(region), ChildFd(bell), self._number, self.keep_blocked)


class _RemoteSeat:
    def __init__(self, region: Any, bell: Any, number: int, keep_blocked: bool) -> None:
        self._handles = (region, bell)
        self._number = number
        self.keep_blocked = keep_blocked

    def sit(self) -> _engine.Worker:
        region, bell = self._handles
        return _engine.Worker.attach(region.detach(), bell.detach(), self._number)


def main(seat: Seat, initializer: Callable[..., object] | None, initargs: Iterable[Any], limit: int | None) -> None:
    """Run tasks until the pool is closed and empty, or until `limit` of them are done.

    An initializer that raises ends the worker and is reported: every task of the pool then fails with its exception.
    """
    try:
        if not seat.keep_blocked:
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {_signal.SIGINT})
        _work(seat.sit(), initializer, initargs, limit)
    except KeyboardInterrupt:
        # The caller reports the task as lost; a traceback from every worker would bury that.
        sys.exit(INTERRUPTED)


def _work(
    worker: _engine.Worker, initializer: Callable[..., object] | None, initargs: Iterable[Any], limit: int | None
) -> None:
    if initializer is not None:
        try:
            initializer(*initargs)
        except Exception as error:
            worker.fail(error)
            sys.exit(1)
    # What this worker has received lies in shared memory, which a child of its own must not share.
    os.register_at_fork(before=worker.fork_guard())
    worker.ready()
    worker.run(limit)
