"""The pool of threads, and the package on threads (`dummy`)."""

import gc
import importlib
import itertools
import pickle
import signal
import threading
import weakref

import pytest

from support import alarm, census, tasks


@pytest.fixture
def threads(mp):
    return importlib.import_module(f"{mp.__name__}.pool").ThreadPool


@pytest.fixture
def pool(threads):
    with threads(2) as pool:
        yield pool
    pool.join()


@pytest.fixture
def dummy(mp):
    return importlib.import_module(f"{mp.__name__}.dummy")


# --- jobs ---


def test_every_call(pool):
    assert pool.apply(tasks.add, (1,), {"b": 2}) == 3
    assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
    assert pool.map(lambda n: n, (n for n in range(5)), chunksize=2) == list(range(5))
    assert pool.starmap(tasks.add, [(1, 2), (3, 4)]) == [3, 7]
    assert pool.apply_async(tasks.add, (1, 2)).get() == 3
    assert pool.map_async(tasks.square, [1, 2, 3], 2).get(30) == [1, 4, 9]
    assert pool.starmap_async(tasks.add, iter([(1, 2)])).get() == [3]
    assert list(pool.imap(tasks.square, range(50), 3)) == [n * n for n in range(50)]
    assert sorted(pool.imap_unordered(tasks.square, range(50))) == [n * n for n in range(50)]
    assert pool.map(tasks.square, []) == []
    assert list(pool.imap(tasks.square, [])) == []


def test_nothing_is_copied(pool):
    thing = object()
    assert pool.apply(lambda: thing) is thing
    assert pool.map(lambda x: x, [thing])[0] is thing
    assert next(pool.imap(lambda x: x, [thing])) is thing


def test_an_exception_is_the_one_that_was_raised(pool):
    error = ValueError("boom")

    def fail(n=0):
        if n == 0:
            raise error
        return n

    for call in (
        lambda: pool.apply(fail),
        lambda: pool.map(fail, [1, 0, 2]),
        lambda: pool.apply_async(fail).get(),
        lambda: list(pool.imap(fail, [0])),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert caught.value is error
        assert caught.value.__cause__ is None
    error.__traceback__ = None


def test_a_map_that_fails_runs_every_chunk(pool):
    ran = []

    def note(n):
        ran.append(n)
        return 1 // n

    with pytest.raises(ZeroDivisionError):
        pool.map(note, [0, 1, 2, 3], chunksize=1)
    assert sorted(ran) == [0, 1, 2, 3]


def test_results(pool, mp):
    gate = threading.Event()
    result = pool.apply_async(gate.wait)
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(mp.TimeoutError):
        result.get(timeout=0.01)
    result.wait(0.01)
    gate.set()
    assert result.get() is True
    assert result.ready()
    assert result.successful()
    failed = pool.apply_async(tasks.fail, (1,))
    failed.wait()
    assert not failed.successful()
    gate.clear()
    slow = pool.imap(lambda gate: gate.wait(), [gate])
    with pytest.raises(mp.TimeoutError):
        slow.next(timeout=0.01)
    gate.set()
    assert next(slow) is True


def test_an_input_that_raises(pool):
    def numbers():
        yield from range(3)
        raise KeyError("input")

    with pytest.raises(KeyError):
        pool.map(tasks.square, numbers())
    results = pool.imap(tasks.square, numbers())
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(KeyError):
        next(results)


def test_an_input_that_waits_for_results(pool):
    taken = threading.Semaphore(1)

    def numbers():
        for n in range(5):
            taken.acquire()
            yield n

    found = []
    for n in pool.imap(tasks.square, numbers()):
        found.append(n)
        taken.release()
    assert found == [0, 1, 4, 9, 16]


def test_order(pool):
    first = threading.Event()
    calls = [first.wait, first.set, lambda: 3]
    assert list(pool.imap(lambda call: call(), calls)) == [True, None, 3]


def test_no_task_is_kept_alive(pool):
    class Thing:
        pass

    things = [Thing() for _ in range(8)]
    references = [weakref.ref(thing) for thing in things]
    pool.map(lambda thing: thing, things, chunksize=1)
    del things
    assert census.eventually(lambda: gc.collect() >= 0 and not any(reference() for reference in references))


def test_callbacks(pool):
    calls = []
    assert pool.apply_async(tasks.square, (3,), callback=calls.append).get() == 9
    assert pool.map_async(tasks.square, [3], callback=calls.append).get() == [9]
    failed = pool.apply_async(tasks.fail, (3,), error_callback=calls.append)
    failed.wait()
    assert calls[:2] == [9, [9]], "called before the result is ready"
    assert isinstance(calls[2], ValueError)


@pytest.mark.parametrize("call", ["map_async", "starmap_async"])
def test_no_callback_for_nothing(pool, call):
    calls = []
    assert getattr(pool, call)(tasks.square, [], callback=calls.append, error_callback=calls.append).get(30) == []
    assert pool.apply_async(tasks.square, (3,), callback=calls.append).get(30) == 9
    assert calls == [9]


@pytest.mark.parametrize("processes", [0, -1, 1.5, "two"])
def test_bad_numbers_of_threads(mp, threads, processes, capfd):
    with pytest.raises((ValueError, TypeError)):
        threads(processes)
    gc.collect()
    # The standard package's finalizer trips over what its constructor has not made.
    assert capfd.readouterr().err == "" or mp.__name__ == "multiprocessing"


@pytest.mark.parametrize("call", ["apply", "map", "starmap", "get", "wait", "next"])
def test_a_caller_who_is_interrupted(pool, call):
    """What a signal's handler raises leaves the call that waits; the task and the pool go on."""
    go_on, ended = threading.Event(), threading.Event()

    def task(*_):
        send()
        go_on.wait(30)
        ended.set()

    waits = {
        "apply": lambda: pool.apply(task),
        "map": lambda: pool.map(task, [1]),
        "starmap": lambda: pool.starmap(task, [(1,)]),
        "get": lambda: pool.apply_async(task).get(),
        "wait": lambda: pool.map_async(task, [1]).wait(),
        "next": lambda: next(pool.imap(task, [1])),
    }
    with alarm.raising_once(signal.SIGUSR1) as send, pytest.raises(alarm.Alarm):
        waits[call]()
    go_on.set()
    assert ended.wait(30)
    assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]


