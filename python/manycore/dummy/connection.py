"""Connections between threads: two queues each. Objects are handed over as they are."""

from __future__ import annotations

import time
from queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Client", "Listener", "Pipe"]

families = [None]


class Connection:
    """One end. `send` puts into one queue, `recv` gets from the other."""

    def __init__(self, _in: Queue[Any], _out: Queue[Any]) -> None:
        self._in = _in
        self._out = _out
        self.send = self.send_bytes = _out.put
        self.recv = self.recv_bytes = _in.get

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Wait for something to receive, `timeout` seconds at most (None: for ever). Returns whether there is."""
        until = None if timeout is None else time.monotonic() + timeout
        with self._in.not_empty:
            while not self._in._qsize():
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._in.not_empty.wait(left)
        return True

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, exc_type: object, exc_value: object, exc_tb: object) -> None:
        self.close()


class Listener:
    """Waits for a `Client`. Its address is a queue, for threads of this process."""

    def __init__(self, address: object = None, family: object = None, backlog: int = 1) -> None:
        self._backlog_queue: Queue[tuple[Queue[Any], Queue[Any]]] | None = Queue(backlog)

    def accept(self) -> Connection:
        """Wait for a client and return our end of the connection to it."""
        if self._backlog_queue is None:
            raise OSError("listener is closed")
        return Connection(*self._backlog_queue.get())

    def close(self) -> None:
        """Accept no more clients."""
        self._backlog_queue = None

    @property
    def address(self) -> Any:
        """What a client is to be given."""
        return self._backlog_queue

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, exc_type: object, exc_value: object, exc_tb: object) -> None:
        self.close()


def Client(address: Any) -> Connection:
    """Connect to the listener of that address and return our end."""
    one, other = Queue(), Queue()  # type: ignore[var-annotated]
    address.put((other, one))
    return Connection(one, other)


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Return the two ends of a new connection; both can send and receive, whatever `duplex` says."""
    one, other = Queue(), Queue()  # type: ignore[var-annotated]
    return Connection(one, other), Connection(other, one)
