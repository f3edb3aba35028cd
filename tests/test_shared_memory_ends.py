"""Segments when memory is short, when two want one name, and when a program is killed on the way."""

import errno
import importlib
import mmap
import os
import struct

import pytest

from support import census

OURS = pytest.mark.only("manycore", reason="the standard package finds out at the first write, by SIGBUS")
ABSURD = 10**12


@pytest.fixture
def shm(mp):
    yield importlib.import_module(f"{mp.__name__}.shared_memory")
    if mp.__name__ == "manycore":
        importlib.import_module("manycore.resource_tracker")._resource_tracker._stop()


def exists(name):
    return os.path.exists(f"/dev/shm/{name.lstrip('/')}")


def gone(name):
    return census.eventually(lambda: not exists(name))


def free_memory():
    with open("/proc/meminfo") as file:
        amounts = {line.split(":")[0]: int(line.split()[1]) << 10 for line in file}
    return amounts["MemAvailable"] + amounts["SwapFree"]


# --- more than there is ---


@OURS
@pytest.mark.parametrize("kind", ["Array", "RawArray", "RawValue", "Value"])
def test_an_absurd_value(mp, kind, monkeypatch):
    import ctypes

    heap = importlib.import_module(f"{mp.__name__}.heap")
    monkeypatch.setattr(heap.BufferWrapper, "_heap", heap.Heap())

    what = ("d", ABSURD) if "Array" in kind else (ctypes.c_double * ABSURD,)
    with pytest.raises(OSError) as caught:
        getattr(mp, kind)(*what)
    assert caught.value.errno == errno.ENOMEM
    assert mp.RawArray("d", 10)[:] == [0.0] * 10


@OURS
@pytest.mark.parametrize("size", [ABSURD, 1 << 62, 1 << 70])
def test_an_absurd_segment(shm, size):
    with pytest.raises(OSError) as caught:
        shm.SharedMemory(create=True, size=size)
    assert caught.value.errno in (errno.ENOSPC, errno.ENOMEM)


@OURS
def test_a_folder_larger_than_memory(shm, monkeypatch):
    real = os.statvfs("/dev/shm")
    roomy = os.statvfs_result((real.f_bsize, real.f_frsize, 1 << 60, 1 << 60, 1 << 60, *tuple(real)[5:]))
    monkeypatch.setattr(os, "fstatvfs", lambda fd: roomy)
    with pytest.raises(OSError) as caught:
        shm.SharedMemory(create=True, size=ABSURD)
    assert caught.value.errno == errno.ENOMEM


@OURS
@pytest.mark.parametrize("by", ["queue", "pool"])
def test_a_message_larger_than_memory(mp, by):
    """Pages that were never written cost nothing to read, so the message takes no memory."""
    import pickle

    size = free_memory() + (2 << 30)
    nothing = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | 0x4000)  # MAP_NORESERVE
    buffer = pickle.PickleBuffer(nothing)
    if by == "queue":
        queue = mp.SimpleQueue()
        with pytest.raises((OSError, MemoryError)):
            queue.put(buffer)
        queue.put(1)
        assert queue.get() == 1
    else:
        with mp.Pool(1) as pool:
            with pytest.raises((OSError, MemoryError)):
                pool.apply(len, (buffer,))
            assert pool.apply(len, ([1],)) == 1
    buffer.release()
    nothing.close()


LIMITED = """
    import errno, resource

    def main():
        from manycore import shared_memory

        mp.set_start_method("fork")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        for make in (
            lambda: shared_memory.SharedMemory(create=True, size=2 << 20),
            lambda: mp.RawArray("b", 2 << 20),
        ):
            try:
                make()
            except OSError as error:
                print(errno.errorcode[error.errno], flush=True)
        print(mp.RawArray("b", 1000)[:] == [0] * 1000, flush=True)
        for make in (mp.SimpleQueue, mp.Lock, lambda: mp.Pool(1)):
            try:
                made = make()
                print("made", flush=True)
                if hasattr(made, "terminate"):
                    made.terminate()
            except OSError as error:
                print(errno.errorcode[error.errno], flush=True)
"""


