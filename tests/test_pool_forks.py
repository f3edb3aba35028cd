"""Arrays from a pool lie in shared memory; a process forked from their holder must have copies, as of any other memory."""

import os

import pytest

from support import tasks

numpy = pytest.importorskip("numpy")

SIZE = 1 << 18  # two MiB of float64


def filled(value):
    return numpy.full(SIZE, value, dtype=numpy.float64)


def in_child(work):
    """The exit code of a forked child that runs `work`."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def write_in_child_and_look(array):
    array += 1
    before = array.copy()

    def work():
        array[:] = -1
        return True

    code = in_child(work)
    return code == 0 and bool((array == before).all())


def test_a_child_writes_its_own_copy(pool):
    arrays = pool.map(filled, [1.0, 2.0], chunksize=1)

    def work():
        for array in arrays:
            array[:] = -1.0
        return True

    assert in_child(work) == 0
    assert [array[0] for array in arrays] == [1.0, 2.0]
    assert all((array == array[0]).all() for array in arrays)


def test_the_parent_writes_its_own_copy(pool):
    array = pool.apply(filled, (1.0,))
    reader, writer = os.pipe()

    def work():
        os.read(reader, 1)
        return bool((array == 1.0).all())

    pid = os.fork()
    if pid == 0:
        os._exit(0 if work() else 2)
    array[:] = 7.0
    os.write(writer, b"x")
    os.close(reader)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (array == 7.0).all()


def test_a_child_keeps_what_the_parent_dropped(pool):
    """The block is used again by the parent's next results, in which the child must not see them."""
    arrays = pool.map(filled, [1.0, 2.0, 3.0], chunksize=1)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reader, 1)
        os._exit(0 if all((array == n + 1.0).all() for n, array in enumerate(arrays)) else 2)
    del arrays
    later = pool.map(filled, [9.0] * 6, chunksize=1)
    os.write(writer, b"x")
    os.close(reader)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert all((array == 9.0).all() for array in later)


def test_the_pool_goes_on_with_the_same_blocks(pool):
    for turn in range(5):
        arrays = pool.map(filled, [float(turn)] * 4, chunksize=1)
        assert in_child(lambda arrays=arrays: True) == 0
        assert all((array == turn).all() for array in arrays)
        assert pool.map(numpy.sum, arrays, chunksize=1) == [turn * SIZE] * 4


def test_a_worker_that_forks(pool):
    """What a task received is the worker's own, also against a child of the worker."""
    assert pool.map(write_in_child_and_look, [numpy.zeros(SIZE) for _ in range(4)], chunksize=1) == [True] * 4


def test_workers_started_after_a_fork_with_arrays(mp):
    """A later worker inherits the holder's memory, in which some blocks are not where they were."""
    with mp.Pool(2, maxtasksperchild=2) as pool:
        kept = pool.map(filled, [float(n) for n in range(4)], chunksize=1)
        for turn in range(6):
            got = pool.map(filled, [100.0 + turn] * 3, chunksize=1)
            assert all((array == 100.0 + turn).all() for array in got)
        assert [array[-1] for array in kept] == [0.0, 1.0, 2.0, 3.0]
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
    pool.join()
    assert [array[0] for array in kept] == [0.0, 1.0, 2.0, 3.0]
