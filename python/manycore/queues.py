"""Queues between processes: `Queue`, `JoinableQueue` and `SimpleQueue`.

A queue is a channel of the engine: a piece of shared memory in which `put` leaves a message by one store and `get`
takes it by one. No thread carries messages. Only when an unbounded queue finds no address space left does its process
keep messages to itself, and a thread that sends them as others are taken, as the standard package's does always.

A process that is killed in the midst of `put` or `get` leaves the queue whole, and nobody waits for it.
"""

from __future__ import annotations

import collections
import os
import sys
import threading
import types
import weakref
from queue import Empty as Empty
from queue import Full as Full

from . import _engine, context, reduction
from .util import Finalize, debug

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["JoinableQueue", "Queue", "SimpleQueue"]

# What the standard package calls unbounded: the largest value of a semaphore.
_UNBOUNDED = 2**31 - 1

# What ends a feeder thread; subclasses that bring their own thread import it.
_sentinel = object()

# Every queue of this process by its id, for what a fork asks of them.
_known: weakref.WeakValueDictionary[int, Queue | SimpleQueue] = weakref.WeakValueDictionary()


def _before_fork() -> None:
    for queue in [known() for known in _known.valuerefs()]:
        if queue is not None:
            queue._channel.before_fork()


def _after_fork_in_child() -> None:
    for queue in [known() for known in _known.valuerefs()]:
        if queue is not None:
            queue._after_fork()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


# Programs give queues another pickler by replacing `_ForkingPickler`.
sys.modules[__name__].__class__ = reduction.Watched


class _Closed:
    """In the place of a channel that was closed."""

    def _refuse(self, *_: object) -> Any:
        raise OSError("handle is closed")

    put = get = poll = watch = handles = _refuse

    def before_fork(self) -> None:
        pass

    def after_fork(self) -> None:
        pass


_CLOSED: Any = _Closed()


class _End:
    """What other libraries know as one of the two connections of a queue. It may be used instead of the queue."""

    _channel: Any

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    @property
    def closed(self) -> bool:
        """Whether it was closed in this process."""
        return self._channel is _CLOSED

    def close(self) -> None:
        """Close it, in this process."""
        self._channel = _CLOSED

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._rebuild, _handles(self, self._channel)

    @classmethod
    def _rebuild(cls, *handles: Any) -> Any:
        return cls(_attach(handles))


class _Reader(_End):
    readable, writable = True, False

    def fileno(self) -> int:
        """Return a descriptor that is readable exactly while messages wait."""
        return self._channel.watch()

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Return whether a message waits within `timeout` seconds; None: wait as long as it takes."""
        return self._channel.poll(timeout)

    def recv(self) -> Any:
        """Return the next object, as soon as there is one."""
        return self._channel.get(True, None)

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Return the next object as a pickle. OSError if that has more than `maxlength` bytes."""
        data = bytes((reduction.replaced_pickler() or reduction._OwnPickler).dumps(self.recv()))
        if maxlength is not None and len(data) > maxlength:
            raise OSError(f"a message of {len(data)} bytes is longer than {maxlength}")
        return data


class _Writer(_End):
    readable, writable = False, True

    def fileno(self) -> int:
        """Return a descriptor that is always writable."""
        return self._channel.handles()[1]

    def send(self, obj: Any) -> None:
        """Put `obj`."""
        self._channel.put(None, obj, True, None)

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """Put the object that `buf` is a pickle of."""
        data = memoryview(buf).cast("B")[offset:]
        pickler = reduction.replaced_pickler() or reduction._OwnPickler
        self.send(pickler.loads(data if size is None else data[:size]))


def _handles(owner: object, channel: Any) -> tuple[Any, Any]:
    """The channel's descriptors, to be pickled for a process that is being started."""
    context.assert_spawning(owner)
    file, bell = channel.handles()
    return reduction.DupFd(file), reduction.DupFd(bell)


def _attach(handles: tuple[Any, ...]) -> _engine.Channel:
    file, bell = handles
    return _engine.Channel.attach(file.detach(), bell.detach())


def _new(queue: Any, *ours: type) -> Any:
    """Return `queue`, which was made just now. One of a subclass may need the parts of the standard package's."""
    if type(queue) not in ours:
        from . import _piped_queue

        if _piped_queue.is_piped(type(queue)):
            queue._channel = _piped_queue.Piped(queue)
    return queue


def _piped_of(queue: Any) -> Any:
    """Return what `_new` has put in the place of a queue's channel, or None. To be asked before there is a channel."""
    try:
        # Not by a `__getattr__` of a subclass; nor of the dict of its attributes, which once asked for makes them slow.
        return object.__getattribute__(queue, "_channel")
    except AttributeError:
        return None


def _is_piped(queue: Any) -> bool:
    return not isinstance(queue._channel, (_engine.Channel, _Closed))


