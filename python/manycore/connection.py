"""Connections: objects and bytes sent as messages through pipes and sockets, and the listeners that accept them.

A message goes as its length and its bytes, the bytes of an object being its pickle: the standard package's format, so
that its `Client` and `Listener` can be at the other end. `ConnectionEnd`, in the compiled half, sends and receives; the
classes here open and close.
"""

from __future__ import annotations

import _socket
import io
import os
import struct
import time

from . import util
from ._challenge import _ALLOWED_DIGESTS as _ALLOWED_DIGESTS
from ._challenge import _CHALLENGE, _FAILURE, _WELCOME, answer_challenge, deliver_challenge
from ._challenge import _LEGACY_LENGTHS as _LEGACY_LENGTHS
from ._challenge import _MAX_DIGEST_LEN as _MAX_DIGEST_LEN
from ._challenge import _MD5_DIGEST_LEN as _MD5_DIGEST_LEN
from ._challenge import _MD5ONLY_MESSAGE_LENGTH as _MD5ONLY_MESSAGE_LENGTH
from ._challenge import MESSAGE_LENGTH as MESSAGE_LENGTH
from ._challenge import _create_response as _create_response
from ._challenge import _get_digest_name_and_payload as _get_digest_name_and_payload
from ._challenge import _verify_challenge as _verify_challenge
from ._engine import ConnectionEnd, socket_pair
from .context import AuthenticationError as AuthenticationError
from .context import BufferTooShort, reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn, Self

    from typing_extensions import Buffer

__all__ = ["Client", "Listener", "Pipe", "wait"]

BUFSIZE = 8192
CONNECTION_TIMEOUT = 20.0

default_family = "AF_UNIX"
families = ["AF_INET", "AF_UNIX"]

# The names these had before CPython 3.12.
CHALLENGE, WELCOME, FAILURE = _CHALLENGE, _WELCOME, _FAILURE

# What pickles here; a program that replaces it is heeded.
_ForkingPickler = reduction.ForkingPickler


# ----------------------------------------------------------------------------------------------------------------------
# Addresses


def arbitrary_address(family: str) -> Any:
    """Return a free address of a family. ValueError if there is no such family."""
    if family == "AF_INET":
        return ("localhost", 0)
    if family == "AF_UNIX":
        import tempfile

        return tempfile.mktemp(prefix="listener-", dir=util.get_temp_dir())
    raise ValueError(f"unrecognized family {family!r}: there are {', '.join(families)}")


def _validate_family(family: str) -> None:
    """Raise ValueError if there is no such family on this system."""
    if family == "AF_PIPE" or not hasattr(_socket, family):
        raise ValueError(f"Family {family} is not recognized.")


def address_type(address: Any) -> str:
    """Return the family an address is of. ValueError if it is of none."""
    if type(address) is tuple:
        return "AF_INET"
    if type(address) is str and address.startswith("\\\\"):
        return "AF_PIPE"
    if type(address) is str or util.is_abstract_socket_namespace(address):
        return "AF_UNIX"
    raise ValueError(f"address type of {address!r} unrecognized")


# ----------------------------------------------------------------------------------------------------------------------
# Connections


