"""The synchronous calls of a pool: apply, map, starmap; what functions, iterables and chunk sizes they take."""

import collections
import functools
import operator
import os
import threading

import pytest

from support import tasks

CHUNKS = [None, 1, 7, 1000]


class Raising(ValueError):
    pass


def raising_after(count):
    yield from range(count)
    raise Raising(count)


# --- apply ---


def test_apply(pool):
    assert pool.apply(tasks.square, (5,)) == 25
    assert pool.apply(tasks.square, [5]) == 25
    assert pool.apply(tasks.square, (), {"x": 3}) == 9
    assert pool.apply(tasks.add, (1,), {"b": 2}) == 3
    assert pool.apply(tasks.add, kwds={"a": 1, "b": 2}) == 3


def test_apply_runs_elsewhere(pool):
    assert pool.apply(tasks.whoami) in [process.pid for process in pool._pool]
    assert pool.apply(tasks.whoami) != os.getpid()


def test_apply_keyword_order_and_types(pool):
    args, kwargs = pool.apply(tasks.echo, (1, "two", None), {"z": 1, "a": [2]})
    assert args == (1, "two", None)
    assert list(kwargs.items()) == [("z", 1), ("a", [2])]


def test_apply_many_times(pool):
    assert [pool.apply(tasks.square, (n,)) for n in range(300)] == [n * n for n in range(300)]


def test_apply_wrong_arguments(pool):
    with pytest.raises(TypeError):
        pool.apply(tasks.square, (1, 2))
    with pytest.raises(TypeError):
        pool.apply(tasks.square, 5)
    with pytest.raises(TypeError):
        pool.apply("not callable", (1,))
    assert pool.apply(tasks.square, (2,)) == 4


# --- map ---


@pytest.mark.parametrize("chunksize", CHUNKS)
@pytest.mark.parametrize("count", [0, 1, 2, 10, 100])
def test_map(pool, count, chunksize):
    assert pool.map(tasks.square, range(count), chunksize) == [n * n for n in range(count)]


@pytest.mark.parametrize("chunksize", CHUNKS)
def test_starmap(pool, chunksize):
    pairs = [(n, n + 1) for n in range(50)]
    assert pool.starmap(tasks.add, pairs, chunksize) == [a + b for a, b in pairs]
    assert pool.starmap(tasks.add, [], chunksize) == []


def test_map_keyword_names(pool):
    assert pool.map(func=tasks.square, iterable=[1, 2], chunksize=1) == [1, 4]
    assert pool.starmap(func=tasks.add, iterable=[(1, 2)], chunksize=1) == [3]


def test_map_many_small_tasks(pool):
    assert pool.map(tasks.square, range(20_000)) == [n * n for n in range(20_000)]
    assert pool.map(tasks.square, range(3000), chunksize=1) == [n * n for n in range(3000)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: [3, 1, 2],
        lambda: (3, 1, 2),
        lambda: {3: "c", 1: "a", 2: "b"},
        lambda: iter([3, 1, 2]),
        lambda: (n for n in (3, 1, 2)),
        lambda: collections.deque([3, 1, 2]),
        lambda: map(int, "312"),
    ],
    ids=["list", "tuple", "dict", "iterator", "generator", "deque", "map"],
)
def test_map_takes_any_iterable(pool, make):
    assert pool.map(tasks.square, make()) == [9, 1, 4]


def test_map_of_a_string_and_a_set(pool):
    assert pool.map(tasks.identity, "abc") == ["a", "b", "c"]
    assert sorted(pool.map(tasks.square, {1, 2, 3})) == [1, 4, 9]


def test_starmap_takes_any_iterable_of_iterables(pool):
    assert pool.starmap(tasks.add, ([n, n] for n in range(3))) == [0, 2, 4]
    assert pool.starmap(tasks.add, zip(range(3), range(3), strict=True)) == [0, 2, 4]
    assert pool.starmap(tasks.add, ["ab", "cd"]) == ["ab", "cd"]
    assert pool.starmap(tasks.echo, [(), (1,), (1, 2)]) == [((), {}), ((1,), {}), ((1, 2), {})]


