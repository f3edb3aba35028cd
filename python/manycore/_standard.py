"""The standard package beside this one.

A program may use this package's processes and the standard package's queues or locks. Those register what must happen
in a child, and what must happen before a process ends, with their own package, which knows nothing of our children.
This module looks into it where the program has imported it, and never imports it.
"""

from __future__ import annotations

import sys

from . import util

__all__ = ["enter_child"]


def enter_child(package: str = "multiprocessing") -> None:
    """Do in a new child what `package` does in its own: forget the parent's business, arrange for its own end."""
    theirs = sys.modules.get(f"{package}.util")
    if theirs is None or theirs is util:
        return
    sys.modules[f"{package}.process"]._children = set()  # type: ignore[attr-defined]
    theirs._finalizer_registry.clear()
    theirs._run_after_forkers()
    util.Finalize(None, theirs._exit_function, exitpriority=0)
