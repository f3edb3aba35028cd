"""Ctrl-C while a pool comes into being, or buries a worker: at one line of the package after the other, which no real hand could hit.

The script counts the lines of the package and of `threading` that its main thread runs, and interrupts itself at each of
them in turn. What is started half may not stay; what is there afterwards works.
"""

import signal
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.only(
        "manycore", reason="the standard package leaves workers and threads when its starts are interrupted"
    ),
    pytest.mark.deadline(150),
]

METHODS = ["fork", "forkserver", "spawn"]

PRELUDE = """
import ctypes, gc, threading
from support import census

COUNTED = os.path.dirname(mp.__file__), threading.__file__
# In a finalizer that the collector calls, the interpreter throws the exception away.
ignored = []
sys.unraisablehook = lambda unraisable: ignored.append(unraisable.exc_type)

# Has the interpreter act as if a signal had come, like any other between two of its instructions. As it is not written in
# Python, a tracing function that is this is not interrupted itself.
trip = ctypes.PYFUNCTYPE(None, *[ctypes.py_object] * 3)(("PyErr_SetInterrupt", ctypes.pythonapi))

def interrupted(*_):
    sys.settrace(None)
    raise KeyboardInterrupt

def interrupt_at(step, action):
    # Runs `action` and interrupts it after line `step`; says whether it came so far.
    seen, me = 0, os.getpid()
    def count(frame, event, arg):
        nonlocal seen
        # The lines of children do not count.
        if event == "line" and os.getpid() == me:
            seen += 1
        return trip if seen >= step else count
    def choose(frame, event, arg):
        # `_note` is the handler while interrupts are put off; it would be called from its own first line, for ever.
        counted = frame.f_code.co_filename.startswith(COUNTED) and frame.f_code.co_name != "_note"
        return count if counted else None
    signal.signal(signal.SIGINT, interrupted)
    sys.settrace(choose)
    try:
        action()
    finally:
        sys.settrace(None)
    return seen >= step

def everywhere(stride, action, check):
    # Interrupts `action` at every `stride`th line, and runs `check` after each, until it is not interrupted any more.
    # The number of times it was.
    step, interruptions = 0, 0
    while True:
        step += stride
        try:
            if not interrupt_at(step, action):
                return interruptions
        except KeyboardInterrupt:
            interruptions += 1
        try:
            assert set(ignored) <= {KeyboardInterrupt}
            ignored.clear()
            gc.collect()
            check()
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
            assert signal.getsignal(signal.SIGINT) is interrupted
        except BaseException as error:
            raise AssertionError(f"interrupted at line {step}") from error

def end(pool):
    pool.terminate()
    pool.join()
"""

POOLS = (
    PRELUDE
    + """
def main():
    method, stride = sys.argv[1], int(sys.argv[2])
    context = mp.get_context(method)
    other = context.Pool(1)
    other.map(tasks.square, [2])
    known, descriptors = census.descendants(os.getpid()), census.descriptor_kinds()
    pools = []

    def check():
        while pools:
            end(pools.pop())
        gc.collect()
        assert census.eventually(lambda: census.descendants(os.getpid()) == known), census.descendants(os.getpid())
        assert census.descriptor_kinds() == descriptors, (descriptors, census.descriptor_kinds())
        assert mp.active_children() == other._pool

    print(everywhere(stride, lambda: pools.append(context.Pool(2)), check))
    assert pools[0].map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
    end(pools[0])
    end(other)
"""
)


# Strides by what a start costs. They have nothing in common with the numbers of lines that repeat.
@pytest.mark.parametrize(("method", "stride"), [("fork", 1), ("forkserver", 3), ("spawn", 37)])
def test_a_pools_start(script, method, stride):
    program = script(POOLS, arguments=[method, stride])
    assert int(program.read_line(seconds=140)) > 10, "times it was interrupted"
    assert program.finish() == 0, program.errors.decode()
    assert program.errors == b""
    assert program.orphans() == {}


