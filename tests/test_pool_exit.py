"""Pools and the end of their program: by its last line, an exception, an exit; idle, busy, closed or forgotten."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("state", ["idle", "running", "queued", "imap", "closed", "terminated", "unjoined"])
def test_the_interpreter_ends(script, state):
    """However a script leaves its pool, it ends, quietly, and leaves nothing."""
    running = script(
        """
        def main():
            state = sys.argv[1]
            global pool, results
            pool = mp.Pool(2)
            assert pool.map(tasks.square, [1, 2]) == [1, 4]
            print(*[process.pid for process in pool._pool])
            if state == "running":
                results = pool.map_async(tasks.wait_for_ever, range(2), chunksize=1)
            elif state == "queued":
                results = [pool.apply_async(tasks.wait_for_ever) for _ in range(1000)]
            elif state == "imap":
                results = pool.imap(tasks.square, range(10000))
                next(results)
            elif state == "closed":
                pool.close()
            elif state == "terminated":
                pool.terminate()
            elif state == "unjoined":
                pool.close()
                pool.join()
        """,
        arguments=[state],
    )
    assert running.finish() == 0
    assert b"Traceback" not in running.errors
    assert running.orphans() == {}


@pytest.mark.parametrize("how", ["exception", "sys_exit", "os_exit"])
def test_the_interpreter_ends_badly(mp, script, how):
    running = script(
        """
        def main():
            pool = mp.Pool(2)
            result = pool.map_async(tasks.wait_for_ever, range(10), chunksize=1)
            if sys.argv[1] == "exception":
                raise RuntimeError("the script's own error")
            elif sys.argv[1] == "sys_exit":
                sys.exit(5)
            if mp.__name__ == "multiprocessing":
                pool.terminate()  # its workers would wait for ever for a parent that is gone
            os._exit(6)
        """,
        arguments=[how],
    )
    code = running.finish()
    assert code == {"exception": 1, "sys_exit": 5, "os_exit": 6}[how]
    # The finalizer of the standard package's pool may report a pipe that is closed already.
    if mp.__name__ != "multiprocessing":
        assert running.errors.count(b"Traceback") == (1 if how == "exception" else 0)
    assert running.orphans() == {}


def test_a_pool_in_a_global_at_exit(script):
    """A pool held by an object that dies late, when modules are already taken apart."""
    running = script(
        """
        class Holder:
            def __init__(self):
                self.pool = mp.Pool(1)

        def main():
            global holder
            holder = Holder()
            assert holder.pool.map(float, range(10)) == list(range(10))
        """
    )
    assert running.finish() == 0
    assert b"Traceback" not in running.errors
    assert running.orphans() == {}


def test_a_script_without_a_main_guard(tmp_path, mp):
    """Under fork a pool may be made at the top level of a script."""

    path = tmp_path / "plain.py"
    path.write_text(
        f"import {mp.__name__} as mp\n"
        "def square(x):\n    return x * x\n"
        "with mp.get_context('fork').Pool(2) as pool:\n    print(pool.map(square, range(4)))\n"
    )
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 4, 9]\n", "")


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_functions_of_the_main_module(script, method):
    running = script(
        """
        class Thing:
            def __init__(self, n):
                self.n = n

        def work(thing):
            return Thing(thing.n + 1)

        def main():
            with mp.get_context(sys.argv[1]).Pool(2) as pool:
                print([thing.n for thing in pool.map(work, map(Thing, range(4)))])
            pool.join()
        """,
        arguments=[method],
    )
    assert running.finish() == 0
    assert running.output == b"[1, 2, 3, 4]\n"
    assert running.errors == b""
    assert running.orphans() == {}
