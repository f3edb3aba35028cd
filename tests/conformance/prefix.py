"""A throw-away interpreter in which `multiprocessing` is the package under test, for every child, however it is started.

The suite starts interpreters of its own, some of them with -E, -I or -S: no environment variable, no `.pth` file and no
pyvenv.cfg reaches those. So the tests run in a real prefix: the interpreter's executable is copied, because a link would
be followed to the installed library, and that library's files and packages are linked one by one, but for the package that
differs.
The standard package is run in such a prefix, too, so that nothing but the package differs.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile

#: What other programs have installed is no part of the test.
LEFT_OUT = ("site-packages", "dist-packages")
ASK = """
import glob, importlib.util, json, os, sys, sysconfig
spec = importlib.util.find_spec("manycore")
cloud = importlib.util.find_spec("cloudpickle")
print(json.dumps({
    "executable": os.path.realpath(sys._base_executable),
    "library": sysconfig.get_path("stdlib", vars={"base": sys.base_prefix, "installed_base": sys.base_prefix}),
    "platlibdir": sys.platlibdir,
    "shared": glob.glob(os.path.join(sys.base_exec_prefix, sys.platlibdir, "libpython*.so*")),
    "manycore": spec and os.path.dirname(spec.origin),
    "cloudpickle": cloud and os.path.dirname(cloud.origin),
    "version": sys.version_info[:2],
}))
"""
STAND_IN = '''\
"""In this prefix `multiprocessing` is manycore."""

import sys

del sys.modules[__name__]
import manycore._alias

manycore._alias.install()
'''


class Prefix:
    """A prefix for `python` with `package` as `multiprocessing`. `python`: its interpreter; `version`: as a pair."""

    def __init__(self, python, package):
        facts = json.loads(subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=True).stdout)
        self.version = tuple(facts["version"])
        self.folder = tempfile.mkdtemp(prefix="mcp-")
        try:
            self._fill(facts, package, python)
        except BaseException:
            self.remove()
            raise

    def _fill(self, facts, package, python):
        bin_folder = os.path.join(self.folder, "bin")
        os.mkdir(bin_folder)
        self.python = os.path.join(bin_folder, os.path.basename(facts["executable"]))
        shutil.copy2(facts["executable"], self.python)
        above = os.path.join(self.folder, facts["platlibdir"])
        library = os.path.join(above, os.path.basename(facts["library"]))
        os.makedirs(library)
        for path in facts["shared"]:
            os.symlink(path, os.path.join(above, os.path.basename(path)))
        is_ours = package == "manycore"
        left_out = (*LEFT_OUT, "multiprocessing") if is_ours else LEFT_OUT
        for name in os.listdir(facts["library"]):
            if name not in left_out:
                os.symlink(os.path.join(facts["library"], name), os.path.join(library, name))
        if is_ours:
            for name in ("manycore", "cloudpickle"):
                if facts[name] is None:
                    sys.exit(f"{python}: {name} is not installed there")
            for name in ("manycore", "cloudpickle"):
                os.symlink(facts[name], os.path.join(library, name))
            os.mkdir(os.path.join(library, "multiprocessing"))
            with open(os.path.join(library, "multiprocessing", "__init__.py"), "w") as file:
                file.write(STAND_IN)

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()


def environment(**more):
    """This process's environment without what would lead an interpreter to other libraries."""
    unwanted = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PYTHONPLATLIBDIR")
    return {**{name: value for name, value in os.environ.items() if name not in unwanted}, **more}
