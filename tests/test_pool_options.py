"""What a pool can do beyond the standard one: time limits, cancelling, retries, priorities, failures as values."""

import functools
import os
import pickle
import signal
import time

import pytest

from support import census, tasks

pytestmark = pytest.mark.only("manycore", reason="the standard package has no such options")


def mark(folder, x):
    """Notes that item `x` is run; how often it was run so far, this time included."""
    with open(folder / str(x), "a") as file:
        file.write("x")
    return os.path.getsize(folder / str(x))


def runs(folder):
    return {int(name): os.path.getsize(folder / name) for name in os.listdir(folder)}


def dies_at(folder, victims, times, x):
    """Kills its worker at the items `victims`, the first `times` times."""
    if mark(folder, x) <= times and x in victims:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def fails_at(folder, victims, times, x):
    if mark(folder, x) <= times and x in victims:
        raise ConnectionError(f"item {x}")
    return x


def hangs_at(victims, x):
    while x in victims:
        signal.pause()
    return x


def dies_starred(folder, x, y):
    return dies_at(folder, (30,), 1, x) + y


def answers(pool, verb, function, items, chunksize, **options):
    if verb in ("imap", "imap_unordered"):
        return list(getattr(pool, verb)(function, items, chunksize, **options))
    return getattr(pool, verb)(function, items, chunksize, **options)


VERBS = ("map", "imap", "imap_unordered")

# --- exactly the item ---


@pytest.mark.parametrize("verb", VERBS)
def test_a_death_costs_the_item_that_was_running(mp, ctx, tmp_path, verb):
    with ctx.Pool(2) as pool:
        function = functools.partial(dies_at, tmp_path, (50, 199), 9)
        values = answers(pool, verb, function, range(400), 100, return_exceptions=True)
        pool.close()
        pool.join()
    failed = [value for value in values if isinstance(value, Exception)]
    assert sorted(value for value in values if isinstance(value, int)) == sorted(set(range(400)) - {50, 199})
    assert [type(error) for error in failed] == [mp.WorkerLost] * 2
    assert {"item 50", "item 199"} == {" ".join(error.task.split()[-2:]) for error in failed}
    assert runs(tmp_path) == dict.fromkeys(range(400), 1), "every item was run once"


@pytest.mark.parametrize("verb", VERBS)
def test_with_a_retry_it_costs_nothing(pool, tmp_path, verb):
    function = functools.partial(dies_at, tmp_path, (0, 7, 99), 1)
    values = answers(pool, verb, function, range(100), 50, retries=1)
    assert sorted(values) == list(range(100))
    assert runs(tmp_path) == {x: 1 + (x in (0, 7, 99)) for x in range(100)}


def test_a_starmap_loses_one_item(mp, pool, tmp_path):
    function = functools.partial(dies_starred, tmp_path)
    values = pool.starmap(function, [(x, 1) for x in range(60)], 60, return_exceptions=True)
    assert [type(value) for value in values].count(mp.WorkerLost) == 1
    assert isinstance(values[30], mp.WorkerLost)
    assert runs(tmp_path) == dict.fromkeys(range(60), 1)


def large_then_dies(x):
    if x == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"number": x, "text": "x" * 10_000, "set": {x}}


def test_results_of_any_kind_are_kept(mp, pool):
    values = pool.map(large_then_dies, range(20), 20, return_exceptions=True)
    assert isinstance(values.pop(9), mp.WorkerLost)
    assert values == [large_then_dies(x) for x in range(20) if x != 9]


def test_a_plain_map_fails_and_its_other_items_are_run(mp, pool, tmp_path):
    with pytest.raises(mp.WorkerLost, match="on item 3$"):
        pool.map(functools.partial(dies_at, tmp_path, (3,), 1), range(10), 10)
    assert runs(tmp_path) == dict.fromkeys(range(10), 1)


@pytest.mark.parametrize("takes", [True, False])
def test_a_closed_pool_runs_what_a_dead_worker_left(ctx, tmp_path, takes):
    with ctx.Pool(1) as pool:
        result = pool.map_async(functools.partial(dies_at, tmp_path, (3,), 1), range(10), 10, retries=1)
        if not takes:
            del result
        pool.close()
        pool.join()
        assert runs(tmp_path) == {x: 1 + (x == 3) for x in range(10)}
        assert not takes or result.get() == list(range(10))


