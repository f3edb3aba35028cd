"""What happens to a pool from outside: its parent is killed, or the machine has no more to give."""

import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest

from support import census

HANGS = "the standard package waits for ever for the task of a worker that died"
only_manycore = pytest.mark.only("manycore", reason=HANGS)

# --- the parent dies ---

PARENT = """
def main():
    method, state = sys.argv[1:]
    pool = mp.get_context(method).Pool(2)
    print(*[process.pid for process in pool._pool])
    if state == "idle":
        assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
        print("ready")
    elif state == "waiting":
        pool.map_async(tasks.say_and_wait, ["ready"])
    elif state == "spinning":
        pool.map_async(tasks.spin_for_ever, range(2), chunksize=1)
        print("ready")
    elif state == "queue":
        results = [pool.apply_async(tasks.identity, (bytes(100000),)) for _ in range(500)]
        print("ready")
    tasks.wait_for_ever()
"""


@pytest.mark.only("manycore", reason="busy workers of the standard package outlive their parent")
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("state", ["idle", "waiting", "spinning", "queue"])
def test_parent_killed(script, method, state):
    running = script(PARENT, arguments=[method, state])
    running.read_pids()
    assert running.read_line() == "ready"
    with census.Watch(running.family()) as watch:
        os.kill(running.pid, signal.SIGKILL)
        assert watch.wait_gone() == [], "workers and servers outlive their parent"
    assert running.finish() == -signal.SIGKILL
    assert running.orphans() == {}


@pytest.mark.only("manycore", reason="workers of the standard package may not have children")
def test_parent_killed_with_nested_pools(script):
    running = script(
        """
        def inner(_):
            pool = mp.Pool(2)
            pool.map_async(tasks.wait_for_ever, range(2), chunksize=1)
            os.write(1, b"ready\\n")
            tasks.wait_for_ever()

        def main():
            pool = mp.Pool(2)
            pool.map(inner, range(2), chunksize=1)
        """
    )
    running.read_line()
    running.read_line()
    with census.Watch(running.family()) as watch:
        os.kill(running.pid, signal.SIGKILL)
        assert watch.wait_gone() == []
    running.finish()
    assert running.orphans() == {}


# --- the machine says no ---


@pytest.mark.only("manycore", reason="the standard package leaks what it had opened")
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_no_descriptors_left(script, method):
    """EMFILE while a pool is made: a clear OSError, nothing leaked, and the next pool works when there is room again."""
    running = script(
        """
        import errno, resource
        from support import census

        def main():
            method = sys.argv[1]
            context = mp.get_context(method)
            with context.Pool(2) as pool:
                pool.map(tasks.square, [1, 2])
            pool.join()
            del pool
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            before = census.descriptor_kinds()
            failures = 0
            for room in range(0, 40):
                top = max(before) + 1
                resource.setrlimit(resource.RLIMIT_NOFILE, (top + room, hard))
                try:
                    with context.Pool(2) as pool:
                        result = pool.map(tasks.square, range(10))
                    pool.join()
                    assert result == [n * n for n in range(10)]
                    break
                except OSError as error:
                    failures += 1
                    assert error.errno in (errno.EMFILE, errno.ENFILE), error
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                    pool = None
                error = None
                assert census.eventually(lambda: len(census.descriptor_kinds()) <= len(before)), census.descriptor_kinds()
                left = census.eventually(lambda: mp.active_children() == [])
                assert left, mp.active_children()
            assert failures > 0
            with context.Pool(2) as pool:
                assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
            pool.join()
            print("done")
        """,
        arguments=[method],
    )
    code = running.finish()
    assert (code, running.output) == (0, b"done\n"), running.errors.decode()
    assert running.orphans() == {}


@pytest.mark.only(
    "manycore", reason="its results need no descriptors; the standard package opens none for a task either"
)
def test_descriptors_run_out_while_tasks_run(script):
    """A pool that exists goes on answering when no new descriptor can be had, or says OSError; it never hangs."""
    running = script(
        """
        import resource
        from support import census

        def main():
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with mp.Pool(2) as pool:
                assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
                resource.setrlimit(resource.RLIMIT_NOFILE, (max(census.descriptor_kinds()) + 1, hard))
                assert pool.map(tasks.square, range(1000)) == [n * n for n in range(1000)]
                for size in (100, 100_000, 20_000_000):
                    try:
                        assert len(pool.apply(tasks.identity, (bytes(size),))) == size
                    except OSError as error:
                        print("OSError", error.errno)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                assert len(pool.apply(tasks.identity, (bytes(20_000_000),))) == 20_000_000
            pool.join()
            print("done")
        """
    )
    code = running.finish()
    assert code == 0, running.errors.decode()
    assert running.output.endswith(b"done\n")
    assert running.orphans() == {}


WITHOUT_SHM = """
def main():
    with mp.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map(tasks.square, range(100)) == [n * n for n in range(100)]
        for size in (100, 100_000, 20_000_000):
            assert len(pool.apply(tasks.identity, (bytes(size),))) == size
    pool.join()
    print("done")
"""


def private_mounts():
    """Whether this machine lets us have mounts of our own."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    command = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=4k none /dev/shm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


@pytest.mark.only("manycore", reason="locks of the standard package live in /dev/shm")
@pytest.mark.parametrize("state", ["full", "read-only", "missing"])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_without_shm(script, state, method):
    if reason := private_mounts():
        pytest.skip(f"no private mounts: {reason}")
    prepare = {
        "full": "mount -t tmpfs -o size=4k none /dev/shm && head -c 4096 /dev/zero > /dev/shm/full",
        "read-only": "mount -t tmpfs -o ro none /dev/shm",
        # An empty /dev in front of the real one, with what an interpreter needs.
        "missing": "mkdir -p $TMPDIR/dev && mount -t tmpfs none $TMPDIR/dev && cd $TMPDIR/dev && touch null zero urandom random "
        "&& for f in null zero urandom random; do mount --bind /dev/$f $f; done && mount --bind $TMPDIR/dev /dev "
        "&& test ! -e /dev/shm && cd /",
    }[state]
    running = script(
        WITHOUT_SHM, arguments=[method], prefix=["unshare", "-m", "sh", "-c", prepare + ' && exec "$@"', "sh"]
    )
    code = running.finish()
    assert (code, running.output) == (0, b"done\n"), running.errors.decode()
    assert running.orphans() == {}


def test_a_process_limit(script):
    """fork says EAGAIN: an OSError from Pool(), no half pool left behind. Root has no such limit, hence another user."""
    if os.getuid() != 0:
        pytest.skip("needs root to become a user without processes")
    running = script(
        """
        import resource

        def main():
            # Everything is imported by this: the new user may not be able to read it.
            with mp.get_context("fork").Pool(1) as pool:
                pool.map(tasks.square, [1])
            pool.join()
            os.setuid(54321)
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
            try:
                mp.get_context("fork").Pool(2)
            except OSError as error:
                print(type(error).__name__)
        """
    )
    assert running.finish() == 0
    assert running.output == b"BlockingIOError\n"
    assert running.orphans() == {}


def test_core_files_are_off():
    """The deaths above must not fill the disk."""
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    assert sys.platform == "linux"
