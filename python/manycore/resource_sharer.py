"""Descriptors on their way to a process that runs already.

What is pickled is an address and a number. A thread of this process, started with the first descriptor, listens at the
address: whoever unpickles connects, proves by the program's key that it belongs to it, says the number, and receives
the descriptor over the socket. The address is an abstract one, which the kernel chooses: there is no
file, and it is gone with the process.

A descriptor that is never fetched stays open here until `stop()`, or the end of this process.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import os
import struct
import sys

from . import _forks, process, util
from .context import reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from typing import Any

    from .connection import Connection, SocketListener

__all__ = ["DupFd", "stop"]

# A client that says nothing for so many seconds is sent away: others wait behind it.
PATIENCE = 20


class DupFd:
    """A descriptor that can be pickled at any time. It is duplicated here, and its own may be closed."""

    def __init__(self, fd: int) -> None:
        duplicate = os.dup(fd)
        util.make_private(duplicate)

        def send(conn: Connection, pid: int) -> None:
            reduction.lend(conn, duplicate)

        def close() -> None:
            util.close_fds(duplicate)

        try:
            self._id = _resource_sharer.register(send, close)
        except BaseException:
            close()
            raise

    def detach(self) -> int:
        """Return the descriptor, which belongs to the caller from now on. Works once, in whichever process."""
        with _resource_sharer.get_connection(self._id) as conn:
            try:
                return reduction.borrow(conn)
            except EOFError:
                raise OSError(
                    "the descriptor is gone: it was fetched before, or its sender has stopped sharing"
                ) from None


class _ResourceSharer:
    """The resources that are to be fetched, and the thread that hands them out."""

    _listener: SocketListener | None = None

    def __init__(self) -> None:
        self._afterfork()
        _forks.renew(self, _ResourceSharer._afterfork)

    def _afterfork(self) -> None:
        # A forked child has neither the thread nor the descriptors, which are private to this process.
        listener = self._listener
        if listener is not None:
            listener._socket.detach()
        self._key = 0
        self._cache: dict[int, tuple[Callable[[Connection, int], None], Callable[[], None]]] = {}
        self._lock = _thread.allocate_lock()
        self._listener = None
        self._address: Any = None
        self._thread: threading.Thread | None = None

    def register(self, send: Callable[[Connection, int], None], close: Callable[[], None]) -> tuple[Any, int]:
        """Take over a resource; return what to ask for it by. `send` hands it out, `close` gives it up."""
        with self._lock:
            if self._thread is None:
                self._start()
            self._key += 1
            self._cache[self._key] = (send, close)
            return self._address, self._key

    @staticmethod
    def get_connection(ident: tuple[Any, int]) -> Connection:
        """Return a connection over which the resource asked for comes."""
        from .connection import Client

        address, key = ident
        connection = Client(address, authkey=process.current_process().authkey)
        try:
            connection.send((key, os.getpid()))
        except BaseException:
            connection.close()
            raise
        return connection

    def stop(self, timeout: float | None = None) -> None:
        """End the thread and give up the resources that nobody has fetched."""
        from .connection import Client

        with self._lock:
            if self._thread is None or self._listener is None:
                return
            with Client(self._address, authkey=process.current_process().authkey) as connection:
                connection.send(None)
            self._thread.join(timeout)
            if self._thread.is_alive():
                util.sub_warning("the thread that hands out descriptors did not stop when asked")
            util.close_fds(self._listener._socket.detach())
            self._thread = self._address = self._listener = None
            for _, close in self._cache.values():
                close()
            self._cache.clear()

    def _start(self) -> None:
        import socket as socket
        import threading

        from . import _challenge
        from .connection import SocketListener

        # The thread may import nothing: see `_forks`.
        _challenge.load()
        util.debug("starting listener and thread for sending handles")
        # Bound to no address it is given one by the kernel.
        self._listener = SocketListener("", "AF_UNIX", backlog=128)
        util.make_private(self._listener._socket.fileno())
        self._address = self._listener._address
        self._thread = threading.Thread(target=self._serve, args=(self._listener,), daemon=True)
        self._thread.start()

    def _serve(self, listener: SocketListener) -> None:
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        while True:
            try:
                with self._accept(listener) as connection:
                    request = connection.recv()
                    if request is None:
                        return
                    key, pid = request
                    resource = self._cache.pop(key, None)
                    if resource is None:
                        continue  # It was fetched before; closing the connection says so.
                    send, close = resource
                    try:
                        send(connection, pid)
                    finally:
                        close()
            except Exception as error:
                if not util.is_exiting():
                    sys.excepthook(type(error), error, error.__traceback__)

    @staticmethod
    def _accept(listener: SocketListener) -> Connection:
        import socket

        from .connection import answer_challenge, deliver_challenge

        connection = listener.accept()
        authkey = bytes(process.current_process().authkey)
        try:
            with socket.socket(fileno=os.dup(connection.fileno())) as client:
                limit = struct.pack("@ll", PATIENCE, 0)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            deliver_challenge(connection, authkey)
            answer_challenge(connection, authkey)
        except BaseException:
            connection.close()
            raise
        return connection


_resource_sharer = _ResourceSharer()
stop = _resource_sharer.stop


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
