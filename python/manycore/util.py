"""What the other modules share: log, finalizers, fork callbacks, temporary directory; the names of `_descriptors`, too.

It is imported when the first process is started, not by `import manycore`. Importing it registers the exit handler
that ends daemonic children and waits for the others.
"""

from __future__ import annotations

import _thread
import _weakref
import atexit
import itertools
import os
import sys

from . import _forks, process
from ._descriptors import close_all_fds_except as close_all_fds_except
from ._descriptors import close_fds as close_fds
from ._descriptors import ended_sentinel as ended_sentinel
from ._descriptors import family as family
from ._descriptors import fork_keeping as fork_keeping
from ._descriptors import join_family as join_family
from ._descriptors import make_private as make_private
from ._descriptors import memory_file as memory_file
from ._descriptors import private_pipe as private_pipe
from ._descriptors import spawnv_passfds as spawnv_passfds
from ._descriptors import wait_readable as wait_readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = [
    "SUBDEBUG",
    "SUBWARNING",
    "Finalize",
    "ForkAwareLocal",
    "ForkAwareThreadLock",
    "close_all_fds_except",
    "debug",
    "get_logger",
    "get_temp_dir",
    "info",
    "is_exiting",
    "log_to_stderr",
    "register_after_fork",
    "sub_debug",
    "sub_warning",
    "warn",
]

# ----------------------------------------------------------------------------------------------------------------------
# Log. The logger bears the standard package's name, so that a program's logging set-up finds it.

NOTSET = 0
SUBDEBUG = 5
DEBUG = 10
INFO = 20
SUBWARNING = 25
WARNING = 30

LOGGER_NAME = "multiprocessing"
DEFAULT_LOGGING_FORMAT = "[%(levelname)s/%(processName)s] %(message)s"

_logger: logging.Logger | None = None
_log_to_stderr = False


def sub_debug(msg: str, *args: object) -> None:
    """Log below DEBUG, if the logger is in use."""
    if _logger:
        _logger.log(SUBDEBUG, msg, *args, stacklevel=2)


def debug(msg: str, *args: object) -> None:
    """Log at DEBUG, if the logger is in use."""
    if _logger:
        _logger.log(DEBUG, msg, *args, stacklevel=2)


def info(msg: str, *args: object) -> None:
    """Log at INFO, if the logger is in use."""
    if _logger:
        _logger.log(INFO, msg, *args, stacklevel=2)


def sub_warning(msg: str, *args: object) -> None:
    """Log between INFO and WARNING, if the logger is in use."""
    if _logger:
        _logger.log(SUBWARNING, msg, *args, stacklevel=2)


def warn(msg: str, *args: object) -> None:
    """Log at WARNING, if the logger is in use."""
    if _logger:
        _logger.log(WARNING, msg, *args, stacklevel=2)


def get_logger() -> logging.Logger:
    """Return the package's logger; from the first call on, it is in use."""
    global _logger
    if _logger is None:
        import logging

        logger = logging.getLogger(LOGGER_NAME)
        logger.propagate = False
        _name_log_records()
        # Exit handlers run last in, first out: ours must run before the one of logging, for it still logs.
        atexit.unregister(_exit_function)
        atexit.register(_exit_function)
        os.register_at_fork(before=_hold_log, after_in_parent=_let_go_of_log, after_in_child=_held_handlers.clear)
        _logger = logger
    return _logger


# Handlers of the log whose locks the thread that forks has taken.
_held_handlers: list[Any] = []
# Seconds to wait for one: a program that sets its log up anew takes these locks in another order.
_LOG_PATIENCE = 1.0


def _hold_log() -> None:
    """Take the locks of the log's handlers before a fork.

    `logging` makes them anew in the child. But the file that a thread is writing to at that moment has a lock of its
    own, which nobody can give back there.
    """
    if _logger is None:
        return
    for handler in _logger.handlers:
        lock = handler.lock
        if lock is not None and lock.acquire(timeout=_LOG_PATIENCE):
            _held_handlers.append(handler)


def _let_go_of_log() -> None:
    while _held_handlers:
        _held_handlers.pop().release()


