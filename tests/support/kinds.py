"""Objects of every kind, heaps of them that hold each other, and what makes two of those the same."""

import abc
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import operator
import pathlib
import random
import types
import uuid

try:
    import numpy
except ImportError:
    numpy = None


# --- classes of every sort ---


class Plain:
    def __init__(self, *parts):
        self.parts = parts


class Loose:
    """Attributes as they come, any number, in any order."""


@dataclasses.dataclass
class Point:
    x: object
    y: object = None


@dataclasses.dataclass(slots=True)
class Slotted:
    x: object
    y: object = None


@dataclasses.dataclass(slots=True, frozen=True)
class Frozen:
    x: object
    y: object = None


@dataclasses.dataclass(frozen=True)
class FrozenDict:
    x: object


class SlotsAndDict(Slotted):
    def __init__(self, x):
        super().__init__(x)
        self.more = x


class HalfEmpty:
    __slots__ = ("__weakref__", "first", "second")


class Shadowed:
    """A property hides what the dict has under its name."""

    def __init__(self, value):
        self.__dict__["value"] = value

    @property
    def value(self):
        return "the property"

    @value.setter
    def value(self, value):
        raise AttributeError("never called")


class Guarded:
    """Sets no attribute, but pickle does not ask."""

    def __init__(self, value):
        self.__dict__["value"] = value

    def __setattr__(self, name, value):
        raise AttributeError(name)


class Asks:
    """Has an answer for every name."""

    def __init__(self, value):
        self.value = value

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return "made up"


class Reduced:
    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return type(self), self.parts


class ReducedEx:
    def __init__(self, *parts):
        self.parts = parts

    def __reduce_ex__(self, protocol):
        return ReducedEx.make, (protocol, self.parts)

    @classmethod
    def make(cls, protocol, parts):
        return cls(*parts, protocol)


class Stated:
    def __init__(self, value):
        self.value = value

    def __getstate__(self):
        return ["a list", self.value]

    def __setstate__(self, state):
        self.value = state


class Restored:
    """Has its own way in, and the common way out."""

    def __init__(self, value):
        self.value = value

    def __setstate__(self, state):
        self.__dict__.update(state, restored=True)


class NoState:
    def __init__(self, value):
        self.value = value

    def __getstate__(self):
        return None


class WithArguments:
    def __new__(cls, first, *, second):
        self = super().__new__(cls)
        self.first, self.second = first, second
        return self

    def __getnewargs_ex__(self):
        return (self.first,), {"second": self.second}


class WithPlainArguments(int):
    def __new__(cls, value, tail):
        self = super().__new__(cls, value)
        self.tail = tail
        return self

    def __getnewargs__(self):
        return int(self), self.tail


class Setter:
    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        return Setter, (0,), self.value, None, None, set_value


def set_value(setter, value):
    setter.value = [value]


class Meta(type):
    def __call__(cls, *args):
        made = super().__call__(*args)
        made.by_meta = True
        return made


class Made(metaclass=Meta):
    def __init__(self, value):
        self.value = value


class Abstract(abc.ABC):
    @abc.abstractmethod
    def do(self): ...


class Concrete(Abstract):
    def __init__(self, value):
        self.value = value

    def do(self):
        return self.value


class MyList(list):
    pass


class MyDict(dict):
    pass


class MySet(set):
    pass


class MyStr(str):
    pass


class MyTuple(tuple):
    pass


class Named(collections.namedtuple("Base", "first second")):
    pass


Pair = collections.namedtuple("Pair", "first second", defaults=[None])


class Renewed(collections.namedtuple("Renewed", "first second")):
    """A namedtuple by base, whose `__new__` is its own."""

    __slots__ = ()

    def __new__(cls, first, second):
        return super().__new__(cls, first, (second, "renewed"))


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Flags(enum.Flag):
    ONE = 1
    TWO = 2


class Number(enum.IntEnum):
    ONE = 1


class Trouble(Exception):
    def __init__(self, *args):
        super().__init__(*args)
        self.more = "attribute"