def test_starmap_of_what_is_not_iterable(pool):
    with pytest.raises(TypeError):
        pool.starmap(tasks.add, [1, 2])
    assert pool.starmap(tasks.add, [(1, 2)]) == [3]


def test_map_of_what_is_not_iterable(pool):
    with pytest.raises(TypeError):
        pool.map(tasks.square, 5)
    with pytest.raises(TypeError):
        pool.map(tasks.square, None)


def test_map_of_a_generator_that_raises(pool):
    with pytest.raises(Raising):
        pool.map(tasks.square, raising_after(0), 1)
    with pytest.raises(Raising) as caught:
        pool.map(tasks.square, raising_after(3), 1)
    assert caught.value.__cause__ is None, "raised here, not in a worker"
    assert pool.map(tasks.square, [1]) == [1]


def test_map_of_a_sized_iterable_that_raises(pool):
    class Sized:
        def __len__(self):
            return 1

        def __iter__(self):
            return self

        def __next__(self):
            raise Raising

    for _ in range(2):
        with pytest.raises(Raising):
            pool.map(tasks.square, Sized(), 1)
    assert pool.map(tasks.square, [1]) == [1]


def test_chunksize_of_a_wrong_type(pool):
    with pytest.raises(TypeError):
        pool.map(tasks.square, [1, 2], chunksize="2")


@pytest.mark.only("manycore", reason="the standard package answers with a list of None, without running anything")
@pytest.mark.parametrize("chunksize", [0, -1])
def test_chunksize_below_one(pool, chunksize):
    with pytest.raises(ValueError):
        pool.map(tasks.square, [1, 2], chunksize=chunksize)
    with pytest.raises(ValueError):
        pool.starmap(tasks.add, [(1, 2)], chunksize=chunksize)


def test_chunks_run_in_one_worker(pool):
    pids = pool.map(tasks.whoami, range(30), chunksize=10)
    for start in range(0, 30, 10):
        assert len(set(pids[start : start + 10])) == 1


def test_map_spreads_over_the_workers(pool, gate):
    """Two tasks that wait for each other end only if two workers run them."""
    waiting = pool.map_async(functools.partial(tasks.wait_at, gate), range(2), chunksize=1)
    assert len(set(gate.arrivals(2))) == 2
    gate.open()
    assert waiting.get() == [0, 1]


# --- functions ---


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (abs, [1, 2]),
        (str, ["-1", "-2"]),
        (float, [-1.0, -2.0]),
        (operator.neg, [1, 2]),
        (tasks.triple, [2, 1]),
        (functools.partial(tasks.add, 10), [9, 8]),
        (functools.partial(operator.mul, 2), [-2, -4]),
        (tasks.Multiplier(3), [-3, -6]),
        (tasks.Multiplier(3).method, [-2, -5]),
        (tasks.Multiplier.build, [tasks.Multiplier(-1), tasks.Multiplier(-2)]),
        (tasks.Multiplier.static, [-2, -3]),
        ([10, 20, 30].__getitem__, [30, 20]),
        (operator.itemgetter(0), None),
    ],
    ids=[
        "builtin",
        "type",
        "float",
        "operator",
        "partial-by-name",
        "partial",
        "partial-builtin",
        "callable",
        "bound-method",
        "classmethod",
        "staticmethod",
        "builtin-method",
        "itemgetter",
    ],
)
def test_kinds_of_functions(pool, function, expected):
    if expected is None:
        assert pool.map(function, [(1, 2), (3, 4)]) == [1, 3]
    else:
        assert pool.map(function, [-1, -2]) == expected


def test_a_function_is_what_it_was_when_the_job_was_given(pool):
    """The state of a callable is taken when the job is given, not kept from an earlier job."""
    function = tasks.Multiplier(2)
    assert pool.map(function, [1, 2]) == [2, 4]
    function.factor = 5
    assert pool.map(function, [1, 2]) == [5, 10]
    assert pool.apply(function, (1,)) == 5


