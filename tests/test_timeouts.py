"""Every timeout of the package, with numbers that no clock counts to, negative ones, and what is no number.

The standard package refuses the former, each class with another exception, as whatever it hands them to cannot count so far; and
takes nan for nothing or for ever.
"""

import contextlib
import importlib
import threading

import pytest

from support import tasks

pytestmark = pytest.mark.only("manycore", reason="the standard package refuses infinite and very long timeouts")

LONG = [float("inf"), 1e300, 1e10, 2**40, 10**30]
SHORT = [0, -1, -1e300, float("-inf")]


class Waits:
    """One way to wait: `call(timeout)` waits for what `release` does; `missed` is what it gives when that does not come."""

    def __init__(self, mp, kind):
        self.mp, self.ctx, self.stack = mp, mp.get_context("fork"), contextlib.ExitStack()
        self.call, self.release, self.missed = getattr(self, kind)()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()

    def module(self, name):
        return importlib.import_module(f"{self.mp.__name__}.{name}")

    def pipe(self):
        reader, writer = self.ctx.Pipe(duplex=False)
        self.stack.enter_context(reader)
        self.stack.enter_context(writer)
        return reader, writer

    def wait(self):
        reader, writer = self.pipe()
        return lambda timeout: self.module("connection").wait([reader], timeout), lambda: writer.send(1), []

    def poll(self):
        reader, writer = self.pipe()
        return reader.poll, lambda: writer.send(1), False

    def queue_get(self):
        queue = self.ctx.Queue()
        return lambda timeout: queue.get(True, timeout), lambda: queue.put(1), self.module("queues").Empty

    def queue_put(self):
        queue = self.ctx.Queue(1)
        queue.put(1)
        return lambda timeout: queue.put(1, True, timeout), queue.get, self.module("queues").Full

    def lock(self):
        lock = self.ctx.Lock()
        lock.acquire()
        return lambda timeout: lock.acquire(True, timeout), lock.release, False

    def semaphore(self):
        semaphore = self.ctx.Semaphore(0)
        return lambda timeout: semaphore.acquire(True, timeout), semaphore.release, False

    def condition(self):
        return *self.changes_of(self.ctx.Condition()), False

    def changes_of(self, condition):
        """To wait for a change under a condition, and to make it."""
        changed = []

        def call(timeout):
            with condition:
                return condition.wait_for(lambda: bool(changed), timeout)

        def release():
            with condition:
                changed.append(1)
                condition.notify()

        return call, release

    def event(self):
        event = self.ctx.Event()
        return event.wait, event.set, False

    def barrier(self):
        barrier = self.ctx.Barrier(2)

        def call(timeout):
            try:
                return barrier.wait(timeout)
            finally:
                if barrier.broken:
                    barrier.reset()

        return call, barrier.wait, threading.BrokenBarrierError

    def process(self):
        reader, writer = self.pipe()
        process = self.ctx.Process(target=reader.recv)
        process.start()
        self.stack.callback(process.join)
        return process.join, lambda: writer.send(1), None

    def held_pool(self, method, *args):
        reader, writer = self.pipe()
        pool = self.stack.enter_context(self.ctx.Pool(1, initializer=tasks_reader, initargs=(reader,)))
        self.stack.callback(pool.join)
        self.stack.callback(pool.close)
        return getattr(pool, method)(receive, *args), lambda: writer.send(1)

    def result_get(self):
        result, release = self.held_pool("apply_async", (1,))
        return result.get, release, self.mp.TimeoutError

    def result_wait(self):
        result, release = self.held_pool("apply_async", (1,))
        return result.wait, release, None

    def imap_next(self):
        results, release = self.held_pool("imap", [1])
        return results.next, release, self.mp.TimeoutError

    def managed(self, kind, *args):
        return getattr(self.stack.enter_context(self.ctx.Manager()), kind)(*args)

    def managed_queue_get(self):
        queue = self.managed("Queue")
        return lambda timeout: queue.get(True, timeout), lambda: queue.put(1), None

    def managed_queue_put(self):
        queue = self.managed("JoinableQueue", 1)
        queue.put(1)
        return lambda timeout: queue.put(1, True, timeout), queue.get, None

    def managed_lock(self):
        semaphore = self.managed("Lock")
        semaphore.acquire()
        return lambda timeout: semaphore.acquire(True, timeout), semaphore.release, None

    def managed_semaphore(self):
        semaphore = self.managed("BoundedSemaphore", 1)
        semaphore.acquire()
        return lambda timeout: semaphore.acquire(timeout=timeout), semaphore.release, None

    def managed_event(self):
        event = self.managed("Event")
        return event.wait, event.set, None

    def managed_condition(self):
        return *self.changes_of(self.managed("Condition")), None

    def managed_barrier(self):
        barrier = self.managed("Barrier", 2)
        return barrier.wait, barrier.wait, None

    def managed_barrier_of_a_time(self):
        barrier = self.managed("Barrier", 2, None, float("inf"))
        return lambda timeout: barrier.wait(), barrier.wait, None

    def managed_result(self):
        result = self.managed("Pool", 1).apply_async(int, ("1",))
        return result.get, result.wait, None

    def held_threads(self, method, *args):
        event = threading.Event()
        pool = self.stack.enter_context(self.module("pool").ThreadPool(1))
        self.stack.callback(pool.join)
        self.stack.callback(pool.close)
        return getattr(pool, method)(lambda _: event.wait(), *args), event.set

    def thread_result_get(self):
        result, release = self.held_threads("apply_async", (1,))
        return result.get, release, self.mp.TimeoutError

    def thread_result_wait(self):
        result, release = self.held_threads("apply_async", (1,))
        return result.wait, release, None

    def thread_imap_next(self):
        results, release = self.held_threads("imap", [1])
        return results.next, release, self.mp.TimeoutError


