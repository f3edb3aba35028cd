"""The process object: what a child is to its parent, and what it is to itself.

A process object knows *what* to run and what became of it. *How* the child comes into being is the business of the
`Popen` class its context chooses (`popen_fork`, `popen_spawn_posix`, `popen_forkserver`).

This module is loaded by every `import manycore`, so it imports only what the interpreter has already loaded at
start-up; everything else is imported by the function that needs it.
"""

from __future__ import annotations

import itertools
import os
import sys
from _weakrefset import WeakSet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

__all__ = ["BaseProcess", "active_children", "current_process", "parent_process"]

# The directory the program was started in. A spawned child sees '' in sys.path as this directory.
try:
    ORIGINAL_DIR: str | None = os.path.abspath(os.getcwd())
except OSError:
    ORIGINAL_DIR = None


def current_process() -> BaseProcess:
    """Return the process object of the running process."""
    return _current_process


def parent_process() -> _ParentProcess | None:
    """Return an object standing for the parent, or None in the main process.

    That object has `is_alive()` and `join()`; the parent cannot be terminated through it.
    """
    return _parent_process


def active_children() -> list[BaseProcess]:
    """Return the children that still run. Those found finished are reaped on the way."""
    _cleanup()
    return list(_children)


def _cleanup() -> None:
    """Reap every child that has finished."""
    for child in list(_children):
        popen = child._popen
        if popen and popen.poll() is not None:
            _children.discard(child)