def test_an_iteration_goes_on_behind_the_lost_item(mp, pool, tmp_path):
    results = pool.imap(functools.partial(dies_at, tmp_path, (13,), 9), range(40), 8)
    seen = []
    while True:
        try:
            seen.append(next(results))
        except mp.WorkerLost as error:
            seen.append(error.task.split()[-1])
        except StopIteration:
            break
    assert seen == [*range(13), "13", *range(14, 40)]


# --- time limits ---


def test_a_call_ends_at_its_limit(mp, ctx):
    with ctx.Pool(1) as pool:
        # A worker that has not imported this module yet does so in the time of its task.
        pool.apply(hangs_at, ((), 1))
        started = time.monotonic()
        with pytest.raises(mp.TaskTimeout) as caught:
            pool.apply(hangs_at, ((1,), 1), task_timeout=0.1)
        assert time.monotonic() - started >= 0.1
        error = caught.value
        assert isinstance(error, mp.WorkerLost)
        assert (error.limit, type(error.pid)) == (0.1, int)
        assert "hangs_at" in error.task
        assert "in hangs_at" in error.traceback
        assert "0.1 s" in str(error)
        copy = pickle.loads(pickle.dumps(error))
        assert (copy.limit, copy.pid, copy.task, copy.traceback) == (0.1, error.pid, error.task, error.traceback)
        assert pool.apply(tasks.square, (3,)) == 9
        pool.close()
        pool.join()


@pytest.mark.parametrize("verb", VERBS)
def test_a_limit_is_each_items(mp, verb):
    # A worker that is new imports this module in the time of its first item, beside whatever else the machine does.
    with mp.Pool(2, task_timeout=2) as pool:
        values = answers(pool, verb, functools.partial(hangs_at, (5, 17)), range(20), 10, return_exceptions=True)
    pool.join()
    assert sorted(value for value in values if isinstance(value, int)) == sorted(set(range(20)) - {5, 17})
    assert [type(value) for value in values].count(mp.TaskTimeout) == 2


def nap(x):
    time.sleep(0.2)
    return x


def test_a_chunk_may_take_longer_than_an_item(mp):
    with mp.Pool(1, task_timeout=2) as pool:
        assert pool.map(nap, range(12), 12) == list(range(12))
        assert pool.statistics()["expired"] == 0
    pool.join()


def test_nobody_needs_to_wait_for_it(pool, mp):
    result = pool.apply_async(hangs_at, ((1,), 1), task_timeout=0.05)
    assert census.eventually(lambda: pool.statistics()["expired"] == 1)
    with pytest.raises(mp.TaskTimeout):
        result.get()


def deaf(x):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    return hangs_at((x,), x)


def test_a_worker_that_blocks_signals_is_killed(mp, pool):
    with pytest.raises(mp.TaskTimeout):
        pool.apply(deaf, (1,), task_timeout=0.05)


def stopped(x):
    os.kill(os.getpid(), signal.SIGSTOP)
    return x


def test_a_stopped_worker_is_killed(mp, pool):
    with pytest.raises(mp.TaskTimeout):
        pool.apply(stopped, (1,), task_timeout=0.05)


def test_a_hang_may_be_retried(mp, pool, tmp_path):
    function = functools.partial(hangs_once, tmp_path)
    # A limit that no item reaches by the machine's being busy.
    assert pool.map(function, range(8), 8, task_timeout=2, retries=1) == list(range(8))
    assert runs(tmp_path) == {x: 1 + (x == 4) for x in range(8)}


def hangs_once(folder, x):
    return hangs_at((4,) if mark(folder, x) == 1 else (), x)


# --- cancel ---


def test_a_running_task_is_ended_and_a_waiting_one_never_runs(mp, ctx, gate, tmp_path):
    with ctx.Pool(1) as pool:
        running = pool.apply_async(gate.arrive)
        waiting = pool.apply_async(mark, (tmp_path, 1))
        behind = pool.apply_async(tasks.square, (3,))
        (pid,) = gate.arrivals()
        assert waiting.cancel()
        assert running.cancel()
        for result in (running, waiting):
            with pytest.raises(mp.TaskCancelled):
                result.get()
            assert result.cancelled()
            assert not result.cancel()
        assert behind.get() == 9
        assert not behind.cancel()
        assert not behind.cancelled()
        assert census.eventually(lambda: pid not in {process.pid for process in pool._pool})
        assert runs(tmp_path) == {}
        pool.close()
        pool.join()
    gate.open()


