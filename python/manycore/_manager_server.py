"""The process in which a manager's shared objects live: one thread for each connection carries out its requests."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from traceback import format_exc

from . import _challenge, _forks, connection, process, util
from ._manager_loans import Loans
from ._manager_wire import (
    KEEPS_ACCOUNT,
    Token,
    in_transit,
    keep_from_children,
    listener_client,
    plain,
    public_methods,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, ClassVar

__all__ = ()

# How many clients may be waiting to be accepted.
BACKLOG = 128
# Seconds to wait when no connection can be accepted, for want of descriptors or threads.
PATIENCE = 0.1


class Server:
    """The objects of one manager, and who refers to them.

    `registry` says how objects of each type are made; see `BaseManager.register`. A client must know `authkey`.
    """

    public: ClassVar[list[str]] = [
        "shutdown",
        "create",
        "accept_connection",
        "get_methods",
        "debug_info",
        "number_of_objects",
        "dummy",
        "incref",
        "decref",
        "hold",
        "lend",
        "redeem",
        "take_back",
    ]

    def __init__(self, registry: dict[str, tuple[Any, ...]], address: Any, authkey: bytes, serializer: str) -> None:
        if not isinstance(authkey, bytes):
            raise TypeError(f"Authkey {authkey!r} is type {type(authkey)}, not bytes")
        self.registry = registry
        self.authkey = process.AuthenticationString(authkey)
        listener_class, _ = listener_client[serializer]
        if address is None:
            # One without a file: nothing is left when this process is killed.
            address = f"\0manycore-{os.getpid()}-{os.urandom(8).hex()}"
        self.listener = keep_from_children(listener_class(address=address, backlog=BACKLOG))
        self.address = self.listener.address
        # By number: the object, its exposed methods, the types of proxies that its methods return.
        self.id_to_obj: dict[str, tuple[Any, ...]] = {"0": (None, ())}
        self.id_to_refcount: dict[str, int] = {}
        # Objects that proxies within this process stand for, and how many of those there are.
        self.id_to_local_proxy_obj: dict[str, tuple[Any, ...]] = {}
        self._local_proxies: Counter[str] = Counter()
        # By connection, the references it has taken.
        self._accounts: dict[Any, Counter[str]] = {}
        # Re-entrant: to drop an object may drop proxies that stand for others.
        self.mutex = threading.RLock()
        _forks.renew(self, lambda server: server.mutex._at_fork_reinit())
        self.stop_event = threading.Event()
        self._loans = Loans(self._look_at_loans, self.stop_event)

    # ------------------------------------------------------------------------------------------------------------------
    # Connections

    def serve_forever(self) -> None:
        """Serve until a client asks for `shutdown`, then end the process by SystemExit."""
        process.current_process()._manager_server = self  # type: ignore[attr-defined]
        self._load_for_threads()
        try:
            threading.Thread(target=self.accepter, name="manycore-accepter", daemon=True).start()
            try:
                self.stop_event.wait()
            except (KeyboardInterrupt, SystemExit):
                pass
        finally:
            if sys.stdout != sys.__stdout__:
                util.debug("resetting stdout, stderr")
                sys.stdout = sys.__stdout__
                sys.stderr = sys.__stderr__
            sys.exit(0)

    def _load_for_threads(self) -> None:
        """Load what the threads will need for what clients may ask: they may import nothing, see `_forks`."""
        _challenge.load()
        if "Pool" in self.registry:
            from . import pool as pool

            util._args_from_interpreter_flags()

    def accepter(self) -> None:
        """Accept clients, each with a thread of its own. The body of a thread."""
        while not self.stop_event.is_set():
            try:
                conn = keep_from_children(self.listener.accept())
                threading.Thread(target=self.handle_request, args=(conn,), daemon=True).start()
            except (OSError, RuntimeError) as error:
                util.info("cannot accept a client: %s", error)
                self.stop_event.wait(PATIENCE)

    def handle_request(self, conn: Any) -> None:
        """Carry out the request of a new connection, or, if it is `accept_connection`, all that follow."""
        try:
            self._handle_request(conn)
        except SystemExit:
            pass
        finally:
            conn.close()

    def _handle_request(self, conn: Any) -> None:
        request = None
        try:
            connection.deliver_challenge(conn, self.authkey)
            connection.answer_challenge(conn, self.authkey)
            request = conn.recv()
            _, name, args, kwds = request
            answer = "#RETURN", self._function(name)(conn, *args, **kwds)
        except Exception:
            answer = "#TRACEBACK", format_exc()
        try:
            conn.send(answer)
        except Exception as error:
            try:
                conn.send(("#TRACEBACK", format_exc()))
            except Exception:
                pass
            util.info("Failure to send message: %r", answer)
            util.info(" ... request was %r", request)
            util.info(" ... exception was %r", error)

    def _function(self, name: str) -> Callable[..., Any]:
        if name not in self.public:
            raise AssertionError(f"{name!r} unrecognized")
        return getattr(self, name)

    def serve_client(self, conn: Any) -> None:
        """Carry out requests until the client is gone; ends the thread by SystemExit."""
        name = threading.current_thread().name
        util.debug("starting server thread to service %r", name)
        recv, send, answer_to = conn.recv, conn.send, self._answer_to
        locks: set[str] = set()
        proxies: list[Any] = []
        try:
            while not self.stop_event.is_set():
                try:
                    request = recv()
                except (EOFError, ConnectionError):
                    util.debug("got EOF -- exiting thread serving %r", name)
                    sys.exit(0)
                except Exception:
                    answer = "#TRACEBACK", format_exc()
                else:
                    proxies.clear()
                    answer = answer_to(conn, request, locks)
                in_transit.proxies = proxies
                try:
                    send(answer)
                except ConnectionError:
                    sys.exit(1)
                except Exception:
                    util.info("in the thread serving %r, the answer %r could not be sent", name, answer)
                    send(("#UNSERIALIZABLE", format_exc()))
                finally:
                    in_transit.proxies = None
                # Not kept until the next request comes.
                request = answer = None
        except ConnectionError:
            sys.exit(1)
        finally:
            for ident in locks:
                self._let_go(ident)

    def _answer_to(self, conn: Any, request: Any, locks: set[str]) -> tuple[str, Any]:
        """Carry out one request and return the answer. Objects that were acquired are added to `locks`."""
        ident = methodname = obj = None
        args: Any = ()
        kwds: Any = {}
        try:
            ident, methodname, args, kwds = request
            if ident is None:
                return "#RETURN", self._function(methodname)(conn, *args, **kwds)
            # An object to which only proxies in this process refer is in the second.
            found = self.id_to_obj.get(ident) or self.id_to_local_proxy_obj[ident]
            obj, exposed, gettypeid = found
            if methodname not in exposed:
                raise AttributeError(f"method {methodname!r} of {type(obj)!r} object is not in exposed={exposed!r}")
            function = getattr(obj, methodname)
            try:
                result = function(*args, **kwds)
            except Exception as error:
                return "#ERROR", error
            if methodname == "acquire":
                locks.add(ident)
            if gettypeid and methodname in gettypeid:
                return "#PROXY", self._proxied(conn, gettypeid[methodname], result)
            return "#RETURN", result
        except AttributeError:
            return self._fall_back(conn, ident, methodname, obj, args, kwds)
        except Exception:
            return "#TRACEBACK", format_exc()

    def _fall_back(self, conn: Any, ident: Any, name: Any, obj: Any, args: Any, kwds: Any) -> tuple[str, Any]:
        """Return the answer to a request for a method that the object does not have, or does not show."""
        fallback = self.fallback_mapping.get(name)
        if fallback is None or ident is None:
            return "#TRACEBACK", format_exc()
        try:
            return "#RETURN", fallback(self, conn, ident, obj, *args, **kwds)
        except Exception:
            return "#TRACEBACK", format_exc()

    def _let_go(self, ident: str) -> None:
        """Release a lock that only this thread can, for a client that is gone."""
        obj = self.id_to_obj.get(ident, (None,))[0]
        is_owned = getattr(obj, "_is_owned", None)
        try:
            while is_owned is not None and is_owned():
                obj.release()
        except RuntimeError:
            pass

    def _proxied(self, conn: Any, typeid: str, result: Any) -> tuple[Any, Any]:
        ident, exposed = self.create(conn, typeid, result)
        return exposed, plain(Token(typeid, self.address, ident))

    def fallback_getvalue(self, conn: Any, ident: str, obj: Any) -> Any:
        """Return the object itself: the client gets a copy."""
        return obj

    def fallback_str(self, conn: Any, ident: str, obj: Any) -> str:
        """Return the object as text."""
        return str(obj)

    def fallback_repr(self, conn: Any, ident: str, obj: Any) -> str:
        """Return the object's representation."""
        return repr(obj)

    def fallback_locked(self, conn: Any, ident: str, obj: Any) -> bool:
        """Say whether a lock is held by anybody, for those that cannot tell themselves before CPython 3.14."""
        is_owned = getattr(obj, "_is_owned", None)
        if is_owned is not None and is_owned():
            return True
        if not obj.acquire(False):
            return True
        obj.release()
        return False

    fallback_mapping: ClassVar[dict[str, Callable[..., Any]]] = {
        "__str__": fallback_str,
        "__repr__": fallback_repr,
        "#GETVALUE": fallback_getvalue,
        "locked": fallback_locked,
    }

    # ------------------------------------------------------------------------------------------------------------------
    # What clients may ask of the server itself; `c` is their connection.

    def dummy(self, c: Any) -> None:
        """Do nothing: the client wants to know whether we are there."""

    def debug_info(self, c: Any) -> str:
        """Return text about each object: its number, how many refer to it, what it looks like."""
        self._look_at_loans()
        with self.mutex:
            return "\n".join(
                f"  {ident}:       refcount={self.id_to_refcount[ident]}\n    {str(self.id_to_obj[ident][0])[:75]}"
                for ident in sorted(self.id_to_refcount)
                if ident != "0"
            )

    def number_of_objects(self, c: Any) -> int:
        """Return how many objects somebody refers to."""
        self._look_at_loans()
        return len(self.id_to_refcount)

    def shutdown(self, c: Any) -> None:
        """End the server."""
        try:
            util.debug("manager received shutdown message")
            c.send(("#RETURN", None))
        except Exception as error:
            util.info("the client did not wait for the answer: %s", error)
        finally:
            self.stop_event.set()

    def create(self, c: Any, typeid: str, /, *args: Any, **kwds: Any) -> tuple[str, tuple[str, ...]]:
        """Make an object, refer to it once for the client, and return its number and its exposed methods.

        KeyError if the type is not registered, ValueError if it has no callable and there is not one argument, the
        object.
        """
        callable, exposed, method_to_typeid, _ = self.registry[typeid]
        if callable is None:
            if kwds or len(args) != 1:
                raise ValueError("Without callable, must have one non-keyword argument")
            obj = args[0]
        else:
            # Nobody else waits for this: it may take long, or ask for objects itself.
            obj = callable(*args, **kwds)
        if exposed is None:
            exposed = public_methods(obj)
        if method_to_typeid is not None:
            if not isinstance(method_to_typeid, dict):
                raise TypeError(f"Method_to_typeid {method_to_typeid!r}: type {type(method_to_typeid)}, not dict")
            exposed = [*exposed, *method_to_typeid]
        # Text, for XML has integers of 32 bits.
        ident = f"{id(obj):x}"
        util.debug("%r callable returned object with id %r", typeid, ident)
        with self.mutex:
            self.id_to_obj[ident] = obj, set(exposed), method_to_typeid
            self.id_to_refcount.setdefault(ident, 0)
            self.incref(c, ident)
        return ident, tuple(exposed)

    def get_methods(self, c: Any, token: Token) -> tuple[str, ...]:
        """Return the exposed methods of an object."""
        return tuple(self.id_to_obj[token.id][1])

    def accept_connection(self, c: Any, name: str) -> None:
        """Carry out all requests that come on this connection; `name` is the client's, for the log."""
        if c in self._accounts:
            raise ValueError("this connection is accepted already")
        threading.current_thread().name = name
        c.send(("#RETURN", KEEPS_ACCOUNT))
        self._accounts[c] = Counter()
        try:
            self.serve_client(c)
        finally:
            self._settle(self._accounts.pop(c))
            with self.mutex:
                ended = self._loans.leave(c)
            self._drop(ended)

    def _settle(self, account: Counter[str]) -> None:
        """Give back what a connection that has ended still refers to."""
        self._drop(account.elements())

    def _drop(self, idents: Iterable[str]) -> None:
        """Give back references, one for each number."""
        for ident in idents:
            try:
                self.decref(None, ident)
            except Exception as error:
                util.info("a reference of a client that is gone: %r", error)

    def _look_at_loans(self) -> None:
        """Give back what was lent to messages that nobody can have any more."""
        with self.mutex:
            ended = self._loans.look()
        self._drop(ended)

    def incref(self, c: Any, ident: str) -> None:
        """Refer to an object once more. KeyError if it is gone."""
        with self.mutex:
            self._refer(ident)
            account = self._accounts.get(c)
            if account is not None:
                account[ident] += 1

    def _refer(self, ident: str) -> None:
        if ident not in self.id_to_refcount:
            # Only objects of this process referred to it until now.
            self.id_to_obj[ident] = self.id_to_local_proxy_obj[ident]
            self.id_to_refcount[ident] = 0
            util.debug("Server re-enabled tracking & INCREF %r", ident)
        self.id_to_refcount[ident] += 1

    def hold(self, c: Any, owner: str, counts: dict[str, int], void: Iterable[str]) -> None:
        """Refer to objects as often as `counts` says, for a client whose former connection was broken off.

        Those that are gone are left out. The loans under the tickets `void` end. `owner` is the client's process.
        """
        with self.mutex:
            for ident, count in counts.items():
                for _ in range(count):
                    try:
                        self.incref(c, ident)
                    except KeyError:
                        break
            self._loans.enter(c, owner)
            ended = self._loans.end(void)
        self._drop(ended)

    def lend(self, c: Any, ident: str, ticket: str, owner: str, file: tuple[int, int, int, int] | None) -> None:
        """Hold an object for whoever redeems the ticket. KeyError if it is gone. See `_manager_loans`.

        `owner` is the process that has pickled it; `file`, if there is one, what says whether somebody can still
        unpickle it: the owner's pid and descriptor, device and inode.
        """
        with self.mutex:
            self._refer(ident)
            ended = self._loans.add(c, ident, ticket, owner, file)
        self._drop(ended)

    def redeem(self, c: Any, ident: str, ticket: str) -> None:
        """Refer to an object once more, in the place of the ticket. KeyError if it is gone."""
        with self.mutex:
            self.incref(c, ident)
            ended = self._loans.end([ticket])
        self._drop(ended)

    def take_back(self, c: Any, ticket: str) -> None:
        """End a loan: nobody will redeem the ticket."""
        with self.mutex:
            ended = self._loans.end([ticket])
        self._drop(ended)

    def decref(self, c: Any, ident: str) -> None:
        """Refer to an object once less; drop it after the last. KeyError if it is gone."""
        with self.mutex:
            if ident not in self.id_to_refcount and ident in self.id_to_local_proxy_obj:
                util.debug("Server DECREF skipping %r", ident)
                return
            self.id_to_refcount[ident] -= 1
            account = self._accounts.get(c)
            if account is not None and account[ident] > 0:
                account[ident] -= 1
                if not account[ident]:
                    del account[ident]
            if self.id_to_refcount[ident] > 0:
                return
            util.debug("disposing of obj with id %r", ident)
            del self.id_to_refcount[ident]
            dropped = self.id_to_obj.pop(ident)
        # What it runs when it goes, it runs without our lock.
        del dropped

    # ------------------------------------------------------------------------------------------------------------------
    # Proxies within this process

    def keep_local(self, ident: str) -> None:
        """Keep an object for a proxy in this process, such as one in a shared list. KeyError if it is gone."""
        with self.mutex:
            if ident not in self.id_to_local_proxy_obj:
                self.id_to_local_proxy_obj[ident] = self.id_to_obj[ident]
            self._local_proxies[ident] += 1

    def release_local(self, ident: str) -> None:
        """Drop it after the last of those proxies."""
        with self.mutex:
            self._local_proxies[ident] -= 1
            if self._local_proxies[ident] > 0:
                return
            del self._local_proxies[ident]
            dropped = self.id_to_local_proxy_obj.pop(ident)
        del dropped


