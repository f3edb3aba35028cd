"""What test_forks.py does in a program of its own: threads of the package kept busy, and forked children that do one of
everything. A program imports it as a module, and gives it the package."""

import contextlib
import gc
import logging
import os
import sys
import threading

from . import tasks

#: Modules that threads other than the main one were the first to import, with the name of the thread.
imported_by_threads = []


class Spy:
    """In front of all finders: sees each import of what is not loaded, finds nothing."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if threading.get_ident() != main:
            imported_by_threads.append((threading.current_thread().name, name))


main = threading.get_ident()


def watch_imports():
    sys.meta_path.insert(0, Spy)


def slowly(items, go_on):
    # An input that may block, so that a thread pulls it.
    for item in items:
        if go_on.is_set():
            return
        yield item


class Busy:
    """One kind of thread of the package, at work until the block ends. `turn()` gives it something to do."""

    def __init__(self, mp, kind):
        self.mp = mp
        self.over = threading.Event()
        self.stack = contextlib.ExitStack()
        self.turn = getattr(self, kind)(mp.get_context("fork"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.stack.close()

    def sharer(self, ctx):
        """Descriptors are handed out to another process."""
        outgoing = ctx.Queue()
        done = ctx.Semaphore(0)
        other = ctx.Process(target=receive_all, args=(outgoing, done), daemon=True)
        other.start()
        ends = []

        def turn():
            reader, writer = ctx.Pipe(duplex=False)
            ends.append(reader)
            outgoing.put(writer)
            writer.close()

        def finish():
            for _ in ends:
                done.acquire()
            outgoing.put(None)
            other.join()

        self.stack.callback(lambda: [end.close() for end in ends])
        self.stack.callback(finish)
        return turn

    def keeper(self, ctx):
        """Callbacks of a pool whose workers are replaced all the time."""
        pool = self.stack.enter_context(ctx.Pool(2, maxtasksperchild=5))
        results = []
        self.stack.callback(lambda: [result.get() for result in results[-50:]])
        return lambda: results.append(pool.apply_async(tasks.square, (len(results),), callback=str, error_callback=str))

    def puller(self, ctx):
        """A lazy map over an input that may block."""
        pool = self.stack.enter_context(ctx.Pool(2))
        results = pool.imap(tasks.square, slowly(range(10**9), self.over), buffersize=8)
        return lambda: next(results)

    def feeder(self, ctx):
        """A queue whose subclass brings a thread of its own."""

        class Queue(sys.modules[f"{self.mp.__name__}.queues"].Queue):
            def _start_thread(self):
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

            def _work(self):
                while True:
                    with self._notempty:
                        while not self._buffer:
                            self._notempty.wait()
                        obj = self._buffer.popleft()
                    with self._wlock:
                        self._send_bytes(sys.modules[f"{package}.reduction"].ForkingPickler.dumps(obj))
                    if obj is None:
                        return

        package = self.mp.__name__
        queue = Queue(ctx=ctx)

        def finish():
            queue.put(None)
            while queue.get() is not None:
                pass
            queue._thread.join()

        self.stack.callback(finish)

        def turn():
            queue.put(b"x" * 100)
            queue.get()

        self.queue = queue
        return turn

    def proxies(self, ctx):
        """Threads that share one manager's objects."""
        manager = self.stack.enter_context(ctx.Manager())
        shared = manager.dict()
        self.run(lambda: shared.update(n=manager.list([1, 2])))
        self.proxy = shared
        return lambda: shared.copy()

    def thread_pool(self, ctx):
        """A pool of threads, with a lazy map."""
        module = sys.modules[f"{self.mp.__name__}.pool"]
        pool = self.stack.enter_context(module.ThreadPool(2))
        results = pool.imap_unordered(tasks.square, slowly(range(10**9), self.over))
        self.kept = results
        return lambda: next(results)

    def locks(self, ctx):
        """Threads that make and drop locks, queues, shared memory and finalizers, and take each other's locks."""
        lock, semaphore = ctx.Lock(), ctx.Semaphore(2)
        names = sys.modules[f"{self.mp.__name__}.shared_memory"]

        def work():
            with lock, semaphore:
                ctx.RLock(), ctx.Event(), ctx.Value("i"), ctx.Queue()
            segment = names.SharedMemory(create=True, size=100)
            segment.close()
            segment.unlink()

        self.run(work)
        self.run(work)
        return lambda: None

    def starter(self, ctx):
        """A thread that starts processes by the other methods."""

        def work():
            for method in ("forkserver", "spawn"):
                process = self.mp.get_context(method).Process(target=int)
                process.start()
                process.join()
                process.close()

        self.run(work)
        return lambda: None

    def log(self, ctx):
        """A thread that logs."""
        logger = self.mp.get_logger()
        sink = self.stack.enter_context(open(os.devnull, "w"))
        handler = logging.StreamHandler(sink)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        self.stack.callback(logger.setLevel, logging.CRITICAL)
        self.stack.callback(logger.removeHandler, handler)
        self.run(lambda: logger.info("busy"))
        return lambda: logger.info("main")

    def run(self, work):
        """Have a thread of the program do `work` until the block ends: the package does in it what threads do."""

        def loop():
            while not self.over.is_set():
                work()

        thread = threading.Thread(target=loop)
        thread.start()
        self.stack.callback(thread.join)
        self.stack.callback(self.over.set)