class BaseProcess:
    """One activity run in a process of its own; the common part of every context's `Process`.

    `target(*args, **kwargs)` is what `run` calls in the child; a subclass may override `run` instead. `name` is a
    label (`Process-1`, `Process-1:2` for the second child of the first, when None). `daemon` None means "as the
    creator is": a daemonic child is terminated when its parent exits, and dies with it if the parent is killed. A
    daemonic process may have children; each of them dies with it, also one that is not daemonic.
    """

    _start_method: str | None = None

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        raise NotImplementedError("BaseProcess cannot be started: use the Process class of a context")

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
        *,
        daemon: bool | None = None,
    ) -> None:
        if group is not None:
            raise AssertionError("group argument must be None: it exists only to match threading.Thread")
        creator = _current_process
        self._identity: tuple[int, ...] = (*creator._identity, next(_process_counter))
        self._config: dict[str, Any] = creator._config.copy()
        self._parent_pid: int | None = os.getpid()
        self._parent_name: str = creator.name
        self._popen: Any = None
        self._closed = False
        self._target = target
        self._args: tuple[Any, ...] = tuple(args)
        self._kwargs: dict[str, Any] = dict(kwargs)
        self._name: str = name or f"{type(self).__name__}-{':'.join(map(str, self._identity))}"
        if daemon is not None:
            self.daemon = daemon
        _dangling.add(self)

    def _check_closed(self) -> None:
        if self._closed:
            raise ValueError("process object is closed")

    def _check_own_child(self, action: str) -> None:
        if self._parent_pid != os.getpid():
            raise AssertionError(f"can only {action} a child process")

    def run(self) -> None:
        """Do the work, in the child. Calls `target`; made to be overridden."""
        if self._target:
            self._target(*self._args, **self._kwargs)

    def start(self) -> None:
        """Start the child. At most once for each object.

        Raises AssertionError if it was started before or belongs to another process; OSError if the system cannot
        make a process; what pickling raises, under spawn and forkserver.
        """
        self._check_closed()
        if self._popen is not None:
            raise AssertionError("cannot start a process twice")
        if self._parent_pid != os.getpid():
            raise AssertionError("can only start a process object created by current process")
        if self.daemon:
            # Children copy this, so all that descends from a daemon ends with it, daemonic or not.
            self._config["tied"] = True
        _cleanup()
        self._popen = self._Popen(self)
        self._sentinel: int = self._popen.sentinel
        # The child has its own copy; kept here, the arguments would live as long as this object.
        del self._target, self._args, self._kwargs
        _children.add(self)

    def interrupt(self) -> None:
        """Send the child SIGINT: a Python child raises KeyboardInterrupt."""
        self._check_closed()
        self._popen.interrupt()

    def terminate(self) -> None:
        """Send the child SIGTERM."""
        self._check_closed()
        self._popen.terminate()

    def kill(self) -> None:
        """Send the child SIGKILL."""
        self._check_closed()
        self._popen.kill()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the child has finished, at most `timeout` seconds. `exitcode` tells which it was."""
        self._check_closed()
        self._check_own_child("join")
        if self._popen is None:
            raise AssertionError("can only join a started process")
        if self._popen.wait(timeout) is not None:
            _children.discard(self)

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        self._check_closed()
        if self is _current_process:
            return True
        self._check_own_child("test")
        if self._popen is None:
            return False
        if self._popen.poll() is None:
            return True
        _children.discard(self)
        return False

    def close(self) -> None:
        """Give back what the object holds. ValueError while the child runs; afterwards most methods raise it."""
        if self._popen is not None:
            if self._popen.poll() is None:
                raise ValueError("cannot close a process while it is still running: join() or terminate() it first")
            self._popen.close()
            self._popen = None
            del self._sentinel
            _children.discard(self)
        self._closed = True

    @property
    def name(self) -> str:
        """A label. Several processes may share one."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        if not isinstance(name, str):
            raise AssertionError(f"name must be a string, not {type(name).__name__}")
        self._name = name

    @property
    def daemon(self) -> bool:
        """Whether the child ends with its parent. Settable until the process is started."""
        return self._config.get("daemon", False)

    @daemon.setter
    def daemon(self, daemonic: bool) -> None:
        if self._popen is not None:
            raise AssertionError("process has already started")
        self._config["daemon"] = daemonic

    @property
    def authkey(self) -> bytes:
        """The secret that connections between related processes are authenticated with."""
        return self._config["authkey"]

    @authkey.setter
    def authkey(self, authkey: bytes) -> None:
        self._config["authkey"] = AuthenticationString(authkey)

    @property
    def exitcode(self) -> int | None:
        """None until the child has finished, then its exit code, or minus the number of the signal that ended it."""
        self._check_closed()
        return self._popen and self._popen.poll()

    @property
    def ident(self) -> int | None:
        """The process id, None before `start`."""
        self._check_closed()
        if self is _current_process:
            return os.getpid()
        return self._popen and self._popen.pid

    pid = ident

    @property
    def sentinel(self) -> int:
        """A file descriptor that becomes readable when the process ends (on Linux a pidfd).

        Raises ValueError before `start`.
        """
        self._check_closed()
        try:
            return self._sentinel
        except AttributeError:
            raise ValueError("process not started") from None

    def __repr__(self) -> str:
        exitcode = None
        if self is _current_process:
            status = "started"
        elif self._closed:
            status = "closed"
        elif self._parent_pid != os.getpid():
            status = "unknown"
        elif self._popen is None:
            status = "initial"
        else:
            exitcode = self._popen.poll()
            status = "started" if exitcode is None else "stopped"
        parts = [type(self).__name__, f"name={self._name!r}"]
        if self._popen is not None:
            parts.append(f"pid={self._popen.pid}")
        parts += [f"parent={self._parent_pid}", status]
        if exitcode is not None:
            parts.append(f"exitcode={_exitcode_name(exitcode)}")
        if self.daemon:
            parts.append("daemon")
        return f"<{' '.join(parts)}>"

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        """Become this process, run it, and return the exit code. Called once, in the child.

        `parent_sentinel` is a descriptor that becomes readable when the parent ends; None when the parent is our
        parent in the kernel's eyes too, which then can be asked directly.
        """
        from . import context, util

        global _current_process, _parent_process, _process_counter, _children
        exitcode = 1
        try:
            if self._start_method is not None:
                context._force_start_method(self._start_method)
            _process_counter = itertools.count(1)
            _children = set()
            util._close_stdin()
            # Kept alive until the after-fork callbacks have run: they may look at what it still refers to.
            forked_from = _current_process
            _current_process = self
            _parent_process = _ParentProcess(self._parent_name, self._parent_pid, parent_sentinel)
            threading = sys.modules.get("threading")
            if threading is not None and threading._HAVE_THREAD_NATIVE_ID:  # type: ignore[attr-defined]
                threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
            self._after_fork()
            del forked_from
            if "logging" in sys.modules:
                util._name_log_records()
            util.info("child process calling self.run()")
            try:
                self.run()
            finally:
                util._exit_function()
            exitcode = 0
        except SystemExit as error:
            exitcode = _exitcode_of(error)
        except BaseException:
            import traceback

            if sys.stderr is not None:
                sys.stderr.write(f"Process {self._name}:\n")
                traceback.print_exc()
        finally:
            # Looked up again: run() may have been the first to import it.
            threading = sys.modules.get("threading")
            if threading is not None:
                threading._shutdown()  # type: ignore[attr-defined]
            util.info("process exiting with exitcode %d", exitcode)
            util._flush_std_streams()
        return exitcode

    @staticmethod
    def _after_fork() -> None:
        """Forget, in the child, what the parent meant for itself."""
        from . import util

        util._finalizer_registry.clear()
        util._run_after_forkers()
        if "multiprocessing.util" in sys.modules:
            from . import _standard

            _standard.enter_child()


