"""Forks while threads of the package are at work: what a thread holds at that moment nobody gives back in the child."""

import gc
import os
import sys
import threading

import pytest

from support import fork_scene

pytestmark = pytest.mark.only("manycore", reason="children of the standard package hang where a thread held a lock")

# Nine kinds of threads, a thousand children in all.
TIMES = 112


@pytest.mark.deadline(240)
@pytest.mark.parametrize("kind", fork_scene.KINDS)
def test_children_do_everything_while_threads_are_busy(script, kind):
    program = script(f"""
        from support import fork_scene

        def main():
            print(fork_scene.fork_often(mp, {kind!r}, {TIMES}))
    """)
    assert program.read_line(seconds=220) == "[]", program.finish() or program.errors.decode()
    assert program.finish() == 0, program.errors.decode()
    assert program.orphans() == {}


@pytest.mark.parametrize("turn", range(8))
def test_pipe_ends_that_travel_through_a_queue(script, turn):
    """The program of cpython gh-87934: the sharer's thread was importing a module while the main thread forked."""
    program = script("""
        ctx = mp.get_context("fork")

        def send(queue, number):
            with queue.get() as end:
                end.send(number)

        def main():
            queue, readers, children = ctx.Queue(), [], []
            for number in range(24):
                reader, writer = ctx.Pipe(duplex=False)
                readers.append(reader)
                queue.put(writer)
                children.append(ctx.Process(target=send, args=(queue, number)))
                children[-1].start()
            print(sorted(reader.recv() for reader in readers) == list(range(24)))
            for child in children:
                child.join()
    """)
    assert program.read_line() == "True"
    assert program.finish() == 0, program.errors.decode()


@pytest.mark.parametrize("kind", fork_scene.OUR_THREADS)
def test_our_threads_import_nothing(script, kind):
    """In a fresh interpreter: what a thread needs was loaded before it was started."""
    program = script(f"""
        from support import fork_scene

        def main():
            mp.get_context("fork")
            for name in ("pool", "queues", "shared_memory", "managers"):
                __import__(f"{{mp.__name__}}.{{name}}")
            fork_scene.watch_imports()
            with fork_scene.Busy(mp, {kind!r}) as busy:
                for _ in range(30):
                    busy.turn()
            print(fork_scene.imported_by_threads)
    """)
    assert program.read_line() == "[]"
    assert program.finish() == 0, program.errors.decode()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_threads_of_a_managers_server_import_nothing(script, method):
    """They carry out whatever is asked of a manager for the first time."""
    program = script(f"""
        from manycore import managers
        from support import fork_scene

        class Manager(managers.SyncManager):
            pass

        def seen():
            return fork_scene.imported_by_threads

        Manager.register("seen", callable=seen)

        def main():
            manager = Manager(ctx=mp.get_context({method!r}))
            manager.start(initializer=fork_scene.watch_imports)
            with manager:
                shared = manager.dict(a=manager.list([1]))
                shared["b"] = manager.Queue()
                manager.Lock(), manager.Event(), manager.Barrier(1), manager.Namespace(), manager.Value("i", 1)
                manager.Array("i", [1])
                pool = manager.Pool(1)
                assert pool.map(tasks.square, [2]) == [4]
                pool.apply_async(tasks.square, (2,)).get()
                try:
                    shared["missing"]
                except KeyError:
                    pass
                print(manager.seen()._getvalue())
    """)
    assert program.read_line() == "[]"
    assert program.finish() == 0, program.errors.decode()


# ----------------------------------------------------------------------------------------------------------------------
# Imports that a fork cuts off