class _ConnectionBase(ConnectionEnd):
    """What connections have in common. Sends and receives by the `_send_bytes` and `_recv_bytes` of a subclass."""

    def __init__(self, handle: int, readable: bool = True, writable: bool = True) -> None:
        """Take over the descriptor `handle`. ValueError if it is negative, or the connection neither way open."""
        handle = handle.__index__()
        if handle < 0:
            raise ValueError("invalid handle")
        if not readable and not writable:
            raise ValueError("at least one of `readable` and `writable` must be True")
        self._handle = handle
        self._readable = readable
        self._writable = writable

    def __del__(self) -> None:
        if self._handle is not None:
            self._close()

    def _check_closed(self) -> None:
        if self._handle is None:
            raise OSError("handle is closed")

    def _check_readable(self) -> None:
        if not self._readable:
            raise OSError("connection is write-only")

    def _check_writable(self) -> None:
        if not self._writable:
            raise OSError("connection is read-only")

    def _bad_message_length(self) -> NoReturn:
        if self._writable:
            self._readable = False
        else:
            self.close()
        raise OSError("bad message length")

    @property
    def closed(self) -> bool:
        """Whether the connection is closed."""
        return self._handle is None

    @property
    def readable(self) -> bool:
        """Whether messages can be received."""
        return self._readable

    @property
    def writable(self) -> bool:
        """Whether messages can be sent."""
        return self._writable

    def fileno(self) -> int:
        """Return the descriptor. OSError if the connection is closed."""
        self._check_closed()
        return self._handle  # type: ignore[return-value]

    def close(self) -> None:
        """Close the connection; again is no error."""
        if self._handle is not None:
            try:
                self._close()
            finally:
                self._handle = None

    def _detach(self) -> None:
        """Let go of the descriptor, which stays open."""
        self._handle = None

    def send_bytes(self, buf: Buffer, offset: int = 0, size: int | None = None) -> None:
        """Send the bytes of a bytes-like object, or `size` of them from `offset` on, as one message."""
        self._check_closed()
        self._check_writable()
        view = memoryview(buf).cast("B")
        if offset < 0:
            raise ValueError("offset is negative")
        if len(view) < offset:
            raise ValueError("buffer length < offset")
        if size is None:
            size = len(view) - offset
        elif size < 0:
            raise ValueError("size is negative")
        elif offset + size > len(view):
            raise ValueError("buffer length < offset + size")
        self._send_bytes(view[offset : offset + size])

    def send(self, obj: Any) -> None:
        """Send a picklable object."""
        self._check_closed()
        self._check_writable()
        self._send_bytes(_ForkingPickler.dumps(obj))

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Receive the bytes of one message.

        EOFError if there is nothing left and the other end is closed. OSError if there are more bytes than
        `maxlength`; nothing more can be received then.
        """
        self._check_closed()
        self._check_readable()
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        message = self._recv_bytes(maxlength)
        if message is None:
            self._bad_message_length()
        return message.getvalue()

    def recv_bytes_into(self, buf: Buffer, offset: int = 0) -> int:
        """Receive one message into a writable bytes-like object, from byte `offset` on; return its length.

        BufferTooShort, with the message in `args[0]`, if it does not fit.
        """
        self._check_closed()
        self._check_readable()
        with memoryview(buf).cast("B") as view:
            if offset < 0:
                raise ValueError("negative offset")
            if offset > len(view):
                raise ValueError("offset too large")
            message = self._recv_bytes().getbuffer()
            if len(view) - offset < len(message):
                raise BufferTooShort(bytes(message))
            view[offset : offset + len(message)] = message
            return len(message)

    def recv(self) -> Any:
        """Receive an object. EOFError if there is nothing left and the other end is closed."""
        self._check_closed()
        self._check_readable()
        return _ForkingPickler.loads(self._recv_bytes().getbuffer())

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Return whether there is something to receive, or the other end is closed.

        Waits at most `timeout` seconds for it, for ever if that is None.
        """
        self._check_closed()
        self._check_readable()
        return self._poll(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: object, exc_value: object, exc_tb: object) -> None:
        self.close()

    # What a subclass brings.

    def _close(self) -> None:
        raise NotImplementedError

    def _send_bytes(self, buf: Any) -> None:
        raise NotImplementedError

    def _recv_bytes(self, maxsize: int | None = None) -> Any:
        raise NotImplementedError

    def _poll(self, timeout: float | None) -> bool:
        raise NotImplementedError


_STEPS = ("_send", "_recv", "_send_bytes", "_recv_bytes", "_poll")
_METHODS = ("send", "send_bytes", "recv", "recv_bytes", "recv_bytes_into", "poll")


