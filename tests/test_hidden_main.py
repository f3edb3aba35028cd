"""Programs whose main module a child cannot import, or not whole: sessions, `-c`, standard input, no main guard."""

import os
import pty
import select
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.only("manycore", reason="there the workers die at the import of the main module")

METHODS = ["fork", "forkserver", "spawn"]
# As it is typed: everything is defined where it stands, and a pool is made in the midst of it.
BODY = """
import manycore as mp
context = mp.get_context({method!r})
factor = 3
def times(x):
    return x * factor

class Kind:
    def __init__(self, x):
        self.x = x
    def __eq__(self, other):
        return type(other) is type(self) and other.x == self.x

state = None
def prepare(value):
    global state
    state = value

def get(_):
    return state

pool = context.Pool(2, prepare, (7,))
print(pool.map(times, range(3)), flush=True)
print(pool.map(get, range(2)), flush=True)
factor = 4
print(pool.map(times, range(3)), flush=True)

def times(x):
    return x * factor + 1

print(pool.map(times, range(3)), flush=True)
print(pool.apply(lambda: Kind(5)) == Kind(5), pool.apply(lambda kind: kind.x, (Kind(6),)), flush=True)
class Kind:
    def tell(self):
        return "new"

print(pool.apply(lambda kind: kind.tell(), (Kind(),)), flush=True)
class Wrong(Exception):
    pass

def fail():
    raise Wrong("it is")

try:
    pool.apply(fail)
except Wrong as error:
    print(repr(error), flush=True)

pool.close(); pool.join()
queue = context.Queue()
process = context.Process(target=lambda: queue.put(Kind()))
process.start()
print(queue.get().tell(), flush=True)
process.join()
print(process.exitcode, flush=True)
"""
EXPECTED = ["[0, 3, 6]", "[7, 7]", "[0, 4, 8]", "[1, 5, 9]", "True 6", "new", "Wrong('it is')", "new", "0"]


