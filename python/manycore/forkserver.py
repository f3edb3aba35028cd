"""The zygote: a process that has imported what children need, does nothing else, and forks on request.

A child forked from it starts about as fast as one forked from the parent, and inherits none of the parent's threads
and locks. There is one zygote for each process that uses the start method, started with its first child.

Parent and zygote are joined by a socket pair that the zygote inherits, so there is no address for others to connect
to and no file. A message is one packet. The parent's: a header, then the preparation data that changed since the
zygote was started, then the pickled process object; with it the descriptors for the child. The zygote's: the child's
number and pidfd, or an error. A child's exit status goes through a pipe of its own, because it may be asked for by
any thread at any time.

A zygote that is killed is replaced, and the request goes to the new one. The old one may have forked a child before it
could say so, and a process runs once. So with each request goes a *claim*, an eventfd with a value that is there once:
the child takes it before it does anything, and leaves its number there. A parent that takes it first may ask again, and
the child, which finds nothing, ends; a parent that finds a number has its child. A `start()` that an exception breaks
off, such as KeyboardInterrupt, takes the claim, too, and kills the child that was faster.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import errno
import io
import os
import struct
import sys
import time

from . import _descriptors, process, reduction, spawn, util
from ._locks import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO, Any

__all__ = ["ensure_running", "get_inherited_fds", "set_forkserver_preload"]

# Request: its number, flags, size of the preparation data. Reply: the request's number, errno, pid.
REQUEST = struct.Struct("=QBI")
REPLY = struct.Struct("=Qii")
HAS_LIFELINE = 1
BODY_IN_FILE = 2
# A larger body goes into a memory file: a packet must fit the socket's buffer.
LARGEST_PACKET = 1 << 16
# The kernel passes at most 253 descriptors with one message; up to four are ours.
MAXFDS_TO_SEND = 249
# How often a zygote that ends under our hands, by its own error, is replaced before we give up.
ATTEMPTS = 3
# The same for one that is killed, by the system for want of memory as a rule: after a growing pause, 4 seconds in all,
# as what it was killed for may be over by then.
KILLS = 12
# The value of a claim that nobody has taken; no process has this number.
UNCLAIMED = 1 << 31
# Milliseconds in which a child that has taken the claim leaves its number: it does nothing in between.
CLAIMING = 2000
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5


class ForkServer:
    """The parent's end of the line."""

    def __init__(self) -> None:
        self._preload_modules: list[str] = ["__main__"]
        self._preload_on_error = "ignore"
        self._inherited_fds: list[int] | None = None
        self._forget()

    def _forget(self) -> None:
        """Have no zygote; also in a forked child, whose copies of the descriptors are closed already."""
        self._lock = RLock()
        self._forkserver_pid: int | None = None
        self._sock: _socket.socket | None = None
        self._lifeline: int | None = None
        self._prepared: dict[str, Any] = {}
        self._last_request = 0

    def _forget_in_child(self) -> None:
        if self._sock is not None:
            self._sock.detach()
        self._forget()

    def set_forkserver_preload(self, modules_names: list[str], *, on_error: str = "ignore") -> None:
        """Name the modules that the next zygote imports. See `BaseContext.set_forkserver_preload`."""
        if not all(type(name) is str for name in modules_names):
            raise TypeError("module_names must be a list of strings")
        if on_error not in ("ignore", "warn", "fail"):
            raise ValueError(f"on_error must be 'ignore', 'warn' or 'fail', not {on_error!r}")
        self._preload_modules = list(modules_names)
        self._preload_on_error = on_error

    def get_inherited_fds(self) -> list[int]:
        """Return the descriptors that came along with this process, in a child of a zygote."""
        if self._inherited_fds is None:
            raise RuntimeError("this process was not started by the forkserver method")
        return self._inherited_fds

    def ensure_running(self) -> None:
        """Start the zygote unless it runs."""
        with self._lock:
            self._ensure_running(spawn.get_preparation_data("forkserver"))

    def start_child(
        self,
        preparation: dict[str, Any],
        pickled: memoryview,
        fds: Sequence[int],
        status_end: int,
        lifeline: int | None,
    ) -> tuple[int, int]:
        """Have a child forked, and return its number and pidfd.

        `preparation` is what `spawn.get_preparation_data` says now; `pickled` the process object; `fds` go to the
        child; its exit status will be written to `status_end`. Raises OSError if no child could be made.
        """
        if len(fds) > MAXFDS_TO_SEND:
            raise ValueError(
                f"{len(fds)} descriptors in the arguments of a process; at most {MAXFDS_TO_SEND} can travel"
            )
        with self._lock:
            errors = kills = 0
            while errors < ATTEMPTS and kills < KILLS:
                self._ensure_running(preparation)
                claim = os.eventfd(UNCLAIMED, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                try:
                    util.make_private(claim)
                    return self._request(preparation, pickled, fds, [status_end, claim], lifeline)
                except (BrokenPipeError, ConnectionResetError, EOFError):
                    killed = self._stop_unlocked()
                    pid = _take_claim(claim)
                    if pid is not None:
                        return pid, _watch_orphan(pid)
                    if killed:
                        time.sleep(min(FIRST_PAUSE * 2**kills, LONGEST_PAUSE))
                        kills += 1
                    else:
                        errors += 1
                except ConnectionRefusedError:
                    # It could not preload. The next attempt begins afresh: the program may have changed its mind.
                    self._stop_unlocked()
                    raise
                except BaseException:
                    _call_off(claim)
                    raise
                finally:
                    util.close_fds(claim)
        how = "was killed" if kills else "died"
        raise ConnectionError(
            f"the forkserver process {how} {max(kills, errors)} times while it was starting a child; "
            f"it runs {os.fsdecode(spawn.get_executable())!r} "
            f"and preloads {', '.join(self._preload_modules) or 'nothing'}"
        )

    def _request(
        self,
        preparation: dict[str, Any],
        pickled: memoryview,
        fds: Sequence[int],
        own: Sequence[int],
        lifeline: int | None,
    ) -> tuple[int, int]:
        changed = {key: value for key, value in preparation.items() if self._prepared.get(key) != value}
        prepared = reduction.pickle.dumps(changed)
        self._last_request += 1
        flags, sent, body_fd = 0, [*own], None
        parts: list[bytes | memoryview] = [prepared, pickled]
        try:
            if lifeline is not None:
                flags |= HAS_LIFELINE
                sent.append(lifeline)
            if len(prepared) + len(pickled) > LARGEST_PACKET:
                flags |= BODY_IN_FILE
                body_fd = util.memory_file(b"".join(parts))
                sent.append(body_fd)
                parts = []
            header = REQUEST.pack(self._last_request, flags, len(prepared))
            self._sock.sendmsg([header, *parts], [_rights([*sent, *fds])])  # type: ignore[union-attr]
        finally:
            if body_fd is not None:
                util.close_fds(body_fd)
        return self._await_reply()

    def _await_reply(self) -> tuple[int, int]:
        while True:
            # A handler that raises does so here, and not when the reply with its descriptor has been taken.
            util.wait_readable(self._sock.fileno())  # type: ignore[union-attr]
            message, received, truncated = _receive(self._sock, 4096, 1)
            if not message:
                raise EOFError
            number, error, pid = REPLY.unpack_from(message)
            if number != self._last_request:
                # The answer to a start() that was broken off. It may have had no time to call its child off.
                for pidfd in received:
                    _kill(pidfd)
                    os.close(pidfd)
            elif error:
                raise OSError(error, bytes(message[REPLY.size :]).decode("utf-8", "replace"))
            elif truncated or not received:
                # We cannot watch it, so we do not want it; it is ours to kill as long as it has not been reported.
                try:
                    os.kill(pid, _signal.SIGKILL)
                except ProcessLookupError:
                    pass
                raise OSError(errno.EMFILE, "cannot watch the new process: too many open files")
            else:
                return pid, received[0]

    def _ensure_running(self, preparation: dict[str, Any]) -> None:
        if self._forkserver_pid is not None:
            try:
                if os.waitpid(self._forkserver_pid, os.WNOHANG)[0] == 0:
                    return
            except ChildProcessError:
                pass
            self._forkserver_pid = None
            self._stop_unlocked()
        self._launch(preparation)

    def _launch(self, preparation: dict[str, Any]) -> None:
        # What is this child's alone is not the zygote's.
        prepared = {key: value for key, value in preparation.items() if key not in ("name", "dir_fd")}
        with _descriptors.fd_lock:
            ours, its = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
            util.make_private(ours.fileno(), its.fileno())
        # A program may have set a default for its own sockets.
        ours.settimeout(None)
        its.settimeout(None)
        held = [ours.detach(), its.detach()]
        try:
            lifeline, parent_end = util.private_pipe()
            held += (lifeline, parent_end)
            blocked = _signal.SIGINT in _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
            settings = (prepared, self._preload_modules, self._preload_on_error, blocked)
            settings_fd = util.memory_file(reduction.pickle.dumps(settings))
            held.append(settings_fd)
            passed = (held[1], settings_fd, lifeline, util.family())
            program = f"{spawn.import_statement('forkserver')}; m.main{passed}"
            executable = spawn.get_executable()
            command = [
                os.fsdecode(executable),
                *util._args_from_interpreter_flags(),
                "-c",
                program,
                "--multiprocessing-fork",
            ]
            # Blocked until the zygote ignores it, so that Ctrl-C does not find it half started.
            pid = util.spawnv_passfds(executable, command, passed, block=[_signal.SIGINT])
        except BaseException:
            util.close_fds(*held)
            raise
        util.close_fds(held[1], lifeline, settings_fd)
        self._sock = _socket.socket(fileno=held[0])
        self._sock.settimeout(None)
        self._lifeline = parent_end
        self._prepared = prepared
        self._forkserver_pid = pid

    def _stop(self) -> None:
        """End the zygote. Its children live on; their exit codes will be unknown."""
        with self._lock:
            self._stop_unlocked()

    def _stop_unlocked(self) -> bool:
        """As `_stop`. Returns whether a signal has ended the zygote: if it had ended before, not one of ours."""
        killed = False
        if self._sock is not None:
            util.close_fds(self._sock.detach())
            self._sock = None
        if self._lifeline is not None:
            util.close_fds(self._lifeline)
            self._lifeline = None
        if self._forkserver_pid is not None:
            try:
                killed = os.WIFSIGNALED(os.waitpid(self._forkserver_pid, 0)[1])
            except ChildProcessError:
                pass
            self._forkserver_pid = None
        return killed


def _rights(fds: Sequence[int]) -> tuple[int, int, bytes]:
    return _socket.SOL_SOCKET, _socket.SCM_RIGHTS, b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)


