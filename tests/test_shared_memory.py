"""Segments with names: what is in them, who may attach, and that none is left or lost when programs end."""

import errno
import importlib
import os
import pickle
import signal
import struct

import pytest

from support import census

OTHER = {"manycore": "multiprocessing", "multiprocessing": "manycore"}


@pytest.fixture
def shm(mp):
    yield importlib.import_module(f"{mp.__name__}.shared_memory")
    if mp.__name__ == "manycore":
        importlib.import_module("manycore.resource_tracker")._resource_tracker._stop()


@pytest.fixture
def segment(shm):
    segment = shm.SharedMemory(create=True, size=100)
    yield segment
    segment.close()
    segment.unlink()


def exists(name):
    return os.path.exists(f"/dev/shm/{name.lstrip('/')}")


def gone(name):
    return census.eventually(lambda: not exists(name))


def forget(shm, segment):
    """The standard package has taken the segment for its own when it attached."""
    if shm.__name__.startswith("multiprocessing"):
        tracker = importlib.import_module("multiprocessing.resource_tracker")._resource_tracker
        tracker.unregister(segment._name, "shared_memory")
        pid = tracker._pid
        os.close(tracker._fd)
        tracker._fd = tracker._pid = None
        os.waitpid(pid, 0)


# --- SharedMemory ---


def test_what_one_writes_the_other_reads(shm, segment):
    assert segment.name.startswith("psm_")
    assert segment.size >= 100
    assert repr(segment) == f"SharedMemory({segment.name!r}, size={segment.size})"
    segment.buf[:3] = b"abc"
    again = shm.SharedMemory(segment.name, size=7)
    assert again.size == segment.size, "the size of one that exists is its own"
    assert bytes(again.buf[:3]) == b"abc"
    again.buf[0:1] = b"x"
    assert bytes(segment.buf[:3]) == b"xbc"
    again.close()
    again.close()
    assert again.buf is None
    assert bytes(segment.buf[:3]) == b"xbc", "the other one is still open"


def test_errors(shm, segment):
    for arguments in ({"create": True}, {"create": True, "size": -1}, {}, {"create": True, "size": 0}):
        with pytest.raises(ValueError):
            shm.SharedMemory(**arguments)
    with pytest.raises(FileExistsError):
        shm.SharedMemory(segment.name, create=True, size=1)
    with pytest.raises(FileNotFoundError):
        shm.SharedMemory(f"psm_nobody_{os.getpid()}")
    with pytest.raises(OSError):
        shm.SharedMemory("a/b", create=True, size=1)
    view = memoryview(segment.buf)[1:]
    with pytest.raises(BufferError):
        segment.close()
    view.release()


def test_unlinked_twice(shm):
    segment = shm.SharedMemory(create=True, size=1)
    segment.unlink()
    segment.buf[0] = 1  # only the name is gone
    with pytest.raises(FileNotFoundError):
        segment.unlink()
    segment.close()


def test_pickled_it_is_the_same_segment(shm, segment):
    twin = pickle.loads(pickle.dumps(segment))
    twin.buf[5] = 55
    assert segment.buf[5] == 55
    twin.close()


def write(name_or_segment, module):
    segment = name_or_segment
    if isinstance(segment, str):
        segment = importlib.import_module(module).SharedMemory(segment)
    segment.buf[:5] = b"howdy"
    segment.close()


def test_in_a_child(ctx, shm, segment):
    for argument in (segment.name, segment):
        segment.buf[:5] = bytes(5)
        child = ctx.Process(target=write, args=(argument, shm.__name__))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert bytes(segment.buf[:5]) == b"howdy"


def test_the_other_package_attaches(mp, segment):
    other = importlib.import_module(f"{OTHER[mp.__name__]}.shared_memory")
    segment.buf[:2] = b"hi"
    twin = other.SharedMemory(segment.name)
    assert (twin.size, bytes(twin.buf[:2])) == (segment.size, b"hi")
    twin.close()
    forget(other, twin)


