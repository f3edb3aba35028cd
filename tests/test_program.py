"""`python -m manycore program`: everything as if run directly, but for what `import multiprocessing` means."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import zipfile

import pytest

OURS = [sys.executable, "-m", "manycore"]
DIRECT = [sys.executable]
#: What a program can know of itself.
SELF = """
import sys, threading
main = sys.modules["__main__"]
print(sys.argv, sys.path[0], main is sys.modules[__name__], main.__dict__ is globals())
print({name: globals().get(name, "absent") for name in ("__name__", "__doc__", "__package__", "__spec__", "__cached__")})
print(globals().get("__file__"), type(__loader__).__name__ if __loader__ else None, sorted(globals()))
"""


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, **options)
    return done.returncode, re.sub("0x[0-9a-f]+", "0x", done.stdout), done.stderr


def both(tmp_path, *arguments, flags=(), **options):
    """The outcome under manycore and directly."""
    return tuple(
        run([command[0], *flags, *command[1:], *arguments], cwd=tmp_path, **options) for command in (OURS, DIRECT)
    )


@pytest.fixture
def program(tmp_path):
    def write(text, name="program.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write


def test_a_script_sees_itself_as_if_run_directly(tmp_path, program):
    program(SELF)
    ours, direct = both(tmp_path, "program.py", "-x", "--help", "two words")
    assert ours == direct
    assert ours[0] == 0, ours


def test_a_script_elsewhere_and_through_a_link(tmp_path, program):
    path = program(SELF + "import beside\n", "real/program.py")
    program("print('found')", "real/beside.py")
    os.symlink(path, tmp_path / "link.py")
    ours, direct = both(tmp_path, "link.py")
    assert ours == direct
    assert ours[0] == 0, ours


def test_code_on_the_command_line(tmp_path):
    ours, direct = both(tmp_path, "-c", SELF, "a", "-c")
    assert ours[0] == 0, ours
    assert ours == direct


def test_a_module(tmp_path, program):
    program(SELF, "package/tool.py")
    program("", "package/__init__.py")
    program(SELF, "package/__main__.py")
    for name in ("package", "package.tool"):
        ours, direct = both(tmp_path, "-m", name, "a", "-b")
        assert ours[0] == 0, ours
        assert ours == direct


def test_a_folder_and_an_archive(tmp_path, program):
    main = program(SELF, "folder/__main__.py")
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.write(main, "__main__.py")
    for name in ("folder", "archive"):
        ours, direct = both(tmp_path, name, "a")
        assert ours[0] == 0, ours
        assert ours == direct


def test_a_compiled_file(tmp_path, program):
    import py_compile

    py_compile.compile(program("import sys\nprint(sys.argv, __file__)"), cfile=str(tmp_path / "program.pyc"))
    ours, direct = both(tmp_path, "program.pyc", "a")
    assert ours == direct
    assert ours[0] == 0, ours


def test_the_standard_input(tmp_path):
    ours, direct = both(tmp_path, "-", "a", input=SELF)
    assert ours[0] == 0, ours
    assert ours[1].splitlines()[0] == direct[1].splitlines()[0]


def test_isolated_mode_adds_no_path(tmp_path, program):
    program("import sys\nprint(sys.path[0], sys.flags.isolated)")
    ours, direct = both(tmp_path, "program.py", flags=["-I"])
    assert ours == direct


@pytest.mark.parametrize(
    "text",
    [
        "raise ValueError('so')",
        "def f():\n    g()\ndef g():\n    1/0\nf()",
        "x = (1 +\n",
        "import sys\nsys.exit(3)",
        "raise SystemExit('a message')",
        "raise KeyboardInterrupt",
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
        "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise RuntimeError('again') from e",
        "import sys\nsys.excepthook = lambda kind, error, trace: print('mine', kind, trace.tb_lineno)\n1/0",
        "import atexit, sys\natexit.register(lambda: print(sys.modules['__main__'].value))\nvalue = 7\n1/0",
        "import threading, time\nevent = threading.Event()\nthreading.Thread(target=lambda: (event.wait(), print(x))).start()\n"
        "x = 5\nevent.set()",
    ],
)
def test_how_it_ends(tmp_path, program, text):
    program(text)
    ours, direct = both(tmp_path, "program.py")
    assert ours == direct
    ours, direct = both(tmp_path, "-c", text)
    assert ours == direct


def test_an_interrupted_program_ends_by_the_signal(tmp_path, program):
    program("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(50)")
    code, _, error = run([*OURS, "program.py"], cwd=tmp_path)
    assert code == -signal.SIGINT
    assert error.startswith('Traceback (most recent call last):\n  File "') and "manycore" not in error


def test_what_cannot_be_run(tmp_path):
    ours, direct = both(tmp_path, "absent.py")
    assert ours == direct
    ours, direct = both(tmp_path, "-m", "absent")
    assert ours == direct
    for arguments in ([], ["-c"], ["-m"], ["-X", "dev", "program.py"]):
        code, _, error = run([*OURS, *arguments], cwd=tmp_path)
        assert code == 2
        assert "usage: python -m manycore" in error
    code, out, _ = run([*OURS, "--help"], cwd=tmp_path)
    assert code == 0
    assert "usage: python -m manycore" in out


# --- what `import multiprocessing` means ---

MEANS = """
import importlib, subprocess, sys
import multiprocessing
import multiprocessing.pool
from multiprocessing import util

