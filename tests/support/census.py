"""What exists on the machine because of this process: processes, descriptors, threads, files.

Everything is read from /proc, not asked of the package under test, which would count only what it remembers.
"""

import collections
import os
import re
import select
import signal
import time

from .watchdog import descendants

#: How long something that is ending may take. Never a bound on speed: what is left after it counts as left for ever.
PATIENCE = 10.0

#: Names the package could leave in /dev/shm. Others on the machine use that folder too, so only ours count.
OUR_SHM = re.compile(r"manycore|psm_")


class Snapshot:
    """One look. `difference` names what a later look has more of."""

    def __init__(self, ignore=()):
        pids = [pid for pid in descendants(os.getpid()) if pid not in ignore]
        self.pids = pids
        self.processes = collections.Counter(filter(None, map(describe, pids)))
        self.descriptors = collections.Counter(descriptor_kinds().values())
        self.threads = len(os.listdir("/proc/self/task"))
        self.shm = {name for name in listing("/dev/shm") if OUR_SHM.match(name)}
        self.temporary = set(listing(os.environ["TMPDIR"]))
        self.signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}

    def difference(self, before, *, processes_only=False):
        found = {}
        if more := self.processes - before.processes:
            found["processes"] = dict(more)
        if processes_only:
            return found
        if more := self.descriptors - before.descriptors:
            found["descriptors"] = dict(more)
        if self.threads > before.threads:
            found["threads"] = self.threads - before.threads
        if more := self.shm - before.shm:
            found["/dev/shm"] = more
        if more := self.temporary - before.temporary:
            found["temporary files"] = more
        if self.signals != before.signals:
            found["signal handlers"] = self.signals
        return found


def listing(folder):
    try:
        return os.listdir(folder)
    except OSError:
        return []


def used_by_others(names):
    """Those of `names` in /dev/shm that belong to another user, or that a process has mapped which this one has not started."""
    ours = {os.getpid(), *descendants(os.getpid())}
    used = set()
    for name in names:
        try:
            if os.stat(f"/dev/shm/{name}").st_uid != os.getuid():
                used.add(name)
        except OSError:
            continue
    for entry in listing("/proc"):
        if entry.isdigit() and int(entry) not in ours:
            try:
                with open(f"/proc/{entry}/maps") as file:
                    text = file.read()
            except OSError:
                continue
            used.update(name for name in names if f"/dev/shm/{name}\n" in text)
    return used


def stat_fields(pid):
    """(state, parent, session) of a process, None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return fields[0].decode(), int(fields[1]), int(fields[3])


def describe(pid):
    """A name by which two processes of the same kind are equal; the pid is not part of it, because a server process
    that was killed and started again is not a leak."""
    fields = stat_fields(pid)
    if fields is None:
        return None
    if fields[0] == "Z":
        return "zombie"
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    return command or "?"


def descriptor_kinds(pid="self"):
    """{descriptor: what it is}, the number of an anonymous inode left out so that looks can be compared."""
    kinds = {}
    for entry in listing(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{entry}")
        except OSError:
            continue  # the descriptor of this very listing
        if target.startswith("/proc/"):
            continue
        kinds[int(entry)] = re.sub(r":\[\d+\]", "", target)
    return kinds


def reap_adopted(known=()):
    """Collects orphans of processes that ended. The run is a subreaper: what a dead script or worker leaves behind becomes its
    child, so that it is seen. The children in `known` are somebody's to wait for, and a leader of a session the `Script`'s."""
    for pid in descendants(os.getpid()):
        fields = stat_fields(pid)
        if fields is None:
            continue
        state, parent, session = fields
        if state == "Z" and parent == os.getpid() and session != pid and pid not in known:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass


def eventually(condition, seconds=PATIENCE):
    """Waits until `condition()` is true; its last value. For what has no event to wait on."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        select.select([], [], [], 0.005)


class Watch:
    """Pidfds of some processes, opened while they live: no later process with the same number is taken for one of them."""

    def __init__(self, pids):
        self.pidfds = {}
        for pid in pids:
            self.pidfds[pid] = os.pidfd_open(pid)

    def wait_gone(self, seconds=PATIENCE):
        """Pids that still run after at most `seconds`."""
        deadline = time.monotonic() + seconds
        left = dict(self.pidfds)
        while left:
            poll = select.poll()
            for pidfd in left.values():
                poll.register(pidfd, select.POLLIN)
            events = {pidfd for pidfd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)}
            left = {pid: pidfd for pid, pidfd in left.items() if pidfd not in events}
            if not events:
                break
        return sorted(left)

    def close(self):
        for pidfd in self.pidfds.values():
            os.close(pidfd)
        self.pidfds.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def resident_bytes(pid="self"):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def available_bytes():
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0
