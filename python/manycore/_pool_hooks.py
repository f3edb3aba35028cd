"""The parts of the standard package's pool that ours does without, for programs that replace, call or read them.

`Pool` finds them here when somebody asks (`_pool_parts`). A class or a program that replaces one gets a *hooked pool*:
the engine stays out of it, tasks and answers go through queues in Python, and three threads call these parts, as the
standard package's threads do. One looks after the workers, one puts tasks into the queue, one takes answers out.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from itertools import islice

from . import _pool_notes, _pool_parts, _pool_views, connection, util
from ._pool_work import NOTES, TAKES_NOTES, _helper_reraises_exception
from .context import ProcessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from .pool import Pool

__all__ = ["find"]

# Seconds for what may be held up by a worker that is out of control: longer waits nobody for it.
PATIENCE = 1.0

UNREADABLE = "what came from the workers cannot be read: one may have died in the midst of an answer"


def find(name: str, pool: Pool | None, cls: type[Pool]) -> Any:
    """Return the part `name` of `cls`, or of `pool`, which has none of its own. AttributeError if there is none."""
    part = (cls._of_threads and vars(ThreadParts).get(name)) or vars(Parts).get(name)
    if part is not None:
        return part.__get__(pool, cls)
    if pool is None:
        raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")
    return _pool_views.find(name, pool)


def _pool_module() -> Any:
    # Where programs put a worker function of their own.
    return sys.modules[f"{__package__}.pool"]


class Parts:
    """The parts that are methods. Whichever the standard package calls by the class `Pool`, these call so, too."""

    # ------------------------------------------------------------------------------------------------------------------
    # Made by a pool of its own

    def _setup_queues(self: Any) -> None:
        self._inqueue = self._ctx.SimpleQueue()
        self._outqueue = self._ctx.SimpleQueue()
        self._quick_put = self._inqueue._writer.send
        self._quick_get = self._outqueue._reader.recv

    def _get_sentinels(self: Any) -> list[Any]:
        return [self._change_notifier._reader]

    def _guarded_task_generation(
        self: Any, result_job: int, func: Callable[..., Any], iterable: Iterable[Any]
    ) -> Iterator[tuple[Any, ...]]:
        """Yield a task for each item; for one that cannot be had, a task that raises why."""
        place = 0
        try:
            for item in iterable:
                yield result_job, place, func, (item,), {}
                place += 1
        except Exception as error:
            yield result_job, place, _helper_reraises_exception, (error,), {}

    @staticmethod
    def _get_tasks(func: Callable[..., Any], it: Iterable[Any], size: int) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        """Yield what a chunk of a map is called with: the function, and up to `size` items."""
        source = iter(it)
        while chunk := tuple(islice(source, size)):
            yield func, chunk

    # ------------------------------------------------------------------------------------------------------------------
    # The workers

    @staticmethod
    def _get_worker_sentinels(workers: Iterable[Any]) -> list[Any]:
        return [worker.sentinel for worker in workers if hasattr(worker, "sentinel")]

    @staticmethod
    def _join_exited_workers(pool: list[Any]) -> bool:
        """Take the workers that have ended out of the list; return whether there were any."""
        ended = [worker for worker in pool if worker.exitcode is not None]
        for worker in ended:
            util.debug("cleaning up worker %s", worker.name)
            worker.join()
            pool.remove(worker)
        return bool(ended)

    @staticmethod
    def _repopulate_pool_static(
        ctx: Any,
        Process: Callable[..., Any],  # noqa: N803
        processes: int,
        pool: list[Any],
        inqueue: Any,
        outqueue: Any,
        initializer: Callable[..., object] | None,
        initargs: Iterable[Any],
        maxtasksperchild: int | None,
        wrap_exception: bool,
    ) -> None:
        """Start workers until there are `processes`."""
        args = inqueue, outqueue, initializer, initargs, maxtasksperchild, wrap_exception
        while len(pool) < processes:
            worker = Process(ctx, target=_pool_module().worker, args=args)
            worker.name = worker.name.replace("Process", "PoolWorker")
            worker.daemon = True
            worker.start()
            pool.append(worker)
            util.debug("added worker")

    @staticmethod
    def _maintain_pool(
        ctx: Any,
        Process: Callable[..., Any],  # noqa: N803
        processes: int,
        pool: list[Any],
        *arguments: Any,
    ) -> None:
        """Start workers in place of those that have ended."""
        kind = _pool_module().Pool
        if kind._join_exited_workers(pool):
            kind._repopulate_pool_static(ctx, Process, processes, pool, *arguments)

    @staticmethod
    def _wait_for_updates(sentinels: list[Any], change_notifier: Any, timeout: float | None = None) -> None:
        connection.wait(sentinels, timeout)
        while not change_notifier.empty():
            change_notifier.get()

    @classmethod
    def _handle_workers(
        cls: Any,
        cache: Any,
        taskqueue: Any,
        ctx: Any,
        Process: Callable[..., Any],  # noqa: N803
        processes: int,
        pool: list[Any],
        inqueue: Any,
        outqueue: Any,
        initializer: Callable[..., object] | None,
        initargs: Iterable[Any],
        maxtasksperchild: int | None,
        wrap_exception: bool,
        sentinels: list[Any],
        change_notifier: Any,
    ) -> None:
        """Look after the workers until the pool is closed and all is answered, or it is terminated."""
        thread: Any = threading.current_thread()
        arguments = inqueue, outqueue, initializer, initargs, maxtasksperchild, wrap_exception
        hiring = _Hiring(cache, pool, inqueue, outqueue, taskqueue)
        while thread._state == "RUN" or (cache and thread._state != "TERMINATE"):
            timeout = hiring.look()
            if not hiring.is_over:
                if pause := hiring.pause:
                    # The end of the pool ends it early.
                    connection.wait(sentinels, pause)
                    if thread._state == "TERMINATE":
                        break
                try:
                    hiring.replace(lambda: cls._maintain_pool(ctx, Process, processes, pool, *arguments), cls)
                except Exception as error:
                    timeout = hiring.refused(error)
            if hiring.owes_a_note():
                continue
            cls._wait_for_updates([*cls._get_worker_sentinels(pool), *sentinels], change_notifier, timeout)
        taskqueue.put(None)
        util.debug("worker handler exiting")

    # ------------------------------------------------------------------------------------------------------------------
    # Tasks and answers

    @staticmethod
    def _handle_tasks(taskqueue: Any, put: Callable[[Any], object], outqueue: Any, pool: list[Any], cache: Any) -> None:
        """Put the tasks of the sequences in `taskqueue` into the queue of tasks, until None comes."""
        thread: Any = threading.current_thread()
        while (item := taskqueue.get()) is not None:
            tasks, set_length = item
            task = None
            for task in tasks:
                if thread._state != "RUN":
                    break
                _give(task, put, cache)
            if thread._state != "RUN":
                util.debug("task handler found thread._state != RUN")
                break
            if set_length:
                set_length(task[1] + 1 if task else 0)
            # Not kept until the next sequence comes.
            item = tasks = task = set_length = None
        try:
            # The end, for whoever takes answers, and for each worker.
            outqueue.put(None)
            for _ in list(pool):
                put(None)
        except OSError:
            util.debug("task handler got OSError when sending sentinels")
        util.debug("task handler exiting")

    @staticmethod
    def _handle_results(outqueue: Any, get: Callable[[], Any], cache: Any) -> None:
        """Hand out the answers in the queue of answers, until None has come and all is answered."""
        thread: Any = threading.current_thread()
        ended = False
        while not ended or (cache and thread._state != "TERMINATE"):
            try:
                message = get()
            except (OSError, EOFError):
                util.debug("result handler got EOFError/OSError -- exiting")
                break
            except Exception as error:
                # A worker has died while it wrote, or has sent what cannot be read: nobody knows whose answer it was.
                if _break_off(cache, error):
                    continue
                break
            if message is None:
                ended = True
            elif thread._state != "TERMINATE":
                job, place, outcome = message
                try:
                    result = cache[job]
                except KeyError:
                    pass  # failed before, or forgotten by the program
                else:
                    result._set(place, outcome)
                result = outcome = None
            message = None
        util.debug("result handler exiting: len(cache)=%s, thread._state=%s", len(cache), thread._state)

    # ------------------------------------------------------------------------------------------------------------------
    # The end

    @staticmethod
    def _help_stuff_finish(inqueue: Any, task_handler: Any, size: int) -> None:
        """Take tasks out of the queue until the thread that puts them in has finished."""
        while task_handler.is_alive():
            _drain(inqueue)
            task_handler.join(_pool_notes.LOOK_AGAIN)

    @classmethod
    def _terminate_pool(
        cls: Any,
        taskqueue: Any,
        inqueue: Any,
        outqueue: Any,
        pool: list[Any],
        change_notifier: Any,
        worker_handler: Any,
        task_handler: Any,
        result_handler: Any,
        cache: Any,
    ) -> None:
        """End the threads and the workers, and fail what is open. Nothing here waits for a worker for ever."""
        worker_handler._state = task_handler._state = "TERMINATE"
        change_notifier.put(None)
        _join(worker_handler)
        taskqueue.put(None)
        _within_patience(lambda: cls._help_stuff_finish(inqueue, task_handler, len(pool)))
        result_handler._state = "TERMINATE"
        # While the workers live: one that was ended within an answer would keep the rest of it from being read.
        _within_patience(lambda: _end(outqueue))
        _join(result_handler)
        end_workers(pool)
        _join(task_handler)
        _join(worker_handler)
        end_workers(pool)
        let_reader_go(outqueue, result_handler)
        _fail_all(cache, ProcessError(_pool_views.TERMINATED))


class ThreadParts:
    """Those that are other ones in a pool of threads."""

    def _setup_queues(self: Any) -> None:
        from queue import SimpleQueue

        self._inqueue = SimpleQueue()
        self._outqueue = SimpleQueue()
        self._quick_put = self._inqueue.put
        self._quick_get = self._outqueue.get

    @staticmethod
    def _get_worker_sentinels(workers: Iterable[Any]) -> list[Any]:
        return []

    @staticmethod
    def _help_stuff_finish(inqueue: Any, task_handler: Any, size: int) -> None:
        """Wake each thread, which finds that this is the end."""
        from queue import Empty

        try:
            while True:
                inqueue.get(block=False)
        except Empty:
            pass
        for _ in range(size):
            inqueue.put(None)


def end_workers(pool: list[Any]) -> None:
    """End processes; one that ignores SIGTERM is killed after a while. Threads end by themselves."""
    workers = [worker for worker in pool if hasattr(worker, "terminate")]
    for worker in workers:
        if worker.exitcode is None:
            worker.terminate()
    deadline = time.monotonic() + PATIENCE
    for worker in workers:
        if not hasattr(worker, "kill"):
            # Some other kind of process, of which no more can be asked.
            worker.join()
            continue
        worker.join(max(0.0, deadline - time.monotonic()))
        if worker.exitcode is None:
            worker.kill()
            worker.join()


def _end(outqueue: Any) -> None:
    try:
        outqueue.put(None)
    except OSError:
        pass  # closed, see `let_reader_go`


def let_reader_go(outqueue: Any, result_handler: Any) -> None:
    """End the thread that takes the answers where it waits for the rest of one: no worker is left to send that."""
    if result_handler.is_alive() and result_handler is not threading.current_thread() and hasattr(outqueue, "_writer"):
        outqueue._writer.close()
        _join(result_handler)


class _Hiring:
    """The workers of a hooked pool, as the thread sees them that looks after them."""

    def __init__(self, cache: Any, pool: list[Any], inqueue: Any, outqueue: Any, taskqueue: Any) -> None:
        self.cache = cache
        # None for a cache of the program's own.
        self.notes = getattr(cache, "notes", None)
        self.pool, self.inqueue, self.outqueue, self.taskqueue = pool, inqueue, outqueue, taskqueue
        self.known: dict[int, Any] = {}
        # Since when a note on a worker's end has been on its way.
        self.told: float | None = None
        # Whether a reader of a pipe of the program's own may have been killed within a message.
        self.torn = False
        # The workers that were asked to end, and how often any was.
        self.asked: set[int] = set()
        self.requests = 0
        # Those of them that wait for tasks, and since when.
        self.deaf: dict[int, float] = {}

    @property
    def is_over(self) -> bool:
        """Whether no worker is started any more."""
        return self.notes is not None and self.notes.broken is not None

    def look(self) -> float | None:
        """See which workers have ended, and say so. Return in how many seconds to look again."""
        if self.notes is None or not hasattr(self.inqueue, "_writer"):
            return None
        for worker in list(self.pool):
            if getattr(worker, "pid", None) is not None:
                self.known[worker.pid] = worker
        for pid, worker in list(self.known.items()):
            if worker.exitcode is not None:
                del self.known[pid]
                lost = getattr(getattr(worker, "_popen", None), "status_lost", False)
                exitcode = None if lost else worker.exitcode
                self.torn |= exitcode != 0 and not hasattr(self.inqueue, "_channel")
                self.notes.expect()
                self.tell((NOTES, _pool_notes.ENDED, (pid, exitcode, self.torn, pid in self.asked)))
                self.asked.discard(pid)
        if self.is_over:
            _drain(self.inqueue)
            return _pool_notes.LOOK_AGAIN if self.cache else None
        if not self.notes.suspects:
            self.told = None
            self.torn = False
            return None
        self.see_whether_notes_arrive(self.notes)
        notes, asked = self.notes.look(set(self.known), lambda: _is_empty(self.inqueue))
        for note in notes:
            self.tell(note)
        if self.requests > self.notes.ends_asked:
            # The thread that gives tasks has something else in hand: nobody has been asked yet.
            self.deaf.clear()
        else:
            if self.torn:
                self.end_the_deaf(asked)
            if asked:
                self.asked |= asked
                self.requests += len(asked)
                self.taskqueue.put(([None] * len(asked), None))
        # A suspicion is settled only by a later task, and a pool that has nothing to do may get none for hours.
        return _pool_notes.LOOK_AGAIN if self.cache else PATIENCE

    def owes_a_note(self) -> bool:
        """Return whether a worker was taken out of the list since the look: its sentinel wakes nobody any more."""
        return any(worker not in self.pool for worker in self.known.values())

    def end_the_deaf(self, asked: set[int]) -> None:
        """Kill the workers that go on waiting for tasks though they were asked to end, while the queue was empty.

        What they were sent has become a part of the message that they wait for. A worker that has a task in hand waits
        for something else, or runs.
        """
        now = time.monotonic()
        try:
            link = _link(os.getpid(), self.inqueue._reader.fileno())
        except (AttributeError, OSError, ValueError):
            # A queue of another kind, or one that is closed.
            return
        self.deaf = {pid: self.deaf.get(pid, now) for pid in asked if link is not None and _waits_at(pid) == link}
        for pid, since in self.deaf.items():
            if now - since > PATIENCE and hasattr(self.known[pid], "kill"):
                self.known[pid].kill()

    def see_whether_notes_arrive(self, known: Any) -> None:
        """Break off if notes are read and not understood: they are taken for the rest of an answer that has no rest."""
        now = time.monotonic()
        if not known.expects or not _is_empty(self.outqueue):
            self.told = None
        elif self.told is None:
            self.told = now
        elif now - self.told > PATIENCE:
            known.break_off(ProcessError(UNREADABLE))

    def tell(self, note: Any) -> None:
        """Send a note to the thread that takes the answers."""
        self.outqueue.put(note)

    @property
    def pause(self) -> float:
        """Seconds to wait before a worker is started."""
        return 0.0 if self.notes is None else self.notes.pause

    def replace(self, maintain: Callable[[], object], cls: Any) -> None:
        """Start workers in place of those that have ended."""
        owner = self.cache.owner() if self.notes is not None else None
        if owner is None or not _pool_parts.is_ours(cls, "_maintain_pool"):
            maintain()
        elif cls._join_exited_workers(self.pool):
            # As in the beginning, so that the new ones are what a subclass made the first.
            owner._repopulate_pool()

    def refused(self, error: Exception) -> float:
        """Take in that no process can be started; return in how many seconds to try again."""
        if self.notes is not None and not self.known and not self.pool:
            # Fewer workers do all the same, but none do nothing.
            self.notes.break_off(error)
        return PATIENCE


def _give(task: Any, put: Callable[[Any], object], cache: Any) -> None:
    """Put a task into the queue, or say why it is not there: to its result."""
    notes = getattr(cache, "notes", None)
    if task is None:
        put(task)
        if notes is not None:
            notes.ends_asked += 1
        return
    key = task[0], task[1]
    failure = None if notes is None else notes.give(key, _name_of(task[2], task[3]))
    if failure is None:
        try:
            put(task)
            if notes is not None:
                notes.sent(key)
            return
        except Exception as error:
            failure = error
            if notes is not None:
                notes.take_back(key)
    try:
        cache[task[0]]._set(task[1], (False, failure))
    except KeyError:
        pass


def _name_of(function: Any, args: Any) -> str:
    """Return how a task is called in errors: by the program's function, where a chunk has it among its arguments."""
    if (
        function in (_pool_module().mapstar, _pool_module().starmapstar)
        and args
        and isinstance(args[0], tuple)
        and args[0]
    ):
        function = args[0][0]
    return getattr(function, "__qualname__", None) or type(function).__name__


