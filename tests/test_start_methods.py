"""How children come into being: what they inherit, and what goes wrong on the way."""

import errno
import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading

import pytest

import manycore
from support import census

METHODS = ("fork", "spawn", "forkserver")


def nothing():
    pass


def write_to(handle, text):
    fd = handle.detach()
    os.write(fd, text)
    os.close(fd)


def count_bytes(path, data):
    with open(path, "w") as file:
        file.write(str(len(data)))


def look_at_descriptors(path):
    kinds = sorted(census.descriptor_kinds().values())
    with open(path, "w") as file:
        json.dump(kinds, file)


class Unpicklable:
    def __reduce__(self):
        raise pickle.PicklingError("never")


class Explosive:
    """Can be pickled, cannot be unpickled."""

    def __reduce__(self):
        return explode, ()


def explode():
    raise RuntimeError("cannot be rebuilt")


# --- descriptors and arguments ---


@pytest.mark.only("manycore", reason="the standard package has no public way")
def test_descriptors_in_the_arguments(mp, ctx):
    ends = [os.pipe() for _ in range(3)]
    handles = [mp.reduction.ChildFd(write_end) for _, write_end in ends]
    processes = [ctx.Process(target=write_to, args=(handle, b"%d" % n)) for n, handle in enumerate(handles)]
    for process in processes:
        process.start()
    for _, write_end in ends:
        os.close(write_end)
    for n, (read_end, _) in enumerate(ends):
        assert os.read(read_end, 100) == b"%d" % n
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for read_end, _ in ends:
        # The end of file: no other child holds the write end.
        assert os.read(read_end, 100) == b""
        os.close(read_end)


@pytest.mark.only("manycore", reason="the standard package's DupFd would start a server for it")
def test_descriptors_travel_only_to_a_child(mp):
    with pytest.raises(RuntimeError, match="inheritance"):
        pickle.dumps(mp.reduction.ChildFd(0))


def test_large_arguments(ctx, tmp_path):
    path = str(tmp_path / "note")
    process = ctx.Process(target=count_bytes, args=(path, bytes(20_000_000)))
    process.start()
    process.join()
    assert process.exitcode == 0
    with open(path) as file:
        assert file.read() == "20000000"


@pytest.mark.methods("spawn", "forkserver")
def test_inheritable_descriptors_do_not_reach_the_child(ctx, tmp_path):
    path = str(tmp_path / "note")
    with open(tmp_path / "open file", "w") as file:
        os.set_inheritable(file.fileno(), True)
        process = ctx.Process(target=look_at_descriptors, args=(path,))
        process.start()
        process.join()
    with open(path) as note:
        assert "open file" not in note.read()


@pytest.mark.only("manycore", reason="forked children of the standard package hold their siblings' pipes")
@pytest.mark.parametrize("daemon", [False, True])
def test_children_do_not_hold_the_parents_descriptors(ctx, gate, tmp_path, daemon):
    notes = []
    processes = [ctx.Process(target=gate.arrive, daemon=True) for _ in range(3)]
    for number in range(4):
        path = tmp_path / f"note {number}"
        looking = ctx.Process(target=look_at_descriptors, args=(str(path),), daemon=daemon)
        looking.start()
        looking.join()
        assert looking.exitcode == 0
        notes.append(json.loads(path.read_text()))
        if number < 3:
            processes[number].start()
    gate.open()
    for process in processes:
        process.join()
    assert notes == [notes[0]] * 4


# --- pickling that fails ---


@pytest.mark.methods("spawn", "forkserver")
@pytest.mark.parametrize(
    "make", [lambda: functools.partial(nothing, threading.Lock()), Unpicklable], ids=["target", "argument"]
)
def test_what_cannot_be_pickled(mp, ctx, make):
    before = census.descriptor_kinds()
    made = make()
    process = ctx.Process(target=made if callable(made) else nothing, args=() if callable(made) else (made,))
    with pytest.raises((pickle.PicklingError, TypeError)):
        process.start()
    assert mp.context.get_spawning_popen() is None
    assert process not in mp.active_children()
    assert "initial" in repr(process)
    assert census.descriptor_kinds() == before


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_cannot_be_unpickled(script, method):
    program = script(f"""
        import test_start_methods

        def main():
            process = mp.get_context({method!r}).Process(target=print, args=(test_start_methods.Explosive(),))
            process.start()
            process.join()
            sys.exit(process.exitcode + 10)
    """)
    assert program.finish() == 11
    assert b"RuntimeError: cannot be rebuilt" in program.errors


# --- the main module ---


