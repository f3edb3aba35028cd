"""Locks, semaphores, conditions, events and barriers: what the standard package does, and between processes."""

import os
import pickle
import signal
import threading

import pytest

from support import census
from support.alarm import Alarm, raising

CLASSES = ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier")


def make(ctx, name):
    return ctx.Barrier(2) if name == "Barrier" else getattr(ctx, name)()


def run(ctx, target, *args):
    """Runs `target(*args)` in a child and waits for it."""
    process = ctx.Process(target=target, args=args)
    process.start()
    process.join()
    return process.exitcode


def eventually(condition):
    assert census.eventually(condition, 30)


# --- locks ---


def test_lock(ctx):
    lock = ctx.Lock()
    assert lock.acquire() is True
    assert lock.acquire(False) is False
    assert lock.acquire(block=False) is False
    assert lock.acquire(True, 0.01) is False
    assert lock.acquire(timeout=-5) is False
    assert lock.release() is None
    with pytest.raises(ValueError, match="released too many times"):
        lock.release()
    with lock as entered:
        assert entered is True
        assert lock.acquire(False) is False
    assert lock.acquire(False, None) is True


def test_rlock(ctx):
    lock = ctx.RLock()
    for _ in range(3):
        assert lock.acquire() is True
    with lock:
        pass
    for _ in range(3):
        assert lock.release() is None
    with pytest.raises(AssertionError, match="not owned by thread"):
        lock.release()


def test_another_thread_is_another_owner(ctx):
    lock = ctx.RLock()
    seen = []

    def other():
        seen.append(lock.acquire(False))
        try:
            lock.release()
        except AssertionError:
            seen.append("not mine")

    with lock:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [False, "not mine"]


def test_threads_take_turns(ctx):
    lock, total = ctx.Lock(), [0]

    def add():
        for _ in range(2000):
            with lock:
                total[0] += 1

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total == [8000]


def release_it(lock):
    lock.release()


def exit_by(lock, code):
    os._exit(code if lock.acquire(False) else 0)


def test_a_lock_may_be_released_by_another_process(ctx):
    lock = ctx.Lock()
    lock.acquire()
    assert run(ctx, exit_by, lock, 7) == 0
    assert run(ctx, release_it, lock) == 0
    assert lock.acquire(False)


def refuse(lock):
    try:
        lock.release()
    except AssertionError:
        os._exit(0)


def test_a_recursive_lock_may_not(ctx):
    lock = ctx.RLock()
    with lock:
        assert run(ctx, refuse, lock) == 0
        assert run(ctx, exit_by, lock, 7) == 0


@pytest.mark.parametrize("name", ["Lock", "RLock"])
def test_repr_of_locks(ctx, mp, name):
    lock = make(ctx, name)
    free, mine = {"Lock": ("owner=None", "owner={}"), "RLock": ("None, 0", "{}, 1")}[name]
    assert repr(lock) == f"<{name}({free})>"
    with lock:
        assert repr(lock) == f"<{name}({mine.format(mp.current_process().name)})>"
        texts = []
        thread = threading.Thread(target=lambda: texts.append(repr(lock)), name="T")
        thread.start()
        thread.join()
        assert "SomeOtherThread" in texts[0]


def test_other_reprs(ctx):
    assert repr(ctx.Semaphore(3)) == "<Semaphore(value=3)>"
    assert repr(ctx.BoundedSemaphore(3)) == "<BoundedSemaphore(value=3, maxvalue=3)>"
    assert repr(ctx.Condition(ctx.Lock())) == "<Condition(<Lock(owner=None)>, 0)>"
    barrier = ctx.Barrier(3)
    assert "waiters=0/3" in repr(barrier)
    barrier.abort()
    assert "broken" in repr(barrier)


@pytest.mark.only("manycore", reason="the standard package has it from CPython 3.14 on")
def test_locked(ctx):
    for name in ("Lock", "RLock", "Semaphore", "BoundedSemaphore"):
        lock = make(ctx, name)
        assert lock.locked() is False
        with lock:
            assert lock.locked() is True
        assert lock.locked() is False


