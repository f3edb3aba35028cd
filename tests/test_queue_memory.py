"""What only our queues do: memory instead of pipes, no thread, deaths in the midst; and executors that run over them."""

import gc
import multiprocessing.queues
import os
import signal

import pytest

from support import tasks
from support.ends import close, finish

pytestmark = pytest.mark.filterwarnings("ignore:This process.*multi-threaded.*:DeprecationWarning")

KINDS = ("Queue", "JoinableQueue", "SimpleQueue")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


# --- only here ---


@pytest.mark.only("manycore", reason="the standard package pickles later, in a thread")
def test_a_value_is_what_it_was_when_it_was_put(mp):
    numbers, value = mp.Queue(), [1]
    numbers.put(value)
    value.append(2)
    assert numbers.get() == [1]
    assert numbers._thread is None, "nothing is carried by a thread"
    close(numbers)


@pytest.mark.only("manycore", reason="the standard package copies")
def test_arrays_arrive_in_place_and_are_private(mp):
    numpy = pytest.importorskip("numpy")
    numbers = mp.Queue()
    sent = numpy.arange(100_000)
    numbers.put(sent)
    numbers.put(sent)
    one, other = numbers.get(), numbers.get()
    one[:] = 0
    assert (other == sent).all() and sent[1] == 1
    assert one.flags.writeable
    # What lies in place stays, whatever comes later.
    for _ in range(3):
        numbers.put(sent * 2)
        assert (numbers.get() == sent * 2).all()
    assert (one == 0).all()
    close(numbers)


def spoil(array, numbers):
    array[:] = -1
    numbers.put(array * 1)
    # This process sends and receives through memory that its parent has in use as a copy.
    for factor in range(4):
        numbers.put(array * factor)


@pytest.mark.only("manycore", reason="the standard package copies")
@pytest.mark.methods("fork")
def test_a_fork_copies_arrays_that_lie_in_place(mp, ctx):
    numpy = pytest.importorskip("numpy")
    numbers = ctx.Queue()
    sent = numpy.arange(100_000)
    numbers.put(sent)
    mine = numbers.get()
    child = ctx.Process(target=spoil, args=(mine, numbers))
    child.start()
    assert (numbers.get() == -1).all()
    assert [numbers.get()[5] for _ in range(4)] == [0, -1, -2, -3]
    finish(child)
    assert (mine == sent).all()
    del mine
    gc.collect()
    numbers.put(sent)
    assert (numbers.get() == sent).all()
    close(numbers)


def put_for_ever(numbers, value):
    while True:
        numbers.put(value)


def get_for_ever(numbers):
    while True:
        numbers.get()


@pytest.mark.only("manycore", reason="the standard package hangs")
@pytest.mark.methods("fork")
@pytest.mark.parametrize("maxsize", [0, 2])
@pytest.mark.parametrize("value", [1, b"x" * 50_000], ids=["short", "long"])
def test_killed_in_the_midst(mp, ctx, kind, maxsize, value):
    if kind == "SimpleQueue" and maxsize:
        pytest.skip("has no limit")
    for _ in range(4):
        numbers = ctx.SimpleQueue() if kind == "SimpleQueue" else getattr(ctx, kind)(maxsize)
        producers = [ctx.Process(target=put_for_ever, args=(numbers, value)) for _ in range(2)]
        consumers = [ctx.Process(target=get_for_ever, args=(numbers,)) for _ in range(2)]
        for process in producers + consumers:
            process.start()
        assert numbers.get() == value
        for process in producers + consumers:
            process.kill()
            finish(process, -signal.SIGKILL)
        while not numbers.empty():
            assert numbers.get() == value
        numbers.put("after")
        assert numbers.get() == "after"
        close(numbers)


@pytest.mark.only("manycore", reason="the standard package always has a thread")
@pytest.mark.parametrize("ending", ["close", "exit", "cancel"])
def test_what_finds_no_memory_waits_in_its_process(script, ending):
    """The address space is limited, so the channel is small; the consumer starts when nothing fits any more."""
    text = f"""
        import resource

        ending = {ending!r}
        here = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

        def produce(numbers, go):
            for number in range(60):
                numbers.put((number, b"x" * 1_000_000))
            assert numbers._thread is not None, "everything fitted"
            numbers.put(("last", b""))
            go.put(numbers.qsize())
            if ending == "close":
                numbers.close()
                numbers.join_thread()
            elif ending == "cancel":
                numbers.cancel_join_thread()

        def main():
            ctx = mp.get_context("fork")
            ctx.SimpleQueue()
            soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (here + (48 << 20), hard))
            numbers = ctx.Queue()
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
            go = ctx.SimpleQueue()
            child = ctx.Process(target=produce, args=(numbers, go))
            child.start()
            assert go.get() == 61
            if ending == "cancel":
                child.join()
                assert 0 < numbers.qsize() < 60
            else:
                assert [numbers.get()[0] for _ in range(61)] == [*range(60), "last"]
                child.join()
            print(child.exitcode)
    """
    program = script(text)
    assert program.finish() == 0, program.errors.decode()
    assert program.output == b"0\n"


@pytest.mark.only("manycore", reason="its own business")
def test_descriptors_do_not_grow_with_messages(mp):
    numbers = mp.Queue()
    numbers.put(b"x" * 100_000)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        numbers.put(b"x" * 100_000)
    assert len(os.listdir("/proc/self/fd")) == before
    close(numbers)


@pytest.mark.only("manycore", reason="the standard package keeps its file open")
def test_memory_goes_with_the_queue(mp):
    before = len(os.listdir("/proc/self/fd"))
    numbers = [mp.Queue() for _ in range(20)] + [mp.SimpleQueue() for _ in range(20)]
    for one in numbers:
        one.put(1)
    close(*numbers)
    del one
    numbers.clear()
    assert len(os.listdir("/proc/self/fd")) == before


# --- executors ---


def test_as_the_transport_of_an_executor(ctx):
    from concurrent.futures import ProcessPoolExecutor

    if not hasattr(ctx, "Lock"):
        pytest.skip("locks are still to come")
    with ProcessPoolExecutor(2, mp_context=ctx) as executor:
        assert list(executor.map(tasks.square, range(20))) == [x * x for x in range(20)]
        with pytest.raises(ValueError):
            executor.submit(tasks.fail, 3).result(40)


def test_an_executor_hears_of_a_death(ctx):
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    if not hasattr(ctx, "Lock"):
        pytest.skip("locks are still to come")
    with ProcessPoolExecutor(2, mp_context=ctx) as executor:
        assert executor.submit(tasks.square, 3).result(40) == 9
        with pytest.raises(BrokenProcessPool):
            executor.submit(tasks.die, "sigkill").result(40)


def send_one(connection):
    connection.send(1)


@pytest.mark.only("manycore", reason="the other way round the standard package refuses")
def test_the_standard_packages_objects_as_arguments(ctx):
    reader, writer = multiprocessing.Pipe(duplex=False)
    child = ctx.Process(target=send_one, args=(writer,))
    child.start()
    assert reader.recv() == 1
    finish(child)
    reader.close()
    writer.close()
