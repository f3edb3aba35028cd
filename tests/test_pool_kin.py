"""What a task has started ends with the task when the pool ends it: by a time limit, `cancel`, `terminate`."""

import contextlib
import os
import select
import signal
import subprocess
import time

import pytest

import manycore

pytestmark = pytest.mark.only(
    "manycore", reason="there nothing ends a task but its worker's death, and nothing its kin"
)


def beget(path, how):
    """Start a process, note its number, and wait for it; where it is one of a process of its own, the numbers of both."""
    if how == "process":
        process = manycore.get_context("fork").Process(target=beget, args=(path, "child"))
        process.start()
        process.join()
    child = subprocess.Popen(["sleep", "1000"], start_new_session=how == "session")
    numbers = [os.getpid(), child.pid] if how == "child" else [child.pid]
    path.with_suffix(".new").write_text(" ".join(map(str, numbers)))
    os.rename(path.with_suffix(".new"), path)
    child.wait()


def leave(_):
    return subprocess.Popen(["sleep", "1000"]).pid


def pidfds(path):
    """The processes that were noted, and have not ended, yet."""
    while not path.exists():
        time.sleep(0.001)
    found = []
    for number in path.read_text().split():
        with contextlib.suppress(ProcessLookupError):
            found.append(os.pidfd_open(int(number)))
    return found


def ends(pidfd):
    """Wait until a process has ended and somebody has taken note of that; this process if the parent is gone."""
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        try:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
            signal.pidfd_send_signal(pidfd, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.001)
    return False


def let_a_tick_pass():
    """The kernel tells when a process was started in hundredths of a second."""
    begin = time.monotonic()
    while time.monotonic() < begin + 0.03:
        time.sleep(0.001)


@pytest.mark.parametrize("how", ["child", "session", "process"])
@pytest.mark.parametrize("end", ["cancel", "task_timeout", "terminate"])
def test_processes_of_a_task_that_is_ended(ctx, tmp_path, end, how):
    pool, started = ctx.Pool(2), []
    kept = [os.pidfd_open(pid) for pid in pool.map(leave, range(4), chunksize=1)]
    try:
        let_a_tick_pass()
        path = tmp_path / "numbers"
        options = {"task_timeout": 0.5} if end == "task_timeout" else {}
        result = pool.apply_async(beget, (path, how), **options)
        if end == "task_timeout":
            # The limit may pass before the number is noted, on a busy machine.
            with pytest.raises(manycore.TaskTimeout):
                result.get()
            started = pidfds(path) if path.exists() else []
        else:
            started = pidfds(path)
            getattr(result if end == "cancel" else pool, end)()
        assert all(map(ends, started))
        # What earlier tasks have started is theirs, or the program's by now.
        assert not select.select(kept, [], [], 0)[0]
        if end != "terminate":
            assert pool.apply(abs, (-1,)) == 1
    finally:
        pool.terminate()
        pool.join()
        for pidfd in kept:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            assert ends(pidfd)
        for pidfd in kept + started:
            os.close(pidfd)
