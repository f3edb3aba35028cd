"""Values and arrays of C types that processes share."""

import ctypes
import gc
import importlib
import os
import pickle
import sys
import threading

import pytest

from support import census


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]


@pytest.fixture
def shared(mp):
    return importlib.import_module(f"{mp.__name__}.sharedctypes")


@pytest.fixture(autouse=True)
def heap(mp, monkeypatch):
    """An empty heap, in the place of the package's, which keeps arenas for later."""
    module = importlib.import_module(f"{mp.__name__}.heap")
    monkeypatch.setattr(module.BufferWrapper, "_heap", module.Heap())
    yield module
    gc.collect()


def test_what_is_no_type(mp, shared):
    if mp.__name__ == "multiprocessing" and sys.version_info < (3, 15):
        pytest.skip("its message speaks of sizes before CPython 3.15")
    for make in (mp.Value, mp.RawValue, mp.Array, mp.RawArray):
        for kind in ("x", 3, None):
            with pytest.raises(TypeError, match="bad typecode"):
                make(kind, [])


def double(*things):
    for thing in things:
        if hasattr(thing, "value"):
            thing.value *= 2
        elif hasattr(thing, "x"):
            thing.x *= 2
        else:
            for i in range(len(thing)):
                thing[i] *= 2


@pytest.mark.parametrize("first", ["i", "d", "h", "q", ctypes.c_longlong, ctypes.c_float])
def test_raw_value(mp, first):
    value = mp.RawValue(first, 7)
    assert value.value == 7
    value.value = 8
    assert value.value == 8
    assert mp.RawValue(first).value == 0
    assert not hasattr(value, "get_lock")


def test_raw_array(mp):
    array = mp.RawArray("i", 5)
    assert list(array) == [0] * 5
    array[1:4] = [1, 2, 3]
    assert array[:] == [0, 1, 2, 3, 0]
    assert list(mp.RawArray("d", (0.5, 1.5))) == [0.5, 1.5]
    assert list(mp.RawArray("i", range(4))) == [0, 1, 2, 3]
    text = mp.RawArray("c", b"hello")
    assert (text.value, text.raw, len(text)) == (b"hello", b"hello", 5)
    assert mp.RawArray("u", "äö")[:] == "äö"


@pytest.mark.parametrize("arguments", [("i", -1), ("x", 3), ("i", ["a"])])
def test_no_array(mp, arguments):
    with pytest.raises((ValueError, TypeError)):
        mp.RawArray(*arguments)


def test_structures(mp, shared):
    point = mp.RawValue(Point, 3, 0.5)
    twin = shared.copy(point)
    point.x = 4
    assert (point.x, twin.x, twin.y) == (4, 3, 0.5)
    points = mp.RawArray(Point, [(1, 1.5), (2, 2.5)])
    assert [(p.x, p.y) for p in points] == [(1, 1.5), (2, 2.5)]


def test_in_a_child(ctx):
    things = [
        ctx.RawValue("i", 7),
        ctx.RawValue(Point, 3, 0.5),
        ctx.RawArray("d", [1.0, 2.0]),
        ctx.RawValue(ctypes.c_longlong, 2**33),
        ctx.RawArray("i", 100_000),
    ]
    things[4][99_999] = 5
    child = ctx.Process(target=double, args=things)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert (things[0].value, things[1].x, list(things[2])) == (14, 6, [2.0, 4.0])
    assert things[3].value == 2**34
    assert (things[4][0], things[4][99_999]) == (0, 10)


def test_only_by_inheritance(mp, shared):
    reduction = importlib.import_module(f"{mp.__name__}.reduction")
    for thing in (mp.RawValue("i"), mp.RawArray("i", 2), shared.synchronized(mp.RawValue("i"), threading.Lock())):
        with pytest.raises(RuntimeError, match="should only be shared between processes through inheritance"):
            reduction.ForkingPickler.dumps(thing)


def test_synchronized(mp, shared):
    lock = threading.RLock()
    value = shared.synchronized(mp.RawValue("i", 5), lock)
    assert type(value).__name__ == "Synchronized"
    assert value.get_lock() is lock
    assert value.get_obj().value == 5
    with value:
        value.value += 1
    assert value.acquire()
    assert value.value == 6
    value.release()
    assert repr(value) == "<Synchronized wrapper for c_int(6)>"
    with pytest.raises(AssertionError):
        shared.synchronized(value, lock)
    array = shared.synchronized(mp.RawArray("i", 3), lock)
    array[0:2] = [1, 2]
    assert (len(array), array[1], array[:]) == (3, 2, [1, 2, 0])
    text = shared.synchronized(mp.RawArray("c", 6), lock)
    text.value = b"abc"
    assert (text.value, text.raw, text[0]) == (b"abc", b"abc\0\0\0", b"a")
    point = shared.synchronized(mp.RawValue(Point, 1, 2), lock)
    point.y = 2.5
    assert (point.x, point.y) == (1, 2.5)


def test_every_access_takes_the_lock(mp, shared):
    class Lock:
        taken = 0

        def acquire(self):
            self.taken += 1

        def release(self):
            self.taken += 100

        def __enter__(self):
            self.acquire()

        def __exit__(self, *_):
            self.release()

    lock = Lock()
    value = shared.synchronized(mp.RawValue("i", 5), lock)
    value.value = 3
    assert value.value == 3
    array = shared.synchronized(mp.RawArray("i", 3), lock)
    array[0] = 1
    assert array[0] == 1
    with pytest.raises(IndexError):
        array[3]
    assert lock.taken == 505


