"""The types that a manager offers, here and to another program, also one with the other package."""

import array
import copy
import gc
import importlib
import os
import queue
import threading

import pytest

from support import tasks
from support.managed import Counter

# --- the types ---


def test_list(manager):
    shared = manager.list(range(5))
    shared.append(5)
    shared.extend([6, 7])
    shared += [8]
    shared[0] = 10
    del shared[1]
    assert shared[:] == [10, 2, 3, 4, 5, 6, 7, 8]
    assert (len(shared), shared[-1], 3 in shared, shared.index(3), shared.count(3)) == (8, 8, True, 2, 1)
    assert list(shared) == shared[:]
    assert shared.pop() == 8
    shared.insert(0, 1)
    shared.reverse()
    shared.sort()
    shared.remove(10)
    assert shared + [0] == [1, 2, 3, 4, 5, 6, 7, 0]
    shared *= 2
    assert len(shared * 2) == 28
    assert type(shared).__name__ == "ListProxy"
    assert str(shared) == str(shared[:])
    assert repr(shared).startswith("<ListProxy object, typeid 'list' at 0x")
    assert copy.deepcopy(shared) == shared[:]
    with pytest.raises(IndexError):
        shared[100]
    with pytest.raises(ValueError):
        shared.remove("nothing")


def test_dict(manager):
    shared = manager.dict({"a": 1}, b=2)
    shared["c"] = 3
    shared.update(d=4)
    del shared["a"]
    assert shared.copy() == {"b": 2, "c": 3, "d": 4}
    assert (list(shared.keys()), list(shared.values()), list(shared.items())) == (
        ["b", "c", "d"],
        [2, 3, 4],
        [("b", 2), ("c", 3), ("d", 4)],
    )
    assert (shared.get("b"), shared.get("x"), shared.get("x", 5), shared.setdefault("e", 6)) == (2, None, 5, 6)
    assert (len(shared), "b" in shared, shared.pop("b"), shared.popitem()) == (4, True, 2, ("e", 6))
    assert list(shared) == ["c", "d"]
    with pytest.raises(KeyError):
        shared["nothing"]
    iterator = iter(shared)
    shared.clear()
    with pytest.raises(RuntimeError, match="changed size"):
        next(iterator)
    assert len(shared) == 0


def test_values(manager):
    value = manager.Value("i", 5)
    value.value += 1
    value.set(value.get() + 1)
    assert (value.value, str(value)) == (7, "Value('i', 7)")
    shared = manager.Array("i", [1, 2, 3])
    shared[1] = 20
    assert (len(shared), shared[:], list(shared)) == (3, array.array("i", [1, 20, 3]), [1, 20, 3])
    namespace = manager.Namespace(x=1)
    namespace.y = 2
    namespace._own = 3
    assert (namespace.x, namespace.y, str(namespace)) == (1, 2, "Namespace(x=1, y=2)")
    del namespace.x
    assert not hasattr(namespace, "x")


def test_queues(manager):
    shared = manager.Queue(2)
    shared.put(1)
    shared.put(2)
    with pytest.raises(queue.Full):
        shared.put(3, block=False)
    assert (shared.qsize(), shared.full(), shared.empty(), shared.get(), shared.get()) == (2, True, False, 1, 2)
    with pytest.raises(queue.Empty):
        shared.get_nowait()
    with pytest.raises(queue.Empty):
        shared.get(timeout=0.01)
    joinable = manager.JoinableQueue()
    joinable.put(1)
    joinable.get()
    joinable.task_done()
    joinable.join()


def test_locks(manager):
    for name in ("Lock", "RLock", "Semaphore", "BoundedSemaphore"):
        shared = getattr(manager, name)()
        assert shared.acquire()
        shared.release()
        with shared:
            pass
        assert shared.acquire(False)
        shared.release()
        assert shared.acquire(True, 1.0)
        shared.release()
    with pytest.raises(RuntimeError):
        manager.Lock().release()
    condition = manager.Condition()
    with condition:
        assert not condition.wait(0.01)
        condition.notify()
        condition.notify_all()
        assert condition.wait_for(lambda: 5) == 5
        assert condition.wait_for(lambda: 0, timeout=0.01) == 0
    event = manager.Event()
    assert not event.wait(0.01)
    event.set()
    assert event.is_set() and event.wait()
    event.clear()
    assert not event.is_set()
    barrier = manager.Barrier(1)
    assert (barrier.wait(), barrier.parties, barrier.n_waiting, barrier.broken) == (0, 1, 0, False)
    barrier.abort()
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken


def test_a_pool_in_the_manager(manager):
    with manager.Pool(2) as pool:
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
        assert pool.apply(tasks.add, (1, 2)) == 3
        result = pool.apply_async(tasks.square, (3,))
        result.wait()
        assert (result.ready(), result.successful(), result.get()) == (True, True, 9)
        assert list(pool.imap(tasks.square, range(3))) == [0, 1, 4]
        with pytest.raises(ValueError):
            pool.apply(tasks.fail, (1,))


NEWER = pytest.mark.only("manycore", reason="CPython has it from 3.14 on")


