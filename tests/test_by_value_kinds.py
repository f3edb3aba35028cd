"""What pickle writes as a name, or refuses, where its receiver has no such name; and what initializers change in place."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.only("manycore", reason="there the workers die at the import of the main module")

METHODS = ["fork", "forkserver", "spawn"]
HEAD = """
import abc, dataclasses, enum, functools, typing
import manycore as mp
"""
# Each: what is defined, and an expression that is true if all is well; `pool` is a pool that was there before.
KINDS = {
    "cache": """
        @functools.lru_cache(maxsize=3, typed=True)
        def cached(x):
            return 1 if x < 2 else x * cached(x - 1)
        def by_way_of(x):
            return cached(x) + 1
        def parameters(function):
            return function.cache_parameters(), function.__name__
        fine = (pool.map(cached, [3, 4]) == [6, 24] and pool.apply(by_way_of, (3,)) == 7
                and pool.apply(parameters, (cached,)) == ({"maxsize": 3, "typed": True}, "cached"))
    """,
    "cached method": """
        class Thing:
            @functools.cache
            def twice(self, x):
                return 2 * x
        fine = pool.apply(lambda thing: thing.twice(4), (Thing(),)) == 8
    """,
    "cached property": """
        class Thing:
            @functools.cached_property
            def value(self):
                "What it is worth."
                return [7]
        def look(thing):
            return thing.value is thing.value and thing.value == [7] and type(thing).value.__doc__
        fine = pool.apply(look, (Thing(),)) == "What it is worth."
    """,
    "partial method": """
        class Thing:
            def add(self, x, y):
                return x + y
            inc = functools.partialmethod(add, 1)
            by_ten = functools.partialmethod(add, y=10)
        fine = pool.apply(lambda thing: (thing.inc(4), thing.by_ten(4)), (Thing(),)) == (5, 14)
    """,
    "single dispatch": """
        @functools.singledispatch
        def name(x):
            "Say what it is."
            return "something"
        @name.register
        def _(x: int):
            return "number"
        @name.register(list)
        def of_list(x):
            return [name(one) for one in x]
        class Namer:
            @functools.singledispatchmethod
            def name(self, x):
                return "something"
            @name.register
            def _(self, x: int):
                return "number"
        fine = (pool.map(name, [1, "a", [1, "a"]]) == ["number", "something", ["number", "something"]]
                and pool.apply(lambda: (name.__name__, name.__doc__)) == ("name", "Say what it is.")
                and pool.apply(lambda namer: (namer.name(1), namer.name("a")), (Namer(),)) == ("number", "something"))
    """,
    "named tuple": """
        class Point(typing.NamedTuple):
            x: int
            y: int = 5
            def sum(self):
                return self.x + self.y
        point = pool.apply(lambda x: Point(x), (1,))
        fine = (type(point) is Point and point == (1, 5)
                and pool.apply(lambda p: (p.sum(), p._replace(y=1).y, hasattr(p, "__dict__")), (point,)) == (6, 1, False))
    """,
    "members with attributes": """
        class Planet(enum.Enum):
            EARTH = (1, 2)
            MARS = (3, 4)
            WORLD = (1, 2)
            def __init__(self, mass, radius):
                self.mass = mass
                self.density = mass / radius
        class Colour(str, enum.Enum):
            RED = "r"
            def __new__(cls, text):
                made = str.__new__(cls, text)
                made._value_ = text
                made.tag = text * 2
                return made
        fine = (pool.apply(lambda p: (p.mass, p.density, p is Planet.WORLD), (Planet.EARTH,)) == (1, 0.5, True)
                and pool.apply(lambda: Planet.MARS) is Planet.MARS
                and pool.apply(lambda c: (c.tag, c.value, c == "r"), (Colour.RED,)) == ("rr", "r", True))
    """,
    "types of typing": """
        UserId = typing.NewType("UserId", int)
        P = typing.ParamSpec("P")
        def make(x):
            return UserId(x)
        fine = (pool.apply(make, (3,)) == 3 and pool.apply(lambda: UserId.__name__) == "UserId"
                and pool.apply(lambda: P.__name__) == "P")
    """,
    "annotations": """
        class Plain:
            x: int
            y: "str" = "a"
        class Mapping(typing.TypedDict):
            key: float
        def look(cls):
            return cls.__annotations__, typing.get_type_hints(cls)
        fine = (pool.apply(look, (Plain,)) == ({"x": int, "y": "str"}, {"x": int, "y": str})
                and pool.apply(typing.get_type_hints, (Mapping,)) == {"key": float})
    """,
    "annotated methods": """
        class Thing:
            def add(self, x: int, other: "Thing | None" = None) -> float:
                return x + 1.5
            @staticmethod
            def twice(x: list[int]) -> int:
                return 2 * x[0]
        def look(thing):
            return thing.add(1), thing.twice([4]), type(thing).twice.__annotations__, type(thing).add.__annotations__["x"]
        fine = pool.apply(look, (Thing(),)) == (2.5, 8, {"x": list[int], "return": int}, int)
    """,
    "a class that names itself": """
        @dataclasses.dataclass
        class Node:
            value: int
            following: "Node | None" = None
        blob = [pool]
        fine = pool.map(lambda node: node.value, [Node(1), Node(2, Node(3))]) == [1, 2]
    """,
}
if sys.version_info >= (3, 12):
    KINDS["alias"] = """
        type Pair[T] = tuple[T, T]
        fine = pool.apply(lambda: (Pair.__name__, Pair[int].__args__)) == ("Pair", (int,))
    """
if sys.version_info >= (3, 14):
    KINDS["a class that names itself without quotes"] = KINDS["a class that names itself"].replace('"', "")
    KINDS["annotations of what is not there"] = """
        class Odd:
            x: Nowhere
            y: int
        fine = pool.apply(lambda cls: sorted(cls.__dict__.get("__annotations__") or cls.__annotations__), (Odd,)) == ["x", "y"]
    """


def run(tmp_path, program, *, stdin=False, path="program.py"):
    (tmp_path / path).write_text(program)
    command = [sys.executable, "-"] if stdin else [sys.executable, path]
    return subprocess.run(
        command, cwd=tmp_path, input=program if stdin else "", capture_output=True, text=True, timeout=50, check=False
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["below a guard", "standard input", "in a function"])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(mp, tmp_path, kind, where, method):
    body = (
        f"pool = mp.get_context({method!r}).Pool(1)\npool.map(abs, [1])\n{textwrap.dedent(KINDS[kind])}\nprint(fine)\n"
    )
    body += "pool.close()\npool.join()\n"
    if where == "standard input":
        done = run(tmp_path, HEAD + body, stdin=True)
    else:
        if where == "in a function" and "type Pair" in body:
            pytest.skip("a statement of the top level")
        start = 'if __name__ == "__main__":\n'
        if where == "in a function":
            start, body = "def main():\n", body
            end = 'if __name__ == "__main__":\n    main()\n'
        else:
            end = ""
        done = run(tmp_path, HEAD + start + textwrap.indent(body, "    ") + end)
    assert (done.stdout, done.stderr) == ("True\n", "")


# --- what initializers change in place ---

CHANGES = {
    "an item": ("cache = {}", 'cache["v"] = v', 'cache.get("v")'),
    "an item of an item": ('cache = {"a": {}}', 'cache["a"]["v"] = v', 'cache["a"].get("v")'),
    "a list": ("things = []", "things.append(v)", "things[0]"),
    "an attribute of a class": ("class Config: value = None", "Config.value = v", "Config.value"),
    "an attribute of an object": ("import types\nspace = types.SimpleNamespace()", "space.v = v", "space.v"),
    "an attribute of the function": ("pass", "use.v = v", "use.v"),
    "by way of another function": ("cache = {}\ndef put(v): cache['v'] = v", "put(v)", 'cache.get("v")'),
    "a variable": ("value = None", "global value; value = v", "value"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["below a guard", "standard input"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_an_initializer_changes(mp, tmp_path, change, where, method):
    """Also where another pool was there before, so that the functions go by value under fork, too."""
    first, statement, expression = CHANGES[change]
    body = f"""
