"""Proxies on their way: a pickled proxy keeps its object until it is unpickled, or cannot be any more."""

import ast
import functools
import gc
import importlib
import pickle
import queue
import threading

import pytest

from support import census, tasks

OURS = pytest.mark.only("manycore", reason="there a pickled proxy is no reference")
QUEUES = ["Queue", "SimpleQueue", "JoinableQueue"]


def connect(package, address):
    """A client of the manager at `address`, in whatever process."""
    manager = importlib.import_module(f"{package}.managers").SyncManager(address)
    manager.connect()
    return manager


def goes_to(manager, count):
    gc.collect()
    return census.eventually(lambda: manager._number_of_objects() == count)


def produce(q, package, address):
    q.put(connect(package, address).list([1, 2, 3]))


def produce_and_wait(q, package, address, gate):
    produce(q, package, address)
    gate.arrive()


def consume(q, results):
    results.put(q.get()[:])


def leave_behind(package, address, gate):
    """Fill a queue of one's own."""
    q = importlib.import_module(package).Queue()
    produce(q, package, address)
    gate.arrive()


def send_and_close(conn, package, address):
    conn.send({"nested": [connect(package, address).list([1, 2, 3])]})
    conn.close()


def throw_away(package, address):
    pickle.dumps(connect(package, address).list())


# --- queues ---


@OURS
@pytest.mark.parametrize("kind", QUEUES)
def test_a_producer_that_puts_and_ends(ctx, mp, kind):
    with ctx.Manager() as manager:
        q = getattr(ctx, kind)()
        child = ctx.Process(target=produce, args=(q, mp.__name__, manager.address))
        child.start()
        child.join()
        assert child.exitcode == 0
        gc.collect()
        assert manager._number_of_objects() == 1
        shared = q.get()
        assert shared[:] == [1, 2, 3]
        assert "refcount=1" in manager._debug_info()
        del shared
        assert goes_to(manager, 0)
    manager.join()


@OURS
def test_a_producer_that_is_killed(ctx, mp, gate):
    with ctx.Manager() as manager:
        q = ctx.Queue()
        child = ctx.Process(target=produce_and_wait, args=(q, mp.__name__, manager.address, gate))
        child.start()
        gate.arrivals(1)
        child.kill()
        child.join()
        shared = q.get()
        assert shared[:] == [1, 2, 3]
        del shared
        assert goes_to(manager, 0)
    manager.join()


@OURS
@pytest.mark.parametrize("kind", QUEUES)
def test_a_consumer_in_another_process(ctx, kind):
    with ctx.Manager() as manager:
        q, results = getattr(ctx, kind)(), ctx.SimpleQueue()
        q.put(manager.list([1, 2, 3]))
        gc.collect()
        child = ctx.Process(target=consume, args=(q, results))
        child.start()
        assert results.get() == [1, 2, 3]
        child.join()
        assert goes_to(manager, 0)
    manager.join()


@OURS
@pytest.mark.parametrize("kind", QUEUES)
def test_a_queue_that_is_dropped(mp, kind):
    with mp.Manager() as manager:
        q = getattr(mp, kind)()
        for _ in range(3):
            q.put([manager.list(), manager.dict()])
        gc.collect()
        assert manager._number_of_objects() == 6
        del q
        assert goes_to(manager, 0)
    manager.join()


@OURS
def test_a_queue_whose_processes_are_killed(ctx, mp, gate):
    with ctx.Manager() as manager:
        child = ctx.Process(target=leave_behind, args=(mp.__name__, manager.address, gate))
        child.start()
        gate.arrivals(1)
        assert manager._number_of_objects() == 1
        child.kill()
        child.join()
        assert goes_to(manager, 0)
    manager.join()


@OURS
@pytest.mark.parametrize("kind", QUEUES)
def test_what_is_not_put(mp, kind, capfd):
    with mp.Manager() as manager:
        shared = manager.list()
        q = getattr(mp, kind)()
        try:
            q.put((shared, threading.Lock()))
        except TypeError:
            pass
        if kind != "SimpleQueue":
            q = getattr(mp, kind)(1)
            q.put(1)
            with pytest.raises(queue.Full):
                q.put(shared, timeout=0.01)
        assert "refcount=1" in manager._debug_info()
        del shared
        assert goes_to(manager, 0)
        del q
    manager.join()


@OURS
def test_the_other_end_of_a_queue_used_by_its_ends(mp):
    with mp.Manager() as manager:
        q = mp.SimpleQueue()
        q._writer.send(manager.list([1]))
        gc.collect()
        assert q._reader.recv()[:] == [1]
        assert goes_to(manager, 0)
        q.close()
    manager.join()


# --- pipes ---


@OURS
@pytest.mark.parametrize("duplex", [True, False])
def test_a_sender_that_sends_and_ends(ctx, mp, duplex):
    with ctx.Manager() as manager:
        reader, writer = ctx.Pipe(duplex)
        child = ctx.Process(target=send_and_close, args=(writer, mp.__name__, manager.address))
        child.start()
        child.join()
        writer.close()
        gc.collect()
        (shared,) = reader.recv()["nested"]
        assert shared[:] == [1, 2, 3]
        reader.close()
        del shared
        assert goes_to(manager, 0)
    manager.join()