@pytest.mark.only("multiprocessing", reason="here such a program works; see test_hidden_main")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_main_module_without_a_guard(mp, tmp_path, method):
    path = tmp_path / "program.py"
    path.write_text(f"""
import sys
import {mp.__name__} as mp
def f(): pass
process = mp.get_context({method!r}).Process(target=f)
process.start()
process.join()
sys.exit(process.exitcode + 10)
""")
    result = run_program([sys.executable, str(path)])
    # The fork server may meet the error first, and then the program sees a closed connection.
    assert result.returncode in (1, 11)
    assert "bootstrapping phase" in result.stderr
    assert "if __name__ == '__main__'" in result.stderr


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["path", "module", "package", "command"])
def test_how_the_program_was_started(mp, tmp_path, method, how):
    text = f"""
import sys
import {mp.__name__} as mp
class C:
    pass
def f(c):
    main = sys.modules["__main__"]
    assert type(c) is C
    print(__name__, getattr(main, "f", None) is f, flush=True)
if __name__ == "__main__":
    process = mp.get_context({method!r}).Process(target=f, args=(C(),))
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""
    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "program.py").write_text(text)
    (folder / "work.py").write_text(text)
    (folder / "__main__.py").write_text(
        text.replace("def f(c):", "from pack.work import f, C\ndef unused(c):") if how == "package" else text
    )
    command = {
        "path": [str(folder / "program.py")],
        "module": ["-m", "pack.program"],
        "package": ["-m", "pack"],
        "command": ["-c", text.replace("target=f", "target=print").replace("C(),", "'here', ")],
    }[how]
    result = run_program([sys.executable, *command], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    forked = method == "fork"
    expected = {
        "path": f"{'__main__' if forked else '__mp_main__'} True",
        "module": f"{'__main__' if forked else '__mp_main__'} True",
        # There a child has nothing of a __main__.py.
        "package": f"pack.work {forked or mp.__name__ == 'manycore'}",
        "command": "here",
    }[how]
    assert result.stdout.strip() == expected


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_paths_arguments_and_directory_are_the_parents(script, tmp_path, method):
    program = script(f"""
        def tell():
            print(sys.path[-1], sys.argv[-1], os.getcwd(), flush=True)

        def main():
            os.makedirs("elsewhere", exist_ok=True)
            for number in range(2):
                sys.path.append(f"/path{{number}}")
                sys.argv.append(f"argument{{number}}")
                process = mp.get_context({method!r}).Process(target=tell)
                process.start()
                process.join()
                os.chdir({str(tmp_path)!r})
    """)
    assert program.finish() == 0, program.errors
    lines = program.output.decode().splitlines()
    first, second = (line.split() for line in lines)
    assert first[:2] == ["/path0", "argument0"]
    assert second == ["/path1", "argument1", str(tmp_path)]
    os.rmdir(os.path.join(first[2], "elsewhere"))


@pytest.mark.only("manycore", reason="the standard package's functions keep the globals of a module that is gone")
@pytest.mark.parametrize("method", METHODS)
def test_globals_of_the_main_module_are_its_own(script, method):
    program = script(f"""
        counter = 0

        def count():
            global counter
            counter += 1
            print(sys.modules["__main__"].counter, flush=True)

        def main():
            process = mp.get_context({method!r}).Process(target=count)
            process.start()
            process.join()
    """)
    assert program.finish() == 0, program.errors
    assert program.output == b"1\n"


def run_program(command, cwd=None):
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(manycore.__file__))}
    # In a session of its own, so that what the standard package leaves there is taken for an orphan of a program.
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


# --- the zygote ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_zygote_is_replaced(script, number):
    program = script(f"""
        import importlib

        def wait(path):
            with open(path) as file:
                sys.exit(len(file.read()))

        def main():
            server = importlib.import_module(mp.__name__ + ".forkserver")._forkserver
            ctx = mp.get_context("forkserver")
            path = os.path.join(os.path.dirname(__file__), "fifo")
            os.mkfifo(path)
            server.ensure_running()
            before = server._forkserver_pid
            running = ctx.Process(target=wait, args=(path,))
            running.start()
            fifo = open(path, "w")
            os.kill(before, {int(number)})
            if {int(number)} != signal.SIGINT:
                os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
            process = ctx.Process(target=sys.exit, args=(5,))
            process.start()
            process.join()
            print(process.exitcode, server._forkserver_pid == before)
            fifo.write("four")
            fifo.close()
            running.join()
            print(running.exitcode)
    """)
    assert program.finish() == 0, program.errors
    # With the zygote gone nobody was there to collect the status.
    expected = ["5", "True", "4"] if number == signal.SIGINT else ["5", "False", "255"]
    assert program.output.decode().split() == expected


@pytest.mark.only("manycore", reason="the standard package's preloading of the main module came late and by version")
def test_the_main_module_is_imported_once(script):
    program = script("""
        print("imported as", __name__, flush=True)

        def main():
            for _ in range(3):
                process = mp.get_context("forkserver").Process(target=int)
                process.start()
                process.join()
    """)
    assert program.finish() == 0, program.errors
    assert program.output.decode().splitlines() == ["imported as __main__", "imported as __mp_main__"]


def test_preloading(script):
    program = script("""
        def tell():
            print("zipapp" in sys.modules, "no_such_module" in sys.modules, flush=True)

        def main():
            ctx = mp.get_context("forkserver")
            ctx.set_forkserver_preload(["zipapp", "no_such_module"])
            try:
                ctx.set_forkserver_preload([1])
            except TypeError:
                pass
            process = ctx.Process(target=tell)
            process.start()
            process.join()
    """)
    assert program.finish() == 0, program.errors
    assert program.output == b"True False\n"


@pytest.mark.only("manycore", reason="the standard package has it from 3.15 on")
def test_preloading_that_fails(script):
    program = script(
        """
        def main():
            ctx = mp.get_context("forkserver")
            try:
                ctx.set_forkserver_preload([], on_error="shout")
            except ValueError:
                print("ValueError")
            ctx.set_forkserver_preload(["no_such_module"], on_error="fail")
            try:
                ctx.Process(target=int).start()
            except ConnectionError as error:
                print("no_such_module" in str(error), "ModuleNotFoundError" in str(error))
            ctx.set_forkserver_preload(["no_such_module"], on_error="warn")
            process = ctx.Process(target=int)
            process.start()
            process.join()
            print(process.exitcode)
    """,
        environment={"PYTHONWARNINGS": "always"},
    )
    assert program.finish() == 0, program.errors
    assert program.output.decode().split() == ["ValueError", "True", "True", "0"]
    assert b"ImportWarning: forkserver: cannot preload 'no_such_module'" in program.errors


@pytest.mark.only("manycore", reason="the standard package's forked child asks its parent's server")
def test_a_forked_process_has_a_zygote_of_its_own(script):
    program = script("""
        def zygote():
            from manycore.forkserver import _forkserver
            process = mp.get_context("forkserver").Process(target=sys.exit, args=(3,))
            process.start()
            process.join()
            print(_forkserver._forkserver_pid, process.exitcode, flush=True)

        def main():
            zygote()
            pid = os.fork()
            if pid == 0:
                zygote()
                sys.exit()
            os.waitpid(pid, 0)
            zygote()
    """)
    assert program.finish() == 0, program.errors
    first, forked, again = program.output.decode().splitlines()
    assert first == again != forked
    assert {line.split()[1] for line in (first, forked, again)} == {"3"}


def test_the_zygote_ends_with_its_parent(script):
    program = script("""
        def main():
            process = mp.get_context("forkserver").Process(target=int)
            process.start()
            process.join()
            print("ready")
            signal.pause()
    """)
    program.read_line()
    with census.Watch(census.descendants(program.pid)) as watch:
        assert watch.pidfds
        os.kill(program.pid, signal.SIGKILL)
        assert watch.wait_gone() == []
    program.finish()


# --- when there is not enough ---


@pytest.mark.only("manycore", reason="the standard package leaks what it has opened")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("daemon", [False, True])
def test_too_many_open_files(script, method, daemon):
    program = script(f"""
        import errno, resource

        def attempt(ctx):
            process = ctx.Process(target=int, daemon={daemon})
            process.start()
            process.join()
            return process.exitcode

        def main():
            ctx = mp.get_context({method!r})
            assert attempt(ctx) == 0
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            before = sorted(os.listdir("/proc/self/fd"))
            for spare in range(12):
                fillers = []
                resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
                try:
                    while True:
                        fillers.append(os.dup(0))
                except OSError:
                    pass
                for _ in range(spare):
                    os.close(fillers.pop())
                try:
                    print(attempt(ctx))
                except OSError as error:
                    assert error.errno == errno.EMFILE, error
                for filler in fillers:
                    os.close(filler)
                assert sorted(os.listdir("/proc/self/fd")) == before, spare
            assert not mp.active_children()
    """)
    assert program.finish() == 0, program.errors
    # With enough descriptors it works, with none it does not.
    successes = program.output.decode().split()
    assert set(successes) == {"0"}
    assert len(successes) < 12


@pytest.mark.only("manycore", reason="the standard package says nothing more than the system")
def test_the_system_cannot_fork(mp, monkeypatch):
    def refuse():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    before = census.descriptor_kinds()
    process = mp.get_context("fork").Process(target=nothing, name="Unborn", daemon=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        with pytest.raises(BlockingIOError, match="cannot start 'Unborn' by fork"):
            process.start()
    assert census.descriptor_kinds() == before
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.only("manycore", reason="the standard package tells by an exit code")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_an_executable_that_is_not_there(script, method):
    program = script(f"""
        def main():
            first = mp.get_context("fork").Process(target=int)
            first.start()
            first.join()
            first.close()  # what is left is kept for the life of the program
            mp.set_executable("/no/such/python")
            before = sorted(os.listdir("/proc/self/fd"))
            process = mp.get_context({method!r}).Process(target=int, daemon=True)
            try:
                process.start()
            except FileNotFoundError as error:
                print(error.filename)
            assert sorted(os.listdir("/proc/self/fd")) == before
    """)
    assert program.finish() == 0, program.errors
    assert program.output == b"/no/such/python\n"


@pytest.mark.only("manycore", reason="the standard package waits for ever or says BrokenPipeError")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_an_executable_that_ends_at_once(script, method):
    program = script(f"""
        def main():
            mp.set_executable("/bin/true")
            process = mp.get_context({method!r}).Process(target=len, args=(bytes(1_000_000),))
            try:
                process.start()
            except ConnectionError as error:
                print("/bin/true" in str(error))
            else:
                process.join()
                print(process.exitcode)
    """)
    assert program.finish() == 0, program.errors
    assert program.output == (b"0\n" if method == "spawn" else b"True\n")
