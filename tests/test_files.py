"""The runner of the Python tests tries the standard package's tests again, manycore's only where it is told to."""

import os
import re
import subprocess
import sys

import pytest

RUNNER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "files.py")
FILE = """
import os, signal, pytest
def tries(name):
    path = os.path.join(os.path.dirname(__file__), name)
    with open(path, "a+") as file:
        file.write("x")
        file.seek(0)
        return len(file.read())
@pytest.mark.parametrize("mp", ["multiprocessing", "manycore"])
def test_beside(mp):
    tries("beside")
"""
RACE = """
@pytest.mark.parametrize("mp", [{package!r}])
def test_race(mp):
    assert tries("race") >= {needed}
"""
DEATH = """
@pytest.mark.parametrize("mp", ["multiprocessing"])
def test_killed(mp):
    if tries("death") < 2:
        os.write(2, b"=== watchdog: test_it.py::test_killed[multiprocessing] does not let go, the run is killed\\n")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def run(tmp_path, text, *options):
    """How the runner ended on a file with `text`, its closing line, and how often its tests ran."""
    path = tmp_path / "test_it.py"
    path.write_text(FILE + text)
    command = [sys.executable, RUNNER, str(path), "-s", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    closing = next(line for line in done.stdout.splitlines() if line.startswith("Python tests:"))
    counted = {name: (tmp_path / name).read_text().count("x") for name in os.listdir(tmp_path) if "." not in name}
    return done.returncode, closing.partition(" in ")[0], counted


@pytest.mark.parametrize(("needed", "tries"), [(1, 1), (2, 2), (3, 3)])
def test_a_race_of_the_standard_package_is_tried_again_alone(tmp_path, needed, tries):
    code, closing, counted = run(tmp_path, RACE.format(package="multiprocessing", needed=needed))
    again = f", {tries - 1} run again" if tries > 1 else ""
    # Of what kind the sums are first, their numbers say.
    assert sorted(closing.partition(": ")[2].split(", ")) == sorted(f"3 passed{again}".split(", "))
    assert (code, counted) == (0, {"beside": 2, "race": tries})


def test_three_tries_are_all(tmp_path):
    code, closing, counted = run(tmp_path, RACE.format(package="multiprocessing", needed=4))
    assert (code, counted) == (1, {"beside": 2, "race": 3})
    assert "1 failed" in closing and "2 run again" in closing and "2 passed" in closing


def test_manycore_has_one_try(tmp_path):
    text = RACE.format(package="manycore", needed=2)
    code, closing, counted = run(tmp_path, text)
    assert (code, counted) == (1, {"beside": 2, "race": 1})
    assert "run again" not in closing


@pytest.mark.parametrize(("needed", "steady"), [(1, True), (2, True), (3, True), (4, False)])
def test_manycore_has_three_tries_where_it_is_told_so(tmp_path, needed, steady):
    code, closing, counted = run(tmp_path, RACE.format(package="manycore", needed=needed), "--look-again")
    assert (code, counted["race"]) == (0 if steady else 1, min(needed, 3))
    assert ("1 unsteady" in closing) == (needed > 1)
    assert ("3 passed" in closing) == steady and ("1 failed" in closing) == (not steady)


def test_a_run_that_was_killed_is_run_again_whole(tmp_path):
    code, closing, counted = run(tmp_path, DEATH)
    assert (code, counted) == (0, {"beside": 4, "death": 2})
    assert "3 passed" in closing and "1 run again" in closing


def test_the_map_of_the_tests_names_every_file():
    folder = os.path.dirname(RUNNER)
    with open(os.path.join(folder, "README.md")) as file:
        subjects = file.read().partition("## Where to look")[2]
    named = re.findall(r"`([a-z_]+)`", "".join(line.split("|")[2] for line in subjects.splitlines()[4:] if "|" in line))
    files = [name[len("test_") : -len(".py")] for name in os.listdir(folder) if re.fullmatch(r"test_.*\.py", name)]
    assert sorted(named) == sorted(files)
