"""The asynchronous calls of a pool and the result objects they give."""

import functools
import pickle
import threading

import pytest

from support import census, tasks


class Calls(list):
    """What a callback was called with, and a way to wait for it."""

    def __init__(self):
        super().__init__()
        self.event = threading.Event()

    def __bool__(self):
        return True  # the standard package ignores a callback that is false, as an empty list is

    def __call__(self, value):
        self.append(value)
        self.event.set()


# --- results ---


def test_apply_async(pool):
    result = pool.apply_async(tasks.square, (7,))
    assert result.get() == 49
    assert result.get() == 49, "may be asked again"
    assert result.ready()
    assert result.successful()
    assert pool.apply_async(tasks.add, (1,), {"b": 2}).get(timeout=30) == 3
    assert pool.apply_async(tasks.add, kwds={"a": 1, "b": 2}).get() == 3


def test_map_async_and_starmap_async(pool):
    assert pool.map_async(tasks.square, range(10)).get() == [n * n for n in range(10)]
    assert pool.map_async(tasks.square, range(10), 3).get(30) == [n * n for n in range(10)]
    assert pool.starmap_async(tasks.add, [(1, 2), (3, 4)]).get() == [3, 7]
    assert pool.starmap_async(tasks.add, [(1, 2), (3, 4)], chunksize=1).get() == [3, 7]
    assert pool.map_async(tasks.square, (n for n in range(3))).get() == [0, 1, 4]


def test_async_of_nothing(pool):
    for result in (
        pool.map_async(tasks.square, []),
        pool.map_async(tasks.square, [], chunksize=1),
        pool.starmap_async(tasks.add, iter(())),
    ):
        assert result.ready(), "there is nothing to wait for"
        assert result.get(timeout=0) == []
        assert result.successful()


def test_a_result_that_is_not_ready(mp, pool, gate):
    result = pool.apply_async(tasks.wait_at, (gate, "value"))
    gate.arrivals(1)
    assert not result.ready()
    with pytest.raises(ValueError):
        result.successful()
    with pytest.raises(mp.TimeoutError):
        result.get(timeout=0)
    with pytest.raises(mp.TimeoutError):
        result.get(timeout=0.01)
    with pytest.raises(mp.TimeoutError):
        result.get(0.01)
    assert result.wait(timeout=0.01) is None
    assert result.wait(0) is None
    assert not result.ready()
    gate.open()
    assert result.wait() is None
    assert result.ready()
    assert result.successful()
    assert result.get(timeout=0) == "value"


def test_a_negative_timeout_does_not_wait(mp, pool, gate):
    result = pool.apply_async(tasks.wait_at, (gate,))
    gate.arrivals(1)
    with pytest.raises(mp.TimeoutError):
        result.get(timeout=-1)
    gate.open()
    assert result.get() is None


def test_timeout_error_is_the_packages_own(mp):
    assert issubclass(mp.TimeoutError, mp.ProcessError)
    assert mp.TimeoutError is mp.context.TimeoutError


def test_a_map_that_is_not_ready(mp, pool, gate):
    result = pool.map_async(functools.partial(tasks.wait_if, gate, waits=3), range(5), chunksize=1)
    gate.arrivals(1)
    assert not result.ready(), "a map is ready when all of it is"
    with pytest.raises(mp.TimeoutError):
        result.get(0.01)
    gate.open()
    assert result.get() == list(range(5))


def test_a_result_that_failed(pool):
    result = pool.apply_async(tasks.fail, (1,))
    result.wait()
    assert result.ready()
    assert not result.successful()
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            result.get()
        assert caught.value.args == (1,)


def test_results_out_of_order(pool, gate):
    slow = pool.apply_async(tasks.wait_at, (gate, "slow"))
    gate.arrivals(1)
    quick = [pool.apply_async(tasks.square, (n,)) for n in range(50)]
    assert [result.get() for result in reversed(quick)] == [n * n for n in reversed(range(50))]
    assert not slow.ready()
    gate.open()
    assert slow.get() == "slow"