class Key:
    """Equal by value, which it has only when its state was set."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return type(other) is Key and self.value == other.value

    def __hash__(self):
        return hash(self.value)


class Outer:
    class Inner:
        def __init__(self, value):
            self.value = value


class Registered:
    def __init__(self, value):
        self.value = value


def from_registered(value):
    made = Registered(value)
    made.registered = True
    return made


class Reaches:
    """Hands out what another object holds, so that it is met a second time."""

    def __init__(self, owner):
        self.owner = owner

    def __reduce__(self):
        return Plain, tuple(self.owner.parts[:1])


class Fresh:
    """Says something new each time, which is gone when it was written."""

    def __reduce__(self):
        return Plain, ([1], {"k": Plain(2)}, "text" * 2)


def function(argument):
    return argument


# --- comparison ---

ATOMS = (type(None), bool, int, type, types.FunctionType, types.ModuleType)


def canonical(value):
    """Type, value and identity of everything in a value, as a comparable list."""
    seen, out, held = {}, [], []

    def visit(x):
        kind = type(x)
        if kind is float:
            out.append(x.hex() if x == x else "nan")
        elif kind in ATOMS or isinstance(x, (type, enum.Enum)):
            out.append((kind, x))
        elif (kind is not tuple or x) and id(x) in seen:
            out.append(("again", seen[id(x)]))
        else:
            seen[id(x)] = len(seen)
            held.append(x)
            out.append(kind)
            look_into(x, kind)

    def look_into(x, kind):
        if kind in (str, bytes, bytearray, complex, MyStr, range):
            out.append(repr(x))
        elif numpy is not None and isinstance(x, (numpy.ndarray, numpy.generic)):
            out.append((x.dtype, x.shape, numpy.asarray(x).flags.f_contiguous))
            for item in x.tolist() if x.shape else [x.tolist()]:
                visit(item)
        elif kind in (set, frozenset, MySet):
            for item in sorted(x, key=lambda item: (type(item).__name__, repr(getattr(item, "value", item)))):
                visit(item)
        elif kind in (list, tuple):
            for item in x:
                visit(item)
        elif kind is dict:
            for key, item in x.items():
                visit(key)
                visit(item)
        elif kind in (pathlib.PosixPath, pathlib.PureWindowsPath):
            # Which strings its parts are, the class decides, also when it is given others that are equal.
            out.append(x.parts)
        elif kind in (types.BuiltinFunctionType, types.MethodType):
            out.append(x.__name__)
            visit(x.__self__)
        else:
            out.append(isinstance(x, str) and str(x))
            parts = object_parts(x)
            held.append(parts)
            for part in parts:
                visit(part)

    visit(value)
    return out


def object_parts(x):
    """What an object consists of: what is in it, by default reduction, and its attributes."""
    parts = []
    if isinstance(x, tuple):
        parts += list(x)
    for name in sorted(
        {slot for kind in type(x).__mro__ for slot in getattr(kind, "__slots__", ()) if slot[:2] != "__"}
    ):
        try:
            parts.append(getattr(x, name))
        except AttributeError:
            parts.append("no such")
    if type(x).__module__ == __name__:
        if isinstance(x, (list, collections.deque)):
            parts += list(x)
        elif isinstance(x, dict):
            parts += [part for pair in x.items() for part in pair]
        elif isinstance(x, BaseException):
            parts += x.args
        # Names of attributes are the interpreter's, and not anybody's in particular.
        for name, value in getattr(x, "__dict__", {}).items():
            parts += [hash(name), value]
    elif not isinstance(x, tuple):
        said = x.__reduce_ex__(4)
        for part in said if isinstance(said, tuple) else [said]:
            parts.append(list(part) if hasattr(part, "__next__") else part)
    return parts


# --- values ---

CLASSES = [Plain, Point, Slotted, Frozen, FrozenDict, SlotsAndDict, Shadowed, Guarded, Asks, Reduced, ReducedEx, Stated]
CLASSES += [Restored, NoState, Setter, Made, Concrete, Outer.Inner, Registered, Trouble]


def leaf(rnd):
    number = rnd.randrange(-5, 1000)
    choice = rnd.randrange(30 if numpy is None else 35)
    return [
        lambda: number,
        lambda: number / 7,
        lambda: f"text {number}",
        lambda: rnd.choice([None, True, False, "", (), "é", "x", "\udc80", 1 << 80, 3 + 4j]),
        lambda: bytes([1, 2, rnd.randrange(255)]),
        lambda: datetime.datetime(2026, 1, 2, 3, 4, 5, 678, fold=rnd.randrange(2)) + datetime.timedelta(days=number),
        lambda: datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        lambda: datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=2), "name")),
        lambda: datetime.date(2026, 1, 1 + number % 28),
        lambda: datetime.time(1, 2, 3, number + 5),
        lambda: datetime.timedelta(number, number, number + 5),
        lambda: decimal.Decimal(number) / 7,
        lambda: fractions.Fraction(number, 7),
        lambda: uuid.UUID(int=number + 5),
        lambda: pathlib.Path("/data") / str(number),
        lambda: pathlib.PureWindowsPath("c:/x"),
        lambda: range(number),
        lambda: rnd.choice([Colour.RED, Colour.BLUE, Flags.ONE, Flags.ONE | Flags.TWO, Number.ONE]),
        lambda: rnd.choice([int, Plain, Outer.Inner, Colour, Meta, Made, type(None), type(...), OSError, Abstract]),
        lambda: rnd.choice([function, len, operator.add, ReducedEx.make, "text".upper, [].append, dict.fromkeys]),
        lambda: rnd.choice([..., NotImplemented, datetime.UTC, uuid.SafeUUID.unknown]),
        lambda: MyStr(f"mine {number}"),
        lambda: WithPlainArguments(number, "tail"),
        lambda: collections.Counter("abca"),
        lambda: Fresh(),
        lambda: HalfEmpty(),
        lambda: Loose(),
        lambda: functools.partial(function, number),
        lambda: bytearray(b"bytes"),
        lambda: ValueError("what", number),
        lambda: numpy.float64(number),
        lambda: rnd.choice([numpy.int32(number), numpy.bool_(True), numpy.datetime64("2026-01-01"), numpy.str_("x")]),
        lambda: numpy.arange(number % 50),
        lambda: numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3)),
        lambda: numpy.array([1, "x", None, number], dtype=object),
    ][choice]()


def container(rnd, heap):
    def some(most=4):
        return [rnd.choice(heap) for _ in range(rnd.randrange(most))]

    def one():
        return rnd.choice(heap)

    def hashables():
        return [x for x in some() if type(x) in (int, str, Key, tuple, Colour, FrozenDict) and is_hashable(x)]

    def filled(made):
        for name in "abcd"[: rnd.randrange(4)]:
            setattr(made, name, one())
        return made

    def half():
        made = HalfEmpty()
        setattr(made, rnd.choice(["first", "second"]), one())
        return made

    return rnd.choice(
        [
            lambda: rnd.choice(CLASSES)(one()),
            lambda: rnd.choice(CLASSES)(one()),
            lambda: rnd.choice([Pair, Named, Renewed])(one(), one()),
            lambda: some(6),
            lambda: tuple(some()),
            lambda: {f"key {i}": x for i, x in enumerate(some())},
            lambda: dict.fromkeys(hashables(), one()),
            lambda: set(hashables()),
            lambda: frozenset(hashables()),
            lambda: Key(rnd.randrange(5)),
            lambda: filled(Loose()),
            lambda: filled(MyList(some())),
            lambda: filled(MyDict(a=one())),
            lambda: MySet(hashables()),
            lambda: MyTuple(some()),
            lambda: collections.deque(some(), 9),
            lambda: collections.OrderedDict(a=one(), b=one()),
            lambda: collections.defaultdict(list, a=one()),
            lambda: collections.ChainMap({"a": one()}),
            lambda: types.SimpleNamespace(a=one()),
            lambda: WithArguments(one(), second=one()),
            lambda: Reaches(Plain(one(), [1])),
            lambda: functools.partial(function, one()),
            lambda: slice(one(), None),
            half,
        ]
    )()


def is_hashable(x):
    try:
        hash(x)
    except TypeError:
        return False
    return True


def heap_of(seed, size):
    """A heap of objects that hold each other at random, cycles included."""
    rnd = random.Random(seed)
    heap = [leaf(rnd) for _ in range(8)]
    for _ in range(size):
        heap.append(leaf(rnd) if rnd.random() < 0.2 else container(rnd, heap))
        knot = rnd.choice(heap)
        if rnd.random() < 0.3:
            if type(knot) in (list, collections.deque, MyList):
                knot.append(rnd.choice(heap))
            elif type(knot) in (dict, collections.OrderedDict, MyDict):
                knot["knot"] = rnd.choice(heap)
            elif type(knot) in (Plain, Loose, Point, Slotted, Made, Trouble):
                knot.x = rnd.choice(heap) if type(knot) is not Loose else knot
    return heap
