"""Calls of a manager that are broken off by an exception: a signal handler that raises, as the usual time-outs do.

Whatever the moment, the next call gets its own answer, and no reference is lost.
"""

import gc
import importlib
import os
import signal
import threading

import pytest

pytestmark = pytest.mark.deadline(120)
OURS = pytest.mark.only("manycore", reason="there the next call gets the answer, or hangs")

# A time-out that comes at a random moment of an action, again and again.
SWEEP = """
import gc, importlib, pickle, random
from support import census

KINDS = dict(Exception=Exception, OSError=TimeoutError, EOFError=EOFError, BaseException=BaseException)

class Late(KINDS[sys.argv[1]]):
    pass

def ring(*_):
    raise Late

signal.signal(signal.SIGALRM, ring)
# In a finalizer the interpreter throws an exception away.
sys.unraisablehook = lambda unraisable: None
chance = random.Random(int(sys.argv[2]))

def sweep(rounds, longest, *actions):
    # Each action is a call and what it returns. How many were interrupted.
    interrupted = 0
    for _ in range(rounds):
        action, right = chance.choice(actions)
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(2e-6, longest))
            try:
                result = action()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                # Runs the handler of a signal that has come: the interpreter loses the note that it is to do so if the
                # signal comes in the nanoseconds in which this thread takes the interpreter's lock again.
                signal.pthread_sigmask(signal.SIG_BLOCK, ())
        except Late:
            interrupted += 1
        else:
            assert result == right, (result, right)
        for action, right in actions[:2]:
            result = action()
            assert result == right, (result, right)
    return interrupted
"""

CALLS = (
    SWEEP
    + """
def main():
    manager = mp.Manager()
    numbers, words, many, q = manager.list([1, 2]), manager.dict(a="x" * 10), manager.list(range(5000)), manager.Queue()
    big = list(range(5000))
    print(sweep(
        2000, 3e-4,
        (lambda: numbers[1], 2),
        (lambda: words["a"], "x" * 10),
        (lambda: many[:], big),
        (lambda: words.update(big=big), None),
        (lambda: q.qsize(), 0),
        (lambda: [n for n in words.copy() if n == "a"], ["a"]),
        (lambda: manager._number_of_objects(), 4),
    ))
    manager.shutdown()
"""
)


@pytest.mark.parametrize("kind", ["Exception", "OSError", "EOFError", "BaseException"])
@OURS
def test_calls(script, kind):
    program = script(CALLS, arguments=[kind, 1])
    assert int(program.read_line(seconds=100)) > 0
    assert program.finish() == 0, program.errors.decode()


REFERENCES = (
    SWEEP
    + """
def main():
    manager = mp.Manager()
    numbers, words = manager.list([1, 2]), manager.dict(a=1)
    # Interrupted or not, what is made goes into this, and out of it when nothing can be interrupted.
    made = []
    q = mp.SimpleQueue()

    def make():
        made.append(manager.list([1]))

    def twin():
        made.append(pickle.loads(pickle.dumps(numbers)))

    def send():
        q.put(numbers)

    def receive():
        while not q.empty():
            made.append(q.get())

    for _ in range(20):
        print(sweep(
            60, 1e-3,
            (lambda: numbers[1], 2), (lambda: words["a"], 1), (make, None), (twin, None), (send, None), (receive, None),
        ), file=sys.stderr)
        for one in made:
            assert len(one) in (1, 2)
        while not q.empty():
            made.append(q.get())
        made.clear()
        gc.collect()
        assert (numbers[:], words.copy()) == ([1, 2], {"a": 1})
    q.close()
    del q
    gc.collect()
    # What was interrupted between the answer and its use may be kept, but nothing that is used was lost.
    assert manager._number_of_objects() < 10, manager._debug_info()
    manager.shutdown()
    print("done")
"""
)


@pytest.mark.parametrize("kind", ["Exception", "OSError", "BaseException"])
@OURS
def test_references(script, kind):
    program = script(REFERENCES, arguments=[kind, 2])
    try:
        line = program.read_line(seconds=100)
    except AssertionError as error:
        raise AssertionError(str(error)[:3000]) from None
    assert line == "done"
    assert program.finish() == 0, program.errors.decode()