def test_callbacks_one_at_a_time(pool):
    inside, most = [], []

    def callback(_):
        inside.append(1)
        most.append(len(inside))
        inside.pop()

    for result in [pool.apply_async(int, callback=callback) for _ in range(200)]:
        result.wait()
    assert most == [1] * 200


@pytest.mark.only("manycore", reason="has buffersize= as CPython 3.16")
def test_an_endless_input_is_read_as_results_are_taken(mp, pool):
    source = itertools.count()
    results = pool.imap(tasks.square, source, buffersize=5)
    assert [next(results) for _ in range(10)] == [n * n for n in range(10)]
    assert next(source) <= 15
    del results
    gc.collect()


@pytest.mark.parametrize(
    ("call", "arguments", "error"),
    [
        ("imap", {"chunksize": 0}, ValueError),
        ("imap_unordered", {"chunksize": -1}, ValueError),
    ],
)
def test_bad_arguments(pool, call, arguments, error):
    with pytest.raises(error):
        getattr(pool, call)(tasks.square, [1], **arguments)


# --- the pool ---


def test_what_it_says(mp, threads):
    with pytest.raises(ValueError, match="Number of processes must be at least 1"):
        threads(0)
    with pytest.raises(TypeError, match="initializer must be a callable"):
        threads(1, initializer=1)
    pool = threads(3)
    name = "manycore" if mp.__name__ == "manycore" else "multiprocessing"
    assert repr(pool) == f"<{name}.pool.ThreadPool state=RUN pool_size=3>"
    assert isinstance(pool, importlib.import_module(f"{mp.__name__}.pool").Pool)
    with pytest.raises(NotImplementedError):
        pickle.dumps(pool)
    with pytest.raises(ValueError, match="Pool is still running"):
        pool.join()
    pool.close()
    pool.close()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(int)
    with pytest.raises(ValueError, match="Pool not running"), pool:
        pass
    pool.join()
    pool.join()


