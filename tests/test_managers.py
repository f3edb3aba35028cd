"""Managers: proxies, how long objects are kept, types of one's own."""

import gc
import importlib
import os
import pickle
import threading

import pytest

from support.managed import Counter

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
    with pytest.raises(Exception, match="lock"):
        shared.append(threading.Lock())
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
