"""What pickle cannot send by name: lambdas, local functions and classes, their instances, closures and variables."""

import abc
import argparse
import ast
import collections
import concurrent.futures
import dataclasses
import dis
import enum
import functools
import operator
import pickle
import socket
import subprocess
import sys
import threading
import types
import typing

import pytest

from support import tasks

pytestmark = pytest.mark.only("manycore", reason="the standard package sends by name alone")

LEVEL = 10


@pytest.fixture
def pool(mp, ctx):
    """A pool of two workers, in each start method."""
    with ctx.Pool(2) as pool:
        yield pool
    pool.join()


def through(pool, value):
    """`value` as it comes back from a worker."""
    return pool.apply(tasks.identity, (value,))


# --- functions ---


@pytest.mark.parametrize("call", ["map", "imap", "imap_unordered", "map_async", "starmap", "starmap_async", "apply"])
def test_a_lambda_in_every_method(pool, call):
    numbers = list(range(50))
    if call == "apply":
        assert [pool.apply(lambda x, y=1: x + y, (n,)) for n in numbers] == [n + 1 for n in numbers]
    elif call.startswith("star"):
        result = getattr(pool, call)(lambda x, y: x * y, [(n, 2) for n in numbers])
        assert (result.get() if call.endswith("async") else result) == [2 * n for n in numbers]
    else:
        result = getattr(pool, call)(lambda x: x + 1, numbers)
        assert sorted(result.get() if call.endswith("async") else result) == [n + 1 for n in numbers]


def test_closures_defaults_and_attributes(pool):
    offset = 5

    def local(x, /, y=2, *, z=3):
        """Its words."""
        return x + y + z + offset

    local.mark = "mark"
    assert pool.map(local, [1]) == [11]
    back = through(pool, local)
    assert back(1, z=0) == 8
    assert (back.__name__, back.__doc__, back.mark, back.__module__) == ("local", "Its words.", "mark", __name__)
    assert back.__qualname__ == local.__qualname__
    assert back.__kwdefaults__ == {"z": 3}


def test_functions_that_refer_to_each_other(pool):
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    assert pool.map(even, range(4)) == [True, False, True, False]


def test_a_variable_that_two_functions_share(pool):
    count = 0

    def up():
        nonlocal count
        count += 1

    def get():
        return count

    up, get = through(pool, (up, get))
    up()
    up()
    assert get() == 2
    assert count == 0


def test_a_variable_without_a_value(pool):
    if LEVEL < 0:
        missing = 1
    with pytest.raises(NameError):
        pool.apply(lambda: missing)


def test_global_variables_travel(pool):
    """As they are when the function is sent."""
    global LEVEL
    before = LEVEL
    try:
        LEVEL = 77
        assert pool.apply(lambda: LEVEL) == 77
        LEVEL = 78
        assert pool.apply(lambda: LEVEL) == 78
    finally:
        LEVEL = before


def test_modules_below_a_package(pool):
    assert pool.apply(lambda: concurrent.futures.ThreadPoolExecutor.__name__) == "ThreadPoolExecutor"


def test_generators_coroutines_and_partials(pool):
    def count(n):
        yield from range(n)

    async def later(n):
        return n

    def run(function, n):
        try:
            function(n).send(None)
        except StopIteration as stop:
            return stop.value

    assert pool.apply(lambda: list(count(3))) == [0, 1, 2]
    assert pool.apply(run, (later, 4)) == 4
    assert pool.map(functools.partial(lambda x, y: x - y, 10), [1, 2]) == [9, 8]


def test_code_that_defines_classes(pool):
    def make():
        class Inner:
            level = LEVEL

            def get(self):
                return self.level

        return Inner().get()

    assert pool.apply(make) == LEVEL


def test_annotations(pool):
    def annotated(x: "Missing", y: int = 1) -> list[int]:  # noqa: F821
        return [x, y]

    back = through(pool, annotated)
    assert back.__annotations__["y"] is int
    assert pool.apply(annotated, (1,)) == [1, 1]


