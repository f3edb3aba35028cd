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
    """Answers for `multiprocessing` and all below it, and for the lender."""

    def find_spec(self, name, path=None, target=None):
        if name == LENDER:
            folder = standard_folder()
            return importlib.util.spec_from_file_location(
                name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
            )
        if name == ALIAS or name.startswith(ALIAS + "."):
            return importlib.machinery.ModuleSpec(name, Loader())
        return None


class Loader:
    """Gives out a module that exists under another name, and gives it back its own spec."""

    def create_module(self, spec):
        module = resolve(spec.name)
        self.own = (module, getattr(module, "__spec__", None))
        return module

    def exec_module(self, module):
        module, module.__spec__ = self.own


def resolve(name):
    rest = name[len(ALIAS) :]
    try:
        return importlib.import_module(OURS + rest)
    except ModuleNotFoundError as error:
        if error.name != OURS + rest:
            raise
    return importlib.import_module(LENDER + rest)


def install():
    sys.meta_path.insert(0, Finder())


def fill_up():
    """Lends names of the package's top level (Queue, Lock, ...). Only in the runner: a child gets them with its modules."""
    import multiprocessing

    names = []
    lender = importlib.import_module(LENDER)
    for name in lender.__all__:
        if not hasattr(multiprocessing, name):
            setattr(multiprocessing, name, getattr(lender, name))
            names.append(name)
    return names


def lent():
    return sorted(name for name in sys.modules if name.startswith(LENDER + "."))