def _receive(sock: Any, size: int, n_fds: int) -> tuple[memoryview, list[int], bool]:
    """Receive one packet: its bytes, its descriptors, and whether some of these got lost for want of room."""
    message, ancillary, flags, _ = sock.recvmsg(size, _socket.CMSG_SPACE(4 * n_fds), _socket.MSG_CMSG_CLOEXEC)
    return memoryview(message), reduction.unpack_fds(ancillary), bool(flags & _socket.MSG_CTRUNC)


def _take_claim(claim: int) -> int | None:
    """Return the number of the child that has taken a claim, or None; then none will take it."""
    import select

    poller = select.poll()
    poller.register(claim, select.POLLIN)
    while poller.poll(CLAIMING):
        try:
            value = os.eventfd_read(claim)
        except BlockingIOError:
            # The child was faster, and is about to leave its number.
            continue
        return None if value == UNCLAIMED else value
    raise ChildProcessError(errno.ECHILD, "a new process did not say its number, and the forkserver was killed")


def _call_off(claim: int) -> None:
    """See to it that no child of this claim runs on."""
    try:
        pid = _take_claim(claim)
        if pid is not None:
            pidfd = os.pidfd_open(pid)
            try:
                _kill(pidfd)
            finally:
                os.close(pidfd)
    except OSError:
        # There is no such child any more, or it cannot be reached: what broke the start off is the better news.
        pass