def where(_=None):
    import multiprocessing.process
    return sys.modules["multiprocessing"].__name__, multiprocessing.process.__name__, multiprocessing.pool.Pool.__module__
"""
EXPECTED = "('manycore', 'manycore.process', 'manycore.pool')"


@pytest.mark.parametrize("flags", [[], ["-I"], ["-E"], ["-P"]], ids=str)
def test_in_every_child(tmp_path, program, flags):
    program(
        MEANS
        + """
if __name__ == "__main__":
    print(where())
    for method in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(pool.map(where, [0])[0])
"""
    )
    code, out, error = run([sys.executable, *flags, "-m", "manycore", "program.py"], cwd=tmp_path)
    assert (code, error) == (0, "")
    assert out.splitlines() == [EXPECTED] * 4


@pytest.mark.parametrize("how", ["module", "folder", "package"])
def test_in_children_of_other_programs(tmp_path, program, how):
    """Children find the main module again, however it was named."""
    text = (
        MEANS
        + """
if __name__ == "__main__":
    for method in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(pool.map(where if REACHABLE else str, [0])[0])
"""
    )
    if how == "module":
        program("", "package/__init__.py")
        program(text.replace("REACHABLE", "True"), "package/tool.py")
        arguments = ["-m", "package.tool"]
    else:
        # A __main__.py has no guard by custom, so children do not import it: what it defines is known to a fork alone.
        main = program(text.replace("REACHABLE", "method == 'fork'"), "folder/__main__.py")
        arguments = [os.path.dirname(main)] if how == "folder" else ["-m", "folder"]
        program("", "folder/__init__.py")
    code, out, error = run([*OURS, *arguments], cwd=tmp_path)
    assert (code, error) == (0, "")
    expected = [EXPECTED] * 3 if how == "module" else [EXPECTED, "0", "0"]
    assert sorted(out.splitlines()) == sorted(expected)


def test_in_other_interpreters(tmp_path, program):
    program(MEANS + "print(where())", "child.py")
    program(
        """
        import os, subprocess, sys
        subprocess.run([sys.executable, "child.py"], check=True)
        subprocess.run([sys.executable, "-c", open("child.py").read()], check=True)
        os.system(f"{sys.executable} child.py")
        # A grandchild, and a child whose sys.path does not lead to us.
        subprocess.run([sys.executable, "-c", "import os, sys; os.execv(sys.executable, [sys.executable, 'child.py'])"])
        subprocess.run([sys.executable, "-S", "child.py"], check=True)
        """
    )
    code, out, error = run([*OURS, "program.py"], cwd=tmp_path)
    assert (code, error) == (0, "")
    assert out.splitlines() == [EXPECTED] * 5


def test_an_interpreter_it_was_not_built_for_has_its_own(tmp_path, program):
    """It would be another version; here it is one to which the engine's suffix says nothing."""
    program("import multiprocessing.pool as pool\nprint(pool.__name__, pool.Pool.__module__)", "child.py")
    program(
        """
        import subprocess, sys
        lie = "import importlib.machinery as m, runpy; m.EXTENSION_SUFFIXES[:] = ['.other.so']; runpy.run_path('child.py')"
        subprocess.run([sys.executable, "-c", lie], check=True)
        """
    )
    code, out, error = run([*OURS, "program.py"], cwd=tmp_path)
    assert (code, error, out.split()) == (0, "", ["multiprocessing.pool", "multiprocessing.pool"])