def test_several_threads_wait_for_one_result(pool, gate):
    result = pool.apply_async(tasks.wait_at, (gate, 5))
    gate.arrivals(1)
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(result.get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join()
    assert seen == [5] * 4


def test_another_thread_gets_the_result(pool):
    results = [pool.apply_async(tasks.square, (n,)) for n in range(100)]
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(result.get() for result in results))
    thread.start()
    thread.join()
    assert seen == [n * n for n in range(100)]


def test_a_dropped_result_does_no_harm(pool):
    for n in range(100):
        pool.apply_async(tasks.square, (n,))
        pool.apply_async(tasks.fail, (n,))
    assert pool.apply(tasks.square, (3,)) == 9


def test_many_results_at_once(pool):
    results = [pool.apply_async(tasks.square, (n,)) for n in range(5000)]
    assert [result.get() for result in results] == [n * n for n in range(5000)]


def test_names_of_the_result_classes(mp, pool):
    assert mp.pool.AsyncResult is mp.pool.ApplyResult
    assert isinstance(pool.apply_async(tasks.square, (1,)), mp.pool.ApplyResult)
    result = pool.map_async(tasks.square, [1])
    assert isinstance(result, mp.pool.MapResult)
    assert isinstance(result, mp.pool.AsyncResult)
    assert isinstance(pool.imap(tasks.square, [1]), mp.pool.IMapIterator)
    assert isinstance(pool.imap_unordered(tasks.square, [1]), mp.pool.IMapUnorderedIterator)
    assert mp.pool.AsyncResult[int].__origin__ is mp.pool.AsyncResult


def test_a_failed_result_pickles_elsewhere_as_the_exception(pool):
    """The exception that `get` raises is an ordinary one: it can be pickled again."""
    with pytest.raises(tasks.WithState) as caught:
        pool.apply_async(tasks.raise_with_state).get()
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.args == (1, "b")


# --- callbacks ---


def test_callback_of_apply(pool):
    good, bad = Calls(), Calls()
    result = pool.apply_async(tasks.square, (3,), callback=good, error_callback=bad)
    assert result.get() == 9
    assert good.event.wait(30)
    assert good == [9]
    assert bad == []


def test_error_callback_of_apply(pool):
    good, bad = Calls(), Calls()
    result = pool.apply_async(tasks.fail, (3,), callback=good, error_callback=bad)
    with pytest.raises(ValueError) as caught:
        result.get()
    assert bad.event.wait(30)
    assert bad == [caught.value]
    assert good == []


def test_callbacks_without_get(pool):
    """Nobody waits for the result, the callback must come all the same."""
    good, bad = Calls(), Calls()
    pool.apply_async(tasks.square, (3,), callback=good)
    pool.apply_async(tasks.fail, (3,), error_callback=bad)
    pool.map_async(tasks.square, [1, 2], callback=good)
    assert census.eventually(lambda: len(good) == 2 and len(bad) == 1, 30)
    assert sorted(map(str, good)) == ["9", "[1, 4]"]
    assert type(bad[0]) is ValueError


def test_callback_is_called_before_the_result_is_ready(pool):
    """Who sees `ready` may rely on the callback having run."""
    calls = Calls()
    pool.apply_async(tasks.square, (3,), callback=calls).wait()
    assert calls == [9]
    pool.map_async(tasks.fail, [3], error_callback=calls).wait()
    assert len(calls) == 2


def test_callback_of_map_is_called_once_with_the_list(pool):
    good, bad = Calls(), Calls()
    pool.map_async(tasks.square, range(20), chunksize=3, callback=good, error_callback=bad).wait()
    pool.starmap_async(tasks.add, [(1, 2)], callback=good, error_callback=bad).wait()
    assert census.eventually(lambda: len(good) == 2, 30)
    assert good == [[n * n for n in range(20)], [3]]
    assert bad == []


def test_error_callback_of_map_is_called_once_with_the_first_exception(pool):
    good, bad = Calls(), Calls()
    result = pool.map_async(tasks.fail, range(20), chunksize=1, callback=good, error_callback=bad)
    with pytest.raises(ValueError) as caught:
        result.get()
    assert bad.event.wait(30)
    assert bad == [caught.value]
    assert good == []


