"""Objects of every kind travel as pickle would have them: values, types, identities and errors."""

import collections
import copyreg
import datetime
import decimal
import fractions
import functools
import gc
import operator
import pathlib
import pickle
import random
import sys
import threading
import types
import uuid
import weakref

import pytest

from manycore import _engine, reduction
from support.codec import there_and_back, through_pickle
from support.kinds import (
    Colour,
    Frozen,
    HalfEmpty,
    Key,
    Loose,
    Made,
    MyList,
    MyStr,
    MyTuple,
    Pair,
    Plain,
    Point,
    Reduced,
    Registered,
    Restored,
    Slotted,
    Stated,
    canonical,
    from_registered,
    function,
    heap_of,
    numpy,
)

OPEN = 5


def outcome(work, value):
    """The canonical form of what comes out, or the error."""
    try:
        back = work(value)
    except RecursionError:
        return "RecursionError"
    except Exception as error:
        return type(error), str(error)
    return canonical(back)


#: What pickle raises for what it cannot write; some of that goes by value instead.
REFUSALS = (TypeError, AttributeError, pickle.PicklingError)


def check(value):
    expected = outcome(through_pickle, value)
    # The second time, the encoder begins the way the first message ended.
    for _ in range(2):
        if isinstance(expected, tuple) and expected[0] in REFUSALS:
            # An error of ours says more: which part it was, and what helps.
            try:
                there_and_back(value)
            except REFUSALS as error:
                assert type(error) is expected[0]
        else:
            assert outcome(there_and_back, value) == expected
    return expected


@pytest.fixture(autouse=True)
def registered():
    copyreg.pickle(Registered, lambda x: (from_registered, (x.value,)))
    yield
    copyreg.dispatch_table.pop(Registered, None)


@pytest.mark.parametrize("seed", range(150))
def test_nests_of_everything(seed):
    rnd = random.Random(seed)
    heap = heap_of(seed, rnd.choice([3, 10, 30]))
    check(heap)
    check(heap[-1])
    check([heap[-1], {"same": heap[-1]}, heap[-2]])


@pytest.mark.parametrize("seed", range(60))
def test_items_one_by_one(seed):
    heap = heap_of(seed, 12)
    expected = outcome(through_pickle, heap)
    message = _engine.encode_items(heap, 0, len(heap))
    assert outcome(lambda message: list(_engine.decode_items(*message)), message) == expected

    def into(message):
        target = [None] * len(heap)
        _engine.decode_into(*message, target, 0, len(heap))
        return target

    assert outcome(into, message) == expected


def test_one_object_across_every_border():
    thing = Plain(1)
    back = there_and_back([thing, {"same": thing}, Reduced(thing), Stated(thing), Pair(thing, 1), {Key(1): thing}])
    assert back[0] is back[1]["same"] is back[2].parts[0] is back[3].value[1] is back[4].first is back[5][Key(1)]


@pytest.mark.parametrize("make", [Plain, Point, Slotted, Reduced, Stated, collections.deque, MyList, Made])
def test_cycles_through_objects(make):
    inner = []
    value = make(inner) if make not in (collections.deque, MyList) else make([inner])
    inner.append(value)
    check(value)
    check(inner)
    check((inner, value))


def test_what_is_met_again_among_its_own_parts():
    inner = []
    for value in ((inner,), Reduced(inner), Pair(inner, 2), MyTuple([inner]), frozenset([Key(7)])):
        inner[:] = [value]
        check(value)
        check([value, inner])
    key = Key(1)
    value = frozenset([key])
    key.more = value
    check(value)


def test_ordinary_values_are_not_pickled():
    values = [Plain(1), Point(1), Slotted(1), Frozen(1), Pair(1, 2), Colour.RED, decimal.Decimal(1), uuid.UUID(int=1)]
    values += [
        pathlib.Path("x"),
        range(3),
        collections.deque(),
        ValueError(1),
        function,
        int,
        datetime.date(2026, 1, 1),
    ]
    values += [fractions.Fraction(1, 2), collections.OrderedDict(), collections.Counter("a"), slice(3), Made(1)]
    if numpy is not None:
        values += [numpy.float64(1), numpy.arange(3), numpy.array([None, "x"])]
    for value in values:
        assert _engine.encode(value)[1][0] == OPEN
        assert _engine.encode([1, "plain", value])[1][0] == OPEN


def test_a_class_is_in_a_message_once():
    one, ten = (len(_engine.encode([Point(i, i) for i in range(n)])[1]) for n in (1, 11))
    assert ten - one < 10 * 5


