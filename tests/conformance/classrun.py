"""One class of tests in a process of its own, with a watchdog: a test that does not end is a failure with all stacks."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import prefix

HERE = os.path.dirname(os.path.abspath(__file__))
CHILD = os.path.join(HERE, "child.py")
#: How long the stacks may take to be printed.
GRACE = 1.0
#: How much of what the processes have printed is shown with a failure.
LOG_TAIL = 20_000
INTERPRETER_EXIT = "(exit)"


def start(python, method, report, names=(), **options):
    command = [python, CHILD, method, str(report), *names]
    return subprocess.Popen(command, pass_fds=(report,), start_new_session=True, **options)


def list_tests(python, method):
    """The names of the tests of one start method."""
    reader, writer = os.pipe()
    with open(reader) as file:
        process = start(python, method, writer, stdin=subprocess.DEVNULL, env=prefix.environment())
        os.close(writer)
        text = file.read()
        if process.wait() or not text:
            sys.exit(f"{python}: the tests of {method} cannot be loaded")
        return json.loads(text)


class ClassRun:
    """A class that is being run. `outcomes`: test to (outcome, detail); complete once `step` returns False."""

    def __init__(self, python, method, names, timeout):
        self.python, self.method, self.timeout = python, method, timeout
        self.group = names[0].partition(".")[0]
        self.left = list(names)
        self.outcomes = {}
        self.began = time.monotonic()
        self._launch()

    def _launch(self):
        self.current, self.buffer, self.fixture, self.reported = None, b"", None, False
        self.last = time.monotonic()
        self.folder = tempfile.mkdtemp(prefix="mcc-")
        self.log = open(os.path.join(self.folder, "log"), "w+b")
        self.report, writer = os.pipe()
        os.set_blocking(self.report, False)
        work = os.path.join(self.folder, "work")
        os.mkdir(work)
        # Short names: a socket's path has a hundred characters at most.
        environment = prefix.environment(PYTHONFAULTHANDLER="1", TMPDIR=self.folder)
        self.process = start(
            self.python,
            self.method,
            writer,
            self.left,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            cwd=work,
            env=environment,
        )
        os.close(writer)
        self.pidfd = os.pidfd_open(self.process.pid)

    def fds(self):
        return self.report, self.pidfd

    def step(self):
        """Take in what has happened. Returns whether the class still runs."""
        ended = self.process.poll() is not None
        self._read()
        if not ended:
            if time.monotonic() - self.last < self.timeout * crowd():
                return True
            self._print_stacks()
        code = self.process.poll()
        self._finish()
        if ended and code and not self.reported:
            sys.exit(f"{self.group} ({self.python}, {self.method}) cannot be run at all:\n{self.printed}")
        name = self.current or f"{self.group}.{INTERPRETER_EXIT}"
        if not ended:
            self._fail(name, f"hangs: no end after {self.timeout:.0f} s")
        elif self.current is not None or code:
            self._fail(name, f"the process ended with exit code {code}")
        self.left = [test for test in self.left if test not in self.outcomes]
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.fixture is not None:
            self.outcomes.update((test, self.fixture) for test in self.left)
        elif self.left and self.current is not None:
            # One test has taken the process with it. The others get another.
            self._launch()
            return True
        else:
            for test in self.left:
                self._fail(test, "did not run")
        return False

    def _read(self):
        try:
            while chunk := os.read(self.report, 1 << 16):
                self.buffer += chunk
                self.last = time.monotonic()
        except BlockingIOError:
            pass
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            self.reported = True
            record = json.loads(line)
            name, outcome = record["test"], (record["outcome"], record["detail"])
            if name == "*":
                self.fixture = outcome
            elif outcome[0] == "started":
                self.current = name
            else:
                self.current = None
                self.outcomes[name] = outcome

    def _print_stacks(self):
        """SIGABRT makes faulthandler print all stacks of a process, and ends it."""
        for pid in session_members(self.process.pid):
            self.log.write(f"\n=== process {pid}\n".encode())
            self.log.flush()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
            time.sleep(GRACE / 4)
        time.sleep(GRACE)

    def end(self):
        """Break off."""
        self._finish()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _finish(self):
        if self.log.closed:
            return
        for pid in session_members(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - LOG_TAIL))
        self.printed = self.log.read().decode(errors="replace")
        self.log.close()
        os.close(self.report)
        os.close(self.pidfd)

    def _fail(self, name, why):
        self.outcomes[name] = ("failed", f"{why}\n{self.printed}")


def crowd():
    """How many processes share a processor, at least 1. A test may take so much longer, or a busy machine would seem to
    hang."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def session_members(session):
    """Every process of a session that has not ended."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry))
    return found