@OURS
def test_what_cannot_be_sent(mp):
    with mp.Manager() as manager:
        shared = manager.list()
        reader, writer = mp.Pipe()
        with pytest.raises(TypeError, match="lock"):
            writer.send((shared, threading.Lock()))
        reader.close()
        with pytest.raises(OSError):
            writer.send(shared)
        writer.close()
        assert "refcount=1" in manager._debug_info()
        del shared
        assert goes_to(manager, 0)
    manager.join()


# --- pools ---


def contents(shared):
    return shared[:]


def make(package, address, items):
    return {"made": connect(package, address).list(items)}


def keep(shared):
    global kept
    kept = shared


def append(item):
    kept.append(item)


def sort_into(shared, item):
    shared.append(item)


@OURS
def test_arguments_of_a_pool(ctx):
    with ctx.Manager() as manager:
        with ctx.Pool(2) as pool:
            results = [pool.apply_async(contents, (manager.list([n]),)) for n in range(10)]
            assert [result.get() for result in results] == [[n] for n in range(10)]
            assert pool.map(contents, [manager.list([n]) for n in range(10)]) == [[n] for n in range(10)]
            lists = (manager.list([n]) for n in range(10))
            assert list(pool.imap(contents, lists)) == [[n] for n in range(10)]
        pool.join()
        del pool, results, lists
        assert goes_to(manager, 0)
    manager.join()


@OURS
def test_results_of_a_pool(ctx, mp):
    with ctx.Manager() as manager:
        with ctx.Pool(1) as pool:
            made = pool.apply(make, (mp.__name__, manager.address, [1, 2]))
            pool.close()
            pool.join()
        assert made["made"][:] == [1, 2]
        del made, pool
        assert goes_to(manager, 0)
    manager.join()


@OURS
def test_a_pool_that_ends_with_tasks(mp, gate):
    with mp.Manager() as manager:
        pool = mp.Pool(1)
        results = [pool.apply_async(tasks.wait_at, (gate, manager.list())) for _ in range(5)]
        gate.arrivals(1)
        pool.terminate()
        pool.join()
        del pool, results
        assert goes_to(manager, 0)
    manager.join()


@OURS
def test_the_function_of_a_pools_job(mp):
    """Each worker unpickles it."""
    with mp.Manager() as manager:
        keeper = manager.list()
        keeper.append(manager.list())
        with mp.Pool(2) as pool:
            result = pool.map_async(functools.partial(sort_into, keeper[0]), range(20), chunksize=1)
            gc.collect()
            result.get()
            pool.close()
            pool.join()
        assert sorted(keeper[0][:]) == list(range(20))
        del keeper, pool, result
        assert goes_to(manager, 0)
    manager.join()


@OURS
def test_initargs(ctx):
    with ctx.Manager() as manager:
        outer = manager.list([manager.list()])
        with ctx.Pool(1, keep, (outer[0],)) as pool:
            pool.map(append, range(3))
            pool.close()
            pool.join()
        assert outer[0][:] == [0, 1, 2]
        del outer, pool
        assert goes_to(manager, 0)
    manager.join()


# --- pickles ---


@OURS
def test_a_pickle_that_is_unpickled_twice(mp):
    with mp.Manager() as manager:
        blob = pickle.dumps([manager.list([1])])
        gc.collect()
        assert manager._number_of_objects() == 1
        first = pickle.loads(blob)
        second = pickle.loads(blob)
        assert (first[0][:], second[0][:]) == ([1], [1])
        assert "refcount=2" in manager._debug_info()
        del first
        gc.collect()
        second[0].append(2)
        third = pickle.loads(blob)
        assert third[0][:] == [1, 2]
        del second, third
        assert goes_to(manager, 0)
        with pytest.raises(importlib.import_module(f"{mp.__name__}.managers").RemoteError, match="KeyError"):
            pickle.loads(blob)
    manager.join()


@OURS
def test_a_pickle_that_is_thrown_away(ctx, mp):
    """It is tied to the process that made it."""
    with ctx.Manager() as manager:
        child = ctx.Process(target=throw_away, args=(mp.__name__, manager.address))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert goes_to(manager, 0)
    manager.join()


@OURS
def test_many_pickles_that_are_thrown_away(mp):
    """The manager does not remember all of them."""
    loans = importlib.import_module("manycore._manager_loans")
    with mp.Manager() as manager:
        shared = manager.list()
        for _ in range(loans.MOST_TICKETS + 50):
            pickle.dumps(shared)
        assert f"refcount={loans.MOST_TICKETS + 1}" in manager._debug_info()
        del shared
    manager.join()