with mp.get_context({method!r}).Pool(1) as pool:
    pool.map(abs, [1])
{first}
other = [1]
def init(v):
    {statement}
    len(other)
def use(_):
    return {expression}, other[0]
with mp.get_context({method!r}).Pool(1, init, (5,)) as pool:
    print(pool.map(use, [1]))
    # What the initializer has only read is the program's.
    other[0] = 2
    print(pool.map(use, [1]))
"""
    if where == "standard input":
        done = run(tmp_path, HEAD + body, stdin=True)
    else:
        done = run(tmp_path, HEAD + 'if __name__ == "__main__":\n' + textwrap.indent(body, "    "))
    assert (done.stdout, done.stderr) == ("[(5, 1)]\n[(5, 2)]\n", "")


# --- unguarded statements that define what they then send ---

STATEMENTS = {
    "for": "for n in range(2):\n    def work(x): return x + n\n    with POOL as pool:\n        print(pool.map(work, [1]))",
    "if": "if True:\n    def work(x): return x + 1\n    with POOL as pool:\n        print(pool.map(work, [1]))",
    "try": "try:\n    class Thing: a = 1\n    with POOL as pool:\n        print([pool.apply(look, (Thing(),))])\nfinally:\n    pass",
    "a variable": "for K in (2, 3):\n    with POOL as pool:\n        print(pool.map(times, [1]))",
    "a variable that was there": "M = 5\nwhile True:\n    M = 7\n    with POOL as pool:\n        print(pool.map(plus, [1]))\n    break",
    "exec": "exec('def made(x): return x + 1', globals())\nwith POOL as pool:\n    print(pool.map(made, [1]))",
    "a process": (
        "for n in range(2):\n    def work(): print(f'[{n}]', flush=True)\n"
        "    process = CONTEXT.Process(target=work)\n    process.start()\n    process.join()"
    ),
}
PRINTED = {
    "for": "[1]\n[2]\n",
    "if": "[2]\n",
    "try": "[1]\n",
    "a variable": "[2]\n[3]\n",
    "a variable that was there": "[8]\n",
    "exec": "[2]\n",
    "a process": "[0]\n[1]\n",
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("statement", STATEMENTS)
def test_an_unguarded_statement_that_defines_what_it_sends(mp, tmp_path, statement, method):
    text = STATEMENTS[statement].replace("POOL", "CONTEXT.Pool(1)").replace("CONTEXT", f"mp.get_context({method!r})")
    above = "def times(x): return x * K\ndef plus(x): return x + M\ndef look(x): return x.a\n"
    done = run(tmp_path, HEAD + above + text + "\n")
    assert (done.returncode, done.stdout) == (0, PRINTED[statement]), done.stderr
    assert done.stderr.count("RuntimeWarning") == (method != "fork")
