"""Pools as programs make them that replace parts of the package's: small ones of our own, alike in what they replace."""

import functools
import importlib
import io
import os
import pickle
import signal
import struct
import types

# --- workers ---


def clean_worker(package, path, *args):
    """The package's worker, and something after it."""
    importlib.import_module(f"{package}.pool").worker(*args)
    note(path)


def note(path):
    if path is not None:
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")


def own_worker(package, path, inqueue, outqueue, initializer=None, initargs=(), maxtasks=None, wrap_exception=False):
    """A worker of a program's own: it tells the pool nothing but answers."""
    if initializer is not None:
        initializer(*initargs)
    while (task := inqueue.get()) is not None:
        job, place, function, args, kwds = task
        try:
            outcome = True, function(*args, **kwds)
        except Exception as error:
            outcome = False, error
        outqueue.put((job, place, outcome))
    note(path)


def torn_worker(package, path, inqueue, outqueue, *_):
    """Dies with a part of its first answer in the pipe."""
    inqueue.get()
    with outqueue._wlock:
        os.write(outqueue._writer.fileno(), struct.pack("!i", 1_000_000) + b"the rest is missing")
        os.kill(os.getpid(), signal.SIGKILL)


def half_reading_worker(others, path, count, inqueue, *args):
    """The first one of all dies with `count` bytes of its first task read; the others run `others`."""
    with inqueue._rlock:
        if not os.path.exists(path):
            os.close(os.open(path, os.O_CREAT))
            while count > 0:
                count -= len(os.read(inqueue._reader.fileno(), count))
            os.kill(os.getpid(), signal.SIGKILL)
    others(inqueue, *args)


def futile_worker(*_):
    raise SystemExit(7)


# --- queues ---


class Marked:
    """Travels through a `PipeQueue` as it says, and through nothing else."""

    def __reduce__(self):
        raise TypeError("not by this pickler")


class PipeQueue:
    """A queue through a pipe, with a lock at each end and reducers of its own."""

    def __init__(self, ctx, reducers=None):
        self._reader, self._writer = ctx.Pipe(duplex=False)
        self._rlock, self._wlock = ctx.Lock(), ctx.Lock()
        self._reducers = reducers or {}

    def get(self):
        with self._rlock:
            data = self._reader.recv_bytes()
        return pickle.loads(data)

    def put(self, obj):
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer, 5)
        pickler.dispatch_table = self._reducers
        pickler.dump(obj)
        with self._wlock:
            self._writer.send_bytes(buffer.getbuffer())

    def empty(self):
        return not self._reader.poll()


def reduce_marked(_):
    return str, ("by a reducer of its own",)


# --- pools ---


def kinds(mp, path=None):
    """The pools, by name. Their workers write a line to `path` at their end."""
    pool = importlib.import_module(f"{mp.__name__}.pool")

    class OwnWorkers(pool.Pool):
        """Starts its workers itself."""

        target = staticmethod(functools.partial(clean_worker, mp.__name__, path))

        def _setup_queues(self):
            self._inqueue = self._ctx.SimpleQueue()
            self._outqueue = self._ctx.SimpleQueue()
            self._quick_put = self._inqueue._writer.send
            self._quick_get = self._outqueue._reader.recv

        def _repopulate_pool(self):
            for _ in range(self._processes - len(self._pool)):
                args = (self._inqueue, self._outqueue, self._initializer, self._initargs, self._maxtasksperchild)
                worker = self.Process(self._ctx, target=self.target, args=(*args, self._wrap_exception))
                self._pool.append(worker)
                worker.name = worker.name.replace("Process", "PoolWorker")
                worker.daemon = True
                worker.start()

    class OwnQueues(pool.Pool):
        """Makes its queues itself."""

        def _setup_queues(self):
            self._inqueue = PipeQueue(self._ctx, {Marked: reduce_marked})
            self._outqueue = PipeQueue(self._ctx)
            self._quick_put, self._quick_get = self._inqueue.put, self._outqueue.get

    class OwnFunction(OwnWorkers):
        """Its workers run a function that is not the package's."""

        target = staticmethod(functools.partial(own_worker, mp.__name__, path))

    class OwnAll(OwnFunction):
        _setup_queues = OwnQueues._setup_queues

    class Futile(OwnWorkers):
        target = staticmethod(futile_worker)

    class Torn(OwnAll):
        target = staticmethod(functools.partial(torn_worker, mp.__name__, path))

    def half_read(others, count):
        """A kind whose first worker is killed within a message, and whose others are those of another kind."""
        target = functools.partial(half_reading_worker, others.target, f"{path}.first", count)
        return type("HalfRead", (OwnAll,), {"target": staticmethod(target)})

    all_kinds = (OwnWorkers, OwnQueues, OwnFunction, OwnAll, Futile, Torn)
    return types.SimpleNamespace(half_read=half_read, **{kind.__name__: kind for kind in all_kinds})


def istarmap(self, func, iterable, chunksize=1):
    """A lazy starmap, made of the parts of a pool."""
    pool = importlib.import_module(f"{type(self).imap.__globals__['__package__']}.pool")
    self._check_running()
    result = pool.IMapIterator(self)
    tasks = self._guarded_task_generation(
        result._job, pool.starmapstar, pool.Pool._get_tasks(func, iterable, chunksize)
    )
    self._taskqueue.put((tasks, result._set_length))
    return (item for chunk in result for item in chunk)
