"""A gate at which tasks wait until the test lets them through, so that a test never sleeps to be right."""

import contextlib
import itertools
import os
import socket

_numbers = itertools.count()


class Gate:
    """`arrive` in a task says "I am here" (with its pid) and waits; `arrivals` and `open` in the test.

    An abstract Unix socket: works for every start method, leaves no file, and the pickled form is a name.
    """

    def __init__(self):
        self.name = f"\0manycore-gate-{os.getpid()}-{next(_numbers)}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.name)
        self._listener.listen(1024)
        self._inside = []

    def __getstate__(self):
        return {"name": self.name}

    def arrive(self):
        # The gate stands open, or is opened at this moment, which cuts off those who have not been let in.
        with contextlib.suppress(ConnectionError), socket.socket(socket.AF_UNIX) as door:
            door.connect(self.name)
            door.sendall(os.getpid().to_bytes(8, "little"))
            door.recv(1)
        return os.getpid()

    def arrivals(self, count=1, seconds=30.0):
        """Waits for `count` more tasks to arrive; their pids."""
        pids = []
        while len(pids) < count:
            self._listener.settimeout(seconds)
            connection, _ = self._listener.accept()
            connection.settimeout(seconds)
            pids.append(int.from_bytes(connection.recv(8), "little"))
            self._inside.append(connection)
        return pids

    def open(self):
        """Lets through those who wait and all who come later."""
        # Shut down, not only closed: forked workers hold a copy of the listener.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.settimeout(0)
        while True:
            try:
                self._inside.append(self._listener.accept()[0])
            except OSError:
                break
        for connection in self._inside:
            try:
                connection.sendall(b"x")
            except OSError:
                pass  # its worker was killed
        self.close()

    def close(self):
        for connection in self._inside:
            connection.close()
        self._inside.clear()
        self._listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._listener.fileno() != -1:
            self.open()