def run(tmp_path, *arguments, text="", prefix=()):
    command = [sys.executable, *prefix, *arguments]
    return subprocess.run(command, cwd=tmp_path, input=text, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", ["-c", "-", "-i", "exec", "runner"])
def test_programs_that_are_typed(mp, tmp_path, way, method):
    body = BODY.format(method=method)
    errors = ""
    if way == "-c":
        done = run(tmp_path, "-c", body)
    elif way == "-":
        done = run(tmp_path, "-", text=body)
    elif way == "-i":
        (tmp_path / "first.py").write_text("import manycore\n")
        done = run(tmp_path, "-i", "-q", "first.py", text=body)
        errors = done.stderr.replace(">>> ", "").replace("... ", "").strip()
        assert (done.stdout.splitlines(), errors) == (EXPECTED, "")
        return
    elif way == "exec":
        done = run(tmp_path, "-c", f"exec({body!r}, {{'__name__': '__main__'}})")
        # Code in a dictionary of its own shares no variables with what comes later.
        lines = [line for line in done.stdout.splitlines() if line != "[7, 7]" and line != "[None, None]"]
        assert (lines, done.stderr) == ([line for line in EXPECTED if line != "[7, 7]"], "")
        return
    else:
        done = run(tmp_path, "-m", "manycore", "-", text=body.replace("manycore", "multiprocessing"))
    assert (done.stdout.splitlines(), done.stderr) == (EXPECTED, "")


def test_what_a_fork_has_inherited_goes_by_name(mp, tmp_path):
    """A session's large variables are not sent to children that have them."""
    done = run(
        tmp_path,
        "-c",
        """
import manycore as mp
class Heavy:
    def __reduce__(self):
        raise RuntimeError("sent")
heavy = Heavy()
def use(x):
    return type(heavy).__name__, x
with mp.get_context("fork").Pool(1) as pool:
    print(pool.map(use, [1]))
    other = Heavy()
    def use(x):
        return type(other).__name__, x
    try:
        pool.map(use, [1])
    except RuntimeError as error:
        print(error)
""",
    )
    assert (done.stdout.splitlines(), done.stderr) == (["[('Heavy', 1)]", "sent"], "")


# --- no main guard ---

UNGUARDED = """import manycore as mp
{first}
print("once", flush=True)
base = 10

def above(x):
    return x + base

pool = mp.get_context({method!r}).Pool(2)
print(pool.map(above, range(3)), flush=True)

def below(x):
    return above(x) + more

more = 100
print(pool.map(below, range(3)), flush=True)
base = 20
print(pool.map(above, range(3)), flush=True)
print(pool.map(lambda x: x, range(3)), flush=True)

class Kind:
    pass

print(type(pool.apply(Kind)) is Kind, flush=True)
pool.close()
pool.join()
process = mp.get_context({method!r}).Process(target=below, args=(1,))
process.start()
process.join()
print(process.exitcode, flush=True)
"""
UNGUARDED_PRINTS = ["once", "[10, 11, 12]", "[110, 111, 112]", "[20, 21, 22]", "[0, 1, 2]", "True", "0"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", ["script", "module"])
def test_no_guard(mp, tmp_path, way, method):
    first = "" if method == "fork" else f"mp.set_start_method({method!r})"
    text = UNGUARDED.format(first=first, method=method)
    (tmp_path / "program.py").write_text(text)
    done = run(tmp_path, *(["program.py"] if way == "script" else ["-m", "program"]))
    printed = done.stdout.splitlines()
    if method == "fork":
        # Everything is inherited as it was, but for what changed before it is known that something is not.
        printed[3:4] = UNGUARDED_PRINTS[3:4]
    assert printed == UNGUARDED_PRINTS, done.stderr
    assert done.returncode == 0
    if method == "fork":
        assert done.stderr == ""
    else:
        assert done.stderr.count("RuntimeWarning") == 1
        assert "program.py:9: RuntimeWarning: line 9 of the main module" in done.stderr
        assert '    if __name__ == "__main__":\n        pool = mp.get_context' in done.stderr


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize(
    "start",
    [
        "thread = Thread(target=run)\nthread.start()\nafter = 3\nthread.join()",
        "def go():\n    thread = Thread(target=run)\n    thread.start()\n    return thread\ngo().join()",
        "class Go:\n    def __init__(self):\n        self.thread = Thread(target=run)\n        self.thread.start()\n"
        "go = Go()\ngo.thread.join()",
        "with ThreadPoolExecutor() as executor:\n    executor.submit(run).result()",
        "executor = ThreadPoolExecutor()\nfuture = executor.submit(run)\nfuture.result()",
    ],
)
def test_no_guard_around_a_thread_that_starts_processes(mp, tmp_path, method, start):
    """Children import what is above the statement that started the thread, or they would start it, too."""
    (tmp_path / "program.py").write_text(f"""
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
import manycore as mp
def above(x):
    return x + 1
print("once", flush=True)
def run():
    with mp.get_context({method!r}).Pool(1) as pool:
        print(pool.map(above, range(3)), flush=True)
{start}
def below(x):
    return above(x) * 2
with mp.get_context({method!r}).Pool(1) as pool:
    print(pool.map(below, range(3)))
""")
    done = run(tmp_path, "program.py")
    assert (done.returncode, done.stdout) == (0, "once\n[1, 2, 3]\n[2, 4, 6]\n"), done.stderr
    assert done.stderr.count("RuntimeWarning") == 1


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize(
    "guard",
    [
        'if __name__ == "__main__":',
        "if '__main__' == __name__:",
        'if not __name__ != "__main__":',
        "if mp.current_process().name == 'MainProcess':",
        'if True:\n  if (\n    __name__ == "__main__"\n  ):',
    ],
)
def test_guards_are_seen(mp, tmp_path, guard, method):
    indent = "      " if "\n" in guard else "    "
    lines = [
        f"pool = mp.get_context({method!r}).Pool(1)",
        "def inside(x):",
        "    return above(x) + y",
        "y = 5",
        "class Kind: pass",
        "print(pool.map(above, [1]), pool.map(inside, [1]))",
        "print(type(pool.apply(lambda: Kind())) is Kind, type(pool.apply(Kind)) is Kind)",
        "pool.close()",
        "pool.join()",
    ]
    body = "".join(f"{indent}{line}\n" for line in lines)
    (tmp_path / "program.py").write_text(f"import manycore as mp\ndef above(x):\n    return 2 * x\n{guard}\n{body}")
    done = run(tmp_path, "program.py")
    assert (done.stdout, done.stderr) == ("[2] [7]\nTrue True\n", "")


@pytest.mark.parametrize("method", METHODS)
def test_classes_below_the_guard(mp, tmp_path, method):
    """Functions that are sent by name get their instances, though workers do not find the class where it is defined."""
    (tmp_path / "program.py").write_text(f"""
import dataclasses, enum
import manycore as mp
class Above:
    a = 1
def show(x):
    return x.a
def send(queue, x):
    queue.put(x)
if __name__ == "__main__":
    ctx = mp.get_context({method!r})
    class Plain:
        a = 2
    @dataclasses.dataclass
    class Record:
        a: int = 3
    class WithMethods:
        def __init__(self):
            self.a = 4
    class Choice(enum.Enum):
        ONE = 5
        a = property(lambda self: self.value)
    things = [Above(), Plain(), Record(), WithMethods(), Choice.ONE]
    with ctx.Pool(1) as pool:
        print(pool.map(show, things), pool.apply(show, (Record(7),)), list(pool.imap(show, things)))
    queue = ctx.SimpleQueue()
    process = ctx.Process(target=send, args=(queue, WithMethods()))
    process.start()
    print(type(queue.get()) is WithMethods)
    process.join()
""")
    done = run(tmp_path, "program.py")
    assert (done.stdout, done.stderr) == ("[1, 2, 3, 4, 5] 7 [1, 2, 3, 4, 5]\nTrue\n", "")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("definition", "thing"),
    [
        ("class Late: a = 2", "Late()"),
        ("@dataclasses.dataclass\n    class Late: a: int", "Late(2)"),
        ("Late = collections.namedtuple('Late', 'a')", "Late(2)"),
        ("Late = enum.Enum('Late', {'ONE': 1, 'a': 2})", "Late.ONE"),
        ("class Late(dict): a = 2", "Late(b=1)"),
        ("class Outer:\n        class Late: a = 2", "Outer.Late()"),
        ("class Late:\n        a = 2\n        def __reduce__(self): return Late, ()", "Late()"),
        ("class Above: a = 2", "Above()"),
        ("class Late: a = 2", "Late"),
        ("def late(x): return x\n    late.a = 2", "late"),
    ],
)
@pytest.mark.parametrize("how", ["pool", "queue", "process", "pipe"])
def test_what_is_defined_after_the_first_start(mp, tmp_path, method, definition, thing, how):
    """Below a guard, and sent to processes that had been started, or are started after that."""
    (tmp_path / "program.py").write_text(f"""
import collections, dataclasses, enum
import manycore as mp
class Above:
    a = 1
def look(x):
    a = x.a
    return getattr(a, "value", a)
def echo(receive, send):
    send(look(receive()))
if __name__ == "__main__":
    ctx = mp.get_context({method!r})
    pool = ctx.Pool(1)
    print(pool.map(look, [Above()]))
    queue, answers = ctx.Queue(), ctx.SimpleQueue()
    ours, theirs = ctx.Pipe()
    processes = [
        ctx.Process(target=echo, args=(queue.get, answers.put)),
        ctx.Process(target=echo, args=(theirs.recv, theirs.send)),
    ]
    for process in processes:
        process.start()
    {definition}
    thing = {thing}
    if {how!r} == "pool":
        print(pool.apply(look, (thing,)), pool.map(look, [Above(), thing])[1:], list(pool.imap(look, [thing])))
    elif {how!r} == "queue":
        queue.put(thing)
        print(answers.get())
    elif {how!r} == "pipe":
        ours.send(thing)
        print(ours.recv())
    else:
        process = ctx.Process(target=echo, args=([thing].pop, answers.put))
        process.start()
        print(answers.get())
        process.join()
    for process in processes:
        process.terminate()
    pool.close()
    pool.join()
""")
    done = run(tmp_path, "program.py")
    assert (done.stdout, done.stderr) == ("[1]\n2 [2] [2]\n" if how == "pool" else "[1]\n2\n", "")


def test_what_is_defined_after_a_fork(mp, tmp_path):
    (tmp_path / "program.py").write_text("""
import manycore as mp
if __name__ == "__main__":
    pool = mp.get_context("fork").Pool(1)
    def late(x):
        return x + y
    y = 5
    print(pool.map(late, [1]))
    def late(x):
        return x - y
    print(pool.map(late, [1]))
    class Kind:
        pass
    print(type(pool.apply(lambda: Kind())) is Kind)
    pool.close()
    pool.join()
""")
    done = run(tmp_path, "program.py")
    assert (done.stdout, done.stderr) == ("[6]\n[-4]\nTrue\n", "")


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("options", ["", ", work, (1,)", ", work, (Thing(),)", ", Thing().begin, finalizer=Thing"])
def test_a_main_module_that_fails_in_workers(mp, tmp_path, method, options):
    (tmp_path / "program.py").write_text(f"""
import manycore as mp
def work(x):
    return x
class Thing:
    def __init__(self):
        self.things = [{{work: 1}}]
    def begin(self):
        pass
if __name__ == "__mp_main__":
    raise LookupError("only in the program")
if __name__ == "__main__":
    with mp.get_context({method!r}).Pool(3{options}) as pool:
        pool.map(work, range(10))
""")
    done = run(tmp_path, "program.py")
    assert done.returncode == 1
    assert done.stderr.count("in <module>\n    raise LookupError") == 1
    assert done.stderr.rstrip().endswith('if __name__ == "__main__":')
    assert "LookupError: only in the program\nA worker process raised this while it imported" in done.stderr
    # The worker's traceback, and the program's.
    assert done.stderr.count("Traceback (most recent call last)") == 2


# --- the prompt ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("basic", [True, False])
def test_the_prompt(mp, tmp_path, method, basic):
    """On a terminal: from 3.13 on that is another program, written in Python."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", PYTHON_HISTORY=os.devnull, HOME=str(tmp_path))
        if basic:
            os.environ["PYTHON_BASIC_REPL"] = "1"
        os.execv(sys.executable, [sys.executable, "-q"])
    try:
        seen = read_until(terminal, b">>> ")
        for line, awaited in [
            (f"import manycore as mp; pool = mp.get_context({method!r}).Pool(1)", b">>> "),
            ("def f(x): return x + 40", b"... "),
            ("", b">>> "),
            ("pool.map(f, [1, 2])", b"[41, 42]"),
            ("pool.apply(lambda: 'wor' + 'ked')", b"'worked'"),
            ("pool.terminate(); pool.join(); print('en' + 'ded')", b"ended"),
        ]:
            os.write(terminal, line.encode() + b"\r")
            seen += read_until(terminal, awaited)
        os.write(terminal, b"exit()\r")
        assert os.waitpid(pid, 0)[1] == 0
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(terminal)


def read_until(fd, awaited):
    """What comes from the terminal until `awaited` has come."""
    seen = b""
    while awaited not in seen:
        if not select.select([fd], [], [], 40)[0]:
            raise AssertionError(f"no {awaited!r} in {seen!r}")
        try:
            data = os.read(fd, 4096)
        except OSError:
            data = b""
        if not data:
            raise AssertionError(f"the interpreter has ended: {seen!r}")
        seen += data
    return seen
