"""Contexts, the names of the package, its exceptions, and the helpers that other modules build on."""

import contextlib
import importlib
import os
import pathlib
import pickle
import socket
import subprocess
import sys
import threading

import pytest

METHODS = ("fork", "spawn", "forkserver")


def nothing():
    pass


def run_python(text):
    """The output of a program run by this interpreter, which finds the package where we do."""
    root = os.path.dirname(os.path.dirname(importlib.import_module("manycore").__file__))
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(
        [sys.executable, "-c", text], env=environment, check=True, capture_output=True, text=True
    ).stdout


# --- importing ---


@pytest.mark.only("manycore", reason="the standard package loads them")
def test_importing_the_package_is_light(mp):
    heavy = (
        "collections enum functools logging pickle selectors signal socket struct subprocess tempfile threading weakref"
    )
    text = f"""if True:
        import sys
        before = set(sys.modules)
        import manycore
        loaded = set(sys.modules) - before
        print(*sorted(loaded & {set(heavy.split())}), *sorted(n for n in loaded if n.startswith("manycore")))
    """
    assert run_python(text).split() == ["manycore", "manycore.context", "manycore.process"]


@pytest.mark.only("manycore", reason="the question makes sense for it alone")
def test_the_standard_package_is_never_imported(mp):
    # The last of these raises ImportError, as it does there.
    left_out = ("__init__", "__main__", "popen_spawn_win32")
    modules = [path.stem for path in pathlib.Path(mp.__file__).parent.glob("*.py") if path.stem not in left_out]
    text = f"""if True:
        import importlib, sys
        for name in {sorted(modules)}:
            try:
                importlib.import_module("manycore." + name)
            except ImportError as error:
                # The engine is not built for every interpreter.
                assert "_engine" in str(error), error
        print(*[name for name in sys.modules if name.startswith("multiprocessing")])
    """
    assert run_python(text).split() == []


def test_all_names_exist(mp):
    assert len(set(mp.__all__)) == len(mp.__all__)
    for name in mp.__all__:
        assert getattr(mp, name) is not None
    for name in ("context", "process", "reduction"):
        assert getattr(mp, name) is importlib.import_module(f"{mp.__name__}.{name}")
    assert mp.reducer is mp.reduction
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mp.no_such_name


# --- contexts ---


def test_contexts(mp):
    for method in METHODS:
        context = mp.get_context(method)
        assert context is mp.get_context(method)
        assert context.get_start_method() == method
        assert context.get_context() is context
        assert context.get_context("fork") is mp.get_context("fork")
        with pytest.raises(ValueError, match="cannot set start method of concrete context"):
            context.set_start_method("fork")
    for ask in (mp.get_context, mp.get_context("fork").get_context):
        with pytest.raises(ValueError, match="cannot find context for 'other'"):
            ask("other")
    assert sorted(mp.get_all_start_methods()) == sorted(METHODS)


def test_a_context_has_what_the_package_has(mp):
    context = mp.get_context("spawn")
    for name in mp.__all__:
        if name not in ("get_all_start_methods", "install", "Process", "reducer"):
            assert hasattr(context, name), name
    assert context.current_process() is mp.current_process()
    assert context.TimeoutError is mp.TimeoutError


def test_the_default_start_method(script):
    default = "forkserver" if sys.version_info >= (3, 14) else "fork"
    program = script("""
        def main():
            print(mp.get_start_method(allow_none=True), mp.get_all_start_methods()[0], mp.get_start_method())
            print(mp.get_start_method(allow_none=True))
    """)
    assert program.finish() == 0
    assert program.output.decode().split() == ["None", default, default, default]


@pytest.mark.parametrize("method", METHODS)
def test_a_process_of_another_context_settles_nothing(script, mp, method):
    if mp.__name__ == "multiprocessing" and sys.version_info < (3, 13):
        pytest.skip("cpython gh-109263: it did before CPython 3.13")
    program = script(f"""
        def say():
            print(mp.get_start_method(allow_none=True), flush=True)

        def main():
            process = mp.get_context({method!r}).Process(target=say)
            process.start()
            process.join()
            say()
    """)
    assert program.finish() == 0
    assert program.output.decode().split() == [method, "None"]