_records_named = False


def _name_log_records() -> None:
    """Have every log record bear the name of the process it was made in.

    `logging` looks for the name in a package called `multiprocessing`; where that is not us it finds MainProcess.
    """
    global _records_named
    if _records_named:
        return
    _records_named = True
    import logging

    make = logging.getLogRecordFactory()

    def make_named(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if record.processName == "MainProcess":
            record.processName = process.current_process().name
        return record

    logging.setLogRecordFactory(make_named)


def log_to_stderr(level: int | str | None = None) -> logging.Logger:
    """Make the package's logger write to stderr, at `level` if given, and return it."""
    global _log_to_stderr
    import logging

    logger = get_logger()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(DEFAULT_LOGGING_FORMAT))
    logger.addHandler(handler)
    if level:
        logger.setLevel(level)
    _log_to_stderr = True
    return logger


# ----------------------------------------------------------------------------------------------------------------------
# Interpreters and their streams


def _args_from_interpreter_flags() -> list[str]:
    """Return the options that give a child interpreter the flags, warning filters and -X options of this one."""
    # `subprocess` computes them, but importing it takes longer than starting the child. Most interpreters have no
    # option set; an integer flag other than these defaults, or any -W or -X, makes us ask.
    flags = sys.flags
    plain = not (
        sys.warnoptions
        or sys._xoptions
        or flags.debug
        or flags.inspect
        or flags.interactive
        or flags.optimize
        or flags.dont_write_bytecode
        or flags.no_user_site
        or flags.no_site
        or flags.ignore_environment
        or flags.verbose
        or flags.bytes_warning
        or flags.isolated
        or flags.dev_mode
        or flags.safe_path
        or flags.quiet
    )
    if plain:
        return []
    import subprocess

    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]


_null_stdin: Any = None


def _close_stdin() -> None:
    """Give a child an empty stdin: the terminal belongs to the parent."""
    global _null_stdin
    if sys.stdin is None or sys.stdin is _null_stdin:
        return
    try:
        sys.stdin.close()
    except (OSError, ValueError):
        pass
    try:
        fd = os.open(os.devnull, os.O_RDONLY)
        try:
            sys.stdin = _null_stdin = open(fd, encoding="utf-8", closefd=False)
        except BaseException:
            os.close(fd)
            raise
    except (OSError, ValueError):
        pass


def _flush_std_streams() -> None:
    """Flush stdout and stderr, whatever state the program has left them in."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):
            pass


def is_abstract_socket_namespace(address: object) -> bool:
    """Return whether a socket address is an abstract one: it begins with a zero byte and is no file."""
    if not address:
        return False
    if isinstance(address, bytes):
        return address[0] == 0
    if isinstance(address, str):
        return address[0] == "\0"
    raise TypeError(f"a socket address is bytes or str, not {address!r}")


def _platform_supports_abstract_sockets() -> bool:
    return sys.platform == "linux"


abstract_sockets_supported = _platform_supports_abstract_sockets()
# How many descriptors a process may have open.
MAXFD = os.sysconf("SC_OPEN_MAX")


def limit(timeout: float | None) -> float | None:
    """Return a timeout that `threading` takes: what is longer than it can count is None, for ever.

    ValueError if it is not a number.
    """
    if timeout is None:
        return None
    if timeout != timeout:
        raise ValueError("timeout must be a number of seconds or None, not nan")
    return None if timeout > _thread.TIMEOUT_MAX else max(timeout, 0.0)


# ----------------------------------------------------------------------------------------------------------------------
# After a fork


_afterfork_registry: dict[tuple[int, int, Callable[[Any], object]], _weakref.ref[Any]] = {}
_afterfork_counter = itertools.count()


def register_after_fork(obj: Any, func: Callable[[Any], object]) -> None:
    """Have `func(obj)` called in each child process that is forked to run a Process, while `obj` lives."""
    key = (next(_afterfork_counter), id(obj), func)
    _afterfork_registry[key] = _weakref.ref(obj, lambda _: _afterfork_registry.pop(key, None))


def _run_after_forkers() -> None:
    for (_, _, func), reference in sorted(_afterfork_registry.items(), key=lambda item: item[0][0]):
        obj = reference()
        if obj is None:
            continue
        try:
            func(obj)
        except Exception as error:
            info("after forker raised exception %s", error)


class ForkAwareThreadLock:
    """A lock that is free in a forked child, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        _forks.renew(self, ForkAwareThreadLock._at_fork_reinit)

    def _at_fork_reinit(self) -> None:
        self._lock._at_fork_reinit()  # type: ignore[attr-defined]

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *args: object) -> None:
        self._lock.__exit__(*args)  # type: ignore[arg-type]


