"""The shape of the Python package: who imports what, what is loaded when, how long files are, names and signatures."""

import ast
import importlib
import inspect
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "python" / "manycore"
#: Not of the package: it is found under the standard package's name, by interpreters that know nothing of ours yet.
SHADOW = PACKAGE / "_shadow"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if SHADOW not in path.parents)
LONGEST = 600

#: Modules that cost time to load: imported where they are used, never at the top of a file.
HEAVY = {
    "array",
    "asyncio",
    "concurrent",
    "ctypes",
    "hashlib",
    "hmac",
    "inspect",
    "logging",
    "numpy",
    "pickle",
    "queue",
    "random",
    "secrets",
    "selectors",
    "shutil",
    "socket",
    "socketserver",
    "subprocess",
    "tempfile",
    "traceback",
    "typing",
    "xmlrpc",
}

#: Files that are themselves loaded on first use, and what they may import at their top.
LATE = {
    "_manager_server": {"traceback"},
    "_threads": {"queue"},
    "connection": {"socket", "selectors", "tempfile"},
    "dummy/__init__": {"array", "queue"},
    "dummy/connection": {"queue"},
    "forkserver": {"socket", "selectors"},
    "managers": {"array", "queue"},
    "pool": {"queue", "traceback"},
    "queues": {"queue"},
    "reduction": {"pickle", "socket", "array"},
    "resource_sharer": {"socket"},
    "sharedctypes": {"ctypes"},
    "shared_memory": {"secrets"},
    "spawn": set(),
    "synchronize": {"tempfile"},
}

#: What a fresh interpreter may not have after `import manycore`.
NOT_LOADED = [
    "multiprocessing",
    "pickle",
    "socket",
    "subprocess",
    "selectors",
    "tempfile",
    "logging",
    "ctypes",
    "asyncio",
    "concurrent",
]


def imports(tree, *, top_only):
    """(line, module, level) of every import; only those that run when the file is loaded with `top_only`."""

    def visit(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for name in child.names:
                    yield child.lineno, name.name, 0
            elif isinstance(child, ast.ImportFrom):
                yield child.lineno, child.module or "", child.level
            elif (
                top_only
                and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                or top_only
                and isinstance(child, ast.If)
                and "TYPE_CHECKING" in ast.unparse(child.test)
            ):
                continue
            else:
                yield from visit(child)

    return list(visit(tree))


def parse(path):
    return ast.parse(path.read_text(), str(path))


def test_the_package_is_there():
    assert (PACKAGE / "__init__.py").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_file_imports_the_standard_package(path):
    found = [
        f"{path.name}:{line}: {module}"
        for line, module, level in imports(parse(path), top_only=False)
        if level == 0 and module.partition(".")[0] in ("multiprocessing", "_multiprocessing", "_posixshmem")
    ]
    # `_multiprocessing` and `_posixshmem` are the standard package's C half.
    assert found == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_heavy_modules_are_imported_in_functions(path):
    allowed = LATE.get(path.relative_to(PACKAGE).with_suffix("").as_posix(), set())
    found = [
        f"{path.name}:{line}: {module}"
        for line, module, level in imports(parse(path), top_only=True)
        if level == 0 and module.partition(".")[0] in HEAVY - allowed
    ]
    assert found == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_sizes(path):
    assert len(path.read_text().splitlines()) <= LONGEST


def test_nothing_private_is_imported_from_outside():
    """`_engine` is the extension; the other underscored files are each other's business, never of a submodule outside."""
    for path in FILES:
        for line, module, level in imports(parse(path), top_only=False):
            if level == 0 and module.partition(".")[0] == "manycore":
                pytest.fail(f"{path.name}:{line}: inside the package imports are relative")


def fresh(text):
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=50)
    return done.stdout.split()


def test_import_is_light():
    loaded = fresh("import sys; before = set(sys.modules); import manycore; print(*sorted(set(sys.modules) - before))")
    found = [name for name in loaded if name.partition(".")[0] in NOT_LOADED]
    assert found == []