class _ConnectionType(type):
    """Sees when a program puts a step of its own into a class of connections: the methods are made of steps then."""

    def __setattr__(cls, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in _STEPS:
            cls._use_steps()

    def _use_steps(cls) -> None:
        for method in _METHODS:
            if getattr(cls, method) is getattr(ConnectionEnd, method):
                setattr(cls, method, getattr(_ConnectionBase, method))


class Connection(_ConnectionBase, metaclass=_ConnectionType):
    """One end of a pipe, or of a connection between a `Listener` and a `Client`."""

    _read, _write = staticmethod(os.read), staticmethod(os.write)

    # The compiled methods do it all at once. A subclass that has a step of its own gets the methods made of steps.
    send = ConnectionEnd.send
    send_bytes = ConnectionEnd.send_bytes
    recv = ConnectionEnd.recv
    recv_bytes = ConnectionEnd.recv_bytes
    recv_bytes_into = ConnectionEnd.recv_bytes_into
    poll = ConnectionEnd.poll

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if any(getattr(cls, step) is not getattr(Connection, step) for step in _STEPS):
            cls._use_steps()

    def _close(self, _close: Callable[[int], None] = os.close) -> None:
        _close(self._handle)  # type: ignore[arg-type]

    def _send(self, buf: Any, write: Callable[[int, Any], int] = os.write) -> None:
        """Write all of `buf`."""
        view = memoryview(buf)
        while len(view):
            view = view[write(self._handle, view) :]  # type: ignore[arg-type]

    def _recv(self, size: int, read: Callable[[int, int], bytes] = os.read) -> io.BytesIO:
        """Read exactly `size` bytes. EOFError if there is none, OSError if there are fewer."""
        received = io.BytesIO()
        while received.tell() < size:
            chunk = read(self._handle, size - received.tell())  # type: ignore[arg-type]
            if not chunk:
                if received.tell() == 0:
                    raise EOFError
                raise OSError("got end of file during message")
            received.write(chunk)
        return received

    def _send_bytes(self, buf: Any) -> None:
        """Send one message."""
        size = len(buf)
        head = struct.pack("!i", size) if size <= 0x7FFFFFFF else struct.pack("!iQ", -1, size)
        if size > 16384:
            self._send(head)
            self._send(buf)
        else:
            self._send(b"".join((head, buf)).ljust(self._shortest, b"\0"))

    def _recv_bytes(self, maxsize: int | None = None) -> io.BytesIO | None:
        """Receive one message; None if it is longer than `maxsize`, its bytes being left where they are."""
        (size,) = struct.unpack("!i", self._recv(4).getvalue())
        if size == -1:
            (size,) = struct.unpack("!Q", self._recv(8).getvalue())
        if maxsize is not None and size > maxsize:
            return None
        message = self._recv(size)
        self._recv(max(0, self._shortest - 4 - size))
        return message

    def _poll(self, timeout: float | None) -> bool:
        return bool(wait([self], timeout))


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Return the two ends of a pipe.

    Both send and receive; without `duplex` the first only receives and the second only sends.
    """
    if duplex:
        first, second = socket_pair()
    else:
        first, second = os.pipe()
    return Connection(first, writable=duplex), Connection(second, readable=duplex)


# ----------------------------------------------------------------------------------------------------------------------
# Listeners and clients


class SocketListener:
    """A socket that is bound to an address and listens."""

    def __init__(self, address: Any, family: str, backlog: int = 1) -> None:
        import socket

        self._socket = socket.socket(getattr(socket, family))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setblocking(True)
            self._socket.bind(address)
            self._socket.listen(backlog)
            self._address = self._socket.getsockname()
        except BaseException:
            self._socket.close()
            raise
        self._family = family
        self._last_accepted: Any = None
        self._unlink: util.Finalize | None = None
        if family == "AF_UNIX" and not util.is_abstract_socket_namespace(self._address):
            self._unlink = util.Finalize(self, os.unlink, args=(address,), exitpriority=0)

    def accept(self) -> Connection:
        """Wait for a client and return the connection with it."""
        client, self._last_accepted = self._socket.accept()
        client.setblocking(True)
        return Connection.__new__(Connection)._take(client)

    def close(self) -> None:
        """Close the socket and remove its file."""
        try:
            self._socket.close()
        finally:
            unlink, self._unlink = self._unlink, None
            if unlink is not None:
                unlink()


class Listener:
    """Waits for clients at an address."""

    def __init__(
        self, address: Any = None, family: str | None = None, backlog: int = 1, authkey: bytes | None = None
    ) -> None:
        """Bind to `address`, or to a free one of `family`; by default that is a socket within the machine.

        Clients must know `authkey`, if it is given. Raises OSError if the address cannot be had, ValueError if the
        family is not known, TypeError if the key is not bytes.
        """
        if family is None:
            family = address_type(address) if address else default_family
        _validate_family(family)
        if authkey is not None and not isinstance(authkey, bytes):
            raise TypeError("authkey should be a byte string")
        self._listener: SocketListener | None = SocketListener(address or arbitrary_address(family), family, backlog)
        self._authkey = authkey

    def accept(self) -> Connection:
        """Wait for a client and return the connection with it.

        AuthenticationError if the client does not know the key, or we do not know its; OSError if this is closed.
        """
        if self._listener is None:
            raise OSError("listener is closed")
        connection = self._listener.accept()
        if self._authkey is not None:
            try:
                deliver_challenge(connection, self._authkey)
                answer_challenge(connection, self._authkey)
            except BaseException:
                connection.close()
                raise
        return connection

    def close(self) -> None:
        """Take no more clients; again is no error."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    @property
    def address(self) -> Any:
        """The address clients connect to."""
        return self._open()._address

    @property
    def last_accepted(self) -> Any:
        """The address of the last client, if it has one."""
        return self._open()._last_accepted

    def _open(self) -> SocketListener:
        if self._listener is None:
            raise OSError("listener is closed")
        return self._listener

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: object, exc_value: object, exc_tb: object) -> None:
        self.close()


