"""Four processes with names. A, B and C run side by side; D has to wait until C is done."""

import os
import time

import manycore as multiprocessing


def count_up(letter, steps, pause):
    """Say who is counting, and take a nap after each step."""
    name = multiprocessing.current_process().name
    for step in range(1, steps + 1):
        print(f"{name}: {letter}{step}", flush=True)
        time.sleep(pause)
    print(f"{name}: done in process {os.getpid()}", flush=True)


if __name__ == "__main__":
    a = multiprocessing.Process(target=count_up, args=("a", 4, 0.25), name="Process A")
    b = multiprocessing.Process(target=count_up, args=("b", 3, 0.20), name="Process B")
    c = multiprocessing.Process(target=count_up, args=("c", 2, 0.15), name="Process C")
    d = multiprocessing.Process(target=count_up, args=("d", 2, 0.10), name="Process D")

    a.start()
    b.start()
    c.start()

    c.join()
    print(f"{c.name} has ended with exit code {c.exitcode}; starting {d.name}", flush=True)
    d.start()

    for process in (a, b, d):
        process.join()
    print("all ended:", [process.exitcode for process in (a, b, c, d)])