def test_which_lock(shared):
    given = threading.Lock()
    assert shared.Value("i", 5, lock=given).get_lock() is given
    assert shared.Array("i", 5, lock=given).get_lock() is given
    assert not hasattr(shared.Value("i", 5, lock=False), "get_lock")
    assert not hasattr(shared.Array("i", 5, lock=False), "get_lock")
    with pytest.raises(AttributeError, match="has no method 'acquire'"):
        shared.Value("i", 5, lock="no lock")
    with pytest.raises(AttributeError, match="has no method 'acquire'"):
        shared.Array("i", 5, lock="no lock")


def increment(value, array, count):
    for _ in range(count):
        with value.get_lock():
            value.value += 1
        with array:
            array[1] += 1


def test_increments_of_several_processes(ctx):
    value, array = ctx.Value("i", 0), ctx.Array("q", 3)
    children = [ctx.Process(target=increment, args=(value, array, 200)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert (value.value, array[:]) == (600, [0, 600, 0])


def test_the_default_lock(mp, shared):
    for thing in (
        mp.Value("i", 5),
        mp.Array("i", 5),
        mp.Value("i", 5, lock=None),
        shared.synchronized(mp.RawValue("i")),
    ):
        lock = thing.get_lock()
        assert type(lock) is type(mp.RLock())
        with thing, lock:
            assert thing.acquire()
            thing.release()


def hold(value, gate):
    value.acquire()
    value.value = 1
    gate.arrive()


@pytest.mark.only("manycore", reason="in the standard package nobody gets the lock of the dead")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_holder_of_the_lock_is_killed(ctx, gate):
    value = ctx.Value("i", 0)
    child = ctx.Process(target=hold, args=(value, gate))
    child.start()
    gate.arrivals(1)
    child.kill()
    child.join()
    with value.get_lock():
        value.value += 1
    assert value.value == 2


# --- the heap ---


def check(heap):
    """Free and allocated blocks together are the arenas, without gap or overlap."""
    state = heap.BufferWrapper._heap
    pieces = [block for blocks in state._len_to_seq.values() for block in blocks]
    pieces += [(arena, *block) for arena, blocks in state._allocated_blocks.items() for block in blocks]
    for arena in state._arenas:
        mine = sorted(piece[1:] for piece in pieces if piece[0] is arena)
        assert [start for start, _ in mine] == [0] + [stop for _, stop in mine[:-1]]
        assert mine[-1][1] == arena.size
    assert sum(stop - start for _, start, stop in pieces) == sum(arena.size for arena in state._arenas)


def test_blocks_do_not_overlap(heap):
    heap.BufferWrapper._heap._DISCARD_FREE_SPACE_LARGER_THAN = 0
    blocks = []
    for number in range(600):
        size = number * 7919 % 5000
        block = heap.BufferWrapper(size)
        view = block.create_memoryview()
        assert len(view) == size
        view[:] = bytes([number % 256]) * size
        blocks.append((block, bytes([number % 256]) * size))
        if number % 3:
            del blocks[number * 31 % len(blocks)]
        if number % 50 == 0:
            check(heap)
    for block, content in blocks:
        assert block.create_memoryview() == content
    del block, view
    blocks.clear()
    state = heap.BufferWrapper._heap
    assert (state._arenas, state._len_to_seq, state._allocated_blocks) == ([], {}, {})
    assert state._n_mallocs == state._n_frees


def test_blocks_freed_by_a_collection(heap):
    thresholds = gc.get_threshold()
    gc.set_threshold(10)
    try:
        for _ in range(500):
            one, other = heap.BufferWrapper(1), heap.BufferWrapper(1)
            one.buddy, other.buddy = other, one
    finally:
        gc.set_threshold(*thresholds)
    check(heap)


@pytest.mark.parametrize(("size", "error"), [(-1, ValueError), (2**63, OverflowError), ("a", TypeError)])
def test_no_size(heap, size, error):
    with pytest.raises(error):
        heap.BufferWrapper(size)


@pytest.mark.only("manycore", reason="the standard package leaves a descriptor and a file to chance")
def test_an_arena_goes_back(mp, heap):
    before = census.descriptor_kinds()
    blocks = [heap.BufferWrapper(5 << 20) for _ in range(3)]
    assert len(census.descriptor_kinds()) > len(before) + 2
    del blocks
    assert len(census.descriptor_kinds()) == len(before)


def allocate(path):
    child = importlib.import_module("manycore.heap").BufferWrapper(16)
    with open(path, "w") as file:
        file.write(str(child._state[0][1:]))
    child.create_memoryview()[:] = b"x" * 16


@pytest.mark.only("manycore", reason="looks at the heap's own state")
def test_a_child_cuts_nothing_from_its_parents_arena(mp, heap, tmp_path):
    ours = heap.BufferWrapper(16)
    child = mp.get_context("fork").Process(target=allocate, args=(tmp_path / "out",))
    child.start()
    child.join()
    assert (tmp_path / "out").read_text() == "(0, 16)", "the first block of an arena of its own"
    assert bytes(ours.create_memoryview()) == bytes(16)
    assert os.getpid() == heap.BufferWrapper._heap._owner


def test_a_heap_block_is_not_pickled_for_anybody(mp, heap):
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        pickle.dumps(heap.BufferWrapper(1))
