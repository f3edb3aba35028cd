"""A fresh interpreter as a child: its command line, and what it does before the process object runs.

The same preparation serves the zygote of the forkserver method: both begin as empty interpreters that have to take
on what the parent program is.
"""

from __future__ import annotations

import os
import sys

from . import _main_module, context, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike
    from types import CodeType, ModuleType
    from typing import IO, Any, Self

__all__ = [
    "_main",
    "freeze_support",
    "get_command_line",
    "get_executable",
    "get_preparation_data",
    "import_main_path",
    "prepare",
    "set_executable",
    "spawn_main",
]

# Of another system.
WINEXE = WINSERVICE = False

# ----------------------------------------------------------------------------------------------------------------------
# The parent's side

_python_exe: bytes | None = None


def set_executable(exe: str | bytes | PathLike[str]) -> None:
    """Choose the interpreter that children run, for programs whose own executable is not one."""
    global _python_exe
    _python_exe = None if exe is None else os.fsencode(exe)


def get_executable() -> bytes:
    """Return the path of the interpreter that children run."""
    if _python_exe is None:
        raise RuntimeError("the path of the Python interpreter is not known: call set_executable() with it")
    return _python_exe


if sys.executable:
    set_executable(sys.executable)


def import_statement(name: str) -> str:
    """Return Python code that imports this package's submodule `name` as `m`, wherever the package lies.

    A parent may have found the package through a sys.path of its own making; the child gets that path only later.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return f"import sys; sys.path.insert(0, {root!r}); import {__package__}.{name} as m; del sys.path[0]"


def get_command_line(**kwds: object) -> list[str]:
    """Return the command line of a child that will call `spawn_main(**kwds)`."""
    if getattr(sys, "frozen", False):
        return [os.fsdecode(get_executable()), "--multiprocessing-fork", *(f"{k}={v!r}" for k, v in kwds.items())]
    arguments = ", ".join(f"{key}={value!r}" for key, value in kwds.items())
    from .util import _args_from_interpreter_flags

    program = f"{import_statement('spawn')}; m.spawn_main({arguments})"
    return [os.fsdecode(get_executable()), *_args_from_interpreter_flags(), "-c", program, "--multiprocessing-fork"]


def _starter() -> str:
    """Return which module is at a start of a process, in words."""
    frame = _main_module.module_frame(sys._getframe())
    name = None if frame is None else frame.f_globals.get("__name__")
    if frame is None or name == "__mp_main__":
        return "The main module"
    return f"The module {name!r} ({frame.f_code.co_filename}, line {frame.f_lineno})"


def _check_not_importing_main() -> None:
    if getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(
            "a new process was to be started before the current one has finished its bootstrapping phase.\n\n"
            f"{_starter()} starts a process while a child process imports it.\n"
            "Start processes only below the line that keeps imported code apart from the program, or in a function:\n\n"
            "    if __name__ == '__main__':\n"
            "        freeze_support()  # only needed if the program will be frozen into an executable\n"
            "        ...\n"
        )


def get_preparation_data(name: str) -> dict[str, Any]:
    """Return what a fresh interpreter needs to stand in for this one; `name` will be its process's name.

    Raises RuntimeError if this process is itself still importing its main module.
    """
    _check_not_importing_main()
    sys_path = sys.path.copy()
    if "" in sys_path and process.ORIGINAL_DIR is not None:
        sys_path[sys_path.index("")] = process.ORIGINAL_DIR
    data: dict[str, Any] = {
        "name": name,
        "authkey": bytes(process.current_process().authkey),
        "sys_path": sys_path,
        "sys_argv": list(getattr(sys, "argv", ())),
        "orig_dir": process.ORIGINAL_DIR,
        "start_method": context._default_context.get_start_method(allow_none=True),
    }
    try:
        data["dir"] = os.getcwd()
    except FileNotFoundError:
        # It was deleted. A spawned child is in it all the same; to one of the zygote it is given as a descriptor.
        pass
    util = sys.modules.get(f"{__package__}.util")
    if util is not None and util._logger is not None:
        data["log_to_stderr"] = util._log_to_stderr
        data["log_level"] = util._logger.getEffectiveLevel()
    alias = sys.modules.get(f"{__package__}._alias")
    if alias is not None and alias.installed:
        data["alias"] = True
    data.update(_main_module_data())
    return data


def _main_module_data() -> dict[str, Any]:
    """Return how a child can import our main module: by name, by path, or, for a session or `-c`, not at all.

    `init_main_above` is the line above which the import ends, if the module has no main guard.
    """
    main = sys.modules["__main__"]
    line = _main_module.before_start()
    # All of them each time: a zygote is told only what has changed since it was started.
    data: dict[str, Any] = dict.fromkeys(("init_main_from_name", "init_main_from_folder", "init_main_from_path"))
    data["init_main_from_above"] = line
    data["init_main_from_nothing"] = _main_module.is_session(main)
    late = getattr(main, "_manycore_late", None)
    if late is not None:
        data.update(late)
        return data
    if data["init_main_from_nothing"]:
        return data
    spec_name = getattr(getattr(main, "__spec__", None), "name", None)
    if spec_name == "__main__":
        # A folder or an archive that was given to the interpreter.
        folder = os.path.dirname(os.path.join(process.ORIGINAL_DIR or "", getattr(main, "__file__", "")))
        data["init_main_from_name"], data["init_main_from_folder"] = spec_name, folder
    elif spec_name is not None:
        data["init_main_from_name"] = spec_name
    else:
        path = getattr(main, "__file__", None)
        if path is not None:
            if not os.path.isabs(path) and process.ORIGINAL_DIR is not None:
                path = os.path.join(process.ORIGINAL_DIR, path)
            data["init_main_from_path"] = os.path.normpath(path)
    return data


# ----------------------------------------------------------------------------------------------------------------------
# The child's side


def is_forking(argv: list[str]) -> bool:
    """Return whether a command line is that of a child of ours."""
    return len(argv) >= 2 and argv[1] == "--multiprocessing-fork"


def freeze_support() -> None:
    """Be the child, if this frozen program was started as one; does not return then."""
    if is_forking(sys.argv):
        kwds: dict[str, int | None] = {}
        for argument in sys.argv[2:]:
            name, value = argument.split("=")
            kwds[name] = None if value == "None" else int(value)
        spawn_main(**kwds)  # type: ignore[arg-type]
        sys.exit()


def spawn_main(data_fd: int, lifeline: int | None = None) -> None:
    """Be a spawned child: `data_fd` holds the pickled preparation data and process object. Does not return."""
    if lifeline is not None:
        from .popen_fork import hang_on

        os.set_inheritable(lifeline, False)
        hang_on(lifeline)
    sys.exit(_main(data_fd))


def _main(data_fd: int) -> int:
    """Be the process whose preparation data and object are in `data_fd`. Returns its exit code."""
    from .reduction import pickle

    with open(data_fd, "rb") as data:
        process.current_process()._inheriting = True  # type: ignore[attr-defined]
        try:
            child = take_on(pickle.load(data), data)
        finally:
            del process.current_process()._inheriting  # type: ignore[attr-defined]
    return child._bootstrap()


def take_on(data: dict[str, Any], file: IO[bytes]) -> process.BaseProcess:
    """Prepare this child as `data` says, and return its process object, the pickle of which comes next in `file`.

    If the main module cannot be imported, a pool's worker still gets as far as to say so to its pool: one error in the
    parent, not a traceback from each worker.
    """
    from .reduction import pickle

    try:
        prepare(data)
    except (Exception, SystemExit) as error:
        child = _load_without_main(file)
        worker = sys.modules.get(f"{__package__}._worker")
        if child is None or worker is None or getattr(child, "_target", None) is not worker.main:
            raise
        _main_module.failure = error
        return child
    return pickle.load(file)


def _load_without_main(file: IO[bytes]) -> process.BaseProcess | None:
    """Return a process object, in which something else is in the place of what the main module defines."""
    from .reduction import pickle

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return _Missing if module in _main_module.NAMES else super().find_class(module, name)

    try:
        return Unpickler(file).load()
    except Exception:
        return None


class _Missing:
    """In the place of a function or a class of a main module that could not be imported. Nobody uses it."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Self:
        return object.__new__(cls)

    def __getattr__(self, name: str) -> Self:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...


