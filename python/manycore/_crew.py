"""The worker processes of a pool: started, buried, replaced and ended."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import os
import sys
import time
import warnings
import weakref

from . import _engine, _last_words, _worker
from ._locks import RLock
from ._postpone import Postponed
from .process import _exitcode_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from .process import BaseProcess

__all__ = ["Crew"]

# Kills in a row of workers that start, after which a program is told what it waits for: it has waited for a second.
MANY_KILLS = 8

# Seconds a terminated worker has before it is killed: it may ignore SIGTERM, and nobody may hang for that.
PATIENCE = 1.0


# Pools of this process whose results may be views of shared memory.
_cores: weakref.WeakSet[_engine.Core] = weakref.WeakSet()


def _before_fork() -> None:
    """Make received arrays this process's own, so that a forked child gets copies and not the same memory."""
    for core in list(_cores):
        core.before_fork()


os.register_at_fork(before=_before_fork)


class Crew:
    """The worker processes of one pool, apart from it so that an unused pool can be collected."""

    def __init__(
        self,
        make_process: Callable[..., BaseProcess],
        size: int,
        rules: _worker.Rules,
    ) -> None:
        # A third of what the package would take to import. But not later than here: the interpreter takes the first
        # thread that imports it for the main one, and that makes the pools as a rule.
        import threading

        self.make_process = make_process
        self.size = size
        self.rules = rules
        self.processes: list[BaseProcess] = []
        self.by_seat: dict[int, BaseProcess] = {}
        self.words: dict[int, _last_words.LastWords] = {}
        self.started = 0
        self.keeper: threading.Thread | None = None
        self.keeper_lock = threading.Lock()
        # Held while workers are started; again by the same thread, when a collection ends another pool's life in it.
        self.roster = RLock()
        self.hiring = True
        self.warned = False
        self.owner = os.getpid()
        # The engine keeps the callback, and must not keep the crew that keeps the engine.
        this = weakref.ref(self)

        def on_exit(seat: int) -> None:
            crew = this()
            if crew is not None:
                crew.on_exit(seat)

        def on_vacancy() -> None:
            crew = this()
            if crew is not None:
                crew.refill()

        self.core = _engine.Core(size, on_exit, on_vacancy)
        self.core.expect_last_words()
        _cores.add(self.core)

    def hire(self) -> None:
        """Start a worker in an empty seat."""
        # Ctrl-C reaches a worker only when it is ready for it: interrupted in its start, each would print a traceback.
        # And it comes through here only when the worker is known to us.
        with Postponed() as postponed:
            seat = self.core.take_seat()
            process = None
            try:
                words = self.words[seat] = _last_words.LastWords()
                place = _worker.Seat(self.core, seat, postponed.was_blocked, words.fd)
                process = self.make_process(target=_worker.main, args=(place, self.rules))
                process.name = process.name.replace("Process", "PoolWorker")
                process.daemon = True
                process.start()
                self.by_seat[seat] = process
                self.processes.append(process)
                assert process.pid is not None
                self.core.enlist(seat, process.pid, process.sentinel)
                self.started += 1
            except BaseException:
                self.by_seat.pop(seat, None)
                if getattr(process, "_popen", None) is not None:
                    process.kill()  # type: ignore[union-attr]
                    process.join()  # type: ignore[union-attr]
                if process in self.processes:
                    self.processes.remove(process)
                self.core.leave_seat(seat)
                raise

    def on_exit(self, seat: int) -> None:
        """Bury the worker of `seat`, which has ended, and start another where there is work for it."""
        # Ctrl-C may end this anywhere; it is then called again for the same seat, so what marks it as done comes last,
        # and another worker may sit there by then.
        process = self.by_seat.get(seat)
        exitcode = None
        if process is not None:
            process.join(0)
            exitcode = process.exitcode
            if exitcode is None:
                return
            # A stand-in that a subclass gives may not have the attribute.
            if getattr(getattr(process, "_popen", None), "status_lost", False):
                exitcode = None
        words = self.words.get(seat)
        go_on = self.core.bury(seat, exitcode, None if words is None else self.heard(words, exitcode))
        if self.words.get(seat) is words:
            self.words.pop(seat, None)
        self.by_seat.pop(seat, None)
        self.processes[:] = [process for process in self.processes if process in self.by_seat.values()]
        if go_on:
            self.refill()
            self.warn_of_kills(exitcode)

    def heard(self, words: _last_words.LastWords, exitcode: int | None) -> str | None:
        """Return what a worker that has ended wrote about where it was."""
        text = words.read()
        faulthandler = sys.modules.get("faulthandler")
        crashed = text is not None and exitcode is not None and exitcode < 0 and exitcode != -_signal.SIGSTKFLT
        # The program wants to see crashes, and the worker's went into the file.
        if crashed and faulthandler is not None and faulthandler.is_enabled() and sys.stderr is not None:
            sys.stderr.write(f"{text}\n")
        return text

    def warn_of_kills(self, exitcode: int | None) -> None:
        """Say, once, that worker after worker is killed in its start: the pool goes on, and somebody waits."""
        if self.warned or self.core.killed_starts < MANY_KILLS:
            return
        self.warned = True
        how = "unknown" if exitcode is None else _exitcode_name(exitcode)
        warnings.warn(
            f"{MANY_KILLS} workers of a pool in a row were killed while they started (exit code of the last: {how}); "
            "the pool goes on starting others as long as somebody waits for an answer. If the system kills them for "
            "want of memory, use fewer workers",
            RuntimeWarning,
            stacklevel=2,
        )

    def refill(self) -> None:
        """Start workers for empty seats where there is work for them; not in the pause after kills."""
        if self.owner != os.getpid():
            return
        # Two threads may see deaths at once, and a worker that is being started sits in no seat yet.
        with self.roster:
            if not self.core.may_hire:
                # Whoever waits is told when the pause is over.
                return
            while len(self.by_seat) < self.size and (self.hiring or self.core.has_waiting):
                try:
                    self.hire()
                except OSError:
                    # With fewer workers the rest is done all the same, and the next one that ends is another chance;
                    # with none it never would be.
                    if not self.processes:
                        self.core.terminate()
                        raise
                    break
            # Interrupted before this, it is called again.
            self.core.leave_empty()

    def terminate(self) -> None:
        """Answer what is open, and end every worker; one that ignores SIGTERM is killed after `PATIENCE` seconds."""
        if self.owner != os.getpid():
            return
        with self.roster:
            self.hiring = False
            self.core.terminate()
        for process in list(self.processes):
            process.terminate()
        self.core.end_kin()
        deadline = time.monotonic() + PATIENCE
        for process in list(self.processes):
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
        self.join()
        self.dismiss_keeper()

    def dismiss_keeper(self) -> None:
        """End the keeper and wait for it: no thread of ours may be left when the interpreter goes."""
        self.core.stop()
        keeper = self.keeper
        if keeper is not None and keeper.ident != _thread.get_ident():
            keeper.join()

    def join(self) -> None:
        """Wait for every worker to end."""
        for process in list(self.processes):
            process.join()
        self.core.watch()
        if not self.processes:
            self.core.retire()