def test_a_pool_does_not_load_the_standard_package():
    loaded = fresh(
        "import sys, manycore\n"
        "with manycore.get_context('fork').Pool(1) as pool:\n"
        "    assert pool.map(abs, [-1]) == [1]\n"
        "pool.join()\n"
        "print(*sorted(sys.modules))"
    )
    found = [
        name for name in loaded if name.partition(".")[0] in ("multiprocessing", "concurrent", "asyncio", "logging")
    ]
    assert found == []


def test_all_is_true():
    package = importlib.import_module("manycore")
    for name in package.__all__:
        assert getattr(package, name) is not None
    scope = {}
    exec("from manycore import *", scope)
    assert set(package.__all__) <= set(scope)


# --- names and signatures ---

#: What is not there yet, or is not the same, with the reason.
DIFFERENT: dict[str, str] = {
    "Pool.imap": "has buffersize= as CPython 3.16",
    "Pool.imap_unordered": "has buffersize= as CPython 3.16",
    "set_forkserver_preload": "has on_error= as CPython 3.15",
}


def public(thing):
    return sorted(name for name in dir(thing) if not name.startswith("_"))


def shape(function):
    """Names, kinds and whether there is a default; not the default's repr, which may name a module."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    # Whether `self` may be a keyword tells a method written in Rust from one in Python, nothing else.
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    return [(p.name, p.kind.name, p.default is not p.empty) for p in parameters]


def compare(label, ours, theirs):
    problems = []
    for name in public(theirs):
        full = f"{label}.{name}" if label else name
        # Which submodules are attributes depends on what was imported before.
        if inspect.ismodule(getattr(theirs, name)):
            continue
        if not hasattr(ours, name):
            problems.append(f"{full} is missing")
            continue
        mine, standard = getattr(ours, name), getattr(theirs, name)
        if callable(standard) != callable(mine):
            problems.append(f"{full} is callable in one package only")
        elif callable(standard) and not isinstance(standard, type):
            same = shape(mine) == shape(standard)
            if not same and full not in DIFFERENT and name not in DIFFERENT:
                problems.append(f"{full}{inspect.signature(mine)} instead of {inspect.signature(standard)}")
            elif same and (full in DIFFERENT or name in DIFFERENT) and sys.version_info < (3, 15):
                problems.append(f"{full} is listed as different, but it is the same")
    return problems


def pair(path):
    names = path.split(".")
    result = []
    for package in ("manycore", "multiprocessing"):
        thing = importlib.import_module(package)
        for name in names:
            if name in ("pool", "context", "process"):
                thing = importlib.import_module(f"{thing.__name__}.{name}")
            elif name:
                thing = getattr(thing, name)
        result.append(thing)
    return result


@pytest.mark.parametrize(
    ("label", "path"),
    [
        ("", ""),
        ("Process", "Process"),
        ("Pool", "pool.Pool"),
        ("AsyncResult", "pool.AsyncResult"),
        ("MapResult", "pool.MapResult"),
        ("IMapIterator", "pool.IMapIterator"),
        ("IMapUnorderedIterator", "pool.IMapUnorderedIterator"),
        ("BaseContext", "context.BaseContext"),
        ("ForkContext", "context.ForkContext"),
        ("SpawnContext", "context.SpawnContext"),
        ("ForkServerContext", "context.ForkServerContext"),
        ("ForkProcess", "context.ForkProcess"),
    ],
    ids=lambda value: value or "package",
)
def test_names_and_signatures(label, path):
    ours, theirs = pair(path)
    assert compare(label, ours, theirs) == []
    # Results are made by a pool, never by a caller: their constructors are private.
    if label.endswith(("Process", "Pool", "Context")):
        assert shape(ours.__init__) == shape(theirs.__init__) or f"{label}.__init__" in DIFFERENT


@pytest.mark.parametrize("name", ["ProcessError", "TimeoutError", "AuthenticationError", "BufferTooShort"])
def test_exceptions(name):
    ours, theirs = (getattr(importlib.import_module(package), name) for package in ("manycore", "multiprocessing"))
    assert [base.__name__ for base in ours.__mro__] == [base.__name__ for base in theirs.__mro__]


def test_worker_lost():
    package = importlib.import_module("manycore")
    assert issubclass(package.WorkerLost, package.ProcessError)
    assert "WorkerLost" in package.__all__