def _is_empty(inqueue: Any) -> bool:
    try:
        reader = getattr(inqueue, "_reader", None)
        return inqueue.empty() if reader is None else not reader.poll()
    except (OSError, ValueError):
        return False


# The numbers of read, readv, recvfrom and recvmsg, and of poll and ppoll, by machine.
_CALLS = {"x86_64": ((0, 19, 45, 47), (7, 271)), "aarch64": ((63, 65, 207, 212), (73,))}


def _waits_at(pid: int) -> str | None:
    """Return the file that a process waits for, if it is only one, in a call that reads or polls. None if unknown."""
    try:
        with open(f"/proc/{pid}/syscall") as file:
            # The call's number and its arguments, or "running".
            number, first, second = [int(word, 0) for word in file.read().split()[:3]]
        reads, polls = _CALLS.get(os.uname().machine, ((), ()))
        if number in reads:
            return _link(pid, first)
        if number in polls and second == 1:
            # A pointer to one `struct pollfd`, which begins with the descriptor.
            with open(f"/proc/{pid}/mem", "rb", 0) as memory:
                memory.seek(first)
                return _link(pid, int.from_bytes(memory.read(4), sys.byteorder))
        return None
    except (OSError, ValueError, OverflowError):
        return None


def _link(pid: int, descriptor: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return None


def _drain(inqueue: Any) -> None:
    """Take out of a queue what can be had at once.

    Byte by byte, not by messages: where a worker was killed while it read, the rest of a message would be waited for.
    """
    if hasattr(inqueue, "_channel"):
        # It has room for everything: nobody waits for it.
        return
    lock = getattr(inqueue, "_rlock", None)
    if lock is not None and not lock.acquire(timeout=_pool_notes.LOOK_AGAIN):
        return
    try:
        descriptor = inqueue._reader.fileno()
        while connection.wait([descriptor], 0) and os.read(descriptor, 1 << 16):
            pass
    except (OSError, ValueError):
        pass
    finally:
        if lock is not None:
            lock.release()


def _break_off(cache: Any, error: Exception) -> bool:
    notes = getattr(cache, "notes", None)
    if notes is None or notes.broken is not None:
        return False
    reason = ProcessError(UNREADABLE)
    reason.__cause__ = error
    notes.break_off(reason)
    return True


def _fail_all(cache: Any, reason: BaseException) -> None:
    notes = getattr(cache, "notes", None)
    if notes is not None:
        notes.fail_all(reason)


def _join(thread: Any) -> None:
    if thread is not threading.current_thread():
        thread.join(PATIENCE)


def _within_patience(work: Callable[[], object]) -> None:
    """Do `work`, in a thread of its own; go on without it when it takes too long."""
    thread = threading.Thread(target=work, name="manycore-end", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # The interpreter ends, and starts no threads any more.
        work()
    else:
        thread.join(PATIENCE)


def takes_notes(pool: Any) -> None:
    """Have workers of a hooked pool make notes, if its class leaves it to us what they do with exceptions."""
    if pool._wrap_exception is True:
        pool._wrap_exception = TAKES_NOTES