@pytest.mark.parametrize("name", ["Lock", "RLock", "Semaphore", "BoundedSemaphore"])
def test_names_that_libraries_reach_for(ctx, mp, name):
    lock = make(ctx, name)
    inner = lock._semlock
    assert inner.kind == (0 if name == "RLock" else 1)
    assert inner._count() == 0 and not inner._is_mine() and not inner._is_zero() and inner._get_value() == 1
    with lock:
        assert inner._count() == 1 and inner._is_mine() and inner._is_zero() and inner._get_value() == 0
    assert isinstance(inner.handle, int)
    synchronize = mp.synchronize
    assert isinstance(lock, synchronize.SemLock)
    assert inner.maxvalue == (synchronize.SEM_VALUE_MAX if name == "Semaphore" else 1)
    assert synchronize.SemLock._make_name().startswith("/mp-")
    assert (synchronize.RECURSIVE_MUTEX, synchronize.SEMAPHORE) == (0, 1)


def test_a_semlock_of_any_kind(ctx, mp):
    lock = mp.synchronize.SemLock(1, 2, 3, ctx=ctx)
    assert lock.acquire() and lock.acquire() and not lock.acquire(False)
    for _ in range(3):
        lock.release()
    with pytest.raises(ValueError):
        lock.release()


# --- semaphores ---


def test_semaphore(ctx):
    semaphore = ctx.Semaphore(2)
    assert semaphore.get_value() == 2
    assert semaphore.acquire() and semaphore.acquire()
    assert semaphore.get_value() == 0
    assert not semaphore.acquire(False)
    assert not semaphore.acquire(timeout=0.01)
    for _ in range(5):
        semaphore.release()
    assert semaphore.get_value() == 5


def test_bounded_semaphore(ctx):
    semaphore = ctx.BoundedSemaphore(2)
    with pytest.raises(ValueError):
        semaphore.release()
    with semaphore, semaphore:
        assert semaphore.get_value() == 0
    with pytest.raises(ValueError):
        semaphore.release()
    assert semaphore.get_value() == 2


def test_values_that_cannot_be(ctx):
    for name in ("Semaphore", "BoundedSemaphore"):
        for value, error in ((-1, OSError), (1 << 31, OverflowError)):
            with pytest.raises(error):
                getattr(ctx, name)(value)
    with pytest.raises(TypeError):
        ctx.Lock().acquire(True, "soon")


@pytest.mark.only("manycore", reason="the standard package refuses it from CPython 3.12 on")
def test_a_barrier_for_nobody(ctx):
    with pytest.raises(ValueError):
        ctx.Barrier(0)


def add_all(semaphore, count):
    for _ in range(count):
        semaphore.release()


def test_events_counted_for_another_process(ctx):
    semaphore = ctx.Semaphore(0)
    process = ctx.Process(target=add_all, args=(semaphore, 300))
    process.start()
    for _ in range(300):
        semaphore.acquire()
    process.join()
    assert semaphore.get_value() == 0


def take_turns(lock, total, count):
    for _ in range(count):
        with lock:
            # A semaphore as a number: two steps that another process must not come between.
            value = total.get_value()
            total.release()
            assert total.get_value() == value + 1