class _SharedMemoryTracker:
    """The segments of one manager."""

    def __init__(self, name: str, segment_names: Iterable[str] = ()) -> None:
        self.shared_memory_context_name = name
        self.segment_names = list(segment_names)

    def register_segment(self, segment_name: str) -> None:
        """Add a segment."""
        util.debug("Register segment %r in pid %s", segment_name, os.getpid())
        self.segment_names.append(segment_name)

    def destroy_segment(self, segment_name: str) -> None:
        """Free a segment. ValueError if it is none of ours."""
        from .shared_memory import SharedMemory

        util.debug("Destroy segment %r in pid %s", segment_name, os.getpid())
        self.segment_names.remove(segment_name)
        segment = SharedMemory(segment_name)
        segment.close()
        segment.unlink()

    def unlink(self) -> None:
        """Free all segments."""
        for name in self.segment_names[:]:
            try:
                self.destroy_segment(name)
            except FileNotFoundError:
                util.info("segment %r was freed by somebody else", name)

    def __del__(self) -> None:
        self.unlink()

    def __getstate__(self) -> tuple[Any, ...]:
        return self.shared_memory_context_name, self.segment_names

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)


class SharedMemoryServer(Server):
    """A server that also frees segments of shared memory, at the latest when it ends."""

    public: ClassVar[list[str]] = [*Server.public, "track_segment", "release_segment", "list_segments"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        address = self.address
        if isinstance(address, bytes):
            address = os.fsdecode(address)
        self.shared_memory_context = _SharedMemoryTracker(f"shm_{address}_{os.getpid()}")
        util.debug("SharedMemoryServer started by pid %s", os.getpid())

    def create(self, c: Any, typeid: str, /, *args: Any, **kwargs: Any) -> tuple[str, tuple[str, ...]]:
        """Make an object; one whose proxy type wants the segments gets them as `shared_memory_context`."""
        if hasattr(self.registry[typeid][-1], "_shared_memory_proxy"):
            kwargs["shared_memory_context"] = self.shared_memory_context
        return super().create(c, typeid, *args, **kwargs)

    def shutdown(self, c: Any) -> None:
        """Free all segments and end the server."""
        self.shared_memory_context.unlink()
        return super().shutdown(c)

    def track_segment(self, c: Any, segment_name: str) -> None:
        """Take over a segment."""
        self.shared_memory_context.register_segment(segment_name)

    def release_segment(self, c: Any, segment_name: str) -> None:
        """Free a segment."""
        self.shared_memory_context.destroy_segment(segment_name)

    def list_segments(self, c: Any) -> list[str]:
        """Return the names of the segments."""
        return self.shared_memory_context.segment_names
