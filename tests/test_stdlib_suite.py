"""CPython's own tests of the package, run against manycore; see stdlib/run.py, stdlib/selected.py, stdlib/known_failures.py."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from stdlib import known_failures, selected

RUNNER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stdlib", "run.py")
METHODS = ("fork", "forkserver", "spawn")


def has_test_package():
    try:
        return importlib.util.find_spec("test._test_multiprocessing") is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.skipif(not has_test_package(), reason="this Python is installed without CPython's test package")
@pytest.mark.only("manycore", reason="the standard package passes its own tests")
@pytest.mark.deadline(400)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("group", selected.PLAIN)
def test_cpython(mp, request, tmp_path, group, method):
    chosen = request.config.getoption("--start-method")
    if chosen and chosen != method:
        pytest.skip("another start method was asked for")
    names = subprocess.run(
        [sys.executable, RUNNER, "--start-method", method, "--list"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    names = [name for name in names if name.partition(".")[0] == group]
    if not names:
        pytest.skip("nothing of this class is selected for this start method")
    # Some tests write into the current folder.
    done = subprocess.run(
        [sys.executable, RUNNER, "--start-method", method, "--timeout", "90", *names],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=380,
        start_new_session=True,
    )
    outcomes = {}
    for line in done.stdout.splitlines():
        try:
            record = json.loads(line)
            outcomes[record["test"]] = record["outcome"]
        except (ValueError, KeyError, TypeError):
            continue  # what the tests themselves print
    hanging = [name for name, outcome in outcomes.items() if outcome == "started"]
    assert not hanging, f"{hanging} did not end\n{done.stderr}"
    assert outcomes, done.stderr
    assert done.returncode == 0, done.stderr


def test_known_failures_are_selected():
    """Every entry names a test that runs, with a reason."""
    for key, why in known_failures.KNOWN_FAILURES.items():
        method, _, name = key.partition(".")
        methods = METHODS if method == "*" else (method,)
        assert any(selected.is_selected(name, one) for one in methods), key
        assert len(why) > 10, f"{key}: say why"
