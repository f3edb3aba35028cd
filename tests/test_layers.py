"""The shape of the Python package: who imports what, what is loaded when, how long files are, names and signatures."""

import ast
import importlib
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
    "_awaiting": {"asyncio"},
    "_manager_server": {"traceback"},
    "_manager_types": {"queue"},
    "_piped_queue": {"queue"},
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
def test_every_module_says_what_it_offers(path):
    """CPython's tests ask for it from 3.14 on."""
    assigned = [node for node in ast.walk(parse(path)) if isinstance(node, (ast.Assign, ast.AnnAssign))]
    targets = [target for node in assigned for target in getattr(node, "targets", None) or [node.target]]
    assert any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


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
