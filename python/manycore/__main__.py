"""`python -m manycore program.py`: run a program whose `import multiprocessing` means manycore."""

from ._program import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
