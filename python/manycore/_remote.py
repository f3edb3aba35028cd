"""Exceptions on their way between a worker and its caller."""

from __future__ import annotations

from .context import ProcessError, TaskCancelled, TaskTimeout, TimeoutError, WorkerLost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["MaybeEncodingError", "RemoteTraceback", "TimeoutError"]


class RemoteTraceback(Exception):
    """The traceback of a worker, as text; the cause of the exception it belongs to."""

    def __init__(self, tb: str) -> None:
        self.tb = tb

    def __str__(self) -> str:
        return self.tb


class MaybeEncodingError(Exception):
    """A result, or an exception, could not be sent to the caller: `exc` says why, `value` what it was (as text)."""

    def __init__(self, exc: object, value: object) -> None:
        self.exc = repr(exc)
        self.value = _text(value)
        super().__init__(self.exc, self.value)

    def __str__(self) -> str:
        return f"Error sending result: '{self.value}'. Reason: '{self.exc}'"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"


for _class in (RemoteTraceback, MaybeEncodingError):
    _class.__module__ = "manycore.pool"


def _text(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__} object whose repr raised {type(error).__name__}>"


def encoding_error(reason: BaseException, value: object) -> MaybeEncodingError:
    """Return the exception for a result `value` that `reason` kept from travelling."""
    return MaybeEncodingError(reason, value)


def describe(error: BaseException) -> tuple[bytes, str, str]:
    """Return `error` as data that always travels: its pickle, its text, its traceback.

    An exception that does not pickle is replaced by a MaybeEncodingError, as in the standard package.
    """
    import pickle
    import traceback

    from .reduction import _OwnPickler

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if error.__traceback__ is None:
        # Raised by a function that is not written in Python: there are no frames to show.
        text = f"Traceback (most recent call last):\n{text}"
    try:
        pickled = bytes(_OwnPickler.dumps(error, 5))
    except Exception as reason:
        pickled = pickle.dumps(MaybeEncodingError(reason, error), 5)
    return pickled, _text(error), text


def rebuild(parts: tuple[bytes, str, str]) -> BaseException:
    """Return the exception that `describe` took apart, with the worker's traceback as its cause."""
    import pickle

    pickled, text, trace = parts
    try:
        error = pickle.loads(pickled)
        if not isinstance(error, BaseException):
            raise TypeError(f"{type(error).__name__} object is not an exception")
    except Exception as reason:
        error = MaybeEncodingError(reason, text)
        error.value = text
    error.__cause__ = RemoteTraceback(f'\n"""\n{trace}"""')
    return error


def keep_in_context(raised: BaseException, original: BaseException) -> None:
    """Put `original` at the end of the contexts of `raised`, unless it is among them already.

    An error callback is called outside of any `except` clause, so nothing else connects what it raises with the error
    it was told of.
    """
    # The type's own attribute: an exception may refuse to be assigned to, as a frozen dataclass does.
    context: Any = BaseException.__context__
    chain: list[BaseException] = []
    error: BaseException | None = raised
    while error is not None and not any(error is seen for seen in chain):
        if error is original:
            return
        chain.append(error)
        error = context.__get__(error)
    if error is not None:
        # A ring has no end.
        return
    # What is raised may have come from the contexts of the original. The link back is cut, as `raise` does it.
    link, behind = original, context.__get__(original)
    while behind is not None:
        if any(behind is seen for seen in chain):
            context.__set__(link, None)
            break
        if behind is original:
            break
        link, behind = behind, context.__get__(behind)
    context.__set__(chain[-1], original)


def call_back(callback: Callable[[Any], object], value: Any) -> BaseException | None:
    """Call `callback(value)`; return what it raises. The frames of whoever asks for it stay out of the traceback."""
    try:
        callback(value)
    except BaseException as error:
        return error
    return None


def worker_lost(pid: int, exitcode: int | None, task: str, words: str | None) -> WorkerLost:
    """Return the exception for a task whose worker `pid` ended with `exitcode`; `words` are its last."""
    error = WorkerLost(pid or None, exitcode, None, task)
    error.traceback = words
    return error


def task_timeout(pid: int, limit: float | None, task: str, words: str | None) -> TaskTimeout:
    """Return the exception for a task that ran longer than `limit` seconds in worker `pid`."""
    error = TaskTimeout(pid or None, limit, task)
    error.traceback = words
    return error


def cancelled(task: str) -> TaskCancelled:
    """Return the exception for a task that was cancelled."""
    return TaskCancelled(task)


def start_lost(pid: int, exitcode: int | None) -> WorkerLost:
    """Return the exception for tasks of a pool whose workers cannot start."""
    return WorkerLost(pid or None, exitcode, None, "its start-up; no worker of the pool gets further")


def terminated(task: str) -> ProcessError:
    """Return the exception for a task that was not answered when its pool was terminated."""
    return ProcessError(f"the pool was terminated before {task} was answered")
