"""Queues through a pipe, for subclasses that use the parts of the standard package's queues.

Some libraries (loky, and so joblib) derive from `Queue` and `SimpleQueue` to pickle in their own way: they replace the
thread that writes into the pipe, or what it writes, and pickle the queue as its parts. Programs derive from them to
look before they read under the reader's lock, or to join a `JoinableQueue` with a time limit. Such a class gets these
classes between itself and ours, and with them the parts that it expects: a pipe, a lock for each end, a semaphore that
counts the room. What a channel promises beyond the standard package, these queues do not.
"""

from __future__ import annotations

import collections
import errno
import threading
import time
import weakref
from queue import Empty, Full

from . import _forks, connection, queues, reduction, synchronize, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["JoinableQueue", "Queue", "SimpleQueue", "adapt"]


def adapt(cls: type, ours: type) -> None:
    """Put the queue through a pipe that is like our class `ours` into the bases of `cls`, in front of `ours`."""
    piped = {queues.Queue: Queue, queues.JoinableQueue: JoinableQueue, queues.SimpleQueue: SimpleQueue}[ours]
    if not issubclass(cls, piped):
        bases = tuple(piped if base is ours else base for base in cls.__bases__)
        cls.__bases__ = bases if piped in bases else (*bases, piped)


def _pickler() -> Any:
    return reduction.replaced_pickler() or reduction._OwnPickler


class Queue(queues.Queue):
    """A `queues.Queue` through a pipe, which a thread feeds."""

    def _make(self, ctx: Any) -> None:
        self._reader, self._writer = connection.Pipe(duplex=False)
        self._rlock, self._wlock = ctx.Lock(), ctx.Lock()
        self._maxsize = min(self._maxsize, synchronize.SEM_VALUE_MAX)
        self._sem = ctx.BoundedSemaphore(self._maxsize)
        self._begin()

    def _begin(self) -> None:
        self._reset()
        _forks.renew(self, Queue._reset)

    def _reset(self) -> None:
        super()._reset()
        self._send_bytes = self._writer.send_bytes
        self._recv_bytes = self._reader.recv_bytes
        self._poll = self._reader.poll

    def __getstate__(self) -> tuple[Any, ...]:
        parts = self._reader, self._writer, self._rlock, self._wlock, self._sem
        return (self._ignore_epipe, self._maxsize, *parts, self._opid)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._ignore_epipe, self._maxsize, *parts, self._opid = state
        self._reader, self._writer, self._rlock, self._wlock, self._sem = parts
        self._begin()

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """As `queues.Queue.put`; what cannot be pickled is found by the feeder."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        if not self._sem.acquire(block, timeout):
            raise Full
        with self._notempty:
            self._keep(obj)

    def _keep(self, obj: Any) -> None:
        """Leave `obj` to the feeder. Called with `_notempty` in hand."""
        if self._thread is None:
            self._start_thread()
        self._buffer.append(obj)
        self._notempty.notify()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """As `queues.Queue.get`."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._rlock.acquire(block, timeout):
            raise Empty
        try:
            if not block or deadline is not None:
                left = max(0.0, deadline - time.monotonic()) if block and deadline is not None else 0.0
                if not self._poll(left):
                    raise Empty
            message = self._recv_bytes()
            self._sem.release()
        finally:
            self._rlock.release()
        # Not under the lock: it may take long, and may run code of the program.
        return _pickler().loads(message)

    def qsize(self) -> int:
        """As `queues.Queue.qsize`."""
        return self._maxsize - self._sem.get_value()

    def empty(self) -> bool:
        """As `queues.Queue.empty`."""
        return not self._poll()

    def full(self) -> bool:
        """As `queues.Queue.full`."""
        return self._sem.get_value() == 0

    def close(self) -> None:
        """As `queues.Queue.close`."""
        self._closed = True
        close, self._close = self._close, None
        if close is not None:
            close()

    def _terminate_broken(self) -> None:
        # Nobody reads any more: a feeder in the midst of a write must fail, not wait.
        self._reader.close()
        self.cancel_join_thread()
        self.close()

    def _start_thread(self) -> None:
        self._buffer.clear()
        parts: tuple[Any, ...] = (
            self._buffer,
            self._notempty,
            self._send_bytes,
            self._wlock,
            self._reader.close,
            self._writer.close,
            self._ignore_epipe,
            self._on_queue_feeder_error,
            self._sem,
        )
        self._thread = threading.Thread(target=Queue._feed, args=parts, name="QueueFeederThread", daemon=True)
        self._thread.start()
        if not self._joincancelled:
            self._jointhread = util.Finalize(
                self._thread, Queue._finalize_join, [weakref.ref(self._thread)], exitpriority=-5
            )
        self._close = util.Finalize(self, Queue._finalize_close, [self._buffer, self._notempty], exitpriority=10)

    @staticmethod
    def _feed(  # type: ignore[override]
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
        """Send what is in `buffer`, until the sentinel comes. The thread's body."""
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


class JoinableQueue(Queue, queues.JoinableQueue):  # type: ignore[misc]
    """A `queues.JoinableQueue` through a pipe."""

    def _make(self, ctx: Any) -> None:
        super()._make(ctx)
        self._unfinished_tasks, self._cond = ctx.Semaphore(0), ctx.Condition()

    def __getstate__(self) -> tuple[Any, ...]:
        return (*super().__getstate__(), self._cond, self._unfinished_tasks)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *state_of_queue, self._cond, self._unfinished_tasks = state
        super().__setstate__(tuple(state_of_queue))

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """As `queues.Queue.put`."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        if not self._sem.acquire(block, timeout):
            raise Full
        with self._notempty, self._cond:
            self._unfinished_tasks.release()
            self._keep(obj)

    def task_done(self) -> None:
        """As `queues.JoinableQueue.task_done`."""
        with self._cond:
            if not self._unfinished_tasks.acquire(False):
                raise ValueError("task_done() called too many times")
            if self._unfinished_tasks.get_value() == 0:
                self._cond.notify_all()

    def join(self) -> None:
        """As `queues.JoinableQueue.join`."""
        with self._cond:
            if self._unfinished_tasks.get_value() != 0:
                self._cond.wait()


class SimpleQueue(queues.SimpleQueue):
    """A `queues.SimpleQueue` through a pipe."""

    def _make(self, ctx: Any) -> None:
        # Not by `__setstate__`, which may be the subclass's, with parts of its own.
        self._have(*connection.Pipe(duplex=False), ctx.Lock(), ctx.Lock())

    def __getstate__(self) -> tuple[Any, ...]:
        return self._reader, self._writer, self._rlock, self._wlock

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._have(*state)

    def _have(self, reader: Any, writer: Any, rlock: Any, wlock: Any) -> None:
        self._reader, self._writer, self._rlock, self._wlock = reader, writer, rlock, wlock
        self._poll = reader.poll

    def put(self, obj: Any) -> None:
        """As `queues.SimpleQueue.put`."""
        message = _pickler().dumps(obj)
        with self._wlock:
            self._writer.send_bytes(message)

    def get(self) -> Any:
        """As `queues.SimpleQueue.get`."""
        with self._rlock:
            message = self._reader.recv_bytes()
        return _pickler().loads(message)

    def empty(self) -> bool:
        """As `queues.SimpleQueue.empty`."""
        return not self._reader.poll()

    def close(self) -> None:
        """As `queues.SimpleQueue.close`."""
        self._reader.close()
        self._writer.close()
