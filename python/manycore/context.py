"""Contexts: the whole package bound to one start method, and the default that the package's own functions follow.

Every public constructor is a method here that imports its module when called, so that `import manycore` loads none
of them.
"""

from __future__ import annotations

import _thread
import os
import sys

from . import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable
    from os import PathLike
    from typing import Any

    from . import connection, managers, pool, queues, synchronize

__all__ = ()

# ----------------------------------------------------------------------------------------------------------------------
# Exceptions


class ProcessError(Exception):
    """Base of the package's own exceptions."""


class BufferTooShort(ProcessError):
    """A received message does not fit the given buffer. `args[0]` is the message."""


class TimeoutError(ProcessError):
    """The time given to an operation has passed."""


class AuthenticationError(ProcessError):
    """The other end of a connection did not prove that it knows the key."""


class WorkerLost(ProcessError):
    """A worker ended while it was running a task, so the task has no result.

    `pid` is the worker's; `exitcode` its exit code, or minus the number of the signal that ended it; `signal` that
    signal's name, or None if it exited by itself; `task` says what it was running, or is None if that is not known;
    `traceback` is the Python stack of the worker at its end, as text, or None if the worker could not write it down
    (SIGKILL leaves no time for that).
    """

    traceback: str | None = None

    def __init__(
        self, pid: int | None, exitcode: int | None = None, signal: str | None = None, task: str | None = None
    ) -> None:
        if signal is None and exitcode is not None and exitcode < 0:
            signal = process._exitcode_name(exitcode)[1:]
        super().__init__(pid, exitcode, signal, task)
        self.pid = pid
        self.exitcode = exitcode
        self.signal = signal
        self.task = task

    def __str__(self) -> str:
        if self.signal is not None:
            cause = f"was ended by {self.signal if self.signal.startswith('SIG') else f'signal {self.signal}'}"
            if self.signal == "SIGKILL":
                cause += " (the kernel does so when memory runs out)"
        elif self.exitcode is not None:
            cause = f"exited with code {self.exitcode}"
        else:
            cause = "ended for an unknown reason"
        return f"worker process {self.pid} {cause} while it was running {self.task or 'a task'}{self._where()}"

    def _where(self) -> str:
        return "" if self.traceback is None else f"\n\n{self.traceback}"


class TaskTimeout(WorkerLost):
    """A task ran longer than its `task_timeout`, so its worker was ended.

    `limit` is that time in seconds; `pid`, `task` and `traceback` are those of `WorkerLost`.
    """

    def __init__(self, pid: int | None, limit: float | None = None, task: str | None = None) -> None:
        super().__init__(pid, task=task)
        self.args = (pid, limit, task)
        self.limit = limit

    def __str__(self) -> str:
        limit = "its time limit" if self.limit is None else f"its limit of {self.limit:g} s"
        return f"{self.task or 'a task'} ran longer than {limit}, so worker process {self.pid} was ended{self._where()}"


class TaskCancelled(ProcessError):
    """A task has no result because it was cancelled. `task` says which."""

    def __init__(self, task: str | None = None) -> None:
        super().__init__(task)
        self.task = task

    def __str__(self) -> str:
        return f"{self.task or 'a task'} was cancelled"


# ----------------------------------------------------------------------------------------------------------------------
# Contexts


