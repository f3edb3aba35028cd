"""A fresh interpreter as a child: its command line, and what it does before the process object runs.

The same preparation serves the zygote of the forkserver method: both begin as empty interpreters that have to take
on what the parent program is.
"""

from __future__ import annotations

import os
import sys

from . import context, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike
    from types import ModuleType
    from typing import Any

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


def _check_not_importing_main() -> None:
    if getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(
            "a new process was to be started before the current one has finished its bootstrapping phase.\n\n"
            "The main module starts a process while it is being imported by a child process. Start processes only\n"
            "below the line that keeps imported code apart from the program:\n\n"
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
        "dir": os.getcwd(),
        "orig_dir": process.ORIGINAL_DIR,
        "start_method": context._default_context.get_start_method(),
    }
    util = sys.modules.get(f"{__package__}.util")
    if util is not None and util._logger is not None:
        data["log_to_stderr"] = util._log_to_stderr
        data["log_level"] = util._logger.getEffectiveLevel()
    alias = sys.modules.get(f"{__package__}._alias")
    if alias is not None and alias.installed:
        data["alias"] = True
    data.update(_main_module_data())
    return data


def _main_module_data() -> dict[str, str]:
    """Return how a child can import our main module: by name, by path, or, for a session or `-c`, not at all."""
    main = sys.modules["__main__"]
    spec_name = getattr(getattr(main, "__spec__", None), "name", None)
    if spec_name is not None:
        return {"init_main_from_name": spec_name}
    path = getattr(main, "__file__", None)
    if path is None:
        return {}
    if not os.path.isabs(path) and process.ORIGINAL_DIR is not None:
        path = os.path.join(process.ORIGINAL_DIR, path)
    return {"init_main_from_path": os.path.normpath(path)}


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
            prepare(pickle.load(data))
            child: process.BaseProcess = pickle.load(data)
        finally:
            del process.current_process()._inheriting  # type: ignore[attr-defined]
    return child._bootstrap()


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
    if "orig_dir" in data:
        process.ORIGINAL_DIR = data["orig_dir"]
    if "start_method" in data:
        context._force_start_method(data["start_method"])
    if "init_main_from_name" in data:
        _fixup_main_from_name(data["init_main_from_name"])
    elif "init_main_from_path" in data:
        _fixup_main_from_path(data["init_main_from_path"])


# Main modules that were replaced; kept, so that what functions of theirs refer to lives on.
old_main_modules: list[ModuleType] = []


def _fixup_main_from_name(name: str) -> None:
    """Import the main module that was started as `python -m name`."""
    # A package's __main__.py has no guard by custom, and defines nothing others need.
    if name == "__main__" or name.endswith(".__main__"):
        return
    if getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", None) == name:
        return
    import runpy

    main = _new_main()
    main.__dict__.update(runpy.run_module(name, run_name="__mp_main__", alter_sys=True))
    _install_main(main)


def _fixup_main_from_path(path: str) -> None:
    """Import the main module that was started as `python path`."""
    main_name = os.path.splitext(os.path.basename(path))[0]
    # IPython's main module is the shell itself: nothing to import.
    if main_name == "ipython":
        return
    if getattr(sys.modules["__main__"], "__file__", None) == path:
        return
    main = _new_main()
    if path.endswith(".py") and os.path.isfile(path):
        # Plain source is run in place: `runpy` takes 5 ms to import, and leaves the functions with globals that are
        # no longer the module's.
        _run_source(path, main)
    else:
        import runpy

        main.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))
    _install_main(main)


def _run_source(path: str, main: ModuleType) -> None:
    import io

    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    main.__dict__.update(__file__=path, __cached__=None, __builtins__=__builtins__)
    before = sys.modules.get("__mp_main__")
    sys.modules["__mp_main__"] = main
    try:
        exec(code, main.__dict__)
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
