"""Queues through a pipe, for subclasses that use the parts of the standard package's queues.

Some libraries (loky, and so joblib) derive from `Queue` and `SimpleQueue` to pickle in their own way: they replace the
thread that writes into the pipe, or what it writes, and pickle the queue as its parts. Programs derive from them to
look before they read under the reader's lock, or to join a `JoinableQueue` with a time limit. The queues of such a
class have these parts: a pipe, a lock for each end, a semaphore that counts the room, what a `JoinableQueue` counts by.
Such a queue has a `Piped` in the place of its channel; the methods of our classes call it as they call a channel, and
it works with the parts. These queues keep none of the promises that a channel adds to the standard package's.
"""

from __future__ import annotations

import errno
import functools
import threading
import time
import types
import weakref
from queue import Empty, Full

from . import _forks, connection, context, queues, reduction, synchronize, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    import collections
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Piped", "feed", "is_piped"]

# The attributes of the standard package's queues that ours have not; and the methods by which a program sends bytes of
# its own through the ends, because a channel carries objects.
_PARTS = frozenset(("_rlock", "_wlock", "_sem", "_poll", "_send_bytes", "_recv_bytes", "send_bytes", "recv_bytes"))
_PARTS_OF_JOINABLE = _PARTS | {"_cond", "_unfinished_tasks"}

_known: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


def is_piped(cls: type) -> bool:
    """Return whether queues of a subclass of ours need the parts: a method of the class, or of a base, names one."""
    found = _known.get(cls)
    if found is None:
        found = _known[cls] = _needs_parts(cls)
    return found


def _needs_parts(cls: type) -> bool:
    parts = _PARTS_OF_JOINABLE if issubclass(cls, queues.JoinableQueue) else _PARTS
    for kind in cls.__mro__:
        if kind.__module__ in (queues.__name__, "builtins", "typing", "abc"):
            continue
        own = vars(kind)
        if "_feed" in own or "_start_thread" in own:
            return True
        if issubclass(cls, queues.SimpleQueue) and "put" in own and "__setstate__" in own:
            return True
        if any(not parts.isdisjoint(code.co_names) or _has_constant(code, parts) for code in _codes(own.values())):
            return True
    return False


def _has_constant(code: types.CodeType, names: frozenset[str]) -> bool:
    """Return whether one of `names` is a constant of the code, as in `getattr(queue, "_rlock")`."""
    return any(type(const) is str and const in names for const in code.co_consts)


def _codes(parts: Any) -> Iterator[types.CodeType]:
    """Give the code of functions in a class, and of those they are made of: decorated ones, properties, inner ones."""
    seen: set[int] = set()
    waiting = list(parts)
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        # By types: an object may answer to any name.
        kind = type(part)
        if kind is types.CodeType:
            yield part
            waiting += part.co_consts
        elif kind is types.FunctionType:
            waiting.append(part.__code__)
            waiting += vars(part).values()
            waiting += [cell.cell_contents for cell in part.__closure__ or () if _is_full(cell)]
        elif kind in (staticmethod, classmethod):
            waiting.append(part.__func__)
        elif kind is property:
            waiting += [part.fget, part.fset, part.fdel]
        elif kind in _HOLDERS:
            waiting.append(part.func)
        elif kind is _CACHED:
            waiting.append(part.__wrapped__)


# Types whose instances keep their function under the name `func`; and the type that `lru_cache` makes.
_HOLDERS = (functools.partial, functools.partialmethod, functools.cached_property, functools.singledispatchmethod)
_CACHED = type(functools.lru_cache(lambda: None))


