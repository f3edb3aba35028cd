"""A process that ends with a lock in hand, or while it waits, keeps nobody waiting."""

import os
import signal
import threading
import warnings

import pytest

from support import census
from support.gate import Gate

pytestmark = pytest.mark.only("manycore", reason="in the standard package the others wait for ever")


def acquire_and_stay(lock, gate):
    lock.acquire()
    gate.arrive()


def acquire_and_end(lock, count):
    for _ in range(count):
        lock.acquire()
    os._exit(0)


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.mark.parametrize("name", ["Lock", "RLock", "Condition"])
def test_an_owner_is_killed(ctx, name):
    lock = getattr(ctx, name)()
    with Gate() as gate:
        process = ctx.Process(target=acquire_and_stay, args=(lock, gate))
        process.start()
        gate.arrivals()
        assert lock.acquire(False) is False
        outcomes = []
        thread = threading.Thread(target=lambda: outcomes.append(acquire_with_warnings(lock)))
        thread.start()
        kill(process)
        thread.join()
    assert outcomes == [(True, [RuntimeWarning])]
    # The thread has it, or rather had: a recursive lock is its own for ever.
    if name == "Lock":
        lock.release()
        assert acquire_with_warnings(lock) == (True, [])


def acquire_with_warnings(lock, *args):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        taken = lock.acquire(*args)
    return taken, [warning.category for warning in found]


@pytest.mark.parametrize("name", ["Lock", "RLock"])
@pytest.mark.parametrize("args", [(), (False,), (True, 30), (True, 0)])
def test_an_owner_ends(ctx, name, args):
    lock = getattr(ctx, name)()
    process = ctx.Process(target=acquire_and_end, args=(lock, 1))
    process.start()
    process.join()
    assert acquire_with_warnings(lock, *args) == (True, [RuntimeWarning])
    lock.release()
    assert acquire_with_warnings(lock, *args) == (True, [])


@pytest.mark.methods("fork")
def test_a_warning_that_is_an_error_leaves_the_lock_free(ctx):
    lock = ctx.Lock()
    process = ctx.Process(target=acquire_and_end, args=(lock, 1))
    process.start()
    process.join()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="has ended without releasing"):
            lock.acquire()
        assert not lock.locked()
        assert lock.acquire(False)


@pytest.mark.parametrize("name", ["Semaphore", "BoundedSemaphore"])
def test_units_come_back(ctx, name):
    semaphore = getattr(ctx, name)(3)
    process = ctx.Process(target=acquire_and_end, args=(semaphore, 2))
    process.start()
    process.join()
    assert semaphore.get_value() == 1
    assert semaphore.acquire(timeout=30)
    assert semaphore.acquire(timeout=0)  # finds out without waiting
    assert semaphore.acquire(timeout=30)
    assert not semaphore.acquire(False)


def test_a_waiter_gets_the_unit_of_the_killed(ctx):
    semaphore = ctx.Semaphore(1)
    with Gate() as gate:
        process = ctx.Process(target=acquire_and_stay, args=(semaphore, gate))
        process.start()
        gate.arrivals()
        thread = threading.Thread(target=semaphore.acquire)
        thread.start()
        kill(process)
        thread.join()


def test_events_that_were_counted_do_not_come_back(ctx):
    semaphore = ctx.Semaphore(0)
    semaphore.release()  # by one that had acquired nothing
    process = ctx.Process(target=acquire_and_end, args=(semaphore, 1))
    process.start()
    process.join()
    assert not semaphore.acquire(timeout=0.2)


def test_a_unit_released_for_the_dead_is_one_unit(ctx):
    """A worker acquires and ends, whoever waits for it releases: that is one unit, come back or not."""
    semaphore = ctx.Semaphore(1)
    process = ctx.Process(target=acquire_and_end, args=(semaphore, 1))
    process.start()
    process.join()
    semaphore.release()
    assert semaphore.get_value() == 1


def wait_in(thing, gate):
    if hasattr(thing, "notify"):
        with thing:
            gate.arrive()
            thing.wait()
    elif hasattr(thing, "parties"):
        thing.wait()
    else:
        gate.arrive()
        thing.wait()


def test_a_waiter_of_an_event_is_killed(ctx):
    event = ctx.Event()
    with Gate() as gate:
        processes = [ctx.Process(target=wait_in, args=(event, gate)) for _ in range(2)]
        for process in processes:
            process.start()
        gate.arrivals(2)
        gate.open()
        kill(processes[0])
        event.set()
        processes[1].join()
        assert event.wait()


def test_a_waiter_of_a_condition_is_killed(ctx):
    condition = ctx.Condition()
    with Gate() as gate:
        first = ctx.Process(target=wait_in, args=(condition, gate))
        first.start()
        gate.arrivals()
        second = ctx.Process(target=wait_in, args=(condition, gate))
        second.start()
        gate.open()
        assert census.eventually(lambda: ", 2)" in repr(condition), 30)
        kill(first)
        # To the one that has waited longest, who is dead: it goes on to the other.
        with condition:
            condition.notify()
        second.join()
        assert second.exitcode == 0
        with condition:
            condition.notify_all()


def test_one_dies_at_a_barrier(ctx):
    barrier = ctx.Barrier(3)
    with Gate() as gate:
        process = ctx.Process(target=wait_in, args=(barrier, gate))
        process.start()
        assert census.eventually(lambda: barrier.n_waiting == 1, 30)
        kill(process)
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait(50)
        assert barrier.broken
        barrier.reset()
        assert not barrier.broken


def act_and_die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_dies_in_the_action(ctx):
    barrier = ctx.Barrier(2, action=act_and_die)
    outcomes = []

    def wait():
        try:
            barrier.wait(50)
        except threading.BrokenBarrierError as error:
            outcomes.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    assert census.eventually(lambda: barrier.n_waiting == 1, 30)
    with Gate() as gate:
        process = ctx.Process(target=wait_in, args=(barrier, gate))
        process.start()
        process.join()
    thread.join()
    assert outcomes == [threading.BrokenBarrierError]


@pytest.mark.methods("fork")
def test_a_killed_family_leaves_nothing(ctx):
    """Their memory has no name, and goes with the last of them; the census looks."""
    locks = [ctx.Lock() for _ in range(10)]
    with Gate() as gate:
        processes = [ctx.Process(target=acquire_and_stay, args=(lock, gate)) for lock in locks]
        for process in processes:
            process.start()
        gate.arrivals(10)
        for process in processes:
            kill(process)
    assert [acquire_with_warnings(lock)[0] for lock in locks] == [True] * 10
