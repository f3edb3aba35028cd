"""Memory for what callers keep in shared memory, taken when they ask for it.

The kernel finds a page of shared memory at its first write, and where there is none it ends the process. So what is
asked for is compared with what is free, and then taken.
"""

from __future__ import annotations

import errno
import os

from ._engine import check_memory

__all__ = ["reserve"]

# A signal that comes while the kernel reserves pages makes it begin again: a piece takes 4 ms.
_AT_ONCE = 16 << 20


def reserve(fd: int, size: int) -> None:
    """Give a new file in memory `size` bytes, so that no later write finds none.

    Raises OSError: ENOSPC if the file system has no room for them, ENOMEM if machine or control group have not got the
    memory, EFBIG if this process may not make so large a file (RLIMIT_FSIZE).
    """
    folder = os.fstatvfs(fd)
    if folder.f_blocks and size > folder.f_bavail * folder.f_frsize:
        # Said before the first page is taken: others need what is left.
        raise OSError(errno.ENOSPC, f"{size} bytes of shared memory: {os.strerror(errno.ENOSPC)}")
    check_memory(min(size, 1 << 63))
    os.ftruncate(fd, size)
    for start in range(0, size, _AT_ONCE):
        os.posix_fallocate(fd, start, min(_AT_ONCE, size - start))
