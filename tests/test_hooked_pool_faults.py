"""What goes wrong in a pool of which a program has replaced a part: every task gets an answer all the same, also where the
workers run a function of the program's own, of which nobody knows what it has in hand."""

import functools
import gc
import os
import random
import signal
import struct
import threading
import warnings
import weakref

import pytest

from support import census, hooks, tasks

pytestmark = pytest.mark.only(
    "manycore", reason="the standard package waits for ever for the task of a worker that died"
)

KINDS = ("OwnWorkers", "OwnQueues", "OwnFunction", "OwnAll")
every_kind = pytest.mark.parametrize("kind", KINDS)
DEATHS = ("sigkill", "segfault", "exit0", "exit3", "system_exit", "keyboard_interrupt")


def make(mp, ctx, kind, processes=2, **options):
    return getattr(hooks.kinds(mp), kind)(processes, context=ctx, **options)


def outcomes(mp, results):
    """The values, and None for each task that was lost."""
    found = []
    for result in results:
        try:
            found.append(result.get(50))
        except mp.TimeoutError:
            raise
        except mp.ProcessError:
            found.append(None)
    return found


def started(pool):
    """The workers that can be killed: one that the thread that looks after them is just starting has no process yet."""
    return [worker for worker in list(pool._pool) if worker.pid]


def check_usable(pool):
    assert pool.map(tasks.square, range(20), chunksize=1) == [n * n for n in range(20)]
    assert list(pool.imap(tasks.square, range(5))) == [0, 1, 4, 9, 16]


@every_kind
@pytest.mark.parametrize("how", DEATHS)
@pytest.mark.methods("fork")
def test_exactly_the_task_of_the_dead_worker_fails(mp, ctx, kind, how):
    with make(mp, ctx, kind) as pool:
        seen = []
        results = [pool.apply_async(tasks.die_if, (n, 7, how), error_callback=seen.append) for n in range(20)]
        assert outcomes(mp, results) == [None if n == 7 else n for n in range(20)]
        assert [type(error) for error in seen] == [mp.WorkerLost]
        assert "die_if" in str(seen[0])
        check_usable(pool)
    pool.join()


@every_kind
@pytest.mark.methods("forkserver", "spawn")
def test_a_killed_worker_in_other_start_methods(mp, ctx, kind):
    with make(mp, ctx, kind) as pool:
        results = [pool.apply_async(tasks.die_if, (n, 7, "sigkill")) for n in range(20)]
        assert outcomes(mp, results) == [None if n == 7 else n for n in range(20)]
        check_usable(pool)
    pool.join()


@every_kind
@pytest.mark.methods("fork")
def test_a_death_in_a_map_and_in_a_lazy_one(mp, ctx, kind):
    dies = functools.partial(tasks.die_if, victim=3, how="sigkill")
    with make(mp, ctx, kind) as pool:
        with pytest.raises(mp.WorkerLost):
            pool.map(dies, range(40), chunksize=2)
        results = pool.imap(dies, range(6))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(mp.WorkerLost):
            next(results)
        assert list(results) == [4, 5]
        check_usable(pool)
        result = pool.map_async(dies, range(40), chunksize=2)
        pool.close()
        pool.join()
        with pytest.raises(mp.WorkerLost):
            result.get(0)


@every_kind
@pytest.mark.methods("fork")
def test_idle_workers_are_killed(mp, ctx, kind):
    """Whoever waits for a task may hold the lock of the queue."""
    with make(mp, ctx, kind) as pool:
        for _ in range(3):
            for process in started(pool):
                process.kill()
                process.join()
            check_usable(pool)
    pool.join()


@pytest.mark.parametrize("count", [3, 4, 11, 10_000])
@pytest.mark.parametrize("others", ["OwnWorkers", "OwnFunction"])
@pytest.mark.methods("fork")
@pytest.mark.deadline(120)
def test_a_worker_dies_in_the_midst_of_a_task(mp, ctx, others, count, tmp_path):
    """The rest of the task is what the next reader takes for a message, of two thousand million bytes."""
    kinds = hooks.kinds(mp, tmp_path / "log")
    with kinds.half_read(getattr(kinds, others), count)(2, context=ctx) as pool:
        results = [pool.apply_async(tasks.length, (b"\x7f" * 30_000,)) for _ in range(5)]
        found = outcomes(mp, results)
        assert None in found
        assert set(found) <= {None, 30_000}
        if pool._cache.notes.broken is None:
            check_usable(pool)
    pool.join()