def test_a_proxy_that_is_kept_travels(ctx):
    """What is certain in both packages."""
    with ctx.Manager() as manager:
        q, results, shared = ctx.SimpleQueue(), ctx.SimpleQueue(), manager.list([1])
        child = ctx.Process(target=consume, args=(q, results))
        child.start()
        q.put(shared)
        assert results.get() == [1]
        child.join()
        reader, writer = ctx.Pipe(False)
        writer.send({"a": shared})
        assert reader.recv()["a"][:] == [1]
        reader.close()
        writer.close()
        for one in (q, results):
            one.close()
        del shared
    manager.join()


def test_inside_other_containers(manager_with_two):
    _, first, second = manager_with_two
    first.append({"second": [second]})
    second.append(1)
    found = first[0]["second"][0]
    found.append(2)
    assert second[:] == [1, 2]


@pytest.fixture
def manager_with_two(mp):
    with mp.Manager() as manager:
        yield manager, manager.list(), manager.list()
    manager.join()


@OURS
def test_a_method_of_a_shared_object_that_sends(mp):
    """A proxy in the manager's own process lends without a message."""

    class Sender:
        def __init__(self, conn):
            self.conn = conn

        def send(self, proxy):
            self.conn.send(proxy)

    class Manager(importlib.import_module(f"{mp.__name__}.managers").SyncManager):
        pass

    reader, writer = mp.Pipe()
    Manager.register("Sender", lambda: Sender(writer))
    with Manager(ctx=mp.get_context("fork")) as manager:
        sender = manager.Sender()
        sender.send(manager.list([1, 2]))
        gc.collect()
        assert reader.recv()[:] == [1, 2]
        assert goes_to(manager, 1)
        del sender
    manager.join()
    reader.close()
    writer.close()


# --- managers of other programs ---

SERVER = """
def main():
    from manycore.managers import SyncManager

    server = SyncManager(authkey=b"key").get_server()
    print(repr(server.address))
    server.serve_forever()
"""

CLIENT = """
import ast, pickle
from manycore.managers import SyncManager

def produce(q, address):
    manager = SyncManager(address, authkey=b"key")
    manager.connect()
    q.put(manager.list([1, 2, 3]))

def main():
    address, how = ast.literal_eval(sys.argv[1]), sys.argv[2]
    mp.current_process().authkey = b"key"
    q, (reader, writer) = mp.Queue(), mp.Pipe()
    child = mp.Process(target=produce, args=(q, address))
    child.start()
    child.join()
    shared = q.get()
    assert shared[:] == [1, 2, 3]
    if how == "queue":
        q.put(shared)
    elif how == "pipe":
        writer.send(shared)
    else:
        pickle.dumps(shared)
    del shared
    print("sent")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@OURS
@pytest.mark.parametrize("how", ["queue", "pipe", "pickle"])
def test_a_program_that_ends(mp, script, how):
    server = script(SERVER)
    address = server.read_line()
    client = script(CLIENT, arguments=[address, how])
    manager = importlib.import_module("manycore.managers").SyncManager(ast.literal_eval(address), authkey=b"key")
    manager.connect()
    assert client.read_line() == "sent"
    client.finish()
    assert goes_to(manager, 0)
    server.kill()


@OURS
def test_a_server_of_the_standard_package(mp):
    """It lends nothing: there a proxy must be kept by somebody until it is unpickled."""
    standard = importlib.import_module("multiprocessing.managers")
    # Forked, so that it leaves no fork server of the standard package behind.
    fork = importlib.import_module("multiprocessing").get_context("fork")
    with standard.SyncManager(authkey=b"key", ctx=fork) as server:
        remote = importlib.import_module("manycore.managers").SyncManager(server.address, b"key")
        remote.connect()
        shared = remote.list([1])
        q = mp.SimpleQueue()
        q.put(shared)
        twin = q.get()
        assert pickle.loads(pickle.dumps(twin))[:] == [1]
        del shared
        gc.collect()
        assert twin[:] == [1]
        del twin
        gc.collect()
        assert server._number_of_objects() == 0
        q.close()
    server.join()


@OURS
def test_threads_that_send_and_receive(mp):
    with mp.Manager() as manager:
        q = mp.SimpleQueue()
        received = []

        def receive():
            for _ in range(50):
                received.append(q.get()[:])

        threads = [threading.Thread(target=receive) for _ in range(2)]
        for thread in threads:
            thread.start()
        for n in range(100):
            q.put(manager.list([n]))
        for thread in threads:
            thread.join()
        assert sorted(received) == [[n] for n in range(100)]
        assert goes_to(manager, 0)
        q.close()
    manager.join()


@OURS
def test_the_arguments_of_a_process(ctx, mp):
    """Under fork nothing is pickled, and the child has no reference of its own before it runs."""
    with ctx.Manager() as manager:
        results = ctx.SimpleQueue()
        for _ in range(10):
            process = ctx.Process(target=copy_to, args=(manager.list([1, 2, 3]), results))
            process.start()
            gc.collect()
            assert results.get() == [1, 2, 3]
            process.join()
        assert goes_to(manager, 0)
        results.close()


def copy_to(shared, results):
    results.put(shared[:])
