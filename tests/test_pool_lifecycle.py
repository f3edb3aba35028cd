"""Making pools, closing, terminating, dropping them; initializers and the life of workers."""

import gc
import os
import pickle
import warnings
import weakref

import pytest

from support import census, tasks

# --- making ---


@pytest.mark.parametrize("processes", [0, -1])
def test_a_number_of_processes_below_one(mp, processes):
    with pytest.raises(ValueError, match="at least 1"):
        mp.Pool(processes)


def test_a_number_of_processes_of_a_wrong_type(mp):
    with pytest.raises(TypeError):
        mp.Pool("2")


@pytest.mark.parametrize("value", [0, -1, 0.5, "12"])
def test_maxtasksperchild_that_is_wrong(mp, value):
    with pytest.raises(ValueError, match="maxtasksperchild"):
        mp.Pool(1, maxtasksperchild=value)


def test_an_initializer_that_is_not_callable(mp):
    with pytest.raises(TypeError, match="initializer must be a callable"):
        mp.Pool(1, initializer=1)


def test_pool_is_a_class_and_a_function_of_a_context(mp):
    pool = mp.pool.Pool(1)
    assert type(pool) is mp.pool.Pool
    pool.terminate()
    pool.join()
    for maker in (mp, mp.get_context(), mp.get_context("fork")):
        with maker.Pool(processes=1) as pool:
            assert type(pool) is mp.pool.Pool
            assert pool.apply(tasks.square, (2,)) == 4
        pool.join()


def test_processes_by_default(mp):
    with mp.Pool() as pool:
        assert 1 <= len(pool._pool) == pool._processes <= os.cpu_count()
        assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
    pool.join()


def test_private_names_that_applications_use(mp):
    with mp.Pool(2) as pool:
        assert pool._processes == 2
        assert len(pool._pool) == 2
        for process in pool._pool:
            assert process.is_alive()
            assert process.daemon
            assert process.exitcode is None
            assert isinstance(process.pid, int)
            assert isinstance(process.sentinel, int)
            assert "PoolWorker-" in process.name
        assert pool._state == "RUN" == mp.pool.RUN
        assert set(pool._pool) <= set(mp.active_children())
        workers = list(pool._pool)
    pool.join()
    assert pool._state == "TERMINATE" == mp.pool.TERMINATE
    assert not any(process.is_alive() for process in workers)
    assert not set(workers) & set(mp.active_children())


def test_repr(mp):
    pool = mp.Pool(2)
    assert repr(pool) == f"<{mp.__name__}.pool.Pool state=RUN pool_size=2>"
    pool.close()
    assert "state=CLOSE" in repr(pool)
    pool.join()
    pool.terminate()
    assert "state=TERMINATE" in repr(pool)


def test_a_pool_does_not_pickle(pool):
    with pytest.raises(NotImplementedError, match="cannot be passed between processes or pickled"):
        pickle.dumps(pool)
    with pytest.raises(NotImplementedError):
        pool.apply(tasks.identity, (pool,))
    assert pool.apply(tasks.square, (2,)) == 4


# --- closing ---