def test_a_map_is_cancelled_whole(mp, pool, gate, tmp_path):
    result = pool.map_async(functools.partial(arrives, gate, tmp_path), range(1000), 1)
    gate.arrivals(2)
    assert result.cancel()
    with pytest.raises(mp.TaskCancelled):
        result.get()
    assert len(runs(tmp_path)) == 2
    assert pool.map(tasks.square, range(10)) == [x * x for x in range(10)]
    gate.open()


def arrives(gate, folder, x):
    mark(folder, x)
    return gate.arrive()


@pytest.mark.parametrize("callback", [True, False])
def test_a_call_that_waits_for_room_is_cancelled(mp, pool, gate, callback):
    heard = []
    options = {"error_callback": heard.append} if callback else {}
    blockers = [pool.apply_async(gate.arrive) for _ in range(2)]
    gate.arrivals(2)
    results = [pool.apply_async(tasks.square, (x,), **options) for x in range(3000)]
    assert results[-1].cancel()
    with pytest.raises(mp.TaskCancelled):
        results[-1].get()
    gate.open()
    assert [result.get() for result in results[:-1]] == [x * x for x in range(2999)]
    assert [type(error) for error in heard] == [mp.TaskCancelled] * callback
    assert len([blocker.get() for blocker in blockers]) == 2


def test_an_iteration_is_cancelled(mp, pool, gate, tmp_path):
    results = pool.imap(functools.partial(arrives, gate, tmp_path), range(1000))
    gate.arrivals(2)
    assert results.cancel()
    assert results.cancelled()
    with pytest.raises(mp.TaskCancelled):
        next(results)
    assert list(results) == []
    assert not results.cancel()
    assert len(runs(tmp_path)) == 2
    gate.open()


def test_a_retried_call_is_cancelled(mp, pool, tmp_path):
    result = pool.apply_async(dies_at, (tmp_path, (1,), 1 << 30, 1), retries=1 << 20)
    assert census.eventually(lambda: runs(tmp_path).get(1, 0) > 1)
    assert result.cancel()
    with pytest.raises(mp.TaskCancelled):
        result.get()
    assert pool.apply(tasks.square, (3,)) == 9


def test_a_dying_worker_is_cancelled(mp, pool):
    for _ in range(20):
        result = pool.apply_async(os._exit, (3,))
        was_cancelled = result.cancel()
        with pytest.raises((mp.TaskCancelled, mp.WorkerLost)):
            result.get()
        assert was_cancelled or not result.cancelled()
    assert pool.apply(tasks.square, (3,)) == 9


# --- retries, failures as values ---


@pytest.mark.parametrize("verb", VERBS)
def test_exceptions_that_are_named_are_retried(pool, tmp_path, verb):
    function = functools.partial(fails_at, tmp_path, (2, 3), 2)
    values = answers(pool, verb, function, range(10), 5, retries=2, retry_on=OSError)
    assert sorted(values) == list(range(10))
    assert runs(tmp_path) == {x: 3 if x in (2, 3) else 1 for x in range(10)}


def test_a_call_is_retried_so_often_and_no_more(pool, tmp_path):
    with pytest.raises(ConnectionError):
        pool.apply(fails_at, (tmp_path, (1,), 9, 1), retries=2, retry_on=(KeyError, ConnectionError))
    assert runs(tmp_path) == {1: 3}
    with pytest.raises(ConnectionError):
        pool.apply(fails_at, (tmp_path, (2,), 9, 2), retries=2, retry_on=KeyError)
    with pytest.raises(ConnectionError):
        pool.apply(fails_at, (tmp_path, (3,), 9, 3), retries=2)
    assert runs(tmp_path) == {1: 3, 2: 1, 3: 1}


def test_a_retry_is_done_though_nobody_asks(pool, tmp_path):
    pool.apply_async(fails_at, (tmp_path, (1,), 2, 1), retries=2, retry_on=ConnectionError)
    pool.close()
    pool.join()
    assert runs(tmp_path) == {1: 3}


def refuses(x):
    raise ValueError(x)


@pytest.mark.parametrize("verb", VERBS)
def test_failures_are_values(mp, pool, tmp_path, verb):
    function = functools.partial(fails_at, tmp_path, (2,), 9)
    values = answers(pool, verb, function, range(6), 3, return_exceptions=True)
    assert [type(value) for value in sorted(values, key=str)] == [int] * 5 + [ConnectionError]
    assert pool.apply(refuses, (3,), return_exceptions=True).args == (3,)


