"""Managers that are killed, and clients of managers."""

import queue

from rig import role

from manycore.managers import SyncManager

#: What a call through a proxy may raise once the manager, or the connection to it, is gone.
GONE = (EOFError, OSError)


def use(shared, inbox):
    """Ask a manager for everything, until it is gone."""
    role("client")
    number = 0
    try:
        while True:
            shared[number % 10] = {"number": number}
            inbox.put(number)
            shared.get(number % 7)
            number += 1
    except GONE:
        pass


def manager_or_error(rig):
    """Calls through proxies give an answer or an error, whether the manager or its clients are killed; nobody waits.

    What a manager that lives holds for clients that were killed is given back.
    """
    while not rig.over():
        manager = SyncManager(ctx=rig.ctx)
        try:
            with rig.awaiting("the start of a manager"):
                manager.start(role, ("manager",))
        except GONE:
            rig.counts["managers killed while they started"] += 1
            continue
        rig.counts["managers"] += 1
        clients = []
        try:
            with rig.awaiting("a manager's first objects"):
                shared, inbox = manager.dict(), manager.Queue(50)
            clients = [rig.start(use, shared, inbox) for _ in range(2)]
            for number in range(rig.random.randrange(20, 300)):
                with rig.awaiting("an answer of a manager"):
                    shared["ours"] = number
                    assert shared["ours"] == number
                    nested = manager.list([number])
                    assert nested[0] == number
                    del nested
                    try:
                        inbox.get(timeout=0.5)
                    except queue.Empty:
                        pass
                rig.counts["answers"] += 4
                if rig.over():
                    break
        except GONE:
            rig.counts["managers lost"] += 1
        finally:
            rig.end(clients)
            with rig.awaiting("a manager's shutdown"):
                manager.shutdown()
        shared = inbox = manager = None
        rig.mark()