def prepare(data: dict[str, Any]) -> None:
    """Take on what the parent is: names, paths, directory, log, main module. What `data` does not mention stays."""
    if data.get("alias"):
        from . import _alias

        _alias.install()
    current = process.current_process()
    if "family" in data:
        from . import util

        util.join_family(data["family"])
    if "name" in data:
        current.name = data["name"]
    if "authkey" in data:
        current.authkey = data["authkey"]
    if data.get("log_to_stderr"):
        from . import util

        util.log_to_stderr()
    if "log_level" in data:
        from . import util

        util.get_logger().setLevel(data["log_level"])
    if "sys_path" in data:
        sys.path = data["sys_path"]
    if "sys_argv" in data:
        sys.argv = data["sys_argv"]
    if "dir" in data:
        os.chdir(data["dir"])
    if "dir_fd" in data:
        fd = data["dir_fd"].detach()
        os.fchdir(fd)
        os.close(fd)
    if "orig_dir" in data:
        process.ORIGINAL_DIR = data["orig_dir"]
    if "start_method" in data:
        context._force_start_method(data["start_method"])
    above = data.get("init_main_from_above")
    if data.get("init_main_from_nothing"):
        _fixup_main_from_nothing()
    elif data.get("init_main_from_name"):
        _fixup_main_from_name(data["init_main_from_name"], data.get("init_main_from_folder"), above)
    elif data.get("init_main_from_path"):
        _fixup_main_from_path(data["init_main_from_path"], above)


