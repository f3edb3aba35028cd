"""The codec says what pickle says: the same values, types and identities."""

import array
import copyreg
import gc
import math
import pickle
import random
import sys
import threading

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from manycore import _engine, reduction
from support.codec import there_and_back, through_pickle
from support.plain import check, knotted, nested


@given(nested)
def test_values(value):
    check(value)


@given(nested, nested)
def test_one_object_twice(one, other):
    check([one, other, one, (other, {"again": one})])


@pytest.mark.parametrize("seed", range(300))
def test_knots(seed):
    check(knotted(seed))


EDGES = [
    *(
        sign * (2**bits + by)
        for bits in (7, 8, 15, 16, 30, 31, 32, 60, 63, 64, 127, 1000)
        for by in (-1, 0, 1)
        for sign in (1, -1)
    ),
    0,
    "",
    "a",
    "é",
    "ÿ" * 10,
    "Ā",
    "\ud800",
    "\U0010ffff",
    "x\udfffy\U0001f600",
    b"",
    b"x",
    (),
    [],
    {},
    set(),
    frozenset(),
    bytearray(),
    -0.0,
    math.inf,
    [[[]]],
    ((),),
    [()] * 3,
    10**4000,
]


@pytest.mark.parametrize("at", range(len(EDGES)))
def test_edges(at):
    check(EDGES[at])
    check([EDGES[at], EDGES[at]])


def test_cycles():
    row = [1]
    row.append(row)
    check(row)
    back = there_and_back(row)
    assert back[1] is back
    table = {}
    table["me"] = [table]
    back = there_and_back(table)
    assert back["me"][0] is back
    around = ([],)
    around[0].append(around)
    back = there_and_back(around)
    assert type(back) is tuple and back[0][0] is back
    inside = [around, around]
    check(inside)


def test_singletons_stay_singletons():
    for value in ("a", "é", "", b"", (), None, True, 5):
        assert there_and_back([value])[0] is through_pickle([value])[0]


def test_large_bytes_are_segments():
    for kind in (bytes, bytearray):
        large = kind(bytes(range(256)) * 1024)
        head, message = _engine.encode([large, 1, large])
        assert head < 32
        assert len(message) == 64 + len(large)
        back = _engine.decode(head, message)
        assert back == [large, 1, large]
        assert type(back[0]) is kind and back[0] is back[2]
        large_and_more = [large, kind(large), kind(large) + b"x"]
        check(large_and_more)
    del large_and_more
    resizable = bytearray(1 << 20)
    _engine.encode(resizable)
    resizable.append(0)


class Plain:
    def __init__(self, inside):
        self.inside = inside


class MyList(list):
    pass


class MyInt(int):
    pass


class Reduced:
    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        return Reduced, (self.number,)


class Registered:
    def __init__(self, number):
        self.number = number
        self.lock = threading.Lock()


class Fails:
    def __reduce__(self):
        raise LookupError("not today", 42)


class Reenters:
    def __reduce__(self):
        inner = there_and_back([1, [2, Plain(3)]])
        return list, ((inner[0], inner[1][0], inner[1][1].inside),)


def test_other_types():
    shared = [1, 2]
    back = there_and_back([shared, Plain(shared), MyList([shared]), shared])
    assert back[0] is back[1].inside is back[2][0] is back[3]
    assert type(back[2]) is MyList
    for value in (MyInt(3), Ellipsis, NotImplemented, range(3), slice(1, 2), math.sin, int, Reduced):
        back = there_and_back([value])[0]
        assert type(back) is type(value) and back == value
    assert there_and_back(Reduced(4)).number == 4


def test_errors_of_pickling_propagate():
    with pytest.raises(LookupError, match="not today") as caught:
        _engine.encode([1, Fails()])
    assert caught.value.args == ("not today", 42)
    lock = threading.Lock()
    with pytest.raises((TypeError, pickle.PicklingError, AttributeError)):
        _engine.encode([lambda lock=lock: None])
    assert there_and_back([1, 2]) == [1, 2]


def test_encoding_may_encode():
    assert there_and_back(["x", Reenters()]) == ["x", [1, 2, 3]]


