"""Runs CPython's own tests of `multiprocessing`, of main modules in children, and of executors, against manycore.

    python tests/conformance/run.py                                   everything, in every start method
    python tests/conformance/run.py --start-method spawn WithProcessesTestLock
    python tests/conformance/run.py TestWait.test_wait_timeout        classes and tests by name
    python tests/conformance/run.py --package multiprocessing         the standard package, for comparison
    python tests/conformance/run.py --python .venv-3.12/bin/python    another interpreter, with manycore in it

The tests are those of the interpreter's own `test` package, run in a throw-away copy of the interpreter's prefix in which
`multiprocessing` is manycore (prefix.py). Every class runs in a process of its own. A test that fails is run again, alone,
up to three times in all, and counts as failed if it fails every time: some of the suite's tests are races, which the
standard package loses, too. What manycore does not pass is asked of the standard package: a test that fails on this
machine with both says nothing about manycore. Exit code 0 when every test that the standard package passes passes here,
but for those in known_differences.toml.
"""

import argparse
import collections
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import tomllib

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import classrun
import prefix

from support import signals

#: The default of the newest interpreters first.
METHODS = ("forkserver", "fork", "spawn")
#: More would mean that this is another package, not the same one.
MOST_DIFFERENCES = 8
#: How often a test is tried before it counts as failed.
TRIES = 3
#: Begins the reason for a test that differs by chance: it may pass.
BY_CHANCE = "now and then:"
DIFFERENCES = os.path.join(classrun.HERE, "known_differences.toml")
#: They take longest, so they start first.
LONG = ("Pool", "Shutdown", "Deadlock", "Manager", "Condition", "Barrier", "Queue", "TestWait", "TestProcess")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", default="manycore", choices=["manycore", "multiprocessing"])
    parser.add_argument("--start-method", action="append", choices=METHODS, help="may be repeated; default: all")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to test with")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many classes run at a time")
    parser.add_argument(
        "--timeout", type=float, default=90.0, help="a test that takes longer hangs; more where processors are shared"
    )
    parser.add_argument("--tries", type=int, default=TRIES, help="how often a test may fail before it counts as failed")
    parser.add_argument("--both", action="store_true", help="run all tests on the standard package, too")
    parser.add_argument("--list", action="store_true", help="print the names of the tests")
    parser.add_argument("--slowest", type=int, default=0, metavar="N", help="print the N slowest classes")
    parser.add_argument("names", nargs="*", help="Class, or Class.test")
    options = parser.parse_args()
    # Made absolute, not resolved: an environment's interpreter is a link. A bare name is looked up.
    options.python = shutil.which(options.python) or sys.exit(f"{options.python} is not an interpreter")
    options.python = os.path.abspath(options.python)
    return options


def differences(method, version):
    """The tests that are known to differ in a start method, with their reasons. A table of a version is for the later
    ones, too."""
    with open(DIFFERENCES, "rb") as file:
        tables = tomllib.load(file)
    found = {}
    for name in ("all", method):
        for key, value in tables.get(name, {}).items():
            if not isinstance(value, dict):
                found[key] = value
            elif version >= tuple(map(int, key.split("."))):
                found.update(value)
    return found


def run_with_tries(options, python, wanted, listed):
    """Run `wanted`, and what fails again, one test at a time. Returns (method, test) to outcome, and those that passed
    another time. `listed` holds the known differences, which have one try."""
    outcomes = run_classes(options, python, wanted)
    rescued = set()
    for key in sorted(key for key, (outcome, _) in outcomes.items() if outcome == "failed" and key not in listed):
        method, name = key
        group, _, test = name.partition(".")
        # How a class's process ends is tried with the whole class.
        whole = test == classrun.INTERPRETER_EXIT
        names = (
            [one for other, one in wanted if other == method and one.partition(".")[0] == group] if whole else [name]
        )
        for _ in range(options.tries - 1):
            again = run_classes(options, python, [(method, one) for one in names])
            if whole:
                again = {key: again.get(key, ("passed", ""))}
            if all(outcome != "failed" for outcome, _ in again.values()):
                outcomes[key] = again[key]
                rescued.add(key)
                break
    return outcomes, rescued


def run_classes(options, python, wanted):
    """Run `wanted`, a list of (method, test), class by class, some at a time. Returns (method, test) to outcome."""
    groups = collections.defaultdict(list)
    for method, name in wanted:
        groups[method, name.partition(".")[0]].append(name)
    waiting = sorted(groups, key=lambda key: any(word in key[1] for word in LONG))
    running, outcomes, times = [], {}, []
    try:
        run_some(options, python, groups, waiting, running, outcomes, times)
    finally:
        for one in running:
            one.end()
    for seconds, name in sorted(times, reverse=True)[: options.slowest]:
        print(f"{seconds:7.1f} s  {name}")
    return outcomes


