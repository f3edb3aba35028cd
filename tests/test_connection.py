"""Connections: messages, ends, limits, waiting; pipes inherited and pickled; listeners and clients of both packages."""

import array
import contextlib
import importlib
import math
import os
import pickle
import select
import signal
import socket
import threading
import time

import pytest

from support import census

MB = 1 << 20


def connection_of(mp):
    return importlib.import_module(f"{mp.__name__}.connection")


@pytest.fixture(params=["duplex", "one-way"])
def pipe(mp, request):
    """(receiving end, sending end), of both kinds of pipe."""
    reader, writer = mp.Pipe(duplex=request.param == "duplex")
    with reader, writer:
        yield reader, writer


@contextlib.contextmanager
def threads(*functions):
    """Runs functions beside the test; what they raise, it raises."""
    failures = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            failures.append(error)

    running = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for one in running:
        one.start()
    try:
        yield
    finally:
        for one in running:
            one.join()
    if failures:
        raise failures[0]


# --- messages ---

SCALARS = [
    *[None, True, False, 0, 1, 255, 256, 65535, 65536, -1, -128, -129, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1],
    *[2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**200, 0.0, -0.0, 1.5, math.inf, 1e300],
    *["", "a", "é€😀", "x" * 255, "x" * 256, b"", b"a", b"\0" * 255, b"x" * 256, bytearray(b"abc")],
]


@pytest.mark.parametrize("value", SCALARS, ids=lambda value: f"{type(value).__name__}-{repr(value)[:12]}")
def test_scalars(pipe, value):
    reader, writer = pipe
    writer.send(value)
    received = reader.recv()
    assert received == value and type(received) is type(value)
    assert math.copysign(1, received) == math.copysign(1, value) if isinstance(value, float) else True


@pytest.mark.parametrize("value", SCALARS, ids=lambda value: f"{type(value).__name__}-{repr(value)[:12]}")
def test_what_is_sent_is_a_pickle(pipe, value):
    """Either half may be left to the program: it pickles and sends bytes, or receives bytes and unpickles."""
    reader, writer = pipe
    writer.send(value)
    message = reader.recv_bytes()
    assert pickle.loads(message) == value
    assert message == pickle.dumps(value, message[1])
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        writer.send_bytes(pickle.dumps(value, protocol))
        assert reader.recv() == value


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return isinstance(other, Point) and self.x == other.x


def test_objects(pipe):
    reader, writer = pipe
    shared = ["twice"]
    value = {"a": [1, (2, 3)], "p": Point([1.5]), "s": {1, 2}, "t": (shared, shared), 5: frozenset([b"x"])}
    writer.send(value)
    received = reader.recv()
    assert received == value
    assert received["t"][0] is received["t"][1]
    loop = []
    loop.append(loop)
    writer.send(loop)
    received = reader.recv()
    assert received[0] is received


SIZES = [0, 1, 59, 60, 61, 63, 64, 500, 508, 1020, 1024, 1025, 16384, 16385, 65536, 65537, MB - 1, MB, 3 * MB + 7]


@pytest.mark.parametrize("size", SIZES)
def test_sizes(pipe, size):
    reader, writer = pipe
    data = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    copy = bytearray(size)

    def send():
        writer.send_bytes(data)
        writer.send_bytes(data)
        writer.send(data)
        writer.send([data, "end"])

    with threads(send):
        assert reader.recv_bytes() == data
        assert reader.recv_bytes_into(copy) == size
        assert copy == data
        assert reader.recv() == data
        assert reader.recv() == [data, "end"]
    assert not reader.poll()


LARGE = [
    lambda: bytes(5 * MB),
    lambda: bytearray(b"xy" * 3 * MB),
    lambda: "text €" * MB,
    lambda: [b"a" * 300_000, bytearray(b"b" * 5 * MB), {"k": b"c" * (2 * MB)}, "t" * MB, b"d" * 100_000],
    lambda: list(range(300_000)),
    lambda: {"first": b"e" * MB, "array": array.array("d", range(MB))},
]


@pytest.mark.parametrize("make", LARGE)
@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_large_pickles(pipe, make, protocol):
    """Large strings are received apart, from whatever pickle; types, values and aliases stay what they were."""
    reader, writer = pipe
    value = make()
    message = pickle.dumps([value, value], protocol)

    def send():
        writer.send_bytes(message)
        writer.send([value, value])

    with threads(send):
        for _ in range(2):
            first, second = reader.recv()
            assert first == value and type(first) is type(value)
            assert first is second
    assert not reader.poll()


def test_arrays(pipe):
    numpy = pytest.importorskip("numpy")
    reader, writer = pipe
    value = numpy.arange(MB, dtype="d").reshape(1024, 1024)
    frozen = value.copy()
    frozen.flags.writeable = False
    cases = [value, value.T, value[::2], frozen, value[:0], numpy.array(5)]
    with threads(lambda: writer.send(cases)):
        received = reader.recv()
    for one, other in zip(cases, received, strict=True):
        assert (one == other).all() and one.dtype == other.dtype
    received[0][0, 0] = -1.0
    assert value[0, 0] == 0.0


