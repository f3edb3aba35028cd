"""Locks, semaphores, conditions, events and barriers between processes.

They stand in shared memory that goes with its last user, without names in the file system. An uncontended acquire costs
no system call; a waiter spins for as long as that has paid lately, then sleeps.

**When a process dies** (or ends) with one of these in its hands, nobody waits for it for longer than a moment:

* `Lock`, `RLock`, and the lock of a `Condition`: the next acquire gets the lock, and a `RuntimeWarning` says that what
  it protects may have been left half-changed.
* `Semaphore`, `BoundedSemaphore`: the units it had acquired come back. Not if units belong to nobody: that is so from
  the first release by a process that had acquired nothing, as when one process counts events for another.
* `Event`, `Condition`: one that waits and dies blocks nobody; a notification it had been given goes to another.
* `Barrier`: one that dies while it waits breaks the barrier. If the last one arrives before that is noticed (within a
  tenth of a second), the others go on.

A lock belongs to the process that has acquired it. If that one is to end and another to release it, use a semaphore.
"""

from __future__ import annotations

import os
import sys
import threading

from . import _engine, context, process, reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["BoundedSemaphore", "Condition", "Event", "Lock", "RLock", "Semaphore"]

RECURSIVE_MUTEX, SEMAPHORE = 0, 1
SEM_VALUE_MAX = _engine.SemLock.SEM_VALUE_MAX

# A semaphore of one unit that belongs to whoever has acquired it.
_LOCK = 2


# ----------------------------------------------------------------------------------------------------------------------
# On the way to a child


def _send(core: Any) -> tuple[Any, ...]:
    """Return where `core` stands, for `_receive` in the child that is being started."""
    region, offset = core._place()
    popen = context.get_spawning_popen()
    # One descriptor for each region and child, however many locks go along.
    sent = getattr(popen, "__dict__", {}).setdefault("_lock_regions", {})
    handle = sent.get(region.id)
    if handle is None:
        handle = sent[region.id] = reduction.DupFd(region.fileno())
    return region.id, handle, offset


def _receive(region_id: tuple[int, int], handle: Any, offset: int) -> tuple[_engine.LockRegion, int]:
    region = _engine.LockRegion.find(region_id)
    if region is None:
        region = _engine.LockRegion.attach(region_id, handle.detach())
    return region, offset


def _get_ctx(ctx: context.BaseContext | None) -> context.BaseContext:
    return context._default_context.get_context() if ctx is None else ctx


# ----------------------------------------------------------------------------------------------------------------------
# Locks and semaphores


class _Names:
    """Names for semaphores, as other libraries ask for them: eight letters and digits, at random."""

    def __iter__(self) -> _Names:
        return self

    def __next__(self) -> str:
        return os.urandom(4).hex()


class SemLock(_engine.SemLock):
    """The base of locks and semaphores. `kind` is RECURSIVE_MUTEX or SEMAPHORE.

    `ctx` is the context it is made for; one of a fork context cannot be sent to a process of another, as in the
    standard package.
    """

    _rand = _Names()

    def __new__(cls, kind: int, value: int, maxvalue: int, *, ctx: context.BaseContext | None) -> SemLock:
        return _engine.SemLock.__new__(cls, kind, value, maxvalue)

    def __init__(self, kind: int, value: int, maxvalue: int, *, ctx: context.BaseContext | None) -> None:
        self._set_context(ctx)

    def _set_context(self, ctx: context.BaseContext | None) -> None:
        self._is_fork_ctx = _get_ctx(ctx).get_start_method() == "fork"

    @property
    def _semlock(self) -> SemLock:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        context.assert_spawning(self)
        if self._is_fork_ctx:
            raise RuntimeError(
                "A SemLock created in a fork context is being shared with a process in a spawn context. "
                "This is not supported. Please use the same context to create manycore objects and Process."
            )
        return _rebuild_semlock, (type(self), self._style, self.maxvalue, *_send(self))

    @property
    def _style(self) -> int:
        return self.kind

    def _make_methods(self) -> None:
        """Do nothing: `acquire` and `release` are there. Subclasses that unpickle by themselves call it."""

    @staticmethod
    def _make_name() -> str:
        return f"{process.current_process()._config['semprefix']}-{next(SemLock._rand)}"


