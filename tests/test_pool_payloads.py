"""What travels: a task sees, and the caller gets, what pickle would have given; private, writable, aliasing kept."""

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import importlib
import io
import math
import pathlib
import pickle
import threading
import uuid

import pytest

from support import tasks

np = pytest.importorskip("numpy", reason="the payload tests pass arrays")


class Colour(enum.Enum):
    RED = 1


class Flags(enum.IntFlag):
    A = 1
    B = 2


Pair = collections.namedtuple("Pair", "first second")


@dataclasses.dataclass
class Record:
    name: str
    values: list


class MyInt(int):
    pass


class MyStr(str):
    pass


class MyList(list):
    pass


class MyDict(dict):
    pass


class MyTuple(tuple):
    pass


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return type(other) is Slotted and self.value == other.value

    def __repr__(self):
        return f"Slotted({self.value})"

    __hash__ = None


VALUES = [
    None,
    True,
    False,
    Ellipsis,
    NotImplemented,
    0,
    -1,
    2**31,
    -(2**63),
    2**63,
    2**64,
    -(2**200),
    10**1000,
    0.0,
    -0.0,
    1e308,
    math.inf,
    5e-324,
    1j,
    complex(-0.0, math.inf),
    "",
    "a",
    "ä€😀",
    "\x00",
    "\ud800",
    "x" * 1_000_000,
    b"",
    b"\x00\xff",
    bytes(range(256)) * 5000,
    bytearray(b""),
    bytearray(b"abc"),
    [],
    [1, [2, [3]]],
    (),
    (1,),
    ((), ((),)),
    {},
    {"b": 1, "a": {"c": [None]}},
    {1: "int", "1": "str", (1,): "tuple", None: "none", 1.5: "float"},
    set(),
    {1, "a", (2, 3)},
    frozenset(),
    frozenset({frozenset({1})}),
    range(10),
    slice(1, 2, 3),
    int,
    len,
    tasks.square,
    Colour.RED,
    Flags.A | Flags.B,
    Pair(1, 2),
    Record("r", [1, 2]),
    MyInt(5),
    MyStr("s"),
    MyList([1, 2]),
    MyDict(a=1),
    MyTuple((1, 2)),
    Slotted(1),
    [MyInt(5), 5, MyStr("s"), "s"],
    collections.OrderedDict([("b", 1), ("a", 2)]),
    collections.defaultdict(list, {"a": [1]}),
    collections.Counter("hello"),
    collections.deque([1, 2], maxlen=5),
    collections.ChainMap({"a": 1}),
    datetime.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=datetime.UTC),
    datetime.timedelta(days=-1),
    decimal.Decimal("1.10"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=5),
    pathlib.PurePosixPath("/a/b"),
    array.array("d", [1.5, 2.5]),
    array.array("i"),
]


def show(value):
    return repr(value)[:30].encode("ascii", "backslashreplace").decode()


@pytest.mark.parametrize("value", VALUES, ids=[f"{n}-{show(value)}" for n, value in enumerate(VALUES)])
def test_values(pool, value):
    expected = value
    for _ in ("there", "back"):
        # Twice: where two items of a set want the same place, each time they may change their order.
        expected = pickle.loads(pickle.dumps(expected))
    for result in (
        pool.apply(tasks.identity, (value,)),
        pool.map(tasks.identity, [value, value], chunksize=2)[1],
        pool.apply(tasks.echo, (), {"k": value})[1]["k"],
        next(pool.imap(tasks.identity, [[value]]))[0],
    ):
        assert type(result) is type(expected)
        assert result == expected
        assert repr(result) == repr(expected), "order, signs and inner types too"
        if isinstance(value, collections.deque):
            assert result.maxlen == value.maxlen


def test_nan(pool):
    assert math.isnan(pool.apply(tasks.identity, (math.nan,)))


def test_all_values_in_one_message(pool):
    assert pool.apply(tasks.identity, (VALUES,)) == VALUES
    assert pool.map(tasks.identity, VALUES) == VALUES
    assert pool.map(tasks.identity, VALUES, chunksize=1) == VALUES