def test_copyreg_and_extra_reducers():
    with pytest.raises(TypeError):
        _engine.encode(Registered(1))
    reducers = reduction._Reducers()
    _engine.set_reducers(reducers)
    try:
        assert there_and_back(Reduced(4)).number == 4
        reducers[Registered] = lambda x: (Registered, (x.number,))
        assert there_and_back([Registered(7)])[0].number == 7
        assert there_and_back(Reduced(4)).number == 4
        copyreg.pickle(Plain, lambda x: (Plain, ("by copyreg",)))
        assert there_and_back(Plain(1)).inside == "by copyreg"
        large = pickle.PickleBuffer(bytearray(100_000))
        assert len(there_and_back([Registered(1), large])[1]) == 100_000
    finally:
        copyreg.dispatch_table.pop(Plain, None)
        _engine.set_reducers(reduction._Reducers())
    assert there_and_back(Plain(1)).inside == 1


def test_depth():
    def nest(levels, kind):
        value = kind()
        for _ in range(levels):
            value = kind([value]) if kind is not dict else {"k": value}
        return value

    for kind in (list, tuple, dict):
        back = there_and_back(nest(900, kind))
        assert type(back) is kind
        with pytest.raises(RecursionError):
            _engine.encode(nest(200_000, kind))


def test_depth_in_a_thread_with_a_small_stack():
    value = []
    for _ in range(998):
        value = (value,)
    outcome = []
    old = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=lambda: outcome.append(there_and_back(value)))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(old)
    assert len(outcome) == 1


def corrupted(message, seed):
    rnd = random.Random(seed)
    damaged = bytearray(message)
    for _ in range(rnd.randrange(1, 4)):
        what = rnd.randrange(4)
        if what == 0 and damaged:
            damaged[rnd.randrange(len(damaged))] = rnd.randrange(256)
        elif what == 1:
            del damaged[rnd.randrange(len(damaged) + 1) :]
        elif what == 2 and damaged:
            damaged[rnd.randrange(len(damaged))] ^= 1 << rnd.randrange(8)
        else:
            damaged.insert(rnd.randrange(len(damaged) + 1), rnd.randrange(0x80, 0x100))
    return bytes(damaged)


def lose_items(head, message):
    """Read items as a loop does that keeps none: their containers are used again."""
    for item in _engine.decode_items(head, message):
        del item


def decode_anyhow(head, message):
    for read in (
        _engine.decode,
        lambda *message: list(_engine.decode_items(*message)),
        lose_items,
        _engine.decode_call,
    ):
        try:
            read(head, message)
        except (ValueError, MemoryError) as error:
            assert not isinstance(error, ValueError) or "corrupt message" in str(error)


