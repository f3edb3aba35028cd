"""imap and imap_unordered: order, laziness, timeouts, broken inputs."""

import functools
import itertools
import queue
import threading

import pytest

from support import census, tasks

BOTH = pytest.mark.parametrize("call", ["imap", "imap_unordered"])


class Raising(ValueError):
    pass


def raising_after(count):
    yield from range(count)
    raise Raising(count)


class Counting:
    """An endless input that knows how much of it was taken."""

    def __init__(self, make=int):
        self.taken = 0
        self.make = make

    def __iter__(self):
        return self

    def __next__(self):
        self.taken += 1
        return self.make(self.taken)


# --- results ---


@BOTH
@pytest.mark.parametrize("chunksize", [1, 2, 7, 1000])
@pytest.mark.parametrize("count", [0, 1, 10, 100])
def test_results(pool, call, count, chunksize):
    result = list(getattr(pool, call)(tasks.square, range(count), chunksize))
    assert sorted(result) == [n * n for n in range(count)]
    if call == "imap":
        assert result == sorted(result)


@BOTH
def test_keyword_names(pool, call):
    assert sorted(getattr(pool, call)(func=tasks.square, iterable=[1, 2], chunksize=1)) == [1, 4]


@BOTH
def test_any_iterable(pool, call):
    for items in ([1, 2], iter([1, 2]), (n for n in (1, 2)), {1: 0, 2: 0}, {1, 2}):
        assert sorted(getattr(pool, call)(tasks.square, items)) == [1, 4]


@BOTH
def test_many(pool, call):
    assert sorted(getattr(pool, call)(tasks.identity, range(5000))) == list(range(5000))


@BOTH
def test_the_iterator(pool, call):
    iterator = getattr(pool, call)(tasks.square, [5])
    assert iter(iterator) is iterator
    assert iterator.next() == 25
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(iterator)
    assert list(iterator) == []


@BOTH
@pytest.mark.parametrize("chunksize", [0, -1])
def test_chunksize_below_one(pool, call, chunksize):
    with pytest.raises(ValueError, match="Chunksize must be 1\\+"):
        getattr(pool, call)(tasks.square, [1, 2], chunksize)


@BOTH
def test_chunksize_of_a_wrong_type(pool, call):
    with pytest.raises(TypeError):
        getattr(pool, call)(tasks.square, [1, 2], "2")


@BOTH
def test_of_what_is_not_iterable(pool, call):
    with pytest.raises(TypeError):
        list(getattr(pool, call)(tasks.square, 5))
    assert list(pool.imap(tasks.square, [1])) == [1]


def test_imap_keeps_the_order(pool, gate):
    """The first task waits while all others are done: nothing may come before its result."""
    iterator = pool.imap(functools.partial(tasks.wait_if, gate, waits=0), range(8))
    gate.arrivals(1)
    threading.Timer(0.05, gate.open).start()
    assert list(iterator) == list(range(8))


def test_imap_unordered_gives_what_is_done(pool, gate):
    iterator = pool.imap_unordered(functools.partial(tasks.wait_if, gate, waits=0), range(8))
    gate.arrivals(1)
    assert sorted(next(iterator) for _ in range(7)) == list(range(1, 8))
    gate.open()
    assert list(iterator) == [0]


@BOTH
def test_timeouts(mp, pool, gate, call):
    iterator = getattr(pool, call)(functools.partial(tasks.wait_at, gate), ["a"])
    gate.arrivals(1)
    for timeout in (0, 0.01, 0.01):
        with pytest.raises(mp.TimeoutError):
            iterator.next(timeout=timeout)
    with pytest.raises(mp.TimeoutError):
        iterator.next(0.01)
    gate.open()
    assert iterator.next(timeout=30) == "a", "a timeout loses nothing"
    with pytest.raises(StopIteration):
        iterator.next(timeout=0)


