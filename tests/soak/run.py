"""Runs programs that use everything, kills what they start at random, and looks at what is left.

    python tests/soak/run.py                        ten minutes
    python tests/soak/run.py --seconds 60 --seed 7
    python tests/soak/run.py --scenario locks_pass --method spawn --ending finish

Exit code 0 when nothing failed. See README.md beside this file.
"""

import argparse
import collections
import ctypes
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time

from program import SCENARIOS
from rig import PATIENCE

HERE = pathlib.Path(__file__).resolve().parent
METHODS = ("fork", "forkserver", "spawn")
#: How a program's life ends: by itself, by Ctrl-C, by SIGKILL.
ENDINGS = ("finish", "finish", "finish", "interrupt", "kill")
#: Seconds of one program's life, and those within which everything is gone after its end.
LIFE, GRACE = 6.0, 10.0
#: Bytes that a program may have grown by between its second cycle and its last.
GROWTH = 48 << 20
#: A start by a forkserver fails, with an error, after twelve of them have died under its hands; to start one takes a tenth
#: of a second. More often than this none is killed.
RESPITE = 1.0
PR_SET_CHILD_SUBREAPER = 36
MARK = "MANYCORE_SOAK"


class Failure(Exception):
    """Something does not hold."""


class Program:
    """One program and whatever it has started, also what its death has orphaned."""

    def __init__(self, name, scenario, method, seed, seconds, folder):
        self.name, self.folder = name, folder
        self.scratch = folder / "tmp"
        self.scratch.mkdir()
        self.status = folder / "status"
        self.status.write_bytes(b"nothing".ljust(200))
        environment = dict(os.environ, PYTHONFAULTHANDLER="1", TMPDIR=str(self.scratch), **{MARK: name})
        self.out, self.err = (folder / "out").open("w+"), (folder / "err").open("w+")
        command = [
            sys.executable,
            str(HERE / "program.py"),
            scenario,
            method,
            str(seed),
            str(seconds),
            str(self.status),
        ]
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.out,
            stderr=self.err,
            start_new_session=True,
        )
        self.code = None

    def reap(self):
        """Collect whoever has ended: the program, and orphans, which are ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.process.pid:
                self.code = self.process.returncode = os.waitstatus_to_exitcode(status)

    def others(self):
        """Every process that carries the program's mark, by number, and what it is."""
        found = {}
        mark = f"{MARK}={self.name}".encode()
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == self.process.pid:
                continue
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if mark not in file.read().split(b"\0"):
                        continue
                with open(f"/proc/{entry}/comm") as file:
                    role = file.read().strip()
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    line = file.read()
            except OSError:
                continue
            if not role.startswith("soak-") or role == "soak-main":
                role = next((word for word in ("forkserver", "resource_tracker") if word.encode() in line), "starting")
                if role == "forkserver" and self._parent(entry) != self.process.pid:
                    # One that the zygote has forked and that has not said yet what it is.
                    role = "starting"
            found[int(entry)] = role.removeprefix("soak-")
        return found

    @staticmethod
    def _parent(pid):
        try:
            with open(f"/proc/{pid}/stat") as file:
                return int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            return 0

    def stacks(self):
        """Have everybody print its stacks; ends all but the program itself."""
        os.kill(self.process.pid, signal.SIGUSR1)
        time.sleep(1)
        for pid, role in self.others().items():
            self.err.flush()
            with open(self.err.name, "a") as file:
                file.write(f"\n--- process {pid}, {role}\n")
            signal_to(pid, signal.SIGABRT)
            time.sleep(0.2)

    def close(self):
        for pid in [self.process.pid, *self.others()]:
            if self.code is None or pid != self.process.pid:
                signal_to(pid, signal.SIGKILL)
        while self.code is None or self.others():
            self.reap()
            time.sleep(0.01)
        self.out.close()
        self.err.close()


