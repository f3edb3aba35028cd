"""Where what the main module defines stands, above or below its guard, and what follows: by name or by value."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.only("manycore", reason="there everything goes by name, and what is not found fails")

METHODS = ["fork", "forkserver", "spawn"]


def run(tmp_path, program, *options):
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "far.py").write_text(
        "import functools, threading\n"
        + "\n" * 200
        + textwrap.dedent("""
            lock = threading.Lock()
            def decorated(function):
                @functools.wraps(function)
                def wrapper(*args):
                    with lock:
                        return function(*args)
                return wrapper
        """)
    )
    (tmp_path / "near.py").write_text(
        "import functools\n"
        "def decorated(f): return functools.wraps(f)(lambda *args: f(*args))\n"
        "class Base:\n    def look(self): return 'base'\n"
    )
    command = [sys.executable, *options, "program.py"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "definition",
    [
        "@contextlib.contextmanager\ndef more(): yield 1",
        "@far.decorated\ndef more(x): return x",
        "@functools.singledispatch\ndef more(x): return x",
        "more = enum.Enum('more', 'A B')",
        "more = collections.namedtuple('more', 'a b')",
        "@dataclasses.dataclass(slots=True)\nclass more: a: int",
        "class more(near.Base): pass",
    ],
)
def test_what_stands_above_goes_by_name(mp, tmp_path, definition, method):
    """So a worker has one of each, with one set of variables: also where a decorator stands in another file."""
    done = run(
        tmp_path,
        f"""
import collections, contextlib, dataclasses, enum, functools
import far, near
import manycore as mp
{definition}
count = 0
class Thing:
    def __reduce__(self):
        return Thing, ()
def work(x, thing, kind):
    global count
    count += 1
    return count
if __name__ == "__main__":
    context = mp.get_context({method!r})
    process = context.Process(target=work, args=(1, Thing(), more))
    process.start()
    process.join()
    print(process.exitcode)
    with context.Pool(1) as pool:
        print([pool.apply(work, (x, Thing(), more)) for x in range(3)])
""",
    )
    assert (done.stdout, done.stderr) == ("0\n[1, 2, 3]\n", "")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "definition",
    [
        "@far.decorated\ndef more(x): return x + 1",
        "@near.decorated\ndef more(x): return x + 1",
        "@own\ndef more(x): return x + 1",
        "class more(near.Base):\n    @own\n    def __new__(cls, x): return x + 1",
        "more = type('more', (near.Base,), {'__new__': lambda cls, x: x + 1})",
    ],
)
def test_what_stands_below_goes_by_value(mp, tmp_path, definition, method):
    body = f"""
pool = mp.get_context({method!r}).Pool(1)
print(pool.map(above, [1]))
{definition}
print(pool.map(use, [more]))
pool.close()
pool.join()
"""
    done = run(
        tmp_path,
        "import far, near, functools\nimport manycore as mp\ndef above(x): return x\ndef use(f): return f(1)\n"
        "def own(f): return functools.wraps(f)(lambda *args: f(*args))\n"
        'if __name__ == "__main__":\n' + textwrap.indent(body, "    "),
    )
    if "far" in definition:
        # What the decorator refers to cannot travel; it is named.
        assert done.stdout == "[1]\n" and "'_thread.lock'" in done.stderr
    else:
        assert (done.stdout, done.stderr) == ("[1]\n[2]\n", "")


@pytest.mark.parametrize("earlier", METHODS)
@pytest.mark.parametrize("way", ["queue", "pipe", "pool"])
def test_what_a_forked_child_sends_home_is_of_the_programs_own_classes(mp, tmp_path, way, earlier):
    """Whatever other processes lack that were started before: this child has it, and so has its parent."""
    done = run(
        tmp_path,
        f"""
import manycore as mp
def nothing(x):
    return x
