"""Processes that another package starts, by a `Popen` of its own, as loky does: our objects can be pickled for them.

What the standard package's `Popen` offers to reducers is `DupFd` and `duplicate_for_child`. A foreign one has these, or not
even these.
"""

import contextlib
import importlib
import os
import pickle
import subprocess
import sys

import pytest

TESTS = os.path.dirname(os.path.abspath(__file__))

CHILD = """
import pickle, sys
sys.path.insert(0, {tests!r})
import {package} as mp
import test_foreign_popen
current = mp.process.current_process()
with open({message}, "rb") as file:
    current._inheriting = True
    current.authkey, kind = pickle.load(file)
    objects = pickle.load(file)
    del current._inheriting
test_foreign_popen.use(kind, objects)
# A second time: what came once stays.
test_foreign_popen.use(kind, objects)
"""


class Inherited:
    """A descriptor that the child has under the same number."""

    def __init__(self, fd):
        self.fd = fd

    def detach(self):
        return os.dup(self.fd)


class Foreign:
    """What CPython's own `Popen` has for reducers."""

    DupFd = Inherited

    def __init__(self):
        self.fds = []

    def duplicate_for_child(self, fd):
        self.fds.append(os.dup(fd))
        return self.fds[-1]


class Bare:
    """Nothing at all, not even attributes of its own."""

    __slots__ = ()
    fds = ()


def proxies(mp, ctx, stack):
    manager = stack(ctx.Manager())
    return manager.dict(a=1), manager.list([1]), manager.Queue(), manager.Lock(), manager.Namespace(), manager.Event()


def use_proxies(mapping, items, queue, lock, namespace, event):
    mapping["b"] = 2
    items.append(1)
    queue.put(1)
    assert queue.get() == 1
    with lock:
        namespace.x = 1
    event.set()


def locks(mp, ctx, stack):
    return (
        ctx.Lock(),
        ctx.RLock(),
        ctx.Semaphore(2),
        ctx.BoundedSemaphore(2),
        ctx.Condition(),
        ctx.Condition(ctx.Lock()),
    )


def use_locks(*locks):
    for lock in locks:
        with lock:
            pass


def events(mp, ctx, stack):
    return ctx.Event(), ctx.Barrier(1)


def use_events(event, barrier):
    event.set()
    assert event.wait(0)
    assert barrier.wait() == 0


def queues(mp, ctx, stack):
    return ctx.Queue(), ctx.Queue(3), ctx.JoinableQueue(), ctx.SimpleQueue()


def use_queues(*queues):
    for queue in queues:
        queue.put([1])
        assert queue.get() == [1]


def connections(mp, ctx, stack):
    one_way = ctx.Pipe(duplex=False)
    both_ways = ctx.Pipe()
    for end in (*one_way, *both_ways):
        stack(end)
    return *one_way, *both_ways


def use_connections(reader, writer, first, second):
    writer.send(1)
    assert reader.recv() == 1
    first.send(2)
    assert second.recv() == 2


def values(mp, ctx, stack):
    return (
        ctx.Value("i", 0),
        ctx.Array("d", 3),
        ctx.RawValue("i", 0),
        ctx.RawArray("i", 3),
        ctx.Value("i", 0, lock=False),
    )


def use_values(value, array, raw, raw_array, unlocked):
    with value.get_lock(), array.get_lock():
        value.value += 1
        array[0] += 1
    raw.value = raw_array[1] = unlocked.value = 3


def sockets(mp, ctx, stack):
    import socket

    return tuple(stack(end) for end in socket.socketpair())


def use_sockets(first, second):
    first.sendall(b"x")
    assert second.recv(1) == b"x"


def process_objects(mp, ctx, stack):
    # The process object itself, with arguments of several kinds.
    return (ctx.Process(target=use_queues, args=(ctx.SimpleQueue(), ctx.SimpleQueue()), name="foreign"), ctx.Lock())


def use_process_objects(process, lock):
    assert process.name == "foreign"
    process.run()


@pytest.fixture(autouse=True)
def heap(mp, monkeypatch):
    """An empty heap, in the place of the package's, which keeps arenas for later."""
    module = importlib.import_module(f"{mp.__name__}.heap")
    monkeypatch.setattr(module.BufferWrapper, "_heap", module.Heap())


MAKERS = [proxies, locks, events, queues, connections, values, sockets, process_objects]


def use(kind, objects):
    globals()[f"use_{kind}"](*objects)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("popen_class", [Foreign, Bare])
def test_objects_for_a_process_that_another_package_starts(mp, make, popen_class):
    if popen_class is Bare and mp.__name__ == "multiprocessing":
        pytest.skip("the standard package asks for both attributes")
    context, reduction = (importlib.import_module(f"{mp.__name__}.{name}") for name in ("context", "reduction"))
    with contextlib.ExitStack() as stack:
        objects = make(mp, mp.get_context("spawn"), stack.enter_context)
        popen = popen_class()
        context.set_spawning_popen(popen)
        try:
            pickled = bytes(reduction.ForkingPickler.dumps(objects))
        finally:
            context.set_spawning_popen(None)
        if make is proxies and popen_class is Foreign and mp.__name__ == "manycore":
            # A process object forgets its arguments as soon as it is started.
            del objects
        message = os.memfd_create("message")
        stack.callback(os.close, message)
        for fd in popen.fds:
            stack.callback(os.close, fd)
        os.write(message, pickle.dumps((bytes(mp.current_process().authkey), make.__name__)) + pickled)
        os.lseek(message, 0, os.SEEK_SET)
        program = CHILD.format(tests=TESTS, package=mp.__name__, message=message)
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, pass_fds=[message, *popen.fds], stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 0, done.stderr
        objects = None
    if popen_class is Bare:
        importlib.import_module(f"{mp.__name__}.resource_sharer").stop(timeout=30)
