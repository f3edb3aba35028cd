"""Runs the tests in several pytest processes at once, a file in each.

    python tests/files.py                                every file
    python tests/files.py tests/test_pool.py -k map -x   some; what is not a file is pytest's

A file alone in its process cannot lean on what another one left. Prints what a file that fails has printed, the closing
line of every file, and their sum. Exit code 0 when all pass.

The standard package hangs by itself now and then, as when a pool is terminated while its input ends. A file in which
nothing but its tests failed is run once more. manycore has one try.
"""

import collections
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
#: They take longest, so they start first.
LONG = ("test_pool_payloads", "test_codec", "test_process", "test_connection", "test_synchronize", "test_queues")
NOTHING_COLLECTED = 5
BLAMED = re.compile(r"^(?:FAILED|ERROR) (\S+)|=== watchdog: (\S+) does not let go", re.MULTILINE)
PROGRESS_FAILED = re.compile(r"^(?:tests/\S+ )?[.sxX]*[FE][.sxXFE]*(?: *\[ *\d+%\])?$", re.MULTILINE)
# With `-q` it stands without its frame.
CLOSING = re.compile(r"^(?:=+ )?((?:\d+ |no tests ran ).*?in [\d.]+s.*?)(?: =+)?$", re.MULTILINE)


class Run:
    """One file's tests."""

    def __init__(self, path, options, is_last_try=False):
        self.path, self.is_last_try = path, is_last_try
        self.name = os.path.basename(path)
        self.log = tempfile.TemporaryFile(mode="w+", errors="replace")
        # The cache is one for all; a file's own run by hand fills it.
        command = [sys.executable, "-m", "pytest", path, "-p", "no:cacheprovider", *options]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def close(self):
        """How it ended ("passed", "FAILED", "again"), and the outcomes by kind. Prints what is to be seen."""
        self.log.seek(0)
        with self.log:
            text = self.log.read()
        closing = CLOSING.findall(text)
        line = closing[-1] if closing else f"no closing line, exit code {self.process.returncode}"
        counts = collections.Counter()
        for number, kind in re.findall(r"(\d+) ([a-z]+)", line.partition(" in ")[0] if closing else "1 crashed"):
            counts[kind.rstrip("s")] += int(number)
        verdict = "passed"
        if self.process.returncode not in (0, NOTHING_COLLECTED):
            print(text)
            verdict = "FAILED" if self.is_last_try or not standard_alone(text) else "again"
        print(f"{verdict}  {self.name}: {line}", flush=True)
        return verdict, counts


def standard_alone(text):
    """Whether all tests that failed are the standard package's. A run that was killed names the last one alone: then
    whatever failed before it was ours, for all that is known."""
    blamed = BLAMED.findall(text)
    if not CLOSING.search(text) and PROGRESS_FAILED.search(text):
        return False
    return bool(blamed) and all("[multiprocessing" in "".join(names) for names in blamed)


def chosen(arguments):
    """The files to run, the longest first, and pytest's options."""
    paths = [argument for argument in arguments if os.path.exists(argument.partition("::")[0])]
    options = [argument for argument in arguments if argument not in paths]
    if not paths:
        paths = [os.path.join(HERE, name) for name in sorted(os.listdir(HERE)) if re.fullmatch(r"test_.*\.py", name)]
    return sorted(paths, key=lambda path: not os.path.basename(path).startswith(LONG)), options


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    began = time.monotonic()
    waiting, options = chosen(sys.argv[1:])
    running, again, failed, sums = [], set(), [], collections.Counter()
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                path = waiting.pop(0)
                running.append(Run(path, options, is_last_try=path in again))
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            for run in [run for run in running if run.process.poll() is not None]:
                running.remove(run)
                verdict, counts = run.close()
                if verdict == "again":
                    waiting.insert(0, run.path)
                    again.add(run.path)
                    continue
                sums += counts
                if verdict == "FAILED":
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
