"""The process object, in every start method: what it is given, what it tells, how it ends."""

import gc
import json
import multiprocessing
import os
import pathlib
import re
import select
import signal
import sys
import threading
import weakref

import pytest

import manycore
from support import census

# --- what children run ---


def nothing(*_args, **_kwargs):
    pass


def note(path, **facts):
    """Leaves something for the test to read once it has joined the child."""
    pathlib.Path(path).write_text(json.dumps(facts))


def noted(path):
    return json.loads(pathlib.Path(path).read_text())


def describe_itself(mp_name, path, *args, **kwargs):
    mp = sys.modules[mp_name]
    me, parent = mp.current_process(), mp.parent_process()
    note(
        path,
        args=args,
        kwargs=kwargs,
        name=me.name,
        pid=me.pid,
        ident=me.ident,
        daemon=me.daemon,
        authkey=me.authkey.hex(),
        identity=me._identity,
        alive=me.is_alive(),
        exitcode=me.exitcode,
        text=repr(me),
        children=len(mp.active_children()),
        parent=[parent.name, parent.pid, parent.is_alive()],
        start_method=mp.get_start_method(),
    )


def exit_with(code):
    sys.exit(code)


def raise_an_error():
    raise ValueError("boom")


def wait_at(gate):
    gate.arrive()


def wait_uninterrupted(gate):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gate.arrive()


def end_by(number):
    os.kill(os.getpid(), number)


def leave_a_thread(gate, path):
    def work():
        gate.arrive()
        note(path, done=True)

    threading.Thread(target=work).start()
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def read_stdin(path):
    note(path, text=sys.stdin.read())


def start_a_child(mp_name, method, path):
    ctx = sys.modules[mp_name].get_context(method)
    child = ctx.Process(target=nothing)
    try:
        child.start()
    except AssertionError as error:
        note(path, error=str(error))
    else:
        child.join()
        note(path, exitcode=child.exitcode, daemon=child.daemon, name=child.name)


def touch_foreign(process, path):
    errors = []
    for action in (process.join, process.is_alive, process.start):
        try:
            action()
        except AssertionError:
            errors.append("AssertionError")
    note(path, errors=errors, exitcode=process.exitcode, text=repr(process))


class Target:
    def __call__(self, *_):
        pass


class RunOverridden:
    def __init__(self, path):
        super().__init__(name="overridden")
        self.path = path

    def run(self):
        note(self.path, name=self.name, kind=type(self).__name__)


def _overridden(mp):
    """A subclass of each context's own class. The child unpickles it by name, so it stands at module level."""
    for method in ("fork", "spawn", "forkserver"):
        name = f"{mp.__name__}_{method}"
        base = mp.get_context(method).Process
        globals()[name] = type(name, (RunOverridden, base), {"__module__": __name__})


_overridden(multiprocessing)
_overridden(manycore)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "note"


def run(ctx, target, *args, **options):
    process = ctx.Process(target=target, args=args, **options)
    process.start()
    process.join()
    return process


# --- making ---


def test_a_new_process(ctx):
    process = ctx.Process(target=nothing)
    assert re.fullmatch(r"\w*Process-(\d+:)*\d+", process.name)
    assert process.name.endswith("-" + ":".join(map(str, process._identity)))
    assert (process.pid, process.ident, process.exitcode) == (None, None, None)
    assert not process.is_alive()
    assert process.daemon is False
    assert process.authkey == ctx.current_process().authkey
    with pytest.raises(ValueError, match="not started"):
        _ = process.sentinel
    with pytest.raises(AssertionError, match="can only join a started process"):
        process.join()


def test_names_and_identities_count_up(ctx):
    first, second = ctx.Process(), ctx.Process()
    assert second._identity == (first._identity[0] + 1,)
    assert ctx.Process(name="mine").name == "mine"
    second.name = "other"
    assert second.name == "other"
    with pytest.raises(AssertionError, match="string"):
        second.name = 3


def test_wrong_arguments(ctx):
    with pytest.raises(AssertionError, match="group"):
        ctx.Process(1)
    with pytest.raises(TypeError):
        ctx.Process(target=nothing, args=5)
    with pytest.raises((TypeError, ValueError)):
        ctx.Process(target=nothing, kwargs=[1])
    with pytest.raises(TypeError):
        ctx.Process(None, nothing, None, (), {}, True)  # daemon is a keyword