def test_setting_the_start_method(script):
    program = script("""
        def main():
            mp.set_start_method("spawn")
            print(mp.get_start_method(), mp.get_context()._name, type(mp.get_context()).__name__)
            for method in ("fork", None):
                try:
                    mp.set_start_method(method)
                except RuntimeError as error:
                    print("already" in str(error))
            mp.set_start_method("fork", force=True)
            print(mp.get_start_method())
            mp.set_start_method(None, force=True)
            print(mp.get_start_method(allow_none=True))
            try:
                mp.set_start_method("other")
            except ValueError:
                print("unknown")
            process = mp.Process(target=int)
            process.start()
            process.join()
            try:
                mp.set_start_method("spawn")
            except RuntimeError:
                print("settled by use")
    """)
    assert program.finish() == 0, program.errors
    assert program.output.decode().replace("\n", " ") == (
        "spawn spawn SpawnContext True True fork None unknown settled by use "
    )


def test_a_process_of_the_package_uses_the_default_method(script):
    program = script("""
        def tell():
            print(mp.get_start_method(), type(mp.current_process()).__name__, flush=True)

        def main():
            for method in ("fork", "spawn", "forkserver"):
                mp.set_start_method(method, force=True)
                process = mp.Process(target=tell)
                process.start()
                process.join()
    """)
    assert program.finish() == 0, program.errors
    assert program.output.decode().splitlines() == ["fork Process", "spawn Process", "forkserver Process"]


def test_reducer_can_be_replaced(script):
    program = script("""
        from types import SimpleNamespace

        def main():
            context = mp.get_context("spawn")
            assert context.reducer is mp.reduction
            other = SimpleNamespace()
            context.reducer = other
            print(mp.get_context("fork").reducer is other)
    """)
    assert program.finish() == 0, program.errors
    assert program.output == b"True\n"


def test_set_executable(mp, monkeypatch):
    spawn = importlib.import_module(f"{mp.__name__}.spawn")
    before = spawn.get_executable()
    try:
        for form in (sys.executable, os.fsencode(sys.executable), pathlib.Path(sys.executable)):
            mp.set_executable(form)
            assert os.fsencode(spawn.get_executable()) == os.fsencode(sys.executable)
            process = mp.get_context("spawn").Process(target=nothing)
            process.start()
            process.join()
            assert process.exitcode == 0
    finally:
        mp.set_executable(before)


def test_small_functions(mp):
    assert mp.freeze_support() is None
    assert mp.allow_connection_pickling() is None
    assert mp.cpu_count() == os.cpu_count()


# --- processors ---


@pytest.mark.only("manycore", reason="the standard package has no such function")
def test_usable_cpu_count_follows_the_affinity(mp):
    before = os.sched_getaffinity(0)
    assert 1 <= mp.usable_cpu_count() <= len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert mp.usable_cpu_count() == 1
    finally:
        os.sched_setaffinity(0, before)


# --- exceptions ---


def test_exceptions(mp):
    for name in ("BufferTooShort", "TimeoutError", "AuthenticationError"):
        kind = getattr(mp, name)
        assert issubclass(kind, mp.ProcessError)
        assert kind is getattr(mp.get_context("spawn"), name)
        assert type(pickle.loads(pickle.dumps(kind("x")))) is kind
    assert not issubclass(mp.TimeoutError, TimeoutError)