@pytest.mark.parametrize("name", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"])
def test_processes_take_turns(ctx, name):
    lock, total = make(ctx, name), ctx.Semaphore(0)
    processes = [ctx.Process(target=take_turns, args=(lock, total, 300)) for _ in range(2)]
    for process in processes:
        process.start()
    take_turns(lock, total, 300)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert total.get_value() == 900


# --- on the way ---


@pytest.mark.parametrize("name", CLASSES)
def test_they_travel_by_inheritance_only(ctx, name):
    with pytest.raises(RuntimeError, match="inheritance"):
        pickle.dumps(make(ctx, name))


def pass_on(ctx_name, package, lock, done):
    import importlib

    context = importlib.import_module(package).get_context(ctx_name)
    if run(context, release_both, lock, done):
        os._exit(1)


def release_both(lock, done):
    lock.release()
    done.set()


@pytest.mark.deadline(120)
def test_on_to_a_grandchild(ctx, mp):
    lock, done = ctx.Lock(), ctx.Event()
    lock.acquire()
    assert run(ctx, pass_on, ctx.get_start_method(), mp.__name__, lock, done) == 0
    assert done.is_set() and lock.acquire(False)


@pytest.mark.methods("spawn", "forkserver")
def test_a_fork_context_keeps_its_locks(ctx, mp):
    lock = mp.get_context("fork").Lock()
    process = ctx.Process(target=release_it, args=(lock,))
    with pytest.raises(RuntimeError, match="A SemLock created in a fork"):
        process.start()


def count_regions(locks, done):
    for lock in locks:
        lock.release()
    kinds = list(census.descriptor_kinds().values())
    os._exit(kinds.count("/memfd:manycore (deleted)"))


@pytest.mark.only("manycore", reason="the standard package has a semaphore file for each")
def test_one_descriptor_for_all(ctx):
    locks, done = [ctx.Lock() for _ in range(500)], ctx.Event()
    for lock in locks:
        lock.acquire()
    regions = run(ctx, count_regions, locks, done)
    # A forked child has what its parent had.
    assert 1 <= regions <= (3 if ctx.get_start_method() == "fork" else 1)
    assert all(lock.acquire(False) for lock in locks)


@pytest.mark.only("manycore", reason="about its memory")
def test_places_are_used_again(mp):
    def offsets(count):
        return {mp.Lock()._semlock.handle for _ in range(count)}

    assert len(offsets(1000)) < 10
    kept = [mp.Semaphore() for _ in range(100)]
    assert len({lock._semlock.handle for lock in kept}) == 100


def test_subclasses(ctx, mp):
    class Named(mp.synchronize.Lock):
        def acquire(self, *args):
            self.calls = getattr(self, "calls", 0) + 1
            return super().acquire(*args)

    lock = Named(ctx=ctx)
    if mp.__name__ == "multiprocessing":
        return  # there the instance has a method of its own, which hides this one
    assert lock.acquire() and not lock.acquire(False)
    assert lock.calls == 2
    lock.release()
    assert repr(lock) == "<Named(owner=None)>"


# --- condition ---


def wait_and_tell(condition, ready, woken):
    with condition:
        ready.release()
        if condition.wait(60):
            woken.release()


@pytest.mark.parametrize("lock", ["Lock", "RLock"])
def test_condition(ctx, lock):
    condition, ready, woken = ctx.Condition(make(ctx, lock)), ctx.Semaphore(0), ctx.Semaphore(0)
    processes = [ctx.Process(target=wait_and_tell, args=(condition, ready, woken)) for _ in range(2)]
    threads = [threading.Thread(target=wait_and_tell, args=(condition, ready, woken)) for _ in range(3)]
    for runner in processes + threads:
        runner.start()
    for _ in range(5):
        ready.acquire()
    for count, total in ((1, 1), (2, 3)):
        with condition:
            condition.notify(count)
        for _ in range(count):
            woken.acquire()
        with condition:
            assert f", {5 - total})" in repr(condition)
    assert woken.get_value() == 0
    with condition:
        condition.notify_all()
    for runner in processes + threads:
        runner.join()
    assert woken.get_value() == 2


def test_a_condition_needs_its_lock(ctx):
    condition = ctx.Condition()
    for call in (condition.wait, condition.notify, condition.notify_all):
        with pytest.raises(AssertionError):
            call()


def test_a_condition_gives_up(ctx):
    condition = ctx.Condition()
    with condition:
        with condition:  # the lock is recursive, and comes back as deep as it was
            assert condition.wait(0.01) is False
            assert condition.wait_for(lambda: False, 0.01) is False
            assert condition.wait_for(lambda: "yes") == "yes"
        assert condition.wait(0) is False
    with pytest.raises(AssertionError):
        condition.release()


# --- event ---


def set_when_asked(asked, event):
    asked.wait()
    event.set()


def test_event(ctx):
    event, asked = ctx.Event(), ctx.Event()
    assert not event.is_set() and event.wait(0) is False and event.wait(0.01) is False
    process = ctx.Process(target=set_when_asked, args=(asked, event))
    process.start()
    asked.set()
    assert event.wait() is True
    assert event.is_set() and event.wait(0) is True
    process.join()
    event.clear()
    assert not event.is_set()


@pytest.mark.only("manycore", reason="in the standard package the waiter may find the flag cleared and say False")
def test_a_short_flag(ctx):
    event, outcomes = ctx.Event(), []
    ready = threading.Barrier(2)

    def wait():
        ready.wait()
        outcomes.append(event.wait(60))

    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    while not outcomes:
        event.set()
        event.clear()
    thread.join()
    assert outcomes == [True]


# --- barrier ---


def meet(barrier, numbers, rounds):
    for _ in range(rounds):
        for _ in range(barrier.wait(60)):
            numbers.release()


def test_barrier(ctx):
    barrier, numbers = ctx.Barrier(3), ctx.Semaphore(0)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
    processes = [ctx.Process(target=meet, args=(barrier, numbers, 20)) for _ in range(2)]
    for process in processes:
        process.start()
    meet(barrier, numbers, 20)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert numbers.get_value() == 20 * (0 + 1 + 2)
    assert barrier.n_waiting == 0


def in_threads(count, call):
    """What `call` returned or raised in each of `count` threads."""
    outcomes = []

    def run():
        try:
            outcomes.append(call())
        except Exception as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, outcomes


def test_the_action_comes_first(ctx):
    done = []
    barrier = ctx.Barrier(2, action=lambda: done.append(1))
    threads, outcomes = in_threads(2, lambda: (barrier.wait(60), len(done)))
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [(0, 1), (1, 1)]


def test_an_action_that_fails_breaks_the_barrier(ctx):
    barrier = ctx.Barrier(2, action=lambda: 1 / 0)
    threads, outcomes = in_threads(2, lambda: barrier.wait(60))
    for thread in threads:
        thread.join()
    assert {threading.BrokenBarrierError, ZeroDivisionError} == set(outcomes)
    assert barrier.broken


def test_a_barrier_is_broken_and_mended(ctx):
    barrier = ctx.Barrier(2)
    for end in (barrier.abort, barrier.reset):
        threads, outcomes = in_threads(1, lambda: barrier.wait(60))
        eventually(lambda: barrier.n_waiting == 1)
        end()
        threads[0].join()
        assert outcomes == [threading.BrokenBarrierError]
        assert barrier.broken is (end == barrier.abort)
        if barrier.broken:
            with pytest.raises(threading.BrokenBarrierError):
                barrier.wait()
            barrier.reset()
    threads, outcomes = in_threads(2, lambda: barrier.wait(60))
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [0, 1]


def test_a_barrier_with_a_limit(ctx):
    barrier = ctx.Barrier(2, timeout=0.01)
    for timeout in (None, 0.02):
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait(timeout)
        assert barrier.broken
        barrier.reset()
    assert isinstance(barrier, threading.Barrier)


# --- interruption ---


@pytest.mark.parametrize(
    "wait",
    [
        lambda ctx: ctx.Semaphore(0).acquire(),
        lambda ctx: twice(ctx.Lock()),
        lambda ctx: ctx.Event().wait(),
        lambda ctx: wait_inside(ctx.Condition()),
        lambda ctx: ctx.Barrier(2).wait(),
    ],
    ids=["semaphore", "lock", "event", "condition", "barrier"],
)
@pytest.mark.methods("fork")
def test_signals_are_heard(ctx, wait):
    # The thread stands in for somebody at the keyboard, and insists, since the first signal may come before the wait.
    heard = threading.Event()

    def insist():
        while not heard.wait(0.05):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGPROF)

    thread = threading.Thread(target=insist)
    with raising(signal.SIGPROF):
        try:
            with pytest.raises(Alarm):
                thread.start()
                wait(ctx)
        finally:
            heard.set()
            thread.join()


def twice(lock):
    lock.acquire()
    lock.acquire()


def wait_inside(condition):
    with condition:
        condition.wait()
