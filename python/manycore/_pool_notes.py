"""Which worker of a hooked pool has which task, so that every task gets an answer when workers die.

A task goes through a queue that may be the program's own, to a worker that may run a function of the program's own. So
all that is known for sure is what comes back, in the order in which it was sent: answers, and notes (see `_pool_work`).
Everything that is found out about workers goes through that queue, too, and is judged where the answers are read: then
all that a dead worker has sent has been read before.

A worker that dies fails the task that it has claimed. That is not all: it may have taken one and not have lived to say
so, and workers with a function of the program's own never say so. So the tasks in the queue at a death are *suspects*.
One that is claimed or answered later was not lost. For the others it is waited until all of them have left the queue,
which a task behind them shows, or the empty queue. Then they are in the hands of a living worker, or nobody's. Each
worker that says nothing is asked to end, by a None in the queue, and replaced: what it had is answered by then. What no
worker can have any more has failed with the one that died.

A worker that is killed in the midst of reading from a pipe of the program's own leaves the rest of a message there. The
next reader takes that for a message: it fails, or waits for ever for what it takes for a long message, and swallows the
tasks that come. So, in such a pool, every end after a kill is suspicious. A worker that was asked to end and goes on
waiting for tasks is killed (`_pool_hooks`): the pipe is empty then, and in step again.
"""

from __future__ import annotations

import itertools
import threading
import weakref

from . import _remote
from ._pool_work import FAILED, NOTES, READY
from .context import WorkerLost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ._pool_results import Cache

    # The number of a job, and of a task of it.
    Key = tuple[int, int]

__all__ = ["Notes"]

# What the thread that looks after the workers says: one has ended; a worker can have a suspect only if it is among
# these; none of them is left.
ENDED, OUT, GONE = "ended", "out", "gone"

# Workers in a row that end by their own error before they have done anything: no other would do better.
FUTILE_STARTS = 3

# Seconds between two looks at what waits for workers that say nothing.
LOOK_AGAIN = 0.05
# Seconds, at most, before a worker is started after others were killed in their start.
LONGEST_PAUSE = 1.0


class _Task:
    """A task that is with the workers."""

    __slots__ = ("claim", "name", "number", "sent")

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        # Whether all of it is in the queue, or has been.
        self.sent = False
        # Which process has it.
        self.claim: int | None = None


class _Suspicion:
    """Tasks that a dead worker may have taken, or spoilt for the next reader."""

    def __init__(self, keys: set[Key], last: int, pid: int, exitcode: int | None, is_torn: bool) -> None:
        self.keys = keys
        self.last = last
        self.pid, self.exitcode = pid, exitcode
        # Whether tasks that were given since may be spoilt, too: until one of them is claimed or answered.
        self.is_torn = is_torn
        # The workers that may have one of them, once all have left the queue.
        self.holders: set[int] | None = None
        self.asked = False


