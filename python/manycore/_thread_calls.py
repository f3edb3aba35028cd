"""What the threads of a `ThreadPool` run: calls, and maps over chunks."""

from __future__ import annotations

import os

from . import context, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

__all__ = ["Call", "Map", "lost"]


class Call:
    """One call, as a task; shown in errors as what it calls."""

    def __init__(self, function: Callable[..., Any], kwds: Mapping[str, Any] | None) -> None:
        self.function = function
        self.kwds = kwds or {}

    def __call__(self, args: Iterable[Any]) -> Any:
        return self.function(*args, **self.kwds)

    def __repr__(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))


class Map:
    """A function applied to each item of a chunk, as a task."""

    def __init__(self, function: Callable[..., Any], mapper: Callable[..., Any]) -> None:
        self.function = function
        self.mapper = mapper

    def __call__(self, chunk: Iterable[Any]) -> list[Any]:
        return self.mapper((self.function, chunk))

    __repr__ = Call.__repr__


def lost(error: BaseException, function: Any) -> BaseException:
    """Return what a task fails with that wanted to end more than itself: raised elsewhere it would."""
    exitcode = process._exitcode_of(error) if isinstance(error, SystemExit) else 1
    error_of_ours = context.WorkerLost(os.getpid(), exitcode, None, repr(function))
    error_of_ours.__cause__ = error
    return error_of_ours
