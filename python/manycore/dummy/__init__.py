"""The package's interface on threads instead of processes.

What is started runs in this process, so everything is shared and nothing has to be picklable.
"""

from __future__ import annotations

import array
import builtins
import sys
import threading
import weakref
from queue import Queue
from threading import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore

from .connection import Pipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import ModuleType
    from typing import Any

    from ..pool import ThreadPool

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "Queue",
    "RLock",
    "Semaphore",
    "active_children",
    "current_process",
    "freeze_support",
]

JoinableQueue = Queue
current_process = threading.current_thread
# The types of a manager of threads are the types themselves.
dict = builtins.dict
list = builtins.list


class DummyProcess(threading.Thread):
    """A thread with the interface of a process."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
    ) -> None:
        super().__init__(group, target, name, args, kwargs)
        self._pid = None
        self._children: weakref.WeakKeyDictionary[DummyProcess, None] = weakref.WeakKeyDictionary()
        self._start_called = False
        self._parent = current_process()

    def start(self) -> None:
        """Start the thread. RuntimeError unless this is called by the thread that made the object."""
        if self._parent is not current_process():
            raise RuntimeError(f"Parent is {self._parent!r} but current_process is {current_process()!r}")
        self._start_called = True
        children = getattr(self._parent, "_children", None)
        if children is not None:
            children[self] = None
        super().start()

    @property
    def exitcode(self) -> int | None:
        """None until the thread has ended, then 0."""
        return 0 if self._start_called and not self.is_alive() else None


Process = DummyProcess
current_process()._children = weakref.WeakKeyDictionary()  # type: ignore[attr-defined]


def active_children() -> builtins.list[Any]:
    """Return the threads that this one has started and that still run."""
    children = getattr(current_process(), "_children", {})
    for child in builtins.list(children):
        if not child.is_alive():
            children.pop(child, None)
    return builtins.list(children)


def freeze_support() -> None:
    """Do nothing: no program is started."""


class Namespace:
    """An object for attributes."""

    def __init__(self, /, **kwds: Any) -> None:
        self.__dict__.update(kwds)

    def __repr__(self) -> str:
        shown = sorted(f"{name}={value!r}" for name, value in self.__dict__.items() if not name.startswith("_"))
        return f"{type(self).__name__}({', '.join(shown)})"


def Array(typecode: str, sequence: Iterable[Any], lock: Any = True) -> array.array[Any]:
    """Return an array of a type code. `lock` says nothing: there is none."""
    return array.array(typecode, sequence)  # type: ignore[arg-type]


class Value:
    """One value. `typecode` and `lock` say nothing."""

    def __init__(self, typecode: Any, value: Any, lock: Any = True) -> None:
        self._typecode = typecode
        self._value = value

    @property
    def value(self) -> Any:
        """The value."""
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._typecode!r}, {self._value!r})>"


def Manager() -> ModuleType:
    """Return this module: it has everything that a manager has."""
    return sys.modules[__name__]


def shutdown() -> None:
    """Do nothing: there is no manager's process."""


def Pool(
    processes: int | None = None, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()
) -> ThreadPool:
    """Return a pool of threads. See `manycore.pool.ThreadPool`."""
    from ..pool import ThreadPool

    return ThreadPool(processes, initializer, initargs)
