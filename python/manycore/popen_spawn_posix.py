"""Starting a child as a fresh interpreter."""

from __future__ import annotations

import io
import os

from . import context, popen_fork, spawn, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .process import BaseProcess

__all__ = ["Popen"]


class _DupFd:
    """A descriptor on its way into a spawned child, where it has the same number."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def detach(self) -> int:
        # It came through exec, so it is inheritable; the child's own children are not to get it.
        os.set_inheritable(self.fd, False)
        return self.fd


class Popen(popen_fork.Popen):
    """The handle of a child started by spawn. What pickling the process object raises, it raises."""

    method = "spawn"
    DupFd = _DupFd

    def __init__(self, process_obj: BaseProcess) -> None:
        self._fds: list[int] = []
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Have the child inherit `fd`; returns what stands for it."""
        self._fds.append(fd)
        return fd

    def _launch(self, process_obj: BaseProcess) -> None:
        message = io.BytesIO()
        preparation = spawn.get_preparation_data(process_obj._name)
        preparation["family"] = self.duplicate_for_child(util.family())
        context.set_spawning_popen(self)
        try:
            context.reduction.dump(preparation, message)
            context.reduction.dump(process_obj, message)
        finally:
            context.set_spawning_popen(None)
        held: list[int] = []
        try:
            data_fd = util.memory_file(message.getbuffer())
            held.append(data_fd)
            lifeline, parent_ends = self._open_lifeline(process_obj, held)
            command = spawn.get_command_line(data_fd=data_fd, lifeline=lifeline)
            passed = [fd for fd in (data_fd, lifeline, *self._fds) if fd is not None]
            self._adopt(util.spawnv_passfds(spawn.get_executable(), command, passed))
        except BaseException:
            util.close_fds(*held)
            raise
        util.close_fds(data_fd)
        if lifeline is not None:
            util.close_fds(lifeline)
        self._own(self.sentinel, *parent_ends)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