CALLS = {
    "apply": lambda pool: pool.apply(tasks.square, (1,)),
    "apply_async": lambda pool: pool.apply_async(tasks.square, (1,)),
    "map": lambda pool: pool.map(tasks.square, [1]),
    "map_async": lambda pool: pool.map_async(tasks.square, [1]),
    "starmap": lambda pool: pool.starmap(tasks.add, [(1, 2)]),
    "starmap_async": lambda pool: pool.starmap_async(tasks.add, [(1, 2)]),
    "imap": lambda pool: pool.imap(tasks.square, [1]),
    "imap_unordered": lambda pool: pool.imap_unordered(tasks.square, [1]),
    "map_of_nothing": lambda pool: pool.map(tasks.square, []),
    "with": lambda pool: pool.__enter__(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_no_work_after_the_end(mp, call, end):
    pool = mp.Pool(1)
    getattr(pool, end)()
    with pytest.raises(ValueError, match="Pool not running"):
        call(pool)
    pool.join()
    with pytest.raises(ValueError, match="Pool not running"):
        call(pool)


def test_join_of_a_running_pool(mp, pool):
    with pytest.raises(ValueError, match="Pool is still running"):
        pool.join()
    assert pool.apply(tasks.square, (2,)) == 4


def test_every_end_may_come_twice(mp):
    pool = mp.Pool(2)
    pool.close()
    pool.close()
    pool.join()
    pool.join()
    pool.terminate()
    pool.terminate()
    pool.join()
    pool.close()
    pool.join()
    pool = mp.Pool(2)
    pool.terminate()
    pool.close()
    pool.join()


def test_close_lets_the_work_end(mp):
    pool = mp.Pool(2)
    results = [pool.apply_async(tasks.square, (n,)) for n in range(100)]
    mapped = pool.map_async(tasks.square, range(100))
    iterator = pool.imap(tasks.square, range(100))
    unordered = pool.imap_unordered(tasks.square, range(100))
    failing = pool.apply_async(tasks.fail, (1,))
    pool.close()
    pool.join()
    expected = [n * n for n in range(100)]
    assert [result.get(timeout=0) for result in results] == expected
    assert mapped.get(timeout=0) == expected
    assert list(iterator) == expected
    assert sorted(unordered) == expected
    with pytest.raises(ValueError):
        failing.get(timeout=0)


def test_results_after_close_without_join(mp):
    pool = mp.Pool(2)
    result = pool.map_async(tasks.square, range(1000), chunksize=10)
    pool.close()
    assert result.get() == [n * n for n in range(1000)]
    pool.join()


def test_workers_are_gone_after_join(mp):
    pool = mp.Pool(2)
    with census.Watch([process.pid for process in pool._pool]) as watch:
        pool.map(tasks.square, range(10))
        pool.close()
        pool.join()
        assert watch.wait_gone(0) == [], "join means gone, not going"


def test_terminate_ends_what_runs(mp, gate):
    pool = mp.Pool(2)
    with census.Watch([process.pid for process in pool._pool]) as watch:
        pool.map_async(tasks.wait_for_ever, range(10_000), chunksize=1)
        pool.apply_async(tasks.wait_at, (gate,))
        pool.terminate()
        pool.join()
        assert watch.wait_gone(0) == []


def test_terminate_ends_a_busy_loop(mp, gate):
    pool = mp.Pool(1)
    pool.apply_async(tasks.wait_at, (gate,))
    pool.apply_async(tasks.spin_for_ever)
    gate.arrivals(1)
    gate.open()
    pool.terminate()
    pool.join()


def test_with_terminates(mp, gate):
    with mp.Pool(1) as pool:
        assert pool.apply(tasks.square, (2,)) == 4
        pool.apply_async(tasks.wait_at, (gate,))
        gate.arrivals(1)
    assert pool._state == "TERMINATE"
    pool.join()


def test_with_passes_exceptions(mp):
    with pytest.raises(KeyError), mp.Pool(1) as pool:
        raise KeyError("from the body")
    pool.join()


@pytest.mark.only("manycore", reason="in the standard package such results never end")
@pytest.mark.parametrize("end", ["terminate", "with"])
def test_results_that_terminate_leaves(mp, gate, end):
    pool = mp.Pool(1)
    running = pool.apply_async(tasks.wait_at, (gate,))
    gate.arrivals(1)
    queued = pool.apply_async(tasks.square, (2,))
    mapped = pool.map_async(tasks.square, range(100))
    iterator = pool.imap(tasks.square, range(100))
    unordered = pool.imap_unordered(tasks.square, range(100))
    errors = []
    pool.apply_async(tasks.square, (2,), error_callback=errors.append)
    if end == "terminate":
        pool.terminate()
        pool.join()
    else:
        with pool:
            pass
        pool.join()
    for result in (running, queued, mapped):
        with pytest.raises(mp.ProcessError) as caught:
            result.get(timeout=30)
        assert not isinstance(caught.value, mp.TimeoutError)
        assert result.ready()
        assert not result.successful()
    for results in (iterator, unordered):
        with pytest.raises(mp.ProcessError) as caught:
            next(results)
        assert not isinstance(caught.value, mp.TimeoutError)
    assert census.eventually(lambda: errors)
    assert isinstance(errors[0], mp.ProcessError)


@pytest.mark.only("manycore", reason="in the standard package such a wait never ends")
def test_terminate_wakes_who_waits(mp, gate):
    """A thread waits for a result while another ends the pool."""
    import threading

    pool = mp.Pool(1)
    result = pool.apply_async(tasks.wait_at, (gate,))
    seen = []
    waiting = threading.Event()

    def wait():
        waiting.set()
        try:
            result.get()
        except mp.ProcessError as error:
            seen.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    gate.arrivals(1)
    pool.terminate()
    thread.join()
    pool.join()
    assert len(seen) == 1


# --- dropping ---


def test_a_dropped_pool_warns_and_ends(mp):
    pool = mp.Pool(2)
    assert pool.map(tasks.square, [1, 2]) == [1, 4]
    with census.Watch([process.pid for process in pool._pool]) as watch:
        reference = weakref.ref(pool)
        with pytest.warns(ResourceWarning, match="unclosed running .*pool.*state=RUN"):
            del pool
            gc.collect()
        assert reference() is None
        assert watch.wait_gone() == []


def test_a_dropped_closed_pool_does_not_warn(mp):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for end in ("close", "terminate"):
            pool = mp.Pool(1)
            getattr(pool, end)()
            pool.join()
            del pool
            gc.collect()


def test_a_result_does_not_keep_the_pool(mp):
    pool = mp.Pool(1)
    result = pool.apply_async(tasks.square, (3,))
    assert result.get() == 9
    pool.terminate()
    pool.join()
    reference = weakref.ref(pool)
    del pool
    gc.collect()
    assert reference() is None
    assert result.get() == 9


def test_arguments_and_results_are_released(pool):
    arguments = [tasks.Point(n, n) for n in range(10)]
    references = [weakref.ref(argument) for argument in arguments]
    assert pool.map(tasks.point_sum, arguments) == [2 * n for n in range(10)]
    del arguments

    def released():
        gc.collect()
        return all(reference() is None for reference in references)

    assert census.eventually(released)


def test_many_pools_one_after_the_other(mp):
    for n in range(20):
        with mp.Pool(2) as pool:
            assert pool.map(tasks.square, [n]) == [n * n]
        pool.join()


# --- initializers ---


def test_an_initializer(ctx):
    with ctx.Pool(2, tasks.remember, ("a", 1)) as pool:
        for facts in pool.map(tasks.recall, range(20), chunksize=1):
            assert facts["args"] == ("a", 1)
            assert facts["calls"] == 1
    pool.join()
    assert "args" not in tasks.state


def test_initializer_by_keywords(mp):
    with mp.Pool(processes=1, initializer=tasks.remember, initargs=[1, 2]) as pool:
        assert pool.apply(tasks.recall)["args"] == (1, 2)
    pool.join()


def test_every_new_worker_is_initialized(mp):
    with mp.Pool(1, tasks.remember, ("x",), maxtasksperchild=1) as pool:
        facts = pool.map(tasks.recall, range(4), chunksize=1)
        assert [fact["args"] for fact in facts] == [("x",)] * 4
        assert [fact["calls"] for fact in facts] == [1] * 4
        assert len({fact["pid"] for fact in facts}) == 4
    pool.join()


# --- the life of workers ---


def test_maxtasksperchild(mp):
    with mp.Pool(1, maxtasksperchild=2) as pool:
        pids = pool.map(tasks.whoami, range(8), chunksize=1)
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2] * 4
    pool.join()


def test_maxtasksperchild_counts_a_chunk_as_one_task(mp):
    with mp.Pool(1, maxtasksperchild=1) as pool:
        pids = pool.map(tasks.whoami, range(9), chunksize=3)
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3] * 3
    pool.join()


