"""Where people type: notebooks, IPython, doctest, and code that other tools have brought in."""

import pathlib
import subprocess
import sys
import textwrap
import zipfile

import pytest

pytestmark = pytest.mark.only("manycore", reason="the standard package sends by name alone")

ROOT = pathlib.Path(__file__).resolve().parent.parent
METHODS = ["fork", "forkserver", "spawn"]


def outputs(cells, folder, expect_errors=False):
    """Executes the cells of a notebook in a kernel of their own. What each has printed, or the value it ends with."""
    pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    if isinstance(cells, pathlib.Path):
        notebook = nbformat.read(cells, as_version=4)
    else:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    # A process of its own: the client's loop and sockets are no part of the test's census.
    source, target = folder / "source.ipynb", folder / "target.ipynb"
    nbformat.write(notebook, source)
    program = textwrap.dedent("""
        import sys, nbformat
        from nbclient import NotebookClient
        notebook = nbformat.read(sys.argv[1], as_version=4)
        NotebookClient(notebook, timeout=45, kernel_name="python3").execute()
        nbformat.write(notebook, sys.argv[2])
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, source, target], capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = []
    for cell in nbformat.read(target, as_version=4).cells:
        if cell.cell_type == "code":
            texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
            found.append("".join(texts).strip())
    return found


def test_the_example(mp, tmp_path):
    found = outputs(ROOT / "examples" / "notebook.ipynb", tmp_path)
    assert found[0] == "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]"
    assert found[1:3] == ["[0, 3, 6, 9, 12]", "[1, 5, 9, 13, 17]"]
    assert found[3].endswith("20 of 20")
    assert found[4:] == ["True", "2 processes are left: those of the first pool", "[1, 5, 9]", "[]"]


@pytest.mark.parametrize("method", METHODS)
def test_cells(mp, tmp_path, method):
    """Redefinitions, classes, exceptions, output; a cell that is interrupted; the pool of the next cell."""
    found = outputs(
        [
            f"import manycore as mp, os, signal, threading, time\ncontext = mp.get_context({method!r})\npool = context.Pool(2)",
            "def f(x):\n    return x + offset\noffset = 10\nprint(pool.map(f, range(3)))",
            "offset = 20\nprint(pool.map(f, range(3)))",
            "def f(x):\n    return x * offset\nprint(pool.map(f, range(3)))",
            "class Kind:\n    def __init__(self, x):\n        self.x = x\n"
            "print([kind.x for kind in pool.map(lambda kind: Kind(kind.x + 1), [Kind(1)])], type(pool.apply(Kind, (1,))) is Kind)",
            "class Kind(Exception):\n    pass\ndef fail():\n    raise Kind('new')\n"
            "try:\n    pool.apply(fail)\nexcept Kind as error:\n    print(repr(error))",
            "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
            "try:\n    pool.map(lambda x: time.sleep(1000), range(4))\nexcept KeyboardInterrupt:\n    print('interrupted')",
            "pool.terminate(); pool.join(); print(mp.active_children())",
            "with context.Pool(2) as pool:\n    print(pool.map(f, range(3)))\npool.join()",
            "process = context.Process(target=lambda: print('from a process', flush=True))\n"
            "process.start(); process.join(); print(process.exitcode)",
        ],
        tmp_path,
    )
    assert found[1:6] == ["[10, 11, 12]", "[20, 21, 22]", "[0, 20, 40]", "[2] True", "Kind('new')"]
    assert found[6:9] == ["interrupted", "[]", "[0, 20, 40]"]
    # The child's line and the program's may be mixed: two processes write them.
    assert found[9].replace("from a process", "").split() == ["0"]
    if method == "fork":
        # What other processes write to the kernel's descriptor, a thread of the kernel reads, and it may come later.
        assert "from a process" in found[9]


@pytest.mark.parametrize("method", METHODS)
def test_ipython(mp, tmp_path, method):
    pytest.importorskip("IPython")
    program = tmp_path / "cells.ipy"
    program.write_text(f"""
import manycore as mp
pool = mp.get_context({method!r}).Pool(1)
def f(x):
    return x + 40

print(pool.map(f, [1, 2]))
def f(x):
    return x + 50

print(pool.map(f, [1, 2]))
pool.terminate()
pool.join()
""")
    environment = {"IPYTHONDIR": str(tmp_path), "HOME": str(tmp_path), "TERM": "dumb"}
    command = [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "--simple-prompt", "-i"]
    done = subprocess.run(
        command, input=f"%run -i {program}\n", env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert "[41, 42]" in done.stdout and "[51, 52]" in done.stdout, done.stdout + done.stderr
    done = subprocess.run(
        command, input=program.read_text(), env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert "[41, 42]" in done.stdout and "[51, 52]" in done.stdout, done.stdout + done.stderr


# --- code that is run by others ---


def run(tmp_path, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("method", METHODS)
def test_doctest(mp, tmp_path, method):
    (tmp_path / "documented.py").write_text(f'''
"""
>>> import manycore as mp
>>> def local(x):
...     return named(x) + 1
>>> with mp.get_context({method!r}).Pool(1) as pool:
...     pool.map(local, [1, 2]), pool.map(lambda x: local(x), [1]), pool.map(named, [1])
([11, 21], [11], [10])
"""
def named(x):
    return 10 * x
''')
    assert run(tmp_path, "-m", "doctest", "documented.py") == (0, "", "")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_modules_that_pytest_rewrites(mp, tmp_path, mode, method):
    (tmp_path / "test_inner.py").write_text(f"""
import manycore as mp

class Kind:
    def __init__(self, x):
        self.x = x

def test_it():
    def local(x):
        assert x
        return Kind(x)
    with mp.get_context({method!r}).Pool(1) as pool:
        assert [kind.x for kind in pool.map(local, [1, 2])] == [1, 2]
        assert type(pool.apply(lambda: Kind(1))).__name__ == "Kind"
    pool.join()
""")
    code, out, err = run(
        tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--import-mode={mode}", "test_inner.py"
    )
    assert code == 0, out + err


@pytest.mark.parametrize("method", METHODS)
def test_runpy_and_archives(mp, tmp_path, method):
    text = f"""
import manycore as mp
def named(x):
    return x + 1
def main():
    with mp.get_context({method!r}).Pool(1) as pool:
        print(pool.map(named, [1]), pool.map(lambda x: named(x), [1]))
    pool.join()
if __name__ == "__main__":
    main()
"""
    (tmp_path / "program.py").write_text(text)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", text)
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(text.replace('if __name__ == "__main__":\n    ', ""))
    expected = (0, "[2] [2]\n", "")
    assert run(tmp_path, "archive.zip") == expected
    assert run(tmp_path, "-m", "package") == expected
    assert run(tmp_path, "-c", "import runpy; runpy.run_path('program.py', run_name='__main__')") == expected
    assert (
        run(tmp_path, "-c", "import runpy; runpy.run_module('program', run_name='__main__', alter_sys=True)")
        == expected
    )
