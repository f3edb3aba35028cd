"""A callback that raises: its exception is the job's result, as from CPython 3.16 on, and nothing hangs."""

import importlib
import sys
import threading

import pytest

from support import tasks

pytestmark = pytest.mark.only(
    "manycore", *(("multiprocessing",) if sys.version_info >= (3, 16) else ()),
    reason="before 3.16 the standard package's thread for results ends, and everybody waits for ever",
)  # fmt: skip

# Each gives the result's handle; the task succeeds, or fails with a ValueError.
CALLS = {
    "apply_async": (lambda pool, **on: pool.apply_async(tasks.square, (3,), **on), 9),
    "map_async": (lambda pool, **on: pool.map_async(tasks.square, range(40), 3, **on), [n * n for n in range(40)]),
    "starmap_async": (lambda pool, **on: pool.starmap_async(tasks.add, [(1, 2), (3, 4)], **on), [3, 7]),
}
FAILING = {
    "apply_async": lambda pool, **on: pool.apply_async(tasks.fail, (3,), **on),
    "map_async": lambda pool, **on: pool.map_async(tasks.fail, [3], **on),
    "starmap_async": lambda pool, **on: pool.starmap_async(tasks.fail, [(3,)], **on),
}
EXCEPTIONS = (RuntimeError, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration)


@pytest.fixture(params=["processes", "threads"])
def pool(request, mp):
    """A pool of either kind."""
    module = importlib.import_module(f"{mp.__name__}.pool")
    make = module.ThreadPool if request.param == "threads" else mp.Pool
    with make(2) as pool:
        yield pool
    pool.join()


def raiser(error):
    def callback(_):
        raise error

    return callback


def goes_on(pool):
    """Whether jobs that came before and those that come after are answered, those with callbacks, too."""
    called = threading.Event()
    assert pool.apply_async(tasks.square, (2,), callback=lambda _: called.set()).get() == 4
    assert called.is_set()
    assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", EXCEPTIONS)
def test_a_callback_that_raises(pool, call, kind):
    start, wanted = CALLS[call]
    error, others = kind("from the callback"), []
    result = start(pool, callback=raiser(error), error_callback=others.append)
    for _ in range(2):
        with pytest.raises(kind) as raised:
            result.get()
        assert raised.value is error
    assert result.ready() and not result.successful()
    assert error.__context__ is None
    assert others == [], "the task itself has not failed"
    assert start(pool).get() == wanted
    goes_on(pool)


@pytest.mark.parametrize("call", FAILING)
@pytest.mark.parametrize("kind", EXCEPTIONS)
def test_an_error_callback_that_raises(pool, call, kind):
    error, others = kind("from the callback"), []
    result = FAILING[call](pool, callback=others.append, error_callback=raiser(error))
    with pytest.raises(kind) as raised:
        result.get()
    assert raised.value is error
    assert isinstance(error.__context__, ValueError)
    assert not result.successful()
    assert others == []
    goes_on(pool)


def test_an_error_callback_that_raises_what_it_was_told(pool):
    told = []

    def callback(error):
        told.append(error)
        raise error

    result = pool.apply_async(tasks.fail, (3,), error_callback=callback)
    with pytest.raises(ValueError) as raised:
        result.get()
    assert raised.value is told[0]
    assert raised.value.__context__ is None


def test_an_error_callback_that_raises_from_what_it_was_told(pool):
    def callback(error):
        raise KeyError("told") from error

    result = pool.apply_async(tasks.fail, (3,), error_callback=callback)
    with pytest.raises(KeyError) as raised:
        result.get()
    assert isinstance(raised.value.__cause__, ValueError)
    assert raised.value.__context__ is raised.value.__cause__


def test_the_original_error_comes_after_the_contexts_of_the_callbacks_own(pool):
    def callback(_):
        try:
            try:
                raise KeyError("first")
            finally:
                raise IndexError("second")
        finally:
            raise OSError("third")

    result = pool.apply_async(tasks.fail, (3,), error_callback=callback)
    with pytest.raises(OSError) as raised:
        result.get()
    kinds, error = [], raised.value
    while error is not None:
        kinds.append(type(error))
        error = error.__context__
    assert kinds == [OSError, IndexError, KeyError, ValueError]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_no_context_goes_in_a_circle(pool, length):
    """The callback raises what is among the contexts of the error it was told of."""
    made = [IndexError(str(n)) for n in range(length)]

    def callback(error):
        for inner in made:
            error.__context__, error = inner, inner
        raise made[-1]

    result = pool.apply_async(tasks.fail, (3,), error_callback=callback)
    with pytest.raises(IndexError) as raised:
        result.get()
    seen, error = [], raised.value
    while error is not None and len(seen) < 10:
        seen.append(error)
        error = error.__context__
    assert [type(error) for error in seen] == [IndexError, ValueError] + [IndexError] * (length - 1)


def test_an_exception_that_lets_nothing_be_assigned(pool):
    class Frozen(Exception):
        def __setattr__(self, name, value):
            raise TypeError("frozen")

    result = pool.apply_async(tasks.fail, (3,), error_callback=raiser(Frozen()))
    with pytest.raises(Frozen) as raised:
        result.get()
    assert isinstance(raised.value.__context__, ValueError)


def test_nobody_asks_for_the_result(pool, capfd):
    done = threading.Event()
    for _ in range(20):
        pool.apply_async(tasks.square, (3,), callback=raiser(SystemExit(3)))
        pool.apply_async(tasks.fail, (3,), error_callback=raiser(RuntimeError("nobody")))
    pool.apply_async(tasks.square, (3,), callback=lambda _: done.set())
    assert done.wait(30)
    pool.close()
    pool.join()
    assert capfd.readouterr().err == ""


def test_many_wait_for_it(pool, gate):
    result = pool.apply_async(gate.arrive, callback=raiser(RuntimeError("all of them")))
    gate.arrivals()
    caught = []

    def wait():
        try:
            result.get()
        except RuntimeError as error:
            caught.append(error)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join()
    assert len(caught) == 4


def test_a_callback_of_a_task_that_cannot_be_sent(mp):
    error = SystemExit("from the callback")
    with mp.Pool(1) as pool:
        result = pool.apply_async(tasks.square, (threading.Lock(),), error_callback=raiser(error))
        with pytest.raises(SystemExit) as raised:
            result.get()
        assert raised.value is error
        assert error.__context__ is not None
        goes_on(pool)
    pool.join()


def test_a_callback_when_the_pool_is_terminated(pool, gate):
    told = threading.Event()

    def callback(error):
        told.set()
        raise SystemExit("from the callback")

    result = pool.apply_async(gate.arrive, error_callback=callback)
    gate.arrivals()
    pool.terminate()
    assert told.wait(30)
    with pytest.raises(SystemExit):
        result.get()
    gate.open()
