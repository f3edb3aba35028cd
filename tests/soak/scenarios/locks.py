"""Locks whose owners are killed."""

import threading

from rig import PATIENCE, role

UNITS = 3


def own(lock, rlock, semaphore, condition, event, barrier, total):
    """Take and give back everything there is, for ever."""
    role("owner")
    while True:
        with lock, rlock, rlock:
            pass
        with semaphore:
            event.set()
        with condition:
            condition.notify()
            condition.wait(0.001)
        with total:
            total.value += 1
        event.clear()
        try:
            barrier.wait(0.02)
        except threading.BrokenBarrierError:
            pass


def locks_pass(rig):
    """A lock whose owner is killed passes to the next, units of a semaphore come back, and no waiter is forgotten."""
    while not rig.over():
        ctx = rig.ctx
        locks = [ctx.Lock(), ctx.RLock(), ctx.BoundedSemaphore(UNITS), ctx.Condition(), ctx.Event(), ctx.Barrier(3)]
        lock, rlock, semaphore, condition, event, barrier = locks
        total = ctx.Value("q", 0)
        crew, before = [], 0
        for _ in range(rig.random.randrange(20, 200)):
            for process in [process for process in crew if not process.is_alive()]:
                crew.remove(process)
                rig.end([process])
            while len(crew) < 3:
                crew.append(rig.start(own, *locks, total))
            for name, one in (("lock", lock), ("rlock", rlock), ("semaphore", semaphore), ("condition", condition)):
                with rig.awaiting(f"a {name}"):
                    assert one.acquire(timeout=PATIENCE), f"a {name} was not to be had"
                if one is condition:
                    condition.wait(0.001)
                one.release()
                rig.counts["acquired"] += 1
            with rig.awaiting("the lock of a value"), total:
                assert total.value >= before
                before = total.value
            event.set()
            if rig.random.random() < 0.1:
                barrier.reset()
            if rig.over():
                break
        rig.end(crew)
        for _ in range(UNITS):
            with rig.awaiting("the units of dead processes"):
                assert semaphore.acquire(timeout=PATIENCE), "a dead process's unit has not come back"
        for name, one in (("lock", lock), ("rlock", rlock), ("condition", condition)):
            with rig.awaiting(f"a {name} that a dead process had"):
                assert one.acquire(timeout=PATIENCE), f"a {name} stays with the dead"
        del one, locks, lock, rlock, semaphore, condition, event, barrier, total
        rig.mark()