# --- ShareableList ---

VALUES = ["howdy", b"HoWdY", -273.154, 100, None, True, 42, ""]


def test_a_list(shm):
    values = shm.ShareableList(VALUES)
    try:
        assert list(values) == VALUES
        assert values.format == "8s8sdqxxxxxx?xxxxxxxx?q8s"
        assert len(values) == 8
        assert values[-2] == 42
        assert values.index(100) == 3
        assert values.count(42) == 1
        values[3] = 1.5
        values[4] = "some"
        assert (values[3], values[4]) == (1.5, "some")
        with pytest.raises(IndexError):
            values[8]
        with pytest.raises(IndexError):
            values[8] = 1
        with pytest.raises(ValueError, match="exceeds available storage"):
            values[0] = "far too many"
        with pytest.raises(KeyError):
            values[0] = []
        with pytest.raises(ValueError, match="not in (this container|list)"):
            values.index("nothing")
        twin = pickle.loads(pickle.dumps(values))
        twin[6] = 43
        assert values[6] == 43
        assert repr(twin) == f"ShareableList({list(values)!r}, name={values.shm.name!r})"
        twin.shm.close()
    finally:
        values.shm.close()
        values.shm.unlink()


@pytest.mark.only("manycore", reason="the standard package leaves the segment of a list that it cannot fill")
def test_a_list_that_cannot_be_filled_leaves_nothing(shm):
    name = f"manycore_unfilled_{os.getpid()}"
    with pytest.raises(struct.error):
        shm.ShareableList([1, 2**70], name=name)
    assert not os.path.exists(f"/dev/shm/{name}")


def test_the_other_package_reads_the_list(mp, shm):
    other = importlib.import_module(f"{OTHER[mp.__name__]}.shared_memory")
    values = shm.ShareableList(VALUES)
    twin = other.ShareableList(name=values.shm.name)
    assert list(twin) == VALUES
    twin[3] = 7
    assert values[3] == 7
    twin.shm.close()
    forget(other, twin.shm)
    values.shm.close()
    values.shm.unlink()


@pytest.mark.only("manycore", reason="the standard package takes the characters of a str for its bytes and cuts it off")
def test_a_text_of_many_bytes(shm):
    values = shm.ShareableList(["é" * 9, "€" * 100])
    assert list(values) == ["é" * 9, "€" * 100]
    with pytest.raises(IndexError):
        values[-3]
    values.shm.close()
    values.shm.unlink()


# --- who frees what ---

OURS = pytest.mark.only(
    "manycore", reason="the standard package's tracker frees what it never made, and what it forgot"
)


@OURS
def test_no_tracker_before_the_first_segment(script):
    running = script(
        """
        def main():
            from manycore import resource_tracker, shared_memory

            child = mp.Process(target=int)
            child.start()
            child.join()
            shared_memory.SharedMemory
            print(resource_tracker._resource_tracker._pid)
            segment = shared_memory.SharedMemory(create=True, size=10)
            print(resource_tracker._resource_tracker._pid)
            segment.unlink()
        """
    )
    assert running.read_line() == "None"
    tracker = int(running.read_line())
    assert running.finish() == 0
    assert running.errors == b""
    assert not os.path.exists(f"/proc/{tracker}"), "it ends with a program that has left nothing"


FAMILY = """
    from manycore import shared_memory

    def child(gate):
        segment = shared_memory.SharedMemory(create=True, size=10)
        print(segment.name, os.getpid(), flush=True)
        gate.arrive()

    def main():
        from support.gate import Gate

        gate = Gate.__new__(Gate)
        gate.name = chr(0) + sys.argv[2]
        mp.set_start_method(sys.argv[1])
        process = mp.Process(target=child, args=(gate,))
        process.start()
        if sys.argv[3] == "join":
            process.join()
        print("joined", flush=True)
        gate.arrive()
"""