class Queue:
    """A first-in first-out queue of objects for any number of processes that put and get.

    `maxsize` limits how many objects may wait; 0 or less: any number. It may be passed to a child in the arguments of a
    Process, or to the workers of a pool in `initargs`.
    """

    _channel: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return _new(super().__new__(cls), Queue, JoinableQueue)

    def __init__(self, maxsize: int = 0, *, ctx: Any) -> None:
        if maxsize <= 0:
            maxsize = _UNBOUNDED
        self._maxsize = maxsize
        self._opid = os.getpid()
        self._ignore_epipe = False
        self._make(ctx)

    def _make(self, ctx: Any) -> None:
        piped = _piped_of(self)
        if piped is None:
            self._open(_engine.Channel(None if self._maxsize >= _UNBOUNDED else self._maxsize))
        else:
            piped.make(ctx)

    def _open(self, channel: _engine.Channel) -> None:
        self._channel = channel
        self._reader, self._writer = _Reader(channel), _Writer(channel)
        self._reset()
        _known[id(self)] = self

    def _reset(self, after_fork: bool = False) -> None:
        self._notempty = threading.Condition(threading.Lock())
        self._buffer: collections.deque[Any] = collections.deque()
        self._thread: threading.Thread | None = None
        self._jointhread: Callable[[], object] | None = None
        self._joincancelled = False
        self._closed = False
        self._close: Callable[[], object] | None = None
        if _is_piped(self):
            self._channel.bind()

    def _after_fork(self) -> None:
        """In a forked child: what the parent keeps to itself is the parent's business."""
        self._reset()
        channel = self._channel.after_fork()
        if channel is not None:
            self._channel = channel
            for end in (self._reader, self._writer):
                if not end.closed:
                    end._channel = channel

    def __getstate__(self) -> tuple[Any, ...]:
        if _is_piped(self):
            return self._channel.state()
        return (self._ignore_epipe, self._maxsize, _handles(self, self._channel), self._opid)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        piped = _piped_of(self)
        if piped is not None:
            piped.restore(state)
            return
        self._ignore_epipe, self._maxsize, handles, self._opid = state
        self._open(_attach(handles))

    __class_getitem__ = classmethod(types.GenericAlias)

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put `obj`, waiting while `maxsize` objects wait: for `timeout` seconds (None: as long as it takes), or not.

        Raises queue.Full when there was no room, ValueError when the queue was closed in this process. An object that
        cannot be pickled is reported to `_on_queue_feeder_error`, and not put.
        """
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        if self._buffer and not _is_piped(self):
            # What is kept already goes first.
            message = self._channel.encode(self, obj)
        else:
            message = self._channel.put(self, obj, block, timeout)
        if message is not None:
            self._put_later(message)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take and return the next object, waiting for `timeout` seconds (None: as long as it takes), or not.

        Raises queue.Empty when there was none, ValueError when the queue was closed in this process.
        """
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        return self._channel.get(block, timeout)

    def qsize(self) -> int:
        """Return how many objects wait."""
        return self._channel.waiting() + len(self._buffer)

    def empty(self) -> bool:
        """Return whether no object waits. OSError when the queue was used and closed in this process."""
        return not self._reader.poll()

    def full(self) -> bool:
        """Return whether `maxsize` objects wait."""
        return self._channel.is_full()

    def get_nowait(self) -> Any:
        """Take and return the next object. Raises queue.Empty if there is none."""
        return self.get(False)

    def put_nowait(self, obj: Any) -> None:
        """Put `obj`. Raises queue.Full if `maxsize` objects wait."""
        return self.put(obj, False)

    def close(self) -> None:
        """Say that this process will put and get nothing more. What it has put stays."""
        self._closed = True
        if self._channel.was_used():
            self._reader.close()
        close, self._close = self._close, None
        if close is not None:
            close()

    def join_thread(self) -> None:
        """Wait until what this process keeps is in shared memory. Only after `close()`."""
        debug("Queue.join_thread()")
        assert self._closed, f"Queue {self!r} not closed"
        if self._jointhread is not None:
            self._jointhread()

    def cancel_join_thread(self) -> None:
        """Let this process end although it keeps objects, which are lost then."""
        debug("Queue.cancel_join_thread()")
        self._joincancelled = True
        cancel = getattr(self._jointhread, "cancel", None)
        if cancel is not None:
            cancel()

    def _terminate_broken(self) -> None:
        """Close the queue, and forget what this process keeps: nobody will take it."""
        if _is_piped(self):
            # A feeder in the midst of a write must fail, not wait.
            self._reader.close()
        else:
            self._buffer.clear()
        self.cancel_join_thread()
        self.close()

    # --- objects that must wait in this process

    def _put_later(self, message: tuple[int, bytes]) -> None:
        with self._notempty:
            self._buffer.append(message)
            if self._thread is None:
                self._start_thread()
            self._notempty.notify()

    def _start_thread(self) -> None:
        feed: Callable[..., None] = Queue._feed_channel
        parts: tuple[Any, ...] = self._buffer, self._notempty, self._channel
        if _is_piped(self):
            feed, parts = Queue._feed, self._channel.parts_of_feeder()
        self._thread = threading.Thread(target=feed, args=parts, name="QueueFeederThread", daemon=True)
        self._thread.start()
        if not self._joincancelled:
            # Before the process ends, and after everything else that may still put.
            self._jointhread = Finalize(
                self._thread, Queue._finalize_join, [weakref.ref(self._thread)], exitpriority=-5
            )
        self._close = Finalize(self, Queue._finalize_close, [self._buffer, self._notempty], exitpriority=10)

    @staticmethod
    def _feed(*parts: Any) -> None:
        """Feed a pipe: the body of the standard package's thread, for subclasses that start it themselves."""
        # Loaded, or there would be no such parts; a thread of ours imports nothing.
        sys.modules[f"{__package__}._piped_queue"].feed(*parts)

    @staticmethod
    def _feed_channel(buffer: collections.deque[Any], notempty: threading.Condition, channel: _engine.Channel) -> None:
        while True:
            with notempty:
                while not buffer:
                    notempty.wait()
                message = buffer[0]
            if message is _sentinel:
                return
            channel.put_encoded(*message)
            # Only now: whoever puts meanwhile must find that something is kept.
            if buffer:
                buffer.popleft()

    @staticmethod
    def _finalize_join(thread: weakref.ref[threading.Thread]) -> None:
        feeder = thread()
        if feeder is not None:
            feeder.join()

    @staticmethod
    def _finalize_close(buffer: collections.deque[Any], notempty: threading.Condition) -> None:
        with notempty:
            buffer.append(_sentinel)
            notempty.notify()

    @staticmethod
    def _on_queue_feeder_error(e: BaseException, obj: Any) -> None:
        """Be told that `obj` cannot be pickled, because of `e`. To be overridden; prints the traceback."""
        import traceback

        traceback.print_exception(e, file=sys.stderr)


