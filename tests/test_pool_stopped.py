"""Workers that are stopped (SIGSTOP, a debugger): alive, and of no use."""

import os
import signal

import pytest

from support import census, tasks

pytestmark = pytest.mark.only("manycore", reason="a stopped worker of the standard package may hold the queue's lock")


def test_a_stopped_worker_delays_only_its_own_task(mp, pool, gate):
    result = pool.apply_async(tasks.wait_at, (gate, "late"))
    (pid,) = gate.arrivals(1)
    os.kill(pid, signal.SIGSTOP)
    assert pool.map(tasks.square, range(20), chunksize=1) == [n * n for n in range(20)]
    os.kill(pid, signal.SIGCONT)
    gate.open()
    assert result.get() == "late"


def test_terminate_with_a_stopped_worker(mp, gate):
    pool = mp.Pool(1)
    pool.apply_async(tasks.wait_at, (gate,))
    (pid,) = gate.arrivals(1)
    os.kill(pid, signal.SIGSTOP)
    pool.terminate()
    pool.join()


@pytest.mark.parametrize("call", ["apply", "map", "get", "get_timeout", "imap", "callback"])
def test_a_worker_that_is_stopped_in_its_sleep(mp, call):
    """The other gets the tasks. (One that is stopped with a wake or a post in hand: the engine's `tests/crash.rs`.)"""
    called = []

    def run(n):
        if call == "apply":
            return pool.apply(tasks.square, (n,))
        if call == "map":
            return pool.map(tasks.square, [n])[0]
        if call == "imap":
            return next(pool.imap(tasks.square, [n]))
        callback = called.append if call == "callback" else None
        return pool.apply_async(tasks.square, (n,), callback=callback).get(
            timeout=30 if call == "get_timeout" else None
        )

    with mp.Pool(2) as pool:
        pids = [process.pid for process in pool._pool]
        pool.map(tasks.square, range(2))
        # Those that sleep are woken first in, first out: each is first in one of the turns.
        for n, pid in enumerate(pids * 2):
            assert census.eventually(lambda: all(census.stat_fields(one)[0] == "S" for one in pids))
            os.kill(pid, signal.SIGSTOP)
            assert census.eventually(lambda pid=pid: census.stat_fields(pid)[0] == "T")
            assert run(n) == n * n
            os.kill(pid, signal.SIGCONT)
    pool.join()