def test_alternating_functions(pool):
    for n in range(20):
        assert pool.map(tasks.square, [n, n]) == [n * n] * 2
        assert pool.map(tasks.double, [n, n]) == [2 * n] * 2
        assert pool.map(tasks.Multiplier(n), [1, 2]) == [n, 2 * n]


# What travels is the pickler's matter; that it never hangs is the pool's.
@pytest.mark.parametrize("call", ["apply", "map", "starmap", "imap", "imap_unordered", "map_chunked"])
def test_a_function_that_does_not_pickle(pool, call):
    lock = threading.Lock()
    local = lambda *args: (args, lock)

    with pytest.raises(Exception, match="(?i)pickle|local") as caught:
        if call == "apply":
            pool.apply(local, (1,))
        elif call == "map":
            pool.map(local, [1, 2, 3], chunksize=1)
        elif call == "map_chunked":
            pool.map(local, range(100))
        elif call == "starmap":
            pool.starmap(local, [(1,), (2,)])
        else:
            list(getattr(pool, call)(local, [1, 2]))
    assert type(caught.value).__name__ in ("PicklingError", "AttributeError", "TypeError")
    assert pool.map(tasks.square, [1, 2]) == [1, 4]


# --- exceptions ---


def test_an_exception_of_a_task(pool):
    with pytest.raises(ValueError) as caught:
        pool.apply(tasks.fail, (7,))
    assert caught.value.args == (7,)
    assert type(caught.value) is ValueError


def test_the_remote_traceback(mp, pool):
    with pytest.raises(ValueError) as caught:
        pool.apply(tasks.fail, (7,))
    cause = caught.value.__cause__
    assert type(cause) is mp.pool.RemoteTraceback
    assert type(cause).__name__ == "RemoteTraceback"
    text = str(cause)
    assert text == cause.tb
    assert text.startswith('\n"""\nTraceback (most recent call last):\n')
    assert text.endswith('"""')
    assert "raise ValueError(x)  # MARKER of the worker's frame" in text
    assert "in fail\n" in text
    assert "ValueError: 7" in text


@pytest.mark.parametrize("call", ["map", "starmap", "imap", "imap_unordered", "map_async", "apply_async"])
def test_the_remote_traceback_of_every_call(mp, pool, call):
    with pytest.raises(ValueError) as caught:
        if call == "starmap":
            pool.starmap(tasks.fail, [(1,)])
        elif call == "apply_async":
            pool.apply_async(tasks.fail, (1,)).get()
        elif call == "map_async":
            pool.map_async(tasks.fail, [1]).get()
        else:
            list(getattr(pool, call)(tasks.fail, [1]))
    assert "MARKER of the worker's frame" in str(caught.value.__cause__)


def test_the_remote_traceback_shows_chained_exceptions(pool):
    with pytest.raises(RuntimeError) as caught:
        pool.apply(tasks.fail_with_cause)
    text = str(caught.value.__cause__)
    assert "KeyError: 'inner'" in text
    assert "direct cause of the following exception" in text
    assert "RuntimeError: outer" in text


def test_an_exception_with_its_own_constructor(pool):
    with pytest.raises(tasks.WithState) as caught:
        pool.apply(tasks.raise_with_state)
    assert caught.value.args == (1, "b")
    assert caught.value.extra == {"a": 1, "b": "b"}


def test_an_exception_group(pool):
    with pytest.raises(ExceptionGroup) as caught:
        pool.apply(tasks.raise_group)
    assert [type(error) for error in caught.value.exceptions] == [ValueError, TypeError]


def test_an_exception_object_as_a_value(pool):
    result = pool.map(tasks.identity, [ValueError(1), KeyError("k")])
    assert [type(value) for value in result] == [ValueError, KeyError]
    assert result[0].args == (1,)
    assert result[0].__cause__ is None


