"""Runs CPython's `test._test_multiprocessing` against a package, in a process of its own.

    python tests/stdlib/run.py --start-method fork                         the selected tests, manycore
    python tests/stdlib/run.py --start-method fork --package multiprocessing   the same tests on the standard package
    python tests/stdlib/run.py --start-method spawn WithProcessesTestPool  classes or tests by name, selected or not
    python tests/stdlib/run.py --start-method fork --list

One line of JSON a test on the descriptor given by --report (default: standard output), so that a hang shows what hung. Exit
code 0 when everything went as `known_failures` says.
"""

import argparse
import faulthandler
import importlib
import io
import json
import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", default="manycore", choices=["manycore", "multiprocessing"])
    parser.add_argument("--start-method", default="fork", choices=["fork", "forkserver", "spawn"])
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="a test that takes longer ends the run, with all stacks"
    )
    parser.add_argument("--report", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("names", nargs="*", help="Class, Class.test")
    return parser.parse_args()


def restart_with_alias():
    """The alias must be there before anything else, in children too: by environment, hence a new interpreter."""
    environment = {
        **os.environ,
        "MANYCORE_STDLIB_ALIAS": "1",
        "PYTHONPATH": os.pathsep.join([os.path.join(HERE, "site"), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    os.execve(sys.executable, [sys.executable, os.path.abspath(__file__), *sys.argv[1:]], environment)


def keep_alias_in_scripts():
    """script_helper starts its interpreters isolated, where no alias would be; ours must have the environment."""
    from test.support import script_helper

    original = script_helper.run_python_until_end

    def run_python_until_end(*args, **variables):
        variables.pop("__isolated", None)
        return original(*args, __isolated=False, PYTHONPATH=os.environ["PYTHONPATH"], **variables)

    script_helper.run_python_until_end = run_python_until_end


def load(method):
    """The test classes, in a module that children can import by name, because the tests are pickled by it."""
    from test import support

    support.verbose = False
    return importlib.import_module(f"cpython_{method}")


def all_tests(module):
    for suite in unittest.defaultTestLoader.loadTestsFromModule(module):
        yield from suite


def short(test):
    return ".".join(test.id().split(".")[-2:])


class Result(unittest.TestResult):
    def __init__(self, timeout, report):
        super().__init__(io.StringIO())
        self.timeout, self.report = timeout, report
        self.outcomes = {}

    def startTest(self, test):
        super().startTest(test)
        self.note(test, "started")
        faulthandler.dump_traceback_later(self.timeout, exit=True)

    def stopTest(self, test):
        faulthandler.cancel_dump_traceback_later()
        super().stopTest(test)
        self.outcomes.setdefault(short(test), ("passed", ""))
        self.note(test, *self.outcomes[short(test)])

    def note(self, test, outcome, detail=""):
        os.write(self.report, json.dumps({"test": short(test), "outcome": outcome, "detail": detail}).encode() + b"\n")

    def addError(self, test, error):
        super().addError(test, error)
        self.outcomes[short(test)] = ("failed", self._exc_info_to_string(error, test))
        if not hasattr(test, "_testMethodName"):  # a class or module that cannot be set up
            self.note(test, *self.outcomes[short(test)])

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.outcomes[short(test)] = ("failed", self._exc_info_to_string(error, test))

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            self.outcomes[short(test)] = ("failed", self._exc_info_to_string(error, test))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.outcomes[short(test)] = ("skipped", reason)
        if not hasattr(test, "_testMethodName"):
            self.note(test, "skipped", reason)


def main():
    options = arguments()
    sys.path.insert(0, HERE)
    if options.package == "manycore":
        if not os.environ.get("MANYCORE_STDLIB_ALIAS"):
            restart_with_alias()
        import alias

        keep_alias_in_scripts()
    import known_failures
    import selected

    module = load(options.start_method)
    suite = unittest.TestSuite()
    for test in all_tests(module):
        name = short(test)
        if options.names:
            wanted = name in options.names or name.partition(".")[0] in options.names
        else:
            wanted = selected.is_selected(name, options.start_method)
        if wanted:
            if options.list:
                print(name)
            suite.addTest(test)
    if options.list:
        return 0
    result = Result(options.timeout, options.report)
    suite.run(result)
    if options.package == "manycore":
        print("lent by the standard package:", *alias.lent_names, *alias.lent(), file=sys.stderr)
    wrong = 0
    for name, (outcome, detail) in sorted(result.outcomes.items()):
        known = options.package == "manycore" and known_failures.reason(name, options.start_method)
        if outcome == "failed" and not known:
            print(f"FAILED {options.start_method}.{name}\n{detail}", file=sys.stderr)
            wrong += 1
        elif outcome == "passed" and known:
            print(f"PASSED though listed in known_failures: {options.start_method}.{name}", file=sys.stderr)
            wrong += 1
    return 1 if wrong or not result.outcomes else 0


# Children over spawn import this file as their main module: nothing may happen there.
if __name__ == "__main__":
    sys.exit(main())
