"""Connections in use: waiting, other processes, descriptors that travel, subclasses, other picklers."""

import importlib
import os
import pickle
import select
import signal
import socket
import threading
import time

import pytest

from support import census
from support.alarm import Alarm, raising
from support.connections import connection_of, threads


@pytest.fixture(params=["duplex", "one-way"])
def pipe(mp, request):
    """(receiving end, sending end), of both kinds of pipe."""
    reader, writer = mp.Pipe(duplex=request.param == "duplex")
    with reader, writer:
        yield reader, writer


# --- waiting ---


def test_poll(pipe):
    reader, writer = pipe
    assert reader.poll() is False
    assert reader.poll(0) is False
    assert reader.poll(-1) is False
    assert reader.poll(0.01) is False
    with threads(lambda: writer.send(1)):
        assert reader.poll(None) is True
    assert reader.poll(10) is True
    assert reader.recv() == 1
    with pytest.raises(TypeError):
        reader.poll("1")


@pytest.mark.only("manycore", reason="the standard package sleeps through a signal that comes just before it sleeps")
def test_a_signal_at_any_moment_ends_a_wait(pipe):
    """A handler that raises ends it, whether the signal comes before the wait, while it looks, or while it sleeps."""
    reader, writer = pipe
    rounds = threading.Semaphore(0)

    def interrupt(delays):
        for delay in delays:
            rounds.acquire()
            end = time.perf_counter() + delay
            while time.perf_counter() < end:
                pass
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR2)

    delays = [step * 2e-6 for step in range(150)]
    waits = [reader.recv, reader.recv_bytes, lambda: reader.poll(None), lambda: reader.poll(50)]
    with raising(signal.SIGUSR2):
        for wait in waits:
            with threads(lambda: interrupt(delays)):
                for _ in delays:
                    # What is received quickly makes the next wait look for a while before it sleeps.
                    writer.send_bytes(b"x")
                    reader.recv_bytes()
                    with pytest.raises(Alarm):
                        rounds.release()
                        wait()


@pytest.mark.only("manycore", reason="the standard package sleeps through a signal that comes just before it sleeps")
def test_a_signal_ends_a_send_that_has_begun(pipe):
    """Its handler runs at once, also when a part of the message has gone and there is no room for the rest."""
    reader, writer = pipe

    def interrupt():
        reader.poll(None)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR2)

    with raising(signal.SIGUSR2), threads(interrupt), pytest.raises(Alarm):
        # One call of the system's, so whoever sees its first byte sees it at work.
        writer.send_bytes(bytes(512 << 10))


def test_readability_is_exact(pipe):
    """An event loop that sleeps on the descriptor must see each message, and nothing that is not there."""
    reader, writer = pipe
    for message in (b"", b"a", b"b" * 100, b"c" * 5000):
        for _ in range(3):
            writer.send_bytes(message)
    for left in range(12, 0, -1):
        assert select.select([reader], [], [], 0)[0] == [reader], left
        reader.recv_bytes()
    assert select.select([reader], [], [], 0)[0] == []


def test_wait(mp, ctx):
    wait = connection_of(mp).wait
    (reader, writer), (one, other) = mp.Pipe(duplex=False), mp.Pipe()
    left, right = socket.socketpair()
    child = ctx.Process(target=int)
    with reader, writer, one, other, left, right:
        objects = [reader, one, left, right.fileno()]
        assert wait(objects, 0) == wait(objects, -1) == wait(objects, 0.01) == wait([], 0) == []
        writer.send(1)
        assert wait(objects) == [reader]
        other.close()
        left.send(b"x")
        assert set(wait(objects, 10)) == {reader, one, right.fileno()}
        child.start()
        assert wait([child.sentinel, left], None) == [child.sentinel]
        with pytest.raises(ValueError):
            wait(["nothing"])
        with pytest.raises(KeyError):
            wait([reader, reader])
    child.join()
    child.close()


def test_an_asyncio_reader(mp):
    import asyncio

    async def receive(reader, writer):
        arrived = asyncio.Queue()
        loop = asyncio.get_running_loop()
        loop.add_reader(reader.fileno(), lambda: arrived.put_nowait(reader.recv()))
        loop.call_soon(writer.send, "one")
        assert await arrived.get() == "one"
        writer.send("two")
        assert await arrived.get() == "two"
        loop.remove_reader(reader.fileno())

    reader, writer = mp.Pipe()
    with reader, writer:
        asyncio.run(receive(reader, writer))