def test_maxtasksperchild_in_every_call(mp):
    with mp.Pool(2, maxtasksperchild=1) as pool:
        assert pool.map(tasks.square, range(20), chunksize=1) == [n * n for n in range(20)]
        assert [pool.apply(tasks.square, (n,)) for n in range(5)] == [n * n for n in range(5)]
        assert list(pool.imap(tasks.square, range(10))) == [n * n for n in range(10)]
        assert sorted(pool.imap_unordered(tasks.square, range(10))) == [n * n for n in range(10)]
        results = [pool.apply_async(tasks.square, (n,)) for n in range(10)]
        assert [result.get() for result in results] == [n * n for n in range(10)]
        with pytest.raises(ValueError):
            pool.apply(tasks.fail, (1,))
    pool.join()


def test_maxtasksperchild_in_every_start_method(ctx):
    with ctx.Pool(1, maxtasksperchild=3) as pool:
        pids = pool.map(tasks.whoami, range(6), chunksize=1)
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3] * 2
    pool.join()


def test_close_while_workers_are_replaced(mp):
    pool = mp.Pool(3, maxtasksperchild=1)
    results = [pool.apply_async(tasks.square, (n,)) for n in range(12)]
    pool.close()
    pool.join()
    assert [result.get(timeout=0) for result in results] == [n * n for n in range(12)]


