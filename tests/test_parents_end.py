"""What parents and children owe each other at the end: daemons go with their parent, others are waited for."""

import os
import signal
import sys
import threading

import pytest

from support import census

METHODS = ("fork", "spawn", "forkserver")

FAMILY = """
    def work(path):
        with open(path, "a") as file:
            file.write(f"{{os.getpid()}}\\n")
        # Busy in one call into C that never looks for signals of Python's.
        {work}

    def main():
        # Inherited by the children; pending until somebody waits for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        ctx = mp.get_context({method!r})
        path = os.path.join(os.path.dirname(__file__), "pids")
        processes = [ctx.Process(target=work, args=(path,), daemon={daemon}) for _ in range(3)]
        for process in processes:
            process.start()
        print(path)
        {then}
"""


def wait_for_family(program):
    path = program.read_line()

    def pids():
        if not os.path.exists(path):
            return None
        with open(path) as file:
            lines = file.read().splitlines()
        return [int(line) for line in lines] if len(lines) == 3 else None

    return census.eventually(pids, 30)


@pytest.mark.only("manycore", reason="busy children of the standard package stay for ever")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_busy_daemons_die_with_their_parent(script, method, number):
    program = script(FAMILY.format(work="sum(range(10**15))", method=method, daemon=True, then="signal.pause()"))
    pids = wait_for_family(program)
    with census.Watch(pids) as watch:
        os.kill(program.pid, number)
        assert watch.wait_gone() == []
    program.finish()
    assert program.orphans() == {}


@pytest.mark.only("manycore", reason="the standard package's daemons stay too")
@pytest.mark.parametrize("method", METHODS)
def test_others_outlive_their_parent(script, method):
    program = script(FAMILY.format(work="signal.pause()", method=method, daemon=False, then="signal.pause()"))
    pids = wait_for_family(program)
    # The zygote is not one of them.
    others = set(census.descendants(program.pid)) - set(pids)
    with census.Watch(pids) as watch, census.Watch(others) as servers:
        os.kill(program.pid, signal.SIGKILL)
        assert servers.wait_gone() == []
        assert sorted(watch.wait_gone(0.1)) == sorted(pids)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert watch.wait_gone() == []
    program.finish()


@pytest.mark.parametrize("method", METHODS)
def test_a_daemon_is_terminated_when_its_parent_exits(script, method):
    program = script(
        FAMILY.format(work="signal.pause()", method=method, daemon=True, then="signal.sigwait([signal.SIGUSR1])")
    )
    pids = wait_for_family(program)
    os.kill(program.pid, signal.SIGUSR1)
    assert program.finish() == 0, program.errors
    assert not [pid for pid in pids if census.stat_fields(pid)]


@pytest.mark.only("manycore", reason="the standard package then waits for ever")
def test_a_daemon_that_ignores_the_request_is_killed(script):
    program = script("""
        def work():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.close(ends[0])
            os.write(ends[1], b"x")
            signal.pause()

        def main():
            global ends
            ends = os.pipe()
            mp.get_context("fork").Process(target=work, daemon=True).start()
            os.read(ends[0], 1)
            from manycore import util
            util.DAEMON_GRACE = 0.1
    """)
    assert program.finish() == 0, program.errors


@pytest.mark.parametrize("method", METHODS)
def test_exit_waits_for_other_children(script, method):
    program = script(f"""
        def work(fd_path):
            with open(fd_path) as file:
                print(file.read(), flush=True)

        def main():
            path = os.path.join(os.path.dirname(__file__), "fifo")
            os.mkfifo(path)
            mp.get_context({method!r}).Process(target=work, args=(path,)).start()
            print(path)
    """)
    path = program.read_line()
    with open(path, "w") as file:
        file.write("done")
    assert program.finish() == 0, program.errors
    assert program.output == b"done\n"


@pytest.mark.parametrize("method", METHODS)
def test_a_child_sees_its_parent_end(script, method):
    program = script(f"""
        def watch(path):
            parent = mp.parent_process()
            parent.join(0)
            with open(path, "w") as file:
                print(parent.is_alive(), parent.pid == parent.ident, parent.name, file=file, flush=True)
                parent.join()
                print(parent.is_alive(), file=file, flush=True)
            os.rename(path, path + " done")

        def main():
            path = os.path.join(os.path.dirname(__file__), "note")
            mp.get_context({method!r}).Process(target=watch, args=(path,)).start()
            print(path)
            signal.pause()
    """)
    path = program.read_line()
    assert census.eventually(lambda: os.path.exists(path) and os.path.getsize(path), 30)
    os.kill(program.pid, signal.SIGKILL)
    assert census.eventually(lambda: os.path.exists(path + " done"), 30)
    with open(path + " done") as file:
        assert file.read().splitlines() == ["True True MainProcess", "False"]
    program.finish()


@pytest.mark.parametrize("method", METHODS)
def test_exit_handlers_of_a_child(script, method):
    program = script(f"""
        import atexit

        def work():
            atexit.register(print, "child's handler", flush=True)

        def main():
            atexit.register(print, "parent's handler", flush=True)
            process = mp.get_context({method!r}).Process(target=work)
            process.start()
            process.join()
    """)
    assert program.finish() == 0, program.errors
    runs = method == "spawn" or sys.version_info >= (3, 13)
    assert program.output.decode().splitlines() == ["child's handler"] * runs + ["parent's handler"]


def test_a_thread_that_started_a_child_may_end(ctx, gate):
    # PR_SET_PDEATHSIG would kill the child with the thread.
    process = ctx.Process(target=gate.arrive, daemon=True)
    thread = threading.Thread(target=process.start)
    thread.start()
    thread.join()
    gate.arrivals()
    assert process.is_alive()
    gate.open()
    process.join()
    assert process.exitcode == 0
