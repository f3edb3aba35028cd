"""How many processors are there? Ask the operating system, then the package."""

import os

import manycore as multiprocessing

if __name__ == "__main__":
    print("os.cpu_count():", os.cpu_count())
    print("multiprocessing.cpu_count():", multiprocessing.cpu_count())