@pytest.fixture
def half_imported(tmp_path, monkeypatch):
    """A package whose import stops in the midst in this process until `go_on` is set, for as long as the block lasts."""
    folder = tmp_path / "half_imported"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from . import early\nfrom .early import VALUE\nimport half_imported_stop\nfrom . import late\n"
    )
    (folder / "early.py").write_text("VALUE = 'early'\n")
    (folder / "late.py").write_text("VALUE = 'late'\n")
    stop = tmp_path / "half_imported_stop.py"
    stop.write_text("import test_forks_stop\ntest_forks_stop.wait()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    begun, go_on, owner = threading.Event(), threading.Event(), os.getpid()

    def wait():
        if os.getpid() == owner:
            begun.set()
            go_on.wait()

    module = type(os)("test_forks_stop")
    module.wait = wait
    monkeypatch.setitem(sys.modules, "test_forks_stop", module)
    thread = threading.Thread(target=__import__, args=("half_imported",))
    thread.start()
    begun.wait()
    yield thread
    go_on.set()
    thread.join()
    for name in [name for name in sys.modules if name.startswith("half_imported")]:
        del sys.modules[name]


def use_half_imported(_=None):
    import half_imported
    from half_imported import early, late

    return half_imported.VALUE, half_imported.early.VALUE, early.VALUE, late.VALUE


EXPECTED = ("early", "early", "early", "late")


def test_a_child_imports_anew_what_a_thread_was_importing(mp, half_imported):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if use_half_imported() == EXPECTED else 2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_worker_imports_anew_what_a_thread_was_importing(mp, half_imported):
    with mp.get_context("fork").Pool(1) as pool:
        assert pool.apply(use_half_imported) == EXPECTED
    pool.join()


def test_a_worker_forked_by_the_keeper_while_the_main_thread_imports(mp, tmp_path, monkeypatch):
    """The keeper replaces a worker at any time; the main thread's imports are half done in it."""
    (tmp_path / "slow_to_import.py").write_text("import test_forks_pool\ntest_forks_pool.wait()\nVALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    owner, results = os.getpid(), []

    def wait():
        if os.getpid() == owner:
            for _ in range(3):
                # Each task needs another worker, and the keeper forks it.
                answered = threading.Event()

                def note(value, answered=answered):
                    results.append(value)
                    answered.set()

                pool.apply_async(import_slow, callback=note, error_callback=note)
                answered.wait()

    module = type(os)("test_forks_pool")
    module.wait = wait
    monkeypatch.setitem(sys.modules, "test_forks_pool", module)
    with mp.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        assert import_slow() == 1
        assert results == [1, 1, 1]
    pool.join()
    del sys.modules["slow_to_import"]


def import_slow():
    import slow_to_import

    return slow_to_import.VALUE


# ----------------------------------------------------------------------------------------------------------------------
# What is the parent's alone


def in_child(work):
    """The exit code of a child of `os.fork`: 0 if `work` returned something true."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 2
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def refused(call, *args):
    try:
        call(*args)
    except ValueError as error:
        return "forked" in str(error)
    return False


def test_a_child_cannot_use_its_parents_pool(mp):
    with mp.get_context("fork").Pool(1) as pool:
        result = pool.apply_async(use_gate)
        lazy = pool.imap(abs, [1, 2])

        def work():
            refusals = [
                refused(call, *args)
                for call, *args in (
                    (pool.apply, abs, (1,)),
                    (pool.apply_async, abs, (1,)),
                    (pool.map, abs, [1]),
                    (pool.map_async, abs, [1]),
                    (pool.imap, abs, iter([1])),
                    (result.get,),
                    (result.wait,),
                    (next, lazy),
                )
            ]
            repr(pool)
            pool._repopulate_pool()
            pool.close()
            pool.terminate()
            return all(refusals) and not result.ready()

        assert in_child(work) == 0
        assert result.get() == 0
        assert list(lazy) == [1, 2]
        assert pool.map(abs, [-1]) == [1]
    pool.join()


def test_a_child_cannot_use_its_parents_threads(mp):
    release, begun = threading.Event(), threading.Event()

    def hold():
        begun.set()
        release.wait()

    pool = sys.modules["manycore.pool"].ThreadPool(1)
    running, waiting, lazy = pool.apply_async(hold), pool.apply_async(abs, (-1,)), pool.imap(abs, iter([-1]))
    begun.wait()
    locked, go_on = threading.Event(), threading.Event()

    def lock_everything():
        with pool._work.lock, pool._work.putting, pool._work.callbacks, lazy._stream.changed, waiting._lock:
            locked.set()
            go_on.wait()

    locker = threading.Thread(target=lock_everything)
    locker.start()
    locked.wait()

    def work():
        nonlocal lazy
        refusals = [refused(call) for call in (running.get, waiting.get, lazy.next)]
        lazy = None
        gc.collect()
        try:
            pool.apply(abs, (1,))
        except ValueError:
            pool.terminate()
            pool.join()
            return all(refusals)

    assert in_child(work) == 0
    go_on.set()
    locker.join()
    release.set()
    assert (waiting.get(), list(lazy)) == (1, [1])
    pool.close()
    pool.join()


def use_gate():
    return 0


def test_a_signals_handler_that_forks_in_a_wait(script):
    """The child is in the midst of a call that waits for its parent's workers, and may not go on with that."""
    program = script("""
        def handler(*_):
            handler.pid = os.fork()

        def main():
            signal.signal(signal.SIGUSR1, handler)
            parent = os.getpid()
            with mp.get_context("fork").Pool(1) as pool:
                try:
                    answer = pool.apply(signal_parent, (parent,))
                except ValueError as error:
                    os._exit(7 if "forked" in str(error) else 8)
                assert os.getpid() == parent
                print(answer, os.waitstatus_to_exitcode(os.waitpid(handler.pid, 0)[1]))

        def signal_parent(pid):
            os.kill(pid, signal.SIGUSR1)
            # Until the handler has run: the parent has a child more.
            while len(tasks_children(pid)) < 2:
                pass
            return 5

        def tasks_children(pid):
            return open(f"/proc/{pid}/task/{pid}/children").read().split()
    """)
    assert program.read_line() == "5 7"
    assert program.finish() == 0, program.errors.decode()


def test_a_log_written_by_a_thread_at_the_fork(script):
    """The file's own lock, which `logging` does not know, is not held by anybody when the main thread forks."""
    program = script("""
        import logging, threading

        def main():
            reader, writer = os.pipe()
            handler = logging.StreamHandler(open(writer, "w"))
            logger = mp.get_logger()
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            # More than the pipe takes: the thread is in the midst of its write.
            thread = threading.Thread(target=logger.info, args=("x" * 200_000,))
            thread.start()
            os.read(reader, 1)
            drain = threading.Thread(target=drained, args=(reader, 200_000))
            drain.start()
            pid = os.fork()
            if pid == 0:
                logger.info("child")
                os._exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            thread.join()
            drain.join()
            os._exit(0)

        def drained(reader, size):
            while size > 0:
                size -= len(os.read(reader, 1000))
    """)
    assert program.read_line() == "0"
    assert program.finish() == 0, program.errors.decode()