def test_what_is_sent_may_change_afterwards(pipe):
    """Large pieces are not copied by the sender; that must not show."""
    reader, writer = pipe
    data = bytearray(b"1" * (40 * MB))
    sent = threading.Event()

    def send():
        writer.send_bytes(data)
        data[:] = b"2" * len(data)
        sent.set()

    with threads(send):
        received = reader.recv_bytes()
    assert sent.is_set()
    assert received == b"1" * (40 * MB)


def test_sending_waits_for_the_reader(pipe):
    reader, writer = pipe
    sent = threading.Event()

    def send():
        writer.send_bytes(bytes(40 * MB))
        sent.set()

    with threads(send):
        assert reader.poll(None)
        assert not sent.is_set()
        reader.recv_bytes()
    assert sent.is_set()


@pytest.mark.large
@pytest.mark.deadline(120)
def test_more_than_two_gigabytes(mp):
    reader, writer = mp.Pipe()
    data = bytearray(2**31 + 10)
    data[-1] = 7
    with reader, writer, threads(lambda: (writer.send_bytes(data), writer.send("next"))):
        received = reader.recv_bytes()
        assert len(received) == 2**31 + 10 and received[-1] == 7
        assert reader.recv() == "next"


# --- arguments and limits ---


def test_slices_of_a_buffer(pipe):
    reader, writer = pipe
    data = b"0123456789"
    for arguments in [(data,), (data, 3), (data, 3, 4), (data, 10), (data, 0, 0), (bytearray(data), 1, 2)]:
        writer.send_bytes(*arguments)
        buffer, offset, size = (*arguments, *(0, None)[len(arguments) - 1 :])
        end = len(buffer) if size is None else offset + size
        assert reader.recv_bytes() == buffer[offset:end]
    writer.send_bytes(array.array("i", [1, 2]), 4)
    assert reader.recv_bytes() == array.array("i", [2]).tobytes()
    for wrong in [(data, -1), (data, 11), (data, 3, -1), (data, 3, 8), (data, 11, 0)]:
        with pytest.raises(ValueError):
            writer.send_bytes(*wrong)
    with pytest.raises(TypeError):
        writer.send_bytes("text")
    assert not reader.poll()


def test_receiving_into_a_buffer(pipe, mp):
    reader, writer = pipe
    buffer = bytearray(b"----------")
    for size in (0, 3, 10):
        writer.send_bytes(b"x" * size)
        assert reader.recv_bytes_into(buffer) == size
    writer.send_bytes(b"abc")
    assert reader.recv_bytes_into(buffer, 7) == 3
    assert buffer == b"xxxxxxxabc"
    numbers = array.array("i", [0] * 4)
    writer.send_bytes(array.array("i", [5, 6]))
    assert reader.recv_bytes_into(numbers, 4) == 8
    assert list(numbers) == [0, 5, 6, 0]
    for size in (11, 100_000):
        with threads(lambda size=size: writer.send_bytes(b"y" * size)), pytest.raises(mp.BufferTooShort) as caught:
            reader.recv_bytes_into(buffer)
        assert caught.value.args == (b"y" * size,)
    assert buffer == b"xxxxxxxabc"
    for offset in (-1, 11):
        with pytest.raises(ValueError):
            reader.recv_bytes_into(buffer, offset)


@pytest.mark.only("manycore", reason="the standard package takes the message before it looks at the buffer")
def test_a_read_only_buffer_costs_no_message(pipe):
    reader, writer = pipe
    writer.send_bytes(b"kept")
    with pytest.raises(TypeError):
        reader.recv_bytes_into(b"read-only")
    assert reader.recv_bytes() == b"kept"


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_message_that_is_too_long(mp, size):
    for duplex in (True, False):
        reader, writer = mp.Pipe(duplex)
        with reader, writer:
            writer.send_bytes(b"x" * 5)
            assert reader.recv_bytes(5) == b"x" * 5
            with pytest.raises(ValueError):
                reader.recv_bytes(-1)

            def send(writer=writer):
                with contextlib.suppress(BrokenPipeError):
                    writer.send_bytes(b"x" * size)

            with threads(send):
                with pytest.raises(OSError, match="bad message length"):
                    reader.recv_bytes(size - 1)
                assert reader.closed is not duplex
                if duplex:
                    assert not reader.readable and reader.writable
                    reader.send("still sends")
                    assert writer.recv() == "still sends"
                with pytest.raises(OSError):
                    reader.recv_bytes()
                reader.close()