class BaseContext:
    """The package's functions and classes for one start method."""

    ProcessError = ProcessError
    BufferTooShort = BufferTooShort
    TimeoutError = TimeoutError
    AuthenticationError = AuthenticationError
    WorkerLost = WorkerLost
    TaskTimeout = TaskTimeout
    TaskCancelled = TaskCancelled

    Process: type[process.BaseProcess]
    _name = ""

    current_process = staticmethod(process.current_process)
    parent_process = staticmethod(process.parent_process)
    active_children = staticmethod(process.active_children)

    def cpu_count(self) -> int:
        """Return the number of processors of the machine. NotImplementedError if the system does not tell."""
        count = os.cpu_count()
        if count is None:
            raise NotImplementedError("the system does not tell how many processors it has")
        return count

    def usable_cpu_count(self) -> int:
        """Return how many processors this process may keep busy: its affinity and its control groups' quotas count."""
        return _usable_cpu_count()

    def Pipe(self, duplex: bool = True) -> tuple[connection.Connection, connection.Connection]:
        """Return the two ends of a pipe. See `manycore.connection.Pipe`."""
        from .connection import Pipe

        return Pipe(duplex)

    def Manager(self) -> managers.SyncManager:
        """Return a started manager of shared objects. See `manycore.managers.SyncManager`."""
        from .managers import SyncManager

        manager = SyncManager(ctx=self.get_context())
        manager.start()
        return manager

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        **options: Any,
    ) -> pool.Pool:
        """Return a pool of worker processes. See `manycore.pool.Pool`, also for the options."""
        from .pool import Pool

        return Pool(processes, initializer, initargs, maxtasksperchild, context=self.get_context(), **options)

    def Queue(self, maxsize: int = 0) -> queues.Queue:
        """Return a queue of objects. See `manycore.queues.Queue`."""
        from .queues import Queue

        return Queue(maxsize, ctx=self.get_context())

    def JoinableQueue(self, maxsize: int = 0) -> queues.JoinableQueue:
        """Return a queue that counts what is not done. See `manycore.queues.JoinableQueue`."""
        from .queues import JoinableQueue

        return JoinableQueue(maxsize, ctx=self.get_context())

    def SimpleQueue(self) -> queues.SimpleQueue:
        """Return a queue with nothing but put, get and empty. See `manycore.queues.SimpleQueue`."""
        from .queues import SimpleQueue

        return SimpleQueue(ctx=self.get_context())

    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:
        """Return a value of a C type in shared memory. See `manycore.sharedctypes.RawValue`."""
        from .sharedctypes import RawValue

        return RawValue(typecode_or_type, *args)

    def RawArray(self, typecode_or_type: Any, size_or_initializer: int | Iterable[Any]) -> Any:
        """Return an array of a C type in shared memory. See `manycore.sharedctypes.RawArray`."""
        from .sharedctypes import RawArray

        return RawArray(typecode_or_type, size_or_initializer)

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
        """Return a value of a C type in shared memory, with a lock. See `manycore.sharedctypes.Value`."""
        from .sharedctypes import Value

        return Value(typecode_or_type, *args, lock=lock, ctx=self.get_context())

    def Array(self, typecode_or_type: Any, size_or_initializer: int | Iterable[Any], *, lock: Any = True) -> Any:
        """Return an array of a C type in shared memory, with a lock. See `manycore.sharedctypes.Array`."""
        from .sharedctypes import Array

        return Array(typecode_or_type, size_or_initializer, lock=lock, ctx=self.get_context())

    def Lock(self) -> synchronize.Lock:
        """Return a lock. See `manycore.synchronize.Lock`."""
        from .synchronize import Lock

        return Lock(ctx=self.get_context())

    def RLock(self) -> synchronize.RLock:
        """Return a recursive lock. See `manycore.synchronize.RLock`."""
        from .synchronize import RLock

        return RLock(ctx=self.get_context())

    def Condition(self, lock: synchronize.SemLock | None = None) -> synchronize.Condition:
        """Return a condition. See `manycore.synchronize.Condition`."""
        from .synchronize import Condition

        return Condition(lock, ctx=self.get_context())

    def Semaphore(self, value: int = 1) -> synchronize.Semaphore:
        """Return a semaphore. See `manycore.synchronize.Semaphore`."""
        from .synchronize import Semaphore

        return Semaphore(value, ctx=self.get_context())

    def BoundedSemaphore(self, value: int = 1) -> synchronize.BoundedSemaphore:
        """Return a bounded semaphore. See `manycore.synchronize.BoundedSemaphore`."""
        from .synchronize import BoundedSemaphore

        return BoundedSemaphore(value, ctx=self.get_context())

    def Event(self) -> synchronize.Event:
        """Return an event. See `manycore.synchronize.Event`."""
        from .synchronize import Event

        return Event(ctx=self.get_context())

    def Barrier(
        self, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None
    ) -> synchronize.Barrier:
        """Return a barrier. See `manycore.synchronize.Barrier`."""
        from .synchronize import Barrier

        return Barrier(parties, action, timeout, ctx=self.get_context())

    def freeze_support(self) -> None:
        """Be the child, if this frozen program was started as one. Call it first thing in the main module."""
        if getattr(sys, "frozen", False):
            from .spawn import freeze_support

            freeze_support()

    def get_logger(self) -> logging.Logger:
        """Return the package's logger."""
        from .util import get_logger

        return get_logger()

    def log_to_stderr(self, level: int | str | None = None) -> logging.Logger:
        """Make the package's logger write to stderr, and return it."""
        from .util import log_to_stderr

        return log_to_stderr(level)

    def allow_connection_pickling(self) -> None:
        """Do nothing: connections can always be pickled for other processes. Kept for programs that call it."""

    def set_executable(self, executable: str | bytes | PathLike[str]) -> None:
        """Choose the interpreter that spawn and forkserver run, instead of `sys.executable`."""
        from .spawn import set_executable

        set_executable(executable)

    def set_forkserver_preload(self, module_names: list[str], *, on_error: str = "ignore") -> None:
        """Name the modules the forkserver imports before it forks; takes effect when it is next started.

        `on_error` says what becomes of one that cannot be imported: "ignore" it, "warn", or "fail": no process can
        be started then.
        """
        from .forkserver import set_forkserver_preload

        set_forkserver_preload(module_names, on_error=on_error)

    def get_context(self, method: str | None = None) -> BaseContext:
        """Return the context of a start method; None means this one. ValueError if there is no such method."""
        if method is None:
            return self
        try:
            context = _concrete_contexts[method]
        except KeyError:
            raise ValueError(
                f"cannot find context for {method!r}: methods are {', '.join(_concrete_contexts)}"
            ) from None
        context._check_available()
        return context

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """Return the name of the start method."""
        return self._name

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Raise ValueError: only the default can be set."""
        raise ValueError("cannot set start method of concrete context: call manycore.set_start_method()")

    @property
    def reducer(self) -> Any:
        """The module, or `AbstractReducer`, that pickles for other processes. Shared by all contexts."""
        return sys.modules[__name__].reduction

    @reducer.setter
    def reducer(self, reduction: Any) -> None:
        globals()["reduction"] = reduction
        from ._engine import pickler_patched

        pickler_patched()

    def _check_available(self) -> None:
        pass


def __getattr__(name: str) -> Any:
    # This module's `reduction` is the reducer in use; until another is set, the package's own, loaded when needed.
    if name == "reduction":
        from . import reduction

        return reduction
    if name == "__path__":  # every `from ... import ...` asks
        raise AttributeError(name)

    from ._names import find

    return find(__name__, name)


class Process(process.BaseProcess):
    """A process started by whatever the default start method is when it is started."""

    _start_method: str | None = None

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        return _default_context.get_context().Process._Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        return _default_context.get_context().Process._after_fork()


class DefaultContext(BaseContext):
    """The context of the package's own functions: any concrete one, chosen once, or when first needed."""

    Process = Process

    def __init__(self, context: BaseContext | None = None) -> None:
        self._default_context = _platform_default() if context is None else context
        self._actual_context: BaseContext | None = None

    def get_context(self, method: str | None = None) -> BaseContext:
        """Return the context of a start method; None means the default, which is thereby settled."""
        if method is not None:
            return super().get_context(method)
        if self._actual_context is None:
            self._actual_context = self._default_context
        return self._actual_context

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Choose the default start method, once; with `force` again, None meaning "not chosen".

        Raises RuntimeError if it was chosen or used before, ValueError if there is no such method.
        """
        if self._actual_context is not None and not force:
            importing = getattr(process.current_process(), "_inheriting", False)
            if importing and hasattr(sys.modules["__mp_main__"], "_manycore_ends_at"):
                # A child that imports a main module without a guard uses the method that it was started by.
                return
            raise RuntimeError("context has already been set: a process was started, or the method chosen, before")
        self._actual_context = None if method is None else self.get_context(method)

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """Return the default start method; None, with `allow_none`, if it is not settled yet."""
        if self._actual_context is None and allow_none:
            return None
        return self.get_context().get_start_method()

    def get_all_start_methods(self) -> list[str]:
        """Return the names of the start methods, the interpreter's own default first."""
        default = self._default_context._name
        return [default, *(name for name in _concrete_contexts if name != default)]