def _rebuild_semlock(cls: type[SemLock], style: int, maxvalue: int, *sent: Any) -> SemLock:
    lock = _engine.SemLock.__new__(cls, style, 0, maxvalue, _receive(*sent))
    lock._is_fork_ctx = False
    return lock


class Semaphore(SemLock):
    """A number of units: `acquire` takes one, waiting for it if there is none; `release` gives one.

    `value` is the number at first, from 0 to SEM_VALUE_MAX; ValueError otherwise.
    """

    def __new__(cls, value: int = 1, *, ctx: context.BaseContext | None) -> Semaphore:
        return _engine.SemLock.__new__(cls, SEMAPHORE, value, SEM_VALUE_MAX)

    def __init__(self, value: int = 1, *, ctx: context.BaseContext | None) -> None:
        self._set_context(ctx)

    def get_value(self) -> int:
        """Return the number of free units; it may have changed by then."""
        return self._get_value()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self._get_value()})>"


class BoundedSemaphore(Semaphore):
    """A semaphore whose value never rises above the one at first: `release` raises ValueError instead."""

    def __new__(cls, value: int = 1, *, ctx: context.BaseContext | None) -> BoundedSemaphore:
        return _engine.SemLock.__new__(cls, SEMAPHORE, value, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self._get_value()}, maxvalue={self.maxvalue})>"


class Lock(SemLock):
    """Mutual exclusion. Any process or thread may release it, also one that has not acquired it.

    `release` raises ValueError if nobody has acquired it.
    """

    def __new__(cls, *, ctx: context.BaseContext | None) -> Lock:
        return _engine.SemLock.__new__(cls, _LOCK, 1, 1)

    def __init__(self, *, ctx: context.BaseContext | None) -> None:
        self._set_context(ctx)

    @property
    def _style(self) -> int:
        return _LOCK

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(owner={_owner(self)})>"


class RLock(SemLock):
    """Mutual exclusion in which the owner, a thread of a process, may acquire again, and releases as often.

    `release` raises AssertionError in anybody else.
    """

    def __new__(cls, *, ctx: context.BaseContext | None) -> RLock:
        return _engine.SemLock.__new__(cls, RECURSIVE_MUTEX, 1, 1)

    def __init__(self, *, ctx: context.BaseContext | None) -> None:
        self._set_context(ctx)

    def __repr__(self) -> str:
        owner = _owner(self)
        count = self._count() if self._is_mine() else 0 if owner == "None" else "nonzero"
        return f"<{type(self).__name__}({owner}, {count})>"


def _owner(lock: SemLock) -> str:
    """Return the name of the owner of `lock`, as far as this process can tell."""
    if lock._is_mine():
        name = process.current_process().name
        thread = threading.current_thread().name
        return name if thread == "MainThread" else f"{name}|{thread}"
    if not lock._is_zero():
        return "None"
    return "SomeOtherThread" if lock._count() > 0 else "SomeOtherProcess"


for _class in (Semaphore, BoundedSemaphore, Lock, RLock):
    _engine.install_fast_methods(_class)
del _class


# ----------------------------------------------------------------------------------------------------------------------
# Condition


class Condition:
    """Waiting until another process or thread says that something has changed.

    `lock` is a `Lock` or `RLock` of this package, a new RLock if None. Whoever waits or notifies must have acquired it,
    or they raise AssertionError.
    """

    def __init__(self, lock: SemLock | None = None, *, ctx: context.BaseContext | None) -> None:
        self._lock = lock or _get_ctx(ctx).RLock()
        self._queue = _engine.Condition()
        self._make_methods()

    def _make_methods(self) -> None:
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *args: object) -> None:
        return self._lock.__exit__(*args)

    def __getstate__(self) -> tuple[Any, ...]:
        context.assert_spawning(self)
        return self._lock, _send(self._queue)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._lock, sent = state
        self._queue = _engine.Condition(_receive(*sent))
        self._make_methods()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._lock}, {self._queue.waiting()})>"

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait for a notification, acquire the lock again.

        Returns whether a notification came within `timeout` seconds (None: as long as it takes).
        """
        return self._queue.wait(self._lock._semlock, timeout)

    def notify(self, n: int = 1) -> None:
        """Wake the `n` that have waited longest, or all if there are fewer."""
        self._queue.notify(self._lock._semlock, n)

    def notify_all(self) -> None:
        """Wake all waiters."""
        self._queue.notify(self._lock._semlock, sys.maxsize)

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until `predicate()` is true, for `timeout` seconds at most. Returns its last value."""
        result = predicate()
        if result:
            return result
        end = None if timeout is None else _monotonic() + timeout
        while not result:
            left = None
            if end is not None:
                left = end - _monotonic()
                if left <= 0:
                    break
            self.wait(left)
            result = predicate()
        return result

    # How many sleep and how many of them were woken, as if these were semaphores.
    @property
    def _sleeping_count(self) -> _Number:
        return _Number(self._queue.waiting())

    @property
    def _woken_count(self) -> _Number:
        return _Number(0)

    @property
    def _wait_semaphore(self) -> _Number:
        return _Number(0)


