"""What a pool has in the place of the standard package's parts, and whether somebody has replaced one of them.

The parts are in `_pool_hooks`, which is loaded when a program asks for one: an ordinary pool does without them.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Workers", "install", "is_hooked"]


class _Part:
    """An attribute of a pool that is found when somebody asks."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, pool: Any, cls: Any) -> Any:
        from ._pool_hooks import find

        return find(self.name, pool, cls)


class Workers:
    """`Pool._pool`: the processes, as applications that reach for them expect; one that has ended is replaced first."""

    def __get__(self, pool: Any, cls: Any) -> Any:
        if pool is None:
            raise AttributeError(f"type object {cls.__name__!r} has no attribute '_pool'")
        if pool._crew.owner == os.getpid():
            pool._core.watch()
        return pool._crew.processes


# What a subclass or a program may replace, and gets a hooked pool for.
HOOKS = (
    "_get_sentinels",
    "_get_tasks",
    "_get_worker_sentinels",
    "_guarded_task_generation",
    "_handle_results",
    "_handle_tasks",
    "_handle_workers",
    "_help_stuff_finish",
    "_join_exited_workers",
    "_maintain_pool",
    "_repopulate_pool",
    "_repopulate_pool_static",
    "_setup_queues",
    "_terminate_pool",
    "_wait_for_updates",
    "_wrap_exception",
)

# What programs read of a pool; `_core` and `_crew` are read of one whose class makes everything else by itself.
VIEWS = ("_cache", "_core", "_crew", "_ctx", "_inqueue", "_outqueue", "_quick_put", "_taskqueue")

# The hooks of each class of ours, as they are before somebody replaces them.
_ours: dict[type, dict[str, Any]] = {}


def install(cls: type) -> None:
    """Give a class of ours the parts that it does not define. Those it has now are the ones that are not replaced."""
    for name in (*HOOKS, *VIEWS):
        # Not `hasattr`, which would load them.
        if not any(name in vars(kind) for kind in cls.__mro__):
            setattr(cls, name, _Part(name))
    _ours[cls] = {name: vars(cls)[name] for name in HOOKS if name in vars(cls)}


def is_hooked(cls: type) -> bool:
    """Return whether somebody has replaced a part of the pools of class `cls`, or the function of their workers."""
    # It is there when somebody has put it there: the module finds ours elsewhere.
    worker = vars(sys.modules[f"{__package__}.pool"]).get("worker")
    if worker is not None and worker is not _original_worker():
        return True
    for kind in cls.__mro__:
        ours, theirs = _ours.get(kind, {}), vars(kind)
        for name in HOOKS:
            if name in theirs and theirs[name] is not ours.get(name):
                return True
    return False


def is_foreign(process: Any) -> bool:
    """Return whether `process` is a class of processes that cannot be watched by the engine, for want of a sentinel."""
    return isinstance(process, type) and not hasattr(process, "sentinel")


def is_ours(cls: type, name: str) -> bool:
    """Return whether the part `name` that is in `cls` itself is the one that was always there."""
    return isinstance(vars(cls).get(name), _Part)


def _original_worker() -> Any:
    from ._pool_work import worker

    return worker
