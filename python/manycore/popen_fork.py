"""Starting a child by fork; and what the handles of all start methods have in common.

A `Popen` is the parent's half of a running child: its number, the descriptor that says when it ends, its exit code.
Waiting is done on a pidfd, so it needs no polling, and `select` and event loops can do it too.

**The lifeline.** A daemonic child must not outlive its parent, even if the parent is killed and the child is busy in
C code. Nor must any process that descends from a daemonic one, daemonic or not: nothing would be left that could end
it. So each of these has a pipe: the parent holds the write end and never writes; the child has asked the kernel to
signal its read end's events with SIGKILL. When the parent ends, however it ends, the kernel closes the write end and
kills the child. Each child has a pipe of its own, because the request belongs to the open file, not to the descriptor.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import fcntl
import os
import select
import sys

from . import _main_module, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .process import BaseProcess

__all__ = ["Popen"]

# What is reported for a child whose exit status nobody can know: another part of the program reaped it, the program
# ignores SIGCHLD, so that the kernel keeps no status, or the zygote it came from was killed.
UNKNOWN_EXITCODE = 255


class Popen:
    """The handle of a child started by fork. OSError if the system cannot make one."""

    method = "fork"

    def __init__(self, process_obj: BaseProcess) -> None:
        util._flush_std_streams()
        self.returncode: int | None = None
        # Whether `returncode` only stands for an end that nobody can know.
        self.status_lost = False
        self.finalizer: util.Finalize | None = None
        self.pid: int
        self.sentinel: int
        self._lock = _thread.allocate_lock()
        self._owner = os.getpid()
        self._kept: list[object] = []
        self._launch(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Return what stands for `fd` in the child; a forked child has it under the same number."""
        return fd

    def keep_for_child(self, obj: object) -> None:
        """Hold `obj` until the child has ended: what the child was given refers to it by a name alone."""
        self._kept.append(obj)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code if the child has finished. With `flag` 0, wait until it has.

        In any process but the parent that is None for ever: the child is not theirs.
        """
        if (
            self.returncode is None
            and self._owner == os.getpid()
            and util.wait_readable(self.sentinel, None if flag == 0 else 0)
        ):
            # Two threads may both have seen it end; only one can collect the status.
            with self._lock:
                if self.returncode is None:
                    self.returncode = self._collect()
            # Outside of the lock: what goes may take its time.
            self._kept.clear()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the child has finished, for `timeout` seconds at most. Returns its exit code or None."""
        if self.returncode is None and self._owner == os.getpid():
            util.wait_readable(self.sentinel, timeout)
        return self.poll()

    def _collect(self) -> int | None:
        """Return the exit code of the child, which has ended, and let the kernel forget it."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            self.status_lost = True
            return UNKNOWN_EXITCODE
        # A tracer may see it before we do; the next poll will ask again.
        return os.waitstatus_to_exitcode(status) if pid == self.pid else None

    def _send_signal(self, sig: int) -> None:
        if self.returncode is None and self._owner != os.getpid():
            # A copy of this object in a forked process: the pidfd stayed with the parent.
            os.kill(self.pid, sig)
        elif self.returncode is None:
            try:
                # By pidfd, not by number: a number may already belong to somebody else.
                _signal.pidfd_send_signal(self.sentinel, sig)
            except ProcessLookupError:
                pass
            except OSError:
                # A child that changed its user may be out of our reach; one that has just ended is no error.
                if self.wait(timeout=0.1) is None:
                    raise

    def interrupt(self) -> None:
        """Send SIGINT."""
        self._send_signal(_signal.SIGINT)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send_signal(_signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send_signal(_signal.SIGKILL)

    def _launch(self, process_obj: BaseProcess) -> None:
        held: list[int] = []
        try:
            util.family()
            lifeline, parent_ends = self._open_lifeline(process_obj, held)
            whole = _main_module.before_fork()
            pid = util.fork_keeping(() if lifeline is None else (lifeline,))
            if pid == 0:
                _main_module.after_fork(whole)
                _run_forked(process_obj, lifeline)
            self._adopt(pid)
            self._keep_proxies(process_obj)
        except OSError as error:
            util.close_fds(*held)
            raise OSError(error.errno, f"cannot start {process_obj._name!r} by fork: {error.strerror}") from None
        if lifeline is not None:
            util.close_fds(lifeline)
        self._own(self.sentinel, *parent_ends)

    def _keep_proxies(self, process_obj: BaseProcess) -> None:
        """Hold the managers' proxies in the arguments: the child takes references of its own only when it runs."""
        proxies = sys.modules.get(f"{__package__}._manager_proxies")
        if proxies is not None:
            for value in (*process_obj._args, *process_obj._kwargs.values()):
                if isinstance(value, proxies.BaseProxy):
                    self.keep_for_child(value)

    def _open_lifeline(self, process_obj: BaseProcess, held: list[int]) -> tuple[int | None, tuple[int, ...]]:
        """Return the child's end of its lifeline, None if it needs none, and the parent's, all added to `held`."""
        if not process_obj._config.get("tied"):
            return None, ()
        ends = util.private_pipe()
        held += ends
        return ends[0], ends[1:]

    def _adopt(self, pid: int) -> None:
        """Take over the new child `pid`: open its pidfd. If that fails there is no child afterwards."""
        try:
            self.sentinel = os.pidfd_open(pid)
        except ProcessLookupError:
            # It has ended, and as the program ignores SIGCHLD nothing is left of it.
            self.sentinel = util.ended_sentinel()
        except OSError:
            try:
                os.kill(pid, _signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
            raise
        self.pid = pid

    def _own(self, *fds: int) -> None:
        """Hold descriptors for as long as this object is not closed."""
        util.make_private(*fds)
        self.finalizer = util.Finalize(self, util.close_fds, fds)

    def close(self) -> None:
        """Close the descriptors. A child with a lifeline that still runs is killed by this: its lifeline ends."""
        if self.finalizer is not None and self._owner == os.getpid():
            self.finalizer()


def _run_forked(process_obj: BaseProcess, lifeline: int | None) -> None:
    """Be the child of `os.fork`. Does not return."""

    def run() -> int:
        if lifeline is not None:
            hang_on(lifeline)
        return process_obj._bootstrap()

    run_and_exit(run)


def run_and_exit(run: Callable[[], int]) -> None:
    """Be a forked child: exit with the code that `run` returns. Does not return.

    What was forked is a copy of the parent in the midst of its program; nothing may let it go on with that.
    """
    import atexit

    code = 1
    # From 3.13 on CPython's forked children run the exit handlers that they have registered.
    run_atexit = sys.version_info >= (3, 13)
    try:
        # Two rounds of it, as Ctrl-C may come when the first has just begun to end.
        try:
            if run_atexit:
                # Those inherited are the parent's own.
                atexit._clear()
                atexit.register(util._exit_function)
            code = run()
        finally:
            if run_atexit:
                atexit._run_exitfuncs()
                util._flush_std_streams()
    finally:
        os._exit(code)


def hang_on(lifeline: int) -> None:
    """Have the kernel kill this process as soon as nobody holds the write end of its lifeline.

    `lifeline` is the read end; it stays open for the life of the process, and no child of it inherits it.
    """
    util.make_private(lifeline)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, _signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
    # The parent may have ended before we asked.
    poller = select.poll()
    poller.register(lifeline, 0)
    if poller.poll(0):
        os._exit(UNKNOWN_EXITCODE)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