def run_some(options, python, groups, waiting, running, outcomes, times):
    while waiting or running:
        while waiting and len(running) < options.jobs:
            key = waiting.pop()
            running.append(classrun.ClassRun(python, key[0], groups[key], options.timeout))
        select.select([fd for one in running for fd in one.fds()], [], [], 1.0)
        for one in running[:]:
            if not one.step():
                running.remove(one)
                times.append((time.monotonic() - one.began, f"{one.method}.{one.group}"))
                outcomes.update(((one.method, name), outcome) for name, outcome in one.outcomes.items())


def select_tests(options, python):
    """The (method, test) that were asked for."""
    wanted = []
    for method in options.start_method or METHODS:
        for name in classrun.list_tests(python, method):
            if not options.names or name in options.names or name.partition(".")[0] in options.names:
                wanted.append((method, name))
    return wanted


def judge(outcome, standard, reason=None):
    """What an outcome counts as, and whether that is wrong. `reason`: that of the known difference."""
    known = reason is not None
    if outcome == "passed":
        listed = known and not reason.startswith(BY_CHANCE)
        return ("passed, though listed", True) if listed else ("passed", False)
    if standard == outcome:
        return (f"{outcome} in both", False)
    if known:
        return ("listed", False)
    if outcome == "skipped" and standard != "passed":
        return ("skipped in both", False)
    return (outcome, True)


def main():
    options = arguments()
    signals.heed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        under_test = stack.enter_context(prefix.Prefix(options.python, options.package))
        wanted = select_tests(options, under_test.python)
        if options.list:
            print(*(f"{method}.{name}" for method, name in wanted), sep="\n")
            return 0
        if not wanted:
            sys.exit("no test has such a name; --list prints those there are")
        known = {method: differences(method, under_test.version) for method in METHODS}
        listed = {(method, name) for method, names in known.items() for name in names}
        ours, rescued = run_with_tries(options, under_test.python, wanted, listed)
        standard = {}
        if options.package == "manycore":
            # What did not pass; the names of a class's own failures, such as its exit, are no tests.
            asked = [key for key in wanted if options.both or ours[key][0] != "passed"]
            beside = stack.enter_context(prefix.Prefix(options.python, "multiprocessing"))
            standard, _ = run_with_tries(options, beside.python, asked, ())
    wrong = report(options, ours, standard, known, rescued)
    print(f"in {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


def report(options, ours, standard, known, rescued):
    """Print what is to be seen, and the table. Returns whether anything is wrong."""
    counts, wrong = collections.defaultdict(collections.Counter), 0
    for (method, name), (outcome, detail) in sorted(ours.items()):
        if options.package == "manycore":
            theirs = standard.get((method, name), ("passed", ""))[0]
            verdict, bad = judge(outcome, theirs, known[method].get(name))
        else:
            theirs, verdict, bad = outcome, outcome, outcome == "failed"
        counts[method][verdict] += 1
        counts[method]["standard", theirs] += 1
        counts[method]["run again"] += (method, name) in rescued
        wrong += bad
        if options.names or bad:
            print(f"{verdict.upper()}  {method}.{name}")
            if outcome != "passed" and (bad or options.names):
                print(indented(detail))
    print(table(options, counts))
    for method, verdicts in counts.items():
        if verdicts["listed"] > MOST_DIFFERENCES:
            print(f"{method}: {verdicts['listed']} listed differences, at most {MOST_DIFFERENCES} are allowed")
            wrong += 1
    return wrong > 0


def indented(text):
    return "".join(f"    {line}\n" for line in text.splitlines())


def table(options, counts):
    """How many tests went how, by start method; beside it the standard package.

    Unless it was asked for everything it was asked for what did not pass here, and the rest counts as passed.
    """
    version = "import platform; print(platform.python_version())"
    version = subprocess.run([options.python, "-c", version], capture_output=True, text=True, check=True).stdout.strip()
    columns = ["passed", "run again", "failed", "listed", "skipped in both", "failed in both"]
    found = {verdict for verdicts in counts.values() for verdict in verdicts if isinstance(verdict, str)}
    columns += sorted(found - set(columns))
    theirs = ["passed", "failed", "skipped"] if options.package == "manycore" else []
    headings = [f"standard: {outcome}" for outcome in theirs]
    rows = [[f"{options.package}, CPython {version}", *columns, *headings]]
    for method, verdicts in counts.items():
        numbers = [verdicts[column] for column in columns], [verdicts["standard", outcome] for outcome in theirs]
        rows.append([method, *map(str, [*numbers[0], *numbers[1]])])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
