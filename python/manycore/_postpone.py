"""Ctrl-C, put off while something is done that must not be left half done."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Postponed"]

# The handlers that the main thread has put aside, the program's own first.
_aside: list[Any] = []


class Postponed:
    """A `with` block in which Ctrl-C does not interrupt the current thread; what comes meanwhile is raised at its end.

    SIGINT is blocked, so that processes started here have it blocked, too. That alone is not enough: the kernel would
    give the signal to another thread, and the interpreter runs the handler in the main thread all the same. So the
    handler is exchanged, where this is the main thread. A forked child has the program's own handler again.
    """

    def __enter__(self) -> Postponed:
        self._came = False
        self._replaced = False
        self._mask: set[Any] | None = None
        try:
            handler = _signal.getsignal(_signal.SIGINT)
            if callable(handler) and _thread.get_native_id() == os.getpid():  # the main thread
                _aside.append(handler)
                self._replaced = True
                _signal.signal(_signal.SIGINT, self._note)
            # In two steps: the second may raise what another signal's handler raises, and block all the same.
            self._mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
            _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGINT})
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._restore()
        finally:
            if self._came:
                _signal.raise_signal(_signal.SIGINT)

    @property
    def was_blocked(self) -> bool:
        """Whether SIGINT had been blocked before."""
        return self._mask is not None and _signal.SIGINT in self._mask

    def _note(self, *_: object) -> None:
        self._came = True

    def _restore(self) -> None:
        try:
            # What is pending comes now, and is noted.
            if self._mask is not None:
                _signal.pthread_sigmask(_signal.SIG_SETMASK, self._mask)
        finally:
            if self._replaced:
                handler = _aside.pop()
                try:
                    _signal.signal(_signal.SIGINT, handler)
                except BaseException:
                    # Raised by another signal's handler, before anything was changed.
                    _signal.signal(_signal.SIGINT, handler)
                    raise


def _restore_in_child() -> None:
    if _aside:
        _signal.signal(_signal.SIGINT, _aside[0])
        _aside.clear()


os.register_at_fork(after_in_child=_restore_in_child)
