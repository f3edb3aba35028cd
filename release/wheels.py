"""Builds a wheel for each interpreter, installs it into an empty environment, and uses it there. See README.md.

    python release/wheels.py                             every CPython from 3.11 on that is found
    python release/wheels.py python3.12 /opt/bin/python3.14
    python release/wheels.py --source                    build and use what is in the source archive instead

The wheels and the archive are in target/wheels. Exit code 0 when every one of them works.
"""

import argparse
import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
WHEELS = ROOT / "target" / "wheels"
#: The oldest C library a wheel may need: that of CentOS 7, which every distribution still supported has.
OLDEST = "manylinux_2_17"
FIRST = 11


def version(python: str) -> str | None:
    """The version of an interpreter, such as "3.12"; None for what is no CPython that we build for."""
    probe = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", probe], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.fullmatch(r"cpython (3\.(\d+))\n", done.stdout)
    return found[1] if done.returncode == 0 and found and int(found[2]) >= FIRST else None


def found() -> dict[str, str]:
    """An interpreter for each version: one on the PATH, else one of pyenv's."""
    places = [*os.environ.get("PATH", "").split(os.pathsep)]
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    places += sorted(glob.glob(os.path.join(glob.escape(pyenv), "versions", "3.*", "bin")), reverse=True)
    chosen: dict[str, str] = {}
    for place in places:
        for path in sorted(glob.glob(os.path.join(glob.escape(place), "python3.*"))):
            number = re.fullmatch(r"python(3\.\d+)", os.path.basename(path))
            # pyenv's shims are on the PATH for versions that are not chosen; they do not run.
            if number and number[1] not in chosen and version(path) == number[1]:
                chosen[number[1]] = path
    return chosen


def build(python: str) -> pathlib.Path:
    """The wheel for one interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["build", "--release", "--locked", "--zig", "--compatibility", OLDEST, "-i", python, "--out", folder]
        # maturin asks the first `python3` of the PATH for Zig, which comes as a package of Python.
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
        subprocess.run(
            [sys.executable, "-m", "maturin", *command], cwd=ROOT, env={**os.environ, "PATH": path}, check=True
        )
        (wheel,) = pathlib.Path(folder).iterdir()
        WHEELS.mkdir(parents=True, exist_ok=True)
        return pathlib.Path(shutil.copy(wheel, WHEELS))


def works(python: str, package: pathlib.Path) -> bool:
    """Whether a wheel or source archive works in an environment that has nothing else, far from this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        place = os.path.join(folder, "environment")
        subprocess.run([python, "-m", "venv", "--without-pip", place], check=True)
        inner = os.path.join(place, "bin", "python")
        install = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", inner, "install"]
        subprocess.run([*install, str(package)], check=True)
        program = shutil.copy(HERE / "smoke.py", folder)
        return subprocess.run([inner, "-I", program], cwd=folder).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("interpreters", nargs="*", help="paths or names; every one that is found if none is given")
    parser.add_argument("--source", action="store_true", help="the source archive, with this interpreter")
    options = parser.parse_args()
    if options.source:
        (archive,) = WHEELS.glob("manycore-*.tar.gz")
        return 0 if works(sys.executable, archive) else 1
    named = {name: shutil.which(name) for name in options.interpreters}
    wrong = [name for name, path in named.items() if path is None or version(path) is None]
    if wrong:
        parser.error(f"no CPython from 3.{FIRST} on: {', '.join(wrong)}")
    pythons = [path for path in named.values() if path] or list(found().values())
    if not pythons:
        parser.error(f"no CPython from 3.{FIRST} on was found; name one")
    failed = []
    for python in pythons:
        wheel = build(python)
        if works(python, wheel):
            print(f"{wheel.name}: {wheel.stat().st_size / 1024:.0f} KiB", flush=True)
        else:
            failed.append(wheel.name)
    if failed:
        print(f"does not work: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
