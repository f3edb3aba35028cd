"""Descriptors of this process: which of them children get, and starting a program with exactly those it is to have.

Everybody reaches these names through `util`, where the standard package has its own.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import os

from . import _forks as _forks

# First of all: what it does in a forked child comes before what this module, and all others, do there.
from ._locks import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "close_all_fds_except",
    "close_fds",
    "ended_sentinel",
    "family",
    "fd_lock",
    "fork_keeping",
    "join_family",
    "locked_memory_file",
    "make_private",
    "memory_file",
    "private_pipe",
    "spawnv_passfds",
    "wait_readable",
]

# Descriptors that mean something to this process only: lifelines, pidfds, the line to the zygote. Children forked by
# whomever close them, or a sibling would keep open what is to close when we die.
_private_fds: set[int] = set()
# Held while a descriptor enters or leaves the set, and across every fork, so that a child sees none in between.
# Re-entrant because a finalizer may close descriptors at any bytecode.
fd_lock = RLock()
# By forking thread: private descriptors that its next child keeps.
_kept_by_child: dict[int, tuple[int, ...]] = {}


def private_pipe() -> tuple[int, int]:
    """Return (read end, write end) of a pipe whose ends no forked child keeps. Give back with `close_fds`."""
    with fd_lock:
        ends = os.pipe()
        _private_fds.update(ends)
    return ends


def ended_sentinel() -> int:
    """Return what stands for the pidfd of a process of which nothing is left: a pipe that nobody can write to, which is
    readable as the pidfd would be."""
    # No child may be forked in between, which would hold the other end.
    with fd_lock:
        sentinel, nobodys = os.pipe()
        os.close(nobodys)
    return sentinel


def make_private(*fds: int) -> None:
    """Have these descriptors closed in every child forked from now on."""
    with fd_lock:
        _private_fds.update(fds)


def close_fds(*fds: int) -> None:
    """Close descriptors, private or not."""
    with fd_lock:
        for fd in fds:
            _private_fds.discard(fd)
            os.close(fd)


def memory_file(content: bytes | memoryview) -> int:
    """Return a descriptor of an unnamed file in memory that holds `content`, to be read from its beginning.

    Unlike a pipe it takes everything at once: starting a child never waits for the child, and one that dies while
    it starts shows as an exit code instead of a broken pipe.
    """
    fd = os.memfd_create("manycore-start")
    try:
        make_private(fd)
        view = memoryview(content)
        written = 0
        while written < len(view):
            written += os.pwrite(fd, view[written:], written)
        return fd
    except BaseException:
        close_fds(fd)
        raise


def fork_keeping(fds: tuple[int, ...]) -> int:
    """Fork; the child keeps these private descriptors and closes the others. Returns what `os.fork` returns."""
    me = _thread.get_ident()
    _kept_by_child[me] = fds
    try:
        return os.fork()
    finally:
        _kept_by_child.pop(me, None)


def _close_private_in_child() -> None:
    kept = _kept_by_child.get(_thread.get_ident(), ())
    for fd in _private_fds.difference(kept):
        try:
            os.close(fd)
        except OSError:
            pass
    _private_fds.clear()
    _kept_by_child.clear()
    fd_lock._at_fork_reinit()  # type: ignore[attr-defined]


os.register_at_fork(
    before=lambda: fd_lock.acquire(),
    after_in_parent=lambda: fd_lock.release(),
    after_in_child=_close_private_in_child,
)


def wait_readable(fd: int, timeout: float | None = None) -> bool:
    """Wait until `fd` is readable or hung up, at most `timeout` seconds (None: for ever). Returns whether it is."""
    import select

    if timeout is not None and timeout != timeout:
        raise ValueError("timeout must be a number of seconds or None, not nan")
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    if timeout is None or timeout == float("inf"):
        return bool(poller.poll())
    # poll() takes a C int of milliseconds: longer waits are made of several. Rounded up, never to wake early.
    longest = 1_000_000.0
    while timeout > longest:
        if poller.poll(int(longest * 1000)):
            return True
        timeout -= longest
    return bool(poller.poll(int(-(-max(timeout, 0.0) * 1000 // 1))))


def close_all_fds_except(fds: Iterable[int]) -> None:
    """Close every descriptor of this process but these."""
    kept = sorted({-1, *fds})
    for low, high in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)


def spawnv_passfds(path: bytes | str, args: Sequence[str], passfds: Iterable[int], block: Iterable[int] = ()) -> int:
    """Start the program at `path`; it inherits the standard streams and `passfds`, nothing else. Returns its pid.

    The signals in `block` are blocked in it, besides those blocked in this thread. Raises OSError saying which program
    could not be started.
    """
    passed = set(passfds)
    # A dup2 onto itself clears close-on-exec, in the child only.
    actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in sorted(passed)]
    # Close-on-exec is Python's default; this is for descriptors somebody made inheritable.
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and fd not in passed and os.get_inheritable(fd):
                actions.append((os.POSIX_SPAWN_CLOSE, fd))
        except OSError:
            pass
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, ()) | set(block)
    try:
        return os.posix_spawn(path, list(args), os.environ, file_actions=actions, setsigmask=mask)
    except OSError as error:
        raise OSError(error.errno, f"cannot start a Python process: {error.strerror}", os.fsdecode(path)) from None


# ----------------------------------------------------------------------------------------------------------------------
# The family: the processes of one program

# A file in memory that all of them hold open, with a shared lock on it. The lock belongs to the open file, so it is
# given back when the last of them ends, however it ends; whoever waits for an exclusive lock waits for just that.
_family: int | None = None
_family_inode: int | None = None


def family() -> int:
    """Return the descriptor that all processes of this program have in common; the first that asks makes it.

    It is not private: forked children keep it. Those started otherwise get it with their start, see `join_family`.
    """
    global _family, _family_inode
    with fd_lock:
        # A program that closes whatever is open, as daemons do, closes this one, and reuses its number.
        if _family is None or not _is_inode(_family, _family_inode):
            _family = locked_memory_file("manycore-family")
            _family_inode = os.fstat(_family).st_ino
        return _family


def join_family(fd: int) -> None:
    """Say which descriptor is the family's, in a process that did not inherit it by fork."""
    global _family, _family_inode
    os.set_inheritable(fd, False)
    _family, _family_inode = fd, os.fstat(fd).st_ino


def locked_memory_file(name: str) -> int:
    """Return a new file in memory on which this process, and what it forks, holds a shared lock while it is open."""
    import fcntl

    fd = os.memfd_create(name)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def _is_inode(fd: int, inode: int | None) -> bool:
    try:
        return os.fstat(fd).st_ino == inode
    except OSError:
        return False
