"""Found before the standard package by interpreters whose PYTHONPATH begins with this folder; see manycore/_alias.py.

It makes place for manycore. An interpreter that manycore was not built for gets the standard package, as if this folder
were not there; so this file keeps to what every Python understands.
"""

import importlib
import importlib.machinery
import os
import sys


def make_place():
    shadow = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    package = os.path.dirname(shadow)
    del sys.modules[__name__]
    engines = [os.path.join(package, "_engine" + suffix) for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    if sys.version_info >= (3, 11) and any(map(os.path.exists, engines)):
        name = os.path.basename(package)
        sys.path.insert(0, os.path.dirname(package))
        try:
            importlib.import_module(name + "._alias").install()
        finally:
            del sys.path[0]
    else:
        sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != shadow]
        sys.path_importer_cache.pop(shadow, None)
        importlib.import_module(__name__)


make_place()
