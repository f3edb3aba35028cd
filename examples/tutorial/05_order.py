"""Who finishes when? Six tasks, the first the longest, by `apply` and by `apply_async`."""

import time

import manycore as multiprocessing

NAPS = [0.30, 0.05, 0.20, 0.05, 0.10, 0.05]


def nap(i, seconds):
    """Sleep, then say which task this was."""
    time.sleep(seconds)
    return i


if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        begin = time.perf_counter()
        order = [pool.apply(nap, args=(i, seconds)) for i, seconds in enumerate(NAPS)]
        print(f"apply:       finished in the order {order}, {time.perf_counter() - begin:.2f} s: one after the other")
        assert order == [0, 1, 2, 3, 4, 5]

        order = []
        begin = time.perf_counter()
        for i, seconds in enumerate(NAPS):
            pool.apply_async(nap, args=(i, seconds), callback=order.append)
        pool.close()
        pool.join()
        print(f"apply_async: finished in the order {order}, {time.perf_counter() - begin:.2f} s: two at a time")
        assert sorted(order) == [0, 1, 2, 3, 4, 5]
        assert order[0] != 0, "a long first task should not have held the others up"
