"""CPython's tests that manycore does not pass, with the reason. A test listed here that passes fails the run.

Keys: "METHOD.Class.test", or "*.Class.test" for every start method in which the test is selected.
"""

KNOWN_FAILURES: dict[str, str] = {
    "*.TestPoolNotLeakOnFailure.test_release_unused_processes": (
        "its stand-ins for processes have neither pid nor sentinel, by which a pool here watches its workers"
    ),
    "*._TestImportStar.test_import": "expects the Windows modules of the standard package to be there to be left out",
}


def reason(name, method):
    return KNOWN_FAILURES.get(f"{method}.{name}") or KNOWN_FAILURES.get(f"*.{name}")
