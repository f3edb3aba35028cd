"""A process beside the test run that ends what hangs.

It must work when the interpreter under test does not: a wait inside the engine that never returns keeps the interpreter
lock or ignores signals, so nothing inside the process can be trusted to end it. The run writes one line a test to this
process's standard input (`arm SECONDS NAME`, `disarm`). Where other programs keep the processors busy, a test has so much
more time. When the time is over, it

1. makes the run print the stacks of its threads (SIGUSR1, registered with faulthandler),
2. makes every descendant print its stacks and end (SIGABRT: faulthandler is enabled in them, inherited by fork or by
   PYTHONFAULTHANDLER over exec), then kills what is left,
3. asks the run to fail this test and go on (SIGALRM, whose handler raises in the main thread),
4. and, if the test still does not end, kills the run.
"""

import os
import select
import signal
import sys
import time

GRACE = 10.0


def descendants(pid):
    """Every process below `pid`, children first. Read from /proc, so it sees what forked behind everyone's back."""
    found = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                children = [int(word) for word in file.read().split()]
        except OSError:
            continue
        for child in children:
            found.append(child)
            found.extend(descendants(child))
    return found


def send(pid, signum):
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


def read_line(seconds):
    """The next line from the run; None when `seconds` passed without one; "" at its end."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    if not ready:
        return None
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return ""
        line += byte
    return line.decode()


def end_test(run, name):
    print(f"\n=== watchdog: {name} hangs; stacks of the run and of its children follow", file=sys.stderr, flush=True)
    send(run, signal.SIGUSR1)
    time.sleep(0.5)
    others = [pid for pid in descendants(run) if pid != os.getpid()]
    for pid in others:
        print(f"=== watchdog: process {pid}", file=sys.stderr, flush=True)
        send(pid, signal.SIGABRT)
        time.sleep(0.2)
    for pid in descendants(run):
        if pid != os.getpid():
            send(pid, signal.SIGKILL)
    send(run, signal.SIGALRM)
    if read_line(GRACE) is None:
        print(f"=== watchdog: {name} does not let go, the run is killed", file=sys.stderr, flush=True)
        send(run, signal.SIGKILL)
        sys.exit(1)


def crowd():
    """How many processes share a processor, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def main():
    run = os.getppid()
    name, armed, seconds = None, None, 0.0
    while True:
        left = None if armed is None else armed + seconds * crowd() - time.monotonic()
        line = read_line(left if left is None else max(1.0, left))
        if line == "":
            return
        if line is None:
            # How busy the machine is, was known only roughly when the wait began.
            if time.monotonic() - armed >= seconds * crowd():
                end_test(run, name)
                armed = None
            continue
        word, _, rest = line.partition(" ")
        if word == "arm":
            text, _, name = rest.strip().partition(" ")
            armed, seconds = time.monotonic(), float(text)
        else:
            armed = None


if __name__ == "__main__":
    main()
