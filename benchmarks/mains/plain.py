"""A main module that imports nothing, as a cell's main."""


def double(item: int) -> int:
    """Return twice the item."""
    return 2 * item


if __name__ == "__main__":
    from benchmarks.cell import main

    main()
