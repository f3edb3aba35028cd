"""What a pool has in the place of the standard package's parts, and whether somebody has replaced one of them.

The parts are in `_pool_hooks`, which is loaded when a program asks for one: an ordinary pool does without them.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Workers", "has_own_way", "install", "is_hooked"]


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
    """Return whether somebody has replaced a part of pools of class `cls`, or the function or results of all pools."""
    # It is there when somebody has put it there: the module finds ours elsewhere.
    worker = vars(sys.modules[f"{__package__}.pool"]).get("worker")
    if worker is not None and worker is not _original_worker():
        return True
    if _has_own_results():
        return True
    for kind in cls.__mro__:
        ours, theirs = _ours.get(kind, {}), vars(kind)
        for name in HOOKS:
            if name in theirs and theirs[name] is not ours.get(name):
                return True
    return False


def _has_own_results() -> bool:
    """Return whether somebody has replaced a class of results, or a method of one."""
    results = sys.modules.get(f"{__package__}._pool_results")
    if results is None:
        return False
    names = vars(sys.modules[f"{__package__}.pool"])
    return any(names.get(name, ours) is not ours for name, ours in results.OURS.items()) or results.is_patched()


def has_own_way(ctx: Any) -> bool:
    """Return whether pools of the context `ctx` have processes, queues or a pickler that the engine does not know."""
    # A process without a sentinel cannot be watched.
    if isinstance(ctx.Process, type) and not hasattr(ctx.Process, "sentinel"):
        return True
    queue = getattr(ctx.SimpleQueue, "__func__", ctx.SimpleQueue)
    # The contexts of the standard package have none of their own.
    if queue.__module__ not in (f"{__package__}.context", "multiprocessing.context"):
        return True
    reduction = sys.modules.get(f"{__package__}.reduction")
    return reduction is not None and reduction.replaced_pickler() is not None


def is_ours(cls: type, name: str) -> bool:
    """Return whether the part `name` that is in `cls` itself is the one that was always there."""
    return isinstance(vars(cls).get(name), _Part)


def _original_worker() -> Any:
    from ._pool_work import worker

    return worker
