"""A pool that ends, or is used from several sides at once, in the midst of something: everybody gets an answer."""

import itertools
import os
import threading

import pytest

from support import tasks

pytestmark = pytest.mark.only("manycore", reason="the standard package hangs in most of these")


class Yielding:
    """Gives other threads a turn whenever it is pickled."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        os.sched_yield()
        open(os.devnull).close()
        return Yielding, (self.number,)


def number_of(item):
    return item.number


def fail():
    raise RuntimeError("from the initializer")


def test_terminate_with_a_full_window(mp):
    pool = mp.Pool(2)
    results = pool.imap(tasks.square, itertools.count(), buffersize=4)
    assert next(results) == 0
    pool.terminate()
    pool.join()


def test_a_generator_into_a_pool_that_cannot_start(mp):
    pool = mp.Pool(2, fail)
    with pytest.raises(RuntimeError, match="from the initializer"):
        next(pool.imap(tasks.square, (n for n in range(10))))
    pool.terminate()
    pool.join()


def test_a_deferred_call_that_does_not_pickle(mp):
    pool = mp.Pool(2)
    results = [pool.apply_async(tasks.square, (n,)) for n in range(3000)]
    errors = []
    last = pool.apply_async(tasks.square, ((n for n in ()),), error_callback=errors.append)
    pool.close()
    pool.join()
    assert len(errors) == 1
    assert not last.successful()
    assert [result.get() for result in results] == [n * n for n in range(3000)]


def test_join_waits_for_callbacks(mp):
    pool = mp.Pool(2)
    called = []
    for n in range(100):
        pool.apply_async(tasks.square, (n,), callback=called.append)
    pool.close()
    pool.join()
    assert sorted(called) == sorted(n * n for n in range(100))


def test_small_maps_with_callbacks(mp):
    """Their outcomes come to the keeper while the caller still has the map in hand."""
    called = []
    with mp.Pool(2) as pool:
        for n in range(2000):
            result = pool.map_async(tasks.square, [n, 1], chunksize=1, callback=called.append)
            assert result.get(timeout=30) == [n * n, 1]
            assert len(called) == n + 1
    pool.join()


def test_terminate_in_a_callback(mp):
    pool = mp.Pool(2)
    results = [pool.apply_async(tasks.square, (n,), callback=lambda value: pool.terminate()) for n in range(50)]
    for n, result in enumerate(results):
        try:
            assert result.get(timeout=30) == n * n
        except mp.ProcessError as error:
            assert not isinstance(error, mp.TimeoutError)
    pool.terminate()
    pool.join()


def test_one_iterator_in_several_threads(mp):
    with mp.Pool(2) as pool:
        results = pool.imap(tasks.square, range(2000))
        taken = []
        threads = [threading.Thread(target=lambda: taken.extend(results)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    pool.join()
    assert sorted(taken) == [n * n for n in range(2000)]


def test_items_whose_pickling_lets_others_run(mp):
    """The keeper and the consumer come to feed at once."""
    with mp.Pool(2) as pool:
        for _ in range(3):
            assert list(pool.imap(number_of, [Yielding(n) for n in range(1500)])) == list(range(1500))
    pool.join()


def test_a_forked_child_may_not_use_the_pool(mp):
    with mp.Pool(2) as pool:
        result = pool.apply_async(tasks.square, (3,))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                pool.apply(tasks.square, (2,))
            except ValueError:
                code = 7
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert result.get() == 9
    pool.join()
