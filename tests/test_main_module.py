"""What children know of the main module, however the program was started, and of the directory it works in."""

import os
import subprocess
import sys
import zipfile

import pytest

BODY = """
import os, sys
import {package} as mp

def double(number):
    return 2 * number, __name__

class Kind:
    pass

def main():
    context = mp.get_context({method!r})
    with context.Pool(1) as pool:
        print(pool.apply(double, (2,)), type(pool.apply(Kind)) is Kind)
    # A child of a child: what it is told of the main module it has from its parent.
    process = context.Process(target=grandchild, args=({method!r},))
    process.start()
    process.join()
    print(process.exitcode)

def grandchild(method):
    with mp.get_context(method).Pool(1) as pool:
        print(pool.apply(double, (3,)))

{guard}main()
"""

GUARD = 'if __name__ == "__main__": '


def start(tmp_path, way, text, prefix=()):
    """Run `text` as a program that is started in one of several ways. Returns how it ended."""
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(text)
    (package / "some_module.py").write_text(text)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", text)
    arguments = {
        "package": ["-m", "some_package"],
        "module": ["-m", "some_package.some_module"],
        "folder": ["some_package"],
        "archive": ["archive.zip"],
        "script": ["some_package/some_module.py"],
    }[way]
    command = [sys.executable, "-u", *prefix, *arguments]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("way", ["package", "module", "folder", "archive", "script"])
def test_functions_of_the_program_reach_children(mp, tmp_path, way, method):
    if mp.__name__ == "multiprocessing" and way in ("package", "folder", "archive"):
        pytest.skip("there a child does not find what __main__.py defines")
    done = start(tmp_path, way, BODY.format(package=mp.__name__, method=method, guard=GUARD))
    expected = ["(4, '__mp_main__') True", "(6, '__mp_main__')", "0"]
    assert (done.stdout.splitlines(), done.returncode) == (expected, 0), done.stderr


@pytest.mark.only("manycore", reason="`python -m manycore` is its own")
@pytest.mark.parametrize("way", ["package", "folder", "archive"])
def test_the_same_by_way_of_our_own_runner(mp, tmp_path, way):
    text = BODY.format(package="multiprocessing", method="spawn", guard=GUARD)
    done = start(tmp_path, way, text, prefix=["-m", "manycore"])
    assert (done.stdout.splitlines()[0], done.returncode) == ("(4, '__mp_main__') True", 0), done.stderr


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("way", ["package", "folder"])
def test_a_file_without_a_guard_does_not_run_in_children_that_want_nothing_of_it(mp, tmp_path, way, method):
    """As is the custom in a `__main__.py`."""
    text = f"""
import {mp.__name__} as mp
print("running")
process = mp.get_context({method!r}).Process(target=print, args=("child",))
process.start()
process.join()
"""
    done = start(tmp_path, way, text)
    assert (sorted(done.stdout.split()), done.stderr) == (["child", "running"], "")


@pytest.mark.only("manycore", reason="there the task is lost, and its caller waits for ever")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("way", ["package", "module", "folder", "archive", "script"])
def test_a_file_without_a_guard_works_all_the_same(mp, tmp_path, way, method):
    """Children import what is above the call of `main()`."""
    done = start(tmp_path, way, BODY.format(package=mp.__name__, method=method, guard=""))
    expected = ["(4, '__mp_main__') True", "(6, '__mp_main__')", "0"]
    assert (done.stdout.splitlines(), done.returncode) == (expected, 0), done.stderr
    # By custom a `__main__.py` has none.
    assert done.stderr.count("RuntimeWarning") == (way in ("module", "script"))


@pytest.mark.only("manycore", reason="as above")
@pytest.mark.parametrize("way", ["package", "module"])
def test_a_module_that_starts_processes_when_it_is_imported(mp, tmp_path, way):
    """That is no matter of a guard in the main module; what happened is said once."""
    (tmp_path / "starter.py").write_text(f"import {mp.__name__} as mp\nmp.get_context('spawn').Pool(1).map(abs, [1])\n")
    done = start(tmp_path, way, "import starter\n")
    if way == "package":
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode != 0
        assert done.stderr.count("bootstrapping phase") <= 2
        assert f"The module 'starter' ({tmp_path / 'starter.py'}, line 2) starts a process" in done.stderr


# ----------------------------------------------------------------------------------------------------------------------
# The directory


# "error return without exception set", whatever the extension module.
can_import_there = pytest.mark.skipif(
    sys.version_info[:3] == (3, 13, 0),
    reason="CPython 3.13.0 imports no extension module in a directory without a name",
)


@pytest.fixture
def deleted_directory(tmp_path):
    """The working directory, which has no name any more."""
    before = os.getcwd()
    folder = tmp_path / "folder"
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()
    yield os.stat(".").st_ino
    os.chdir(before)


def where():
    try:
        os.getcwd()
    except FileNotFoundError:
        return os.stat(".").st_ino
    return os.getcwd()


@can_import_there
@pytest.mark.only("manycore", reason="the standard package asks for the directory's name: FileNotFoundError")
def test_a_start_from_a_deleted_directory(mp, ctx, deleted_directory):
    with ctx.Pool(1) as pool:
        assert pool.apply(where) == deleted_directory
    pool.join()
    # The zygote lives on in another directory.
    process = ctx.Process(target=int)
    process.start()
    process.join()
    assert process.exitcode == 0


@can_import_there
@pytest.mark.only("manycore", reason="as above")
def test_the_zygote_started_in_a_deleted_directory(script, tmp_path):
    program = script("""
        def main():
            folder = os.path.join(os.environ["TMPDIR"], "gone")
            os.mkdir(folder)
            os.chdir(folder)
            os.rmdir(folder)
            context = mp.get_context("forkserver")
            queue = context.SimpleQueue()
            for folder in (".", "/", "/tmp"):
                os.chdir(folder)
                process = context.Process(target=tell, args=(queue,))
                process.start()
                print(queue.get() == os.stat(".").st_ino)
                process.join()

        def tell(queue):
            queue.put(os.stat(".").st_ino)
    """)
    assert [program.read_line() for _ in range(3)] == ["True"] * 3
    assert program.finish() == 0, program.errors.decode()