@every_kind
@pytest.mark.methods("fork")
def test_a_worker_dies_between_two_looks(mp, ctx, kind, gate, monkeypatch):
    """After the look for those that have ended, and before the ended are taken out of the list of workers."""
    doomed = []
    original = mp.pool.Pool._join_exited_workers

    def join_exited_workers(workers):
        for worker in doomed:
            worker.kill()
            mp.connection.wait([worker.sentinel])
        doomed.clear()
        return original(workers)

    monkeypatch.setattr(mp.pool.Pool, "_join_exited_workers", staticmethod(join_exited_workers))
    with make(mp, ctx, kind) as pool:
        result = pool.apply_async(gate.arrive)
        [pid] = gate.arrivals()
        doomed += [worker for worker in pool._pool if worker.pid == pid]
        pool._change_notifier.put(None)
        assert outcomes(mp, [result]) == [None]
        assert not doomed
        check_usable(pool)
    pool.join()


@pytest.mark.parametrize("end", ["close", "terminate"])
@pytest.mark.methods("fork")
def test_the_end_of_a_pool_that_waits_before_it_starts_a_worker(mp, ctx, end, monkeypatch):
    from manycore import _pool_notes

    monkeypatch.setattr(_pool_notes.Notes, "pause", 1000.0)
    pool = make(mp, ctx, "OwnWorkers")
    assert pool.apply(tasks.square, (3,)) == 9
    getattr(pool, end)()
    pool.join()
    assert not pool._worker_handler.is_alive()


def test_a_queue_with_the_rest_of_a_message_is_emptied(mp):
    """Whoever empties it does not wait for what nobody will send."""
    from manycore import _pool_hooks

    queue = hooks.PipeQueue(mp.get_context())
    with queue._reader, queue._writer:
        os.write(queue._writer.fileno(), struct.pack("!i", 1_000_000) + b"the rest is missing")
        _pool_hooks._drain(queue)
        assert queue.empty()
        assert queue._rlock.acquire(timeout=1)
        queue._writer.close()
        queue._rlock.release()
        _pool_hooks._drain(queue)


@every_kind
@pytest.mark.deadline(120)
def test_random_kills(mp, ctx, kind):
    """Nothing hangs, and an answer is right or says that its worker is lost."""
    chance = random.Random(20)
    with make(mp, ctx, kind, 3) as pool:
        for _ in range(6):
            results = [pool.apply_async(tasks.square, (n,)) for n in range(150)]
            results[chance.randrange(60)].wait(20)
            workers = started(pool)
            for worker in chance.sample(workers, min(2, len(workers))):
                worker.kill()
            values = outcomes(mp, results)
            assert all(value in (None, n * n) for n, value in enumerate(values))
            if kind in ("OwnWorkers", "OwnFunction"):
                assert values.count(None) <= 2
        # A kill within a message may cost a pipe of the program's own, and with it the pool, but no task its answer.
        if pool._cache.notes.broken is None:
            check_usable(pool)
        else:
            assert kind in ("OwnQueues", "OwnAll")
    pool.join()


@every_kind
@pytest.mark.methods("fork")
def test_a_worker_dies_beside_one_that_is_busy(mp, ctx, kind, gate):
    """What is lost is told at once where workers say what they have; else when the others have said what they had."""
    with make(mp, ctx, kind) as pool:
        busy = pool.apply_async(tasks.wait_at, (gate, "done"))
        gate.arrivals()
        lost = pool.apply_async(tasks.die, ("sigkill",))
        if kind in ("OwnWorkers", "OwnQueues"):
            with pytest.raises(mp.WorkerLost):
                lost.get(50)
        assert pool.apply(tasks.square, (3,)) == 9
        gate.open()
        assert busy.get(50) == "done"
        with pytest.raises(mp.WorkerLost):
            lost.get(50)
        check_usable(pool)
    pool.join()


@pytest.mark.parametrize("kind", ["OwnWorkers", "OwnQueues"])
def test_an_initializer_that_raises(mp, ctx, kind):
    with make(mp, ctx, kind, initializer=tasks.fail_to_initialize) as pool:
        for start in (lambda: pool.apply(tasks.square, (3,)), lambda: pool.map(tasks.square, range(5))):
            with pytest.raises(tasks.InitializerError):
                start()
        with pytest.raises(tasks.InitializerError):
            next(pool.imap(tasks.square, range(5)))
    pool.join()


def test_workers_that_end_before_their_first_task(mp, ctx):
    with make(mp, ctx, "Futile") as pool:
        with pytest.raises(mp.WorkerLost, match="7"):
            pool.apply(tasks.square, (3,))
        result = pool.map_async(tasks.square, range(5))
        pool.close()
        pool.join()
        with pytest.raises(mp.WorkerLost):
            result.get(0)