@pytest.mark.parametrize("seed", range(300))
def test_damaged_messages_are_errors(seed):
    message = _engine.encode(knotted(seed, 12) + [bytes(70_000)])[1]
    rnd = random.Random(seed)
    head = message[: rnd.choice([len(message), 300, 50])]
    if head[:1] != b"\x01":
        # A pickle is pickle's matter.
        return
    for turn in range(40):
        damaged = b"\x01" + corrupted(head, seed * 1000 + turn)[1:]
        decode_anyhow(len(damaged), damaged)
        decode_anyhow(len(damaged) // 2, damaged)


@given(st.sampled_from([1, 2]), st.binary(max_size=200))
def test_random_bytes_are_errors(kind, message):
    message = bytes([kind]) + message
    decode_anyhow(len(message), message)


@given(st.lists(st.integers(0x80, 0xEF), max_size=60), st.binary(max_size=40))
def test_random_tags_are_errors(tags, message):
    message = b"\x01\xaa\x05" + bytes(x for tag in tags for x in (tag, len(message) % 7)) + message
    decode_anyhow(len(message), message)


def test_promises_are_held_against_the_message():
    # A thousand lists, each of which claims to hold all the rest.
    claims = b"\x01" + b"\xaa\xff\x7f" * 900 + bytes(20_000)
    with pytest.raises(ValueError, match="a length exceeds"):
        _engine.decode(len(claims), claims)
    for tag in (0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xA1, 0xA6, 0xA7, 0xA8, 0x87):
        message = bytes([1, tag]) + b"\xff" * 8 + b"\x7f"
        with pytest.raises(ValueError, match="corrupt message"):
            _engine.decode(len(message), message)


def test_every_truncation_is_an_error():
    head, message = _engine.encode([1, -5, 3.5, "abc", "é", {"k": (1, 2)}, {3}, frozenset({4}), 1 << 90, b"xyz"])
    assert head == len(message)
    for end in range(head):
        with pytest.raises(ValueError, match="corrupt message"):
            _engine.decode(end, message[:end])


def test_unhashable_keys_are_errors():
    for message in (b"\x01\xac\x01\xaa\x00\x05", b"\x01\xad\x01\xaa\x00", b"\x01\xae\x01\xac\x00"):
        with pytest.raises(ValueError, match="unhashable"):
            _engine.decode(len(message), message)


def test_half_a_tuple_is_never_seen():
    for message in (b"\x01\xeb\x01\x89\x01", b"\x01\xeb\x01\xad\x01\x89\x01", b"\x01\xee\x01\x89\x01"):
        with pytest.raises(ValueError, match="reference"):
            _engine.decode(len(message), message)


def test_calls():
    shared = [1]
    for args, kwargs in (((), None), ((1, "x"), {"k": shared}), ((shared,), {"k": shared}), ((Plain(1),), {"a": 2})):
        back_args, back_kwargs = _engine.decode_call(*_engine.encode_call(args, kwargs))
        assert type(back_args) is tuple and len(back_args) == len(args)
        assert (back_kwargs or {}).keys() == (kwargs or {}).keys()
    back_args, back_kwargs = _engine.decode_call(*_engine.encode_call((shared,), {"k": shared}))
    assert back_args[0] is back_kwargs["k"]
    assert _engine.decode_call(*_engine.encode_call((1,), {})) == ((1,), None)
    with pytest.raises(ValueError):
        _engine.decode_call(*_engine.encode(5))


def test_out_of_band_buffers():
    small, large = array.array("d", range(100)), array.array("d", range(100_000))
    for value in (small, large):
        buffer = pickle.PickleBuffer(value)
        back = there_and_back([buffer, Plain(1)])[0]
        assert bytes(back) == value.tobytes()
        assert not memoryview(back).readonly
    back = there_and_back([pickle.PickleBuffer(bytes(100_000))])[0]
    assert memoryview(back).readonly


def test_numpy():
    numpy = pytest.importorskip("numpy")
    for shape, order in (((3,), "C"), ((300, 200), "C"), ((300, 200), "F"), ((0,), "C"), ((), "C")):
        one = numpy.asarray(numpy.random.default_rng(1).random(shape), order=order)
        value = [one, one, one[::2] if shape else one]
        back = there_and_back(value)
        assert back[0] is back[1]
        for before, after in zip(value, back):
            assert after.dtype == before.dtype
            assert after.flags.f_contiguous == through_pickle(before).flags.f_contiguous
            assert numpy.array_equal(before, after)
            assert after.flags.writeable
        back[0][...] = 7
    readonly = numpy.arange(100_000)
    readonly.flags.writeable = False
    assert there_and_back(readonly).flags.writeable == through_pickle(readonly).flags.writeable
    large = numpy.arange(1 << 17)
    assert _engine.encode(large)[0] < 300
    assert large.resize(1 << 18, refcheck=False) is None


def test_a_large_pickle_is_a_segment():
    value = [Plain(i) for i in range(20_000)]
    # Deeper than we go by ourselves, so that all of it goes by pickle.
    for _ in range(210):
        value = Plain([value])
    old = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        head, message = _engine.encode(value)
    finally:
        sys.setrecursionlimit(old)
    assert head < 32 and len(message) > 100_000
    value = _engine.decode(head, message)
    for _ in range(210):
        value = value.inside[0]
    assert [x.inside for x in value] == list(range(20_000))


def test_the_collector_is_left_as_it_was():
    message = _engine.encode([[i] for i in range(5000)])
    for state in (gc.enable, gc.disable):
        try:
            state()
            before = gc.isenabled()
            _engine.decode(*message)
            assert gc.isenabled() == before
            lose_items(*message)
            assert gc.isenabled() == before
            with pytest.raises(ValueError):
                _engine.decode(message[0] - 1, message[1])
            assert gc.isenabled() == before
        finally:
            gc.enable()


def test_no_reference_is_lost_or_kept():
    marker = ("marker", 12345)
    value = [marker, {"k": marker}, {marker}, frozenset([marker]), (marker, marker), [marker] * 3]
    check(value)
    before = sys.getrefcount(marker)
    for _ in range(50):
        _engine.encode(value)
        _engine.encode([value, Plain(value)])
        there_and_back(value)
    assert sys.getrefcount(marker) == before
    small = [sys.getrefcount(i) for i in range(128)]
    nothing = sys.getrefcount(None)
    back = [there_and_back([list(range(128)), None]) for _ in range(50)]
    del back
    assert all(abs(sys.getrefcount(i) - count) < 20 for i, count in enumerate(small))
    assert abs(sys.getrefcount(None) - nothing) < 20
    large = bytes(100_000)
    before = sys.getrefcount(large)
    _engine.encode([large, large])
    assert sys.getrefcount(large) == before
