"""What a pool's worker process runs."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import sys

from . import _engine, _last_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = ["INTERRUPTED", "Seat", "main", "run_map", "run_starred"]

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


def run_kept(function: Callable[..., Any], items: _engine.Items, starred: bool) -> list[Any]:
    """Return the results of one chunk; each is left where it is found if this process dies before the last."""
    results: list[Any] = []
    items.keep(results)
    if starred:
        for arguments in items:
            results.append(function(*arguments))
    else:
        for item in items:
            results.append(function(item))
    return results


def run_each(function: Callable[..., Any], items: _engine.Items, starred: bool) -> list[tuple[bool, Any]]:
    """Return a pair for each item of one chunk: True and its result, or False and what it raised, taken apart.

    An argument that cannot be read ends the list, with its reason.
    """
    from ._remote import describe

    answers: list[tuple[bool, Any]] = []
    items.keep(answers)
    try:
        for item in items:
            try:
                answer = True, function(*item) if starred else function(item)
            except Exception as error:
                answer = False, describe(error)
            answers.append(answer)
    except Exception as error:
        answers.append((False, describe(error)))
    return answers


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

    def __init__(self, core: _engine.Core, number: int, keep_blocked: bool, words: int) -> None:
        self._core = core
        self._number = number
        self.keep_blocked = keep_blocked
        self._words = words

    def words(self) -> int:
        """Return the descriptor of the file for this worker's last words."""
        return self._words

    def sit(self) -> _engine.Worker:
        """Return this process's half of the pool. Called once, in the worker."""
        return _engine.Worker.inherit(self._core, self._number)

    def __reduce__(self) -> tuple[Any, ...]:
        from .reduction import ChildFd

        region, bell = self._core.handles()
        handles = (ChildFd(region), ChildFd(bell), ChildFd(self._words))
        return _RemoteSeat, (*handles, self._number, self.keep_blocked)


class _RemoteSeat:
    def __init__(self, region: Any, bell: Any, words: Any, number: int, keep_blocked: bool) -> None:
        self._handles = (region, bell)
        self._words = words
        self._number = number
        self.keep_blocked = keep_blocked

    def words(self) -> int:
        return self._words.detach()

    def sit(self) -> _engine.Worker:
        region, bell = self._handles
        return _engine.Worker.attach(region.detach(), bell.detach(), self._number)


class Rules:
    """What every worker of a pool is told: how it begins, how long it lives, how it ends."""

    def __init__(
        self,
        initializer: Callable[..., object] | None,
        initargs: Iterable[Any],
        tasks: int | None,
        finalizer: Callable[..., object] | None = None,
        memory_limit: int | None = None,
        max_rss: int | None = None,
    ) -> None:
        self.initializer = initializer
        self.initargs = initargs
        self.tasks = tasks
        self.finalizer = finalizer
        self.memory_limit = memory_limit
        self.max_rss = max_rss


def main(seat: Seat, rules: Rules) -> None:
    """Run tasks until the pool is closed and empty, or until the rules say that another worker takes over.

    An initializer that raises ends the worker and is reported: every task of the pool then fails with its exception.
    """
    try:
        if not seat.keep_blocked:
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {_signal.SIGINT})
        _last_words.listen(seat.words())
        _work(seat.sit(), rules)
    except KeyboardInterrupt:
        # The caller reports the task as lost; a traceback from every worker would bury that.
        sys.exit(INTERRUPTED)


def _work(worker: _engine.Worker, rules: Rules) -> None:
    from . import _main_module

    failure = _main_module.failure_to_report()
    if failure is not None:
        worker.fail(failure)
        sys.exit(1)
    try:
        if rules.memory_limit is not None:
            _engine.limit_memory(rules.memory_limit)
        if rules.initializer is not None:
            from . import _initialized

            _initialized.run(rules.initializer, rules.initargs)
    except Exception as error:
        worker.fail(error)
        sys.exit(1)
    # What this worker has received lies in shared memory, which a child of its own must not share.
    os.register_at_fork(before=worker.fork_guard())
    worker.ready()
    worker.run(rules.tasks, rules.max_rss)
    if rules.finalizer is not None:
        rules.finalizer()
