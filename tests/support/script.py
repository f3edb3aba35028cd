"""Programs run in a process of their own, for what a test cannot do to its own interpreter: interrupt it, kill it, let it exit."""

import os
import select
import signal
import subprocess
import sys
import textwrap
import time

from . import census

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

PRELUDE = """\
import os, signal, sys, time
sys.path.insert(0, {tests!r})
import {package} as mp
from support import tasks

"""


class Script:
    """A running program in its own session. The text may use `mp`, `tasks`, `os`, `sys`, `signal`, `time`; definitions at its
    top level, what the parent does in a function `main` (called only in the parent, so every start method works)."""

    def __init__(self, folder, package, text, *, arguments=(), prefix=(), environment=None):
        path = os.path.join(folder, "script.py")
        with open(path, "w") as file:
            file.write(PRELUDE.format(tests=TESTS, package=package))
            file.write(textwrap.dedent(text))
            file.write('\n\nif __name__ == "__main__":\n    main()\n')
        # Unbuffered, so that a line is there when the script says so, and a scratch folder that dies with the test.
        settings = {**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder), **(environment or {})}
        self.process = subprocess.Popen(
            [*prefix, sys.executable, path, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=settings,
            start_new_session=True,
        )
        self.pid = self.process.pid
        self.output, self.errors = b"", b""

    def read_line(self, seconds=40.0):
        """The next line of its standard output, without the end of line."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self.output:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not chunk:
                self.kill()
                raise AssertionError(
                    f"no line from the script; it wrote {self.output!r}, errors:\n{self.errors.decode()}"
                )
            self.output += chunk
        line, _, self.output = self.output.partition(b"\n")
        return line.decode()

    def read_pids(self):
        return [int(word) for word in self.read_line().split()]

    def family(self):
        """Every process of the script, itself included."""
        return [self.pid, *census.descendants(self.pid)]

    def interrupt(self):
        """What Ctrl-C on a terminal does."""
        os.killpg(self.pid, signal.SIGINT)

    def finish(self, seconds=40.0):
        """Waits for its end and for the end of its output, which an orphan would keep open. The exit code."""
        try:
            output, errors = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            family = {pid: census.describe(pid) for pid in self.family()}
            self.kill()
            raise AssertionError(
                f"the script or an orphan of it did not end: {family}\n{self.output.decode()}\n{self.errors.decode()}"
            ) from None
        self.output += output
        self.errors += errors
        return self.process.returncode

    def kill(self):
        for pid in reversed(self.family()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        output, errors = self.process.communicate()
        self.output += output
        self.errors += errors

    def orphans(self):
        """Processes of the script's session that outlive it, after a bounded wait."""

        def gone():
            census.reap_adopted()
            return not self._session()

        census.eventually(gone)
        return self._session()

    def _session(self):
        left = {}
        for pid in census.descendants(os.getpid()):
            fields = census.stat_fields(pid)
            if fields and fields[2] == self.pid and fields[0] != "Z":
                left[pid] = census.describe(pid)
        return left

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()
        for pid in self._session():
            os.kill(pid, signal.SIGKILL)
        self.process.stdout.close()
        self.process.stderr.close()
        self.process.wait()
        census.eventually(lambda: census.reap_adopted() or not self._session())