def test_a_function_that_comes_back_leaves_the_program_alone(pool):
    def bump():
        global LEVEL
        LEVEL = -1

    back = through(pool, bump)
    back()
    assert LEVEL == 10


def test_what_has_a_name_goes_by_name(pool):
    assert through(pool, (tasks.square, len, operator.add)) == (tasks.square, len, operator.add)
    assert through(pool, [lambda: 0, tasks.square])[1] is tasks.square


def test_executed_code(pool):
    scope = {"__name__": "nowhere"}
    exec("base = 3\ndef triple(x): return base * x\nclass Box:\n    def __init__(self, x): self.x = x", scope)
    assert pool.map(scope["triple"], range(3)) == [0, 3, 6]
    box = scope["Box"](4)
    back = through(pool, box)
    assert type(back) is scope["Box"] and back.x == 4


def test_a_function_that_another_system_has_brought_in(pool):
    """It calls itself what another function is called, as one that a Dask worker has unpickled."""
    scope = {"__name__": tasks.__name__, "x": 5, "__builtins__": __builtins__}
    twin = types.FunctionType(compile("x", "elsewhere", "eval"), scope, "square")
    twin.__qualname__ = "square"
    assert pool.apply(twin) == 5
    assert pool.map(tasks.square, [3]) == [9]


# --- classes ---


def test_instances_of_local_classes(pool):
    @dataclasses.dataclass
    class Point:
        x: int
        y: int = 0

        def sum(self):
            return self.x + self.y

        @property
        def double(self):
            return 2 * self.sum()

        @classmethod
        def make(cls):
            return cls(1, 2)

        @staticmethod
        def three():
            return 3

    point = Point(3, 4)
    back = through(pool, point)
    assert type(back) is Point and back == point
    assert pool.apply(lambda p: (p.sum(), p.double, type(p).make().x, p.three()), (point,)) == (7, 14, 1, 3)
    # As many as are sent, in whatever order: one class.
    assert pool.map(lambda p: type(p).__name__, [point] * 30) == ["Point"] * 30
    assert all(type(p) is Point for p in pool.map(lambda n: Point(n), range(30)))
    assert pool.apply(lambda p: isinstance(p, Point), (point,))
    assert pool.apply(lambda: Point) is Point


def test_slots_stay_slots(pool):
    class Slotted:
        __slots__ = ("_Slotted__hidden", "x")

    thing = Slotted()
    thing.x = 1
    assert pool.apply(lambda t: hasattr(t, "__dict__"), (thing,)) is False
    back = through(pool, thing)
    assert (type(back), back.x) == (Slotted, 1)


def test_inheritance(pool):
    class Base(abc.ABC):
        @abc.abstractmethod
        def say(self):
            return "base"

    class Child(Base):
        def say(self):
            return "child of " + super().say()

    assert pool.apply(lambda: Child().say()) == "child of base"
    assert isinstance(through(pool, Child()), Base)


def test_enumerations_and_named_tuples(pool):
    class Colour(enum.Enum):
        RED = 1
        BLUE = 2

    Pair = collections.namedtuple("Pair", "a b")
    back = through(pool, [Colour.RED, Pair(1, Colour.BLUE)])
    assert back == [Colour.RED, Pair(1, Colour.BLUE)]
    assert back[0] is Colour.RED and type(back[1]) is Pair


def test_a_class_that_is_defined_anew_is_the_new_one(pool):
    def make(number):
        class Version:
            def tell(self):
                return number

        return Version

    old, new = make(1), make(2)
    tell = lambda thing: thing.tell()
    for _ in range(3):
        assert pool.map(tell, [old(), new(), old()]) == [1, 2, 1]


def test_a_class_that_comes_back_keeps_its_methods(pool):
    class Thing:
        def get(self):
            return LEVEL

    before = Thing.get
    back = through(pool, Thing())
    assert Thing.get is before
    assert back.get() == LEVEL


