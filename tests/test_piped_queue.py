"""Subclasses of queues that pickle in their own way, as libraries have them: they bring the thread, or the writing."""

import contextlib
import copy
import functools
import importlib
import json
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
        reducers = None

        def __getstate__(self):
            return self._reader, self._writer, self.reducers, self._rlock, self._wlock

        def __setstate__(self, state):
            self._reader, self._writer, self.reducers, self._rlock, self._wlock = state

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


# --- subclasses that name the parts of the standard package's queues ---


def queues_of(mp):
    return importlib.import_module(f"{mp.__name__}.queues")


def patient_queue(mp, ctx):
    """The recipe by which a `JoinableQueue` is joined with a time limit."""

    class Patient(queues_of(mp).JoinableQueue):
        def join_within(self, timeout):
            with self._cond:
                if not self._unfinished_tasks._semlock._is_zero():
                    return self._cond.wait(timeout)
                return True

        @property
        def unfinished(self):
            return self._unfinished_tasks.get_value()

    return Patient(ctx=ctx)


def looking_class(package):
    """A `SimpleQueue` that looks before it reads, so that nobody else may read in between."""

    class Looking(importlib.import_module(f"{package}.queues").SimpleQueue):
        def get_nowait(self):
            with self._rlock:
                if not self._reader.poll():
                    raise Empty
                return self._reader.recv()

        def put_two(self, one, other):
            with self._wlock:
                self._writer.send(one)
                self._writer.send(other)

    Looking.__name__ = Looking.__qualname__ = f"Looking_{package}"
    return Looking


# Here, so that they can be pickled by their names.
Looking_multiprocessing, Looking_manycore = looking_class("multiprocessing"), looking_class("manycore")


def looking_queue(mp, ctx):
    return globals()[f"Looking_{mp.__name__}"](ctx=ctx)


def draining_queue(mp, ctx):
    class Draining(queues_of(mp).Queue):
        def drain(self):
            taken = []
            with self._rlock:
                while self._poll():
                    taken.append(pickle.loads(self._recv_bytes()))
                    self._sem.release()
            return taken

    return Draining(5, ctx=ctx)


def test_joining_with_a_time_limit(mp, ctx):
    queue = patient_queue(mp, ctx)
    for number in range(3):
        queue.put(number)
    assert queue.unfinished == 3
    assert queue.join_within(0.01) is False
    assert [queue.get() for _ in range(3)] == [0, 1, 2]
    worker = threading.Thread(target=lambda: [queue.task_done() for _ in range(3)])
    worker.start()
    assert queue.join_within(30) is True
    queue.join()
    worker.join()
    with pytest.raises(ValueError, match="too many"):
        queue.task_done()
    queue.close()
    queue.join_thread()


def take_all(queue, told):
    taken = []
    while not taken or taken[-1] is not None:
        with contextlib.suppress(Empty):
            taken.append(queue.get_nowait())
    told.send(taken)


@pytest.mark.methods("fork", "spawn")
def test_looking_before_reading(mp, ctx):
    """Several processes look and read at once: none takes what another one has seen."""
    queue, ends, processes = looking_queue(mp, ctx), [], []
    for _ in range(3):
        end, told = ctx.Pipe(duplex=False)
        processes.append(ctx.Process(target=take_all, args=(queue, told)))
        processes[-1].start()
        told.close()
        ends.append(end)
    for number in range(0, 400, 2):
        queue.put_two(number, number + 1)
    for _ in ends:
        queue.put(None)
    taken = []
    for end, process in zip(ends, processes, strict=True):
        mine = end.recv()[:-1]
        assert mine == sorted(mine)
        taken += mine
        end.close()
        process.join()
        process.close()
    assert sorted(taken) == list(range(400))
    queue.close()


def test_draining_under_the_lock(mp, ctx):
    queue = draining_queue(mp, ctx)
    for number in range(5):
        queue.put(number)
    with pytest.raises(Full):
        queue.put(5, timeout=0.01)
    taken = []
    while len(taken) < 5:
        taken += queue.drain()
    assert taken == [0, 1, 2, 3, 4]
    assert queue.empty()
    queue.put("more", timeout=30)
    assert queue.get(timeout=30) == "more"
    queue.close()
    queue.join_thread()


def test_what_cannot_be_pickled(mp, ctx):
    told = []

    class Telling(queues_of(mp).Queue):
        def _on_queue_feeder_error(self, e, obj):
            told.append(obj)

        def peek(self):
            return self._poll(30)

    queue, bad = Telling(1, ctx=ctx), (n for n in range(3))
    queue.put(bad)
    # There is room again.
    queue.put(1, timeout=30)
    assert queue.peek()
    assert queue.get() == 1
    assert told == [bad]
    queue.close()
    queue.join_thread()


class Common:
    """What may come before or behind the queue among the bases."""

    def who(self):
        return "common"


@pytest.mark.parametrize("order", ["before", "behind", "below"])
def test_bases(mp, ctx, order):
    queues = queues_of(mp)
    if order == "below":

        class Base(Common, queues.Queue):
            def put(self, obj, *args):
                super().put(("base", obj), *args)

        bases = (Base,)
    else:
        bases = (Common, queues.Queue) if order == "before" else (queues.Queue, Common)

    class Own(*bases):
        def get(self, *args):
            assert self._rlock
            return super().get(*args)

    queue = Own(ctx=ctx)
    queue.put(1)
    assert queue.get() == (("base", 1) if order == "below" else 1)
    assert queue.who() == "common"
    assert isinstance(queue, queues.Queue)
    queue.close()
    queue.join_thread()


