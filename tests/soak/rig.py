"""What a scenario has in its hands: a context, luck, an end, accounts, and a place to say what it waits for."""

import collections
import contextlib
import gc
import os
import random
import time
import zlib

#: No wait takes so long unless it is for ever. The driver gives a program that much longer, too.
PATIENCE = 60.0


class Rig:
    """One scenario's run in one start method."""

    def __init__(self, ctx, seed, seconds, status):
        self.ctx = ctx
        self.random = random.Random(seed)
        self.counts = collections.Counter()
        self._end = time.monotonic() + seconds
        self._status = status
        self.marks = []

    def over(self):
        """Whether the time is up. What was begun is brought to its end."""
        return time.monotonic() >= self._end

    @contextlib.contextmanager
    def awaiting(self, what):
        """Note what is waited for, for whoever finds us waiting."""
        os.pwrite(self._status, what.encode()[:200].ljust(200), 0)
        yield
        os.pwrite(self._status, b"nothing".ljust(200), 0)

    def start(self, target, *args):
        """Start a daemonic process that may be killed at any moment, also before it has begun."""
        process = self.ctx.Process(target=target, args=args, daemon=True)
        with self.awaiting(f"the start of {target.__name__}"):
            process.start()
        self.counts["processes"] += 1
        return process

    def end(self, processes):
        """End what is left of these."""
        for process in processes:
            self.random.choice((process.terminate, process.kill))()
        for process in processes:
            with self.awaiting(f"the end of {process}"):
                process.join(PATIENCE)
            assert process.exitcode is not None, f"{process} has not ended"
            if process.exitcode == -9:
                self.counts["killed"] += 1
            process.close()

    def mark(self):
        """After a cycle has given everything back: note what we hold."""
        gc.collect()
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        self.marks.append((resident, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))))


def role(name):
    """Say what this process is, for whoever looks for somebody to kill."""
    with open("/proc/self/comm", "w") as file:
        file.write(f"soak-{name}")


def payload(number, size):
    """Return bytes that tell whether they are whole and whose they are."""
    body = random.Random(number).randbytes(min(size, 64)) * (size // 64 + 1)
    return number, body[:size], zlib.crc32(body[:size])


def whole(message):
    """Return the number of a payload; AssertionError if it is damaged."""
    number, body, check = message
    assert zlib.crc32(body) == check, f"message {number} of {len(body)} bytes is damaged"
    return number