def test_attributes_are_few_and_many():
    objects = []
    for seed in range(60):
        made, rnd = Loose(), random.Random(seed)
        for name in rnd.sample("abcdefgh", rnd.randrange(8)):
            setattr(made, name, name)
        objects.append(made)
    check(objects)
    wide = Loose()
    wide.__dict__.update({f"name {i}": i for i in range(1000)})
    check([wide, wide])
    odd = Loose()
    odd.__dict__[3] = odd.__dict__[MyStr("x")] = "no name"
    odd.__dict__["é"] = odd.__dict__["\udc80"] = 1
    check([odd])


def test_an_instance_may_answer_for_itself():
    one, other, third = Loose(), Loose(), Loose()
    one.__reduce_ex__ = lambda protocol: (Plain, ("by the instance",))
    other.__getstate__ = lambda: {"state": "by the instance"}
    third.__reduce__ = lambda: (Plain, ("by reduce",))
    for value in (one, other, third):
        check([value, value])


def test_a_dict_of_two_instances():
    one, other = Loose(), Loose()
    one.inside = [1]
    other.__dict__ = one.__dict__
    check([one, other])
    check([one, one.__dict__])
    check([vars(one), one])


def test_customised_later():
    class_ = Point
    check([Point(1, 2)])
    copyreg.pickle(class_, lambda x: (Plain, ("by copyreg",)))
    try:
        assert type(there_and_back(Point(1))) is Plain
        check([Point(1), Point(2)])
    finally:
        del copyreg.dispatch_table[class_]
    class_.__getstate__ = lambda self: {"x": "by getstate"}
    try:
        assert there_and_back(Point(1)).x == "by getstate"
        check([Point(1)])
    finally:
        del class_.__getstate__
    class_.__setstate__ = lambda self, state: self.__dict__.update(x="by setstate")
    try:
        assert there_and_back(Point(1)).x == "by setstate"
    finally:
        del class_.__setstate__
    class_.__reduce__ = lambda self: (Plain, ())
    try:
        check([Point(1)])
    finally:
        del class_.__reduce__
    assert there_and_back(Point(1)) == Point(1)


def test_uuids():
    one = uuid.UUID(int=7, is_safe=uuid.SafeUUID.safe)
    check([uuid.UUID(int=1 << 127), one, one, uuid.UUID(int=0)])
    assert there_and_back(one).is_safe is uuid.SafeUUID.safe
    before = uuid.UUID.__getstate__
    uuid.UUID.__getstate__ = lambda self: {"int": 5}
    try:
        assert there_and_back([one])[0].int == 5
        check([one])
    finally:
        uuid.UUID.__getstate__ = before
    check([one])


def test_reducers_of_the_package():
    reducers = reduction._Reducers()
    reducers |= {Point: lambda x: (Plain, (x.x,)), Colour: lambda x: (str, ("colour",)), Pair: lambda x: (list, ())}
    _engine.set_reducers(reducers)
    try:
        assert type(there_and_back([Point(1)])[0]) is Plain
        assert there_and_back([Colour.RED, Pair(1, 2)]) == ["colour", []]
        reducers[datetime.date] = lambda x: (str, ("date",))
        assert there_and_back(datetime.date(2026, 1, 1)) == "date"
    finally:
        _engine.set_reducers(reduction._Reducers())
    assert there_and_back([Point(1), Pair(1, 2)]) == [Point(1), Pair(1, 2)]


def test_a_class_that_was_made_anew(monkeypatch):
    module = sys.modules[__name__]
    for turn in range(5):
        fields = {"__slots__": ("value",)} if turn % 2 else {}
        again = type("Again", (), {"__module__": __name__, "turn": turn, **fields})
        monkeypatch.setattr(module, "Again", again, raising=False)
        made = again()
        made.value = turn
        back = there_and_back([made, made])
        assert type(back[0]) is again and back[0].value == turn and back[0] is back[1]
    old = made
    monkeypatch.setattr(module, "Again", type("Again", (), {"__module__": __name__}))
    assert check([old])[0] is pickle.PicklingError


def test_names_that_changed():
    made = type("Hidden", (), {"__module__": __name__})
    for value in (made, made(), [1, made()]):
        assert check(value)[0] in (pickle.PicklingError, AttributeError)
    module = types.ModuleType("module_that_goes")
    exec("class Here:\n    class Inside: pass\ndef call(): pass", module.__dict__)
    sys.modules["module_that_goes"] = module
    try:
        message = _engine.encode([module.Here(), module.Here.Inside, module.call])
        assert type(_engine.decode(*message)[0]) is module.Here
        sys.modules["module_that_goes"] = types.ModuleType("module_that_goes")
        with pytest.raises(AttributeError, match="Here"):
            _engine.decode(*message)
    finally:
        del sys.modules["module_that_goes"]
    with pytest.raises(ModuleNotFoundError, match="module_that_goes"):
        _engine.decode(*message)


