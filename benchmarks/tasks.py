"""The functions the workers run: the same for every library.

Light to import on purpose: workers of `spawn` and `forkserver` import this file, and NumPy is not to be on their bill.
"""

from __future__ import annotations

import time
from typing import Any

_ready: dict[tuple[int, int], Any] = {}


def howmany_within_range(row: list[int], minimum: int, maximum: int) -> int:
    """Count the numbers of `row` between `minimum` and `maximum`, both included."""
    count = 0
    for number in row:
        if minimum <= number <= maximum:
            count = count + 1
    return count


def howmany_within_range_rowonly(row: list[int], minimum: int = 4, maximum: int = 8) -> int:
    """Count as `howmany_within_range` does; `map` passes one argument."""
    count = 0
    for number in row:
        if minimum <= number <= maximum:
            count = count + 1
    return count


def nothing(item: int) -> None:
    """Do nothing."""


def double(item: int) -> int:
    """Return twice the item."""
    return 2 * item


def total_of(array: Any) -> float:
    """Read every byte of an array."""
    return float(array.sum())


def touch(array: Any) -> Any:
    """Change one element and send the array back. Some libraries hand out read-only arrays: those must be copied."""
    if not array.flags.writeable:
        array = array.copy()
    array[0] += 1
    return array


def make_ready(shape: tuple[int, int]) -> None:
    """Make what `ready_array` cuts its arrays from, and stay a moment so that the other worker gets its turn."""
    ready_array((shape, 0))
    time.sleep(0.05)


def ready_array(shape_and_index: tuple[tuple[int, int], int]) -> Any:
    """Return an array the worker already holds, so that only the way back is measured.

    Another array for each index: the same one twice in a chunk would be pickled once.
    """
    shape, index = shape_and_index
    arrays = _ready.get(shape)
    if arrays is None:
        import numpy as np

        arrays = _ready[shape] = np.ones(shape)
    return arrays[index]


def made_array(shape_and_index: tuple[tuple[int, int], int]) -> Any:
    """Return a new array, as most functions do: the worker's page faults are part of the bill."""
    import numpy as np

    return np.ones(shape_and_index[0][1])


def spin(n_turns: int) -> int:
    """Keep one core busy for a number of turns that does not depend on what else runs."""
    x = 1
    for _ in range(n_turns):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
    return x
