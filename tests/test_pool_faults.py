"""What goes wrong in and around workers. The contract: every task gets an answer, exactly the running task fails, the pool
goes on. Nearly all of it is manycore's alone: in the same places the standard package waits for ever."""

import functools
import os
import signal

import pytest

from support import census, tasks

HANGS = "the standard package waits for ever for the task of a worker that died"
only_manycore = pytest.mark.only("manycore", reason=HANGS)

#: name -> (signal, exit code) as the lost worker's process has them
DEATHS = {
    "sigkill": (signal.SIGKILL, -signal.SIGKILL),
    "sigterm": (signal.SIGTERM, -signal.SIGTERM),
    "segfault": (signal.SIGSEGV, -signal.SIGSEGV),
    "exit0": (None, 0),
    "exit3": (None, 3),
    "system_exit": (None, 3),
    "keyboard_interrupt": (None, 1),
}


def signal_name(how):
    """What WorkerLost.signal says."""
    signum = DEATHS[how][0]
    return None if signum is None else signal.Signals(signum).name


every_death = pytest.mark.parametrize("how", DEATHS)


def check_usable(pool, processes=2):
    """The pool answers, in every call, with all its workers."""
    assert pool.map(tasks.square, range(50), chunksize=1) == [n * n for n in range(50)]
    assert pool.apply(tasks.square, (3,)) == 9
    assert list(pool.imap(tasks.square, range(10))) == [n * n for n in range(10)]
    assert census.eventually(lambda: sum(process.is_alive() for process in list(pool._pool)) == processes)


def check_lost(mp, error, how, task_name="die"):
    signum, exitcode = DEATHS[how]
    assert type(error) is mp.WorkerLost
    assert isinstance(error, mp.ProcessError)
    assert error.signal == signal_name(how)
    if how != "keyboard_interrupt":
        assert error.exitcode == exitcode
    assert isinstance(error.pid, int)
    assert error.pid != os.getpid()
    text = str(error)
    assert str(error.pid) in text
    assert signum is None or signal.Signals(signum).name in text
    assert task_name in str(error.task), "says which function was running"
    assert task_name in text


# --- a worker dies in a task ---


@only_manycore
@every_death
def test_death_in_apply(mp, pool, how):
    for _ in range(2):
        with pytest.raises(mp.WorkerLost) as caught:
            pool.apply(tasks.die, (how,))
        check_lost(mp, caught.value, how)
    check_usable(pool)


@only_manycore
@every_death
def test_death_in_apply_async(mp, pool, how):
    """Among many tasks exactly one fails, the callbacks come, the answer names the worker."""
    good, bad = [], []
    results = [
        pool.apply_async(tasks.die_if, (n, 20, how), callback=good.append, error_callback=bad.append) for n in range(40)
    ]
    for n, result in enumerate(results):
        if n == 20:
            with pytest.raises(mp.WorkerLost) as caught:
                result.get()
            check_lost(mp, caught.value, how, "die_if")
            assert not result.successful()
        else:
            assert result.get() == n
    assert census.eventually(lambda: len(good) == 39 and len(bad) == 1)
    assert type(bad[0]) is mp.WorkerLost
    check_usable(pool)


@only_manycore
@every_death
@pytest.mark.parametrize("chunksize", [1, None, 7])
def test_death_in_map(mp, pool, how, chunksize):
    with pytest.raises(mp.WorkerLost) as caught:
        pool.map(functools.partial(tasks.die_if, victim=20, how=how), range(40), chunksize)
    assert caught.value.signal == signal_name(how)
    check_usable(pool)


@only_manycore
@every_death
def test_death_in_starmap_async(mp, pool, how):
    calls = []
    result = pool.starmap_async(tasks.die_if, [(n, 5, how) for n in range(10)], 1, error_callback=calls.append)
    with pytest.raises(mp.WorkerLost):
        result.get()
    assert census.eventually(lambda: len(calls) == 1)
    check_usable(pool)


