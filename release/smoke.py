"""Uses an installed manycore, in an environment that has nothing else. Prints a line; exit code 0 if all is well."""

import os
import signal
import sys
from importlib.metadata import version

import manycore
from manycore.shared_memory import SharedMemory


def square(x):
    return x * x


def end(_):
    os.kill(os.getpid(), signal.SIGKILL)


def answer(queue, shared, name):
    segment = SharedMemory(name)
    queue.put((shared["word"], bytes(segment.buf[:4])))
    segment.close()


def use(method):
    """Use the package by start method `method`; an AssertionError or the package's own where something is wrong."""
    ctx = manycore.get_context(method)
    with ctx.Pool(2) as pool:
        assert pool.map(square, range(1000)) == [x * x for x in range(1000)]
        assert list(pool.imap(square, range(10))) == [x * x for x in range(10)]
        try:
            pool.apply(end, (None,))
        except manycore.WorkerLost as error:
            assert "SIGKILL" in str(error), error
        else:
            raise AssertionError("a killed worker has answered")
        assert pool.apply_async(square, (3,)).get(60) == 9
    with ctx.Manager() as manager:
        segment = SharedMemory(create=True, size=100)
        segment.buf[:4] = b"data"
        queue = ctx.Queue()
        process = ctx.Process(target=answer, args=(queue, manager.dict(word="shared"), segment.name))
        process.start()
        assert queue.get(timeout=60) == ("shared", b"data")
        process.join()
        segment.close()
        segment.unlink()


if __name__ == "__main__":
    for method in manycore.get_all_start_methods():
        use(method)
    print(f"manycore {version('manycore')} works on CPython {sys.version.split()[0]}")