class ForkAwareLocal(_thread._local):
    """Thread-local attributes that are gone in a forked child."""

    def __init__(self) -> None:
        _forks.renew(self, lambda obj: obj.__dict__.clear())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


# ----------------------------------------------------------------------------------------------------------------------
# Finalizers


_finalizer_registry: dict[tuple[int | None, int], Finalize] = {}
_finalizer_counter = itertools.count()


class Finalize:
    """A call made once: when `obj` is collected, when the process exits, or when called by hand.

    At exit those with an `exitpriority` run, the highest first, among equals the newest first; one without runs only
    with its object or by hand. A finalizer belongs to the process that made it: in a forked child it does nothing.
    """

    def __init__(
        self,
        obj: Any,
        callback: Callable[..., Any],
        args: Iterable[Any] = (),
        kwargs: dict[str, Any] | None = None,
        exitpriority: int | None = None,
    ) -> None:
        if exitpriority is not None and not isinstance(exitpriority, int):
            raise TypeError(f"exitpriority must be None or an int, not {type(exitpriority).__name__}")
        if obj is None and exitpriority is None:
            raise ValueError("without an object, exitpriority cannot be None: nothing would ever call the finalizer")
        self._callback: Callable[..., Any] | None = callback
        self._args = args
        self._kwargs = kwargs or {}
        self._key = (exitpriority, next(_finalizer_counter))
        self._pid = os.getpid()
        # Late: from here on, if what makes us is interrupted, the object may be collected and this be called.
        self._weakref: _weakref.ref[Any] | None = None if obj is None else _weakref.ref(obj, self)
        _finalizer_registry[self._key] = self

    def __call__(
        self,
        wr: object = None,
        # Bound here: when the last references go, at the end of the interpreter, the module's names are gone.
        _finalizer_registry: dict[Any, Finalize] = _finalizer_registry,
        sub_debug: Callable[..., None] = sub_debug,
        getpid: Callable[[], int] = os.getpid,
    ) -> Any:
        """Make the call, unless it was made before. Returns what the callback returns."""
        if _finalizer_registry.pop(self._key, None) is None:
            sub_debug("finalizer no longer registered")
            return None
        callback, args, kwargs = self._callback, self._args, self._kwargs
        self._forget()
        if callback is None or self._pid != getpid():
            sub_debug("finalizer ignored because different process")
            return None
        sub_debug("finalizer calling %s with args %s and kwargs %s", callback, args, kwargs)
        return callback(*args, **kwargs)

    def _forget(self) -> None:
        self._weakref = self._callback = None
        self._args, self._kwargs = (), {}

    def cancel(self) -> None:
        """Never make the call."""
        if _finalizer_registry.pop(self._key, None) is not None:
            self._forget()

    def still_active(self) -> bool:
        """Return whether the call is still to be made."""
        return self._key in _finalizer_registry

    def __repr__(self) -> str:
        obj = self._weakref and self._weakref()
        if self._callback is None:
            return f"<{type(self).__name__} object, dead>"
        parts = [f"callback={getattr(self._callback, '__name__', self._callback)}"]
        if self._args:
            parts.append(f"args={self._args}")
        if self._kwargs:
            parts.append(f"kwargs={self._kwargs}")
        if self._key[0] is not None:
            parts.append(f"exitpriority={self._key[0]}")
        return f"<{type(self).__name__} object, {', '.join(parts)}{'' if obj is None else f', of {obj!r}'}>"