class ForkProcess(process.BaseProcess):
    """A process started by fork."""

    _start_method = "fork"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        from .popen_fork import Popen

        return Popen(process_obj)


class SpawnProcess(process.BaseProcess):
    """A process started as a fresh interpreter."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        from .popen_spawn_posix import Popen

        return Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        """Do nothing: nothing was inherited."""


class ForkServerProcess(process.BaseProcess):
    """A process forked by the zygote."""

    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        from .popen_forkserver import Popen

        return Popen(process_obj)


class ForkContext(BaseContext):
    """Children are copies of the parent."""

    _name = "fork"
    Process = ForkProcess


class SpawnContext(BaseContext):
    """Children are fresh interpreters."""

    _name = "spawn"
    Process = SpawnProcess


class ForkServerContext(BaseContext):
    """Children are copies of one fresh interpreter, the zygote, which has imported what they need."""

    _name = "forkserver"
    Process = ForkServerProcess


_concrete_contexts: dict[str, BaseContext] = {
    "fork": ForkContext(),
    "spawn": SpawnContext(),
    "forkserver": ForkServerContext(),
}


def _platform_default() -> BaseContext:
    return _concrete_contexts["forkserver" if sys.version_info >= (3, 14) else "fork"]


_default_context = DefaultContext()


def _force_start_method(method: str | None) -> None:
    """Make a child use the start method it was started by, whatever its program has chosen; None: "not chosen"."""
    _default_context._actual_context = None if method is None else _concrete_contexts[method]


# ----------------------------------------------------------------------------------------------------------------------
# The process being started, while its parts are being pickled

_tls = _thread._local()


def get_spawning_popen() -> Any:
    """Return the handle of the process this thread is starting, or None."""
    return getattr(_tls, "spawning_popen", None)


def set_spawning_popen(popen: Any) -> None:
    """Say which process this thread is starting; None at the end."""
    _tls.spawning_popen = popen
    # The standard package's objects, where a program has them beside ours, ask their own.
    theirs = sys.modules.get("multiprocessing.context")
    if theirs is not None and theirs is not sys.modules[__name__]:
        theirs.set_spawning_popen(popen)


def keep_for_child(popen: Any, obj: object) -> None:
    """Hold `obj` until the process that `popen` starts has ended; or as long as `popen` lives, if that is not ours."""
    keep = getattr(popen, "keep_for_child", None)
    if keep is not None:
        keep(obj)
    elif hasattr(popen, "__dict__"):
        popen.__dict__.setdefault("_kept", []).append(obj)


def assert_spawning(obj: object) -> None:
    """Raise RuntimeError unless a process is being started: `obj` travels in no other way."""
    if get_spawning_popen() is None:
        raise RuntimeError(
            f"{type(obj).__name__} objects should only be shared between processes through inheritance: "
            "pass it in the arguments of a Process, or through a pool's initargs"
        )


# ----------------------------------------------------------------------------------------------------------------------
# Processors


def _usable_cpu_count() -> int:
    # Loads the compiled module (a millisecond), which a pool does in any case.
    from ._engine import usable_cpu_count

    if sys.version_info >= (3, 13):
        # Affinity, or what the user has set by -X cpu_count or PYTHON_CPU_COUNT.
        count = os.process_cpu_count() or 1
    else:
        count = len(os.sched_getaffinity(0))
    return min(count, usable_cpu_count())
