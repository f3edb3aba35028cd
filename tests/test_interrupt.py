"""Ctrl-C: SIGINT to the whole group, as a terminal sends it. The program ends, with one traceback, and leaves nobody."""

import os
import signal

import pytest

SCRIPT = """
import contextlib

def endless():
    n = 0
    while True:
        yield "ready" if n == 0 else n
        n += 1

def work(item):
    if item == "ready":
        tasks.say_and_wait("ready")
    tasks.wait_for_ever()

def main():
    state, form, method = sys.argv[1:]
    pool = mp.get_context(method).Pool(2)
    with pool if form == "with" else contextlib.nullcontext():
        if state == "map":
            pool.map(work, ["ready", 1, 2, 3], chunksize=1)
        elif state == "imap":
            list(pool.imap(work, ["ready", 1, 2, 3]))
        elif state == "imap_unordered":
            list(pool.imap_unordered(work, ["ready", 1, 2, 3]))
        elif state == "apply":
            pool.apply(work, ("ready",))
        elif state == "get":
            pool.apply_async(work, ("ready",)).get()
        elif state == "get_timeout":
            pool.apply_async(work, ("ready",)).get(1000)
        elif state == "wait":
            pool.apply_async(work, ("ready",)).wait()
        elif state == "next_timeout":
            pool.imap(work, ["ready"]).next(1000)
        elif state == "join":
            pool.map_async(work, ["ready", 1])
            pool.close()
            pool.join()
        elif state == "idle":
            pool.map(tasks.square, range(10))
            print("ready")
            tasks.wait_for_ever()
"""

STATES = ["map", "imap", "imap_unordered", "apply", "get", "get_timeout", "wait", "next_timeout", "join", "idle"]


@pytest.mark.only("manycore", reason="the standard package prints a traceback for each worker and hangs now and then")
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("form", ["with", "plain"])
def test_interrupt(script, state, form):
    running = script(SCRIPT, arguments=[state, form, "fork"])
    assert running.read_line() == "ready"
    running.interrupt()
    assert running.finish() == -signal.SIGINT
    assert b"KeyboardInterrupt" in running.errors
    assert running.errors.count(b"Traceback (most recent call last)") == 1, running.errors.decode()
    assert running.orphans() == {}


@pytest.mark.only("manycore", reason="the standard package prints a traceback for each worker")
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("state", ["map", "imap", "join", "idle"])
def test_interrupt_in_every_start_method(script, state, method):
    running = script(SCRIPT, arguments=[state, "with", method])
    assert running.read_line() == "ready"
    running.interrupt()
    assert running.finish() == -signal.SIGINT
    assert running.errors.count(b"Traceback (most recent call last)") == 1, running.errors.decode()
    assert running.orphans() == {}


@pytest.mark.only("manycore", reason="the pool of the standard package may lose tasks to the interrupt")
def test_a_program_that_catches_the_interrupt(script):
    """Tasks that ran when the interrupt came are lost or answered; the pool itself is usable by who goes on."""
    running = script(
        """
        def main():
            with mp.Pool(2) as pool:
                try:
                    pool.map(tasks.say_and_wait, ["ready", "ready"], chunksize=1)
                except KeyboardInterrupt:
                    pass
            pool.join()
            with mp.Pool(2) as pool:
                assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
            pool.join()
            print("done")
        """
    )
    assert running.read_line() == "ready"
    running.interrupt()
    assert running.finish() == 0, running.errors.decode()
    assert running.output.endswith(b"done\n")
    assert running.orphans() == {}


@pytest.mark.only("manycore", reason="the standard package waits for tasks that nobody has")
def test_an_interrupt_of_the_parent_alone(script):
    """What `kill -INT pid` does: only the parent is told."""
    running = script(SCRIPT, arguments=["map", "plain", "fork"])
    assert running.read_line() == "ready"
    os.kill(running.pid, signal.SIGINT)
    assert running.finish() == -signal.SIGINT
    assert running.errors.count(b"Traceback (most recent call last)") == 1, running.errors.decode()
    assert running.orphans() == {}


def test_a_signal_handler_runs_while_waiting(script):
    """Handlers that do not raise run while the parent waits for a result, and the wait goes on."""
    running = script(
        """
        from support.gate import Gate

        def main():
            seen = []
            gate = Gate()
            with mp.get_context("fork").Pool(1) as pool:
                def handler(*_):
                    seen.append(1)
                    gate.open()
                signal.signal(signal.SIGUSR2, handler)
                result = pool.apply_async(tasks.wait_at, (gate, "value"))
                gate.arrivals(1)
                print("ready")
                assert result.get() == "value"
                assert seen == [1]
            pool.join()
            print("done")
        """
    )
    assert running.read_line() == "ready"
    os.kill(running.pid, signal.SIGUSR2)
    assert running.finish() == 0, running.errors.decode()
    assert running.output == b"done\n"