def test_directions(mp):
    reader, writer = mp.Pipe(duplex=False)
    with reader, writer:
        assert (reader.readable, reader.writable, writer.readable, writer.writable) == (True, False, False, True)
        for call in (lambda: reader.send(1), lambda: reader.send_bytes(b"")):
            with pytest.raises(OSError, match="connection is read-only"):
                call()
        for call in (writer.recv, writer.recv_bytes, writer.poll, lambda: writer.recv_bytes_into(bytearray(1))):
            with pytest.raises(OSError, match="connection is write-only"):
                call()


def test_closed(mp):
    one, other = mp.Pipe()
    one.close()
    one.close()
    assert one.closed and not other.closed
    calls = [one.fileno, one.recv, one.recv_bytes, one.poll, lambda: one.send(1), lambda: one.send_bytes(b"")]
    for call in [*calls, lambda: one.recv_bytes_into(bytearray(1))]:
        with pytest.raises(OSError, match="handle is closed"):
            call()
    with other as entered:
        assert entered is other
    assert other.closed


def test_construction(mp):
    connection = connection_of(mp)
    for wrong in [(-1,), (1, False, False)]:
        with pytest.raises(ValueError):
            connection.Connection(*wrong)
    with pytest.raises((TypeError, AttributeError)):
        connection.Connection("1")
    first, second = (connection.Connection(end.detach()) for end in socket.socketpair())
    with first, second:
        first.send([1])
        assert second.recv() == [1]
    nothing = connection.Connection(os.open(os.devnull, os.O_RDWR))
    with nothing, pytest.raises(EOFError):
        nothing.recv()


def test_what_cannot_be_pickled_is_not_sent(pipe):
    reader, writer = pipe
    with pytest.raises((pickle.PicklingError, AttributeError)):
        writer.send([1, lambda: None])
    with pytest.raises(TypeError):
        writer.send(threading.Lock())
    assert not reader.poll()
    writer.send_bytes(b"not a pickle")
    with pytest.raises(pickle.UnpicklingError):
        reader.recv()
    writer.send("next")
    assert reader.recv() == "next"


def test_pickling_that_closes_the_connection(mp):
    class Closes:
        def __reduce__(self):
            reader.close()
            writer.close()
            return int, ()

    reader, writer = mp.Pipe()
    with pytest.raises((OSError, TypeError)):
        writer.send(Closes())
    with pytest.raises(OSError):
        writer.send(1)


# --- ends ---


def test_end_of_file(pipe):
    reader, writer = pipe
    writer.send("last")
    writer.close()
    assert reader.poll()
    assert reader.recv() == "last"
    assert reader.poll()
    for call in (reader.recv, reader.recv_bytes, lambda: reader.recv_bytes_into(bytearray(1))):
        with pytest.raises(EOFError):
            call()


def test_nobody_reads(pipe):
    reader, writer = pipe
    reader.close()
    for value in (1, bytes(10 * MB)):
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            writer.send(value)


def test_the_reader_goes_while_a_large_message_is_sent(pipe):
    reader, writer = pipe

    def leave():
        reader.poll(None)
        reader.close()

    with threads(leave), pytest.raises((BrokenPipeError, ConnectionResetError)):
        writer.send_bytes(bytes(40 * MB))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 70, 5000])
def test_an_end_in_the_midst_of_a_message(mp, count):
    """Whatever is there of the message, the reader gets an error and no part of it."""
    message = (10_000).to_bytes(4, "big") + b"x" * 10_000
    for duplex in (True, False):
        reader, writer = mp.Pipe(duplex)
        with reader, writer:
            os.write(writer.fileno(), message[:count])
            writer.close()
            with pytest.raises((EOFError, OSError)):
                reader.recv_bytes()


def send_until_killed(writer, ready):
    data = bytes(64 * MB)
    ready.send(os.getpid())
    while True:
        writer.send_bytes(data)


@pytest.mark.methods("fork")
def test_a_sender_that_is_killed(mp, ctx):
    for duplex in (True, False):
        reader, writer = mp.Pipe(duplex)
        ready, told = mp.Pipe(duplex=False)
        child = ctx.Process(target=send_until_killed, args=(writer, told))
        child.start()
        writer.close()
        told.close()
        ready.recv()
        assert len(reader.recv_bytes()) == 64 * MB
        assert reader.poll(None)
        child.kill()
        child.join()
        with reader, ready, pytest.raises((EOFError, OSError)):
            while True:
                assert len(reader.recv_bytes()) == 64 * MB


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

    class Alarm(Exception):
        pass

    def raise_alarm(*_):
        raise Alarm

    previous = signal.signal(signal.SIGUSR2, raise_alarm)
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
    try:
        for wait in waits:
            with threads(lambda: interrupt(delays)):
                for _ in delays:
                    # What is received quickly makes the next wait look for a while before it sleeps.
                    writer.send_bytes(b"x")
                    reader.recv_bytes()
                    with pytest.raises(Alarm):
                        rounds.release()
                        wait()
    finally:
        signal.signal(signal.SIGUSR2, previous)


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
        reduction.send_handle(one, file.fileno(), os.getpid())
        fd = reduction.recv_handle(other)
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
