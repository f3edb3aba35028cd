"""Where a main module starts processes, whether a test of `__name__` guards that, and running what stands above."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, ModuleType
    from typing import Any

__all__ = ["code_above", "find_unguarded", "names_above", "parse", "read_source", "run_quietly", "source_of", "warn"]


#: Statements that bind a name and do not run, here and now, what is in them. (The body of a class does run.)
DEFINITIONS = ("FunctionDef", "AsyncFunctionDef", "ClassDef")


def source_of(main: ModuleType) -> str | None:
    """Return the text of a main module, None if there is none."""
    loader = getattr(main, "__loader__", None)
    spec = getattr(main, "__spec__", None)
    try:
        if loader is not None and hasattr(loader, "get_source"):
            return loader.get_source("__main__" if spec is None else spec.name)
        path = getattr(main, "__file__", None)
        return None if path is None else read_source(path)
    except (ImportError, OSError, SyntaxError, UnicodeDecodeError):
        return None


def read_source(path: str) -> str:
    """Return the text of a source file."""
    import io
    import tokenize

    with io.open_code(path) as file:
        data = file.read()
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return data.decode(encoding)


def find_unguarded(main: ModuleType, line: int) -> tuple[int | None, int | None]:
    """Return the first line of the statement around `line` of a main module: as the first of two if nothing guards it
    from importers, as the second if a test of `__name__` does; None and None if that is not known."""
    source = source_of(main)
    if source is None:
        return None, None
    # The usual guard is seen without reading the whole.
    lines = source.splitlines()
    at = min(line, len(lines)) - 1
    while at > 0 and (not lines[at].strip() or lines[at][0] in " \t#)]}"):
        at -= 1
    if at >= 0 and lines[at].startswith("if ") and "__name__" in lines[at]:
        return None, at + 1
    try:
        tree = parse(source, getattr(main, "__file__", None) or "<main>")
    except (SyntaxError, ValueError):
        return None, None
    for statement in tree.body:
        if statement.lineno <= line <= statement.end_lineno:
            start = min(
                [statement.lineno, *(decorator.lineno for decorator in getattr(statement, "decorator_list", ()))]
            )
            return (None, start) if _is_guarded(statement, line) else (start, None)
    return None, None


def find_thread_start(main: ModuleType, line: int) -> tuple[int | None, int | None]:
    """As `find_unguarded`, for a main module a thread of which starts processes while the module is at `line`: finds
    the first statement that starts something, as far as can be seen, or else the one at `line`."""
    tree = parse(source_of(main) or "", "<main>")
    starters = _starters(tree)
    for statement in tree.body:
        if statement.lineno >= line:
            break
        if type(statement).__name__ not in DEFINITIONS and _called_in(statement) & starters:
            is_guarded = _names_itself(getattr(statement, "test", None))
            return (None, statement.lineno) if is_guarded else (statement.lineno, None)
    return line, None


def _starters(tree: Any) -> set[str]:
    """Return the names of what starts threads when it is called: what always does, and functions that call such."""
    called: dict[str, set[str]] = {}
    for node in _walk([tree]):
        kind = type(node).__name__
        bodies = [node] if kind in ("FunctionDef", "AsyncFunctionDef") else []
        if kind == "ClassDef":
            bodies = [part for part in node.body if getattr(part, "name", None) == "__init__"]
        for body in bodies:
            called.setdefault(node.name, set()).update(_called_in(body))
    starters, known = {START, "submit", "start_new_thread"}, 0
    while known != len(starters):
        known = len(starters)
        starters |= {name for name, names in called.items() if names & starters}
    return starters


#: What `thread.start()` is noted as. `match.start()` has a value, for which it is called: that is another one.
START = "thread.start"


def _called_in(node: Any) -> set[str]:
    """Return the names of what is called in a syntax tree: `name(...)`, `thing.name(...)`."""
    called: set[str] = set()
    for one in _walk([node]):
        function = getattr(one, "func", None)
        name = getattr(function, "attr", getattr(function, "id", None))
        if name is not None and name != "start":
            called.add(name)
        # A statement, or what a comprehension does again and again.
        alone = getattr(one, "value", None) if type(one).__name__ == "Expr" else getattr(one, "elt", None)
        if getattr(getattr(alone, "func", None), "attr", None) == "start":
            called.add(START)
    return called


def _walk(nodes: list[Any]) -> Iterator[Any]:
    """Give the nodes of syntax trees, however deep they are."""
    while nodes:
        node = nodes.pop()
        yield node
        nodes += _parts(node)


def _parts(node: Any) -> list[Any]:
    """Return the nodes right below one of a syntax tree."""
    values = [getattr(node, field, None) for field in node._fields]
    lists = [value if isinstance(value, list) else [value] for value in values]
    return [one for values in lists for one in values if hasattr(one, "_fields")]


def parse(source: str, path: str) -> Any:
    """Return the syntax tree of a source text, without the module `ast`, which is slow to import."""
    only_tree = 0x400
    return compile(source, path, "exec", only_tree, dont_inherit=True)


def _is_guarded(statement: Any, line: int) -> bool:
    if _names_itself(getattr(statement, "test", None)):
        return True
    value = getattr(statement, "value", None)
    if type(value).__name__ in ("BoolOp", "IfExp"):
        return _names_itself(value)
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(statement, part, None)
        for one in inner if isinstance(inner, list) else ():
            start = getattr(one, "lineno", None) or one.pattern.lineno
            end = getattr(one, "end_lineno", None) or one.body[-1].end_lineno
            if start <= line <= end and _is_guarded(one, line):
                return True
    return False


def _names_itself(node: Any) -> bool:
    """Return whether a test asks for the module's name, or which process it is in."""
    names = (getattr(one, "id", getattr(one, "attr", None)) for one in _walk([] if node is None else [node]))
    return any(name in ("__name__", "current_process") for name in names)