def SocketClient(address: Any) -> Connection:
    """Return a connection with the socket that listens at `address`."""
    import socket

    with socket.socket(getattr(socket, address_type(address))) as client:
        client.setblocking(True)
        client.connect(address)
        return Connection.__new__(Connection)._take(client)


def Client(address: Any, family: str | None = None, authkey: bytes | None = None) -> Connection:
    """Return a connection with the listener at `address`, whose family is seen from it.

    Raises OSError if nobody listens there, AuthenticationError if one of the two does not know the other's key,
    ValueError if the family is not known, TypeError if the key is not bytes.
    """
    _validate_family(family or address_type(address))
    if authkey is not None and not isinstance(authkey, bytes):
        raise TypeError("authkey should be a byte string")
    connection = SocketClient(address)
    if authkey is not None:
        try:
            answer_challenge(connection, authkey)
            deliver_challenge(connection, authkey)
        except BaseException:
            connection.close()
            raise
    return connection


# ----------------------------------------------------------------------------------------------------------------------
# XML instead of pickles


class ConnectionWrapper:
    """A connection that sends objects in another form."""

    def __init__(self, conn: Connection, dumps: Callable[[Any], bytes], loads: Callable[[bytes], Any]) -> None:
        self._conn = conn
        self._dumps = dumps
        self._loads = loads
        for name in ("fileno", "close", "poll", "recv_bytes", "send_bytes"):
            setattr(self, name, getattr(conn, name))

    @property
    def _owed(self) -> int:
        return self._conn._owed

    def send(self, obj: Any) -> None:
        """Send an object."""
        self._conn.send_bytes(self._dumps(obj))

    def recv(self) -> Any:
        """Receive an object."""
        return self._loads(self._conn.recv_bytes())


def _xml_dumps(obj: Any) -> bytes:
    import xmlrpc.client

    return xmlrpc.client.dumps((obj,), None, None, None, True).encode("utf-8")


def _xml_loads(message: bytes) -> Any:
    import xmlrpc.client

    (obj,), _ = xmlrpc.client.loads(message.decode("utf-8"))
    return obj


class XmlListener(Listener):
    """A listener whose connections send XML instead of pickles: an unknown client cannot run code here."""

    def accept(self) -> ConnectionWrapper:  # type: ignore[override]
        """Wait for a client and return the connection with it."""
        return ConnectionWrapper(super().accept(), _xml_dumps, _xml_loads)


def XmlClient(*args: Any, **kwds: Any) -> ConnectionWrapper:
    """Return a connection with an `XmlListener`; takes what `Client` takes."""
    return ConnectionWrapper(Client(*args, **kwds), _xml_dumps, _xml_loads)


# ----------------------------------------------------------------------------------------------------------------------
# Waiting for several


def wait(object_list: Iterable[Any], timeout: float | None = None) -> list[Any]:
    """Wait until some of the objects can be read or have ended, and return these.

    They are connections, sockets, sentinels of processes, descriptors, whatever has a `fileno()`. Waits at most
    `timeout` seconds, for ever if that is None; zero or less only looks. Raises ValueError for what is no descriptor,
    KeyError for one that is named twice.
    """
    import select

    timeout = util.limit(timeout)
    poller = select.poll()
    objects: dict[int, Any] = {}
    for obj in object_list:
        fd = _descriptor(obj)
        if fd in objects:
            raise KeyError(f"{obj!r} (FD {fd}) is already registered")
        objects[fd] = obj
        poller.register(fd, select.POLLIN)
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        # poll() takes a C int of milliseconds: longer waits are made of several. Rounded up, never to wake early.
        ready = poller.poll(None if left is None else -(-min(left, 1e6) * 1000 // 1))
        if ready or left == 0.0 or not (objects or left):
            return [objects[fd] for fd, _ in ready]


def _descriptor(obj: Any) -> int:
    if isinstance(obj, int):
        fd = obj
    else:
        try:
            fd = int(obj.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {obj!r}") from None
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


# ----------------------------------------------------------------------------------------------------------------------
# Connections that travel


def reduce_connection(conn: Connection) -> tuple[Any, ...]:
    """Return what a connection is rebuilt from in another process, which gets a descriptor of its own."""
    handle = reduction.DupFd(conn.fileno())
    return rebuild_connection, (handle, conn.readable, conn.writable)


def rebuild_connection(df: Any, readable: bool, writable: bool) -> Connection:
    """Return the connection that `reduce_connection` took apart."""
    return Connection(df.detach(), readable, writable)


reduction.register(Connection, reduce_connection)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        from ._names import find

        return find(__name__, name)