def test_how_much_is_unfinished(mp, ctx):
    queue = ctx.JoinableQueue()
    assert queue._unfinished_tasks._semlock._is_zero()
    queue.put(1)
    queue.put(2)
    assert queue._unfinished_tasks.get_value() == 2
    queue.get()
    queue.task_done()
    assert queue._unfinished_tasks.get_value() == 1
    queue.get()
    queue.task_done()
    queue.close()
    queue.join_thread()


@pytest.mark.only("manycore", reason="there all queues have these parts")
def test_a_queue_that_uses_none_of_these_parts_is_a_channel(mp, ctx):
    class Own(queues_of(mp).Queue):
        def put(self, obj, *args):
            super().put(obj, *args)

    queue = Own(ctx=ctx)
    assert hasattr(queue, "_channel")
    assert not hasattr(queue, "_rlock")
    assert hasattr(looking_queue(mp, ctx), "_rlock")
    queue.close()


def explicit(mp):
    """Calls of the base class by its name, as in older programs."""
    base = queues_of(mp)

    class Own(base.JoinableQueue):
        def __init__(self, *, ctx):
            base.JoinableQueue.__init__(self, ctx=ctx)

        def put(self, obj, block=True, timeout=None):
            base.JoinableQueue.put(self, obj, block, timeout)

        def get(self, block=True, timeout=None):
            return base.Queue.get(self, block, timeout)

        def lock(self):
            return self._rlock

    return Own


def mixed_in(mp):
    class Peek:
        def lock(self):
            return self._rlock

    class Own(Peek, queues_of(mp).JoinableQueue):
        pass

    return Own


def decorated(mp):
    def noted(function):
        @functools.wraps(function)
        def inner(*args):
            return function(*args)

        return inner

    class Own(queues_of(mp).JoinableQueue):
        @noted
        def lock(self):
            return self._rlock

        @contextlib.contextmanager
        def locked(self):
            with self._rlock:
                yield

    return Own


def by_getattr(mp):
    class Own(queues_of(mp).JoinableQueue):
        def lock(self):
            return getattr(self, "_rlock")  # noqa: B009

    return Own


def assigned(mp):
    class Own(queues_of(mp).JoinableQueue):
        pass

    Own.lock = lambda self: self._rlock
    return Own


def of_two(mp):
    class Peeking(queues_of(mp).Queue):
        def lock(self):
            return self._rlock

    class Own(Peeking, queues_of(mp).JoinableQueue):
        pass

    return Own


def below_object(mp):
    class Plain(queues_of(mp).JoinableQueue):
        pass

    class Own(Plain):
        def lock(self):
            return self._rlock

    return Own


def with_a_lazy_attribute(mp):
    class Lazy:
        def __getattr__(self, name):
            raise RuntimeError(name)

        @property
        def __class__(self):
            raise RuntimeError("class")

    class Own(queues_of(mp).JoinableQueue):
        current = Lazy()

        def lock(self):
            return self._rlock

    return Own


def refusing_metaclass(mp):
    class Refusing(type):
        def __setattr__(cls, name, value):
            raise TypeError(name)

    class Own(queues_of(mp).JoinableQueue, metaclass=Refusing):
        def lock(self):
            return self._rlock

    return Own


MAKERS = (
    *(explicit, mixed_in, decorated, by_getattr, assigned, of_two, below_object, with_a_lazy_attribute),
    refusing_metaclass,
)


@pytest.mark.parametrize("make", MAKERS)
def test_wherever_a_part_is_named(mp, ctx, make):
    queue = make(mp)(ctx=ctx)
    queue.put(1)
    queue.put(2, True, 30)
    with queue.lock():
        assert queue._poll(30)
    assert [queue.get(), queue.get(True, 30)] == [1, 2]
    queue.task_done()
    queue.task_done()
    queue.join()
    with pytest.raises(Empty):
        queue.get_nowait()
    queue.close()
    queue.join_thread()


def test_a_feeder_as_the_standard_package_starts_it(mp, ctx):
    queues, util = (importlib.import_module(f"{mp.__name__}.{name}") for name in ("queues", "util"))

    class Own(queues.Queue):
        def _start_thread(self):
            parts = (
                self._buffer,
                self._notempty,
                self._send_bytes,
                self._wlock,
                self._reader.close,
                self._writer.close,
            )
            more = (self._ignore_epipe, self._on_queue_feeder_error, self._sem)
            self._thread = threading.Thread(target=queues.Queue._feed, args=(*parts, *more), daemon=True)
            self._thread.start()
            self._jointhread = self._thread.join
            self._close = util.Finalize(self, queues.Queue._finalize_close, [self._buffer, self._notempty])

    queue = Own(ctx=ctx)
    queue.put("fed")
    assert queue.get(True, 30) == "fed"
    queue.close()
    queue.join_thread()


def test_bytes_that_are_no_pickle(mp, ctx):
    class Json(queues_of(mp).SimpleQueue):
        def put(self, obj):
            self._writer.send_bytes(json.dumps(obj).encode())

        def get(self):
            return json.loads(self._reader.recv_bytes())

    queue = Json(ctx=ctx)
    queue.put({"a": [1, None]})
    assert queue.get() == {"a": [1, None]}
    queue.close()


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("make", [patient_queue, looking_queue, draining_queue])
def test_it_is_inherited_and_nothing_else(mp, ctx, make, how):
    queue = make(mp, ctx)
    with pytest.raises(RuntimeError, match="inheritance"):
        how(queue)
    queue.close()
