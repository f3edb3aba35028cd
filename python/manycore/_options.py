"""What a pool and its jobs can be told beyond the standard package: checked here, and passed on to the engine."""

from __future__ import annotations

from . import _engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypedDict

    class JobOptions(TypedDict, total=False):
        """The options of one call of a verb."""

        task_timeout: float | None
        retries: int
        retry_on: type[BaseException] | tuple[type[BaseException], ...]
        priority: int
        return_exceptions: bool


__all__ = ["callable_or_none", "of_job", "seconds", "size"]

_JOB = ("task_timeout", "retries", "retry_on", "priority", "return_exceptions")


def of_job(options: JobOptions, verb: str, task_timeout: float | None) -> _engine.JobOptions:
    """Return the options of one job; `task_timeout` is the pool's, for a job that names none.

    TypeError or ValueError for an option that is not known, or whose value cannot be meant.
    """
    for name in options:
        if name not in _JOB:
            raise TypeError(f"{verb}() got an unexpected keyword argument {name!r}")
    limit = seconds("task_timeout", options["task_timeout"]) if "task_timeout" in options else task_timeout
    retries = _integer("retries", options.get("retries", 0))
    if retries < 0 or retries >= 1 << 32:
        raise ValueError(f"retries must be from 0 to 2**32 - 1, not {retries}")
    priority = _integer("priority", options.get("priority", 0))
    if not -(1 << 31) <= priority < 1 << 31:
        raise ValueError(f"priority must be from -2**31 to 2**31 - 1, not {priority}")
    retry_on: Any = options.get("retry_on", ())
    classes = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise TypeError(f"retry_on must be an exception class or a tuple of such, not {retry_on!r}")
    as_values = bool(options.get("return_exceptions", False))
    return _engine.JobOptions(limit, retries, classes or None, priority, as_values)


def seconds(name: str, value: float | None) -> float | None:
    """Return `value`, a number of seconds or None; TypeError or ValueError if it is neither."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or None, not {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be more than 0 seconds or None, not {value!r}")
    return max(float(value), 1e-6)


def size(name: str, value: int | None) -> int | None:
    """Return `value`, a number of bytes or None; TypeError or ValueError if it is neither."""
    if value is None:
        return None
    if _integer(name, value) <= 0:
        raise ValueError(f"{name} must be a positive number of bytes or None, not {value!r}")
    return value


def callable_or_none(name: str, value: Callable[..., object] | None) -> Callable[..., object] | None:
    """Return `value`; TypeError if it is neither None nor callable."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable or None, not {value!r}")
    return value


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    return value
