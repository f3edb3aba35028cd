"""Processes by themselves."""

import time

from rig import PATIENCE, role

from manycore import connection


def nap(seconds):
    """Do nothing for a while, and end with a code of one's own."""
    role("child")
    time.sleep(seconds)
    raise SystemExit(7)


def children_end(rig):
    """Every end of a child is seen, by its sentinel, join and exit code, in whatever way it comes.

    255 is what is known of a child of a zygote that was killed before it could tell.
    """
    while not rig.over():
        children = [rig.start(nap, rig.random.random() * 0.1) for _ in range(rig.random.randrange(1, 8))]
        waiting = {child.sentinel: child for child in children}
        while waiting:
            if rig.random.random() < 0.2:
                victim = rig.random.choice(list(waiting.values()))
                rig.random.choice((victim.terminate, victim.kill))()
            with rig.awaiting(f"one of {len(waiting)} sentinels"):
                ready = connection.wait(list(waiting), PATIENCE)
            assert ready, f"none of {list(waiting.values())} ends"
            for sentinel in ready:
                child = waiting.pop(sentinel)
                with rig.awaiting(f"the end of {child}"):
                    child.join(PATIENCE)
                assert child.exitcode in (7, -9, -15, 255), f"{child} ended with {child.exitcode}"
                rig.counts[f"exit code {child.exitcode}"] += 1
                child.close()
        rig.mark()
