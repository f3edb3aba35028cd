"""The runner of CPython's tests can fail: it sees hangs, deaths, lists that are not true. (The tests themselves: make conformance.)"""

import importlib.util
import os
import subprocess
import sys
import time
import tomllib
import types

import pytest

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "conformance")
sys.path.insert(0, FOLDER)
import classrun
import prefix
import run

del sys.path[0]

try:
    MISSING = importlib.util.find_spec("test._test_multiprocessing") is None
except ModuleNotFoundError:
    MISSING = True
pytestmark = pytest.mark.skipif(MISSING, reason="this Python is installed without CPython's test package")


def outcomes(names, timeout=50.0, child=None, monkeypatch=None):
    if child is not None:
        monkeypatch.setattr(classrun, "CHILD", str(child))
    one = classrun.ClassRun(sys.executable, "fork", names, timeout)
    while one.step():
        time.sleep(0.01)
    return {name: (outcome, detail) for name, (outcome, detail) in one.outcomes.items()}


def test_a_class_passes():
    found = outcomes(["TestInvalidFamily.test_invalid_family_win32", "TestInvalidFamily.test_invalid_family"])
    assert {name: outcome for name, (outcome, _) in found.items()} == {
        "TestInvalidFamily.test_invalid_family": "passed",
        "TestInvalidFamily.test_invalid_family_win32": "skipped",
    }


CHILD = """
import json, os, sys, tempfile, time
report, names = int(sys.argv[2]), sys.argv[3:]
def note(name, outcome, detail=""):
    os.write(report, json.dumps({"test": name, "outcome": outcome, "detail": detail}).encode() + b"\\n")
def this_function_hangs():
    while True:
        time.sleep(1)
for name in names:
    note(name, "started")
    marks = os.environ.get("MARKS")
    if marks:
        os.close(tempfile.mkstemp("", name + "-", marks)[0])
        tries = sum(one.startswith(name + "-") for one in os.listdir(marks))
    if name.endswith("third_time") and tries < 3 or name.endswith("fourth_time"):
        note(name, "failed")
        continue
    if name.endswith("hangs"):
        if os.fork() == 0:
            time.sleep(1000)
        this_function_hangs()
    if name.endswith("dies"):
        os.abort()
    note(name, "passed")
if names == ["C.bad_exit"] and tries < 2:
    sys.exit(1)
"""