def test_the_tutorials_rows(pool):
    rows = np.random.default_rng(1).integers(0, 10, size=[20_000, 5]).tolist()
    assert pool.map(tasks.identity, rows) == rows
    assert pool.map(sum, rows) == [sum(row) for row in rows]


@pytest.mark.parametrize(
    "size", [0, 1, 63, 64, 4095, 4096, 4097, 65535, 65536, 1 << 20, (1 << 20) + 1, 5_000_000, 70_000_000]
)
def test_sizes(pool, size):
    """Around every boundary a transport may have."""
    data = bytes([size % 251]) * size
    assert pool.apply(tasks.identity, (data,)) == data
    assert pool.apply(tasks.identity, (bytearray(data),)) == data
    assert pool.apply(tasks.length, (data,)) == size
    assert pool.apply(tasks.make_bytes, (size,)) == bytes(size)


def test_many_sizes_at_once(pool):
    items = [bytes([n % 256]) * (n * 7919 % 300_000) for n in range(200)]
    for chunksize in (None, 1, 7):
        assert pool.map(tasks.identity, items, chunksize) == items
    assert list(pool.imap(tasks.identity, items)) == items


# --- identity inside a message ---


def test_aliasing_is_kept(pool):
    inner = [1]
    assert pool.apply(tasks.is_same_object, ([inner, inner],)) is True
    assert pool.apply(tasks.is_same_object, ([[1], [1]],)) is False
    pair = pool.apply(tasks.append_to_first, ([inner, inner],))
    assert pair == [[1, "new"], [1, "new"]]
    assert pair[0] is pair[1]
    assert inner == [1]


@pytest.mark.parametrize(
    "value",
    [bytearray(b"x"), {"a": 1}, {1}, "a long string, not interned " * 3, b"bytes" * 30, (1, 2), tasks.Point(1, 2)],
)
def test_aliasing_of_every_type(pool, value):
    pair = pool.apply(tasks.identity, ([value, value],))
    assert pair[0] is pair[1]


def test_aliasing_between_arguments(pool):
    inner = [1]
    args, kwargs = pool.apply(tasks.echo, (inner,), {"k": inner})
    assert args[0] is kwargs["k"]


def test_aliasing_of_arrays(pool):
    inner = np.arange(100_000)
    pair = pool.apply(tasks.identity, ([inner, inner],))
    assert pair[0] is pair[1]


def test_cycles(pool):
    value = [1]
    value.append(value)
    result = pool.apply(tasks.identity, (value,))
    assert result[1] is result
    mapping = {"k": []}
    mapping["k"].append(mapping)
    result = pool.apply(tasks.identity, (mapping,))
    assert result["k"][0] is result
    point = tasks.Point(1, None)
    point.y = ([point],)
    result = pool.apply(tasks.identity, (point,))
    assert result.y[0][0] is result


def test_results_are_copies(pool):
    value = [1, [2]]
    result = pool.apply(tasks.identity, (value,))
    assert result == value
    assert result is not value
    assert result[1] is not value[1]


def test_an_argument_is_taken_when_the_call_is_made(pool, gate):
    """Except for what the standard package leaves open: here both tasks wait, the third is still in the queue."""
    blockers = [pool.apply_async(tasks.wait_at, (gate,)) for _ in range(2)]
    gate.arrivals(2)
    results = [pool.apply_async(tasks.identity, ([n],)) for n in range(3)]
    gate.open()
    assert [result.get() for result in results] == [[0], [1], [2]]
    assert [blocker.get() for blocker in blockers] == [None, None]


# --- arrays ---

