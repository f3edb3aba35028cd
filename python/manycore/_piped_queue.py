"""Queues through a pipe, for subclasses that bring a feeder thread of their own.

Some libraries (loky, and so joblib) derive from `Queue` and `SimpleQueue` to pickle in their own way: they replace the
thread that writes into the standard package's pipe, or what it writes, and pickle the queue as its parts. Such a class
gets these methods, and with them the parts it expects: a pipe, a lock for each end, a semaphore that counts the room.
"""

from __future__ import annotations

import collections
import threading
import time
from queue import Empty, Full

from . import _forks, connection, reduction, synchronize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Queue", "SimpleQueue", "adapt"]


def adapt(cls: type, methods: type) -> None:
    """Give `cls` what `methods` defines and `cls` does not define itself."""
    for name, method in vars(methods).items():
        if callable(method) and name not in vars(cls):
            setattr(cls, name, method)


class Queue:
    """The methods of a `queues.Queue` whose subclass feeds it."""

    def _make(self, ctx: Any) -> None:
        self._reader, self._writer = connection.Pipe(duplex=False)
        self._rlock, self._wlock = ctx.Lock(), ctx.Lock()
        self._maxsize = min(self._maxsize, synchronize.SEM_VALUE_MAX)
        self._sem = ctx.BoundedSemaphore(self._maxsize)
        self._reset()
        _forks.renew(self, Queue._reset)

    def _reset(self) -> None:
        self._notempty = threading.Condition(threading.Lock())
        self._buffer: collections.deque[Any] = collections.deque()
        self._thread = None
        self._jointhread = None
        self._joincancelled = False
        self._closed = False
        self._close: Any = None
        self._send_bytes = self._writer.send_bytes
        self._recv_bytes = self._reader.recv_bytes
        self._poll = self._reader.poll

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """As `queues.Queue.put`; what cannot be pickled is found by the feeder."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        if not self._sem.acquire(block, timeout):
            raise Full
        with self._notempty:
            if self._thread is None:
                self._start_thread()  # type: ignore[attr-defined]
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
        return reduction.ForkingPickler.loads(message)

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
        self.cancel_join_thread()  # type: ignore[attr-defined]
        self.close()

    if TYPE_CHECKING:
        _maxsize: int


class SimpleQueue:
    """The methods of a `queues.SimpleQueue` whose subclass writes into it."""

    def _make(self, ctx: Any) -> None:
        self._reader, self._writer = connection.Pipe(duplex=False)
        self._rlock, self._wlock = ctx.Lock(), ctx.Lock()

    def get(self) -> Any:
        """As `queues.SimpleQueue.get`."""
        with self._rlock:
            message = self._reader.recv_bytes()
        return reduction.ForkingPickler.loads(message)

    def empty(self) -> bool:
        """As `queues.SimpleQueue.empty`."""
        return not self._reader.poll()

    def close(self) -> None:
        """As `queues.SimpleQueue.close`."""
        self._reader.close()
        self._writer.close()
