"""Listeners and clients, and the proof of a key, between this package and the standard one, both ways."""

import hmac
import importlib
import os
import socket
import threading

import pytest

PACKAGES = ("manycore", "multiprocessing")


def connection_of(package):
    return importlib.import_module(f"{getattr(package, '__name__', package)}.connection")


@pytest.fixture(scope="module", autouse=True)
def folders():
    """Each package keeps its folder for temporary files until it exits; it is there before the first test."""
    for package in PACKAGES:
        importlib.import_module(f"{package}.util").get_temp_dir()


class Accepting(threading.Thread):
    """Accepts one client and answers it; what `accept` raised is `error`."""

    def __init__(self, listener):
        super().__init__()
        self.listener = listener
        self.error = None
        self.start()

    def run(self):
        try:
            with self.listener.accept() as connection:
                connection.send(connection.recv())
                connection.recv()
        except EOFError:
            pass
        except Exception as error:
            self.error = error


@pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET"])
@pytest.mark.parametrize("authkey", [None, b"key"])
@pytest.mark.parametrize("client", PACKAGES)
@pytest.mark.parametrize("server", PACKAGES)
def test_both_packages_talk(server, client, family, authkey):
    with connection_of(server).Listener(family=family, authkey=authkey) as listener:
        accepting = Accepting(listener)
        with connection_of(client).Client(listener.address, authkey=authkey) as connection:
            connection.send(["message", 1])
            assert connection.recv() == ["message", 1]
        accepting.join()
        assert accepting.error is None


@pytest.mark.parametrize("size", [0, 1, 100, 70_000, 5_000_000])
@pytest.mark.parametrize("client", PACKAGES)
@pytest.mark.parametrize("server", PACKAGES)
def test_sizes_between_both_packages(server, client, size):
    message = os.urandom(size)
    with connection_of(server).Listener() as listener:
        accepting = Accepting(listener)
        with connection_of(client).Client(listener.address) as connection:
            connection.send([message, bytearray(message), 1.5])
            assert connection.recv() == [message, bytearray(message), 1.5]
        accepting.join()
        assert accepting.error is None


@pytest.mark.parametrize("client", PACKAGES)
@pytest.mark.parametrize("server", PACKAGES)
def test_a_wrong_key(server, client):
    import multiprocessing

    import manycore

    errors = {"manycore": manycore.AuthenticationError, "multiprocessing": multiprocessing.AuthenticationError}
    with connection_of(server).Listener(authkey=b"right") as listener:
        accepting = Accepting(listener)
        with pytest.raises(errors[client]):
            connection_of(client).Client(listener.address, authkey=b"wrong")
        accepting.join()
        assert isinstance(accepting.error, errors[server])


class Old:
    """An end as CPython 3.11 and earlier have it: twenty bytes, and MD5 without a name."""

    def __init__(self, connection):
        self.connection = connection

    def deliver(self, key):
        message = os.urandom(20)
        self.connection.send_bytes(b"#CHALLENGE#" + message)
        good = self.connection.recv_bytes(256) == hmac.new(key, message, "md5").digest()
        self.connection.send_bytes(b"#WELCOME#" if good else b"#FAILURE#")
        return good

    def answer(self, key):
        message = self.connection.recv_bytes(256)
        assert message[:11] == b"#CHALLENGE#"
        self.connection.send_bytes(hmac.new(key, message[11:], "md5").digest())
        return self.connection.recv_bytes(256) == b"#WELCOME#"


def note(outcome, function, *args):
    outcome.append(function(*args))


@pytest.mark.only("manycore", reason="the standard package of this interpreter speaks one generation of the protocol")
@pytest.mark.parametrize("key", [b"right", b"wrong"])
def test_an_old_end(mp, key):
    connection = connection_of(mp)
    for serve, visit in [(Old.deliver, connection.answer_challenge), (Old.answer, connection.deliver_challenge)]:
        one, other = mp.Pipe()
        with one, other:
            outcome = []
            old = Old(one)
            thread = threading.Thread(target=note, args=(outcome, serve, old, b"right"))
            thread.start()
            if key == b"right":
                visit(other, key)
            else:
                with pytest.raises(mp.AuthenticationError):
                    visit(other, key)
            thread.join()
            assert outcome == [key == b"right"]