class Fails:
    def __init__(self, where):
        self.where = where

    def __reduce_ex__(self, protocol):
        return {
            "raise": lambda: 1 / 0,
            "number": lambda: 5,
            "short": lambda: (Plain,),
            "long": lambda: (Plain, (), None, None, None, None, None),
            "args": lambda: (Plain, [1]),
            "call": lambda: (5, ()),
            "items": lambda: (list, (), None, [1]),
            "pairs": lambda: (dict, (), None, None, iter([1])),
            "setter": lambda: (Plain, (), 1, None, None, 5),
            "new": lambda: (copyreg.__newobj__, ()),
            "other": lambda: (copyreg.__newobj__, (Plain,)),
            "name": lambda: "no such name",
            "back": lambda: (operator.truediv, (1, 0)),
            "state": lambda: (Plain, (), 5),
            "slots": lambda: (Plain, (), (None, 5)),
        }[self.where]()


@pytest.mark.parametrize(
    "where",
    ["raise", "number", "short", "long", "args", "call", "items", "pairs", "setter", "new", "other", "name"]
    + ["back", "state", "slots"],
)
def test_errors_are_those_of_pickle(where):
    for value in (Fails(where), [1, Plain(Fails(where))], {"k": (1, Fails(where))}):
        expected = check(value)
        assert isinstance(expected, tuple) and issubclass(expected[0], Exception)


def test_what_cannot_be_pickled():
    values = [
        lambda: None,
        (x for x in []),
        sys.modules[__name__],
        open(__file__),
        memoryview(b"x"),
        Loose().__dict__.keys(),
    ]
    for value in values:
        for nest in (value, [Plain(value)], {"k": Reduced(value)}, Pair(value, 1)):
            check(nest)
    values[3].close()


def test_errors_of_state():
    Restored.__setstate__, before = lambda self, state: 1 / 0, Restored.__setstate__
    try:
        assert check([Restored(1)])[0] is ZeroDivisionError
    finally:
        Restored.__setstate__ = before


class Interrupts:
    def __reduce__(self):
        raise KeyboardInterrupt


def test_an_interrupt_is_not_tried_again():
    with pytest.raises(KeyboardInterrupt):
        _engine.encode([Interrupts()])
    assert there_and_back([Plain(1)])[0].parts == (1,)


class Changes:
    """Changes what it is in while it is written."""

    def __init__(self, change):
        self.change = change

    def __reduce__(self):
        self.change()
        return Plain, ()


def test_containers_that_change_meanwhile():
    def lists(change):
        value = [1, 2, 3]
        value[1] = Changes(lambda: change(value))
        return value

    for change in (list.clear, lambda x: x.append(1), lambda x: x.insert(0, 2), lambda x: x.pop()):
        outcome(there_and_back, lists(change))
        outcome(lambda x: _engine.encode_items(x, 0, 3), lists(change))
    for change in (dict.clear, lambda x: x.update(new=1), lambda x: x.pop("b"), lambda x: x.update(b=[])):
        value = {"a": [1], "b": [2]}
        value["c"] = Changes(functools.partial(change, value))
        value["d"] = [4]
        outcome(there_and_back, value)
    inside = Loose()
    inside.a = Changes(lambda: inside.__dict__.clear())
    inside.b = [1]
    outcome(there_and_back, [inside])
    value = set()
    value |= {Key(1), Key(2)}
    for key in list(value):
        key.more = Changes(value.clear)
    outcome(there_and_back, value)


def test_nothing_half_made_is_seen():
    """Code that runs while a message is read finds no container with empty places, not even through the collector."""
    seen = []

    def look():
        seen.append(sum(len(x) for x in gc.get_objects() if type(x) in (list, tuple, Pair)))
        return 1

    globals()["look_now"] = look
    look.__qualname__, look.__name__ = "look_now", "look_now"

    class Looks:
        def __reduce__(self):
            return look, ()

    back = there_and_back([[1, Looks(), [2]], (3, Looks(), (4,)), Pair(5, Looks()), {"k": [Looks(), "x"]}, [Looks()]])
    assert len(seen) == 5
    assert back == [[1, 1, [2]], (3, 1, (4,)), Pair(5, 1), {"k": [1, "x"]}, [1]]
    assert all(gc.is_tracked(x) for x in (back, back[0], back[0][2], back[3]["k"]))


def test_deep_objects():
    for make in (Plain, Reduced, lambda inner: Pair(inner, 1), lambda inner: {"k": [inner]}):
        for depth in (50, 150, 190, 240, 260):
            value = []
            for _ in range(depth):
                value = make(value)
            try:
                through_pickle(value)
            except RecursionError:
                continue
            back, n = there_and_back(value), 0
            while back != []:
                back = back["k"][0] if type(back) is dict else back.first if type(back) is Pair else back.parts[0]
                n += 1
            assert n == depth