class _Number:
    """What a semaphore would say."""

    def __init__(self, value: int) -> None:
        self._value = value

    def get_value(self) -> int:
        return self._value


def _monotonic() -> float:
    import time

    return time.monotonic()


# ----------------------------------------------------------------------------------------------------------------------
# Event


class Event(_engine.Event):
    """A flag that processes wait for. Whoever waits when it is set goes on, even if it is cleared at once."""

    def __new__(cls, *, ctx: context.BaseContext | None) -> Event:
        return _engine.Event.__new__(cls)

    def __init__(self, *, ctx: context.BaseContext | None) -> None:
        pass

    def __reduce__(self) -> tuple[Any, ...]:
        context.assert_spawning(self)
        return _rebuild_event, (type(self), *_send(self))

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} at {id(self):#x} {'set' if self.is_set() else 'unset'}>"


def _rebuild_event(cls: type[Event], *sent: Any) -> Event:
    return _engine.Event.__new__(cls, _receive(*sent))


# ----------------------------------------------------------------------------------------------------------------------
# Barrier


class Barrier(threading.Barrier):
    """A place where `parties` threads or processes wait until all of them are there.

    One of them then calls `action`, if there is one, before they go on. `timeout` is the default of `wait`. A barrier
    that somebody did not wait long enough at, or that was aborted, is broken until it is reset. ValueError if `parties`
    is not positive.
    """

    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        ctx: context.BaseContext | None,
    ) -> None:
        # The base gives the type and the repr; its state would be this process's own.
        self._core = _engine.Barrier(parties)
        self._action, self._timeout = action, timeout

    def __getstate__(self) -> tuple[Any, ...]:
        context.assert_spawning(self)
        return self._action, self._timeout, _send(self._core)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._action, self._timeout, sent = state
        self._core = _engine.Barrier(1, _receive(*sent))

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all are there. Returns the number of this one among them, from 0 to `parties` - 1.

        Raises BrokenBarrierError if the barrier is or becomes broken, as it does when `timeout` seconds are over, when
        it is reset, when `action` raises, and when one that waits dies.
        """
        arrival = self._core.wait(self._action is not None, self._timeout if timeout is None else timeout)
        if arrival is None:
            raise threading.BrokenBarrierError
        number, acts = arrival
        if acts:
            try:
                self._action()  # type: ignore[misc]
            except BaseException:
                self._core.abort()
                raise
            self._core.open()
        return number

    def reset(self) -> None:
        """Begin anew. Whoever waits gets BrokenBarrierError."""
        self._core.reset()

    def abort(self) -> None:
        """Break the barrier: whoever waits or comes gets BrokenBarrierError, until it is reset."""
        self._core.abort()

    @property
    def parties(self) -> int:
        """How many must be there."""
        return self._core.parties

    @property
    def n_waiting(self) -> int:
        """How many wait now."""
        return self._core.n_waiting

    @property
    def broken(self) -> bool:
        """Whether the barrier is broken."""
        return self._core.broken

    # The base's own, by which it says what it is doing; other libraries look at them.

    @property
    def _state(self) -> int:
        return -2 if self._core.broken else 0

    @property
    def _count(self) -> int:
        return self._core.n_waiting


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