@pytest.mark.only("manycore", reason="the standard package has no such exception")
@pytest.mark.parametrize(
    ("arguments", "signal_name", "message"),
    [
        ((7, -11, None, "f(1)"), "SIGSEGV", "worker process 7 was ended by SIGSEGV while it was running f(1)"),
        ((7, 3), None, "worker process 7 exited with code 3 while it was running a task"),
        ((7, None), None, "worker process 7 ended for an unknown reason while it was running a task"),
    ],
)
def test_worker_lost(mp, arguments, signal_name, message):
    error = mp.WorkerLost(*arguments)
    assert isinstance(error, mp.ProcessError)
    again = pickle.loads(pickle.dumps(error))
    for one in (error, again):
        assert type(one) is mp.WorkerLost
        assert (one.pid, one.exitcode) == arguments[:2]
        assert one.signal == signal_name
        assert one.task == (arguments[3] if len(arguments) > 3 else None)
        assert str(one) == message
    assert "memory" in str(mp.WorkerLost(1, -9))


# --- pickling ---


def test_what_travels_only_to_a_child(mp):
    key = mp.current_process().authkey
    with pytest.raises(TypeError, match="security reasons"):
        pickle.dumps(key)
    with pytest.raises(TypeError, match="security reasons"):
        pickle.dumps(mp.Process(target=nothing))
    assert bytes(key) == key
    with pytest.raises(RuntimeError, match="only be shared between processes through inheritance"):
        mp.context.assert_spawning(object())
    assert mp.context.get_spawning_popen() is None


class Exotic:
    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        raise TypeError("not this way")


def rebuild(value):
    return Exotic(value + 1)


def test_forking_pickler(mp):
    pickler = mp.reduction.ForkingPickler
    assert issubclass(pickler, pickle.Pickler)
    assert pickler.loads(pickler.dumps([1, {"a": (2,)}])) == [1, {"a": (2,)}]
    try:
        pickler.register(Exotic, lambda exotic: (rebuild, (exotic.value,)))
        assert pickler.loads(pickler.dumps(Exotic(1))).value == 2
        assert type("Derived", (pickler,), {}).loads(pickler.dumps(Exotic(1))).value == 2
        with pytest.raises(TypeError, match="not this way"):
            pickle.dumps(Exotic(1))
    finally:
        pickler._extra_reducers.pop(Exotic)
    method = pickler.loads(pickler.dumps("text".upper))
    assert method() == "TEXT"


def in_thread(function, *args):
    """The sender of descriptors may wait for the receiver."""
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


@pytest.mark.parametrize("other", ["manycore", "multiprocessing"])
def test_sending_descriptors(mp, other):
    reduction, senders = mp.reduction, importlib.import_module(f"{other}.reduction")
    left, right = socket.socketpair()
    read_end, write_end = os.pipe()
    with left, right:
        sender = in_thread(senders.sendfds, left, [read_end, write_end])
        received = reduction.recvfds(right, 2)
        sender.join()
        os.write(received[1], b"through")
        assert os.read(read_end, 100) == b"through"
        sender = in_thread(senders.send_handle, left, read_end, os.getpid())
        received.append(reduction.recv_handle(right))
        sender.join()
        # Nothing but what was meant for the program stands in the sockets.
        right.send(b"x")
        assert left.recv(10) == b"x"
        left.send(b"x")
        with pytest.raises(RuntimeError):
            reduction.recv_handle(right)
        left.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            left.recv(1)
        left.close()
        with pytest.raises(EOFError):
            reduction.recvfds(right, 1)
    for fd in (read_end, write_end, *received):
        os.close(fd)


# --- util ---


class Thing:
    pass


def test_finalizers(mp):
    util = importlib.import_module(f"{mp.__name__}.util")
    calls = []
    thing = Thing()
    by_object = util.Finalize(thing, calls.append, ("collected",))
    by_hand = util.Finalize(None, lambda *a, **k: calls.append((a, k)) or "result", (1,), {"b": 2}, exitpriority=0)
    cancelled = util.Finalize(None, calls.append, ("never",), exitpriority=5)
    assert by_object.still_active()
    assert "append" in repr(by_object)
    del thing
    assert calls == ["collected"]
    assert not by_object.still_active()
    assert "dead" in repr(by_object)
    assert by_object() is None
    assert by_hand() == "result"
    assert calls[1:] == [((1,), {"b": 2})]
    assert by_hand() is None
    cancelled.cancel()
    assert not cancelled.still_active()
    assert cancelled() is None
    with pytest.raises(ValueError, match="exitpriority cannot be None"):
        util.Finalize(None, calls.append)
    with pytest.raises(TypeError):
        util.Finalize(Thing(), calls.append, exitpriority="1")