def test_pool_is_full_again_after_replacement(mp):
    with mp.Pool(2, maxtasksperchild=1) as pool:
        first = {process.pid for process in pool._pool}
        pool.map(tasks.square, range(4), chunksize=1)
        assert census.eventually(
            lambda: len(pool._pool) == 2 and all(p.is_alive() and p.pid not in first for p in list(pool._pool))
        )
    pool.join()


# --- processes that have a pool ---


@pytest.mark.only("manycore", reason="a child of os.fork ends the workers of the standard package as it exits")
def test_a_forked_child_leaves_the_pool_alone(script):
    """A child made by os.fork ends as programs end: its exit handlers must not touch workers that are not its own."""
    running = script(
        """
        def main():
            with mp.Pool(2) as pool:
                pool.map(tasks.square, [1])
                child = os.fork()
                if child == 0:
                    sys.exit(0)
                assert os.waitpid(child, 0)[1] == 0
                assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
            pool.join()
            print("done")
        """
    )
    assert running.finish() == 0
    assert running.output == b"done\n"
    assert running.errors == b""
    assert running.orphans() == {}


def test_a_process_beside_a_pool(ctx):
    with ctx.Pool(2) as pool:
        assert pool.map(tasks.square, [1, 2]) == [1, 4]
        process = ctx.Process(target=tasks.square, args=(1,))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert pool.map(tasks.square, [1, 2]) == [1, 4]
    pool.join()


def test_a_pool_in_a_process(ctx, mp):
    process = ctx.Process(target=tasks.map_inside, args=(mp.__name__, [1, 2, 3]))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_a_context_of_ones_own(mp):
    """The recipe for workers that are not daemons, which applications copy: a context whose Process is a subclass."""

    class Process(mp.get_context("fork").Process):
        @property
        def daemon(self):
            return False

        @daemon.setter
        def daemon(self, value):
            pass

    class Context(type(mp.get_context("fork"))):
        pass

    Context.Process = Process
    with mp.pool.Pool(2, context=Context()) as pool:
        assert all(type(process) is Process for process in pool._pool)
        assert pool.apply(tasks.process_facts, (mp.__name__,))["daemon"] is False
        assert pool.apply(tasks.map_inside, (mp.__name__, [1, 2])) == [1, 4]
    pool.join()


def test_a_subclass_of_pool(mp):
    class Pool(mp.pool.Pool):
        made = []

        @staticmethod
        def Process(context, *args, **kwargs):
            process = context.Process(*args, **kwargs)
            Pool.made.append(process)
            return process

    with Pool(2) as pool:
        assert pool.map(tasks.square, [1, 2]) == [1, 4]
        assert Pool.made == pool._pool
    pool.join()
