"""Memory for values that processes share by inheritance: blocks cut from arenas, files in memory without a name.

The process that made an arena cuts it; children see the memory and cut nothing from it, for they make arenas of their
own. An arena goes back to the kernel when the last block in it is free.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from bisect import bisect_left, insort
from collections import deque

from . import _memory, reduction, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    # Where it lies: the arena, the first byte, the byte after the last.
    Block = tuple["Arena", int, int]

__all__ = ["BufferWrapper"]

PAGE = mmap.PAGESIZE
# A mapping keeps a duplicate of its descriptor, for resizing, unless it is told not to.
_ONE_DESCRIPTOR: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


class Arena:
    """`size` bytes of shared memory: a new file, or the one of the descriptor `fd`, which then is the arena's."""

    def __init__(self, size: int, fd: int = -1) -> None:
        self.size = size
        if fd == -1:
            fd = os.memfd_create("manycore-arena")
            try:
                _memory.reserve(fd, size)
            except BaseException:
                os.close(fd)
                raise
        self.fd = fd
        util.Finalize(self, os.close, (fd,))
        self.buffer = mmap.mmap(fd, size, **_ONE_DESCRIPTOR)


def reduce_arena(a: Arena) -> tuple[Any, ...]:
    """Return how to get the same arena in another process: by its descriptor."""
    return rebuild_arena, (a.size, reduction.DupFd(a.fd))


def rebuild_arena(size: int, dupfd: Any) -> Arena:
    """Return the arena that came with a descriptor."""
    return Arena(size, dupfd.detach())


reduction.register(Arena, reduce_arena)


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


class Heap:
    """Blocks of memory, cut from arenas.

    A block is cut from the smallest free one that is large enough, and joined with its free neighbours afterwards.
    """

    # As much as a block of any ctypes type needs, long double included.
    _alignment = 16
    # Arenas double until they have this size.
    _DOUBLE_ARENA_SIZE_UNTIL = 4 << 20
    # An arena that is free altogether is kept if it is not larger than this.
    _DISCARD_FREE_SPACE_LARGER_THAN = 4 << 20

    def __init__(self, size: int = PAGE) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._owner = os.getpid()
        self._arenas: list[Arena] = []
        # Free blocks by length, and the lengths in order; by where they begin, and by where they end.
        self._len_to_seq: dict[int, list[Block]] = {}
        self._lengths: list[int] = []
        self._start_to_block: dict[tuple[Arena, int], Block] = {}
        self._stop_to_block: dict[tuple[Arena, int], Block] = {}
        self._allocated_blocks: dict[Arena, set[tuple[int, int]]] = {}
        # Freed by a collection in the midst of our own work; taken in by whoever works next.
        self._pending_free_blocks: deque[Block] = deque()
        self._n_mallocs = 0
        self._n_frees = 0

    def malloc(self, size: int) -> Block:
        """Return a block of at least `size` bytes, with whatever was in it before.

        Raises TypeError or ValueError for what is no size, OverflowError for one that no machine has, OSError with
        ENOMEM for more than is free.
        """
        if size < 0:
            raise ValueError(f"Size {size:n} out of range")
        if sys.maxsize <= size:
            raise OverflowError(f"Size {size:n} too large")
        if self._owner != os.getpid():
            # The arenas are the parent's to cut.
            self.__init__(self._size)
        with self._lock:
            self._n_mallocs += 1
            self._free_pending_blocks()
            arena, start, stop = self._take(max(_rounded(size, self._alignment), self._alignment))
            end = start + max(_rounded(size, self._alignment), self._alignment)
            if end < stop:
                self._offer((arena, end, stop))
            self._allocated_blocks[arena].add((start, end))
            return arena, start, end

    def free(self, block: Block) -> None:
        """Take back a block. In a process that did not make it nothing happens."""
        if self._owner != os.getpid():
            return
        # A collection may call this while this very thread is at work here.
        if not self._lock.acquire(False):
            self._pending_free_blocks.append(block)
            return
        try:
            self._n_frees += 1
            self._free_pending_blocks()
            self._join(block)
        finally:
            self._lock.release()

    def _free_pending_blocks(self) -> None:
        while self._pending_free_blocks:
            self._n_frees += 1
            self._join(self._pending_free_blocks.popleft())

    def _take(self, size: int) -> Block:
        """Return a free block of at least `size` bytes, free no longer."""
        place = bisect_left(self._lengths, size)
        if place == len(self._lengths):
            return self._new_arena(size)
        block = self._len_to_seq[self._lengths[place]][-1]
        self._withdraw(block)
        return block

    def _new_arena(self, size: int) -> Block:
        length = _rounded(max(self._size, size), PAGE)
        arena = Arena(length)
        if self._size < self._DOUBLE_ARENA_SIZE_UNTIL:
            self._size *= 2
        self._arenas.append(arena)
        self._allocated_blocks[arena] = set()
        return arena, 0, length

    def _join(self, block: Block) -> None:
        """Make an allocated block free, one with its free neighbours; give back the arena if nothing else is in it."""
        arena, start, stop = block
        self._allocated_blocks[arena].remove((start, stop))
        before = self._stop_to_block.get((arena, start))
        if before is not None:
            self._withdraw(before)
            start = before[1]
        after = self._start_to_block.get((arena, stop))
        if after is not None:
            self._withdraw(after)
            stop = after[2]
        if stop - start == arena.size and arena.size > self._DISCARD_FREE_SPACE_LARGER_THAN:
            self._arenas.remove(arena)
            del self._allocated_blocks[arena]
        else:
            self._offer((arena, start, stop))

    def _offer(self, block: Block) -> None:
        arena, start, stop = block
        blocks = self._len_to_seq.get(stop - start)
        if blocks is None:
            self._len_to_seq[stop - start] = [block]
            insort(self._lengths, stop - start)
        else:
            blocks.append(block)
        self._start_to_block[arena, start] = self._stop_to_block[arena, stop] = block

    def _withdraw(self, block: Block) -> None:
        arena, start, stop = block
        del self._start_to_block[arena, start], self._stop_to_block[arena, stop]
        blocks = self._len_to_seq[stop - start]
        blocks.remove(block)
        if not blocks:
            del self._len_to_seq[stop - start]
            del self._lengths[bisect_left(self._lengths, stop - start)]


class BufferWrapper:
    """A block of `size` bytes of the heap, its own until the object is collected."""

    _heap: ClassVar[Heap] = Heap()

    def __init__(self, size: int) -> None:
        block = self._heap.malloc(size)
        self._state = (block, size)
        util.Finalize(self, self._heap.free, (block,))

    def create_memoryview(self) -> memoryview:
        """Return a writable view of the block."""
        (arena, start, _), size = self._state
        return memoryview(arena.buffer)[start : start + size]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