ARRAYS = {
    "empty": np.zeros(0),
    "empty-2d": np.zeros((0, 5)),
    "scalar": np.array(5),
    "small": np.arange(10),
    "medium": np.arange(10_000.0),
    "large": np.arange(2_000_000.0),
    "fortran": np.asfortranarray(np.arange(60_000).reshape(200, 300)),
    "transposed": np.arange(60_000).reshape(200, 300).T,
    "strided": np.arange(100_000)[::3],
    "reversed": np.arange(50_000)[::-1],
    "broadcast": np.broadcast_to(np.arange(300), (200, 300)),
    "bool": np.arange(50_000) % 2 == 0,
    "bytes": np.arange(100_000, dtype="u1"),
    "complex": np.arange(10_000) * 1j,
    "big-endian": np.arange(10_000, dtype=">i4"),
    "text": np.array(["a", "bcd"] * 5000),
    "datetime": np.arange("2020-01-01", "2024-01-01", dtype="M8[D]"),
    "structured": np.zeros(5000, dtype=[("a", "i4"), ("b", "f8", (2,))]),
    "object": np.array([None, [1], "x"], dtype=object),
    "matrix": np.ma.masked_array(np.arange(10_000), mask=np.arange(10_000) % 3 == 0),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(pool, name):
    value = ARRAYS[name]
    expected = pickle.loads(pickle.dumps(value, 5))
    for result in (pool.apply(tasks.identity, (value,)), pool.map(tasks.identity, [[value, 1]])[0][0]):
        assert type(result) is type(expected)
        # The byte order may become the machine's own: pickle's protocols differ in it.
        assert result.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
        assert result.shape == expected.shape
        assert result.flags.f_contiguous == expected.flags.f_contiguous
        assert result.flags.writeable
        np.testing.assert_array_equal(result, expected)


def test_a_read_only_array(pool):
    """As pickle by protocol 5 in band gives it back, whatever that is in this numpy: writable."""
    value = np.arange(100_000)
    value.flags.writeable = False
    before, after = pool.apply(tasks.fill_array, (value.copy(), 7))
    np.testing.assert_array_equal(before, value)
    assert (after == 7).all()
    np.testing.assert_array_equal(pool.apply(tasks.identity, (value,)), value)


@pytest.mark.parametrize("size", [10, 10_000, 2_000_000])
def test_a_received_array_is_private_and_writable(pool, size):
    value = np.arange(float(size))
    before, after = pool.apply(tasks.fill_array, (value, -1.0))
    np.testing.assert_array_equal(before, np.arange(float(size)))
    assert (after == -1.0).all()
    np.testing.assert_array_equal(value, np.arange(float(size)), err_msg="the caller's array is untouched")
    after[:] = 5  # the result is ours to write


@pytest.mark.parametrize("size", [10, 10_000, 1_000_000])
@pytest.mark.parametrize("chunksize", [1, 4])
def test_an_array_in_many_tasks_of_a_job(pool, size, chunksize):
    """It may be placed once; what one task writes no other may see."""
    value = np.zeros(size)
    results = pool.starmap(tasks.fill_array, [(value, n) for n in range(1, 9)], chunksize=chunksize)
    for n, (before, after) in enumerate(results, 1):
        # Inside one chunk of the standard package the array is one object: the tasks of a chunk share it.
        assert chunksize == 4 or (before == 0).all()
        assert (after == n).all() or chunksize == 4
    assert (value == 0).all()


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_results_do_not_share_memory(pool, size):
    first, second = pool.map(tasks.identity, [bytearray(size), bytearray(size)], chunksize=1)
    first[0] = 1
    assert second[0] == 0
    one = pool.apply(tasks.identity, (np.zeros(size),))
    two = pool.apply(tasks.identity, (np.zeros(size),))
    one[:] = 1
    assert (two == 0).all()
    assert not np.shares_memory(one, two)


def test_results_outlive_the_pool(mp):
    pool = mp.Pool(2)
    results = pool.map(tasks.identity, [np.full(300_000, n) for n in range(6)])
    large = pool.apply(tasks.identity, (bytearray(b"x" * 1_000_000),))
    pool.terminate()
    pool.join()
    del pool
    for n, result in enumerate(results):
        assert (result == n).all()
        result[:] = 0
    assert large == b"x" * 1_000_000
    large[0] = 0


def test_results_kept_while_the_pool_goes_on(pool):
    """Memory of a result that is still alive is not given to another message."""
    kept = []
    for n in range(60):
        kept.append(pool.apply(tasks.identity, (np.full(50_000, n),)))
        if n % 3 == 0:
            kept[n // 2] = None
    for n, result in enumerate(kept):
        assert result is None or (result == n).all()


def test_a_view_keeps_its_memory(pool):
    view = pool.apply(tasks.identity, (np.arange(500_000),))[1000:1010]
    for _ in range(10):
        pool.apply(tasks.identity, (np.zeros(500_000, dtype=int),))
    np.testing.assert_array_equal(view, np.arange(1000, 1010))


def test_a_worker_may_keep_what_it_received(mp):
    with mp.Pool(1) as pool:
        pool.apply(tasks.remember, (np.full(300_000, 3),))
        for _ in range(10):
            pool.apply(tasks.identity, (np.zeros(300_000),))
        assert (pool.apply(tasks.recall)["args"][0] == 3).all()
    pool.join()


def test_bytearray_is_private_and_resizable(pool):
    for size in (10, 500_000):
        value = bytearray(size)
        result = pool.apply(tasks.overwrite, (value,))
        assert result[0] == 99
        assert value[0] == 0
        assert type(result) is bytearray
        result.extend(b"more")
        assert len(result) == size + 4


@pytest.mark.only("manycore", reason="the standard package pickles by protocol 4, which has no buffers")
def test_what_never_pickles(pool):
    for value in (memoryview(b"x"), io.StringIO, threading.Lock()):
        try:
            pickle.dumps(value)
        except Exception as error:
            with pytest.raises(type(error)):
                pool.apply(tasks.identity, (value,))
        else:
            assert pool.apply(tasks.identity, (value,)) == value
    assert pool.apply(tasks.square, (2,)) == 4


# --- depth ---


def test_a_deep_value(pool):
    value = tasks.nested(150)
    assert pool.apply(tasks.identity, (value,)) == value


def test_a_value_that_is_too_deep(pool):
    """An error, not a crash, and not a hang; the pool goes on."""
    value = tasks.nested(100_000)
    with pytest.raises(RecursionError):
        pool.apply(tasks.length, (value,))
    assert pool.apply(tasks.square, (2,)) == 4
    while value:  # freed step by step
        value = value[0]


@pytest.mark.only("manycore", reason="the worker of the standard package dies of the error inside its error message")
def test_a_result_that_is_too_deep(mp, pool):
    with pytest.raises((RecursionError, mp.pool.MaybeEncodingError)):
        pool.apply(tasks.nested, (100_000,))
    assert pool.apply(tasks.square, (2,)) == 4


# --- how pickling is changed ---


def test_a_registered_reducer(mp):
    reduction = importlib.import_module(f"{mp.__name__}.reduction")
    reduction.ForkingPickler.register(tasks.Sneaky, tasks.reduce_sneaky)
    try:
        with mp.get_context("fork").Pool(1) as pool:
            assert pool.apply(tasks.sneaky_value, (tasks.Sneaky(4),)) == 40
            assert pool.map(tasks.sneaky_value, [tasks.Sneaky(4)]) == [40]
            # Forked after the registration, the worker knows it too.
            assert pool.apply(tasks.identity, (tasks.Sneaky(4),)).value == 400
        pool.join()
    finally:
        reduction.ForkingPickler._extra_reducers.pop(tasks.Sneaky, None)


def test_copyreg(mp):
    import copyreg

    copyreg.pickle(tasks.Sneaky, tasks.reduce_sneaky)
    try:
        with mp.Pool(1) as pool:
            assert pool.apply(tasks.sneaky_value, (tasks.Sneaky(4),)) == 40
        pool.join()
    finally:
        copyreg.dispatch_table.pop(tasks.Sneaky)


def test_a_reducer_of_a_subclass(pool):
    class_by_reduce = datetime.timezone(datetime.timedelta(hours=1))
    assert pool.apply(tasks.identity, (class_by_reduce,)) == class_by_reduce


# --- gigabytes ---


@pytest.mark.large
@pytest.mark.deadline(300)
@pytest.mark.parametrize("direction", ["in", "out"])
@pytest.mark.parametrize("kind", ["bytes", "array"])
def test_more_than_two_gibibytes(mp, direction, kind):
    size = 5 << 29
    with mp.Pool(1) as pool:
        if direction == "out":
            result = pool.apply(
                tasks.make_bytes if kind == "bytes" else np.zeros, (size if kind == "bytes" else size // 8,)
            )
            assert len(result) == (size if kind == "bytes" else size // 8)
        else:
            value = bytes(size) if kind == "bytes" else np.zeros(size // 8)
            assert pool.apply(tasks.length, (value,)) == len(value)
    pool.join()