def _run_finalizers(minpriority: int | None = None) -> None:
    """Run the finalizers that have an exit priority of at least `minpriority` (None: any).

    Without `minpriority` those that have none are dropped afterwards: the process is about to end.
    """
    # The copy is one step for other threads; finalizers may come and go while we run these.
    due = [key for key in list(_finalizer_registry) if key[0] is not None]
    if minpriority is not None:
        due = [key for key in due if key[0] >= minpriority]  # type: ignore[operator]
    for key in sorted(due, reverse=True):
        finalizer = _finalizer_registry.get(key)
        if finalizer is None:
            continue
        sub_debug("calling %s", finalizer)
        try:
            finalizer()
        except Exception:
            import traceback

            traceback.print_exc()
    if minpriority is None:
        _finalizer_registry.clear()


# ----------------------------------------------------------------------------------------------------------------------
# Exit


_exiting = False
# A daemonic child that has not obeyed SIGTERM for this many seconds is killed: exit must not hang on it.
DAEMON_GRACE = 10.0


def is_exiting() -> bool:
    """Return whether the process is on its way out."""
    return _exiting


def _exit_function() -> None:
    """Leave in order: finalizers of priority 0 and up, children, the other finalizers. Runs once per process."""
    global _exiting
    if _exiting:
        return
    _exiting = True
    info("process shutting down")
    _run_finalizers(0)
    # A child of os.fork has its parent's process objects, and no say over them.
    children = [child for child in process.active_children() if child._parent_pid == os.getpid()]
    daemons = [child for child in children if child.daemon]
    for child in daemons:
        info("calling terminate() for daemon %s", child.name)
        child._popen.terminate()
    for child in daemons:
        child.join(DAEMON_GRACE)
        if child.exitcode is None:
            child.kill()
    for child in children:
        info("calling join() for process %s", child.name)
        child.join()
    _run_finalizers()
    _end_helpers()
    if process.parent_process() is None:
        # The threads of a child go on after this, and a child's end finalizes nothing.
        _let_go()


def _end_helpers() -> None:
    """End the processes that helped this one, last of all: what was finalized may have needed them."""
    for name in ("forkserver", "resource_tracker"):
        module = sys.modules.get(f"{__package__}.{name}")
        # One that is being imported has started nothing.
        helper = getattr(module, f"_{name}", None)
        if helper is not None:
            helper._stop()


def is_of_package(function: object) -> bool:
    """Return whether a function is one of this package."""
    return str(getattr(function, "__module__", "")).partition(".")[0] == __package__


def _let_go() -> None:
    """Forget the functions that the program has registered.

    They keep the variables of their modules. The interpreter's end finalizes what these refer to, such as a file
    that is not closed, if only modules keep it; and callbacks at forks and the engine keep modules of this package.
    """
    for key in list(_afterfork_registry):
        if not is_of_package(key[2]):
            _afterfork_registry.pop(key, None)
    for name in ("reduction", "managers", "_main_module"):
        module = sys.modules.get(f"{__package__}.{name}")
        let_go = getattr(module, "_let_go", None)
        if let_go is not None:
            let_go()


atexit.register(_exit_function)


def get_temp_dir() -> str:
    """Return the directory for this program's temporary files; made on first call, removed at exit."""
    config = process.current_process()._config
    tempdir = config.get("tempdir")
    if tempdir is None:
        import shutil
        import tempfile

        tempdir = tempfile.mkdtemp(prefix="manycore-")
        info("created temp directory %s", tempdir)
        # The last finalizer of all: others may still use files in it.
        Finalize(None, _remove_temp_dir, args=(shutil.rmtree, tempdir), exitpriority=-100)
        config["tempdir"] = tempdir
    return tempdir


def _remove_temp_dir(rmtree: Callable[..., None], tempdir: str) -> None:
    rmtree(tempdir, ignore_errors=True)
    process.current_process()._config.pop("tempdir", None)


def _cleanup_tests() -> None:
    """Leave nothing behind after a test: no zygote, no tracker, no finalizer, no child."""
    _run_finalizers()
    _end_helpers()
    import gc

    gc.collect()
    process._cleanup()


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