def test_a_submodule_that_is_not_there_is_missed_by_its_name(tmp_path):
    code, _, error = run([*OURS, "-c", "import multiprocessing.nothing"], cwd=tmp_path)
    assert code == 1
    assert error.splitlines()[-1] == "ModuleNotFoundError: No module named 'multiprocessing.nothing'"


def test_modules_are_the_same_objects(tmp_path):
    text = """
import multiprocessing.util, multiprocessing.context, manycore.util, sys, importlib.util
assert multiprocessing is sys.modules["manycore"]
assert multiprocessing.util is manycore.util and multiprocessing.context is manycore.context
assert manycore.util.__spec__.name == "manycore.util" and manycore.__spec__.name == "manycore"
assert importlib.import_module("multiprocessing.util") is manycore.util
assert [m for m in list(sys.modules.values()) if "/multiprocessing/" in str(getattr(m, "__file__", ""))] == []
"""
    assert run([*OURS, "-c", text], cwd=tmp_path) == (0, "", "")


def test_install(tmp_path):
    text = """
import manycore, os, sys, subprocess
manycore.install()
manycore.install()
import multiprocessing.pool
assert multiprocessing is manycore and multiprocessing.pool is manycore.pool
assert os.environ["PYTHONPATH"].count("_shadow") == 1
subprocess.run([sys.executable, "-c", "import multiprocessing, sys; sys.exit(multiprocessing.__name__ != 'manycore')"], check=True)
"""
    assert run([*DIRECT, "-W", "error", "-c", text], cwd=tmp_path) == (0, "", "")


def test_install_names_who_came_before(tmp_path, program):
    program("import multiprocessing as mp", "early.py")
    program("from multiprocessing import Process", "other.py")
    text = """
import early, other, sys, warnings
import manycore
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    manycore.install()
print([str(one.message).partition(" imported")[0] for one in caught], caught[0].category.__name__)
import multiprocessing
assert multiprocessing is manycore and early.mp is not manycore
"""
    code, out, error = run([*DIRECT, "-c", text], cwd=tmp_path)
    assert (code, error) == (0, "")
    assert out == "['early, other'] RuntimeWarning\n"


def test_a_nested_start_and_the_log(tmp_path, program):
    """Code that looks for the standard package in sys.modules finds ours, once: registries are not run twice."""
    program(
        """
        import multiprocessing, multiprocessing.util as util

        def ran(_):
            print("after fork")

        def inner():
            print("inner")

        def outer():
            process = multiprocessing.Process(target=inner)
            process.start()
            process.join()

        if __name__ == "__main__":
            util.register_after_fork(ran, ran)
            process = multiprocessing.get_context("fork").Process(target=outer)
            process.start()
            process.join()
        """
    )
    code, out, error = run([*OURS, "program.py"], cwd=tmp_path)
    assert (code, error) == (0, "")
    assert out.split("\n") == ["after fork", "after fork", "inner", ""]
