"""What manycore does not have yet is lent by the standard package, loaded a second time under a name of its own.

CPython's test module imports the whole package at its top. `multiprocessing.NAME` is `manycore.NAME` where that exists and
`_lent_multiprocessing.NAME` otherwise; `lent()` says what that was. It shrinks to nothing as manycore grows.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import sys

OURS = "manycore"
LENDER = "_lent_multiprocessing"
FOLDER = os.path.join(os.path.dirname(os.__file__), "multiprocessing")
lent_names = []


class LenderFinder:
    def find_spec(self, name, path=None, target=None):
        if name == LENDER:
            return importlib.util.spec_from_file_location(
                name, os.path.join(FOLDER, "__init__.py"), submodule_search_locations=[FOLDER]
            )
        rest = name[len(OURS) :]
        if name.startswith(OURS + ".") and not rest.startswith("._") and has(rest):
            return importlib.machinery.ModuleSpec(name, Loader(LENDER + rest))
        alias = name[len("multiprocessing") :]
        if name.startswith("multiprocessing.") and not alias.startswith("._") and has(alias):
            return importlib.machinery.ModuleSpec(name, Loader(LENDER + alias))
        return None


class Loader:
    def __init__(self, real):
        self.real = real

    def create_module(self, spec):
        module = importlib.import_module(self.real)
        self.own = getattr(module, "__spec__", None)
        return module

    def exec_module(self, module):
        module.__spec__ = self.own


def has(rest):
    path = os.path.join(FOLDER, *rest.strip(".").split("."))
    return os.path.exists(path + ".py") or os.path.isdir(path)


def install():
    """Last among the finders, so that whatever manycore has comes from manycore."""
    sys.meta_path.insert(1, LenderFinder())
    sys.meta_path.append(sys.meta_path.pop(1))
    package = importlib.import_module(OURS)
    lender = importlib.import_module(LENDER)
    util, standard = (importlib.import_module(f"{OURS}.{name}") for name in ("util", "_standard"))
    if any(not hasattr(package, name) for name in lender.__all__):
        util.register_after_fork(sys.modules[__name__], lambda _: standard.enter_child(LENDER))
    for name in lender.__all__:
        if not hasattr(package, name):
            setattr(package, name, getattr(lender, name))
            lent_names.append(name)


def lent():
    modules = [name[len(LENDER) + 1 :] for name in sys.modules if name.startswith(LENDER + ".")]
    missing = [
        name
        for name in modules
        if getattr(sys.modules.get(f"multiprocessing.{name}"), "__file__", "").startswith(FOLDER)
    ]
    return sorted({*lent_names, *missing})