@OURS
def test_a_limit_of_file_sizes(script):
    running = script(LIMITED)
    lines = [running.read_line() for _ in range(6)]
    assert lines[:3] == ["EFBIG", "EFBIG", "True"]
    assert set(lines[3:]) <= {"made", "EFBIG"}
    assert running.finish() == 0
    assert running.errors == b""


# --- arrays that outlive their segment ---


@pytest.mark.only("manycore", reason="the standard package's memory is gone under the array, which ends the process")
@pytest.mark.parametrize("end", ["segment.close()", "del segment", "segment.unlink(); segment.close()"])
def test_an_array_outlives_its_segment(script, end):
    """NumPy keeps `buf` itself, without being known as a view of it."""
    running = script(
        f"""
        from manycore.shared_memory import SharedMemory
        import gc, numpy

        def mappings():
            with open("/proc/self/maps") as maps:
                return sum("/dev/shm/" in line for line in maps)

        def main():
            segment = SharedMemory(create=True, size=1 << 20)
            name = segment.name
            array = numpy.ndarray((1 << 17,), dtype="f8", buffer=segment.buf)
            part = array[5:10]
            del array
            part[:] = 1
            {end}
            gc.collect()
            part += 1
            print(part.sum(), mappings())
            del part
            gc.collect()
            print(mappings())
            if "unlink" not in {end!r}:
                SharedMemory(name).unlink()
        """
    )
    assert running.finish() == 0, running.errors.decode()
    assert running.output.split() == [b"10.0", b"1", b"0"]
    assert running.errors == b""


def test_what_is_taken_out_of_a_segment_is_closed_with_it(shm):
    segment = shm.SharedMemory(create=True, size=100)
    view = segment.buf
    segment.close()
    with pytest.raises(ValueError, match="released"):
        view[0]
    segment.unlink()


# --- systems without files that have no name ---


@pytest.fixture(params=[errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT])
def by_name_only(request, monkeypatch):
    real = os.open

    def refuse(path, flags, *others, **named):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(request.param, os.strerror(request.param), path)
        return real(path, flags, *others, **named)

    monkeypatch.setattr(os, "open", refuse)


@OURS
@pytest.mark.parametrize("track", [True, False])
def test_created_by_name(by_name_only, shm, track):
    tracker = importlib.import_module("manycore.resource_tracker")
    before = len(tracker._records(tracker.getfd()))
    for name in (None, f"manycore_named_{os.getpid()}"):
        segment = shm.SharedMemory(name, create=True, size=100, track=track)
        segment.buf[99] = 1
        assert segment.size == 100
        with pytest.raises(FileExistsError):
            shm.SharedMemory(segment.name, create=True, size=1)
        assert len(tracker._records(tracker.getfd())) == before + track
        segment.close()
        segment.unlink()
        assert not exists(segment.name)
    with pytest.raises(OSError):
        shm.SharedMemory(f"manycore_named_{os.getpid()}", create=True, size=ABSURD, track=track)
    assert not exists(f"manycore_named_{os.getpid()}")
    assert len(tracker._records(tracker.getfd())) == before


# --- two want one name ---


@OURS
@pytest.mark.parametrize("form", ["without a name first", "by name"])
def test_the_loser_leaves_the_winners_record(shm, monkeypatch, form):
    """The winner gets the name between the loser's look and the loser's attempt."""
    tracker = importlib.import_module("manycore.resource_tracker")
    before = tracker._records(tracker.getfd())
    name = f"manycore_race_{os.getpid()}"
    winner = []

    def look(path):
        if not winner:
            winner.append(None)
            winner[0] = shm.SharedMemory(name, create=True, size=10)
        return False

    monkeypatch.setattr(os.path, "lexists", look)
    if form == "by name":
        monkeypatch.setattr(shm.SharedMemory, "_open_without_name", lambda self, size: False)
    with pytest.raises(FileExistsError):
        shm.SharedMemory(name, create=True, size=20)
    (record,) = set(tracker._records(tracker.getfd())) - set(before)
    status = os.fstat(winner[0]._fd)
    assert record.endswith(struct.pack("QQ", status.st_dev, status.st_ino))
    winner[0].close()
    winner[0].unlink()
    assert tracker._records(tracker.getfd()) == before