KEEPERS = (
    PRELUDE
    + """
def main():
    threads = threading.active_count()
    pools = [mp.Pool(1)]

    def check():
        pool = pools.pop()
        # Whatever came of the call, the next one has its keeper.
        called = []
        results = [pool.apply_async(tasks.square, (n,), callback=called.append) for n in range(3)]
        pool.close()
        pool.join()
        assert called == [0, 1, 4] and [result.get() for result in results] == [0, 1, 4]
        assert threading.active_count() == threads
        pools.append(mp.Pool(1))

    print(everywhere(1, lambda: pools[0].apply_async(tasks.square, (2,)), check))
    end(pools[0])
"""
)


def test_a_keepers_start(script):
    program = script(KEEPERS)
    assert int(program.read_line(seconds=140)) > 10, "times it was interrupted"
    assert program.finish() == 0, program.errors.decode()
    assert program.errors == b""
    assert program.orphans() == {}


ANSWERS = (
    PRELUDE
    + """
def main():
    pool, results = mp.get_context("fork").Pool(2), []
    # A pool without a keeper, whose dead are buried by whoever waits.
    other = mp.get_context("fork").Pool(2)

    def call():
        try:
            other.apply(os._exit, (3,))
        except mp.WorkerLost:
            pass
        results.append(pool.apply_async(os._exit, (3,)))
        results[-1].wait()

    def check():
        while results:
            try:
                results.pop().get(30)
            except mp.WorkerLost as error:
                assert error.exitcode == 3
            else:
                raise AssertionError("an answer from the dead")
        for one in (pool, other):
            assert one.map(tasks.square, range(5), chunksize=1) == [0, 1, 4, 9, 16]
            # The keeper may be at it just now.
            assert census.eventually(lambda: len(one._pool) == 2)

    print(everywhere(1, call, check))
    end(pool)
    end(other)
"""
)


def test_the_burial_of_a_worker(script):
    """The interrupt is neither lost nor taken for the task's own exception; the next worker is there."""
    program = script(ANSWERS)
    assert int(program.read_line(seconds=140)) > 10, "times it was interrupted"
    assert program.finish() == 0, program.errors.decode()
    assert program.errors == b""
    assert program.orphans() == {}


WHOLE = """
# Ctrl-C of a terminal, when the main thread comes to a function of the package for the so-many-th time.
def main():
    method, name, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seen = 0
    def look(frame, event, arg):
        nonlocal seen
        if frame.f_code.co_qualname.endswith(name):
            seen += 1
            if seen == times:
                os.killpg(0, signal.SIGINT)
    sys.settrace(look)
    with mp.get_context(method).Pool(2) as pool:
        print("too late")
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "times"), [("Crew.__init__", 1), ("_launch", 1), ("Crew.hire", 2), ("_own", 2)])
def test_a_program_that_is_starting_a_pool(script, method, name, times):
    program = script(WHOLE, arguments=[method, name, times])
    assert program.finish() == -signal.SIGINT
    assert program.output == b""
    assert program.errors.count(b"Traceback (most recent call last)") == 1, program.errors.decode()
    assert program.errors.rstrip().endswith(b"KeyboardInterrupt")
    assert program.orphans() == {}


BARE_THREAD = """
import _thread, sys, manycore

assert "threading" not in sys.modules
pools = [manycore.Pool(1)]
done = _thread.allocate_lock()
done.acquire()

def work():
    try:
        print(pools[0].apply_async(len, ("abc",)).get(), list(pools[0].imap(len, iter(["ab"]))))
        pools.append(manycore.Pool(1))
    finally:
        done.release()

_thread.start_new_thread(work, ())
done.acquire()
import threading
print(threading.current_thread() is threading.main_thread(), pools[1].map(len, ["a"]))
for pool in pools:
    pool.terminate()
    pool.join()
"""


def test_a_thread_that_threading_does_not_know(mp):
    run = subprocess.run([sys.executable, "-c", BARE_THREAD], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("3 [2]\nTrue [1]\n", "")
