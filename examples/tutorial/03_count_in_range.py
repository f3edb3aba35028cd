"""Count how many numbers of each row lie between 4 and 8: serially, then with a pool that is waited for.

Takes the number of rows as an optional argument; 200 000 without one.
"""

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
    """The same with the limits as defaults, because `map` passes one argument."""
    count = 0
    for number in row:
        if minimum <= number <= maximum:
            count = count + 1
    return count


def report(method, begin, results, expected):
    """Say how long a method took, and stop if it counted something else."""
    if results != expected:
        sys.exit(f"{method}: the results differ from the serial loop's")
    print(f"{method:8} {time.perf_counter() - begin:8.3f} s   {results[:10]} ...")


if __name__ == "__main__":
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    np.random.seed(100)
    data = np.random.randint(0, 10, size=[n_rows, 5]).tolist()
    print(f"{n_rows} rows, the first: {data[0]}")

    begin = time.perf_counter()
    expected = []
    for row in data:
        expected.append(howmany_within_range(row, minimum=4, maximum=8))
    report("serial", begin, expected, expected)

    # One call a row, each waited for before the next one is made.
    pool = multiprocessing.Pool(multiprocessing.cpu_count())
    begin = time.perf_counter()
    results = [pool.apply(howmany_within_range, args=(row, 4, 8)) for row in data]
    report("apply", begin, results, expected)
    pool.close()

    # One argument for each call.
    pool = multiprocessing.Pool(multiprocessing.cpu_count())
    begin = time.perf_counter()
    results = pool.map(howmany_within_range_rowonly, [row for row in data])
    report("map", begin, results, expected)
    pool.close()

    # A tuple of arguments for each call.
    pool = multiprocessing.Pool(multiprocessing.cpu_count())
    begin = time.perf_counter()
    results = pool.starmap(howmany_within_range, [(row, 4, 8) for row in data])
    report("starmap", begin, results, expected)
    pool.close()