def test_non_blocking_descriptors(pipe):
    reader, writer = pipe
    for end in pipe:
        os.set_blocking(end.fileno(), False)
    with pytest.raises(BlockingIOError):
        reader.recv()
    writer.send(1)
    assert reader.recv() == 1


# --- other processes ---


def echo(connection):
    with connection:
        # A forked child holds the other end as well, so no end of file would tell it to stop.
        while (value := connection.recv()) is not None:
            connection.send(value)


def test_a_pipe_to_a_child(mp, ctx):
    numpy = pytest.importorskip("numpy")
    ours, theirs = ctx.Pipe()
    child = ctx.Process(target=echo, args=(theirs,))
    child.start()
    theirs.close()
    with ours:
        for value in (1, "x" * 100, [1, {"a": b"y" * 5000}], numpy.arange(10), bytes(100_000)):
            ours.send(value)
            received = ours.recv()
            assert type(received) is type(value) and str(received) == str(value)
        ours.send(None)
    child.join()
    assert child.exitcode == 0
    child.close()


def fetch(connection, done):
    """Receives connections and answers over each."""
    while True:
        other = connection.recv()
        if other is None:
            break
        with other:
            if other.readable:
                other.recv()
            if other.writable:
                other.send("answered")
    done.send(len(os.listdir("/proc/self/fd")))


def test_connections_sent_to_a_running_process(mp, ctx):
    """As in the standard package: the descriptor comes over a socket when the object is unpickled."""
    sharer = importlib.import_module(f"{mp.__name__}.resource_sharer")
    ours, theirs = ctx.Pipe()
    done, told = ctx.Pipe(duplex=False)
    child = ctx.Process(target=fetch, args=(theirs, told))
    child.start()
    theirs.close()
    told.close()
    try:
        for _ in range(3):
            one, other = mp.Pipe()
            with one, other:
                ours.send(other)
                one.send("question")
                assert one.recv() == "answered"
            reader, writer = mp.Pipe(duplex=False)
            with reader, writer:
                ours.send(writer)
                assert reader.recv() == "answered"
        ours.send(None)
        assert done.recv() < 40
    finally:
        ours.close()
        done.close()
        child.join()
        child.close()
        sharer.stop(timeout=30)


def test_sockets_sent_to_a_running_process(mp, ctx):
    sharer = importlib.import_module(f"{mp.__name__}.resource_sharer")
    one, other = mp.Pipe()
    left, right = socket.socketpair()
    try:
        with one, other, left, right:
            one.send(left)
            with other.recv() as copy:
                assert (copy.family, copy.type) == (left.family, left.type)
                copy.send(b"hello")
                assert right.recv(10) == b"hello"
    finally:
        sharer.stop(timeout=30)


@pytest.mark.only("manycore", reason="the standard package leaves them until its temporary folder goes")
def test_descriptors_nobody_fetches_are_closed_when_sharing_stops(mp):
    sharer = importlib.import_module(f"{mp.__name__}.resource_sharer")
    before = census.descriptor_kinds()
    one, other = mp.Pipe()
    with one, other:
        for _ in range(20):
            one.send(other)
            other.recv_bytes()
        sharer.stop(timeout=30)
    assert census.descriptor_kinds() == before


@pytest.mark.only("manycore", reason="the standard package's thread dies of the KeyError's report alone")
def test_a_descriptor_can_be_fetched_once(mp):
    sharer = importlib.import_module(f"{mp.__name__}.resource_sharer")
    handle = sharer.DupFd(0)
    try:
        os.close(handle.detach())
        with pytest.raises(OSError):
            handle.detach()
    finally:
        sharer.stop(timeout=30)


def test_handles(mp):
    reduction = importlib.import_module(f"{mp.__name__}.reduction")
    assert reduction.HAVE_SEND_HANDLE
    one, other = mp.Pipe()
    with one, other, open(os.devnull) as file:
        # From CPython 3.14 on the sender waits for the receiver.
        sender = threading.Thread(target=reduction.send_handle, args=(one, file.fileno(), os.getpid()))
        sender.start()
        fd = reduction.recv_handle(other)
        sender.join()
        assert os.path.sameopenfile(fd, file.fileno())
        os.close(fd)
        one.send_bytes(b"x")
        with pytest.raises(RuntimeError):
            reduction.recv_handle(other)


# --- a subclass, and a replaced pickler ---


