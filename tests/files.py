"""Runs the tests in several pytest processes at once, a file in each.

    python tests/files.py                                every file
    python tests/files.py tests/test_pool.py -k map -x   some; what is not a file is pytest's

A file alone in its process cannot lean on what another one left. Prints what a file that fails has printed, the closing
line of every file, and their sum. Exit code 0 when all pass.
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
LONG = ("test_process_many", "test_codec", "test_managers", "test_pool", "test_queues", "test_start_methods")
NOTHING_COLLECTED = 5
CLOSING = re.compile(r"^=+ (.* in [\d.]+s.*) =+$", re.MULTILINE)


class Run:
    """One file's tests."""

    def __init__(self, path, options):
        self.name = os.path.basename(path)
        self.log = tempfile.TemporaryFile(mode="w+", errors="replace")
        # The cache is one for all; a file's own run by hand fills it.
        command = [sys.executable, "-m", "pytest", path, "-p", "no:cacheprovider", *options]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def close(self):
        """Whether all passed, and the outcomes by kind. Prints what is to be seen."""
        self.log.seek(0)
        with self.log:
            text = self.log.read()
        passed = self.process.returncode in (0, NOTHING_COLLECTED)
        closing = CLOSING.findall(text)
        if not passed:
            print(text)
        line = closing[-1] if closing else f"no closing line, exit code {self.process.returncode}"
        print(f"{'passed' if passed else 'FAILED'}  {self.name}: {line}", flush=True)
        counts = collections.Counter()
        for number, kind in re.findall(r"(\d+) ([a-z]+)", line.partition(" in ")[0] if closing else "1 crashed"):
            counts[kind] += int(number)
        return passed, counts


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
    running, failed, sums = [], [], collections.Counter()
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                running.append(Run(waiting.pop(0), options))
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            for run in [run for run in running if run.process.poll() is not None]:
                running.remove(run)
                passed, counts = run.close()
                sums += counts
                if not passed:
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