def test_finalizers_run_in_order_of_priority(script):
    program = script("""
        import importlib

        class Thing:
            pass

        def main():
            util = importlib.import_module(mp.__name__ + ".util")
            global kept
            kept = Thing()
            util.Finalize(kept, print, ("never: no priority",))
            util.Finalize(None, print, ("zero, older",), exitpriority=0)
            util.Finalize(None, print, ("zero, newer",), exitpriority=0)
            util.Finalize(None, print, ("ten",), exitpriority=10)
            util.Finalize(None, lambda: 1 / 0, exitpriority=5)
            util.Finalize(None, print, ("last",), exitpriority=-10)
            print(util.is_exiting())
            if os.fork() == 0:
                sys.exit()
            os.wait()
    """)
    assert program.finish() == 0
    assert program.output.decode().splitlines() == ["False", "ten", "zero, newer", "zero, older", "last"]
    assert b"ZeroDivisionError" in program.errors


def test_after_fork_callbacks(script):
    program = script("""
        import importlib
        util = importlib.import_module(mp.__name__ + ".util")

        class Thing:
            pass

        def note(thing):
            print(thing.name, flush=True)

        def main():
            for name in "first", "second", "gone":
                thing = globals()[name] = Thing()
                thing.name = name
                util.register_after_fork(thing, note)
            util.register_after_fork(first, lambda thing: 1 / 0)
            del thing, globals()["gone"]
            lock = util.ForkAwareThreadLock()
            local = util.ForkAwareLocal()
            local.value = 1
            lock.acquire()
            process = mp.get_context("fork").Process(
                target=lambda: print(lock.acquire(False), hasattr(local, "value"), flush=True)
            )
            process.start()
            process.join()
            assert local.value == 1
    """)
    assert program.finish() == 0, program.errors
    assert program.output.decode().splitlines() == ["first", "second", "True False"]


def test_the_temporary_directory(script):
    program = script("""
        import importlib

        def main():
            util = importlib.import_module(mp.__name__ + ".util")
            folder = util.get_temp_dir()
            assert folder == util.get_temp_dir() and os.path.isdir(folder)
            open(os.path.join(folder, "file"), "w").close()
            print(folder)
    """)
    assert program.finish() == 0, program.errors
    assert not os.path.exists(program.output.decode().strip())


def test_logging(script):
    program = script("""
        import logging

        def work():
            mp.get_logger().warning("from the child")

        def main():
            logger = mp.log_to_stderr(logging.INFO)
            assert logger is mp.get_logger() is logging.getLogger("multiprocessing")
            assert not logger.propagate
            for method in ("fork", "spawn", "forkserver"):
                process = mp.get_context(method).Process(target=work, name=method.title())
                process.start()
                process.join()
    """)
    assert program.finish() == 0, program.errors
    lines = program.errors.decode().splitlines()
    for name in ("Fork", "Spawn", "Forkserver"):
        assert f"[WARNING/{name}] from the child" in lines
        assert f"[INFO/{name}] child process calling self.run()" in lines
        assert f"[INFO/{name}] process exiting with exitcode 0" in lines
    assert "[INFO/MainProcess] process shutting down" in lines


def test_closing_all_descriptors_but_some(script):
    program = script("""
        import importlib

        def main():
            util = importlib.import_module(mp.__name__ + ".util")
            opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
            util.close_all_fds_except([1, 2, opened[2]])
            left = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
            # Of those listed one belongs to the listing itself.
            print(opened[2] in left, opened[3] in left, len(left))
    """)
    assert program.finish() == 0, program.errors
    assert program.output.decode().split() == ["True", "False", "4"]