KINDS = [
    *("wait", "poll", "queue_get", "queue_put", "lock", "semaphore", "condition", "event", "barrier", "process"),
    *("result_get", "result_wait", "imap_next", "thread_result_get", "thread_result_wait", "thread_imap_next"),
]
#: What is negative is judged by the manager's objects, which are those of threads.
MANAGED = [name for name in vars(Waits) if name.startswith("managed_")]


def tasks_reader(reader):
    tasks.held_reader = reader


def receive(_):
    return tasks.held_reader.recv()


def outcome(call, timeout):
    try:
        return call(timeout)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("kind", [*KINDS, *MANAGED])
@pytest.mark.parametrize("timeout", LONG, ids=str)
def test_a_long_wait_ends_when_it_comes(mp, kind, timeout):
    with Waits(mp, kind) as waits:
        helper = threading.Thread(target=waits.release)
        helper.start()
        waits.call(timeout)
        helper.join()


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_wait_and_what_is_no_number(mp, kind):
    with Waits(mp, kind) as waits:
        assert [outcome(waits.call, timeout) for timeout in SHORT] == [waits.missed] * len(SHORT)
        assert outcome(waits.call, float("nan")) is ValueError
        assert outcome(waits.call, "soon") is TypeError
        helper = threading.Thread(target=waits.release)
        helper.start()
        waits.call(None)
        helper.join()


@pytest.mark.parametrize(
    "kind", [kind for kind in MANAGED if kind not in ("managed_result", "managed_barrier_of_a_time")]
)
def test_what_is_no_number_for_a_managed_object(mp, kind):
    with Waits(mp, kind) as waits:
        assert outcome(waits.call, float("nan")) is ValueError
        helper = threading.Thread(target=waits.release)
        helper.start()
        waits.call(None)
        helper.join()


def test_a_managed_queue_that_need_not_wait(mp):
    with mp.get_context("fork").Manager() as manager:
        queue = manager.Queue()
        queue.put(1, False, "whatever")
        assert queue.get(False, float("nan")) == 1


def test_wait_for_nothing(mp):
    wait = importlib.import_module(f"{mp.__name__}.connection").wait
    assert wait([], 0) == wait([], -1) == []
    with pytest.raises(ValueError, match="nan"):
        wait([], float("nan"))