class Notes:
    """What a pool knows of its tasks and workers. Answers and notes come in by one thread, through `cache`."""

    def __init__(self, cache: Cache) -> None:
        self._cache = weakref.ref(cache)
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._tasks: dict[Key, _Task] = {}
        # The latest of the tasks that are known to have left the queue.
        self._reached = -1
        # Tasks that were failed here: an answer that comes all the same is none.
        self._lost: set[Key] = set()
        self._ready: set[int] = set()
        self._suspicions: dict[int, _Suspicion] = {}
        # Notes on the ends of workers that are on their way.
        self._expected = 0
        self._futile = 0
        self._killed = 0
        # How often workers were asked to end, by a None that is in the queue, or was.
        self.ends_asked = 0
        # Why no task is answered by a worker any more.
        self.broken: BaseException | None = None

    # ------------------------------------------------------------------------------------------------------------------
    # The thread that gives tasks

    def give(self, key: Key, name: str) -> BaseException | None:
        """Note that a task, which errors call `name`, goes to the workers; return why it need not."""
        with self._lock:
            if self.broken is None:
                self._tasks[key] = _Task(next(self._numbers), name)
            return self.broken

    def sent(self, key: Key) -> None:
        """Note that a task is in the queue."""
        with self._lock:
            if key in self._tasks:
                self._tasks[key].sent = True

    def take_back(self, key: Key) -> None:
        """Note that a task could not be given."""
        with self._lock:
            self._tasks.pop(key, None)

    # ------------------------------------------------------------------------------------------------------------------
    # The thread that takes answers

    def answers(self, key: Key) -> bool:
        """Note that the answer of a task has come; return whether it is one: the task may have been failed before."""
        with self._lock:
            task = self._tasks.pop(key, None)
            if task is not None:
                self._reached = max(self._reached, task.number)
                self._futile = self._killed = 0
            return key not in self._lost

    def _set(self, subject: Any, what: Any) -> None:
        """Take in a note."""
        with self._lock:
            if subject == READY:
                self._ready.add(what)
                self._futile = self._killed = 0
            elif subject == FAILED:
                self.break_off(what[1])
            elif subject == ENDED:
                self._bury(*what)
            elif subject == OUT:
                self._see_holders(*what)
            elif subject == GONE:
                self._give_up(what)
            else:
                self._claim(tuple(subject), what)

    def _claim(self, key: Key, pid: int) -> None:
        task = self._tasks.get(key)
        if task is not None:
            task.claim = pid
            self._reached = max(self._reached, task.number)
        for suspicion in self._suspicions.values():
            if suspicion.holders is not None:
                # It takes one at a time.
                suspicion.holders.discard(pid)

    def _bury(self, pid: int, exitcode: int | None, is_torn: bool, was_asked: bool) -> None:
        self._expected -= 1
        was_ready = pid in self._ready
        self._ready.discard(pid)
        for key, task in list(self._tasks.items()):
            if task.claim == pid:
                self._lose(key, WorkerLost(pid, exitcode, None, task.name))
        if exitcode == 0 and (was_asked or (was_ready and not is_torn)):
            # It was asked to end, or says what it takes: it has ended between two tasks.
            return
        if not was_ready and exitcode is not None and exitcode != 0:
            if exitcode > 0:
                self._futile += 1
            else:
                self._killed += 1
            if self._futile >= FUTILE_STARTS:
                self.break_off(_remote.start_lost(pid, exitcode))
                return
        number = next(self._numbers)
        keys = self._unknown(number)
        if keys or is_torn:
            self._suspicions[number] = _Suspicion(keys, number, pid, exitcode, is_torn)

    def _unknown(self, before: int) -> set[Key]:
        """Return the tasks given before a number that nobody has claimed, and that are suspects of no death."""
        known: set[Key] = set().union(*(suspicion.keys for suspicion in self._suspicions.values()))
        return {
            key for key, task in self._tasks.items() if task.claim is None and task.number < before and key not in known
        }

    def _see_holders(self, number: int, alive: Iterable[int]) -> None:
        suspicion = self._suspicions.get(number)
        if suspicion is not None and suspicion.holders is None:
            busy = {task.claim for task in self._tasks.values()}
            suspicion.holders = set(alive) - busy

    def _give_up(self, number: int) -> None:
        suspicion = self._suspicions.pop(number, None)
        if suspicion is not None:
            for key in self._open(suspicion):
                self._lose(key, WorkerLost(suspicion.pid, suspicion.exitcode, None, self._tasks[key].name))

    def _open(self, suspicion: _Suspicion) -> set[Key]:
        """Return those of the suspects that nobody has claimed or answered."""
        tasks = self._tasks
        return {key for key in suspicion.keys if key in tasks and tasks[key].claim is None}

    def _lose(self, key: Key, reason: BaseException) -> None:
        cache = self._cache()
        result = None if cache is None else cache.get(key[0])
        if result is not None:
            result._set(key[1], (False, reason))
        self._tasks.pop(key, None)
        self._lost.add(key)

    def break_off(self, reason: BaseException) -> None:
        """Fail everything, and whatever comes."""
        with self._lock:
            # The first reason is the true one: what comes after is its consequence.
            self.broken = reason = self.broken or reason
            self._tasks.clear()
            self._suspicions.clear()
        self.fail_all(reason)

    def fail_all(self, reason: BaseException) -> None:
        """Fail every open result."""
        cache = self._cache()
        for result in [] if cache is None else list(cache.values()):
            try:
                fail: Callable[[BaseException], object] | None = getattr(result, "_fail", None)
                if fail is not None:
                    fail(reason)
                else:
                    result._set(0, (False, reason))
            except Exception:
                # A class of the program's own, with another idea of its end.
                pass

    # ------------------------------------------------------------------------------------------------------------------
    # The thread that looks after the workers

    def look(self, alive: set[int], is_empty: Callable[[], bool]) -> tuple[list[Any], set[int]]:
        """Go on with what is suspected: return the notes to send, and which workers are to be asked to end.

        `alive` are the processes there are; `is_empty` says whether the queue of tasks is empty.
        """
        notes: list[Any] = []
        asked: set[int] = set()
        with self._lock:
            for number, suspicion in list(self._suspicions.items()):
                if suspicion.is_torn and not self._takes_in_later_ones(suspicion, is_empty):
                    continue
                suspicion.keys = self._open(suspicion)
                if not suspicion.keys:
                    del self._suspicions[number]
                elif not suspicion.asked:
                    if self._reached > suspicion.last or self._have_left(suspicion.keys, is_empty):
                        suspicion.asked = True
                        notes.append((NOTES, OUT, (number, sorted(alive))))
                elif suspicion.holders is not None:
                    suspicion.holders &= alive
                    if not suspicion.holders:
                        notes.append((NOTES, GONE, number))
                    elif is_empty():
                        asked |= suspicion.holders
        return notes, asked

    def _takes_in_later_ones(self, suspicion: _Suspicion, is_empty: Callable[[], bool]) -> bool:
        """Suspect also the tasks given since the death, once it is clear which; return whether it is."""
        if self._reached > suspicion.last:
            # A task given since has been understood: the tasks after that one are in order.
            keys = suspicion.keys | self._unknown(self._reached)
        else:
            keys = suspicion.keys | self._unknown(next(self._numbers))
            if not (keys and self._have_left(keys, is_empty)):
                return False
        suspicion.keys, suspicion.is_torn = keys, False
        return True

    def _have_left(self, keys: Iterable[Key], is_empty: Callable[[], bool]) -> bool:
        # In this order: a task that is still being put into the queue is not in it.
        return all(self._tasks[key].sent for key in keys if key in self._tasks) and is_empty()

    def expect(self) -> None:
        """Be told that a note on the end of a worker is sent."""
        with self._lock:
            self._expected += 1

    @property
    def expects(self) -> bool:
        """Whether a note on the end of a worker is on its way."""
        return self._expected > 0

    @property
    def suspects(self) -> bool:
        """Whether there is something to look at, or will be."""
        return bool(self._suspicions or self._expected)

    @property
    def pause(self) -> float:
        """Seconds to wait before a worker is started: some, if those before it were killed in their start."""
        return min(LONGEST_PAUSE, LOOK_AGAIN * self._killed)
