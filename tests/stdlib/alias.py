"""`import multiprocessing` meaning manycore, for CPython's own test-suite, in the runner and in every process it starts.

The test module imports the whole package at its top. What manycore does not have yet is lent by the standard package, loaded
a second time under a name of its own, so that the two never mix: `multiprocessing.NAME` is `manycore.NAME` where that exists
and `_lent_multiprocessing.NAME` otherwise. The lent half shrinks to nothing as manycore grows; `lent()` says what is left.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import sys

ALIAS = "multiprocessing"
OURS = "manycore"
LENDER = "_lent_multiprocessing"


def standard_folder():
    return os.path.join(os.path.dirname(os.__file__), ALIAS)


class Finder:
    """Answers for `multiprocessing` and all below it, and for the lender. Asked first."""

    def find_spec(self, name, path=None, target=None):
        if name == LENDER:
            folder = standard_folder()
            return importlib.util.spec_from_file_location(
                name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
            )
        if name == ALIAS or name.startswith(ALIAS + "."):
            return importlib.machinery.ModuleSpec(name, Loader(OURS + name[len(ALIAS) :]))
        return None


class LastFinder:
    """Answers for submodules that manycore does not have. Asked last."""

    def find_spec(self, name, path=None, target=None):
        rest = name[len(OURS) :]
        if name.startswith(OURS + ".") and is_standard(rest):
            return importlib.machinery.ModuleSpec(name, Loader(LENDER + rest))
        return None


class Loader:
    """Gives out a module that exists under another name, and gives it back its own spec."""

    def __init__(self, real):
        self.real = real

    def create_module(self, spec):
        module = importlib.import_module(self.real)
        self.own = getattr(module, "__spec__", None)
        return module

    def exec_module(self, module):
        module.__spec__ = self.own
        if self.real == OURS:
            lend_names(module)


def is_standard(rest):
    path = os.path.join(standard_folder(), *rest.strip(".").split("."))
    return os.path.exists(path + ".py") or os.path.isdir(path)


def install():
    sys.meta_path.insert(0, Finder())
    sys.meta_path.append(LastFinder())


lent_names = []


def lend_names(package):
    """Names of the package's top level (Queue, Lock, ...)."""
    lender = importlib.import_module(LENDER)
    # What is lent works in our children as the standard package itself does.
    util, standard = (importlib.import_module(f"{OURS}.{name}") for name in ("util", "_standard"))
    util.register_after_fork(sys.modules[__name__], lambda _: standard.enter_child(LENDER))
    for name in lender.__all__:
        if not hasattr(package, name):
            setattr(package, name, getattr(lender, name))
            lent_names.append(name)


def lent():
    return sorted(name for name in sys.modules if name.startswith(LENDER + "."))
