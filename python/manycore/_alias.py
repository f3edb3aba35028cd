"""`import multiprocessing` meaning this package, in this process and in those it starts.

In this process a finder, asked before all others, answers for `multiprocessing` and everything below it with the
modules of this package. Children by fork have it by inheritance; children by spawn and forkserver are told in their
preparation data (`spawn.prepare`), so they need nothing of the environment and may be isolated (`-I`, `-E`).

Interpreters that something else starts (`subprocess`, a shell script) see PYTHONPATH begin with the folder `_shadow`,
in which a package `multiprocessing` waits and does the same when it is first imported. It costs them nothing before,
and no `sitecustomize` or `.pth` file is needed. An interpreter that ignores its environment, or is started with another
one, keeps the standard package: there is no way into it.

`_multiprocessing`, the standard package's half in C, stays what it is. Nothing of ours uses it; libraries that do, such
as loky, want what it is: semaphores by name, whose names and ends they look after themselves.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

__all__ = ["install"]

STANDARD = "multiprocessing"
OURS = __name__.rpartition(".")[0]
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_shadow")

installed = False


def install() -> None:
    """Make `import multiprocessing` mean manycore, here and in every process that is started from here.

    All of it: submodules too, whatever the start method, and interpreters that `subprocess` starts, by way of the
    environment variable PYTHONPATH. Call it before anything imports `multiprocessing`: a module that has done so keeps
    what it has, and a RuntimeWarning names it. A second call does nothing.
    """
    global installed
    if installed:
        return
    installed = True
    before = [name for name in sys.modules if our_name(name) is not None]
    holders = _holders({id(sys.modules[name]) for name in before})
    for name in before:
        del sys.modules[name]
    sys.meta_path.insert(0, Finder())
    importlib.import_module(STANDARD)
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if FOLDER not in entries:
        os.environ["PYTHONPATH"] = os.pathsep.join([FOLDER, *filter(None, entries)])
    if holders:
        import warnings

        warnings.warn(
            f"{', '.join(holders)} imported {STANDARD} before manycore.install(), and keeps the standard package",
            RuntimeWarning,
            stacklevel=2,
        )


def our_name(name: str) -> str | None:
    """Return the name of our module for a module of the standard package, None for any other module."""
    if name == STANDARD or name.startswith(f"{STANDARD}."):
        return OURS + name[len(STANDARD) :]
    return None


def _holders(modules: set[int]) -> list[str]:
    """Return the names of the foreign modules that hold one of `modules`, or something that is defined in one."""
    found = []
    for name, module in list(sys.modules.items()):
        if our_name(name) is None and name.partition(".")[0] != OURS:
            for value in list(getattr(module, "__dict__", {}).values()):
                origin = getattr(value, "__module__", None)
                if id(value) in modules or (isinstance(origin, str) and our_name(origin) is not None):
                    found.append(name)
                    break
    return sorted(found)


class Finder:
    """Finds our modules under the standard package's names."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return how to load `name`, None if it is not of the standard package, or we have no such module."""
        ours = our_name(name)
        if ours is None:
            return None
        # Below the top the import system has the path from the parent, which is a module of ours.
        path = path or sys.modules[OURS].__path__
        if ours != OURS and importlib.machinery.PathFinder.find_spec(ours, path) is None:
            return None
        return importlib.machinery.ModuleSpec(name, Loader(ours))  # type: ignore[arg-type]


class Loader:
    """Gives out a module that exists under another name."""

    def __init__(self, ours: str) -> None:
        self._ours = ours
        self._spec: importlib.machinery.ModuleSpec | None = None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return our module."""
        module = importlib.import_module(self._ours)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module back its own spec, which the import system has replaced."""
        module.__spec__ = self._spec
