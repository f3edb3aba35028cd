"""A main module that imports NumPy, as most that use a pool do."""

import numpy as np


def double(item: int) -> int:
    """Return twice the item."""
    return int(np.int64(2) * item)


if __name__ == "__main__":
    from benchmarks.cell import main

    main()
