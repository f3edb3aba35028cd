"""Managers: shared objects, proxies, who keeps them, and what becomes of it all when somebody dies."""

import array
import copy
import gc
import importlib
import os
import pickle
import queue
import random
import signal
import threading

import pytest

from support import census, tasks

OTHER = {"manycore": "multiprocessing", "multiprocessing": "manycore"}


@pytest.fixture
def managers(mp):
    return importlib.import_module(f"{mp.__name__}.managers")


@pytest.fixture
def manager(mp):
    """One manager in the interpreter's default start method."""
    with mp.Manager() as manager:
        yield manager
    manager.join()


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


# --- proxies ---


def fill(shared, key):
    shared[key] = os.getpid()


def test_in_children(ctx):
    with ctx.Manager() as manager:
        shared = manager.dict()
        children = [ctx.Process(target=fill, args=(shared, n)) for n in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert shared.copy() == {n: child.pid for n, child in enumerate(children)}
        assert manager._number_of_objects() == 1
    manager.join()


def test_in_a_child_of_os_fork(manager):
    """It is no child of the package's making, and its proxies work."""
    shared = manager.dict()
    shared["parent"] = 1
    pid = os.fork()
    if pid == 0:
        try:
            shared["child"] = shared["parent"] + 1
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    shared["afterwards"] = 3
    assert shared.copy() == {"parent": 1, "child": 2, "afterwards": 3}


def forward(shared, gate):
    gate.arrive()
    shared.append(2)


@pytest.mark.only("manycore", reason="there the child of spawn has no reference, and the parent drops its own")
def test_a_child_keeps_what_its_parent_drops(ctx, gate):
    with ctx.Manager() as manager:
        outer = manager.list([manager.list([1])])
        child = ctx.Process(target=forward, args=(outer[0], gate))
        child.start()
        gate.arrivals(1)
        keep = manager.list([outer[0]])
        del outer
        gc.collect()
        gate.open()
        child.join()
        assert child.exitcode == 0
        assert keep[0][:] == [1, 2]
        del keep, child
        gc.collect()
        assert manager._number_of_objects() == 0
    manager.join()


def test_references(manager):
    assert manager._number_of_objects() == 0
    shared = manager.dict()
    twin = pickle.loads(pickle.dumps(shared))
    twin["a"] = 1
    assert shared["a"] == 1
    other = manager.list()
    assert manager._number_of_objects() == 2
    assert "refcount=2" in manager._debug_info()
    del shared, twin, other
    gc.collect()
    assert manager._number_of_objects() == 0


def test_proxies_in_proxies(manager):
    inner = manager.list([1, 2])
    outer = manager.dict(a=inner)
    inner.append(3)
    assert outer["a"][:] == [1, 2, 3]
    outer["a"].append(4)
    assert inner[:] == [1, 2, 3, 4]
    del inner
    gc.collect()
    assert outer["a"][:] == [1, 2, 3, 4], "the outer one keeps it"
    again = outer["a"]
    outer.clear()
    assert again[:] == [1, 2, 3, 4]
    itself = manager.list()
    itself.append(itself)
    assert len(itself[0]) == 1


@pytest.mark.only("manycore", reason="there what was ever in a shared container is kept for ever")
def test_what_nothing_refers_to_any_more_goes(mp, managers):
    class Thing:
        def __del__(self):
            os.write(self.pipe, b"x")

    reader, writer = os.pipe()

    def make():
        thing = Thing()
        thing.pipe = writer
        return thing

    class Manager(managers.SyncManager):
        pass

    Manager.register("Thing", make, exposed=("__repr__",))
    with Manager(ctx=mp.get_context("fork")) as manager:
        os.close(writer)
        outer = manager.list([manager.Thing()])
        gc.collect()
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        outer.pop()
        assert outer[:] == [], "what a thread was given is kept until it asks for something else"
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b"x"
    manager.join()
    os.close(reader)


def test_threads_have_connections_of_their_own(manager):
    shared = manager.Queue()
    got = []
    threads = [threading.Thread(target=lambda: got.append(shared.get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(4):
        shared.put(n)
    for thread in threads:
        thread.join()
    assert sorted(got) == [0, 1, 2, 3]


def test_errors(managers, manager):
    shared = manager.list()
    with pytest.raises(managers.RemoteError, match="is not in exposed"):
        shared._callmethod("__class__")
    with pytest.raises(Exception, match="lambda"):
        shared.append(lambda: None)
    shared.append(1)
    assert shared[:] == [1], "the connection is good for more"
    unsendable = manager.Queue()
    with pytest.raises(TypeError):
        shared.append(1, 2)
    with pytest.raises(AttributeError):
        _ = unsendable.no_such_method


class Unloadable:
    def __reduce__(self):
        return broken, ()


def broken():
    raise ValueError("does not load")


def test_what_does_not_load_in_the_manager(managers, manager):
    shared = manager.list()
    with pytest.raises(managers.RemoteError, match="does not load"):
        shared.append(Unloadable())
    assert shared[:] == []


# --- managers ---


class Counter:
    def __init__(self, start=0):
        self.count = start

    def up(self, by=1):
        self.count += by
        return self.count

    def fail(self):
        raise ValueError("from the manager")

    def _hidden(self):
        return "hidden"


def numbers():
    yield from range(5)


def define(managers):
    class Mine(managers.BaseManager):
        pass

    class NumbersProxy(managers.BaseProxy):
        _exposed_ = ("__next__",)

        def __iter__(self):
            return self

        def __next__(self):
            return self._callmethod("__next__")

    Mine.register("Counter", Counter)
    Mine.register("Hidden", Counter, exposed=("up", "_hidden"))
    Mine.register("numbers", numbers, proxytype=NumbersProxy)
    Mine.register("Many", dict, method_to_typeid={"get": "Counter"})
    Mine.register("silent", Counter, create_method=False)
    return Mine


def test_types_of_ones_own(mp, managers):
    kind = define(managers)
    with kind(ctx=mp.get_context("fork")) as manager:
        counter = manager.Counter(5)
        assert (counter.up(), counter.up(by=4)) == (6, 10)
        with pytest.raises(ValueError, match="from the manager"):
            counter.fail()
        assert [hasattr(counter, name) for name in ("up", "_hidden")] == [True, False]
        with pytest.raises(managers.RemoteError):
            counter._callmethod("_hidden")
        assert manager.Hidden()._hidden() == "hidden"
        assert not hasattr(manager.Hidden(), "fail")
        assert list(manager.numbers()) == [0, 1, 2, 3, 4]
        assert not hasattr(manager, "silent")
        assert not hasattr(managers.BaseManager, "Counter"), "registered for the class alone"
        assert repr(counter).startswith("<AutoProxy[Counter] object, typeid 'Counter' at ")
    manager.join()


def raise_end_of_file():
    raise EOFError("in the manager")


def test_a_type_that_cannot_be_made(mp, managers):
    kind = define(managers)
    kind.register("Broken", raise_end_of_file)
    with kind(ctx=mp.get_context("fork")) as manager:
        counter = manager.Counter()
        with pytest.raises(managers.RemoteError, match="EOFError: in the manager"):
            manager.Broken()
        with pytest.raises(managers.RemoteError, match="KeyError"):
            manager._create("no such type")
        assert counter.up() == 1
        assert manager._number_of_objects() == 1
        del counter
    manager.join()


def test_the_state_of_a_manager(mp, managers):
    manager = managers.BaseManager()
    assert not hasattr(manager, "shutdown")
    with pytest.raises(TypeError, match="initializer must be a callable"):
        manager.start(initializer=1)
    manager.start()
    for call in (manager.start, manager.get_server):
        with pytest.raises(mp.ProcessError, match="Already started server"):
            call()
    pid = manager._process.pid
    child = manager._process
    manager.shutdown()
    assert child.exitcode == 0
    assert not os.path.exists(f"/proc/{pid}")
    for call in (manager.start, manager.get_server, manager.__enter__):
        with pytest.raises(mp.ProcessError, match="Manager has shut down"):
            call()
    manager.join()


def note_pid(shared):
    shared.append(os.getpid())


def test_an_initializer(mp, manager, managers):
    shared = manager.list()
    other = managers.SyncManager()
    other.start(note_pid, (shared,))
    assert shared[:] == [other._process.pid]
    other.shutdown()
    other.join()


def test_the_name_of_its_process(mp, manager):
    assert manager._process.name.startswith("SyncManager-")
    assert manager._process in mp.active_children()


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


def test_nobody_listens(mp, managers):
    with pytest.raises(OSError):
        managers.BaseManager(("127.0.0.1", 1), b"key").connect()


def test_an_address_that_is_taken(mp, managers):
    with managers.BaseManager(("127.0.0.1", 0)) as manager:
        other = managers.BaseManager(manager.address)
        with pytest.raises((OSError, EOFError)):
            other.start()
    manager.join()
    gc.collect()


# --- SharedMemoryManager ---


def test_segments(mp, managers):
    with managers.SharedMemoryManager() as manager:
        segment = manager.SharedMemory(100)
        shared = manager.ShareableList([1, "two"])
        names = [segment.name, shared.shm.name]
        assert all(os.path.exists(f"/dev/shm/{name}") for name in names)
        segment.close()
        shared.shm.close()
    assert not any(os.path.exists(f"/dev/shm/{name}") for name in names)
    with pytest.raises((ValueError, OSError)):
        managers.SharedMemoryManager().SharedMemory(1)
    manager.join()
    importlib.import_module(f"{mp.__name__}.resource_tracker")._resource_tracker._stop()


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
        for request in (1, (), (1, 2, 3), ("0", "x", (), {}), (None, "no such function", (), {}), ([], "x", (), {})):
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


# --- messages ---


class Fake:
    """A connection with one answer."""

    def __init__(self, *answer):
        self.answer = answer
        self.sent = []

    def send(self, message):
        self.sent.append(message)

    def recv(self):
        return self.answer


def test_dispatch(managers):
    conn = Fake("#RETURN", 5)
    assert managers.dispatch(conn, "id", "name", (1,), {"a": 2}) == 5
    assert conn.sent == [("id", "name", (1,), {"a": 2})]
    for answer, error, words in (
        (("#ERROR", KeyError("k")), KeyError, "k"),
        (("#TRACEBACK", "text"), managers.RemoteError, "text"),
        (("#UNSERIALIZABLE", "text"), managers.RemoteError, "Unserializable message: text"),
        (("#TRACEBACK", 5), TypeError, "not str"),
        (("#NONSENSE", 5), ValueError, "Unrecognized message type"),
    ):
        with pytest.raises(error, match=words):
            managers.dispatch(Fake(*answer), None, "x")


def test_methods(managers):
    assert managers.public_methods(Counter()) == ["fail", "up"]
    assert {"__init__", "up", "_hidden"} <= set(managers.all_methods(Counter()))


def test_proxy_types(managers):
    kind = managers.MakeProxyType("Kind", ("one", "two"))
    assert kind is managers.MakeProxyType("Kind", ("one", "two"))
    assert issubclass(kind, managers.BaseProxy)
    assert kind._exposed_ == ("one", "two")
    token = managers.Token("type", "address", "id")
    assert repr(token) == "Token(typeid='type', address='address', id='id')"
    twin = pickle.loads(pickle.dumps(token))
    assert (twin.typeid, twin.address, twin.id) == ("type", "address", "id")
    assert repr(managers.Namespace(b=2, a=1, _c=3)) == "Namespace(a=1, b=2)"
