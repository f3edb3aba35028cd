"""Children of daemonic processes: they work as anybody's, and none of them outlives the daemonic process."""

import importlib
import os
import signal

import pytest

from support import census, tasks

METHODS = ("fork", "spawn", "forkserver")

ONLY = pytest.mark.only("manycore", reason="there a daemonic process may not have children: they would stay behind")


# --- what a daemonic process can do ---


def use_a_pool(name, method, path):
    ctx = importlib.import_module(name).get_context(method)
    with ctx.Pool(2) as pool:
        done = pool.map(tasks.square, range(10)), pool.apply_async(tasks.add, (1, 2)).get()
    pool.join()
    report(path, done)


def use_processes(name, method, path):
    ctx = importlib.import_module(name).get_context(method)
    queue = ctx.Queue()
    children = [ctx.Process(target=queue.put, args=(number,), daemon=number % 2 == 0) for number in range(4)]
    for child in children:
        child.start()
    got = sorted(queue.get() for _ in children)
    for child in children:
        child.join()
    report(path, (got, [child.exitcode for child in children], [child.daemon for child in children]))


def use_a_manager(name, method, path):
    ctx = importlib.import_module(name).get_context(method)
    with ctx.Manager() as manager:
        shared = manager.list([1, 2])
        child = ctx.Process(target=shared.append, args=(3,))
        child.start()
        child.join()
        report(path, list(shared))


def use_a_daemon_again(name, method, path):
    ctx = importlib.import_module(name).get_context(method)
    child = ctx.Process(target=use_a_pool, args=(name, method, path))
    child.start()
    child.join()
    assert child.daemon and child.exitcode == 0


def report(path, what):
    with open(path, "w") as file:
        file.write(repr(what))


@ONLY
@pytest.mark.parametrize(
    "work, wanted",
    [
        (use_a_pool, ([n * n for n in range(10)], 3)),
        (use_processes, ([0, 1, 2, 3], [0] * 4, [True, False, True, False])),
        (use_a_manager, [1, 2, 3]),
        (use_a_daemon_again, ([n * n for n in range(10)], 3)),
    ],
)
def test_a_daemonic_process_has_children(mp, ctx, tmp_path, work, wanted):
    path = tmp_path / "report"
    process = ctx.Process(target=work, args=(mp.__name__, ctx.get_start_method(), str(path)), daemon=True)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert path.read_text() == repr(wanted)


@ONLY
def test_a_child_of_a_daemonic_process_is_daemonic_unless_it_is_told_otherwise(mp, ctx, tmp_path):
    path = tmp_path / "report"
    process = ctx.Process(target=look_at_children, args=(mp.__name__, str(path)), daemon=True)
    process.start()
    process.join()
    assert path.read_text() == repr((True, False))


def look_at_children(name, path):
    mp = importlib.import_module(name)
    report(path, (mp.Process().daemon, mp.Process(daemon=False).daemon))


# --- nobody stays behind ---

# A daemonic process; of it a daemonic child, one that is not, and a busy worker of a pool; and under the child that is
# not daemonic another such. Each says who it is; the parent prints that, and then `then`.
TREE = """
    def tell(path):
        with open(path, "a") as file:
            file.write(f"{{os.getpid()}}\\n")

    def be_busy(path):
        tell(path)
        # Busy in one call into C that never looks for signals of Python's.
        sum(range(10**15))

    def sleep(path):
        tell(path)
        signal.pause()

    def have_a_child(path):
        child = ctx().Process(target=be_busy, args=(path,), daemon=False)
        child.start()
        sleep(path)

    def be_a_daemon(path):
        ctx().Process(target=be_busy, args=(path,), daemon=True).start()
        ctx().Process(target=have_a_child, args=(path,), daemon=False).start()
        pool = ctx().Pool(1)
        pool.apply_async(be_busy, (path,))
        {hack}
        sleep(path)

    def ctx():
        return mp.get_context({method!r})

    def main():
        # Inherited by the children; pending until somebody waits for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        path = os.path.join(os.path.dirname(__file__), "pids")
        process = ctx().Process(target=be_a_daemon, args=(path,), daemon=True)
        process.start()
        print(path, process.pid)
        {then}
"""