# Main modules that were replaced; kept, so that what functions of theirs refer to lives on.
old_main_modules: list[ModuleType] = []


def _fixup_main_from_nothing() -> None:
    """Have a main module that is empty, for what comes by value."""
    if not _main_module.is_session(sys.modules["__mp_main__"]) or sys.modules["__mp_main__"].__name__ != "__mp_main__":
        _install_main(_new_main())


def _fixup_main_from_name(name: str, folder: str | None = None, above: int | None = None) -> None:
    """Import the main module that was started as `python -m name`, or the `__main__.py` in `folder`."""
    if getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", None) == name:
        return
    if name == "__main__" or name.endswith(".__main__"):
        if getattr(sys.modules["__main__"], "_manycore_late", None) is None:
            from ._late_main import LateMain

            _install_main(LateMain(name, folder, above))
        return
    main = _new_main()
    if above is not None:
        import importlib.util

        spec = importlib.util.find_spec(name)
        loader: Any = None if spec is None else spec.loader
        source = None if loader is None else loader.get_source(name)
        if spec is None or source is None:
            raise ImportError(f"the source of the main module {name!r} is not found")
        main.__dict__.update(__file__=spec.origin, __package__=spec.parent, __loader__=loader, __spec__=spec)
        _run_above(main, source, spec.origin or name, above)
    else:
        import runpy

        main.__dict__.update(runpy.run_module(name, run_name="__mp_main__", alter_sys=True))
    _install_main(main)


def _fixup_main_from_path(path: str, above: int | None = None) -> None:
    """Import the main module that was started as `python path`, or what of it is above a line."""
    main_name = os.path.splitext(os.path.basename(path))[0]
    # IPython's main module is the shell itself: nothing to import.
    if main_name == "ipython":
        return
    if getattr(sys.modules["__main__"], "__file__", None) == path:
        return
    main = _new_main()
    if above is not None:
        main.__dict__.update(names_of_file(path))
        from ._main_guard import read_source

        _run_above(main, read_source(path), path, above)
    elif path.endswith(".py") and os.path.isfile(path):
        # Plain source is run in place: `runpy` takes 5 ms to import, and leaves the functions with globals that are
        # no longer the module's.
        _run_source(path, main)
    else:
        import runpy

        main.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))
    _install_main(main)


def names_of_file(path: str) -> dict[str, str | None]:
    """The names that an interpreter gives to a main module that it runs from a file."""
    names: dict[str, str | None] = {"__file__": path}
    if sys.version_info < (3, 15):
        names["__cached__"] = None
    return names


def _run_source(path: str, main: ModuleType) -> None:
    import io

    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    main.__dict__.update(names_of_file(path))
    _run(main, code)


def _run_above(main: ModuleType, source: str, path: str, line: int) -> None:
    """Run what stands above `line` in a main module without a guard."""
    from . import _main_guard

    main._manycore_ends_at = line  # type: ignore[attr-defined]
    code = _main_guard.code_above(source, path, line)
    _main_guard.run_quietly(lambda: _run(main, code))


def _run(main: ModuleType, code: CodeType) -> None:
    main.__dict__["__builtins__"] = __builtins__
    before = sys.modules.get("__mp_main__")
    sys.modules["__mp_main__"] = main
    try:
        exec(code, main.__dict__)
    except SystemExit:
        if not hasattr(main, "_manycore_ends_at"):
            raise
    except BaseException:
        if before is None:
            del sys.modules["__mp_main__"]
        else:
            sys.modules["__mp_main__"] = before
        raise


def _new_main() -> ModuleType:
    return type(sys)("__mp_main__")


def _install_main(main: ModuleType) -> None:
    # Under both names: what the parent pickled calls itself __main__, what a child pickles, __mp_main__.
    old_main_modules.append(sys.modules["__main__"])
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main


def import_main_path(main_path: str) -> None:
    """Import the main module found at `main_path` under the name `__mp_main__`."""
    _fixup_main_from_path(main_path)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