@NEWER
def test_sets(manager):
    shared = manager.set([1, 2])
    shared.add(3)
    shared |= {4}
    shared &= {1, 2, 4}
    shared -= {4}
    shared ^= {5}
    assert shared.copy() == {1, 2, 5}
    assert (sorted(shared), len(shared), 5 in shared, shared | {6}, {7} | shared) == (
        [1, 2, 5],
        3,
        True,
        {1, 2, 5, 6},
        {1, 2, 5, 7},
    )
    assert (shared <= {1, 2, 5, 6}, shared > {1}, shared.isdisjoint({9}), shared.union({9})) == (
        True,
        True,
        True,
        {1, 2, 5, 9},
    )
    shared.discard(1)
    shared.update([8])
    assert type(shared).__name__ == "SetProxy"
    assert shared.difference({2}) == {5, 8}
    with pytest.raises(TypeError):
        shared |= [1]


@NEWER
def test_newer_methods(manager):
    shared = manager.list([1])
    assert shared.copy() == [1]
    shared.clear()
    assert shared[:] == []
    mapping = manager.dict(a=1)
    assert (mapping | {"b": 2}, {"c": 3} | mapping) == ({"a": 1, "b": 2}, {"c": 3, "a": 1})
    mapping |= {"d": 4}
    assert list(mapping.copy()) == ["a", "d"]
    assert mapping.fromkeys([1, 2], 0) == {1: 0, 2: 0}
    assert type(mapping).__name__ == "DictProxy"
    for name in ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"):
        lock = getattr(manager, name)()
        assert not lock.locked()
        with lock:
            assert lock.locked(), name
        assert not lock.locked()


# --- of the other package, from another program ---

OTHER = {"manycore": "multiprocessing", "multiprocessing": "manycore"}


_queue = queue.Queue()


def the_queue():
    return _queue


def server_and_client(ours, theirs):
    """The same interface in two packages (or twice in one), the objects in the first."""

    class Serving(ours.BaseManager):
        pass

    class Using(theirs.BaseManager):
        pass

    Serving.register("the_queue", the_queue)
    Serving.register("Counter", Counter)
    Using.register("the_queue")
    Using.register("Counter")
    return Serving, Using


@pytest.mark.parametrize("serializer", ["pickle", "xmlrpclib"])
@pytest.mark.parametrize("address", [("127.0.0.1", 0), None])
@pytest.mark.parametrize("client", ["multiprocessing", "manycore"])
def test_remote(mp, managers, client, address, serializer):
    serving, using = server_and_client(managers, importlib.import_module(f"{client}.managers"))
    with serving(address, b"key", serializer, mp.get_context("fork")) as server:
        with pytest.raises(Exception, match=r"digest|key"):
            using(server.address, b"another key", serializer).connect()
        remote = using(server.address, b"key", serializer)
        remote.connect()
        assert not hasattr(remote, "shutdown")
        shared = remote.the_queue()
        shared.put(["text", None, 2.5, True, b"bytes" if serializer == "pickle" else 1])
        local = server.the_queue()
        assert local.get()[:4] == ["text", None, 2.5, True]
        counter = remote.Counter()
        assert [counter.up() for _ in range(3)] == [1, 2, 3]
        del shared, local, counter
        gc.collect()
        assert server._number_of_objects() == 0
        del remote
    server.join()


@pytest.mark.only("manycore", reason="what is tested is ours against theirs")
def test_all_types_from_the_other_packages_client(mp, managers):
    standard = importlib.import_module("multiprocessing.managers")
    with managers.SyncManager(authkey=b"key") as server:
        remote = standard.SyncManager(server.address, b"key")
        remote.connect()
        test_list(remote)
        test_dict(remote)
        test_values(remote)
        test_queues(remote)
        gc.collect()
        assert server._number_of_objects() == 0
    server.join()


@pytest.mark.only("multiprocessing", reason="what is tested is ours against theirs")
def test_all_types_in_the_other_packages_server(mp, managers):
    ours = importlib.import_module("manycore.managers")
    with managers.SyncManager(authkey=b"key") as server:
        remote = ours.SyncManager(server.address, b"key")
        remote.connect()
        test_list(remote)
        test_dict(remote)
        test_values(remote)
        test_queues(remote)
        test_locks(remote)
        gc.collect()
        assert server._number_of_objects() == 0
    server.join()


def serve_here(mp_name, writer):
    managers = importlib.import_module(f"{mp_name}.managers")
    serving, _ = server_and_client(managers, managers)
    server = serving(("127.0.0.1", 0), b"key").get_server()
    with os.fdopen(writer, "w") as file:
        file.write(str(server.address[1]))
    server.serve_forever()


def test_serve_forever(mp, managers):
    reader, writer = os.pipe()
    child = mp.get_context("fork").Process(target=serve_here, args=(mp.__name__, writer))
    child.start()
    os.close(writer)
    with os.fdopen(reader) as file:
        port = int(file.read())
    _, using = server_and_client(managers, managers)
    remote = using(("127.0.0.1", port), b"key")
    remote.connect()
    assert remote.Counter(3).up() == 4
    connection = importlib.import_module(f"{mp.__name__}.connection")
    with connection.Client(remote.address, authkey=b"key") as conn:
        managers.dispatch(conn, None, "shutdown")
    child.join()
    assert child.exitcode == 0
    del remote