def signal_to(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def tell(text):
    print(text, flush=True)


def live(program, luck, ending, seconds, counts):
    """Kill at random while the program lives, and bring about its end."""
    began = time.monotonic()
    turn = began + seconds * (luck.random() if ending != "finish" else 1)
    interval = luck.choice((0.02, 0.1, 0.5))
    next_kill = began + luck.expovariate(1 / interval)
    next_zygote = 0.0
    stopped = {}
    interrupted = False
    while program.code is None:
        now = time.monotonic()
        for pid in [pid for pid, until in stopped.items() if now >= until]:
            del stopped[pid]
            signal_to(pid, signal.SIGCONT)
        if now >= turn and ending == "kill":
            counts["programs killed"] += 1
            signal_to(program.process.pid, signal.SIGKILL)
            ending = "killed"
        if now >= turn and ending == "interrupt" and not interrupted:
            counts["programs interrupted"] += 1
            os.killpg(program.process.pid, signal.SIGINT)
            interrupted = True
        if now >= next_kill and now < turn:
            next_kill = now + luck.expovariate(1 / interval)
            victims = sorted(program.others().items())
            if ending == "kill":
                # With its tracker, too, nobody would be left who could free anything.
                victims = [(pid, role) for pid, role in victims if role != "resource_tracker"]
            if now < next_zygote:
                victims = [(pid, role) for pid, role in victims if role != "forkserver"]
            if victims:
                pid, role = luck.choice(victims)
                if luck.random() < 0.1:
                    counts[f"stopped for a moment: {role}"] += 1
                    signal_to(pid, signal.SIGSTOP)
                    stopped[pid] = now + 0.2
                else:
                    if role == "forkserver":
                        next_zygote = now + RESPITE
                    counts[f"killed: {role}"] += 1
                    signal_to(pid, signal.SIGKILL)
        if now - began > seconds + PATIENCE + 20:
            awaited = program.status.read_bytes().decode(errors="replace").strip()
            program.stacks()
            raise Failure(f"the program does not end; it awaited {awaited}")
        time.sleep(0.005)
        program.reap()
    for pid in stopped:
        signal_to(pid, signal.SIGCONT)
    return ending


def look(program, ending):
    """Look at how it ended and what it left."""
    program.err.seek(0)
    errors = program.err.read()
    if ending == "finish" and program.code != 0:
        raise Failure(f"the program ended with code {program.code}")
    # One that was interrupted as it ended has its own code.
    if ending == "interrupt" and program.code not in (0, 1, 130, -signal.SIGINT):
        raise Failure(f"the program ended with code {program.code} after Ctrl-C")
    if ending == "interrupt" and program.code and "KeyboardInterrupt" not in errors:
        raise Failure("the program failed, and not by KeyboardInterrupt")
    deadline = time.monotonic() + GRACE
    while left := program.others():
        if time.monotonic() > deadline:
            raise Failure(f"processes are left after {GRACE:.0f} s: {left}")
        time.sleep(0.01)
        program.reap()
    deadline = time.monotonic() + GRACE
    while left := [name for name in os.listdir("/dev/shm") if program.name in name]:
        if time.monotonic() > deadline:
            for name in left:
                os.unlink(f"/dev/shm/{name}")
            raise Failure(f"segments are left: {left}")
        time.sleep(0.01)
    if left := os.listdir(program.scratch):
        raise Failure(f"temporary files are left: {left}")


def told(program, counts, growths):
    """Take over what the program has counted, and look how it has grown."""
    program.out.seek(0)
    account = json.loads(program.out.read().splitlines()[-1])
    counts.update(account["counts"])
    counts["cycles"] += len(account["marks"])
    marks = account["marks"][1:]
    if len(marks) < 2:
        return
    grown = [last - first for first, last in zip(marks[0], marks[-1], strict=True)]
    growths.append(grown)
    # A forkserver or tracker that has been killed and not replaced holds less, never more.
    names = ("bytes", "descriptors", "threads")
    for name, growth, allowed in zip(names, grown, (GROWTH, 2, 2), strict=True):
        if growth > allowed:
            raise Failure(f"the program has grown by {growth} {name} in {len(marks)} cycles")


def run(number, options, luck, totals):
    """One program; whether all held."""
    scenario = options.scenario or luck.choice(list(SCENARIOS))
    method = options.method or luck.choice(METHODS)
    ending = options.ending or luck.choice(ENDINGS)
    seed = luck.randrange(1 << 31)
    name = f"soak-{os.getpid()}-{number}-"
    counts, growths = totals[scenario]
    counts[f"programs, {method}"] += 1
    with tempfile.TemporaryDirectory(prefix="manycore-soak-") as folder:
        program = Program(name, scenario, method, seed, options.life, pathlib.Path(folder))
        try:
            ended = live(program, random.Random(seed), ending, options.life, counts)
            look(program, ended)
            if ending == "finish":
                told(program, counts, growths)
            return True
        except Failure as failure:
            tell(f"\nFAILED: {failure}")
            tell(f"    scenario {scenario}, method {method}, ending {ending}, program {number} of seed {options.seed}")
            program.err.seek(0)
            tell("\n".join(f"    | {line[:300]}" for line in program.err.read().splitlines()[-150:]))
            return False
        finally:
            program.close()


def summary(totals):
    for scenario, (counts, growths) in sorted(totals.items()):
        tell(f"{scenario}: {SCENARIOS[scenario].__doc__.splitlines()[0]}")
        for what, count in sorted(counts.items()):
            tell(f"    {count:8}  {what}")
        if growths:
            most = [max(column) for column in zip(*growths, strict=True)]
            tell(f"    grown at most by {most[0] / 2**20:.1f} MiB, {most[1]} descriptors, {most[2]} threads")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--scenario", choices=SCENARIOS)
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--ending", choices=sorted(set(ENDINGS)))
    parser.add_argument("--life", type=float, default=LIFE, help="seconds of one program")
    parser.add_argument("-x", action="store_true", help="stop at the first failure")
    options = parser.parse_args()
    # Orphans become ours. Nobody leaves a core file.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tell(f"soak: {options.seconds:.0f} s, seed {options.seed}")
    luck = random.Random(options.seed)
    totals = collections.defaultdict(lambda: (collections.Counter(), []))
    end = time.monotonic() + options.seconds
    number = failed = 0
    while time.monotonic() < end and not (options.x and failed):
        number += 1
        failed += not run(number, options, luck, totals)
    summary(totals)
    tell(f"soak: {number} programs, {failed} failed, seed {options.seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
