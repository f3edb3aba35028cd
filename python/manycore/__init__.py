"""Process-based parallelism: the standard `multiprocessing` interface on an engine of its own.

    import manycore as multiprocessing

Importing this loads two small modules; everything else is loaded by the first call that needs it.
"""

from __future__ import annotations

import sys

from . import context
from . import process as process
from .context import (
    AuthenticationError,
    BufferTooShort,
    Process,
    ProcessError,
    TaskCancelled,
    TaskTimeout,
    TimeoutError,
    WorkerLost,
)
from .process import active_children, current_process, parent_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import reduction as reducer
    from . import reduction as reduction

__all__ = [
    "Array",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BufferTooShort",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "ProcessError",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "SimpleQueue",
    "TimeoutError",
    "Value",
    "TaskCancelled",
    "TaskTimeout",
    "WorkerLost",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "install",
    "log_to_stderr",
    "parent_process",
    "reducer",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
    "usable_cpu_count",
]

# A main module is called __main__ in the parent and __mp_main__ in a child that has imported it; what is pickled under
# one name must be found under the other.
if "__main__" in sys.modules:
    sys.modules["__mp_main__"] = sys.modules["__main__"]

_default = context._default_context

Array = _default.Array
Barrier = _default.Barrier
BoundedSemaphore = _default.BoundedSemaphore
Condition = _default.Condition
Event = _default.Event
JoinableQueue = _default.JoinableQueue
Lock = _default.Lock
Manager = _default.Manager
Pipe = _default.Pipe
Pool = _default.Pool
Queue = _default.Queue
RLock = _default.RLock
RawArray = _default.RawArray
RawValue = _default.RawValue
Semaphore = _default.Semaphore
SimpleQueue = _default.SimpleQueue
Value = _default.Value
allow_connection_pickling = _default.allow_connection_pickling
cpu_count = _default.cpu_count
freeze_support = _default.freeze_support
get_all_start_methods = _default.get_all_start_methods
get_context = _default.get_context
get_logger = _default.get_logger
get_start_method = _default.get_start_method
log_to_stderr = _default.log_to_stderr
set_executable = _default.set_executable
set_forkserver_preload = _default.set_forkserver_preload
set_start_method = _default.set_start_method
usable_cpu_count = _default.usable_cpu_count


def install() -> None:
    """Make `import multiprocessing` mean manycore, in this process and in every one that is started from here.

    All of it: submodules too, whatever the start method, and interpreters that `subprocess` starts, by way of the
    environment variable PYTHONPATH. Call it before anything imports `multiprocessing`: a module that has done so keeps
    what it has, and a RuntimeWarning names it. A second call does nothing.
    """
    from . import _alias

    _alias.install()


# The standard package's levels: programs write multiprocessing.SUBDEBUG.
SUBDEBUG = 5
SUBWARNING = 25


def __getattr__(name: str) -> Any:
    # The standard package has imported its reduction module by now; ours waits until it is asked for.
    if name == "reducer":
        return _default.reducer
    if name == "reduction":
        import importlib

        return importlib.import_module(f"{__name__}.reduction")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# Not a name of the package.
del TYPE_CHECKING