def _watch_orphan(pid: int) -> int:
    """Return a sentinel of a child whose zygote is gone: nobody will tell its exit status."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return util.ended_sentinel()
    except OSError:
        # It cannot be watched, so it is not wanted.
        os.kill(pid, _signal.SIGKILL)
        raise


def _claim(claim: int) -> bool:
    """Take a claim, in the child. Returns whether it was there."""
    try:
        os.eventfd_read(claim)
    except BlockingIOError:
        return False
    os.eventfd_write(claim, os.getpid())
    return True


def _kill(pidfd: int) -> None:
    try:
        _signal.pidfd_send_signal(pidfd, _signal.SIGKILL)
    except ProcessLookupError:
        pass


# ----------------------------------------------------------------------------------------------------------------------
# The zygote


def main(sock_fd: int, settings_fd: int, lifeline: int, family: int) -> None:
    """Be the zygote, until the parent ends. Does not return."""
    # Collections would touch every object and so unshare the memory that children are to share.
    import gc

    gc.disable()
    from .popen_fork import hang_on

    # Taken before anything can be long: while it imports, the zygote does not see that the line is closed.
    for fd in (sock_fd, settings_fd, lifeline):
        os.set_inheritable(fd, False)
    hang_on(lifeline)
    util.join_family(family)
    owner = os.pidfd_open(os.getppid())
    on_interrupt = _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    # A parent that ignores it hands that down, and then the kernel would keep no exit status for us.
    on_child = _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    with open(settings_fd, "rb") as file:
        preparation, preload, on_error, interrupt_blocked = reduction.pickle.load(file)
    if not interrupt_blocked:
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGINT])
    util.make_private(sock_fd)
    zygote = _Zygote(_socket.socket(fileno=sock_fd), owner, on_interrupt, on_child)
    zygote.preload(preparation, preload, on_error)
    util._close_stdin()
    util._flush_std_streams()
    gc.freeze()
    zygote.serve()
    os._exit(0)


class _Zygote:
    """The zygote's end of the line."""

    def __init__(self, sock: _socket.socket, owner: int, on_interrupt: Any, on_child: Any) -> None:
        import select

        self._sock = sock
        self._owner = owner
        self._on_interrupt = on_interrupt
        self._on_child = on_child
        # What a child has to import itself: our main module, if it is not preloaded.
        self._unprepared: dict[str, Any] = {}
        self._preload_error: str | None = None
        # The children that live, by pidfd: number, and where the exit status goes.
        self._children: dict[int, tuple[int, int]] = {}
        self._epoll = select.epoll()
        util.make_private(self._epoll.fileno())
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def preload(self, preparation: dict[str, Any], names: list[str], on_error: str) -> None:
        """Take on what the parent is, and import what children will need."""
        main = {key: preparation.pop(key) for key in list(preparation) if key.startswith("init_main_from_")}
        spawn.prepare(preparation)
        self._unprepared = main
        for name in names:
            try:
                if name == "__main__":
                    self._import_main(main)
                else:
                    __import__(name)
            except (Exception, SystemExit) as error:
                # A main module that fails here will fail in the child, where the user sees it.
                if on_error == "warn":
                    import warnings

                    warnings.warn(f"forkserver: cannot preload {name!r}: {error!r}", ImportWarning, stacklevel=1)
                elif on_error == "fail" and self._preload_error is None:
                    import traceback

                    self._preload_error = f"the forkserver cannot preload {name!r}:\n{traceback.format_exc()}"
        for name in ("pickle", f"{__package__}._engine", f"{__package__}.pool"):
            try:
                __import__(name)
            except ImportError:
                pass

    def _import_main(self, main: dict[str, Any]) -> None:
        current = process.current_process()
        current._inheriting = True  # type: ignore[attr-defined]
        try:
            spawn.prepare(main)
        finally:
            del current._inheriting  # type: ignore[attr-defined]
        self._unprepared = {}

    def serve(self) -> None:
        """Fork children and report their ends, until the parent closes the line."""
        line = self._sock.fileno()
        while True:
            for fd, _ in self._epoll.poll():
                if fd != line:
                    self._reap(fd)
                elif not self._answer():
                    return

    def _reap(self, pidfd: int) -> None:
        pid, status_end = self._children[pidfd]
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if reaped != pid:
            return
        try:
            os.write(status_end, os.waitstatus_to_exitcode(status).to_bytes(4, sys.byteorder, signed=True))
        except BrokenPipeError:
            # The parent no longer wants to know.
            pass
        self._epoll.unregister(pidfd)
        del self._children[pidfd]
        util.close_fds(pidfd, status_end)

    def _answer(self) -> bool:
        """Serve one request. Returns whether there may be another."""
        message, fds, truncated = _receive(self._sock, LARGEST_PACKET + REQUEST.size, MAXFDS_TO_SEND + 4)
        if not message:
            return False
        number, flags, prepared_size = REQUEST.unpack_from(message)
        reply, rights = b"", []
        try:
            if self._preload_error is not None:
                raise ConnectionRefusedError(errno.ECONNREFUSED, self._preload_error[-3000:])
            if truncated:
                raise OSError(
                    errno.EMFILE, "the forkserver cannot take the new process's descriptors: too many open files"
                )
            status_end = fds[0]
            util.make_private(status_end)
            pid = util.fork_keeping(())
            if pid == 0:
                self._be_child(message[REQUEST.size :], flags, prepared_size, fds[1:])
            pidfd = self._watch(pid, status_end)
            fds.remove(status_end)
            reply, rights = REPLY.pack(number, 0, pid), [_rights([pidfd])]
        except OSError as error:
            text = f"the forkserver cannot start a process: {error.strerror}"
            reply = REPLY.pack(number, error.errno or errno.EIO, 0) + text.encode()
        finally:
            util.close_fds(*fds)
        try:
            self._sock.sendmsg([reply], rights)
        except ConnectionError:
            return False
        return True

    def _watch(self, pid: int, status_end: int) -> int:
        import select

        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, _signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        util.make_private(pidfd)
        self._epoll.register(pidfd, select.EPOLLIN)
        self._children[pidfd] = (pid, status_end)
        return pidfd

    def _be_child(self, body: memoryview, flags: int, prepared_size: int, fds: list[int]) -> None:
        """Be the new process. Does not return."""
        from . import popen_fork

        def run() -> int:
            try:
                return self._run_child(body, flags, prepared_size, fds)
            except BaseException as error:
                sys.excepthook(type(error), error, error.__traceback__)
                util._flush_std_streams()
                return 1

        popen_fork.run_and_exit(run)

    def _run_child(self, body: memoryview, flags: int, prepared_size: int, fds: list[int]) -> int:
        import gc

        from .popen_fork import hang_on

        if not _claim(fds[0]):
            # The parent has taken the claim: another child runs in the place of this one.
            return 0
        util.close_fds(fds.pop(0))
        self._sock.detach()
        _signal.signal(_signal.SIGINT, self._on_interrupt)
        _signal.signal(_signal.SIGCHLD, self._on_child)
        gc.enable()
        if flags & HAS_LIFELINE:
            hang_on(fds.pop(0))
        with open(fds.pop(0), "rb") if flags & BODY_IN_FILE else io.BytesIO(body) as file:
            _forkserver._inherited_fds = fds
            util.make_private(self._owner)
            child = self._unpack(file, prepared_size)
        del body
        return child._bootstrap(self._owner)

    def _unpack(self, file: IO[bytes], prepared_size: int) -> process.BaseProcess:
        current = process.current_process()
        current._inheriting = True  # type: ignore[attr-defined]
        try:
            data = {**self._unprepared, **reduction.pickle.loads(file.read(prepared_size))}
            return spawn.take_on(data, file)
        finally:
            del current._inheriting  # type: ignore[attr-defined]


_forkserver = ForkServer()
os.register_at_fork(after_in_child=_forkserver._forget_in_child)

ensure_running = _forkserver.ensure_running
get_inherited_fds = _forkserver.get_inherited_fds
set_forkserver_preload = _forkserver.set_forkserver_preload


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
