"""Starting a child by asking the zygote to fork it."""

from __future__ import annotations

import io
import os
import sys

from . import context, forkserver, popen_fork, spawn, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .process import BaseProcess

__all__ = ["Popen"]


class _DupFd:
    """A descriptor on its way into a forked child: its place in the list of those that went along."""

    def __init__(self, ind: int) -> None:
        self.ind = ind

    def detach(self) -> int:
        return forkserver.get_inherited_fds()[self.ind]


class Popen(popen_fork.Popen):
    """The handle of a child of the zygote. What pickling the process object raises, it raises.

    The child is not our child in the kernel's eyes, so the zygote collects its exit status and writes it into a pipe.
    """

    method = "forkserver"
    DupFd = _DupFd

    def __init__(self, process_obj: BaseProcess) -> None:
        self._fds: list[int] = []
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Have the child inherit a duplicate of `fd`; returns its place in the list of those."""
        self._fds.append(fd)
        return len(self._fds) - 1

    def _launch(self, process_obj: BaseProcess) -> None:
        preparation = spawn.get_preparation_data(process_obj._name)
        pickled = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            context.reduction.dump(process_obj, pickled)
        finally:
            context.set_spawning_popen(None)
        held: list[int] = []
        directory = None
        try:
            if "dir" not in preparation:
                # Deleted: its name is no way to it.
                directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                util.make_private(directory)
                held.append(directory)
                preparation["dir_fd"] = self.DupFd(self.duplicate_for_child(directory))
            self._status, status_end = util.private_pipe()
            held += (self._status, status_end)
            lifeline, parent_ends = self._open_lifeline(process_obj, held)
            self.pid, self.sentinel = forkserver._forkserver.start_child(
                preparation, pickled.getbuffer(), self._fds, status_end, lifeline
            )
        except BaseException:
            util.close_fds(*held)
            raise
        try:
            util.close_fds(*(fd for fd in (status_end, directory, lifeline) if fd is not None))
            self._own(self.sentinel, self._status, *parent_ends)
        except BaseException:
            # The program will not have this process, so nobody else may.
            self.kill()
            raise

    def _collect(self) -> int | None:
        status = os.read(self._status, 4)
        if status:
            return int.from_bytes(status, sys.byteorder, signed=True)
        # End of file: the zygote was killed before it could tell.
        self.status_lost = True
        return popen_fork.UNKNOWN_EXITCODE


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