@OURS
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_childs_segment_lives_as_long_as_the_program(script, gate, method):
    running = script(FAMILY, arguments=[method, gate.name[1:], "join"])
    name, pid = running.read_line().split()
    gate.arrivals(1)
    os.kill(int(pid), signal.SIGKILL)
    assert running.read_line() == "joined"
    gate.arrivals(1)
    assert exists(name), "its maker is dead, but the program is not"
    gate.open()
    running.finish()
    assert gone(name)
    assert b"There appear to be 1 leaked shared_memory objects" in running.errors


@OURS
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_family_is_gone_when_the_last_of_it_is(script, gate, method):
    running = script(FAMILY, arguments=[method, gate.name[1:], "no"])
    lines = dict(line.partition(" ")[::2] for line in (running.read_line(), running.read_line()))
    lines.pop("joined")
    ((name, pid),) = lines.items()
    gate.arrivals(2)
    os.kill(running.pid, signal.SIGKILL)
    running.process.wait()
    assert exists(name), "the child that made it lives"
    os.kill(int(pid), signal.SIGKILL)
    assert gone(name)


@OURS
def test_an_attached_segment_is_not_freed(script, shm, segment):
    running = script(
        """
        def main():
            from manycore import shared_memory

            segment = shared_memory.SharedMemory(sys.argv[1])
            print(segment.size)
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        arguments=[segment.name],
    )
    assert running.read_line() == str(segment.size)
    running.finish()
    assert exists(segment.name)
    assert running.errors == b""


@OURS
def test_a_segment_that_somebody_still_has_open(script, shm):
    running = script(
        """
        def main():
            from manycore import shared_memory

            print(shared_memory.SharedMemory(create=True, size=10).name)
            time.sleep(100)
        """
    )
    name = running.read_line()
    ours = shm.SharedMemory(name)
    os.kill(running.pid, signal.SIGKILL)
    running.finish()
    assert b"1 leaked shared_memory" in running.errors, "all that the tracker has to say"
    assert not exists(name), "the name goes at once, also while others have the segment open"
    ours.buf[0] = 1
    assert ours.buf[0] == 1
    ours.close()


@OURS
def test_a_name_that_another_program_uses_again(script, shm):
    running = script(
        """
        def main():
            from manycore import shared_memory

            print(shared_memory.SharedMemory(create=True, size=10).name)
            time.sleep(100)
        """
    )
    name = running.read_line()
    shm.SharedMemory(name).unlink()
    ours = shm.SharedMemory(name, create=True, size=10)
    os.kill(running.pid, signal.SIGKILL)
    running.finish()
    assert running.errors == b"", "nothing of that program's is left"
    assert exists(name)
    ours.close()
    ours.unlink()


@OURS
def test_more_than_there_is(shm):
    before = sorted(os.listdir("/dev/shm"))
    status = os.statvfs("/dev/shm")
    for track in (True, False):
        with pytest.raises(OSError) as caught:
            shm.SharedMemory(create=True, size=(status.f_bavail + 1) * status.f_frsize + (1 << 30), track=track)
        assert caught.value.errno == errno.ENOSPC
    assert sorted(os.listdir("/dev/shm")) == before


@OURS
def test_a_segment_has_its_memory_from_the_start(segment):
    assert os.fstat(segment._fd).st_blocks * 512 >= 100


@OURS
def test_zeros_at_the_end_of_items(shm):
    items = [b"\0\1\0", "a\0", b"\0" * 8, b"", "\0", b"ab", "\u20ac\0"]
    ours = shm.ShareableList(items)
    assert list(ours) == items
    theirs = importlib.import_module("multiprocessing.shared_memory").ShareableList(name=ours.shm.name)
    try:
        assert [x.rstrip(b"\0" if isinstance(x, bytes) else "\0") for x in items] == list(theirs)
        theirs[0] = b"longer"
        assert ours[0] == b"longer"
        ours[0] = b"1234567\0"
        assert ours[0] == b"1234567\0"
        theirs[0] = b"x"
        assert ours[0] == b"x"
    finally:
        forget(importlib.import_module("multiprocessing.shared_memory"), theirs.shm)
        theirs.shm.close()
        ours.shm.close()
        ours.shm.unlink()


@OURS
@pytest.mark.parametrize("place, value", [(0, 1 << 40), (0, -1), (8, 8), (16, 1 << 30), (24, -8)])
def test_a_damaged_list_is_not_attached_to(shm, place, value):
    ours = shm.ShareableList([b"a", 1])
    struct.pack_into("q", ours.shm.buf, place, value)
    with pytest.raises(ValueError, match="holds no list"):
        shm.ShareableList(name=ours.shm.name)
    ours.shm.close()
    ours.shm.unlink()


@OURS
@pytest.mark.parametrize("form", [b"99s", b"s", b"q", b"\xff", b"1s1s", b"-1s"])
def test_a_damaged_item(shm, form):
    ours = shm.ShareableList([b"a", 1])
    struct.pack_into("8s", ours.shm.buf, ours._offset_packing_formats, form)
    with pytest.raises(ValueError, match="damaged"):
        ours[0]
    ours.shm.buf[ours._offset_back_transform_codes + 1] = 9
    with pytest.raises(ValueError, match="damaged"):
        ours[1]
    ours.shm.close()
    ours.shm.unlink()


@OURS
def test_a_killed_tracker_loses_nothing(script):
    running = script(
        """
        def main():
            from manycore import resource_tracker, shared_memory

            first = shared_memory.SharedMemory(create=True, size=10)
            tracker = resource_tracker._resource_tracker
            os.kill(tracker._pid, signal.SIGKILL)
            os.waitid(os.P_PID, tracker._pid, os.WEXITED | os.WNOWAIT)
            assert not tracker._check_alive()
            second = shared_memory.SharedMemory(create=True, size=10)
            print(first.name, second.name)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    names = running.read_line().split()
    running.finish()
    assert b"2 leaked" in running.errors
    assert all(map(gone, names))


@OURS
def test_a_tracker_killed_before_the_end(script):
    running = script(
        """
        def main():
            from manycore import resource_tracker, shared_memory

            print(shared_memory.SharedMemory(create=True, size=10).name)
            tracker = resource_tracker._resource_tracker
            os.kill(tracker._pid, signal.SIGKILL)
            os.waitid(os.P_PID, tracker._pid, os.WEXITED | os.WNOWAIT)
        """
    )
    name = running.read_line()
    assert running.finish() == 0
    assert gone(name)
    assert b"1 leaked" in running.errors


@OURS
def test_untracked(script):
    running = script(
        """
        def main():
            from manycore import shared_memory

            print(shared_memory.SharedMemory(create=True, size=10, track=False).name)
        """
    )
    name = running.read_line()
    assert running.finish() == 0
    assert exists(name)
    os.unlink(f"/dev/shm/{name}")


@pytest.mark.only("manycore", reason="CPython cuts the name at the zero, until 3.13")
def test_a_name_with_a_zero(shm, segment):
    with pytest.raises(ValueError, match="null"):
        shm.SharedMemory(f"{segment.name}\0a")


@OURS
def test_names(mp, shm):
    tracker = importlib.import_module("manycore.resource_tracker")
    with pytest.raises(ValueError):
        tracker.register("a" * 500, "shared_memory")
    with pytest.raises(ValueError):
        tracker.register("name", "no such type")
    before = len(tracker._records(tracker.getfd()))
    for name in ("/one", "/two", "/one"):
        tracker.register(name, "shared_memory")
    assert len(tracker._records(tracker.getfd())) == before + 2
    for name in ("/one", "/two", "/three"):
        tracker.unregister(name, "shared_memory")
    assert len(tracker._records(tracker.getfd())) == before