def test_exceptions_of_a_local_class(pool):
    class Wrong(ValueError):
        pass

    def fail(x):
        raise Wrong(x)

    with pytest.raises(Wrong) as caught:
        pool.map(fail, [3])
    assert caught.value.args == (3,)
    assert "in fail" in str(caught.value.__cause__)


# --- processes, queues, pipes, managers ---


def test_processes_queues_and_pipes(mp, ctx):
    class Letter:
        def __init__(self, text):
            self.text = text

    queue, simple, joinable = ctx.Queue(), ctx.SimpleQueue(), ctx.JoinableQueue()
    ours, theirs = ctx.Pipe()

    def work(*ends):
        letter = theirs.recv()
        theirs.send(lambda: letter.text * 2)
        for end in ends:
            end.put(letter)
            end.put(lambda x: x + 1)

    process = ctx.Process(target=work, args=(queue, simple, joinable))
    process.start()
    ours.send(Letter("text"))
    assert ours.recv()() == "texttext"
    for end in (queue, simple, joinable):
        letter = end.get()
        assert (type(letter), letter.text) == (Letter, "text")
        assert end.get()(1) == 2
    process.join()
    assert process.exitcode == 0


def test_initializers(mp, ctx):
    """What the initializer has set is there for functions that are sent later, also where the program has a value."""

    def set_level(value):
        global LEVEL
        LEVEL = value

    with ctx.Pool(1, set_level, (42,)) as pool:
        assert pool.apply(lambda: LEVEL) == 42
        assert pool.map(lambda x: LEVEL + x, [1, 2]) == [43, 44]
    pool.join()
    assert LEVEL == 10
    with ctx.Pool(1, named_initializer, (43,)) as pool:
        assert pool.apply(lambda: LEVEL) == 43
        assert pool.apply(named_getter) == 43
    pool.join()


def named_initializer(value):
    global LEVEL
    LEVEL = value


def named_getter():
    return LEVEL


@pytest.mark.methods("forkserver")
def test_managers(mp, ctx):
    with ctx.Manager() as manager:
        shared = manager.dict()
        shared["function"] = lambda x: x * 3
        assert shared["function"](2) == 6
        with ctx.Pool(1) as pool:
            pool.apply(lambda: shared.update(other=lambda: 5))
        pool.join()
        assert shared["other"]() == 5


def test_executors(mp, ctx):
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, mp_context=ctx) as executor:
        assert executor.submit(tasks.square, 3).result() == 9


# --- what cannot travel ---


class Model:
    pass


@pytest.mark.parametrize("make", [threading.Lock, lambda: (n for n in ()), lambda: open("/dev/null")])
def test_the_way_to_what_cannot_be_sent(pool, make):
    model = Model()
    model.inner = Model()
    model.inner.cache = {"key": [1, make()]}
    with pytest.raises(TypeError) as caught:
        pool.apply(tasks.identity, (1, model))
    message = str(caught.value)
    assert "argument 1, attribute 'inner.cache['key'][1]'" in message
    assert "cannot pickle" in message and "initializer" in message or "list(...)" in message
    with pytest.raises(TypeError, match=r"argument 'model', attribute 'inner\.cache"):
        pool.apply(tasks.identity, (), {"model": model})
    items = [1] * 40
    items[33] = make()
    for verb in (pool.map, pool.imap, pool.imap_unordered):
        with pytest.raises(TypeError, match=r"item 33\b"):
            list(verb(tasks.identity, items, chunksize=7))
    with pytest.raises(
        (TypeError, AttributeError, pickle.PicklingError),
        match="variable 'model' of the function around it, attribute 'inner",
    ):
        pool.map(lambda x: model, [1])
    assert pool.apply(tasks.square, (2,)) == 4


@pytest.mark.parametrize("chunksize", [1, 4])
def test_results_that_cannot_be_sent_have_no_number(mp, pool, chunksize):
    """The number of a result in its chunk would mean nothing to the program."""
    for verb in (pool.map, pool.imap):
        with pytest.raises(mp.pool.MaybeEncodingError) as caught:
            list(verb(lambda x: [x, threading.Lock()], range(8), chunksize=chunksize))
        # Several results are tried together, and one by one then.
        assert "item 1: cannot pickle" in str(caught.value)
        assert "item 0" not in str(caught.value)