def tree(script, method, then="signal.pause()", hack="", size=5):
    """Starts it; the script, the daemonic process, and everybody in it with that."""
    program = script(TREE.format(method=method, then=then, hack=hack))
    path, daemon = program.read_line().split()

    def pids():
        if not os.path.exists(path):
            return None
        with open(path) as file:
            lines = file.read().splitlines()
        return [int(line) for line in lines] if len(lines) == size else None

    return program, int(daemon), census.eventually(pids, 40)


@ONLY
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_all_of_them_end_with_a_killed_daemon(script, method, number):
    program, daemon, pids = tree(script, method, then="process.join(); print('joined')")
    with census.Watch(pids) as watch:
        os.kill(daemon, number)
        assert watch.wait_gone() == []
    assert program.read_line() == "joined"
    assert program.finish() == 0
    assert program.orphans() == {}


@ONLY
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_all_of_them_end_with_the_killed_parent_of_the_daemon(script, method, number):
    program, _, pids = tree(script, method)
    with census.Watch(pids) as watch:
        os.kill(program.pid, number)
        assert watch.wait_gone() == []
    program.finish()
    assert program.orphans() == {}


@ONLY
@pytest.mark.parametrize("method", METHODS)
def test_all_of_them_end_when_the_parent_exits(script, method):
    program, _, pids = tree(script, method, then="signal.sigwait([signal.SIGUSR1])")
    with census.Watch(pids) as watch:
        os.kill(program.pid, signal.SIGUSR1)
        assert program.finish() == 0, program.errors
        assert watch.wait_gone() == []
    assert program.orphans() == {}


@ONLY
@pytest.mark.parametrize("method", METHODS)
def test_a_daemon_that_calls_itself_none_leaves_nobody(script, method):
    """What programs do where daemonic processes may not have children: it must not cost them the guarantee."""
    hack = """mp.current_process()._config["daemon"] = False
        ctx().Process(target=be_busy, args=(path,)).start()"""
    program, daemon, pids = tree(script, method, then="process.join()", hack=hack, size=6)
    with census.Watch(pids) as watch:
        os.kill(daemon, signal.SIGKILL)
        assert watch.wait_gone() == []
    assert program.finish() == 0
    assert program.orphans() == {}


# --- a daemonic process that ends by itself ---


EXIT = """
    def sleep(ready):
        ready.set()
        signal.pause()

    def finish(release):
        release.wait()

    def be_a_daemon(ready, release):
        ctx = mp.get_context({method!r})
        sleeper = ctx.Process(target=sleep, args=(ready,), daemon=True)
        sleeper.start()
        other = ctx.Process(target=finish, args=(release,), daemon=False)
        other.start()
        ready.wait()
        print(sleeper.pid, other.pid)

    def main():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        ctx = mp.get_context({method!r})
        ready, release = ctx.Event(), ctx.Event()
        process = ctx.Process(target=be_a_daemon, args=(ready, release), daemon=True)
        process.start()
        signal.sigwait([signal.SIGUSR1])
        print(process.is_alive())
        release.set()
        process.join()
        print(process.exitcode)
"""


@ONLY
@pytest.mark.parametrize("method", METHODS)
def test_at_its_exit_its_daemons_are_terminated_and_the_others_awaited(script, method):
    program = script(EXIT.format(method=method))
    sleeper, other = program.read_pids()
    with census.Watch([other]) as others:
        # The daemonic process is at its end: the one child is gone, the other is awaited.
        assert census.eventually(lambda: census.stat_fields(sleeper) is None)
        os.kill(program.pid, signal.SIGUSR1)
        assert program.read_line() == "True"
        assert program.read_line() == "0"
        assert others.wait_gone() == []
    assert program.finish() == 0
    assert program.orphans() == {}