STANDARD = (
    SWEEP
    + """
def main():
    managers = importlib.import_module("multiprocessing.managers")
    server = managers.SyncManager(authkey=b"key")
    server.start()
    manager = importlib.import_module(f"{mp.__name__}.managers").SyncManager(server.address, b"key")
    manager.connect()
    numbers, words = manager.list([1, 2]), manager.dict(a=1)
    print(sweep(
        300, 2e-3,
        (lambda: numbers[1], 2), (lambda: words["a"], 1), (lambda: len(manager.list([1])), 1),
    ))
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    server.shutdown()
"""
)


@OURS
def test_a_server_of_the_standard_package(script):
    program = script(STANDARD, arguments=["Exception", 3])
    assert int(program.read_line(seconds=100)) > 0
    assert program.finish() == 0, program.errors.decode()


CONNECTIONS = (
    SWEEP
    + """
def main():
    # Each hand-shake is broken off at some moment; the next works, and no descriptor is left.
    import threading
    connection = importlib.import_module(f"{mp.__name__}.connection")
    listener = connection.Listener(f"\\0interrupts-{os.getpid()}", authkey=b"key")

    def serve():
        while True:
            try:
                with listener.accept() as conn:
                    request = conn.recv()
                    if request is None:
                        return
                    conn.send(request + 1)
            except (EOFError, OSError, mp.AuthenticationError):
                pass

    server = threading.Thread(target=serve)
    server.start()

    def ask():
        with connection.Client(listener.address, authkey=b"key") as conn:
            conn.send(1)
            return conn.recv()

    # Before the first of them: the server's end may outlive the answer by a moment.
    known = census.descriptor_kinds()
    ask()
    print(sweep(500, 2e-3, (ask, 2), (ask, 2)))
    gc.collect()
    with connection.Client(listener.address, authkey=b"key") as conn:
        conn.send(None)
    server.join()
    assert census.eventually(lambda: census.descriptor_kinds() == known), (known, census.descriptor_kinds())
    listener.close()
"""
)


@OURS
def test_the_proofs_of_the_key(script):
    program = script(CONNECTIONS, arguments=["Exception", 4])
    assert int(program.read_line(seconds=100)) > 0
    assert program.finish() == 0, program.errors.decode()


STARTS = (
    SWEEP
    + """
def main():
    # The fork server's answer to a start that was broken off is not taken for that of the next.
    context = mp.get_context("forkserver")
    def start():
        child = context.Process(target=int)
        child.start()
        child.join()
        return child.exitcode
    start()
    print(sweep(60, 1e-2, (start, 0)))
    mp.active_children()
"""
)


@OURS
def test_starts_by_the_fork_server(script):
    program = script(STARTS, arguments=["Exception", 5])
    assert int(program.read_line(seconds=100)) > 0
    assert program.finish() == 0, program.errors.decode()


# --- single moments ---


class Fake:
    """A connection that is interrupted while it waits for the answer."""

    _owed = 1

    def __init__(self):
        self.closed = False

    def send(self, message):
        pass

    def recv(self):
        raise KeyboardInterrupt

    def close(self):
        self.closed = True


@OURS
def test_dispatch_costs_the_connection(mp):
    conn = Fake()
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module(f"{mp.__name__}.managers").dispatch(conn, None, "x")
    assert conn.closed


def test_what_does_not_pickle_keeps_the_connection(mp):
    """And with it the locks that belong to it."""
    with mp.Manager() as manager:
        shared, lock = manager.list(), manager.RLock()
        lock.acquire()
        with pytest.raises(Exception, match="pickle"):
            shared.append(threading.Lock())
        lock.release()
        shared.append(1)
        assert shared[:] == [1]
        del shared, lock
        gc.collect()
    manager.join()


@OURS
def test_a_handler_that_calls_and_does_not_raise(mp):
    """It has a connection of its own meanwhile."""
    with mp.Manager() as manager:
        shared, q = manager.list([5]), manager.Queue()
        seen = []

        def handler(*_):
            seen.append(shared[0])
            q.put("from the handler")

        before = signal.signal(signal.SIGUSR2, handler)
        try:
            me = os.getpid()
            child = mp.get_context("fork").Process(target=ring_when_waiting, args=(me, q))
            child.start()
            assert q.get() == "from the handler"
            child.join()
        finally:
            signal.signal(signal.SIGUSR2, before)
        assert seen == [5]
        assert shared[:] == [5]
        shared = q = child = None
        gc.collect()
    manager.join()


def ring_when_waiting(pid, q):
    os.kill(pid, signal.SIGUSR2)