def test_an_initializer_runs_in_each_thread(threads):
    ids = []
    both = threading.Barrier(2)

    def initializer(barrier):
        barrier.wait(30)
        ids.append(threading.get_ident())

    with threads(2, initializer, (both,)) as pool:
        pool.map(int, ["1"] * 10)
        assert census.eventually(lambda: len(set(ids)) == 2)
    pool.join()


@pytest.mark.only("manycore", reason="the standard package starts threads for ever")
def test_an_initializer_that_raises(mp, threads):
    def broken():
        raise KeyError("initializer")

    with threads(2, broken) as pool:
        for call in (lambda: pool.apply(int), lambda: pool.map(int, "12"), lambda: list(pool.imap(int, "12"))):
            with pytest.raises(KeyError):
                call()
    pool.join()


@pytest.mark.only("manycore", reason="the standard package never answers such a task")
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_task_that_would_end_the_thread(mp, pool, error):
    def leave():
        raise error

    with pytest.raises(mp.WorkerLost) as caught:
        pool.apply(leave)
    assert caught.value.__cause__ is error
    assert pool.map(tasks.square, [1, 2, 3]) == [1, 4, 9]
    error.__traceback__ = None


def test_closed_it_finishes(threads):
    pool = threads(1)
    gate = threading.Event()
    first = pool.apply_async(gate.wait)
    second = pool.map_async(tasks.square, range(3))
    lazy = pool.imap(tasks.square, iter(range(2000)))
    pool.close()
    gate.set()
    pool.join()
    assert (first.get(), second.get(), sum(1 for _ in lazy)) == (True, [0, 1, 4], 2000)


@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
@pytest.mark.parametrize("chunksize", [1, 7])
@pytest.mark.parametrize("taken", [0, 3])
@pytest.mark.parametrize("kind", [iter, list, tuple], ids=lambda kind: kind.__name__)
def test_results_that_are_dropped(threads, call, chunksize, taken, kind):
    ran = []
    pool = threads(2)
    results = getattr(pool, call)(ran.append, kind(range(5000)), chunksize)
    for _ in range(taken):
        next(results)
    del results
    pool.close()
    pool.join()
    assert sorted(ran) == list(range(5000))


def test_dropped_results_of_other_calls(threads):
    ran = []
    pool = threads(2)
    pool.map_async(ran.append, range(1000))
    pool.starmap_async(lambda n: ran.append(n), [(n,) for n in range(1000, 2000)], 3)
    pool.apply_async(ran.append, (2000,))
    pool.apply_async((1).__truediv__, (0,))
    pool.imap((1).__truediv__, iter([0, 1]))
    pool.close()
    pool.join()
    assert sorted(ran) == list(range(2001))


def test_an_input_that_raises_after_its_results_were_dropped(threads):
    def numbers():
        yield from range(2000)
        raise KeyError("input")

    ran = []
    pool = threads(2)
    pool.imap(ran.append, numbers())
    assert pool.apply(int) == 0
    pool.close()
    pool.join()
    assert sorted(ran) == list(range(2000))


@pytest.mark.only("manycore", reason="the standard package keeps reading an endless input without limit")
def test_terminated_after_the_results_of_an_endless_input_were_dropped(mp, threads):
    pool = threads(2)
    ran = threading.Semaphore(0)
    pool.imap(lambda _: ran.release(), itertools.count())
    for _ in range(5000):
        ran.acquire()
    pool.terminate()
    pool.join()


@pytest.mark.only("manycore", reason="the standard package never answers what it drops")
def test_terminated_it_answers(mp, threads):
    pool = threads(1)
    gate, inside = threading.Event(), threading.Event()

    def stay():
        inside.set()
        gate.wait()

    running = pool.apply_async(stay)
    waiting = pool.map_async(tasks.square, range(3))
    lazy = pool.imap(tasks.square, itertools.count())
    inside.wait()
    pool.terminate()
    for result in (running.get, waiting.get, lambda: list(lazy)):
        with pytest.raises(mp.ProcessError, match="terminated"):
            result()
    gate.set()
    pool.join()