class _Unfinished:
    """`JoinableQueue._unfinished_tasks`, for programs that want to know how many there are: like a semaphore."""

    def __init__(self, channel: Any = None) -> None:
        self._channel = channel

    def __get__(self, queue: Any, cls: Any) -> _Unfinished:
        return self if queue is None else _Unfinished(queue._channel)

    def get_value(self) -> int:
        """Return how many objects were put whose work is not done."""
        return self._channel.unfinished()

    _get_value = get_value

    def _is_zero(self) -> bool:
        return self.get_value() == 0

    @property
    def _semlock(self) -> _Unfinished:
        return self


class JoinableQueue(Queue):
    """A `Queue` that counts the objects whose work is not done.

    What finds no address space left waits in `put`, so that the count is the same in every process.
    """

    _unfinished_tasks: Any = _Unfinished()

    def task_done(self) -> None:
        """Say that the work on an object from `get()` is done. Raises ValueError if called more often than `put()`."""
        if not self._channel.task_done():
            raise ValueError("task_done() called too many times")

    def join(self) -> None:
        """Wait until `task_done()` was called for every object that was put."""
        self._channel.join()

    def _put_later(self, message: tuple[int, bytes]) -> None:
        self._channel.put_encoded(*message)


class SimpleQueue:
    """An unbounded queue with nothing but `put`, `get` and `empty`. It travels as a `Queue` does."""

    _channel: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return _new(super().__new__(cls), SimpleQueue)

    def __init__(self, *, ctx: Any) -> None:
        self._make(ctx)

    def _make(self, ctx: Any) -> None:
        piped = _piped_of(self)
        if piped is None:
            self._open(_engine.Channel())
        else:
            piped.make(ctx)

    def _open(self, channel: _engine.Channel) -> None:
        self._channel = channel
        self._reader, self._writer = _Reader(channel), _Writer(channel)
        _known[id(self)] = self

    def _after_fork(self) -> None:
        channel = self._channel.after_fork()
        if channel is not None:
            self._channel = self._reader._channel = self._writer._channel = channel

    def __getstate__(self) -> tuple[Any, ...]:
        return self._channel.state() if _is_piped(self) else _handles(self, self._channel)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        piped = _piped_of(self)
        if piped is None:
            self._open(_attach(state))
        else:
            piped.restore(state)

    __class_getitem__ = classmethod(types.GenericAlias)

    def put(self, obj: Any) -> None:
        """Put `obj`. Raises what its pickling raises, OSError when the queue was closed in this process."""
        self._channel.put(None, obj, True, None)

    def get(self) -> Any:
        """Take and return the next object, as soon as there is one. OSError when closed in this process."""
        return self._channel.get(True, None)

    def empty(self) -> bool:
        """Return whether no object waits. OSError when the queue was closed in this process."""
        return not self._reader.poll()

    def close(self) -> None:
        """Close the queue in this process."""
        self._channel = _CLOSED
        self._reader.close()
        self._writer.close()


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