def test_what_cannot_travel_is_one_items_failure(mp, pool):
    import threading

    values = pool.map(unpicklable_lock, range(4), 4, return_exceptions=True)
    assert [type(value) for value in values] == [int, mp.pool.MaybeEncodingError, int, int]
    values = pool.map(tasks.identity, [0, threading.Lock(), 2], 3, return_exceptions=True)
    assert [type(value) for value in values] == [int, TypeError, int]


def unpicklable_lock(x):
    import threading

    return threading.Lock() if x == 1 else x


# --- priority ---


def test_the_urgent_is_run_first(mp, gate, tmp_path):
    order = tmp_path / "order"
    with mp.Pool(1) as pool:
        blocker = pool.apply_async(gate.arrive)
        gate.arrivals()
        results = [pool.apply_async(note, (order, x)) for x in range(3000)]
        results.append(pool.apply_async(note, (order, "late"), priority=-1))
        results.append(pool.map_async(functools.partial(note, order), ["m1", "m2"], 1, priority=1))
        results.append(pool.apply_async(note, (order, "urgent"), priority=2))
        results.append(pool.apply_async(note, (order, "also"), priority=2))
        gate.open()
        for result in results:
            result.get()
        blocker.get()
        pool.close()
        pool.join()
    said = order.read_text().split()
    assert said == ["urgent", "also", "m1", "m2", *map(str, range(3000)), "late"]


def note(file, x):
    with open(file, "a") as out:
        out.write(f"{x}\n")


def test_a_later_call_is_not_starved(mp, gate):
    with mp.Pool(2) as pool:
        behind = pool.map_async(nap, range(1 << 20), 1)
        assert census.eventually(lambda: pool.statistics()["returned"] > 4)
        assert pool.apply(tasks.square, (3,)) == 9
        assert not behind.ready()
    pool.join()


# --- the pool's own ---


def test_where_a_worker_crashed(mp, ctx):
    with ctx.Pool(1) as pool:
        for signum in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
            with pytest.raises(mp.WorkerLost) as caught:
                pool.apply(crash, (signum,))
            assert caught.value.signal == signal.Signals(signum).name
            assert "in crash" in caught.value.traceback
            assert "in crash" in str(caught.value)
        with pytest.raises(mp.WorkerLost) as caught:
            pool.apply(crash, (signal.SIGKILL,))
        assert caught.value.traceback is None
        pool.close()
        pool.join()


def crash(signum):
    os.kill(os.getpid(), signum)


def test_the_finalizer_is_called_in_workers_that_end_normally(ctx, tmp_path):
    with ctx.Pool(2, finalizer=functools.partial(leave, tmp_path)) as pool:
        pool.map(tasks.whoami, range(100))
        with pytest.raises(Exception, match="SIGKILL"):
            pool.apply(crash, (signal.SIGKILL,))
        pool.close()
        pool.join()
    assert len(os.listdir(tmp_path)) == 2


def leave(folder):
    (folder / str(os.getpid())).touch()


def hungry(size):
    return len(bytearray(size))


def test_memory_is_limited(ctx):
    with ctx.Pool(1, memory_limit=512 << 20) as pool:
        assert pool.apply(hungry, (1 << 20,)) == 1 << 20
        with pytest.raises(MemoryError):
            pool.apply(hungry, (1 << 30,))
        assert pool.apply(tasks.square, (3,)) == 9
        pool.close()
        pool.join()


_hoard = []


def hoard(size):
    _hoard.append(b"x" * size)
    return os.getpid()


def test_a_worker_that_has_grown_is_replaced(mp):
    with mp.Pool(1, max_worker_rss=400 << 20) as pool:
        first = pool.apply(hoard, (1 << 20,))
        assert pool.apply(hoard, (450 << 20,)) == first
        assert pool.apply(hoard, (1 << 20,)) != first
        pool.close()
        pool.join()


