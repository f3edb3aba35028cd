"""The runner of CPython's tests can fail: it sees hangs, deaths, lists that are not true. (The tests themselves: make conformance.)"""

import importlib.util
import os
import subprocess
import sys
import time
import tomllib

import pytest

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "conformance")
sys.path.insert(0, FOLDER)
import classrun
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
    one = classrun.ClassRun(sys.executable, "multiprocessing", "fork", names, timeout)
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
import json, os, sys, time
report, names = int(sys.argv[2]), sys.argv[3:]
def note(name, outcome, detail=""):
    os.write(report, json.dumps({"test": name, "outcome": outcome, "detail": detail}).encode() + b"\\n")
def this_function_hangs():
    while True:
        time.sleep(1)
for name in names:
    note(name, "started")
    if name.endswith("hangs"):
        if os.fork() == 0:
            time.sleep(1000)
        this_function_hangs()
    if name.endswith("dies"):
        os.abort()
    note(name, "passed")
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
def test_what_counts_as_wrong(monkeypatch, outcome, standard, known, verdict):
    monkeypatch.setattr(run, "differences", lambda method: {"A.test": "why"} if known else {})
    assert run.judge("fork", "A.test", outcome, standard) == verdict


def test_the_list_of_differences():
    with open(run.DIFFERENCES, "rb") as file:
        tables = tomllib.load(file)
    assert set(tables) <= {"all", *run.METHODS}
    for table in tables.values():
        for name, reason in table.items():
            assert name.count(".") == 1
            assert len(reason.split()) > 5, f"{name}: say why"
    for method in run.METHODS:
        assert len(run.differences(method)) <= run.MOST_DIFFERENCES


def test_a_name_that_no_test_has():
    command = [sys.executable, os.path.join(FOLDER, "run.py"), "--start-method", "fork", "TestNothing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert "no test has such a name" in done.stderr