def _exitcode_of(error: SystemExit) -> int:
    """Return the exit code `sys.exit` meant: None is 0, an integer itself, anything else is a message and 1."""
    code = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        # The kernel keeps eight bits. Masking here keeps an integer of any size from failing in os._exit.
        return int(code) & 0xFF
    if sys.stderr is not None:
        sys.stderr.write(f"{code}\n")
    return 1


class _ExitcodeNames(dict[int, str]):
    """`-SIGTERM` for -15, as a table that is made when somebody looks."""

    def __missing__(self, exitcode: int) -> str:
        name = _exitcode_name(exitcode)
        if exitcode >= 0 or name == str(exitcode):
            raise KeyError(exitcode)
        return name

    def get(self, exitcode: int, default: Any = None) -> Any:
        """Return the name for an exit code, `default` if there is none."""
        try:
            return self[exitcode]
        except KeyError:
            return default


_exitcode_to_name = _ExitcodeNames()


def _exitcode_name(exitcode: int) -> str:
    """Return `-SIGTERM` for -15; other numbers as they are."""
    if exitcode < 0:
        import signal

        try:
            return f"-{signal.Signals(-exitcode).name}"
        except ValueError:
            pass
    return str(exitcode)


class AuthenticationString(bytes):
    """A key. It can be pickled only as part of starting a process, so that it is not stored or sent by mistake."""

    def __reduce__(self) -> tuple[Any, ...]:
        from .context import get_spawning_popen

        if get_spawning_popen() is None:
            raise TypeError(
                "pickling an AuthenticationString is disallowed for security reasons: "
                "it travels only to a child process being started"
            )
        return AuthenticationString, (bytes(self),)


class _ParentProcess(BaseProcess):
    """The parent, seen from the child."""

    def __init__(self, name: str, pid: int | None, sentinel: int | None) -> None:
        self._identity = ()
        self._name = name
        self._pid = pid
        self._parent_pid = None
        self._popen = None
        self._closed = False
        self._config = {}
        if sentinel is not None:
            self._sentinel = sentinel

    def _gone(self) -> bool:
        """Return whether the kernel has given us another parent, which it does when ours ends."""
        return os.getppid() != self._pid

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the parent ends. OSError if it has ended already."""
        if "_sentinel" not in self.__dict__:
            fd = os.pidfd_open(self._pid)  # type: ignore[arg-type]
            # Opening by number is safe only if the number still was our parent's afterwards.
            if self._gone():
                os.close(fd)
                raise ProcessLookupError(f"the parent process {self._pid} has ended")
            self._sentinel = fd
        return self._sentinel

    def is_alive(self) -> bool:
        """Return whether the parent runs."""
        if "_sentinel" not in self.__dict__:
            return not self._gone()
        from .util import wait_readable

        return not wait_readable(self._sentinel, 0)

    @property
    def ident(self) -> int | None:
        """The parent's process id."""
        return self._pid

    pid = ident

    def join(self, timeout: float | None = None) -> None:
        """Wait until the parent has ended, at most `timeout` seconds."""
        from .util import wait_readable

        try:
            wait_readable(self.sentinel, timeout)
        except ProcessLookupError:
            pass


class _MainProcess(BaseProcess):
    """The process that nobody of ours started."""

    def __init__(self) -> None:
        self._identity = ()
        self._name = "MainProcess"
        self._parent_pid = None
        self._popen = None
        self._closed = False
        # The standard package's layout: other modules of it keep their per-process settings here.
        self._config = {"authkey": AuthenticationString(os.urandom(32)), "semprefix": "/mp"}

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""


_parent_process: _ParentProcess | None = None
_current_process: BaseProcess = _MainProcess()
_process_counter = itertools.count(1)
_children: set[BaseProcess] = set()
# Every process object not yet collected; tests look here for leftovers.
_dangling: WeakSet[BaseProcess] = WeakSet()


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