@every_kind
def test_terminate_answers_what_is_open(mp, ctx, kind, gate):
    with make(mp, ctx, kind) as pool:
        running = [pool.apply_async(tasks.wait_at, (gate,)) for _ in range(2)]
        gate.arrivals(2)
        # More than fits into a pipe.
        waiting = [pool.apply_async(tasks.length, (bytes(100_000),)) for _ in range(10)]
        endless = pool.imap(tasks.square, iter(int, 1))
        pool.terminate()
        for result in running + waiting:
            with pytest.raises(mp.ProcessError):
                result.get(50)
        with pytest.raises(mp.ProcessError):
            while True:
                endless.next(50)
    pool.join()
    assert not any(process.is_alive() for process in pool._pool)


@every_kind
@pytest.mark.methods("fork")
def test_a_worker_dies_in_the_midst_of_an_answer(mp, ctx, kind):
    """Of a large one only a part may be in the pipe."""
    with make(mp, ctx, kind) as pool:
        results = [pool.apply_async(tasks.die_after_answering, (4_000_000,)) for _ in range(4)]
        for result in results:
            try:
                assert len(result.get(50)) == 4_000_000
            except mp.ProcessError:
                pass
    pool.join()


@pytest.mark.methods("fork")
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_the_rest_of_an_answer_never_comes(mp, ctx, end):
    """The only one: nothing follows that could not be read, and the reader waits for a million bytes."""
    with make(mp, ctx, "Torn", 1) as pool:
        with pytest.raises(mp.ProcessError, match="cannot be read"):
            pool.apply(tasks.square, (3,))
        with pytest.raises(mp.ProcessError, match="cannot be read"):
            pool.map(tasks.square, range(3))
        getattr(pool, end)()
        pool.join()


@pytest.mark.methods("fork")
def test_a_callback_that_raises(mp, ctx):
    def callback(_):
        raise LookupError("from the callback")

    with make(mp, ctx, "OwnWorkers") as pool:
        with pytest.raises(LookupError, match="from the callback"):
            pool.apply_async(tasks.square, (3,), callback=callback).get(50)
        with pytest.raises(LookupError) as caught:
            pool.map_async(tasks.fail, [3], error_callback=callback).get(50)
        assert isinstance(caught.value.__context__, ValueError)
        check_usable(pool)
    pool.join()


@every_kind
@pytest.mark.methods("fork")
def test_a_pool_that_nobody_refers_to_ends(mp, ctx, kind):
    pool = make(mp, ctx, kind)
    assert pool.apply(tasks.square, (3,)) == 9
    processes, reference = list(pool._pool), weakref.ref(pool)
    with warnings.catch_warnings():
        # A recorded warning would refer to it.
        warnings.simplefilter("ignore", ResourceWarning)
        del pool
        gc.collect()
        assert census.eventually(lambda: reference() is None)
    assert census.eventually(lambda: not any(process.is_alive() for process in processes))


@pytest.mark.methods("fork")
def test_a_pool_in_a_forked_child_is_the_parents(mp, ctx):
    with make(mp, ctx, "OwnWorkers") as pool:
        result = pool.apply_async(tasks.square, (3,))
        assert result.get() == 9
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                assert result.get() == 9
                for use in (pool.apply, pool.apply_async, lambda f: pool.map(f, [1]), lambda f: pool.imap(f, [1])):
                    with pytest.raises(ValueError):
                        use(int)
                os.write(writer, b"refused")
            finally:
                os._exit(0)
        os.close(writer)
        assert os.read(reader, 100) == b"refused"
        os.close(reader)
        os.waitpid(pid, 0)
        check_usable(pool)
    pool.join()


@pytest.mark.methods("fork")
def test_many_threads_use_one_hooked_pool(mp, ctx):
    wrong = []

    def use(pool, start):
        values = pool.map(tasks.square, range(start, start + 100), chunksize=3)
        if values != [n * n for n in range(start, start + 100)]:
            wrong.append(start)

    with make(mp, ctx, "OwnQueues") as pool:
        users = [threading.Thread(target=use, args=(pool, 100 * number)) for number in range(6)]
        for user in users:
            user.start()
        for user in users:
            user.join()
    pool.join()
    assert wrong == []


@every_kind
@pytest.mark.methods("fork")
def test_stopped_workers_do_not_keep_terminate_waiting(mp, ctx, kind):
    pool = make(mp, ctx, kind)
    for process in pool._pool:
        os.kill(process.pid, signal.SIGSTOP)
    result = pool.apply_async(tasks.square, (3,))
    pool.terminate()
    pool.join()
    with pytest.raises(mp.ProcessError):
        result.get(50)
