"""Queues and pipes whose users are killed."""

import queue
import time

from rig import PATIENCE, payload, role, whole


def produce(tasks, who):
    """Put numbered messages of all sizes for ever."""
    role("producer")
    number = 0
    while True:
        while tasks.qsize() > 200:
            # Whatever its length is to be, it need not become all of the memory there is.
            time.sleep(0.001)
        tasks.put((who, number, payload(number, (10, 2000, 40_000)[number % 3])))
        number += 1


def consume(tasks, results):
    """Pass on what is whole."""
    role("consumer")
    while True:
        who, number, message = tasks.get()
        assert whole(message) == number
        results.put((who, number))


def queue_goes_on(rig):
    """A queue whose producers and consumers are killed loses what the dead had in hand, and nothing else stops.

    No message comes twice, none damaged, and those of one producer that one consumer gets come in order.
    """
    names = 0
    while not rig.over():
        tasks, results = rig.ctx.Queue(rig.random.choice((0, 5))), rig.ctx.Queue()
        crew = []
        seen = set()
        try:
            for _ in range(rig.random.randrange(50, 400)):
                for process in [process for process in crew if not process.is_alive()]:
                    crew.remove(process)
                    rig.end([process])
                while len(crew) < 4:
                    names += 1
                    if len(crew) % 2:
                        crew.append(rig.start(consume, tasks, results))
                    else:
                        crew.append(rig.start(produce, tasks, names))
                try:
                    with rig.awaiting("a message"):
                        message = results.get(timeout=1)
                except queue.Empty:
                    # Everybody was killed before they had said anything: then there is somebody to replace.
                    assert any(not process.is_alive() for process in crew) or rig.over(), "nothing comes, and all live"
                    continue
                assert message not in seen, f"{message} came twice"
                seen.add(message)
                rig.counts["messages"] += 1
                if rig.over():
                    break
        finally:
            rig.end(crew)
        proof(rig, tasks)
        proof(rig, results)
        for one in (tasks, results):
            one.close()
            one.join_thread()
        # Received messages may be used where they lie: the memory goes with the last of them.
        tasks = results = one = seen = None
        rig.mark()


def proof(rig, one):
    """With nobody else left, what is put comes out."""
    with rig.awaiting("the queue to be empty"):
        while True:
            try:
                one.get(timeout=0.05)
            except queue.Empty:
                break
    with rig.awaiting("a put"):
        one.put("still here", timeout=PATIENCE)
    with rig.awaiting("the message that was just put"):
        assert one.get(timeout=PATIENCE) == "still here"


def send(conn):
    """Send messages that a pipe cannot hold."""
    role("sender")
    number = 0
    while True:
        conn.send(payload(number, (10, 5000, 400_000)[number % 3]))
        number += 1


def pipe_ends(rig):
    """A sender that is killed in the midst of a message leaves an end of file or an error, never half a message."""
    while not rig.over():
        ours, theirs = rig.ctx.Pipe(duplex=rig.random.random() < 0.5)
        sender = rig.start(send, theirs)
        theirs.close()
        expected = 0
        most = rig.random.randrange(100, 2000)
        while expected < most and not rig.over():
            with rig.awaiting(f"message {expected} of a pipe"):
                if not ours.poll(PATIENCE):
                    raise AssertionError("neither a message nor an end")
                try:
                    assert whole(ours.recv()) == expected
                except (EOFError, OSError):
                    rig.counts["pipes that ended"] += 1
                    break
            expected += 1
            rig.counts["messages"] += 1
        ours.close()
        rig.end([sender])
        rig.mark()