@pytest.mark.only("manycore", reason="the standard package has them from CPython 3.12 on")
@pytest.mark.parametrize("digest", ["md5", "sha256", "sha384", "sha3_256", "sha3_384"])
def test_digests(mp, digest):
    connection = connection_of(mp)
    one, other = mp.Pipe()
    with one, other:
        thread = threading.Thread(target=connection.answer_challenge, args=(other, b"key"))
        thread.start()
        connection.deliver_challenge(one, b"key", digest)
        thread.join()


@pytest.mark.only("manycore", reason="the standard package has them from CPython 3.12 on")
def test_a_digest_cannot_be_chosen_by_a_stranger(mp):
    connection = connection_of(mp)
    for message in (b"{sha1}" + b"x" * 40, b"{nothing", b"short", b"x" * 41):
        with pytest.raises(mp.AuthenticationError):
            connection._get_digest_name_and_payload(message)


def test_bad_challenges(mp):
    connection = connection_of(mp)

    class Says:
        def __init__(self, *messages):
            self.messages = list(messages)

        def recv_bytes(self, size):
            return self.messages.pop(0)

        def send_bytes(self, data):
            pass

    with pytest.raises(mp.AuthenticationError):
        connection.deliver_challenge(Says(b"bogus"), b"key")
    with pytest.raises((mp.AuthenticationError, AssertionError)):
        connection.answer_challenge(Says(b"bogus", b"bogus"), b"key")
    for call in (connection.deliver_challenge, connection.answer_challenge):
        with pytest.raises(ValueError):
            call(Says(), "text")


def test_addresses(mp):
    connection = connection_of(mp)
    assert connection.families == ["AF_INET", "AF_UNIX"]
    assert connection.address_type(("localhost", 1)) == "AF_INET"
    assert connection.address_type("/tmp/x") == "AF_UNIX"
    assert connection.address_type("\0x") == "AF_UNIX"
    assert connection.arbitrary_address("AF_INET") == ("localhost", 0)
    assert connection.address_type(connection.arbitrary_address("AF_UNIX")) == "AF_UNIX"
    with pytest.raises(ValueError):
        connection.arbitrary_address("AF_NOTHING")
    with pytest.raises(ValueError):
        connection._validate_family("AF_PIPE")
    with pytest.raises(ValueError):
        connection.address_type(b"x")


def test_a_listener(mp):
    connection = connection_of(mp)
    listener = connection.Listener()
    path = listener.address
    assert os.path.exists(path)
    with pytest.raises(OSError):
        connection.Listener(path)
    thread = Accepting(listener)
    with connection.Client(path) as client:
        client.send(1)
        assert client.recv() == 1
    thread.join()
    assert not listener.last_accepted
    listener.close()
    listener.close()
    assert not os.path.exists(path)
    with pytest.raises(OSError, match="listener is closed"):
        listener.accept()
    with pytest.raises(OSError):
        connection.Client(path)
    with pytest.raises(TypeError):
        connection.Listener(authkey="text")
    with pytest.raises(ValueError):
        connection.Listener(family="AF_PIPE")


def test_an_abstract_address(mp):
    connection = connection_of(mp)
    with connection.Listener(f"\0manycore-test-{os.getpid()}-{mp.__name__}") as listener:
        thread = Accepting(listener)
        with connection.Client(listener.address) as client:
            client.send(1)
            assert client.recv() == 1
        thread.join()


def test_xml(mp):
    connection = connection_of(mp)
    with connection.XmlListener() as listener:
        accepted = []
        thread = threading.Thread(target=lambda: accepted.append(listener.accept()))
        thread.start()
        client = connection.XmlClient(listener.address)
        thread.join()
        client.send([1, "two", {"three": 3.5}])
        assert accepted[0].recv() == [1, "two", {"three": 3.5}]
        accepted[0].send("answer")
        assert client.poll(10)
        assert client.recv() == "answer"
        client.close()
        accepted[0].close()


def test_a_socket_of_the_program(mp):
    """Whoever has a connected socket makes a connection of it, as libraries do."""
    connection = connection_of(mp)
    with socket.create_server(("localhost", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    one, other = connection.Connection(client.detach()), connection.Connection(accepted.detach())
    with one, other:
        one.send({"a": 1})
        assert other.recv() == {"a": 1}
