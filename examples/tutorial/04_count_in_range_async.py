"""The same counts without waiting for each call: `apply_async`, `map_async` and `starmap_async`.

Takes the number of rows as an optional argument; 200 000 without one.
"""

import itertools
import sys
import time

import numpy as np

import manycore as multiprocessing


def howmany_within_range(row, minimum, maximum):
    """Count the numbers of `row` from `minimum` to `maximum`."""
    count = 0
    for number in row:
        if minimum <= number <= maximum:
            count = count + 1
    return count


def howmany_within_range_rowonly(row, minimum=4, maximum=8):
    """The same with the limits as defaults, because `map_async` passes one argument."""
    return howmany_within_range(row, minimum, maximum)


def howmany_within_range2(i, row, minimum, maximum):
    """The same, telling which row it was: results may come in any order."""
    count = 0
    for number in row:
        if minimum <= number <= maximum:
            count = count + 1
    return (i, count)


collected = []


def collect_result(result):
    """Take one result as it comes; runs in the parent."""
    collected.append(result)


def report(method, begin, results, expected):
    """Say how long a method took, and stop if it counted something else."""
    if results != expected:
        sys.exit(f"{method}: the results differ from the serial loop's")
    print(f"{method:32} {time.perf_counter() - begin:8.3f} s   {results[:10]} ...")


if __name__ == "__main__":
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    np.random.seed(100)
    data = np.random.randint(0, 10, size=[n_rows, 5]).tolist()
    print(f"{n_rows} rows, the first: {data[0]}")

    begin = time.perf_counter()
    expected = [howmany_within_range(row, 4, 8) for row in data]
    report("serial", begin, expected, expected)

    # With a callback. It collects in the order of completion, so the index travels along and puts things right.
    pool = multiprocessing.Pool(multiprocessing.cpu_count())
    begin = time.perf_counter()
    for i, row in enumerate(data):
        pool.apply_async(howmany_within_range2, args=(i, row, 4, 8), callback=collect_result)
    pool.close()
    pool.join()
    overtaken = sum(later[0] < earlier[0] for earlier, later in itertools.pairwise(collected))
    collected.sort(key=lambda result: result[0])
    results = [count for i, count in collected]
    report("apply_async, callback", begin, results, expected)
    print(f"    {overtaken} results came after one of a later row")

    # Without a callback. `get` is asked in the order of the calls, so nothing needs sorting.
    pool = multiprocessing.Pool(multiprocessing.cpu_count())
    begin = time.perf_counter()
    handles = [pool.apply_async(howmany_within_range2, args=(i, row, 4, 8)) for i, row in enumerate(data)]
    results = [handle.get()[1] for handle in handles]
    report("apply_async, get", begin, results, expected)
    pool.close()
    pool.join()

    pool = multiprocessing.Pool(multiprocessing.cpu_count())
    begin = time.perf_counter()
    results = pool.map_async(howmany_within_range_rowonly, [row for row in data]).get()
    report("map_async", begin, results, expected)
    pool.close()
    pool.join()

    pool = multiprocessing.Pool(multiprocessing.cpu_count())
    begin = time.perf_counter()
    pairs = pool.starmap_async(howmany_within_range2, [(i, row, 4, 8) for i, row in enumerate(data)]).get()
    results = [count for i, count in pairs]
    report("starmap_async", begin, results, expected)
    pool.close()
    pool.join()