if __name__ == "__main__":
    first = mp.get_context({earlier!r}).Process(target=nothing, args=(1,))
    first.start()
    first.join()
    class Result(Exception):
        pass
    def send(put):
        put(Result(1))
        put(Result)
    context = mp.get_context("fork")
    if {way!r} == "queue":
        queue = context.Queue()
        put, get = queue.put, queue.get
    else:
        ours, theirs = context.Pipe()
        put, get = theirs.send, ours.recv
    if {way!r} == "pool":
        pool = context.Pool(1)
        print(type(pool.apply(Result, (1,))) is Result, pool.apply(getattr, (Result, "mro")) is not None)
        pool.close()
        pool.join()
    else:
        process = context.Process(target=send, args=(put,))
        process.start()
        print(type(get()) is Result, get() is Result)
        process.join()
""",
    )
    assert (done.stdout, done.stderr) == ("True True\n", "")


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("guarded", [True, False])
def test_a_fork_before_the_first_import(mp, tmp_path, guarded, method):
    body = f"""
first = mp.get_context("fork").Process(target=nothing)
first.start()
first.join()
class Kind:
    a = 2
with mp.get_context({method!r}).Pool(1) as pool:
    print(pool.map(look, [Kind()]))
"""
    if guarded:
        body = 'if __name__ == "__main__":\n' + textwrap.indent(body, "    ")
    done = run(tmp_path, "import manycore as mp\ndef nothing(): pass\ndef look(x): return x.a\n" + body)
    assert (done.returncode, done.stdout) == (0, "[2]\n"), done.stderr
    assert done.stderr.count("RuntimeWarning") == (not guarded)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_class_in_the_place_of_another(mp, tmp_path, method):
    """By pickle, which writes its name: as many names as before, but not the same class."""
    done = run(
        tmp_path,
        f"""
import manycore as mp
def echo(connection):
    for _ in range(2):
        connection.send(connection.recv().a)
if __name__ == "__main__":
    class Kind:
        a = 1
        def __reduce__(self):
            return Kind, ()
    context = mp.get_context({method!r})
    ours, theirs = context.Pipe()
    process = context.Process(target=echo, args=(theirs,))
    process.start()
    ours.send(Kind())
    first = ours.recv()
    class Kind:
        a = 2
        def __reduce__(self):
            return Kind, ()
    ours.send(Kind())
    print(first, ours.recv())
    process.join()
""",
    )
    assert (done.stdout, done.stderr) == ("1 2\n", "")


# --- threads that start processes ---


def threaded(method, body):
    return f"""
import sys, threading, time, re
import manycore as mp
def above(x):
    return x + base
def run():
    with mp.get_context({method!r}).Pool(1) as pool:
        print(pool.map(above, range(3)), flush=True)
base = 1
{body}
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize(
    ("body", "printed", "warned"),
    [
        ("thread = threading.Thread(target=run)\nbase = 100\nthread.start()\nthread.join()", 100, True),
        (
            "go = threading.Event()\n"
            "thread = threading.Thread(target=lambda: go.wait() and run())\nthread.start()\nbase = 100\ngo.set()\nthread.join()",
            100,
            True,
        ),
        (
            "thread = threading.Thread(target=run)\nif __name__ == '__main__':\n    thread.start()\n"
            "while thread.is_alive():\n    time.sleep(0.001)",
            1,
            False,
        ),
        (
            "at = re.search('b', 'ab').start()\nclass Kind: pass\n"
            "thread = threading.Thread(target=run)\nthread.start()\nthread.join()",
            1,
            True,
        ),
        ("thread = threading.Thread(target=run)\nthread.start()\nimport waits\nthread.join()", 1, True),
        (
            "".join(f"{'el' if n else ''}if base == {n + 10}: pass\n" for n in range(1500))
            + "thread = threading.Thread(target=run)\nthread.start()\nthread.join()",
            1,
            True,
        ),
    ],
    ids=["bound before", "bound after", "guarded", "match", "import", "deep"],
)
def test_threads_of_a_main_module(mp, tmp_path, body, printed, warned, method):
    (tmp_path / "waits.py").write_text("import __main__\n__main__.thread.join()\n")
    done = run(tmp_path, threaded(method, body))
    if "elif" in body and "RecursionError" in done.stderr:
        pytest.skip("this interpreter does not compile it")
    assert (done.returncode, done.stdout) == (0, f"{[x + printed for x in range(3)]}\n"), done.stderr
    assert done.stderr.count("RuntimeWarning") == warned
