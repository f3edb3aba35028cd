"""Connections: messages of every kind and size, arguments and limits, ends."""

import array
import contextlib
import math
import os
import pickle
import socket
import threading

import pytest

from support.connections import connection_of, threads

MB = 1 << 20


@pytest.fixture(params=["duplex", "one-way"])
def pipe(mp, request):
    """(receiving end, sending end), of both kinds of pipe."""
    reader, writer = mp.Pipe(duplex=request.param == "duplex")
    with reader, writer:
        yield reader, writer


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
    with pytest.raises(TypeError):
        writer.send([1, (n for n in ())])
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