@BOTH
def test_an_exception_fails_its_item_only(pool, call):
    iterator = getattr(pool, call)(functools.partial(tasks.fail_if, victim=3), range(6))
    values, errors = [], []
    while True:
        try:
            values.append(next(iterator))
        except StopIteration:
            break
        except ValueError as error:
            errors.append(error.args)
    assert sorted(values) == [0, 1, 2, 4, 5]
    assert errors == [(3,)]
    if call == "imap":
        assert values == sorted(values)


@BOTH
def test_an_exception_in_a_chunk(pool, call):
    iterator = getattr(pool, call)(functools.partial(tasks.fail_if, victim=5), range(8), 2)
    values = []
    with pytest.raises(ValueError):
        values.extend(iterator)
    if call == "imap":
        assert values == [0, 1, 2, 3]


# --- inputs that fail ---


@BOTH
@pytest.mark.parametrize(("count", "chunksize", "sure"), [(0, 1, 0), (3, 1, 3), (7, 2, 6), (7, 4, 4)])
def test_an_input_that_raises(pool, call, count, chunksize, sure):
    """Results of full chunks before the error come first; the error is the input's own, not a worker's."""
    for _ in range(2):
        iterator = getattr(pool, call)(tasks.square, raising_after(count), chunksize)
        values = []
        with pytest.raises(Raising) as caught:
            values.extend(iterator)
        assert caught.value.__cause__ is None
        if call == "imap":
            assert values == [n * n for n in range(sure)]
    assert list(pool.imap(tasks.square, [2])) == [4]


@BOTH
def test_an_input_that_raises_ends_there(pool, call):
    iterator = getattr(pool, call)(tasks.square, raising_after(0))
    with pytest.raises(Raising):
        next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)


@BOTH
def test_an_item_that_does_not_pickle(pool, call):
    iterator = getattr(pool, call)(tasks.typename, [1, tasks.NoPickle(), "x"])
    values, errors = [], []
    while True:
        try:
            values.append(next(iterator))
        except StopIteration:
            break
        except tasks.PickleError as error:
            errors.append(error)
    assert sorted(values) == ["int", "str"]
    assert len(errors) == 1


@BOTH
def test_a_result_that_does_not_pickle(mp, pool, call):
    iterator = getattr(pool, call)(tasks.give_lock, range(3))
    for _ in range(3):
        with pytest.raises(mp.pool.MaybeEncodingError):
            next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)


# --- laziness ---


@BOTH
@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_input_that_waits_for_results(pool, call, chunksize):
    """An input may block until an earlier result was consumed: it must not block the results."""
    done = queue.Queue()

    def feed():
        yield from range(chunksize)
        while (value := done.get(timeout=30)) < 20:
            yield value + 100
            yield from range(chunksize - 1)
            for _ in range(chunksize - 1):
                done.get(timeout=30)

    count = 0
    for _ in getattr(pool, call)(tasks.identity, feed(), chunksize):
        count += 1
        done.put(0 if count < 4 * chunksize else 20)
    assert count >= 4 * chunksize


@BOTH
def test_the_input_is_taken_while_results_are_waited_for(pool, gate, call):
    """Not after: a worker that waits does not keep the other without work."""
    items = iter(range(3))
    iterator = getattr(pool, call)(functools.partial(tasks.wait_if, gate, waits=0), items)
    gate.arrivals(1)
    threading.Timer(0.05, gate.open).start()
    assert sorted(iterator) == [0, 1, 2]


@pytest.mark.only("manycore", reason="the standard package takes the whole input at once")
@BOTH
def test_an_endless_input(mp, pool, call):
    items = Counting()
    iterator = getattr(pool, call)(tasks.identity, items)
    for count in range(1, 2001):
        next(iterator)
        assert items.taken - count < 10_000, "a bounded window, whatever the input"
    # The pool's fixture now terminates a job whose input never ends.