def test_map_raises_once_all_tasks_ran(pool, tmp_path):
    """The standard package does not fail fast: a job is over when all of it is over."""
    path = str(tmp_path / "count")
    with pytest.raises(ValueError):
        pool.starmap(count_and_fail_first, [(path, n) for n in range(10)], chunksize=1)
    assert os.path.getsize(path) == 10


def count_and_fail_first(path, n):
    tasks.count_start(path)
    if n == 0:
        raise ValueError(n)


def test_map_raises_the_first_exception(mp):
    with mp.Pool(1) as pool:
        with pytest.raises(ValueError) as caught:
            pool.map(tasks.fail, [1, 2, 3], chunksize=1)
        assert caught.value.args == (1,)
    pool.join()


# --- a pool and its surroundings ---


def test_several_threads_on_one_pool(pool):
    failures = []

    def work(number):
        try:
            for round_ in range(15):
                items = range(number * 100, number * 100 + round_)
                assert pool.map(tasks.square, items) == [n * n for n in items]
                assert pool.apply(tasks.add, (number, round_)) == number + round_
                assert list(pool.imap(tasks.double, items, 2)) == [2 * n for n in items]
                with pytest.raises(ValueError):
                    pool.apply(tasks.fail, (number,))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_several_pools_at_once(mp):
    with mp.Pool(1) as one, mp.Pool(2) as two:
        first = one.map_async(tasks.square, range(10))
        second = two.map_async(tasks.double, range(10))
        assert first.get() == [n * n for n in range(10)]
        assert second.get() == [n * 2 for n in range(10)]
    one.join()
    two.join()


def test_pools_of_a_context(ctx):
    with ctx.Pool(2) as pool:
        assert pool.map(tasks.square, range(20)) == [n * n for n in range(20)]
        assert pool.apply(tasks.whoami) != os.getpid()
        assert pool.apply(tasks.add, (1,), {"b": 2}) == 3
        assert sorted(pool.imap_unordered(tasks.double, range(5))) == [0, 2, 4, 6, 8]
        with pytest.raises(ValueError) as caught:
            pool.apply(tasks.fail, (1,))
        assert "MARKER" in str(caught.value.__cause__)
    pool.join()


def test_what_a_worker_is(mp, ctx):
    with ctx.Pool(1) as pool:
        facts = pool.apply(tasks.process_facts, (mp.__name__,))
        assert facts["pid"] == pool._pool[0].pid
        assert facts["parent"] == os.getpid()
        assert facts["daemon"] is True
        assert "PoolWorker-" in facts["name"]
        assert facts["name"] == pool._pool[0].name
    pool.join()


@pytest.mark.only("manycore", reason="workers of the standard package may not have children")
def test_nested_pools(mp, ctx):
    with ctx.Pool(2) as pool:
        assert pool.starmap(tasks.map_inside, [(mp.__name__, [1, 2, 3])] * 3) == [[1, 4, 9]] * 3
    pool.join()


def test_a_worker_keeps_its_state_between_tasks(mp):
    with mp.Pool(1) as pool:
        pool.apply(tasks.remember, (1,))
        pool.apply(tasks.remember, (2,))
        assert pool.apply(tasks.recall)["calls"] == 2
    pool.join()
    assert "calls" not in tasks.state


def test_a_task_that_changes_its_surroundings(pool):
    assert pool.map(tasks.change_surroundings, range(4), chunksize=1) == [True] * 4
    assert "CARELESS" not in os.environ
    assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
    # The mask now blocks SIGTERM in the workers; the end of the pool must not depend on it.
    pool.close()
    pool.join()


def test_descriptors_of_a_worker_do_not_grow(mp):
    with mp.Pool(1) as pool:
        pool.map(tasks.identity, [bytes(300_000)] * 3)
        first = pool.apply(tasks.open_descriptors)
        for _ in range(5):
            pool.map(tasks.identity, [bytes(300_000)] * 10, chunksize=1)
        assert pool.apply(tasks.open_descriptors) <= first
    pool.join()
