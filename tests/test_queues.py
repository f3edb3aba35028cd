"""Queue, JoinableQueue, SimpleQueue: what the standard package's do, between processes of every start method."""

import multiprocessing.queues
import pickle
import queue
import select
import signal
import threading

import pytest

import manycore.queues
from support import tasks
from support.alarm import Alarm, raising
from support.ends import close, finish

pytestmark = pytest.mark.filterwarnings("ignore:This process.*multi-threaded.*:DeprecationWarning")

KINDS = ("Queue", "JoinableQueue", "SimpleQueue")
VALUES = [
    None,
    7,
    -(10**30),
    "text",
    b"bytes",
    [1, [2, (3, {"four": {5}})]],
    bytes(range(256)) * 1000,
    tasks.Point(1, 2),
    "x" * 300_000,
]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def comparable(value):
    return (value.x, value.y) if isinstance(value, tasks.Point) else value


# --- from process to process ---


def send_back(inbox, outbox):
    for value in iter(inbox.get, "end"):
        outbox.put(value)


def test_values_go_there_and_back(ctx, kind):
    there, back = getattr(ctx, kind)(), getattr(ctx, kind)()
    child = ctx.Process(target=send_back, args=(there, back))
    child.start()
    for value in VALUES:
        there.put(value)
        assert comparable(back.get()) == comparable(value)
    few = VALUES[:5]
    for value in few:
        there.put(value)
    assert [back.get() for _ in few] == few
    there.put("end")
    finish(child)
    close(there, back)


def put_many(target, first, count):
    for number in range(first, first + count):
        target.put(number)


def get_many(source, results):
    results.put(list(iter(source.get, None)))


@pytest.mark.methods("fork")
def test_many_producers_and_consumers(ctx, kind):
    """Each message arrives once, and those of one producer in order."""
    numbers, results = getattr(ctx, kind)(), ctx.Queue()
    producers = [ctx.Process(target=put_many, args=(numbers, first, 1000)) for first in (0, 1000, 2000)]
    consumers = [ctx.Process(target=get_many, args=(numbers, results)) for _ in range(3)]
    for process in producers + consumers:
        process.start()
    for process in producers:
        finish(process)
    for _ in consumers:
        numbers.put(None)
    lists = [results.get() for _ in consumers]
    for process in consumers:
        finish(process)
    assert sorted(number for one in lists for number in one) == list(range(3000))
    for one in lists:
        for first in (0, 1000, 2000):
            part = [number for number in one if first <= number < first + 1000]
            assert part == sorted(part)
    close(numbers, results)


def test_what_a_process_has_put_outlives_it(ctx, kind):
    numbers = getattr(ctx, kind)()
    child = ctx.Process(target=put_many, args=(numbers, 0, 500))
    child.start()
    assert [numbers.get() for _ in range(500)] == list(range(500))
    finish(child)
    close(numbers)


received = []


def keep(source):
    received.append(source)


def take_from_kept(_):
    return received[0].get()


def test_as_the_argument_of_a_pools_initializer(ctx, kind):
    numbers = getattr(ctx, kind)()
    with ctx.Pool(2, keep, (numbers,)) as pool:
        asked = pool.map_async(take_from_kept, range(4), chunksize=1)
        for number in range(4):
            numbers.put(number)
        assert sorted(asked.get()) == [0, 1, 2, 3]
    pool.join()
    close(numbers)


def test_travels_only_while_a_process_is_started(mp, kind):
    one = getattr(mp, kind)()
    with pytest.raises(RuntimeError, match="inheritance"):
        pickle.dumps(one)
    close(one)


class Labelled:
    """What a subclass does that has a state of its own."""

    def __getstate__(self):
        return {"parent": super().__getstate__(), "label": self.label}

    def __setstate__(self, state):
        super().__setstate__(state["parent"])
        self.label = state["label"]


class LabelledHere(Labelled, manycore.queues.Queue):
    pass


class LabelledThere(Labelled, multiprocessing.queues.Queue):
    pass


def check_label(source, results):
    results.put((source.label, source.get()))


def test_a_subclass_with_a_state_of_its_own(mp, ctx):
    kind = LabelledHere if mp is manycore else LabelledThere
    numbers, results = kind(ctx=ctx), ctx.SimpleQueue()
    numbers.label = "mine"
    numbers.put(5)
    child = ctx.Process(target=check_label, args=(numbers, results))
    child.start()
    assert results.get() == ("mine", 5)
    finish(child)
    close(numbers, results)


