"""Named shared memory whose users are killed, and its tracker with them."""

import itertools
import os

from rig import PATIENCE, role

from manycore.shared_memory import ShareableList, SharedMemory

NUMBERS = itertools.count()


def name():
    """A name by which the driver finds what is left."""
    return f"{os.environ['MANYCORE_SOAK']}-{os.getpid()}-{next(NUMBERS)}"


def make(conn):
    """Create segments, say their names, and free every other one."""
    role("creator")
    while True:
        segment = SharedMemory(name(), create=True, size=10_000)
        segment.buf[:4] = b"data"
        conn.send(segment.name)
        conn.recv()
        segment.close()
        if next(NUMBERS) % 2:
            segment.unlink()


def segments_are_freed(rig):
    """Segments of killed processes can be used while the program lives; nothing of them is left when it ends.

    The driver looks into /dev/shm afterwards; it kills the tracker, too.
    """
    while not rig.over():
        ours, theirs = rig.ctx.Pipe()
        creator = rig.start(make, theirs)
        theirs.close()
        items = ShareableList([1, "text", b"bytes", None], name=name())
        assert list(ShareableList(name=items.shm.name)) == [1, "text", b"bytes", None]
        for _ in range(rig.random.randrange(5, 60)):
            with rig.awaiting("the name of a segment"):
                if not ours.poll(PATIENCE):
                    raise AssertionError("neither a name nor an end")
                try:
                    segment = SharedMemory(ours.recv())
                    assert bytes(segment.buf[:4]) == b"data"
                    segment.close()
                    ours.send(None)
                except (EOFError, OSError):
                    break
            rig.counts["segments"] += 1
        ours.close()
        rig.end([creator])
        items.shm.close()
        items.shm.unlink()
        rig.mark()