def test_a_subclass_with_steps_of_its_own(mp):
    connection = connection_of(mp)
    seen = []

    class Counting(connection.Connection):
        def _send_bytes(self, buf):
            seen.append(("out", len(buf)))
            super()._send_bytes(buf)

        def _recv_bytes(self, maxsize=None):
            message = super()._recv_bytes(maxsize)
            seen.append(("in", len(message.getvalue())))
            return message

    class Plain(connection.Connection):
        pass

    for kind in (Counting, Plain):
        plain = mp.Pipe()
        one, other = (kind(os.dup(end.fileno())) for end in plain)
        with one, other, plain[0], plain[1]:
            for value in ([1, 2], b"x" * 100_000):
                with threads(lambda one=one, value=value: one.send(value)):
                    assert other.recv() == value
            one.send_bytes(b"abc")
            assert other.recv_bytes() == b"abc"
            # Each kind of end understands the other.
            plain[0].send("from a plain end")
            assert other.recv() == "from a plain end"
            one.send("to a plain end")
            assert plain[1].recv() == "to a plain end"
    assert seen[:2] == [("out", seen[1][1]), ("in", seen[1][1])]
    assert ("in", 3) in seen


def test_a_step_that_a_program_has_replaced(mp, monkeypatch):
    """As the recipes for messages above 2 GiB do it, in the class itself."""
    connection = connection_of(mp)
    seen = []
    send, receive = connection.Connection._send_bytes, connection.Connection._recv_bytes

    def counted_send(self, buf):
        seen.append("out")
        send(self, buf)

    def counted_receive(self, maxsize=None):
        seen.append("in")
        return receive(self, maxsize)

    for method in ("send", "send_bytes", "recv", "recv_bytes", "recv_bytes_into", "poll"):
        # Put back in the end, as they are.
        monkeypatch.setattr(connection.Connection, method, getattr(connection.Connection, method))
    monkeypatch.setattr(connection.Connection, "_send_bytes", counted_send)
    monkeypatch.setattr(connection.Connection, "_recv_bytes", counted_receive)
    one, other = mp.Pipe()
    with one, other:
        one.send([1, 2])
        assert other.recv() == [1, 2]
        other.send_bytes(b"abc")
        assert one.recv_bytes() == b"abc"
    assert seen == ["out", "in"] * 2


def test_a_registered_reducer(mp):
    reduction = importlib.import_module(f"{mp.__name__}.reduction")

    class Local:
        pass

    reduction.ForkingPickler.register(Local, lambda obj: (str, ("reduced",)))
    one, other = mp.Pipe()
    with one, other:
        one.send([Local()])
        assert other.recv() == ["reduced"]
    del reduction.ForkingPickler._extra_reducers[Local]


def test_a_replaced_pickler(mp, monkeypatch):
    connection = connection_of(mp)

    class Marked(connection._ForkingPickler):
        @classmethod
        def dumps(cls, obj, protocol=None):
            return b"mark" + bytes(super().dumps(obj, protocol))

        @staticmethod
        def loads(data):
            assert bytes(data[:4]) == b"mark"
            return pickle.loads(data[4:])

    monkeypatch.setattr(connection, "_ForkingPickler", Marked)
    one, other = mp.Pipe()
    with one, other:
        for value in (1, [1, 2], b"x" * 100_000):
            one.send(value)
            assert other.recv() == value
        one.send(5)
        assert other.recv_bytes()[:4] == b"mark"


def test_a_patched_pickler(mp):
    """What is replaced in the class itself is heeded as well; in a process of its own, for it is for good."""
    context = mp.get_context("fork")
    answer, told = mp.Pipe(duplex=False)
    child = context.Process(target=send_patched, args=(mp.__name__, told))
    child.start()
    told.close()
    with answer:
        assert answer.recv_bytes() == b"heeded"
    child.join()
    child.close()


def send_patched(name, told):
    mp = importlib.import_module(name)
    reduction = importlib.import_module(f"{name}.reduction")
    own = reduction.ForkingPickler.dumps
    reduction.ForkingPickler.dumps = classmethod(lambda cls, obj, protocol=None: b"mark" + bytes(own(obj)))
    reduction.ForkingPickler.loads = lambda data: pickle.loads(bytes(data)[4:])
    one, other = mp.Pipe()
    with one, other:
        one.send(5)
        one.send(5)
        assert other.recv_bytes()[:4] == b"mark"
        assert other.recv() == 5
    told.send_bytes(b"heeded")
