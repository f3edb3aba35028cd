"""Where a worker was when it had to end: it writes its Python stack into a memory file that the pool holds, too."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

__all__ = ["LastWords", "listen"]

# Most of what is read back: some hundred frames of some threads.
_MOST = 1 << 16


class LastWords:
    """The pool's half: a memory file for one worker."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("manycore-last-words", os.MFD_CLOEXEC)

    def read(self) -> str | None:
        """Return what the worker wrote; None if it wrote nothing."""
        text = os.pread(self.fd, _MOST, 0)
        return text.decode(errors="replace").strip() or None

    def close(self, _close=os.close) -> None:  # type: ignore[no-untyped-def]
        """Let the file go."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            _close(fd)

    __del__ = close


def listen(fd: int) -> None:
    """Write this process's stack into the file `fd` when it crashes, and when it gets SIGSTKFLT, which then ends it.

    The signals of a crash are those that `faulthandler` knows. Its file, if the program has enabled it before, is no
    longer written by this process: the pool shows the stack where the program's own process has it enabled.
    """
    import faulthandler

    faulthandler.enable(fd, all_threads=True)
    # The former handler is the default, which ends the process after the stack is written.
    faulthandler.register(_signal.SIGSTKFLT, fd, all_threads=True, chain=True)

    def forget() -> None:
        # A child of the task's own must not write into the worker's file.
        faulthandler.disable()
        faulthandler.unregister(_signal.SIGSTKFLT)

    os.register_at_fork(after_in_child=forget)