def test_statistics(pool, mp):
    assert pool.map(tasks.square, range(4), 1) == [0, 1, 4, 9]
    with pytest.raises(mp.WorkerLost):
        pool.apply(crash, (signal.SIGKILL,))
    with pytest.raises(ValueError, match="7"):
        pool.apply(refuses, (7,))
    counts = pool.statistics()
    assert (counts["submitted"], counts["returned"], counts["raised"], counts["lost"]) == (6, 4, 1, 1)
    assert (counts["in_flight"], counts["workers"], counts["workers_started"]) == (0, 2, 3)
    assert counts["busy"] > 0


BAD = [
    ({"task_timeout": 0}, ValueError),
    ({"task_timeout": -1.5}, ValueError),
    ({"task_timeout": float("nan")}, ValueError),
    ({"task_timeout": "1"}, TypeError),
    ({"task_timeout": True}, TypeError),
    ({"retries": -1}, ValueError),
    ({"retries": 1.0}, TypeError),
    ({"retry_on": 3}, TypeError),
    ({"retry_on": (OSError, int)}, TypeError),
    ({"priority": "high"}, TypeError),
    ({"priority": 1 << 40}, ValueError),
]


@pytest.mark.parametrize(("option", "kind"), BAD)
@pytest.mark.parametrize("verb", ["apply", "map", "starmap", "apply_async", "map_async", "imap", "imap_unordered"])
def test_bad_values_are_named(pool, verb, option, kind):
    ((name, value),) = option.items()
    with pytest.raises(kind, match=name) as caught:
        getattr(pool, verb)(tasks.square, (1,), **option)
    assert repr(value) in str(caught.value) or name == "retry_on" or value != value


def test_unknown_options_are_named(pool, mp):
    with pytest.raises(TypeError, match="'timeout'"):
        pool.map(tasks.square, (), timeout=3)
    for name, value in (("task_timeout", 0), ("memory_limit", -1), ("max_worker_rss", 0)):
        with pytest.raises(ValueError, match=name):
            mp.Pool(1, **{name: value})
    with pytest.raises(TypeError, match="finalizer"):
        mp.Pool(1, finalizer=3)


def test_a_subclass_with_the_old_signature_works(mp):
    class Old(mp.pool.Pool):
        def __init__(self, processes=None, initializer=None, initargs=(), maxtasksperchild=None, context=None):
            super().__init__(processes, initializer, initargs, maxtasksperchild, context)

        def apply_async(self, func, args=(), kwds={}, callback=None, error_callback=None):  # noqa: B006
            return super().apply_async(func, args, kwds, callback, error_callback)

    with Old(1) as pool:
        assert pool.apply(tasks.square, (3,)) == 9
        assert pool.apply(tasks.square, (3,), retries=1) == 9
        assert pool.apply_async(tasks.square, (4,)).get() == 16
    pool.join()


def test_all_options_at_once(mp, pool, tmp_path):
    function = functools.partial(many_troubles, tmp_path)
    values = pool.map(
        function, range(30), 10, task_timeout=3, retries=1, retry_on=OSError, priority=3, return_exceptions=True
    )
    kinds = {x: type(value) for x, value in enumerate(values) if not isinstance(value, int)}
    assert kinds == {3: mp.WorkerLost, 13: mp.TaskTimeout, 23: ConnectionError, 29: KeyError}


def many_troubles(folder, x):
    times = mark(folder, x)
    if x == 3 or (x == 4 and times == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if x == 13 or (x == 14 and times == 1):
        signal.pause()
    if x == 23 or (x == 24 and times == 1):
        raise ConnectionError
    if x == 29:
        raise KeyError
    return x


def test_a_pool_of_which_a_part_is_replaced_takes_no_options(mp):
    class Hooked(mp.pool.Pool):
        @staticmethod
        def _get_tasks(function, items, size):
            return mp.pool.Pool._get_tasks(function, items, size)

    with pytest.raises(TypeError, match="replaced a part"):
        Hooked(1, task_timeout=1)
    with Hooked(1) as pool:
        for verb in VERBS:
            with pytest.raises(TypeError, match="replaced a part"):
                getattr(pool, verb)(tasks.square, [1], retries=1)
        assert pool.map(tasks.square, [3]) == [9]
    pool.join()


def test_a_pool_of_threads_takes_no_options(mp):
    with mp.pool.ThreadPool(1) as pool:
        for verb in ("apply", "apply_async", *VERBS):
            with pytest.raises(TypeError, match="'retries'"):
                getattr(pool, verb)(tasks.square, (1,), retries=1)
        with pytest.raises(NotImplementedError):
            pool.statistics()
    pool.join()
