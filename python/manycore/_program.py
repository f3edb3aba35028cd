"""Running a program as the interpreter itself would, in the process that has started us by `python -m manycore`.

What the program sees of itself is what it would see without us: `__main__`, `sys.argv`, `sys.path[0]`, tracebacks and
exit codes. So it runs in the module object that is `__main__` already, emptied, and not through `runpy.run_path`, whose
module is gone before the program's threads and exit handlers are.
"""

from __future__ import annotations

import os
import sys

from . import _alias, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, TracebackType
    from typing import Any, NoReturn

__all__ = ["USAGE", "main"]

USAGE = """\
usage: python -m manycore program.py [arg ...]
       python -m manycore -m module [arg ...]
       python -m manycore -c code [arg ...]

Runs a program in which `import multiprocessing` means manycore, and so it does in every process the program starts.
A folder or a zip file with a __main__.py is a program, too; so is - , the standard input.
"""


def main() -> None:
    """Run the program that the command line names. What it raises passes through."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="", file=sys.stderr if not arguments else sys.stdout)
        sys.exit(0 if arguments else 2)
    kind, rest = arguments[0], arguments[1:]
    if kind in ("-c", "-m") and not rest:
        _refuse(f"argument expected for the {kind} option")
    if kind.startswith("-") and kind not in ("-c", "-m", "-"):
        _refuse(f"unknown option {kind}; options of the interpreter go before -m manycore")
    _alias.install()
    if kind == "-m":
        program = _module(rest[0], rest[1:])
    elif kind == "-c":
        program = _code(rest[0], rest[1:])
    else:
        program = _file(kind, rest)
    try:
        program()
    except SystemExit:
        raise
    except BaseException:
        _hide_our_frames(rest[0] if kind == "-c" else None)
        raise


def _refuse(why: str) -> NoReturn:
    print(f"manycore: {why}\n{USAGE}", end="", file=sys.stderr)
    sys.exit(2)


def _module(name: str, arguments: list[str]) -> Callable[[], object]:
    import runpy

    # The name of the file is put there by runpy, as soon as it has found it.
    sys.argv[:] = ["-m", *arguments]
    _empty_main()
    return lambda: runpy._run_module_as_main(name)  # type: ignore[attr-defined]


def _code(text: str, arguments: list[str]) -> Callable[[], object]:
    sys.argv[:] = ["-c", *arguments]
    _set_first_path("")
    scope = _empty_main()
    return lambda: exec(compile(text, "<string>", "exec", dont_inherit=True), scope)


def _file(path: str, arguments: list[str]) -> Callable[[], object]:
    sys.argv[:] = [path, *arguments]
    if path == "-":
        _set_first_path("")
        scope = _empty_main()
        return lambda: exec(compile(sys.stdin.read(), "<stdin>", "exec", dont_inherit=True), scope)
    if os.path.isdir(path) or _is_zip(path):
        import runpy

        # The program itself is on the path, in isolated mode too.
        sys.path[: not sys.flags.safe_path] = [os.path.abspath(path)]
        _empty_main()
        return lambda: runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]
    full = os.path.abspath(path)
    try:
        os.close(os.open(full, os.O_RDONLY))
    except OSError as error:
        # In the interpreter's own words.
        print(f"{sys.executable}: can't open file {full!r}: [Errno {error.errno}] {error.strerror}", file=sys.stderr)
        sys.exit(2)
    _set_first_path(os.path.dirname(os.path.realpath(full)))
    from importlib.machinery import SourceFileLoader, SourcelessFileLoader

    compiled = full.endswith(".pyc")
    loader = SourcelessFileLoader("__main__", full) if compiled else SourceFileLoader("__main__", full)
    scope = _empty_main(**spawn.names_of_file(full), __loader__=loader)
    return lambda: exec(_compiled(loader) if compiled else _source(full), scope)


def _compiled(loader: Any) -> CodeType:
    return loader.get_code("__main__")


def _source(path: str) -> CodeType:
    import io

    with io.open_code(path) as file:
        return compile(file.read(), path, "exec", dont_inherit=True)


def _is_zip(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        start = file.read(4)
    # Self-executing archives begin with a line for the shell; a source file does not end as an archive does.
    if start[:2] not in (b"PK", b"#!"):
        return False
    import zipfile

    return zipfile.is_zipfile(path)


def _set_first_path(entry: str) -> None:
    # Under -P and -I there is no entry for the program, and nothing to replace.
    if not sys.flags.safe_path:
        sys.path[0] = entry


def _empty_main(**names: object) -> dict[str, object]:
    """Make `__main__` the module that a program finds when it starts, and return its names."""
    scope = sys.modules["__main__"].__dict__
    scope.clear()
    scope.update(
        __name__="__main__",
        __doc__=None,
        __package__=None,
        __loader__=sys.modules["builtins"].__loader__,
        __spec__=None,
        __builtins__=sys.modules["builtins"],
    )
    if sys.version_info < (3, 14):
        scope["__annotations__"] = {}
    scope.update(names)
    return scope


def _hide_our_frames(text: str | None) -> None:
    """Have the traceback that the interpreter is about to print begin where the program does.

    `text` is a program given on the command line, whose lines a traceback shows from CPython 3.13 on.
    """
    hook = sys.excepthook
    if text is not None and sys.version_info >= (3, 13):
        import linecache

        linecache.cache["<string>"] = len(text), None, text.splitlines(keepends=True), "<string>"

    def print_without_us(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = hook
        inner = trace
        while inner is not None:
            frame, inner = inner.tb_frame, inner.tb_next
            if frame.f_code.co_filename == __file__:
                trace = inner
        hook(kind, error.with_traceback(trace), trace)

    sys.excepthook = print_without_us