@OURS
def test_an_unlinked_name_that_is_made_again_keeps_its_record(shm, monkeypatch):
    tracker = importlib.import_module("manycore.resource_tracker")
    first = shm.SharedMemory(create=True, size=10)
    made = []
    real = os.unlink

    def unlink(path):
        real(path)
        made.append(shm.SharedMemory(first.name, create=True, size=10))

    monkeypatch.setattr(tracker.os, "unlink", unlink)
    first.unlink()
    monkeypatch.undo()
    status = os.fstat(made[0]._fd)
    files = [record[-16:] for record in tracker._records(tracker.getfd()) if first.name.encode() in record]
    assert files == [struct.pack("QQ", status.st_dev, status.st_ino)]
    with pytest.raises(FileNotFoundError):
        made[0].unlink()
        first.unlink()
    assert not [record for record in tracker._records(tracker.getfd()) if first.name.encode() in record]
    made[0].close()
    first.close()


# --- damaged lists ---


@OURS
@pytest.mark.parametrize("value", [1, 1.5, True, None, "", "abc", b"abc", b"\0", b"12345678"])
@pytest.mark.parametrize("offsets", [(0, 8, 8), (0, 0, 16), (0, 3, 16), (0, 16, 16), (0, 1, 2)])
def test_nothing_is_written_outside_of_an_items_room(shm, offsets, value):
    ours = shm.ShareableList([b"a", 1])
    struct.pack_into("3q", ours.shm.buf, 8, *offsets)
    damaged = shm.ShareableList(name=ours.shm.name)
    for index in (0, 1):
        start, stop = (16 + 16 + place for place in offsets[index : index + 2])
        before = bytes(ours.shm.buf)
        formats = damaged._offset_packing_formats
        try:
            damaged[index] = value
        except ValueError:
            assert bytes(ours.shm.buf) == before
        else:
            after = bytes(ours.shm.buf)
            assert (after[:start], after[stop:formats]) == (before[:start], before[stop:formats])
    damaged.shm.close()
    ours.shm.close()
    ours.shm.unlink()


# --- programs that die ---

LEAVES = pytest.mark.only("manycore", reason="the standard package's tracker frees what the program never made")


@LEAVES
@pytest.mark.parametrize(
    "make",
    [
        "shared_memory.ShareableList([1, 'a', b'b']).shm",
        "keep(managers.SharedMemoryManager()).SharedMemory(10)",
        "keep(managers.SharedMemoryManager()).ShareableList([1]).shm",
    ],
)
def test_a_program_that_dies_leaves_no_name(script, make):
    running = script(
        f"""
        def main():
            from manycore import managers, shared_memory

            kept = []

            def keep(manager):
                manager.start()
                kept.append(manager)
                return manager

            kept.append({make})
            print(kept[-1].name, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """.replace("def main():", "def main():\n            import signal", 1)
    )
    name = running.read_line()
    running.finish()
    assert gone(name)