def warn(main: ModuleType, line: int) -> None:
    """Say, once, that the main module has no guard, and show what to add."""
    path = getattr(main, "__file__", None) or "<main>"
    if path.endswith(("__main__.py",)):
        # By custom such a file has none, and is not imported by children that want nothing of it.
        return
    import warnings

    lines = (source_of(main) or "").splitlines()
    statement = lines[line - 1].rstrip() if line <= len(lines) else "..."
    warnings.warn_explicit(
        f"line {line} of the main module starts processes, and nothing keeps it from doing so when the processes "
        f"import the module. They import only what is above it; what is defined below is sent to them with the "
        f"tasks. To have it whole in every process, put this line and what follows below a guard:\n\n"
        f'    if __name__ == "__main__":\n'
        f"        {statement}\n",
        RuntimeWarning,
        path,
        line,
    )


def code_above(source: str, path: str, line: int) -> CodeType:
    """Return the code of the statements of a module that end above `line`."""
    tree = parse(source, path)
    tree.body = [statement for statement in tree.body if statement.end_lineno < line]
    return compile(tree, path, "exec", dont_inherit=True)


def names_above(source: str, line: int) -> frozenset[str]:
    """Return the names at the top level of a module above `line`, but for those that are bound below, too."""
    below: set[str] = set()
    nodes = [statement for statement in parse(source, "<main>").body if statement.end_lineno >= line]
    while nodes:
        node = nodes.pop()
        kind = type(node).__name__
        below.update(_bound_by(node, kind))
        if kind not in (*DEFINITIONS, "Lambda"):
            nodes += _parts(node)
    return frozenset(code_above(source, "<main>", line).co_names) - below


def _bound_by(node: Any, kind: str) -> list[str]:
    """Return the names that a node of a syntax tree binds, not counting what is in it."""
    if kind == "Name":
        return [] if type(node.ctx).__name__ == "Load" else [node.id]
    if kind == "alias":
        return [node.asname or node.name.partition(".")[0]]
    # Of a definition, an exception's clause, a pattern, the rest of a mapping's pattern.
    names = (getattr(node, "name", None), getattr(node, "rest", None))
    return [name for name in names if isinstance(name, str)]


def run_quietly(run: Callable[[], object]) -> None:
    """Call `run`, a part of a main module, such that it prints nothing: the program itself has printed it already."""
    quiet = [_Quiet(sys.stdout), _Quiet(sys.stderr)]
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = quiet  # type: ignore[assignment]
    try:
        run()
    except SystemExit:
        # What was defined until then is there.
        pass
    finally:
        for stream in quiet:
            stream._silent = False
        # A program may have put others there.
        if sys.stdout is quiet[0]:
            sys.stdout = before[0]
        if sys.stderr is quiet[1]:
            sys.stderr = before[1]


class _Quiet:
    """A stream that writes nothing for a while; who keeps it, as a handler of a log does, has the stream afterwards."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._silent = True

    def write(self, text: str) -> int:
        """Write `text`, unless it is to be silent."""
        if self._silent or self._stream is None:
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
