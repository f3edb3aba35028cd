"""Subclasses of queues that pickle in their own way, as libraries have them: they bring the thread, or the writing."""

import importlib
import pickle
import threading
import weakref
from queue import Empty, Full

import pytest

pytestmark = pytest.mark.methods("fork")


def own_queue(mp):
    queues, util = (importlib.import_module(f"{mp.__name__}.{name}") for name in ("queues", "util"))

    class Own(queues.Queue):
        def __init__(self, maxsize=0, *, ctx):
            super().__init__(maxsize, ctx=ctx)
            self.fed = 0

        def _start_thread(self):
            self._buffer.clear()
            self._thread = threading.Thread(target=self._feed_own, daemon=True)
            self._thread.start()
            self._jointhread = util.Finalize(
                self._thread, Own._finalize_join, [weakref.ref(self._thread)], exitpriority=-5
            )
            self._close = util.Finalize(self, Own._finalize_close, [self._buffer, self._notempty], exitpriority=10)

        def _feed_own(self):
            while True:
                with self._notempty:
                    while not self._buffer:
                        self._notempty.wait()
                    obj = self._buffer.popleft()
                if obj is queues._sentinel:
                    self._writer.close()
                    return
                message = pickle.dumps(("wrapped", obj))
                with self._wlock:
                    self._send_bytes(message)

    return Own


def own_simple_queue(mp):
    queues = importlib.import_module(f"{mp.__name__}.queues")

    class Own(queues.SimpleQueue):
        def __getstate__(self):
            return self._reader, self._writer, self._rlock, self._wlock

        def __setstate__(self, state):
            self._reader, self._writer, self._rlock, self._wlock = state

        def put(self, obj):
            with self._wlock:
                self._writer.send_bytes(pickle.dumps(("wrapped", obj)))

    return Own


def put_some(queue):
    for n in range(100):
        queue.put(n)
    queue.put(None)


def test_a_queue_with_a_feeder_of_its_own(mp, ctx):
    queue = own_queue(mp)(ctx=ctx)
    process = ctx.Process(target=put_some, args=(queue,))
    process.start()
    assert [queue.get(timeout=30) for _ in range(50)] == [("wrapped", n) for n in range(50)]
    assert [queue.get() for _ in range(51)] == [("wrapped", n) for n in [*range(50, 100), None]]
    process.join()
    assert process.exitcode == 0
    with pytest.raises(Empty):
        queue.get(False)
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    assert queue.empty()
    queue.close()
    with pytest.raises(ValueError):
        queue.put(1)
    queue._writer.close()
    queue._reader.close()


def test_it_counts_its_room(mp, ctx):
    queue = own_queue(mp)(2, ctx=ctx)
    queue.put(1)
    queue.put(2)
    assert queue.full() and queue.qsize() == 2
    with pytest.raises(Full):
        queue.put(3, timeout=0.01)
    assert queue.get() == ("wrapped", 1)
    queue.put(3)
    assert [queue.get(), queue.get()] == [("wrapped", 2), ("wrapped", 3)]
    assert queue.qsize() == 0
    queue.close()
    queue.join_thread()
    queue._reader.close()


def test_a_simple_queue_that_writes_by_itself(mp, ctx):
    queue = own_simple_queue(mp)(ctx=ctx)
    process = ctx.Process(target=put_some, args=(queue,))
    process.start()
    assert [queue.get() for _ in range(101)] == [("wrapped", n) for n in [*range(100), None]]
    process.join()
    assert queue.empty()
    queue.close()