@only_manycore
@every_death
@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_death_in_imap(mp, pool, how, call):
    """Only the item that was running fails; the iterator goes on behind it."""
    iterator = getattr(pool, call)(functools.partial(tasks.die_if, victim=7, how=how), range(20))
    values, errors = [], []
    while True:
        try:
            values.append(next(iterator))
        except StopIteration:
            break
        except mp.WorkerLost as error:
            errors.append((len(values), error))
    assert sorted(values) == [n for n in range(20) if n != 7]
    assert len(errors) == 1
    assert errors[0][1].signal == signal_name(how)
    if call == "imap":
        assert values == sorted(values)
        assert errors[0][0] == 7, "in its place"
    check_usable(pool)


@only_manycore
@pytest.mark.methods("forkserver", "spawn")
@pytest.mark.parametrize("how", ["sigkill", "exit0"])
def test_death_in_every_start_method(mp, ctx, how):
    with ctx.Pool(2) as pool:
        results = [pool.apply_async(tasks.die_if, (n, 3, how)) for n in range(10)]
        for n, result in enumerate(results):
            if n == 3:
                with pytest.raises(mp.WorkerLost) as caught:
                    result.get()
                check_lost(mp, caught.value, how, "die_if")
            else:
                assert result.get() == n
        check_usable(pool)
    pool.join()


