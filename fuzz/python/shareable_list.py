"""A ShareableList in a segment that anybody may have written: it is a list or an error, and always small.

The input is the segment; its first three bytes say what is overwritten after the list was attached to.
"""

import struct
import sys

import atheris

with atheris.instrument_imports(include=["manycore.shared_memory"]):
    from manycore import shared_memory
    from manycore.shared_memory import ShareableList

SIZE = 4096


class Segment:
    """Shared memory without a name: nothing is left, however this ends."""

    def __init__(self, name):
        self.name, self.size, self.buf = name, SIZE, memoryview(bytearray(SIZE))

    def close(self):
        """Nothing to close."""


SEGMENT = Segment("the segment")
shared_memory.SharedMemory = lambda name: SEGMENT
#: What may be raised for a segment that holds no list, or an item that is none.
KNOWN = (ValueError, IndexError, KeyError, TypeError, struct.error)
VALUES = [1, 1.5, True, None, "text", b"bytes", "", b"\0"]


def use(items):
    """Do with a list what there is to do."""
    attempts = [
        lambda: len(items),
        lambda: list(items),
        lambda: repr(items),
        lambda: items.format,
        lambda: items.count(None),
        lambda: items.index(b"bytes"),
    ]
    for at in (0, 1, -1, 5):
        attempts.append(lambda at=at: items[at])
        attempts.append(lambda at=at: items.__setitem__(at, VALUES[at % len(VALUES)]))
    for attempt in attempts:
        try:
            attempt()
        except KNOWN:
            pass


def one(data):
    if len(data) < 4:
        return
    after, low, high, content = data[0], data[1], data[2], data[3 : 3 + SIZE]
    SEGMENT.buf[: len(content)] = content
    SEGMENT.buf[len(content) :] = bytes(SIZE - len(content))
    try:
        items = ShareableList(name=SEGMENT.name)
    except ValueError:
        return
    if after & 1:
        at = (low | high << 8) % (SIZE // 8) * 8 if after & 2 else 0
        struct.pack_into("Q", SEGMENT.buf, at, 1 << (after >> 2))
    use(items)


atheris.Setup(sys.argv, one)
atheris.Fuzz()
