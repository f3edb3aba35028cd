"""`concurrent.futures.ProcessPoolExecutor` on manycore, in programs where `import multiprocessing` means it."""

import subprocess
import sys
import textwrap

import pytest

METHODS = ("fork", "spawn", "forkserver")
HEAD = """
import multiprocessing, os, signal, sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

def square(x):
    return x * x

def where(_):
    return sys.modules["multiprocessing"].__name__

def fail(x):
    raise ValueError(x)

def die(_):
    os.kill(os.getpid(), signal.SIGKILL)

def prepare(value):
    global prepared
    prepared = value

def get_prepared(_):
    return prepared

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    assert multiprocessing.__name__ == "manycore"
"""


def run(tmp_path, method, body):
    path = tmp_path / "program.py"
    path.write_text(HEAD + textwrap.indent(textwrap.dedent(body), "    "))
    command = [sys.executable, "-m", "manycore", str(path), method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, cwd=tmp_path)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("method", METHODS)
def test_it_works(tmp_path, method):
    body = """
    with ProcessPoolExecutor(2, mp_context=context, initializer=prepare, initargs=("so",)) as executor:
        assert list(executor.map(square, range(100), chunksize=7)) == [x * x for x in range(100)]
        assert {future.result() for future in as_completed([executor.submit(square, x) for x in range(20)])} == {
            x * x for x in range(20)
        }
        assert executor.submit(where, 0).result() == "manycore"
        assert executor.submit(get_prepared, 0).result() == "so"
        try:
            executor.submit(fail, "no").result()
        except ValueError as error:
            assert error.args == ("no",)
        else:
            raise AssertionError
        assert len(executor.submit(bytes, 5_000_000).result()) == 5_000_000
    """
    assert run(tmp_path, method, body) == (0, "", "")


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_worker_breaks_it_at_once(tmp_path, method):
    body = """
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        executor.submit(square, 2).result()
        try:
            executor.submit(die, 0).result()
        except BrokenProcessPool:
            print("broken")
    """
    assert run(tmp_path, method, body) == (0, "broken\n", "")


@pytest.mark.parametrize("method", METHODS)
def test_it_ends_with_the_program(tmp_path, method):
    body = """
    executor = ProcessPoolExecutor(1, mp_context=context)
    future = executor.submit(square, 3)
    print(future.result())
    """
    assert run(tmp_path, method, body) == (0, "9\n", "")