@only_manycore
def test_death_of_every_worker_at_once(mp, pool, gate):
    """Both hold a task; both tasks fail, each with its own worker; what waits in the queue is answered."""
    running = [pool.apply_async(tasks.wait_at, (gate,)) for _ in range(2)]
    pids = gate.arrivals(2)
    queued = [pool.apply_async(tasks.square, (n,)) for n in range(20)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    lost = []
    for result in running:
        with pytest.raises(mp.WorkerLost) as caught:
            result.get()
        lost.append(caught.value.pid)
    assert sorted(lost) == sorted(pids)
    assert [result.get() for result in queued] == [n * n for n in range(20)]
    check_usable(pool)


@only_manycore
def test_death_after_death(mp, pool):
    """Every second task ends its worker: fifty new workers, no task without an answer."""
    results = [pool.apply_async(tasks.die_if, (n % 2, 1, "sigkill")) for n in range(100)]
    for n, result in enumerate(results):
        if n % 2:
            with pytest.raises(mp.WorkerLost):
                result.get()
        else:
            assert result.get() == 0
    check_usable(pool)


@only_manycore
def test_death_with_limited_lifetimes(mp):
    with mp.Pool(2, maxtasksperchild=2) as pool:
        results = [pool.apply_async(tasks.die_if, (n % 5, 4, "exit0")) for n in range(50)]
        for n, result in enumerate(results):
            if n % 5 == 4:
                with pytest.raises(mp.WorkerLost):
                    result.get()
            else:
                assert result.get() == n % 5
    pool.join()


@only_manycore
def test_death_with_large_payloads(mp, pool):
    """A worker is killed while large arguments and results are on their way; their memory comes back."""
    for size in (100_000, 3_000_000):
        results = [pool.apply_async(tasks.identity, (bytearray(size),)) for _ in range(20)]
        for process in list(pool._pool):
            os.kill(process.pid, signal.SIGKILL)
        lost = 0
        for result in results:
            try:
                assert len(result.get()) == size
            except mp.WorkerLost:
                lost += 1
        assert lost <= 2
    check_usable(pool)


@only_manycore
def test_kill_from_outside_while_running(mp, pool, gate):
    result = pool.apply_async(tasks.wait_at, (gate,))
    (pid,) = gate.arrivals(1)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(mp.WorkerLost) as caught:
        result.get()
    assert caught.value.pid == pid
    check_lost(mp, caught.value, "sigkill", "wait_at")
    check_usable(pool)


@only_manycore
def test_worker_lost_is_an_ordinary_exception(mp, pool):
    """It pickles, so that a nested pool can report it; it has the standard package's error as base."""
    import pickle

    with pytest.raises(mp.WorkerLost) as caught:
        pool.apply(tasks.die, ("exit3",))
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is mp.WorkerLost
    assert (again.pid, again.exitcode, again.signal) == (caught.value.pid, 3, None)
    assert str(again) == str(caught.value)


# --- a worker dies while idle ---


@only_manycore
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
@pytest.mark.parametrize("which", ["one", "all"])
def test_death_while_idle(pool, signum, which):
    assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
    victims = [process.pid for process in pool._pool][: 1 if which == "one" else None]
    with census.Watch(victims) as watch:
        for pid in victims:
            os.kill(pid, signum)
        assert watch.wait_gone() == []
    check_usable(pool)
    assert not set(victims) & {process.pid for process in pool._pool}


@only_manycore
def test_death_before_the_first_task(pool):
    for process in list(pool._pool):
        process.kill()
    check_usable(pool)


@only_manycore
def test_death_while_idle_and_nobody_asks(pool):
    """The pool fills itself again without any call."""
    # Taken first: to look at `_pool` is enough to have the dead replaced.
    dead = {process.pid for process in pool._pool}
    for pid in dead:
        os.kill(pid, signal.SIGKILL)
    assert census.eventually(lambda: len([p for p in list(pool._pool) if p.is_alive() and p.pid not in dead]) == 2)


@only_manycore
def test_close_and_join_after_death(mp):
    pool = mp.Pool(2)
    results = [pool.apply_async(tasks.die_if, (n, 3, "sigkill")) for n in range(10)]
    pool.close()
    pool.join()
    for n, result in enumerate(results):
        assert result.ready()
        if n == 3:
            with pytest.raises(mp.WorkerLost):
                result.get()
        else:
            assert result.get() == n


@only_manycore
def test_terminate_after_death(mp):
    pool = mp.Pool(2)
    for process in list(pool._pool):
        os.kill(process.pid, signal.SIGKILL)
    pool.terminate()
    pool.join()


# --- a worker dies while starting, or cannot start ---


@only_manycore
def test_death_of_the_first_worker_while_starting(mp, tmp_path):
    with mp.Pool(2, tasks.die_while_starting_once, (str(tmp_path / "flag"),)) as pool:
        check_usable(pool)
    pool.join()


@pytest.mark.only("manycore", reason="the standard package starts new workers without end")
@pytest.mark.parametrize("call", ["apply", "map", "imap", "apply_async"])
def test_an_initializer_that_raises(mp, tmp_path, call, capfd):
    path = str(tmp_path / "starts")
    with mp.Pool(2, tasks.fail_to_initialize, (path,)) as pool:
        with pytest.raises(tasks.InitializerError, match="not today") as caught:
            if call == "apply":
                pool.apply(tasks.square, (2,))
            elif call == "map":
                pool.map(tasks.square, range(10))
            elif call == "imap":
                list(pool.imap(tasks.square, range(10)))
            else:
                pool.apply_async(tasks.square, (2,)).get()
        assert "fail_to_initialize" in str(caught.value.__cause__), "the worker's traceback"
        with pytest.raises(tasks.InitializerError):
            pool.apply(tasks.square, (2,))
    pool.join()
    assert os.path.getsize(path) <= 100
    assert len(capfd.readouterr().err.splitlines()) < 200


@pytest.mark.only("manycore", reason="the standard package starts new workers without end")
@pytest.mark.methods("forkserver", "spawn")
def test_an_initializer_that_raises_in_every_start_method(ctx):
    with ctx.Pool(1, tasks.fail_to_initialize) as pool, pytest.raises(tasks.InitializerError, match="not today"):
        pool.apply(tasks.square, (2,))
    pool.join()


@pytest.mark.only("manycore", reason="the standard package starts new workers without end")
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_the_end_of_a_pool_that_cannot_start(mp, end):
    pool = mp.Pool(2, tasks.fail_to_initialize)
    result = pool.apply_async(tasks.square, (2,))
    getattr(pool, end)()
    pool.join()
    with pytest.raises((tasks.InitializerError, mp.ProcessError)):
        result.get()


@pytest.mark.only("manycore", reason="the standard package starts new workers without end")
@pytest.mark.methods("forkserver", "spawn")
def test_an_initializer_that_does_not_unpickle(ctx):
    with (
        pytest.raises((tasks.UnpickleError, ctx.ProcessError)),
        ctx.Pool(1, tasks.remember, (tasks.NoUnpickle(),)) as pool,
    ):
        pool.apply(tasks.square, (2,))


@pytest.mark.methods("forkserver", "spawn")
def test_an_initializer_that_does_not_pickle(ctx):
    with pytest.raises(tasks.PickleError), ctx.Pool(1, tasks.remember, (tasks.NoPickle(),)) as pool:
        pool.apply(tasks.square, (2,))


# --- what raises in a task without being an Exception ---


@only_manycore
def test_system_exit_with_other_values(mp, pool):
    for code in (None, "text"):
        with pytest.raises(mp.WorkerLost) as caught:
            pool.apply(tasks.leave_by_system_exit, (code,))
        assert caught.value.signal is None
    check_usable(pool)


@only_manycore
def test_base_exception(mp, pool):
    with pytest.raises((mp.WorkerLost, BaseException)) as caught:
        pool.apply(tasks.raise_base_exception)
    assert type(caught.value) in (mp.WorkerLost, BaseException)
    check_usable(pool)


# --- what does not unpickle (what does not pickle is in test_pool_async, the standard package answers there) ---


@only_manycore
@pytest.mark.parametrize("chunksize", [1, 7])
def test_an_argument_that_does_not_unpickle(pool, chunksize):
    with pytest.raises(tasks.UnpickleError, match="cannot be unpickled"):
        pool.apply(tasks.identity, (tasks.NoUnpickle(),))
    with pytest.raises(tasks.UnpickleError):
        pool.map(tasks.typename, [1, tasks.NoUnpickle(), 2], chunksize)
    results = [pool.apply_async(tasks.typename, (item,)) for item in (1, tasks.NoUnpickle(), "x")]
    assert results[0].get() == "int"
    assert results[2].get() == "str"
    with pytest.raises(tasks.UnpickleError):
        results[1].get()
    check_usable(pool)


@only_manycore
def test_a_function_that_does_not_unpickle(pool):
    function = functools.partial(tasks.echo, tasks.NoUnpickle())
    with pytest.raises(tasks.UnpickleError):
        pool.apply(function)
    with pytest.raises(tasks.UnpickleError):
        pool.map(function, range(10))
    check_usable(pool)


@only_manycore
def test_a_function_that_the_worker_does_not_have(pool):
    """Defined after the fork in a module that the worker imported before."""
    tasks.late_function = late_function
    late_function.__module__ = "support.tasks"
    try:
        with pytest.raises(AttributeError, match="late_function"):
            pool.map(late_function, [1, 2])
    finally:
        del tasks.late_function
    check_usable(pool)


def late_function(x):
    return x


@only_manycore
@pytest.mark.parametrize("call", ["apply", "map", "imap", "imap_unordered"])
def test_a_result_that_does_not_unpickle(pool, call):
    with pytest.raises(tasks.UnpickleError, match="cannot be unpickled"):
        if call == "apply":
            pool.apply(tasks.give_no_unpickle)
        else:
            list(getattr(pool, call)(tasks.give_no_unpickle, [1, 2]))
    check_usable(pool)


@only_manycore
def test_an_exception_that_does_not_unpickle(pool):
    """Its constructor wants more than `args` has. The caller learns the type, the text and where it came from."""
    with pytest.raises(Exception) as caught:
        pool.apply(tasks.raise_with_two)
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    text = "".join(f"{type(error).__name__}: {error}" for error in chain if error is not None)
    assert "WithTwo" in text
    assert "raise_with_two" in text, "the worker's traceback is not lost"
    for chunksize in (1, 7):
        with pytest.raises(Exception):  # noqa: B017
            pool.map(functools.partial(call_without, tasks.raise_with_two), range(10), chunksize)
    check_usable(pool)


def call_without(function, _):
    return function()


@only_manycore
def test_an_argument_whose_unpickling_ends_the_worker(mp, pool):
    with pytest.raises(mp.WorkerLost) as caught:
        pool.apply(tasks.identity, (tasks.DiesInUnpickle(),))
    assert caught.value.exitcode == 7
    check_usable(pool)


@only_manycore
def test_a_result_whose_pickling_ends_the_worker(mp, pool):
    with pytest.raises(mp.WorkerLost) as caught:
        pool.apply(tasks.give_dies_in_pickle)
    assert caught.value.exitcode == 7
    check_usable(pool)