def test_daemon_may_be_set_until_the_start(ctx):
    process = ctx.Process(target=nothing, daemon=True)
    assert process.daemon is True
    process.daemon = False
    process.start()
    with pytest.raises(AssertionError, match="already started"):
        process.daemon = True
    process.join()


def test_classes_of_contexts(mp):
    for method, name in (("fork", "Fork"), ("spawn", "Spawn"), ("forkserver", "ForkServer")):
        cls = mp.get_context(method).Process
        assert (cls.__name__, cls._start_method) == (f"{name}Process", method)
        assert issubclass(cls, mp.process.BaseProcess)
    assert mp.Process is mp.context.Process
    assert mp.Process._start_method is None
    with pytest.raises((NotImplementedError, TypeError)):
        mp.process.BaseProcess(target=nothing).start()


# --- what the child is ---


def test_the_child_knows_itself(mp, ctx, path):
    process = run(ctx, describe_itself, mp.__name__, str(path), 1, [2], name="this", kwargs={"a": None})
    facts = noted(path)
    me = mp.current_process()
    assert facts["args"] == [1, [2]]
    assert facts["kwargs"] == {"a": None}
    assert facts["name"] == "this"
    assert facts["pid"] == facts["ident"] == process.pid
    assert facts["daemon"] is False
    assert facts["authkey"] == me.authkey.hex()
    assert tuple(facts["identity"]) == process._identity
    assert facts["alive"] is True
    assert facts["exitcode"] is None
    assert facts["text"].endswith("started>")
    assert facts["children"] == 0
    assert facts["parent"] == [me.name, os.getpid(), True]
    assert facts["start_method"] == ctx.get_start_method()


def test_args_may_be_a_list(mp, ctx, path):
    process = ctx.Process(target=describe_itself, args=[mp.__name__, str(path), "x"])
    process.start()
    process.join()
    assert noted(path)["args"] == ["x"]


def test_run_overridden(mp, ctx, path):
    process = globals()[f"{mp.__name__}_{ctx.get_start_method()}"](str(path))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert noted(path) == {"name": "overridden", "kind": type(process).__name__}


def test_run_called_directly(ctx, path):
    ctx.Process(target=note, args=(str(path),), kwargs={"here": os.getpid()}).run()
    assert noted(path) == {"here": os.getpid()}
    assert ctx.Process().run() is None


def test_the_main_process(mp):
    me = mp.current_process()
    assert me.pid == me.ident == os.getpid()
    assert me.is_alive()
    assert not me.daemon
    assert me.exitcode is None
    assert isinstance(me.authkey, bytes)
    assert len(me.authkey) == 32
    assert mp.parent_process() is None
    assert repr(me) == "<_MainProcess name='MainProcess' parent=None started>"
    assert me.close() is None
    with pytest.raises(AssertionError):
        me.join()
    with pytest.raises(AssertionError):
        me.start()


def test_stdin_is_empty(ctx, path):
    run(ctx, read_stdin, str(path))
    assert noted(path) == {"text": ""}


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("kind", ["none", "closed"])
def test_broken_standard_streams(ctx, monkeypatch, stream, kind):
    broken = None
    if kind == "closed":
        broken = open(os.devnull, "w")
        broken.close()
    monkeypatch.setattr(sys, stream, broken)
    assert run(ctx, nothing).exitcode == 0


def test_threads_of_the_child_are_waited_for(ctx, gate, path):
    process = ctx.Process(target=leave_a_thread, args=(gate, str(path)))
    process.start()
    gate.arrivals()
    assert process.is_alive()
    gate.open()
    process.join()
    assert noted(path) == {"done": True}
    assert process.exitcode == 0


# --- how it ends ---


@pytest.mark.parametrize(
    ("code", "exitcode"), [(None, 0), (0, 0), (3, 3), (-1, 255), (True, 1), ("a message", 1), (2.5, 1), ((1, 2), 1)]
)
def test_sys_exit(ctx, code, exitcode):
    process = run(ctx, exit_with, code)
    assert process.exitcode == exitcode
    assert f"stopped exitcode={exitcode}>" in repr(process)


