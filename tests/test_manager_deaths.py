"""Managers, and what becomes of their objects and clients when somebody dies."""

import gc
import importlib
import os
import random
import signal
import threading

import pytest

from support import census, tasks

# --- deaths ---

OURS = pytest.mark.only("manycore", reason="the standard package forgets nobody, and waits for the dead")


def use(shared, gate, lock=None):
    if lock is not None:
        lock.acquire()
    mine = shared.copy()
    gate.arrive()
    shared.append(mine)


@OURS
def test_a_killed_clients_references_come_back(ctx, gate):
    with ctx.Manager() as manager:
        shared, lock = manager.list([1]), manager.RLock()
        child = ctx.Process(target=use, args=(shared, gate, lock))
        child.start()
        gate.arrivals(1)
        child.kill()
        child.join()
        assert lock.acquire(True, 30), "held by a thread that is gone"
        lock.release()
        child.close()
        del shared, lock, child
        gc.collect()
        assert census.eventually(lambda: manager._number_of_objects() == 0)
    manager.join()


@pytest.mark.parametrize("call", ["get", "put", "new"])
def test_a_killed_manager(mp, call):
    manager = mp.Manager()
    shared = manager.Queue()
    shared.put(1)
    os.kill(manager._process.pid, signal.SIGKILL)
    manager._process.join()
    with pytest.raises((EOFError, OSError)):
        {"get": shared.get, "put": lambda: shared.put(1), "new": manager.dict}[call]()
    manager.shutdown()


def test_a_manager_killed_while_somebody_waits(mp):
    manager = mp.Manager()
    shared = manager.Queue()
    assert shared.empty()
    ends = []

    def wait():
        try:
            shared.get()
        except (EOFError, OSError) as error:
            ends.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    os.kill(manager._process.pid, signal.SIGKILL)
    thread.join()
    assert len(ends) == 1
    manager.shutdown()


@OURS
def test_a_manager_killed_while_its_pool_works(mp, gate):
    manager = mp.Manager()
    pool = manager.Pool(1)
    result = pool.apply_async(tasks.wait_at, (gate, "value"))
    with census.Watch(gate.arrivals(1)) as workers:
        os.kill(manager._process.pid, signal.SIGKILL)
        with pytest.raises((EOFError, OSError)):
            result.get()
        assert workers.wait_gone() == []
    del result, pool
    manager.shutdown()


@OURS
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_manager_ends_with_its_program(script, method):
    running = script(
        """
        def main():
            mp.set_start_method(sys.argv[1])
            manager = mp.Manager()
            shared = manager.dict()
            print(manager._process.pid)
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        arguments=[method],
    )
    with census.Watch(running.read_pids()) as manager:
        running.finish()
        assert manager.wait_gone() == []
    assert running.orphans() == {}


@OURS
def test_a_client_that_sends_rubbish(mp, managers):
    connection = importlib.import_module("manycore.connection")
    with managers.SyncManager(authkey=b"key") as manager:
        shared = manager.list([1])
        conn = connection.Client(manager.address, authkey=b"key")
        assert managers.dispatch(conn, None, "accept_connection", ("rubbish",))
        rubbish = random.Random(1).randbytes
        for _ in range(20):
            conn.send_bytes(rubbish(50))
            assert conn.recv()[0] == "#TRACEBACK"
        for request in (
            *(1, (), (1, 2, 3), ("0", "x", (), {}), (None, "no such function", (), {}), ([], "x", (), {})),
            *((None, [], (), {}), (shared._id, [], (), {}), (shared._id, {}, None, 1)),
            (None, "accept_connection", ("once more",), {}),
        ):
            conn.send(request)
            assert conn.recv()[0] == "#TRACEBACK"
        conn.close()
        assert shared[:] == [1]
        del shared
    manager.join()


@OURS
def test_a_killed_manager_leaves_nothing(script, tmp_path):
    running = script(
        """
        def main():
            manager = mp.Manager()
            shared = manager.list()
            shared.append(1)
            print(manager.address[:1] in (b"\\0", "\\0"))
            os.kill(manager._process.pid, signal.SIGKILL)
            manager._process.join()
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert running.read_line() == "True"
    running.finish()
    assert [name for name in os.listdir(tmp_path) if name not in ("script.py", "__pycache__")] == []


@OURS
def test_an_interrupted_call(script):
    """Its answer, which still comes, is not taken for that of the next call."""
    running = script(
        """
        def main():
            manager = mp.Manager()
            queue, other = manager.Queue(), manager.list([1, 2])
            assert len(other) == 2
            try:
                print("waiting")
                queue.get()
            except KeyboardInterrupt:
                pass
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for number in range(3):
                queue.put(number)
            assert (other[:], len(other), queue.empty(), manager._number_of_objects()) == ([1, 2], 2, False, 2)
            manager.shutdown()
            print("done")
        """
    )
    assert running.read_line() == "waiting"
    os.kill(running.pid, signal.SIGINT)
    assert running.read_line() == "done"
    assert running.finish() == 0, running.errors
