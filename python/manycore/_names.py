"""Names that the standard package's modules have beside their interface, for programs that reach for them.

Most are what a module there has imported for itself: programs find `multiprocessing.pool.threading`, too. Others are
parts of ours that few programs need. A module's `__getattr__` finds them when somebody asks for them, and not before.
"""

from __future__ import annotations

import importlib
import itertools
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["find"]

PACKAGE = __name__.rpartition(".")[0]

# For each module, where a name is found: in "module:attribute", or the module itself. One that begins with a dot is of
# this package.
PLACES: dict[str, dict[str, str]] = {
    "connection": {
        **{name: name for name in ("errno", "itertools", "selectors", "socket", "sys", "tempfile")},
        "_WaitSelector": "selectors:PollSelector",
        **{
            name: f"._names:{name}"
            for name in ("_MAX_PIPE_ATTEMPTS", "_check_timeout", "_init_timeout", "_mmap_counter", "_winapi")
        },
    },
    "context": {"functools": "functools", "threading": "threading"},
    "forkserver": {
        **{name: name for name in ("atexit", "selectors", "signal", "socket", "threading", "warnings")},
        "AuthenticationError": ".context:AuthenticationError",
        "connection": ".connection",
        "resource_tracker": ".resource_tracker",
    },
    "heap": {
        "assert_spawning": ".context:assert_spawning",
        "bisect": "bisect",
        "defaultdict": "collections:defaultdict",
        "tempfile": "tempfile",
    },
    "managers": {
        **{name: name for name in ("collections", "os", "signal", "sys", "time", "types")},
        "ProcessError": ".context:ProcessError",
        "_BaseDictProxy": "._manager_types:BaseDictProxy",
        "_BaseSetProxy": "._manager_types:BaseSetProxy",
        "format_exc": "traceback:format_exc",
        "get_context": ".:get_context",
        "get_spawning_popen": ".context:get_spawning_popen",
        "getpid": "os:getpid",
        "pool": ".pool",
        "shared_memory": ".shared_memory",
    },
    "pool": {
        **{name: name for name in ("collections", "itertools", "queue", "threading", "time", "traceback", "types")},
        "_PoolCache": "._pool_results:Cache",
        "get_context": ".:get_context",
        "wait": ".connection:wait",
        **{
            name: f"._pool_work:{name}"
            for name in ("ExceptionWithTraceback", "_helper_reraises_exception", "job_counter", "rebuild_exc", "worker")
        },
    },
    "popen_fork": {"atexit": "atexit", "signal": "signal"},
    "popen_forkserver": {"set_spawning_popen": ".context:set_spawning_popen"},
    "popen_spawn_posix": {"set_spawning_popen": ".context:set_spawning_popen"},
    "process": {"signal": "signal", "threading": "threading"},
    "queues": {
        **{name: name for name in ("errno", "time")},
        "_ForkingPickler": ".reduction:ForkingPickler",
        "connection": ".connection",
        "info": ".util:info",
        "is_exiting": ".util:is_exiting",
        "register_after_fork": ".util:register_after_fork",
    },
    "reduction": {name: name for name in ("array", "functools", "socket")},
    "resource_sharer": {name: name for name in ("signal", "socket", "threading")},
    "resource_tracker": {
        **{name: name for name in ("base64", "json", "signal", "threading", "time", "warnings")},
        "deque": "collections:deque",
    },
    "shared_memory": {"secrets": "secrets", "types": "types"},
    "sharedctypes": {
        "_ForkingPickler": ".reduction:ForkingPickler",
        "assert_spawning": ".context:assert_spawning",
        "get_context": ".:get_context",
    },
    "spawn": {
        "get_start_method": ".:get_start_method",
        "reduction": ".reduction",
        "runpy": "runpy",
        "set_start_method": ".:set_start_method",
        "types": "types",
        "util": ".util",
    },
    "synchronize": {"tempfile": "tempfile", "time": "time", "util": ".util"},
    "util": {"threading": "threading", "weakref": "weakref"},
}


# ----------------------------------------------------------------------------------------------------------------------
# Small things of `connection`, some of them for another system

_winapi = None
_MAX_PIPE_ATTEMPTS = 100
_mmap_counter = itertools.count()


def _init_timeout(timeout: float = 20.0) -> float:
    """Return the time, on the monotonic clock, when `timeout` seconds are over."""
    return time.monotonic() + timeout


def _check_timeout(t: float) -> bool:
    """Return whether the time `t` of `_init_timeout` is over."""
    return time.monotonic() > t


# ----------------------------------------------------------------------------------------------------------------------


def find(module: str, name: str) -> Any:
    """Return what `name` means in our module `module`, which has no such name. AttributeError if it means nothing."""
    place = PLACES.get(module.removeprefix(f"{PACKAGE}."), {}).get(name)
    if place is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    source, _, attribute = place.partition(":")
    found = importlib.import_module(PACKAGE if source == "." else source, PACKAGE)
    return getattr(found, attribute) if attribute else found