@pytest.mark.parametrize("make", ["Queue", "SimpleQueue", "Lock", "Condition"])
def test_what_is_only_inherited_says_so_wherever_it_stands(mp, pool, make):
    shared = getattr(mp, make)()
    model = Model()
    model.inner = [shared]
    for function in (lambda: shared, lambda: model):
        with pytest.raises(RuntimeError, match=rf"^cannot send variable .*: {make} objects should only be shared"):
            pool.apply(function)


def test_what_cannot_be_sent_to_a_process(mp):
    process = mp.get_context("spawn").Process(target=print, args=(1, [threading.Lock()]))
    with pytest.raises(TypeError, match=r"argument 1, item 0: cannot pickle"):
        process.start()


def test_what_a_program_raises_itself_stays_as_it_is(pool):
    class Stubborn:
        def __reduce__(self):
            raise TypeError("my own words")

    with pytest.raises(TypeError, match="^my own words"):
        pool.apply(tasks.identity, (Stubborn(),))


def test_sockets_travel_in_closures(pool):
    from manycore import resource_sharer

    one, other = socket.socketpair()
    with one, other:
        pool.apply(lambda: other.send(b"x"))
        assert one.recv(1) == b"x"
    # The service that gives descriptors to those who ask.
    resource_sharer.stop()


# --- what it costs ---


def test_cloudpickle_is_imported_for_classes_only(mp, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(f"""
import sys
import manycore as mp

names = ("cloudpickle", "dis", "manycore._by_value", "manycore._from_value")

def square(x):
    return x * x

def loaded():
    return [name for name in names if name in sys.modules]

if __name__ == "__main__":
    for method in {("fork", "forkserver", "spawn")}:
        with mp.get_context(method).Pool(1) as pool:
            assert pool.map(square, range(3)) == [0, 1, 4]
            assert pool.apply(loaded) == [], pool.apply(loaded)
    assert loaded() == []
    with mp.get_context("spawn").Pool(1) as pool:
        assert pool.map(lambda x: x + 1, range(3)) == [1, 2, 3]
        assert pool.apply(loaded) == ["manycore._from_value"]
    assert loaded() == ["manycore._by_value", "manycore._from_value"]
""")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_names_of_a_code_are_those_that_dis_finds(mp):
    """In the code of a whole library, before it has run and afterwards, when the interpreter has specialized it."""
    from manycore import _code_names

    operations = {"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
    numbers = (*_code_names._LOADS, _code_names._EXTENDED_ARG)
    # The table of operations by bytecode number agrees with the interpreter's own `opcode`.
    assert _code_names._numbers() == numbers

    def found(code):
        names = [one.argval for one in dis.get_instructions(code) if one.opname in operations]
        for const in code.co_consts:
            if isinstance(const, types.CodeType):
                names += found(const)
        return names

    codes = [code for module in (argparse, ast, typing, pickle) for code in codes_of(module)]
    assert len(codes) > 300
    # More than 256 names, so that the number of one does not fit into an instruction.
    codes.append(compile("\n".join(f"name{i}.attribute{i}" for i in range(400)), "many", "exec"))
    for code in codes:
        assert set(_code_names.names_of(code).variables) == set(found(code)), code


def codes_of(module):
    values = [*vars(module).values()]
    values += [value for cls in values if isinstance(cls, type) for value in vars(cls).values()]
    return [value.__code__ for value in values if isinstance(value, types.FunctionType)]


def test_pickles_of_ours_are_ordinary_ones(mp):
    from manycore.reduction import ForkingPickler

    assert pickle.loads(ForkingPickler.dumps(lambda x: x + 1))(1) == 2
    assert bytes(ForkingPickler.dumps([tasks.square, 1])) == pickle.dumps([tasks.square, 1])
