"""Runs one class of CPython's tests, in this process; started by run.py.

    python tests/conformance/child.py METHOD FD Class.test [Class.test ...]
    python tests/conformance/child.py METHOD FD                             (lists what there is)

One line of JSON a test on the descriptor FD, when it starts and when it ends, so that a hang shows what hung. Children over
spawn import this file as their main module: nothing happens then.
"""

import faulthandler
import importlib
import io
import json
import os
import pkgutil
import re
import signal
import sys
import time
import unittest

#: Where else tests of start methods are; which one a class is for, its name says. The others have nothing to do with it.
MORE = ("test.test_concurrent_futures", "test.test_multiprocessing_main_handling")
METHOD_OF = re.compile("(ProcessPool)?(ForkServer|Fork|Spawn)", re.IGNORECASE)


def all_tests(method):
    """Every test of the start method, in the order of the files."""
    loader = unittest.defaultTestLoader
    # The classes are made in a module that children can import by name, because the tests are pickled by it.
    for suite in loader.loadTestsFromModule(importlib.import_module(f"cpython_{method}")):
        yield from suite
    for module in more_modules():
        for suite in loader.loadTestsFromModule(module):
            for test in suite:
                match = METHOD_OF.match(type(test).__name__)
                if match is not None and match[2].lower() == method:
                    yield test


def more_modules():
    for name in MORE:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:  # some distributions leave it out
            continue
        if hasattr(module, "__path__"):
            for entry in pkgutil.iter_modules(module.__path__):
                if entry.name.startswith("test_"):
                    yield importlib.import_module(f"{name}.{entry.name}")
        else:
            yield module


def short(test):
    return ".".join(test.id().split(".")[-2:])


class Result(unittest.TestResult):
    """Writes what happens, test by test."""

    def __init__(self, report):
        super().__init__(io.StringIO())
        self.report = report
        self.outcome = None

    def note(self, name, outcome, detail=""):
        line = json.dumps({"test": name, "outcome": outcome, "detail": detail, "time": time.monotonic()})
        os.write(self.report, line.encode() + b"\n")

    def startTest(self, test):
        super().startTest(test)
        self.outcome = ("passed", "")
        self.note(short(test), "started")

    def stopTest(self, test):
        super().stopTest(test)
        self.note(short(test), *self.outcome)

    def ended(self, test, outcome, detail):
        self.outcome = (outcome, detail)
        if not hasattr(test, "_testMethodName"):  # a class or module that cannot be set up
            self.note("*", outcome, detail)

    def addError(self, test, error):
        super().addError(test, error)
        self.ended(test, "failed", self._exc_info_to_string(error, test))

    addFailure = addError  # noqa: N815

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.ended(test, "failed", "passed, though it is marked as an expected failure")

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            self.ended(test, "failed", self._exc_info_to_string(error, test))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.ended(test, "skipped", reason)


def main():
    method, report, names = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    os.set_inheritable(report, False)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    from test import support

    support.verbose = False
    tests = list(all_tests(method))
    if not names:
        lines = [short(test) for test in tests]
        with open(report, "w") as file:
            json.dump(lines, file)
        return
    wanted = set(names)
    result = Result(report)
    unittest.TestSuite(test for test in tests if short(test) in wanted).run(result)


if __name__ == "__main__":
    main()
