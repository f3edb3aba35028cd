"""What a client that is hostile or broken says to a manager's server.

Before it has proved that it knows the key, whatever it sends is refused and nothing of it is unpickled. Afterwards it
may run what it likes, so what is tried is what a broken client says: each request is answered, the thread that serves
the connection ends when the client does, and what the connection referred to is given back.
"""

import os
import socket
import sys
import threading

import atheris

with atheris.instrument_imports(include=["manycore._manager_server", "manycore._manager_wire", "manycore.connection"]):
    from manycore import _manager_server, connection, managers

KEY = b"the key of this manager"


class NeverWaits:
    """A lock for which nobody waits."""

    def __init__(self):
        self._lock = threading.RLock()

    def acquire(self, *args):
        return self._lock.acquire(blocking=False)

    def release(self):
        self._lock.release()


REGISTRY = {name: managers.SyncManager._registry[name] for name in ("list", "dict", "Namespace", "Value", "Array")}
REGISTRY["Iterator"] = managers.SyncManager._registry["Iterator"]
REGISTRY["Lock"] = (NeverWaits, ("acquire", "release"), None, managers.AcquirerProxy)

SERVER = _manager_server.Server(REGISTRY, None, KEY, "pickle")
SERVER.listener.close()

#: Said by a client, by number: what means something, and what does not.
IDENTS = [None, "0", "nobody", "", 7, [], {}, b"0"]
WORDS = [
    *SERVER.public,
    *("append", "__getitem__", "__setitem__", "pop", "keys", "items", "__iter__", "__next__", "get", "set", "close"),
    *(
        "acquire",
        "release",
        "locked",
        "#GETVALUE",
        "__str__",
        "__repr__",
        "__getattribute__",
        "__setattr__",
        "__class__",
    ),
    *("list", "dict", "Namespace", "Value", "Array", "Iterator", "Lock", "none such"),
    *(None, 3, [], {}, (), "serve_client", "mutex", "i", "name"),
]


class Said:
    """The connection of a client that says what the input makes of it."""

    def __init__(self, data):
        self.data = atheris.FuzzedDataProvider(data)
        self.known = []
        self.answers = 0

    def value(self, depth=2):
        data = self.data
        kind = data.ConsumeIntInRange(0, 9 if depth else 6)
        if kind == 0:
            return data.PickValueInList(WORDS)
        if kind == 1:
            return data.PickValueInList(self.known or IDENTS)
        if kind == 2:
            return data.ConsumeIntInRange(-3, 300)
        if kind == 3:
            return data.ConsumeUnicode(5)
        if kind == 4:
            return None
        if kind == 5:
            return data.ConsumeFloat()
        if kind == 6:
            return data.ConsumeBytes(5)
        if kind == 7:
            return {data.ConsumeUnicode(3): self.value(depth - 1) for _ in range(data.ConsumeIntInRange(0, 2))}
        kind = list if kind == 8 else tuple
        return kind(self.value(depth - 1) for _ in range(data.ConsumeIntInRange(0, 3)))

    def recv(self):
        data = self.data
        if not data.remaining_bytes():
            raise EOFError
        how = data.ConsumeIntInRange(0, 15)
        if how == 0:
            return self.value()
        if how == 1:
            raise ValueError("what came is no pickle")
        ident = data.PickValueInList(self.known) if self.known and how > 7 else data.PickValueInList(IDENTS)
        args = self.value() if how == 2 else tuple(self.value() for _ in range(data.ConsumeIntInRange(0, 3)))
        kwds = self.value() if how == 3 else {}
        return ident, data.PickValueInList(WORDS), args, kwds

    def send(self, answer):
        kind, result = answer
        assert kind in ("#RETURN", "#ERROR", "#PROXY", "#TRACEBACK", "#UNSERIALIZABLE"), kind
        self.answers += 1
        connection._ForkingPickler.dumps(answer)
        if kind == "#RETURN" and type(result) is tuple and len(result) == 2 and result[0] in SERVER.id_to_refcount:
            self.known.append(result[0])
        elif kind == "#PROXY":
            self.known.append(result[1].id)

    def close(self):
        pass


def known_client(data):
    """Let a client that has proved to know the key say what the input makes of it."""
    said = Said(data)
    SERVER.stop_event.clear()
    try:
        SERVER.accept_connection(said, "a client")
    except SystemExit:
        pass
    assert not SERVER._accounts, SERVER._accounts
    # References may have been taken in other ways than by this connection's account: they are its objects all the same.
    for ident in list(SERVER.id_to_refcount):
        SERVER.id_to_refcount.pop(ident), SERVER.id_to_obj.pop(ident)
    assert list(SERVER.id_to_obj) == ["0"], SERVER.id_to_obj


def unknown_client(data):
    """Send the input before any proof, as it is or in frames."""
    ours, theirs = socket.socketpair()
    served = connection.Connection(ours.detach())
    with theirs:
        theirs.sendall(data[1:60000])
        theirs.shutdown(socket.SHUT_WR)
        unpickled = []
        connection.Connection.recv, recv = lambda conn: unpickled.append(conn), connection.Connection.recv
        try:
            SERVER.handle_request(served)
        finally:
            connection.Connection.recv = recv
        assert not unpickled, "something was unpickled for a client that had proved nothing"
    assert served.closed


def one(data):
    if data:
        known_client(data[1:]) if data[0] & 3 else unknown_client(data)


atheris.Setup(sys.argv, one)
threading.excepthook = lambda args: os._exit(77)
atheris.Fuzz()