@LEAVES
@pytest.mark.parametrize("maker", ["manycore", "multiprocessing"])
@pytest.mark.parametrize("track", [True, False, None])
def test_a_program_that_attached_and_died(script, shm, maker, track):
    other = importlib.import_module(f"{maker}.shared_memory")
    segment = other.SharedMemory(create=True, size=10)
    running = script(
        """
        def main():
            import signal
            from manycore import shared_memory

            segment = shared_memory.SharedMemory(sys.argv[1], track={"True": True, "False": False}.get(sys.argv[2]))
            print(segment.size, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        arguments=[segment.name, str(track)],
    )
    assert int(running.read_line()) == 10
    running.finish()
    try:
        assert exists(segment.name) != bool(track)
        if track:
            assert b"1 leaked shared_memory" in running.errors
    finally:
        if track:
            with open(f"/dev/shm/{segment.name}", "xb"):
                pass
        segment.close()
        segment.unlink()
        if maker == "multiprocessing":
            tracker = importlib.import_module("multiprocessing.resource_tracker")._resource_tracker
            pid = tracker._pid
            os.close(tracker._fd)
            tracker._fd = tracker._pid = None
            os.waitpid(pid, 0)


@LEAVES
def test_killed_at_any_moment_of_a_creation(script):
    """Each child is killed a little later in its endless creating; nothing of theirs is left when all is over."""
    running = script(
        """
        def child(prefix, go):
            from manycore import shared_memory

            go.release()
            number = 0
            while True:
                number += 1
                shared_memory.SharedMemory(f"{prefix}_{os.getpid()}_{number % 50}", create=True, size=5000).unlink()

        def main():
            import signal

            mp.set_start_method("fork")
            go = mp.Semaphore(0)
            for attempt in range(60):
                process = mp.Process(target=child, args=(sys.argv[1], go))
                process.start()
                go.acquire()
                for _ in range(attempt * 100):
                    pass
                process.kill()
                process.join()
            print("over", flush=True)
        """,
        arguments=[f"manycore_killed_{os.getpid()}"],
    )
    assert running.read_line() == "over"
    running.finish()
    prefix = f"manycore_killed_{os.getpid()}"
    assert census.eventually(lambda: not [name for name in os.listdir("/dev/shm") if name.startswith(prefix)])


# --- a program that does without the tracker ---


def test_replaced_functions_of_the_tracker(mp, shm, monkeypatch):
    tracker, calls = importlib.import_module(f"{mp.__name__}.resource_tracker"), []
    monkeypatch.setattr(tracker, "register", lambda *what: calls.append(("register", *what)))
    monkeypatch.setattr(tracker, "unregister", lambda *what: calls.append(("unregister", *what)))
    segment = shm.SharedMemory(create=True, size=10)
    assert ("register", segment._name, "shared_memory") in calls
    segment.close()
    segment.unlink()
    assert calls[-1] == ("unregister", segment._name, "shared_memory")
    with pytest.raises(FileNotFoundError):
        segment.unlink()
    segment = shm.SharedMemory(create=True, size=10)
    calls.clear()
    with pytest.raises(FileExistsError):
        shm.SharedMemory(segment.name, create=True, size=10)
    segment.close()
    segment.unlink()
    assert calls[-1] == ("unregister", segment._name, "shared_memory")


ATTACHED = """
def main():
    tracker = __import__(mp.__name__ + ".resource_tracker").resource_tracker
    memory = __import__(mp.__name__ + ".shared_memory").shared_memory
    unregister = tracker.unregister
    tracker.unregister = lambda name, rtype: (print("unregister", name), unregister(name, rtype))
    made = memory.SharedMemory(create=True, size=10)
    attached = memory.SharedMemory(made.name)
    made.close()
    attached.unlink()
    attached.close()
    print(attached._name)
"""


def test_an_attached_handle_takes_the_name_away(mp, script):
    program = script(ATTACHED)
    assert program.finish() == 0, program.errors.decode()
    told, name = program.output.decode().splitlines()
    assert told == f"unregister {name}"
    assert program.errors == b""


RECIPE = """
def main():
    tracker = __import__(mp.__name__ + ".resource_tracker").resource_tracker
    memory = __import__(mp.__name__ + ".shared_memory").shared_memory
    register, unregister = tracker.register, tracker.unregister
    tracker.register = lambda name, rtype: None if rtype == "shared_memory" else register(name, rtype)
    tracker.unregister = lambda name, rtype: None if rtype == "shared_memory" else unregister(name, rtype)
    del tracker._CLEANUP_FUNCS["shared_memory"]
    kept, given_up = (memory.SharedMemory(create=True, size=10) for _ in range(2))
    kept.buf[0] = 7
    memory.SharedMemory(given_up.name).close()
    given_up.close()
    given_up.unlink()
    print(kept.name, given_up.name)
"""


def test_a_segment_outlives_the_program_that_keeps_it_from_the_tracker(mp, shm, script):
    """By the recipe that programs use for it since 2019 (python/cpython#82300)."""
    program = script(RECIPE)
    kept, given_up = program.read_line().split()
    assert program.finish() == 0, program.errors.decode()
    assert program.errors == b""
    segment = shm.SharedMemory(kept)
    assert segment.buf[0] == 7
    assert not exists(given_up)
    segment.close()
    segment.unlink()