@pytest.mark.only("manycore", reason="the standard package takes the whole input at once")
@BOTH
def test_memory_stays_bounded(pool, call):
    """1000 items of a mebibyte pass through; what is held at once is far less."""
    items = Counting(lambda _: bytes(1 << 20))
    iterator = getattr(pool, call)(tasks.length, items)
    for _ in range(20):
        next(iterator)
    start = census.resident_bytes()
    for _ in range(980):
        assert next(iterator) == 1 << 20
    assert census.resident_bytes() - start < 400 << 20


@pytest.mark.only("manycore", reason="the standard package takes the whole input at once")
def test_an_unused_iterator_takes_a_bounded_input(pool):
    items = Counting()
    iterator = pool.imap(tasks.identity, items)
    assert pool.map(tasks.square, range(100)) == [n * n for n in range(100)], "other jobs go on"
    assert items.taken < 10_000
    assert next(iterator) == 1


@pytest.mark.only("manycore", reason="buffersize is in the standard package from 3.16")
@BOTH
@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize("buffersize", [1, 2, 10])
def test_buffersize(pool, call, chunksize, buffersize):
    """At most `buffersize` tasks are given and not yet consumed; as CPython counts it, in chunks."""
    items = Counting()
    iterator = getattr(pool, call)(tasks.identity, items, chunksize, buffersize=buffersize)
    for consumed in range(1, 50):
        next(iterator)
        assert items.taken <= consumed + (buffersize + 1) * chunksize


@pytest.mark.only("manycore", reason="buffersize is in the standard package from 3.16")
@BOTH
def test_buffersize_gives_all_results(pool, call):
    result = list(getattr(pool, call)(tasks.square, range(100), buffersize=3))
    assert sorted(result) == [n * n for n in range(100)]
    assert list(getattr(pool, call)(tasks.square, [], buffersize=3)) == []
    assert sorted(getattr(pool, call)(tasks.square, range(9), 2, buffersize=None)) == [n * n for n in range(9)]


@pytest.mark.only("manycore", reason="buffersize is in the standard package from 3.16")
@BOTH
def test_buffersize_that_is_wrong(pool, call):
    for value in (0, -1):
        with pytest.raises(ValueError):
            getattr(pool, call)(tasks.square, [1], buffersize=value)
    for value in ("1", 1.5):
        with pytest.raises(TypeError):
            getattr(pool, call)(tasks.square, [1], buffersize=value)
    with pytest.raises(TypeError):
        getattr(pool, call)(tasks.square, [1], 1, 1)


@pytest.mark.only("manycore", reason="buffersize is in the standard package from 3.16")
@BOTH
def test_close_and_join_with_a_full_buffer(pool, call):
    """Nobody consumes: join must not wait for a consumer who stands behind it."""
    iterator = getattr(pool, call)(tasks.square, range(100), buffersize=2)
    pool.close()
    pool.join()
    taken = list(itertools.islice(iterator, 2))
    assert taken == [0, 1] if call == "imap" else set(taken) < {n * n for n in range(100)}


# --- several at once ---


def test_two_iterators_at_once(pool):
    first = pool.imap(tasks.square, range(50))
    second = pool.imap_unordered(tasks.double, range(50))
    pairs = list(zip(first, second, strict=True))
    assert [a for a, _ in pairs] == [n * n for n in range(50)]
    assert sorted(b for _, b in pairs) == [2 * n for n in range(50)]


def test_an_iterator_given_up(pool):
    iterator = pool.imap(tasks.square, range(1000))
    assert next(iterator) == 0
    del iterator
    assert pool.map(tasks.square, [1, 2]) == [1, 4]


def test_an_input_that_uses_the_pool(pool):
    """The input of one job is made by another job of the same pool."""
    assert list(pool.imap(tasks.double, pool.imap(tasks.square, range(20)))) == [2 * n * n for n in range(20)]


@pytest.mark.only(
    "manycore", reason="next() of the standard package raises TimeoutError when another thread took the item"
)
@BOTH
def test_several_threads_take_from_one_iterator(pool, call):
    iterator = getattr(pool, call)(tasks.identity, range(400))
    seen = []

    def take():
        seen.extend(iterator)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(400))