# --- limits and times ---


@pytest.mark.parametrize("limited", ["Queue", "JoinableQueue"])
def test_a_full_queue(mp, limited):
    numbers = getattr(mp, limited)(2)
    assert not numbers.full()
    numbers.put(1)
    numbers.put(2, block=False)
    assert numbers.full() and numbers.qsize() == 2
    with pytest.raises(queue.Full):
        numbers.put(3, False)
    with pytest.raises(queue.Full):
        numbers.put_nowait(3)
    with pytest.raises(queue.Full):
        numbers.put(3, True, 0.01)
    with pytest.raises(queue.Full):
        numbers.put("x" * 100_000, timeout=0)
    assert numbers.get() == 1
    assert not numbers.full()
    numbers.put(3, 1, 5)
    assert [numbers.get(), numbers.get()] == [2, 3]
    close(numbers)


@pytest.mark.parametrize("timed", ["Queue", "JoinableQueue"])
def test_an_empty_queue(mp, timed):
    numbers = getattr(mp, timed)()
    assert numbers.empty() and numbers.qsize() == 0
    for arguments in [(False,), (True, 0.01), (True, 0), (True, -1), (0, None)]:
        with pytest.raises(queue.Empty):
            numbers.get(*arguments)
    with pytest.raises(queue.Empty):
        numbers.get_nowait()
    with pytest.raises(ValueError):
        numbers.get(timeout=float("nan"))
    numbers.put(1)
    assert numbers.get(timeout=10) == 1
    close(numbers)


def test_a_size_that_is_none(mp):
    for wrong in ("3", None):
        with pytest.raises(TypeError):
            mp.Queue(wrong)
    for unlimited in (0, -1):
        numbers = mp.Queue(unlimited)
        assert not numbers.full()
        close(numbers)


def get_slowly(source, count):
    for _ in range(count):
        source.get()


@pytest.mark.methods("fork")
def test_a_put_waits_for_room(ctx):
    numbers = ctx.Queue(3)
    child = ctx.Process(target=get_slowly, args=(numbers, 500))
    child.start()
    for number in range(500):
        numbers.put(number)
    finish(child)
    assert numbers.empty()
    close(numbers)


@pytest.fixture
def alarm():
    with raising(signal.SIGALRM):
        yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.05)
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_signals_end_a_wait(mp, alarm):
    numbers, unfinished, simple = mp.Queue(1), mp.JoinableQueue(), mp.SimpleQueue()
    unfinished.put(1)
    for wait in (numbers.get, simple.get, unfinished.join):
        alarm()
        with pytest.raises(Alarm):
            wait()
    numbers.put(1)
    alarm()
    with pytest.raises(Alarm):
        numbers.put(2)
    assert numbers.get() == 1
    close(numbers, unfinished, simple)