def _is_full(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _pickler() -> Any:
    return reduction.replaced_pickler() or reduction._OwnPickler


class Piped:
    """In the place of a channel, for a queue that has the parts itself: subclasses set them, and pickle them."""

    def __init__(self, queue: Any) -> None:
        self._ref = weakref.ref(queue)
        self._is_simple = isinstance(queue, queues.SimpleQueue)
        self._is_joinable = isinstance(queue, queues.JoinableQueue)

    @property
    def _queue(self) -> Any:
        return self._ref()

    def make(self, ctx: Any) -> None:
        """Give the queue its parts."""
        queue = self._queue
        queue._reader, queue._writer = connection.Pipe(duplex=False)
        queue._rlock, queue._wlock = ctx.Lock(), ctx.Lock()
        if not self._is_simple:
            queue._maxsize = min(queue._maxsize, synchronize.SEM_VALUE_MAX)
            queue._sem = ctx.BoundedSemaphore(queue._maxsize)
        if self._is_joinable:
            queue._unfinished_tasks, queue._cond = ctx.Semaphore(0), ctx.Condition()
        self.begin()

    def begin(self) -> None:
        """Have the queue ready to be used: its parts are there."""
        queue = self._queue
        if self._is_simple:
            queue._poll = queue._reader.poll
        else:
            queue._reset()
            _forks.renew(queue, type(queue)._reset)

    def bind(self) -> None:
        """Give the queue the methods of its ends that it calls."""
        queue = self._queue
        queue._send_bytes, queue._recv_bytes = queue._writer.send_bytes, queue._reader.recv_bytes
        queue._poll = queue._reader.poll

    def state(self) -> tuple[Any, ...]:
        """Return the queue as its parts, as the standard package does."""
        queue = self._queue
        context.assert_spawning(queue)
        ends = queue._reader, queue._writer
        locks = queue._rlock, queue._wlock
        if self._is_simple:
            return *ends, *locks
        state = (queue._ignore_epipe, queue._maxsize, *ends, *locks, queue._sem, queue._opid)
        return (*state, queue._cond, queue._unfinished_tasks) if self._is_joinable else state

    def restore(self, state: tuple[Any, ...]) -> None:
        """Take in what `state` has returned."""
        queue = self._queue
        if self._is_simple:
            queue._reader, queue._writer, queue._rlock, queue._wlock = state
        else:
            if self._is_joinable:
                *state, queue._cond, queue._unfinished_tasks = state  # type: ignore[assignment]
            queue._ignore_epipe, queue._maxsize, queue._reader, queue._writer, *state, queue._opid = state  # type: ignore
            queue._rlock, queue._wlock, queue._sem = state
        self.begin()

    # --- what our classes ask of a channel

    def put(self, owner: Any, obj: Any, block: bool, timeout: float | None) -> None:
        """Send an object, or leave it to the feeder, which finds what cannot be pickled."""
        queue = self._queue
        if self._is_simple:
            message = _pickler().dumps(obj)
            with queue._wlock:
                queue._writer.send_bytes(message)
            return
        if not queue._sem.acquire(block, timeout):
            raise Full
        with queue._notempty:
            if self._is_joinable:
                with queue._cond:
                    self._leave(queue, obj)
                    queue._unfinished_tasks.release()
            else:
                self._leave(queue, obj)

    def _leave(self, queue: Any, obj: Any) -> None:
        if queue._thread is None:
            queue._start_thread()
        queue._buffer.append(obj)
        queue._notempty.notify()

    def get(self, block: bool, timeout: float | None) -> Any:
        """Receive an object."""
        queue = self._queue
        if self._is_simple:
            with queue._rlock:
                message = queue._reader.recv_bytes()
            return _pickler().loads(message)
        deadline = None if timeout is None else time.monotonic() + timeout
        if not queue._rlock.acquire(block, timeout):
            raise Empty
        try:
            if not block or deadline is not None:
                left = max(0.0, deadline - time.monotonic()) if block and deadline is not None else 0.0
                if not queue._poll(left):
                    raise Empty
            message = queue._recv_bytes()
            queue._sem.release()
        finally:
            queue._rlock.release()
        # Not under the lock: it may take long, and may run code of the program.
        return _pickler().loads(message)

    def parts_of_feeder(self) -> tuple[Any, ...]:
        """Return the arguments of the thread that feeds the pipe."""
        queue = self._queue
        queue._buffer.clear()
        return (
            queue._buffer,
            queue._notempty,
            queue._send_bytes,
            queue._wlock,
            queue._reader.close,
            queue._writer.close,
            queue._ignore_epipe,
            queue._on_queue_feeder_error,
            queue._sem,
        )

    def waiting(self) -> int:
        """Return how many objects wait, beside those that the feeder has."""
        queue = self._queue
        return queue._maxsize - queue._sem.get_value() - len(queue._buffer)

    def is_full(self) -> bool:
        """Return whether there is no room."""
        return self._queue._sem.get_value() == 0

    def was_used(self) -> bool:
        """Return False: the feeder closes the ends."""
        return False

    def task_done(self) -> bool:
        """Count an object as done; False if none was left to be."""
        queue = self._queue
        with queue._cond:
            if not queue._unfinished_tasks.acquire(False):
                return False
            if queue._unfinished_tasks.get_value() == 0:
                queue._cond.notify_all()
        return True

    def join(self) -> None:
        """Wait until all is done."""
        queue = self._queue
        with queue._cond:
            if queue._unfinished_tasks.get_value() != 0:
                queue._cond.wait()


def feed(
    buffer: collections.deque[Any],
    notempty: threading.Condition,
    send_bytes: Any,
    writelock: Any,
    reader_close: Any,
    writer_close: Any,
    ignore_epipe: bool,
    onerror: Any,
    queue_sem: Any,
) -> None:
    """Send what is in `buffer`, until the sentinel comes: the body of the thread."""
    while True:
        with notempty:
            while not buffer:
                notempty.wait()
            obj = buffer.popleft()
        if obj is queues._sentinel:
            reader_close()
            writer_close()
            return
        try:
            message = _pickler().dumps(obj)
            with writelock:
                send_bytes(message)
        except Exception as error:
            if ignore_epipe and getattr(error, "errno", None) == errno.EPIPE:
                return
            if util.is_exiting():
                util.info("error in queue thread: %s", error)
                return
            # Nobody will take it.
            queue_sem.release()
            onerror(error, obj)
        # Not kept until the next one comes.
        obj = message = None
