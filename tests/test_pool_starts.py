"""Workers that do not live to be ready: killed by somebody, or ended by their own error.

The pool starts others in place of the killed, however many they are, for as long as somebody waits. It gives up over the
others, because the next one would end alike.
"""

import contextlib
import os
import random
import signal
import threading
import warnings

import pytest

from support import census, tasks

only_manycore = pytest.mark.only(
    "manycore", reason="the standard package waits for ever, or starts workers without end"
)

# More than three, which are enough if the workers end by their own error.
KILLS = 6


@contextlib.contextmanager
def waiting(function):
    """Somebody waits in a thread for what `function` gives; a list of it, after the block."""
    given = []

    def wait():
        try:
            given.append(function())
        except Exception as error:
            given.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    yield given
    thread.join()


def kill_in_their_start(gate, number, times=KILLS):
    for _ in range(times):
        os.kill(gate.arrivals()[0], number)


# --- killed ---


@only_manycore
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_killed_in_their_start(ctx, gate, number):
    with ctx.Pool(2, gate.arrive) as pool:
        with waiting(lambda: pool.map(tasks.square, range(20))) as given:
            kill_in_their_start(gate, number)
            gate.open()
        assert given == [[n * n for n in range(20)]]
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
        assert census.eventually(lambda: sum(process.is_alive() for process in list(pool._pool)) == 2)
    pool.join()


@only_manycore
@pytest.mark.parametrize("call", ["apply", "imap", "starmap_async", "callback", "polling"])
def test_whoever_waits_is_enough(mp, gate, call):
    called = threading.Event()

    def poll(pool):
        result = pool.apply_async(tasks.square, (3,))
        assert census.eventually(result.ready, 40)
        return result.get()

    def call_back(pool):
        result = pool.apply_async(tasks.square, (3,), callback=lambda _: called.set())
        return called.wait(40) and result.get()

    calls = {
        "apply": lambda pool: pool.apply(tasks.square, (3,)),
        "imap": lambda pool: next(pool.imap(tasks.square, [3])),
        "starmap_async": lambda pool: pool.starmap_async(tasks.square, [(3,)]).get()[0],
        "callback": call_back,
        "polling": poll,
    }
    with mp.Pool(1, gate.arrive) as pool:
        with waiting(lambda: calls[call](pool)) as given:
            kill_in_their_start(gate, signal.SIGKILL, 4)
            gate.open()
        assert given == [9]
    pool.join()


@only_manycore
def test_a_task_that_nobody_asks_for_is_done_all_the_same(mp, gate, tmp_path):
    path = tmp_path / "done"
    with mp.Pool(1, gate.arrive) as pool:
        pool.apply_async(tasks.count_start, (str(path),))
        kill_in_their_start(gate, signal.SIGKILL, 4)
        gate.open()
        assert census.eventually(path.exists, 40)
    pool.join()


@only_manycore
def test_closed_in_the_midst_of_it(mp, gate):
    pool = mp.Pool(1, gate.arrive)
    results = [pool.apply_async(tasks.square, (n,)) for n in range(5)]
    pool.close()
    with waiting(pool.join):
        kill_in_their_start(gate, signal.SIGKILL, 4)
        gate.open()
    assert [result.get() for result in results] == [0, 1, 4, 9, 16]


@only_manycore
@pytest.mark.parametrize("end", ["terminate", "with", "collected", "closed"])
def test_ended_in_the_midst_of_it(ctx, gate, end):
    """No worker is left, no answer is owed, and nobody waits for the end of a pause."""
    pool = ctx.Pool(1, gate.arrive)
    if end == "closed":
        with waiting(lambda: pool.apply(tasks.square, (3,))) as given:
            kill_in_their_start(gate, signal.SIGKILL)
            gate.open()
        assert given == [9]
        pool.close()
        pool.join()
        return
    result = pool.apply_async(tasks.square, (3,))
    with waiting(lambda: result.get()) as given:
        kill_in_their_start(gate, signal.SIGKILL)
        if end == "terminate":
            pool.terminate()
        elif end == "with":
            with pool:
                pass
        else:
            pool._terminate()
    assert isinstance(given[0], ctx.ProcessError)
    pool.terminate()
    pool.join()


@only_manycore
def test_a_warning_says_what_the_program_waits_for(mp, tmp_path):
    """Where each start is killed, as for want of memory, the program waits on; it is not to wonder why."""
    path = str(tmp_path / "starts")
    with warnings.catch_warnings(record=True) as seen, mp.Pool(2, tasks.die_while_starting, (path,)) as pool:
        warnings.simplefilter("always")
        with waiting(lambda: pool.apply(tasks.square, (3,))) as given:
            # Newer versions also warn of forks.
            assert census.eventually(lambda: [one for one in seen if one.category is RuntimeWarning], 40)
            pool.terminate()
        assert isinstance(given[0], mp.ProcessError)
    pool.join()
    (warning,) = [one for one in seen if one.category is RuntimeWarning]
    assert "SIGKILL" in str(warning.message)


@only_manycore
def test_killed_at_random(ctx):
    """Whatever state a worker is in when it is killed, its pool answers every task, and goes on afterwards."""
    dice = random.Random(f"{ctx.get_start_method()}")
    with ctx.Pool(4) as pool:
        killed = 0
        while killed < 40:
            results = [pool.apply_async(tasks.square, (n,)) for n in range(4)]
            victims = [process for process in list(pool._pool) if process.is_alive()]
            if victims:
                dice.choice(victims).kill()
                killed += 1
            for n, result in enumerate(results):
                with contextlib.suppress(ctx.WorkerLost):
                    assert result.get() == n * n
        # The last victim may have had no task in hand yet.
        with contextlib.suppress(ctx.WorkerLost):
            pool.map(tasks.square, range(50))
        assert census.eventually(lambda: sum(process.is_alive() for process in list(pool._pool)) == 4, 40)
        assert pool.map(tasks.square, range(50)) == [n * n for n in range(50)]
    pool.join()


# --- by their own error ---


@only_manycore
@pytest.mark.parametrize("how", ["segfault", "abort", "exit0", "exit3", "alarm"])
def test_ended_by_their_own_error(ctx, tmp_path, how):
    path = str(tmp_path / "starts")
    with ctx.Pool(2, fall, (how, path)) as pool:
        for _ in range(2):
            with pytest.raises(ctx.WorkerLost, match="start-up"):
                pool.map(tasks.square, range(10))
        assert os.path.getsize(path) <= 4, "three in a row, and one that was started beside them"
    pool.join()


@only_manycore
def test_kills_between_errors_excuse_nothing(mp, tmp_path):
    path = str(tmp_path / "starts")
    with mp.Pool(1, fall_in_turns, (path,)) as pool, pytest.raises(mp.WorkerLost, match="start-up"):
        pool.apply(tasks.square, (3,))
    pool.join()
    assert os.path.getsize(path) == 5


def fall(how, path):
    tasks.count_start(path)
    if how == "abort":
        os.abort()
    if how == "alarm":
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        signal.pause()
    tasks.die(how)


def fall_in_turns(path):
    tasks.count_start(path)
    tasks.die("exit3" if os.path.getsize(path) % 2 else "sigkill")
