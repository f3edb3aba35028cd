"""References on their way: a pickled proxy keeps its object until it is unpickled, or cannot be any more.

Whoever pickles a proxy has the manager lend a reference to it, under a *ticket*: a number of its own choice that is
written into the pickle. The manager holds the object for the ticket. Whoever unpickles the proxy redeems the ticket:
one request takes a reference for the receiver and ends the loan, and is the only message, where a proxy without a
ticket would have taken a reference, too. What was unpickled once may be unpickled again: then the ticket is spent,
and the reference is taken as long as something else still holds the object.

| state | its writer | what if the writer dies there |
|---|---|---|
| lent | the sender, before it sends; the manager notes ticket, object, tie | nothing was sent: the tie ends it |
| redeemed | the receiver, as it unpickles | before: the tie ends it; after: its own account ends with it |
| taken back | the sender, when pickling or sending failed | the tie ends it |
| lapsed | the manager, when the tie has ended | it has died with its objects |

**The tie** says when nobody can unpickle it any more. It is a file in memory that lives as long as somebody could:

- of a `Queue`, `SimpleQueue`, `JoinableQueue`: the queue's own memory;
- of arguments and results of a `Pool`: the pool's;
- of a message through a connection or a pipe, whose ends others may hold unseen, and of what is pickled by
  `ForkingPickler`: the file that all processes of the sender's program hold open (`_descriptors.family`).

The sender holds a shared flock on the open file, which stays until the last descriptor and the last mapping of it are
gone, however their owners end. The manager opens the file anew, by way of /proc, and when it is given an exclusive
flock everybody has gone. It looks once a second, as long as something is lent in that way, and whenever it is asked
how many objects there are. So a message in a queue survives its producer, and goes with the queue.

What is pickled by itself (`pickle.dumps`) may be sent or thrown away, and nobody can tell which: it is tied to the
process that has pickled it, and ends with the last of its connections to the manager. So is everything from another
machine, where the manager finds no file. A process that throws away pickles holds their object until it ends; the
manager remembers the last thousand tickets of each object and process, the older ones lapse.

The arguments of a `Process` need no ticket: the parent's process object keeps the proxy until the child has ended.
Nor does the function of a pool's job, which many workers unpickle: it is lent without a ticket, until the pool has
ended. An answer of a manager is kept by the manager until the client's next request. A server of the standard package
lends nothing; there a pickled proxy is as good as its sender's."""

from __future__ import annotations

import fcntl
import os
import threading
from collections import OrderedDict

from . import util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = ()

# Seconds between two looks at the files that loans are tied to.
PERIOD = 1.0
# How many tickets a process may have out for one object that are tied to itself alone.
MOST_TICKETS = 1000


class Loans:
    """What a manager has lent. Its lock is held around every call.

    The methods that end loans return the objects, one for each reference that the manager is to give back: without
    its lock, for what an object runs as it goes may take its time. `look` is what is called every second.
    """

    def __init__(self, look: Callable[[], object], stopped: threading.Event) -> None:
        self._look = look
        self._stopped = stopped
        # By ticket: what it is tied to, and the object.
        self._tickets: dict[str, tuple[Any, str]] = {}
        # By tie, by object: the tickets, oldest first. A tie is the name of a process or (device, inode) of a file.
        self._ties: dict[Any, dict[str, OrderedDict[str, None]]] = {}
        # Descriptors of the files.
        self._files: dict[tuple[int, int], int] = {}
        # The connections of each process that has lent something.
        self._connections: dict[str, set[Any]] = {}
        self._watching = False

    def add(self, conn: Any, ident: str, ticket: str, owner: str, file: tuple[int, int, int, int] | None) -> list[str]:
        """Note that a reference to `ident`, which has been taken, is lent. May end a loan that is very old."""
        tie = owner if file is None else self._tie(*file) or owner
        if tie is owner:
            self.enter(conn, owner)
        self._tickets[ticket] = tie, ident
        of_object = self._ties.setdefault(tie, {}).setdefault(ident, OrderedDict())
        of_object[ticket] = None
        return self.end([next(iter(of_object))]) if tie is owner and len(of_object) > MOST_TICKETS else []

    def enter(self, conn: Any, owner: str) -> None:
        """Note that `conn` is one of the process `owner`."""
        self._connections.setdefault(owner, set()).add(conn)

    def leave(self, conn: Any) -> list[str]:
        """Note that a connection has ended, and with the last one of a process what is tied to that."""
        ended: list[str] = []
        for owner in [owner for owner, conns in self._connections.items() if conn in conns]:
            self._connections[owner].discard(conn)
            if not self._connections[owner]:
                del self._connections[owner]
                ended += self._end_tie(owner)
        return ended

    def end(self, tickets: Iterable[str]) -> list[str]:
        """End loans. Tickets that are spent, or unknown, are no error."""
        ended: list[str] = []
        for ticket in tickets:
            tie, ident = self._tickets.pop(ticket, (None, None))
            if ident is None:
                continue
            objects = self._ties[tie]
            del objects[ident][ticket]
            if not objects[ident]:
                del objects[ident]
                # Of a file there may soon be others: its descriptor stays until the next look.
                if not objects and tie not in self._files:
                    del self._ties[tie]
            ended.append(ident)
        return ended

    def look(self) -> list[str]:
        """End what is tied to files that nobody has any more."""
        ended: list[str] = []
        for tie, fd in list(self._files.items()):
            if self._ties.get(tie):
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
            del self._files[tie]
            util.close_fds(fd)
            ended += self._end_tie(tie)
        if not self._files:
            self._watching = False
        return ended

    def _end_tie(self, tie: Any) -> list[str]:
        tickets = [ticket for of_object in self._ties.get(tie, {}).values() for ticket in of_object]
        ended = self.end(tickets)
        self._ties.pop(tie, None)
        return ended

    def _tie(self, pid: int, fd: int, device: int, inode: int) -> tuple[int, int] | None:
        """Return what a loan is tied to by a file of another process; None if there is no such file here."""
        tie = device, inode
        if tie in self._files:
            return tie
        family = os.fstat(util.family())
        if tie == (family.st_dev, family.st_ino):
            # Our own program's: we shall not see its end.
            return tie
        try:
            # A lock belongs to the open file; this is another one of the same.
            opened = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        found = os.fstat(opened)
        if (found.st_dev, found.st_ino) != tie:
            os.close(opened)
            return None
        util.make_private(opened)
        self._files[tie] = opened
        if not self._watching:
            self._watching = True
            threading.Thread(target=self._watch, name="manycore-loans", daemon=True).start()
        return tie

    def _watch(self) -> None:
        while self._watching and not self._stopped.wait(PERIOD):
            self._look()