def test_a_hang_is_a_failure_with_all_stacks(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    found = outcomes(["A.first", "A.hangs", "A.last"], 3.0, child, monkeypatch)
    assert {name: outcome for name, (outcome, _) in found.items()} == {
        "A.first": "passed",
        "A.hangs": "failed",
        "A.last": "passed",
    }
    detail = found["A.hangs"][1]
    assert detail.startswith("hangs")
    assert "this_function_hangs" in detail
    assert detail.count("=== process") == 2


def test_a_death_takes_one_test_with_it(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    found = outcomes(["A.first", "A.dies", "A.last"], 50.0, child, monkeypatch)
    assert found["A.dies"][0] == "failed" and "exit code -6" in found["A.dies"][1]
    assert (found["A.first"][0], found["A.last"][0]) == ("passed", "passed")


@pytest.mark.parametrize(
    ("outcome", "standard", "known", "verdict"),
    [
        ("passed", "passed", False, ("passed", False)),
        ("passed", "passed", True, ("passed, though listed", True)),
        ("failed", "passed", False, ("failed", True)),
        ("failed", "passed", True, ("listed", False)),
        ("failed", "failed", False, ("failed in both", False)),
        ("failed", "skipped", False, ("failed", True)),
        ("skipped", "passed", False, ("skipped", True)),
        ("skipped", "skipped", False, ("skipped in both", False)),
    ],
)
def test_what_counts_as_wrong(outcome, standard, known, verdict):
    assert run.judge(outcome, standard, "a reason" if known else None) == verdict


def test_what_differs_by_chance_may_pass():
    assert run.judge("passed", "passed", run.BY_CHANCE + " a race") == ("passed", False)


def test_the_list_of_differences():
    with open(run.DIFFERENCES, "rb") as file:
        tables = tomllib.load(file)
    assert set(tables) <= {"all", *run.METHODS}
    versions = {key for table in tables.values() for key, value in table.items() if isinstance(value, dict)}
    for version in [(3, 11), *(tuple(map(int, version.split("."))) for version in versions)]:
        for method in run.METHODS:
            known = run.differences(method, version)
            assert len(known) <= run.MOST_DIFFERENCES, (method, version)
            for name, reason in known.items():
                assert name.count(".") == 1
                assert len(reason.split()) > 5, f"{name}: say why"


def test_differences_of_a_version_are_for_later_ones_too(tmp_path, monkeypatch):
    file = tmp_path / "known.toml"
    file.write_text('[all]\n"A.one" = "why"\n[fork."3.14"]\n"A.two" = "why"\n[all."3.15"]\n"A.three" = "why"\n')
    monkeypatch.setattr(run, "DIFFERENCES", str(file))
    assert set(run.differences("fork", (3, 9))) == {"A.one"}
    assert set(run.differences("fork", (3, 14))) == {"A.one", "A.two"}
    assert set(run.differences("spawn", (3, 14))) == {"A.one"}
    assert set(run.differences("fork", (3, 15))) == {"A.one", "A.two", "A.three"}


@pytest.mark.parametrize("package", ["multiprocessing", "manycore"])
@pytest.mark.parametrize("flags", [[], ["-E"], ["-I"], ["-S"], ["-I", "-S"]], ids="".join)
def test_multiprocessing_is_the_package_however_a_child_is_started(package, flags):
    say = "import multiprocessing.pool as p, sys; print(p.__name__, sys.prefix, sys.prefix == sys.base_prefix)"
    with prefix.Prefix(sys.executable, package) as place:
        command = [place.python, *flags, "-c", say]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True, env=prefix.environment())
        assert done.stdout.split() == [f"{package}.pool", place.folder, "True"]
    assert not os.path.exists(place.folder)


def fake_suite(tmp_path, monkeypatch, names):
    """Runs tests of the stand-in child with tries."""
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    monkeypatch.setattr(classrun, "CHILD", str(child))
    monkeypatch.setenv("MARKS", str(tmp_path))
    options = types.SimpleNamespace(jobs=2, timeout=3.0, slowest=0, tries=run.TRIES)
    return run.run_with_tries(options, sys.executable, [("fork", name) for name in names], {("fork", "A.listed_dies")})


def test_what_fails_is_run_again_alone(tmp_path, monkeypatch):
    found, rescued = fake_suite(
        tmp_path, monkeypatch, ["A.first", "A.third_time", "A.fourth_time", "B.dies", "A.listed_dies", "C.bad_exit"]
    )
    assert {name: outcome for (_, name), (outcome, _) in found.items()} == {
        "A.first": "passed",
        "A.third_time": "passed",
        "A.fourth_time": "failed",
        "B.dies": "failed",
        "A.listed_dies": "failed",
        "C.bad_exit": "passed",
        f"C.{classrun.INTERPRETER_EXIT}": "passed",
    }
    assert rescued == {("fork", "A.third_time"), ("fork", f"C.{classrun.INTERPRETER_EXIT}")}
    tries = {name: len(list(tmp_path.glob(name + "-*"))) for name in ("A.first", "A.fourth_time", "A.listed_dies")}
    assert tries == {"A.first": 1, "A.fourth_time": 3, "A.listed_dies": 1}


def test_a_name_that_no_test_has():
    command = [sys.executable, os.path.join(FOLDER, "run.py"), "--start-method", "fork", "TestNothing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert "no test has such a name" in done.stderr