@pytest.mark.only("manycore", reason="the standard package's forked children fail on it")
def test_an_integer_of_any_size_may_be_the_exit_code(ctx):
    assert run(ctx, exit_with, 2**64 + 7).exitcode == 7


def test_an_exception(ctx):
    assert run(ctx, raise_an_error).exitcode == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR2, signal.SIGRTMIN + 2])
def test_a_signal(ctx, number):
    process = run(ctx, end_by, number)
    assert process.exitcode == -number
    # A real-time signal has no name of its own.
    name = f"SIG{signal.Signals(number).name[3:]}" if number in set(signal.Signals) else str(int(number))
    assert f"exitcode=-{name}>" in repr(process)


@pytest.mark.parametrize(("method", "number"), [("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)])
def test_terminate_and_kill(mp, ctx, gate, method, number):
    process = ctx.Process(target=wait_at, args=(gate,))
    process.start()
    gate.arrivals()
    assert process.is_alive()
    assert process in mp.active_children()
    getattr(process, method)()
    process.join()
    assert process.exitcode == -number
    assert not process.is_alive()
    assert process not in mp.active_children()
    getattr(process, method)()  # no error afterwards


def test_kill_ends_what_terminate_does_not(ctx, gate):
    process = ctx.Process(target=wait_uninterrupted, args=(gate,))
    process.start()
    gate.arrivals()
    process.terminate()
    process.join(0)
    assert process.is_alive()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.only("manycore", reason="the standard package has interrupt() from 3.14 on")
def test_interrupt(ctx, gate):
    process = ctx.Process(target=wait_at, args=(gate,))
    process.start()
    gate.arrivals()
    process.interrupt()
    process.join()
    assert process.exitcode == 1  # KeyboardInterrupt


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_traceback_is_printed(script, method):
    program = script(f"""
        def fail():
            raise ValueError("boom")

        def main():
            process = mp.get_context({method!r}).Process(target=fail, name="Fated")
            process.start()
            process.join()
            sys.exit(process.exitcode + 10)
    """)
    assert program.finish() == 11
    lines = program.errors.decode().splitlines()
    start = lines.index("Process Fated:")
    assert lines[start + 1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: boom"
    assert any("in fail" in line for line in lines[start:])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_message_given_to_exit_is_printed_and_output_is_flushed(script, method):
    program = script(
        f"""
        def leave():
            print("last words", end="")
            sys.exit("a message")

        def main():
            process = mp.get_context({method!r}).Process(target=leave)
            process.start()
            process.join()
        """,
        environment={"PYTHONUNBUFFERED": ""},
    )
    assert program.finish() == 0
    assert program.output == b"last words"
    assert program.errors == b"a message\n"


# --- waiting ---


@pytest.mark.parametrize("timeout", [0, -1, 0.001])
def test_join_with_a_timeout(ctx, gate, timeout):
    process = ctx.Process(target=wait_at, args=(gate,))
    process.start()
    assert process.join(timeout) is None
    assert process.exitcode is None
    gate.open()
    process.join(1e6)
    assert process.exitcode == 0
    assert process.join() is None  # again, at once


@pytest.mark.only("manycore", reason="the standard package fails beyond the largest C int")
def test_join_with_an_endless_timeout(ctx):
    process = ctx.Process(target=nothing)
    process.start()
    process.join(float("inf"))
    assert process.exitcode == 0


@pytest.mark.only("manycore", reason="the standard package loses the status when two threads wait")
def test_threads_wait_for_one_process(ctx, gate):
    process = ctx.Process(target=wait_at, args=(gate,))
    process.start()
    codes = []

    def wait():
        process.join()
        codes.append(process.exitcode)

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join()
    assert codes == [0] * 8


@pytest.mark.only("manycore", reason="the standard package then waits for ever")
def test_a_child_reaped_by_somebody_else(mp):
    process = mp.get_context("fork").Process(target=nothing)
    process.start()
    os.waitpid(process.pid, 0)
    process.join()
    assert process.exitcode == 255


def test_active_children(mp, ctx, gate):
    processes = [ctx.Process(target=wait_at, args=(gate,)) for _ in range(3)]
    assert not set(processes) & set(mp.active_children())
    for process in processes:
        process.start()
    assert isinstance(mp.active_children(), list)
    assert set(processes) <= set(mp.active_children())
    gate.open()
    for process in processes:
        select.select([process.sentinel], [], [])

    def all_gone():
        return not set(processes) & set(mp.active_children())

    assert census.eventually(all_gone)
    assert [process.exitcode for process in processes] == [0, 0, 0]


# --- misuse ---


def test_start_twice(ctx):
    process = ctx.Process(target=nothing)
    process.start()
    with pytest.raises(AssertionError, match="cannot start a process twice"):
        process.start()
    process.join()
    with pytest.raises(AssertionError, match="cannot start a process twice"):
        process.start()


def test_close(ctx, gate):
    process = ctx.Process(target=wait_at, args=(gate,))
    process.start()
    with pytest.raises(ValueError, match="still running"):
        process.close()
    gate.open()
    process.join()
    process.close()
    for action in ("is_alive", "join", "terminate", "kill", "start"):
        with pytest.raises(ValueError, match="process object is closed"):
            getattr(process, action)()
    for attribute in ("exitcode", "pid", "ident", "sentinel"):
        with pytest.raises(ValueError, match="process object is closed"):
            getattr(process, attribute)
    assert repr(process).endswith(" closed>")
    assert process.name
    process.close()


def test_close_before_the_start(ctx):
    process = ctx.Process(target=nothing)
    process.close()
    with pytest.raises(ValueError, match="closed"):
        process.start()


@pytest.mark.methods("fork")
def test_a_process_of_another_process(ctx, gate, path):
    running = ctx.Process(target=wait_at, args=(gate,))
    running.start()
    gate.arrivals()
    run(ctx, touch_foreign, running, str(path))
    facts = noted(path)
    assert facts["errors"] == ["AssertionError"] * 3
    assert facts["exitcode"] is None
    assert "unknown" in facts["text"]
    assert running.is_alive()
    gate.open()
    running.join()


@pytest.mark.only("multiprocessing", reason="here it may: see test_daemons.py")
def test_a_daemon_may_not_have_children(mp, ctx, path):
    run(ctx, start_a_child, mp.__name__, ctx.get_start_method(), str(path), daemon=True)
    assert "daemonic processes are not allowed to have children" in noted(path)["error"]


@pytest.mark.only("manycore", reason="there it may not")
def test_a_daemon_may_have_children(mp, ctx, path):
    process = run(ctx, start_a_child, mp.__name__, ctx.get_start_method(), str(path), daemon=True)
    facts = noted(path)
    assert facts["exitcode"] == 0
    assert facts["daemon"] is True
    assert facts["name"].endswith(f"-{process._identity[0]}:1")


def test_a_child_of_a_child(mp, ctx, path):
    if (mp.__name__, ctx.get_start_method()) == ("multiprocessing", "forkserver"):
        pytest.skip("the child's own forkserver outlives it there")
    process = run(ctx, start_a_child, mp.__name__, ctx.get_start_method(), str(path))
    assert process.exitcode == 0
    assert noted(path)["exitcode"] == 0


# --- what stays ---


def test_repr(ctx, gate):
    process = ctx.Process(target=wait_at, args=(gate,), name="n", daemon=True)
    kind, parent = type(process).__name__, os.getpid()
    assert repr(process) == f"<{kind} name='n' parent={parent} initial daemon>"
    process.start()
    gate.arrivals()
    assert repr(process) == f"<{kind} name='n' pid={process.pid} parent={parent} started daemon>"
    process.kill()
    process.join()
    assert repr(process) == f"<{kind} name='n' pid={process.pid} parent={parent} stopped exitcode=-SIGKILL daemon>"


def test_the_arguments_are_let_go_of(ctx):
    target = Target()
    reference = weakref.ref(target)
    process = ctx.Process(target=target, args=(target,))
    del target
    process.start()
    process.join()
    gc.collect()
    assert reference() is None


def test_the_object_is_collected(ctx):
    process = ctx.Process(target=nothing)
    process.start()
    process.join()
    process.close()
    reference = weakref.ref(process)
    del process
    gc.collect()
    assert reference() is None
