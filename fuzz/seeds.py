"""Writes inputs that are well-formed, for the targets that would take long to guess what that is.

python fuzz/seeds.py FOLDER     one folder for each target below FOLDER
"""

import collections
import datetime
import fractions
import pathlib
import pickle
import struct
import sys

from manycore import _engine
from manycore.shared_memory import ShareableList

SHARED = [1, "twice"]
PLAIN = [
    0,
    [1, -5, 1 << 40, 1 << 90, 1.5, None, True, 2j],
    {"text": ["é", "日本", "\U0001f600", ""], b"bytes": bytearray(b"array")},
    (SHARED, SHARED, {3, 4}, frozenset((5,)), ()),
    [[1, 2, 3, 4, 5]] * 2 + [[i, i, i] for i in range(5)],
    [bytes(70_000), bytearray(70_000)],
    object,
]


class Thing:
    """An ordinary class."""

    def __init__(self, *parts):
        self.parts, self.more = parts, "more"


Pair = collections.namedtuple("Pair", "first second")
KNOT = []
KNOT.append((KNOT, Thing(KNOT)))
OBJECTS = [
    Thing(1, [2]),
    Pair(1, "x"),
    collections.deque([1, 2], 3),
    collections.OrderedDict(a=1, b=2),
    fractions.Fraction(1, 3),
    ValueError("text", 1),
    KNOT,
    datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC),
    datetime.timedelta(1, 2, 3),
    pickle.PickleBuffer(bytearray(b"buffer")),
]


def codec():
    """Messages: their flags, how long the head is, and all bytes."""
    for value in PLAIN:
        head, message = _engine.encode(value)
        yield bytes([3]) + struct.pack("<H", head % 65536) + message
        head, message = _engine.encode([value, value])
        yield bytes([1]) + struct.pack("<H", head % 65536) + message
    for value in OBJECTS:
        for what in (value, [value, value], (OBJECTS[0], {"key": value}, value)):
            head, message = _engine.encode(what)
            yield bytes([11]) + struct.pack("<H", 0) + message
    head, message = _engine.encode_call((1, SHARED), {"key": SHARED})
    yield bytes([0]) + struct.pack("<H", head) + message


def frames():
    """What a connection carries: short messages, long heads, an impossible length, a padded one."""
    for kind in range(3):
        for body in (b"", b"hello", bytes(100)):
            yield bytes([kind, 40, 0, 0, 20]) + struct.pack("!i", len(body)) + body
        yield bytes([kind, 40, 0, 0, 20]) + struct.pack("!iq", -1, 30) + bytes(30)
        yield bytes([kind, 40, 0, 1, 20]) + struct.pack("!i", -2)


def connection():
    """Pickles in frames, and the beginnings of long ones."""
    for kind in range(4):
        body = pickle.dumps({"key": [1, 2.5]})
        yield bytes([kind, 0, 99]) + struct.pack("!i", len(body)) + body
    for value in (bytes(1 << 20), bytearray(1 << 20), "x" * (1 << 20), [bytes(300_000)] * 2):
        yield bytes([8, 0, 16]) + pickle.dumps(value)[:40]


def shareable_list():
    """Segments."""
    for items in ([], [1, 2.5, True, None, "text", b"bytes"], [b"a" * 20, "é" * 9]):
        made = ShareableList(items)
        try:
            end = made._offset_back_transform_codes + len(items)
            yield bytes(3) + bytes(made.shm.buf[:end])
        finally:
            made.shm.close()
            made.shm.unlink()


def main():
    folder = pathlib.Path(sys.argv[1])
    makers = {
        "python_codec": codec,
        "frames": frames,
        "python_connection": connection,
        "shareable_list": shareable_list,
    }
    for name, make in makers.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(make()):
            (folder / name / f"seed-{number}").write_bytes(data)


if __name__ == "__main__":
    main()