KINDS = ["sharer", "keeper", "puller", "feeder", "proxies", "thread_pool", "locks", "starter", "log"]
#: Those whose threads are the package's; the others are the program's, in calls of the package.
OUR_THREADS = ["sharer", "keeper", "puller", "thread_pool"]


def receive_all(queue, done):
    while (end := queue.get()) is not None:
        end.close()
        done.release()


def one_of_everything(mp, busy, number):
    """What a forked child does. Raises if something is not as it should be."""
    ctx = mp.get_context("fork")
    queue = ctx.Queue()
    queue.put([number])
    assert queue.get() == [number]
    ours, theirs = ctx.Pipe()
    ours.send(number)
    assert theirs.recv() == number
    simple = ctx.SimpleQueue()
    simple.put(ours)
    copy = simple.get()
    copy.send("by way of the sharer")
    assert theirs.recv() == "by way of the sharer"
    for lock in (ctx.Lock(), ctx.RLock(), ctx.Semaphore(), ctx.Condition(), ctx.Value("i").get_lock()):
        with lock:
            pass
    event = ctx.Event()
    event.set()
    assert event.wait()
    mp.get_logger().info("child")
    assert ctx.Array("i", [1, 2])[:] == [1, 2]
    segment = sys.modules[f"{mp.__name__}.shared_memory"].SharedMemory(create=True, size=8)
    segment.close()
    segment.unlink()
    if hasattr(busy, "proxy"):
        assert busy.proxy.keys() in (["n"], [])
    # Their locks may have been taken.
    busy.kept = busy.queue = None
    gc.collect()
    if number % 10 == 0:
        with ctx.Pool(1) as pool:
            assert pool.map(tasks.square, [2, 3]) == [4, 9]
            assert pool.apply_async(tasks.square, (4,)).get() == 16
            assert list(pool.imap(tasks.square, slowly([5], threading.Event()))) == [25]
        pool.join()
        threads = sys.modules[f"{mp.__name__}.pool"].ThreadPool(1)
        assert threads.map(tasks.square, [2]) == [4]
        threads.terminate()
        threads.join()
    if number % 20 == 0:
        process = ctx.Process(target=int)
        process.start()
        process.join()
        assert process.exitcode == 0


def child(mp, busy, number):
    """The body of a child of `os.fork`; does not return."""
    code = 1
    try:
        one_of_everything(mp, busy, number)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def fork_often(mp, kind, times):
    """Forks `times` children while threads of one kind are busy, by `os.fork` and by `Process.start` in turn. Returns the
    numbers of those that failed."""
    for name in ("pool", "queues", "shared_memory", "reduction", "managers"):
        __import__(f"{mp.__name__}.{name}")
    failed = []
    context = mp.get_context("fork")
    with Busy(mp, kind) as busy:
        for number in range(times):
            busy.turn()
            if number % 2:
                pid = os.fork()
                if pid == 0:
                    child(mp, busy, number)
                busy.turn()
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            else:
                process = context.Process(target=one_of_everything, args=(mp, busy, number))
                process.start()
                busy.turn()
                process.join()
                code = process.exitcode
            if code:
                failed.append((number, code))
    return failed