def test_no_callback_for_an_empty_map(pool):
    calls = Calls()
    assert pool.map_async(tasks.square, [], callback=calls, error_callback=calls).get() == []
    assert pool.apply(tasks.square, (2,)) == 4
    assert calls == []


def test_a_callback_may_give_more_work(pool):
    second = []
    done = threading.Event()

    def more(value):
        second.append(pool.apply_async(tasks.square, (value,)))
        done.set()

    pool.apply_async(tasks.square, (3,), callback=more)
    assert done.wait(30)
    assert second[0].get() == 81


def test_callbacks_of_many_tasks(pool):
    calls = Calls()
    for n in range(1000):
        pool.apply_async(tasks.square, (n,), callback=calls)
    pool.close()
    pool.join()
    assert sorted(calls) == [n * n for n in range(1000)], "join waits for callbacks too"


def test_callbacks_run_in_the_parent(pool):
    threads = Calls()
    pool.apply_async(tasks.square, (3,), callback=lambda _: threads(threading.current_thread()))
    assert threads.event.wait(30)
    assert threads[0].is_alive()


# --- what pickling says ---


def test_an_argument_that_does_not_pickle(pool):
    calls = Calls()
    result = pool.apply_async(tasks.identity, (tasks.NoPickle(),), error_callback=calls)
    with pytest.raises(tasks.PickleError):
        result.get()
    assert not result.successful()
    assert calls.event.wait(30)
    assert type(calls[0]) is tasks.PickleError
    assert pool.apply(tasks.square, (2,)) == 4


def test_one_bad_argument_among_good_ones(pool):
    results = [pool.apply_async(tasks.typename, (item,)) for item in (1, tasks.NoPickle(), "x")]
    assert results[0].get() == "int"
    with pytest.raises(tasks.PickleError):
        results[1].get()
    assert results[2].get() == "str"


def test_a_map_with_one_bad_argument(pool):
    for chunksize in (None, 1, 7):
        with pytest.raises(tasks.PickleError):
            pool.map(tasks.typename, [*range(20), tasks.NoPickle(), *range(20)], chunksize)
    assert pool.map(tasks.square, [1, 2]) == [1, 4]


@pytest.mark.parametrize("give", [tasks.give_lock, tasks.give_no_pickle, tasks.give_generator])
def test_a_result_that_does_not_pickle(mp, pool, give):
    calls = Calls()
    for _ in range(5):
        result = pool.apply_async(give, error_callback=calls)
        with pytest.raises(mp.pool.MaybeEncodingError) as caught:
            result.get()
        error = caught.value
        assert type(error.exc) is str
        assert type(error.value) is str
        assert str(error) == f"Error sending result: '{error.value}'. Reason: '{error.exc}'"
        assert repr(error) == f"<MaybeEncodingError: {error}>"
    assert census.eventually(lambda: len(calls) == 5, 30)
    if give is tasks.give_no_pickle:
        assert error.exc == repr(tasks.PickleError("cannot be pickled"))
        assert "NoPickle object" in error.value
    assert pool.apply(tasks.square, (2,)) == 4


def test_a_map_result_that_does_not_pickle(mp, pool):
    for chunksize in (None, 1, 7):
        with pytest.raises(mp.pool.MaybeEncodingError):
            pool.map(tasks.give_lock, range(20), chunksize)
    assert pool.map(tasks.square, [1, 2]) == [1, 4]


def test_an_exception_that_does_not_pickle(mp, pool):
    with pytest.raises(mp.pool.MaybeEncodingError) as caught:
        pool.apply(tasks.raise_with_lock)
    assert "WithLock" in caught.value.value or "ExceptionWithTraceback" in caught.value.value
    assert "pickle" in caught.value.exc
    assert pool.apply(tasks.square, (2,)) == 4


def test_maybe_encoding_error_pickles(mp):
    error = mp.pool.MaybeEncodingError(ValueError("why"), [1, 2])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is mp.pool.MaybeEncodingError
    assert error.args == ("ValueError('why')", "[1, 2]")
