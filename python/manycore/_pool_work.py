"""What the workers of a hooked pool run, and what travels to them and back; `pool` hands these names on.

A hooked pool is one in which a subclass or a program has replaced a part of the standard package's pool, see
`_pool_hooks`. Its tasks are tuples `(job, place, function, args, kwds)` in one queue, its answers tuples
`(job, place, (succeeded, value))` in another, so that whatever programs put in between finds what it expects.

Between the answers travel notes of ours, `(NOTES, subject, what)`: a worker says that it is there, which task it has
taken, and why it cannot start. When a worker dies, the pool knows by them what has to fail. A worker makes notes only
when told so by `wrap_exception` being `TAKES_NOTES`: programs run `worker` with queues of their own, too.
"""

from __future__ import annotations

import itertools
import os
import sys

from . import util
from ._remote import MaybeEncodingError, RemoteTraceback
from ._worker import INTERRUPTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = ["ExceptionWithTraceback", "job_counter", "rebuild_exc", "worker"]

# The numbers of jobs, over all pools.
job_counter = itertools.count()

# In the place of a job's number: what follows is a note.
NOTES = "manycore notes"
# Subjects of notes; a pair of a job and a place is the subject of the note that its task was taken.
READY, FAILED = "ready", "failed"

# True, and more: the pool reads notes.
TAKES_NOTES = 2


class ExceptionWithTraceback:
    """An exception and the text of its traceback: unpickled it is the exception, with a cause that shows the text."""

    def __init__(self, exc: BaseException, tb: Any) -> None:
        import traceback

        self.exc = exc
        self.tb = '\n"""\n' + "".join(traceback.format_exception(type(exc), exc, tb)) + '"""'

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_exc, (self.exc, self.tb)


def rebuild_exc(exc: BaseException, tb: str) -> BaseException:
    """Return `exc` with the text of its traceback as its cause."""
    exc.__cause__ = RemoteTraceback(tb)
    return exc


def _helper_reraises_exception(ex: BaseException) -> None:
    """Raise `ex`: the task in the place of an item that an iterable could not give."""
    raise ex


def worker(
    inqueue: Any,
    outqueue: Any,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
    maxtasks: int | None = None,
    wrap_exception: bool | int = False,
) -> None:
    """Run the tasks of `inqueue` and put their answers into `outqueue`, until None comes or `maxtasks` are done.

    With `wrap_exception` an exception takes its traceback along. AssertionError if `maxtasks` is no positive number.
    """
    if maxtasks is not None and (not isinstance(maxtasks, int) or maxtasks < 1):
        raise AssertionError(f"Maxtasks {maxtasks!r} is not valid")
    between_processes = hasattr(inqueue, "_writer")
    if between_processes:
        # The ends that are not this process's, so that the pool's end is seen.
        inqueue._writer.close()
        outqueue._reader.close()
    if between_processes and wrap_exception == TAKES_NOTES:
        try:
            _work(inqueue, outqueue, initializer, initargs, maxtasks, TAKES_NOTES)
        except KeyboardInterrupt:
            # The pool reports the task as lost; a traceback from every worker would bury that.
            sys.exit(INTERRUPTED)
    else:
        _work(inqueue, outqueue, initializer, initargs, maxtasks, wrap_exception)


def _work(
    inqueue: Any,
    outqueue: Any,
    initializer: Callable[..., object] | None,
    initargs: Iterable[Any],
    maxtasks: int | None,
    wrap_exception: bool | int,
) -> None:
    notes = wrap_exception == TAKES_NOTES
    if notes:
        outqueue.put((NOTES, READY, os.getpid()))
    if initializer is not None:
        try:
            initializer(*initargs)
        except Exception as error:
            if not notes:
                raise
            _put_answer(
                outqueue.put, (NOTES, FAILED), (os.getpid(), ExceptionWithTraceback(error, error.__traceback__))
            )
            sys.exit(1)
    done = 0
    while maxtasks is None or done < maxtasks:
        try:
            task = inqueue.get()
        except (EOFError, OSError):
            util.debug("worker got EOFError or OSError -- exiting")
            break
        if task is None:
            util.debug("worker got sentinel -- exiting")
            break
        job, place, function, args, kwds = task
        if notes:
            outqueue.put((NOTES, (job, place), os.getpid()))
        try:
            outcome = True, function(*args, **kwds)
        except Exception as error:
            wraps = wrap_exception and function is not _helper_reraises_exception
            outcome = False, ExceptionWithTraceback(error, error.__traceback__) if wraps else error
        except BaseException as error:
            if hasattr(inqueue, "_writer"):
                raise
            # A thread that ended would be nobody's loss: the pool would not hear of it, nor start another.
            from ._thread_calls import lost

            outcome = False, lost(error, function)
        _put_answer(outqueue.put, (job, place), outcome)
        # Not kept until the next task comes.
        task = function = args = kwds = outcome = None
        done += 1
    util.debug("worker exiting after %d tasks", done)


def _put_answer(put: Callable[[Any], object], task: tuple[Any, Any], outcome: tuple[Any, Any]) -> None:
    try:
        put((*task, outcome))
    except Exception as reason:
        error = MaybeEncodingError(reason, outcome[1])
        util.debug("Possible encoding error while sending result: %s", error)
        put((*task, (outcome[0] if task[0] == NOTES else False, error)))
