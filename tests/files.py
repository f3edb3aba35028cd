"""Runs the tests in several pytest processes at once, a file in each.

    python tests/files.py                                every file
    python tests/files.py tests/test_pool.py -k map -x   some; what is not a file is pytest's

A file alone in its process cannot lean on what another one left. Prints what a file that fails has printed, the closing
line of every file, and their sum. Exit code 0 when all pass.

The standard package fails by itself now and then, as when a pool is terminated while its input ends. Where nothing but
its tests failed in a file, they are run again, alone, up to three times in all, and the sum says how many. A file whose
run was killed, so that the rest of it is unknown, is run again whole.

manycore has one try. With `--look-again`, a file in which its tests failed is run again, up to twice; if it passes then,
the exit code is 0, and the sum calls it unsteady. A test that fails once in thousands of runs has to be seen and mended,
but it does not say that the change at hand is at fault.
"""

import collections
import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
#: Node names are relative to it.
ROOT = os.path.dirname(HERE)
#: They take longest, so they start first.
LONG = ("test_pool_payloads", "test_codec", "test_process", "test_connection", "test_synchronize", "test_queues")
#: How often the standard package's tests are tried before they count as failed.
TRIES = 3
LOOK_AGAIN = "--look-again"
#: How often manycore's own tests are looked at again, when that is asked for.
LOOKS = 2
NOTHING_COLLECTED = 5
BLAMED = re.compile(r"^(?:FAILED|ERROR) (\S+)|=== watchdog: (\S+) does not let go", re.MULTILINE)
PROGRESS_FAILED = re.compile(r"^(?:tests/\S+ )?[.sxX]*[FE][.sxXFE]*(?: *\[ *\d+%\])?$", re.MULTILINE)
#: What pytest says where it was told to leave the rest out.
STOPPED = "!! stopping after"
# With `-q` it stands without its frame.
CLOSING = re.compile(r"^(?:=+ )?((?:\d+ |no tests ran ).*?in [\d.]+s.*?)(?: =+)?$", re.MULTILINE)


class Run:
    """One file's tests, or `only` some of them, by their node names; `tries` it has had before. `failures`: how often
    manycore's own tests have failed in it."""

    def __init__(self, path, options, only=(), tries=0, failures=0):
        self.path, self.options, self.only = path, options, only
        self.tries, self.failures = tries + 1, failures
        self.name = os.path.basename(path)
        self.log = tempfile.TemporaryFile(mode="w+", errors="replace")
        # The cache is one for all; a file's own run by hand fills it.
        own = [option for option in options if option != LOOK_AGAIN]
        command = [sys.executable, "-m", "pytest", *(only or [path]), "-p", "no:cacheprovider", *own]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def close(self):
        """How it ended ("passed", "FAILED", "again"), the outcomes by kind, and what starts the next run if there is one.
        Prints what is to be seen."""
        self.log.seek(0)
        with self.log:
            text = self.log.read()
        closing = CLOSING.findall(text)
        line = closing[-1] if closing else f"no closing line, exit code {self.process.returncode}"
        counts = collections.Counter()
        for number, kind in re.findall(r"(\d+) ([a-z]+)", line.partition(" in ")[0] if closing else "1 crashed"):
            counts[kind.rstrip("s")] += int(number)
        verdict, following = "passed", None
        if self.process.returncode not in (0, NOTHING_COLLECTED):
            print(text)
            blamed = standard_alone(text) if self.tries < TRIES else []
            if blamed and closing and STOPPED not in text:
                # They are counted by the run in which they pass, or fail for the last time.
                del counts["failed"], counts["error"]
                counts["run again"] = len(blamed)
                following = functools.partial(Run, self.path, self.options, blamed, self.tries, self.failures)
            elif blamed:
                counts = collections.Counter({"run again": 1})
                following = functools.partial(Run, self.path, self.options, (), self.tries, self.failures)
            elif LOOK_AGAIN in self.options and self.failures < LOOKS:
                counts = collections.Counter(unsteady=int(self.failures == 0))
                following = functools.partial(Run, self.path, self.options, self.only, 0, self.failures + 1)
            verdict = "again" if following else "FAILED"
        print(f"{verdict}  {self.name}: {line}", flush=True)
        return verdict, counts, following


def standard_alone(text):
    """The tests that failed, if all of them are the standard package's. A run that was killed names the last one alone:
    then whatever failed before it was ours, for all that is known."""
    if not CLOSING.search(text) and PROGRESS_FAILED.search(text):
        return []
    blamed = list(dict.fromkeys("".join(names) for names in BLAMED.findall(text)))
    return blamed if all("[multiprocessing" in name for name in blamed) else []


def chosen(arguments):
    """The files to run, the longest first, and pytest's options."""
    paths = [argument for argument in arguments if os.path.exists(argument.partition("::")[0])]
    options = [argument for argument in arguments if argument not in paths]
    paths = list(map(os.path.abspath, paths))
    if not paths:
        paths = [os.path.join(HERE, name) for name in sorted(os.listdir(HERE)) if re.fullmatch(r"test_.*\.py", name)]
    return sorted(paths, key=lambda path: not os.path.basename(path).startswith(LONG)), options


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    began = time.monotonic()
    paths, options = chosen(sys.argv[1:])
    waiting = [functools.partial(Run, path, options) for path in paths]
    running, failed, sums = [], [], collections.Counter()
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                running.append(waiting.pop(0)())
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            for run in [run for run in running if run.process.poll() is not None]:
                running.remove(run)
                verdict, counts, following = run.close()
                sums += counts
                if following is not None:
                    waiting.insert(0, following)
                elif verdict == "FAILED":
                    failed.append(run.name)
    finally:
        for run in running:
            run.process.terminate()
    outcomes = ", ".join(f"{number} {kind}" for kind, number in sorted(sums.items(), reverse=True))
    print(f"Python tests: {outcomes or 'none'} in {time.monotonic() - began:.0f} s")
    if failed:
        sys.exit(f"failed: {', '.join(sorted(failed))}")


if __name__ == "__main__":
    main()
