"""What a forked child makes of the parent's threads, which it has not: in one place.

A fork copies all memory and one thread. A lock that another thread held at that moment stays taken in the child for
ever. Three rules keep our own locks from that, whether the fork is one of `Process.start()` or of `os.fork()`:

- A thread of ours imports nothing of ours: whoever starts it has loaded its modules.
- A lock that protects state of the child, too, is held across every fork by the thread that forks (`fd_lock`), or is
  made anew in the child by a function that was given to `renew`. Locks of the compiled half are held only while the
  interpreter is, which the thread that forks has then.
- What is the parent's business alone (a pool, its results, its threads) asks first whose process this is.

The fourth thing that a thread may hold is not ours: a module that it is importing. A task's answer may make a pool's
keeper import the class of it, and a worker may be forked from the keeper while the main thread imports. So a child
forgets the imports that it has inherited half done, and begins them anew when it needs them.
"""

from __future__ import annotations

import _frozen_importlib  # type: ignore[import-not-found]
import _imp
import _thread
import _weakref
import itertools
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["renew"]

_renewed: dict[int, tuple[_weakref.ref[Any], Callable[[Any], object]]] = {}
_numbers = itertools.count()


def renew(obj: Any, make_anew: Callable[[Any], object]) -> None:
    """Have `make_anew(obj)` called in every child that is forked while `obj` lives, before anything else runs there."""
    number = next(_numbers)
    _renewed[number] = _weakref.ref(obj, lambda _: _renewed.pop(number, None)), make_anew


def _renew_all() -> None:
    # In the order they were given in: who made the first may have been asked by the second.
    for reference, make_anew in list(_renewed.values()):
        obj = reference()
        if obj is not None:
            make_anew(obj)


def _forget_broken_imports() -> None:
    """Forget the modules that other threads were importing: the child has their locks, and nobody to finish them.

    What a broken package has imported of itself goes with it, or the package would not find it among its attributes
    when it is imported anew. Compiled modules stay: many cannot be loaded twice.
    """
    locks: dict[str, Any] = getattr(_frozen_importlib, "_module_locks", {})
    me = _thread.get_ident()
    for name, reference in list(locks.items()):
        lock = reference()
        if lock is None or getattr(lock, "owner", None) in (None, me):
            continue
        locks.pop(name, None)
        if _is_half_done(name):
            del sys.modules[name]
            for other in [other for other in sys.modules if other.startswith(f"{name}.")]:
                if not _is_compiled(other):
                    del sys.modules[other]
    # The interpreter notes which thread waits for which import; the threads in these notes are gone.
    waiting = getattr(_frozen_importlib, "_blocking_on", None)
    if waiting is not None:
        waiting.clear()


def _is_half_done(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return getattr(spec, "_initializing", False)


def _is_compiled(name: str) -> bool:
    origin = getattr(getattr(sys.modules[name], "__spec__", None), "origin", None)
    return isinstance(origin, str) and origin.endswith(tuple(_imp.extension_suffixes()))


os.register_at_fork(after_in_child=_forget_broken_imports)
os.register_at_fork(after_in_child=_renew_all)