@pytest.mark.parametrize("call", ["apply_async", "map_async", "starmap_async", "imap", "imap_unordered"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_not_answered_keeps_its_pool(threads, call):
    """A program may hold nothing but the result. Answered, it lets its pool end."""
    gate, lives = threading.Event(), []

    def square(x):
        gate.wait()
        return x * x

    def begin():
        pool = threads(2)
        lives.append(weakref.ref(pool))
        inputs = {"apply_async": (3,), "starmap_async": [(x,) for x in range(5)]}.get(call, range(5))
        return getattr(pool, call)(square, inputs)

    result = begin()
    gc.collect()
    assert lives[0]() is not None
    gate.set()
    values = result.get() if hasattr(result, "get") else sorted(result)
    assert values == (9 if call == "apply_async" else [x * x for x in range(5)])
    assert census.eventually(lambda: gc.collect() >= 0 and lives[0]() is None)
    assert census.eventually(lambda: not [t for t in threading.enumerate() if "PoolWorker" in t.name])


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_pool_whose_results_are_dropped_finishes_and_ends(threads):
    seen, lives = [], []

    def begin():
        pool = threads(1)
        lives.append(weakref.ref(pool))
        pool.apply_async(seen.append, (1,))
        pool.map_async(seen.append, range(2, 5))
        pool.imap(seen.append, iter(range(5, 3000)))

    begin()
    assert census.eventually(lambda: gc.collect() >= 0 and lives[0]() is None)
    assert sorted(seen) == list(range(1, 3000))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_pool_that_has_its_own_results_can_be_collected(threads, taken):
    """Also before all of its input was read."""

    def begin():
        pool = threads(2)
        pool.results = pool.imap(abs, range(5000))
        for _ in range(taken):
            next(pool.results)
        return weakref.ref(pool)

    lives = [begin() for _ in range(3)]
    assert census.eventually(lambda: gc.collect() >= 0 and not any(life() for life in lives))
    assert census.eventually(lambda: not [t for t in threading.enumerate() if "PoolWorker" in t.name])


def test_what_it_was_made_with(threads):
    pool = threads(2, print, ("made",))
    assert (pool._initializer, pool._initargs, pool._maxtasksperchild) == (print, ("made",), None)
    assert pool._ctx.get_start_method() in ("fork", "spawn", "forkserver")
    result = pool.apply_async(tasks.square, (2,), callback=print)
    assert isinstance(result._job, int)
    assert pool.imap(tasks.square, [1])._job > result._job
    pool.terminate()


def test_an_unclosed_pool_warns(threads):
    pool = threads(1)
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        del pool
        gc.collect()


# --- dummy ---


def test_processes_that_are_threads(dummy):
    seen = []
    process = dummy.Process(target=lambda: seen.append(dummy.current_process()))
    assert process.exitcode is None
    process.start()
    process.join()
    assert seen == [process]
    assert process.exitcode == 0
    assert dummy.active_children() == []
    gate = threading.Event()
    process = dummy.Process(target=gate.wait)
    process.start()
    assert (dummy.active_children(), process.exitcode) == ([process], None)
    gate.set()
    process.join()
    others = []
    thread = threading.Thread(target=lambda: others.append(dummy.Process(target=int)))
    thread.start()
    thread.join()
    with pytest.raises(RuntimeError, match="Parent is"):
        others[0].start()


def test_the_names_of_dummy(dummy):
    for name in dummy.__all__:
        assert callable(getattr(dummy, name))
    manager = dummy.Manager()
    assert manager.dict(a=1) == {"a": 1}
    assert manager.list([1]) == [1]
    assert repr(manager.Namespace(a=1, _b=2)) == "Namespace(a=1)"
    assert repr(manager.Value("i", 3)) == "<Value('i', 3)>"
    assert manager.Array("i", [1, 2]).tolist() == [1, 2]
    with dummy.Pool(1) as pool:
        assert pool.map(tasks.square, [3]) == [9]
    pool.join()
    manager.shutdown()
    dummy.freeze_support()


def test_connections_of_threads(dummy):
    connection = importlib.import_module(f"{dummy.__name__}.connection")
    one, other = dummy.Pipe()
    thing = object()
    with one:
        one.send(thing)
        assert other.poll()
        assert other.recv() is thing
        assert not other.poll(0.01)
        other.send_bytes(b"x")
        assert one.recv_bytes() == b"x"
    with connection.Listener() as listener:
        client = connection.Client(listener.address)
        server = listener.accept()
    client.send(1)
    server.send(2)
    assert (server.recv(), client.recv()) == (1, 2)
