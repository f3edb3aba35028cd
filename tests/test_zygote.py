"""Starts by forkserver whose zygote is killed, or which are broken off, in the midst of it."""

import os
import sys

import pytest


@pytest.mark.only("manycore", reason="there a start fails when the server process is killed in the midst of it")
def test_a_zygote_that_is_killed_again_and_again(mp, tmp_path, script):
    """As by a system that is short of memory for a while: the start succeeds once that is over."""
    interpreter = tmp_path / "python"
    interpreter.write_text(f"""#!/bin/sh
echo >> {tmp_path}/started
test $(wc -l < {tmp_path}/started) -gt 6 || kill -9 $$
exec {sys.executable} "$@"
""")
    interpreter.chmod(0o755)
    program = script(f"""
        def main():
            mp.set_executable({str(interpreter)!r})
            process = mp.get_context("forkserver").Process(target=print, args=("started",))
            process.start()
            process.join()
            print(process.exitcode)
    """)
    assert program.finish() == 0, program.errors
    assert program.output.split() == [b"started", b"0"]
    assert len((tmp_path / "started").read_text()) == 7


@pytest.mark.only("manycore", reason="there a start fails when the server process is killed in the midst of it")
@pytest.mark.parametrize("when", ["at once", "after the child has begun", "after the child has ended"])
def test_a_zygote_that_is_killed_before_it_has_answered(mp, tmp_path, script, when):
    """It has forked the child already. Another one is in its place, or it is the one: the function runs once."""
    os.mkfifo(tmp_path / "begun")
    (tmp_path / "killer.py").write_text(f"""
import os, signal

# Opened for both directions: whoever opens it later does not wait for another one.
begun = os.open({str(tmp_path / "begun")!r}, os.O_RDWR)
watch = os.pidfd_open

def pidfd_open(pid, *flags):
    if not os.path.exists({str(tmp_path / "killed")!r}):
        open({str(tmp_path / "killed")!r}, "w").close()
        if {when!r} != "at once":
            os.read(begun, 1)
        if {when!r} == "after the child has ended":
            os.waitpid(pid, 0)
        os.kill(os.getpid(), signal.SIGKILL)
    return watch(pid, *flags)

os.pidfd_open = pidfd_open
""")
    program = script(f"""
        def note():
            with open({str(tmp_path / "runs")!r}, "a") as file:
                file.write("run\\n")
            os.write(os.open({str(tmp_path / "begun")!r}, os.O_RDWR), b".")

        def main():
            sys.path.insert(0, {str(tmp_path)!r})
            ctx = mp.get_context("forkserver")
            ctx.set_forkserver_preload(["killer"])
            process = ctx.Process(target=note)
            process.start()
            process.join()
            print(process.exitcode)
    """)
    assert program.finish() == 0, program.errors
    assert (tmp_path / "runs").read_text() == "run\n"
    assert (tmp_path / "killed").exists()
    # The zygote would have told the child's exit code.
    assert program.output in ((b"0\n", b"255\n") if when == "at once" else (b"255\n",))


@pytest.mark.only("manycore", reason="there nobody ends the process, and the program waits for it at its end")
@pytest.mark.parametrize("when", ["before the child has begun", "after the child has begun"])
def test_a_start_that_is_interrupted_while_the_zygote_forks(mp, tmp_path, script, when):
    """There is no such process then, for the program, so none runs: it is called off, or killed."""
    for name in ("begun", "go on", "ended"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "slow.py").write_text(f"""
import os

early = {when!r} == "before the child has begun"
fork = os.fork

def slow_fork():
    # Opened for both directions: whoever opens it later does not wait for another one.
    go_on = os.open({str(tmp_path / "go on")!r}, os.O_RDWR)
    pid = fork()
    if pid == 0 and early:
        os.write(os.open({str(tmp_path / "begun")!r}, os.O_RDWR), b".")
    if pid != 0 or early:
        os.read(go_on, 1)
    return pid

os.fork = slow_fork
""")
    program = script(f"""
        import _thread, signal

        def wait():
            os.open({str(tmp_path / "ended")!r}, os.O_WRONLY)
            open({str(tmp_path / "ran")!r}, "w").close()
            os.write(os.open({str(tmp_path / "begun")!r}, os.O_RDWR), b".")
            signal.pause()

        def interrupt(begun):
            os.read(begun, 1)
            signal.pthread_kill(main_thread, signal.SIGINT)

        def main():
            global main_thread
            main_thread = _thread.get_ident()
            sys.path.insert(0, {str(tmp_path)!r})
            ctx = mp.get_context("forkserver")
            ctx.set_forkserver_preload(["slow"])
            begun, go_on = (os.open({str(tmp_path)!r} + "/" + name, os.O_RDWR) for name in ("begun", "go on"))
            # Its last writer is the child.
            ended = os.open({str(tmp_path / "ended")!r}, os.O_RDONLY | os.O_NONBLOCK)
            _thread.start_new_thread(interrupt, (begun,))
            process = ctx.Process(target=wait)
            try:
                process.start()
            except KeyboardInterrupt:
                print("interrupted", mp.active_children())
            os.write(go_on, b"..")
            if {when!r} == "after the child has begun":
                os.set_blocking(ended, True)
                print(os.read(ended, 1))
            process = ctx.Process(target=print, args=("the next one",))
            os.write(go_on, b"..")
            process.start()
            process.join()
            print(process.exitcode)
    """)
    assert program.finish() == 0, program.errors
    early = when == "before the child has begun"
    assert program.output.splitlines() == [
        b"interrupted []",
        *([] if early else [b"b''"]),
        b"the next one",
        b"0",
    ]
    assert (tmp_path / "ran").exists() == (not early)