def test_deep_objects_in_a_thread_with_a_small_stack():
    outcomes = []

    def there():
        for make in (Plain, Reduced, Stated, lambda inner: Pair(inner, 1), lambda inner: {Key(1): inner}):
            value = Point(1)
            for _ in range(150):
                value = make(value)
            outcomes.append(_engine.decode(*_engine.encode([value, Point(2)]))[1] == Point(2))
        for start in (b"\xb6\x00", b"\xb2", b"\xb6\x01", b"\xaa\x01", b"\xab\x01", b"\x8d\x01"):
            message = bytes([OPEN]) + start * 2000
            with pytest.raises(ValueError, match="corrupt message: nested"):
                _engine.decode(len(message), message)
            outcomes.append(True)

    old = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=there)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(old)
    assert outcomes == [True] * 11


def test_references_are_given_back():
    marker = Plain("marker")
    values = [[marker, Plain(marker)], Reduced(marker), Pair(marker, [marker]), Stated(marker), {Key(1): marker}]
    values += [collections.deque([marker] * 3), [marker, Frozen(marker), Slotted(marker)]]
    check(values)
    before = sys.getrefcount(marker)
    for _ in range(30):
        for value in values:
            _engine.encode(value)
            there_and_back([value, 5])
        with pytest.raises(ZeroDivisionError):
            _engine.encode([marker, Fails("raise"), Reduced(marker)])
    _engine.encode(None)
    assert sys.getrefcount(marker) == before
    there = weakref.ref(there_and_back(Plain(Loose())))
    gc.collect()
    assert there() is None


def test_numbers_of_a_class_are_not_kept():
    """A class that a program drops is gone, though its instances were sent."""
    made = type("Gone", (), {"__module__": __name__})
    globals()["Gone"] = made
    there_and_back([made(), made()])
    del globals()["Gone"]
    gone = weakref.ref(made)
    del made
    _engine.encode(None)
    gc.collect()
    assert gone() is None


# --- what comes in is not believed ---


def damaged(message, seed):
    rnd = random.Random(seed)
    bytes_ = bytearray(message)
    for _ in range(rnd.randrange(1, 4)):
        what = rnd.randrange(4)
        if what == 0:
            bytes_[rnd.randrange(1, len(bytes_))] = rnd.randrange(256)
        elif what == 1:
            del bytes_[rnd.randrange(1, len(bytes_)) :]
        elif what == 2:
            bytes_[rnd.randrange(1, len(bytes_))] ^= 1 << rnd.randrange(8)
        else:
            bytes_.insert(
                rnd.randrange(1, len(bytes_) + 1), rnd.choice([0xB2, 0xB3, 0xB5, 0xB7, 0xB8, 0x8D, 0x89, 0xF3])
            )
        if len(bytes_) < 2:
            break
    return bytes(bytes_)


@pytest.mark.parametrize("seed", range(60))
def test_damaged_messages_are_errors(seed):
    """Of classes that do nothing when they are made; a damaged name or call is somebody's code."""
    values = [Plain(1, "x"), [Slotted(2, [3])], Pair(4, 5), Point(6), datetime.datetime(2026, 1, 2), Loose(), Plain(7)]
    values += [datetime.timedelta(1), (Pair(8, 9), Point(1)), HalfEmpty()]
    if numpy is not None:
        values += [numpy.arange(5.0), numpy.float64(2.5)]
    random.Random(seed).shuffle(values)
    values.append(values[0])
    head, message = _engine.encode(values)
    assert head == len(message) and message[0] == OPEN
    for turn in range(60):
        bytes_ = damaged(message, seed * 1000 + turn)
        for read in (_engine.decode, lambda *m: list(_engine.decode_items(*m)), _engine.decode_call):
            # Not only corrupt messages: a class that was named wrongly is asked for its instance, too.
            try:
                read(len(bytes_), bytes_)
            except Exception as error:
                assert str(error)


def test_promises_are_held_against_the_message():
    for start in (
        b"\xb3",
        b"\xb5",
        b"\x8d\xff\xff\x7f",
        b"\xb8\x0d\x00\x01\xff\xff\xff\x7f",
        b"\xb9\x0d\x08",
        b"\x8c\x00\xff\x7f",
    ):
        for message in (bytes([OPEN]) + start + bytes(6), bytes([OPEN]) + start + b"\xff" * 8 + b"\x7f"):
            with pytest.raises(ValueError, match="corrupt message"):
                _engine.decode(len(message), message)