def test_threads_of_one_process(mp, kind):
    numbers = getattr(mp, kind)()
    taken = []

    def take():
        for _ in range(300):
            taken.append(numbers.get())

    threads = [threading.Thread(target=take) for _ in range(3)]
    threads += [threading.Thread(target=put_many, args=(numbers, first, 300)) for first in (0, 300, 600)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert sorted(taken) == list(range(900))
    close(numbers)


# --- what cannot be pickled ---


@pytest.mark.parametrize("patient", ["Queue", "JoinableQueue"])
def test_what_cannot_be_pickled_is_reported_and_not_put(mp, patient, capfd):
    numbers = getattr(mp, patient)(1)
    numbers.put(tasks.NoPickle())
    numbers.put(1)
    assert numbers.get() == 1
    close(numbers)
    assert "PickleError" in capfd.readouterr().err


def test_the_hook_for_what_cannot_be_pickled(mp):
    told = []

    class Hooked(mp.queues.Queue):
        @staticmethod
        def _on_queue_feeder_error(error, value):
            told.append((type(error), type(value), error.__traceback__ is not None))

    numbers = Hooked(ctx=mp.get_context())
    numbers.put(tasks.NoPickle())
    numbers.put(1)
    assert numbers.get() == 1
    assert told == [(tasks.PickleError, tasks.NoPickle, True)]
    close(numbers)


def test_a_simple_queue_raises_what_pickling_raises(mp):
    numbers = mp.SimpleQueue()
    with pytest.raises(tasks.PickleError):
        numbers.put(tasks.NoPickle())
    numbers.put(tasks.NoUnpickle())
    with pytest.raises(tasks.UnpickleError):
        numbers.get()
    assert numbers.empty()
    close(numbers)


# --- the end ---


@pytest.mark.parametrize("closable", ["Queue", "JoinableQueue"])
def test_a_closed_queue(mp, closable):
    numbers = getattr(mp, closable)()
    with pytest.raises(AssertionError):
        numbers.join_thread()
    numbers.put(1)
    numbers.close()
    numbers.close()
    numbers.join_thread()
    for call in (lambda: numbers.put(2), numbers.get, numbers.get_nowait, lambda: numbers.put_nowait(2)):
        with pytest.raises(ValueError, match="is closed"):
            call()
    numbers.cancel_join_thread()


def test_a_closed_queue_that_was_used_tells_nothing(mp):
    unused, used = mp.Queue(), mp.Queue()
    used.put(1)
    close(unused, used)
    assert unused.empty()
    with pytest.raises(OSError, match="is closed"):
        used.empty()


def test_a_closed_simple_queue(mp):
    numbers = mp.SimpleQueue()
    numbers.close()
    numbers.close()
    assert numbers._reader.closed and numbers._writer.closed
    for call in (lambda: numbers.put(1), numbers.get, numbers.empty):
        with pytest.raises(OSError, match="is closed"):
            call()


def work(jobs):
    for _ in iter(jobs.get, None):
        jobs.task_done()
    jobs.task_done()


def test_join_waits_for_all_that_was_put(ctx):
    jobs = ctx.JoinableQueue()
    workers = [ctx.Process(target=work, args=(jobs,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for number in range(100):
        jobs.put(number)
    jobs.join()
    assert jobs.empty()
    for _ in workers:
        jobs.put(None)
    jobs.join()
    for worker in workers:
        finish(worker)
    with pytest.raises(ValueError, match="called too many times"):
        jobs.task_done()
    close(jobs)


# --- the ends that other libraries reach for ---


def readable(one):
    return bool(select.select([one._reader], [], [], 0)[0])


def test_the_reader_can_be_waited_for(mp, kind):
    numbers = getattr(mp, kind)()
    assert not readable(numbers) and not numbers._reader.poll() and not numbers._reader.poll(0.01)
    numbers.put(1)
    assert numbers._reader.poll(10)
    numbers.put(2)
    assert select.select([numbers._reader.fileno()], [], [], 10)[0]
    assert numbers.get() == 1
    assert numbers._reader.poll(10) and readable(numbers)
    assert numbers.get() == 2
    assert not readable(numbers) and not numbers._reader.poll()
    close(numbers)


def test_the_ends_are_like_connections(mp):
    numbers = mp.SimpleQueue()
    numbers.put([1])
    assert numbers._reader.recv() == [1]
    assert numbers._reader.readable and not numbers._reader.writable
    assert numbers._writer.writable and not numbers._writer.readable
    assert select.select([], [numbers._writer], [], 10)[1]
    numbers._writer.send([2])
    assert numbers.get() == [2]
    numbers.put([3])
    assert pickle.loads(numbers._reader.recv_bytes()) == [3]
    numbers._writer.send_bytes(pickle.dumps([4]))
    assert numbers.get() == [4]
    close(numbers)


def pass_on(reader, writer):
    writer.send(reader.recv() + 1)


def test_the_ends_travel_too(ctx):
    there, back = ctx.SimpleQueue(), ctx.SimpleQueue()
    child = ctx.Process(target=pass_on, args=(there._reader, back._writer))
    child.start()
    there.put(1)
    assert back.get() == 2
    finish(child)
    close(there, back)


def put_when_told(told, numbers):
    told.get()
    numbers.put(1)


@pytest.mark.methods("fork")
def test_the_reader_hears_another_process(ctx, kind):
    told, numbers = ctx.SimpleQueue(), getattr(ctx, kind)()
    child = ctx.Process(target=put_when_told, args=(told, numbers))
    child.start()
    assert not readable(numbers)
    told.put(None)
    assert select.select([numbers._reader], [], [], 40)[0]
    assert numbers.get() == 1
    finish(child)
    close(told, numbers)
