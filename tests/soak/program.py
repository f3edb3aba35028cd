"""One program of the soak: one scenario in one start method. Started by run.py, which kills what it starts."""

import argparse
import faulthandler
import json
import os
import pathlib
import signal
import sys
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from rig import Rig, role
from scenarios import locks, managers, pools, processes, queues, segments

import manycore

SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        pools.pool_answers,
        pools.pool_terminated,
        queues.queue_goes_on,
        queues.pipe_ends,
        locks.locks_pass,
        managers.manager_or_error,
        segments.segments_are_freed,
        processes.children_end,
    )
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("method")
    parser.add_argument("seed", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("status")
    options = parser.parse_args()
    role("main")
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    # A lock of somebody who was killed says so each time.
    warnings.simplefilter("ignore", RuntimeWarning)
    status = os.open(options.status, os.O_WRONLY)
    rig = Rig(manycore.get_context(options.method), options.seed, options.seconds, status)
    SCENARIOS[options.scenario](rig)
    print(json.dumps({"counts": rig.counts, "marks": rig.marks}))


if __name__ == "__main__":
    main()
