"""What other processes can know of our main module.

A child by spawn or forkserver imports the main module, so what it defines is found there by name. It cannot where

- nothing is to be imported: the program is a session (the interpreter's prompt, a notebook), or was given as `-c` or on
  the standard input. Children then have an empty main module, and what they need of ours comes by value.
- importing it would start processes again: the program has no `if __name__ == "__main__":`. Children then import the
  code above the statement that starts the first process, quietly; what is defined below comes by value.

A forked child has everything that its parent had at the fork. Functions and classes that the parent defines later come
by value.

So this module knows, of a main module of which not everything is found, what is: the names and what they were bound to
when processes were started. While everything is found, as in a program with a main guard, nothing is recorded, and
pickle alone decides.
"""

from __future__ import annotations

import sys
from _weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, FunctionType, ModuleType
    from typing import Any
else:
    # Every program that starts a process loads this module, and few load `types`.
    FunctionType, ModuleType = type(lambda: None), type(sys)

__all__ = [
    "NAMES",
    "after_fork",
    "before_fork",
    "before_start",
    "failure",
    "failure_to_report",
    "has_late",
    "is_hidden",
    "is_known",
    "is_session",
    "settle",
    "settle_late",
    "shared_name",
]

#: The names a main module goes by, in the program and in a child.
NAMES = ("__main__", "__mp_main__")

# What children find of a main module that they do not have whole: what each name was bound to. None while they find
# everything.
_known: dict[str, Any] | None = None
# The main module whose top level started the first process, the line of that statement, and whether it was a thread of
# another statement's. The reference is weak: a main module that this module kept alive would be finalized after modules
# that its objects need for their own end.
_first_start: tuple[ref[ModuleType], int, bool] | None = None
# The main module of which it was found out where processes that import it have to stop.
_looked_at: ref[ModuleType] | None = None
# The line of the statement that starts the first process, if it is not guarded.
_unguarded: int | None = None
# The line of the guard, if there is one: what is defined below it, importers do not have.
_guard: int | None = None
# The names that the main module names above it and defines no class by below, if somebody has asked.
_above: frozenset[str] | None = None
# The functions and classes of a main module with a file that every child forked from here has.
_forked: dict[str, Any] | None = None


def is_session(main: ModuleType) -> bool:
    """Return whether `main` is no file that another process could import."""
    if getattr(sys, "frozen", False):
        return False
    spec_name = getattr(getattr(main, "__spec__", None), "name", None)
    if spec_name is not None:
        # CPython 3.13.0 leaves the traces of its prompt.
        return spec_name == "_pyrepl.__main__"
    if type(main) is not ModuleType:
        return False
    path = getattr(main, "__file__", None)
    # IPython's main module may be the shell itself: nothing to import.
    return not isinstance(path, str) or path == "<stdin>" or path.endswith(("/ipython", "/ipython.py"))


def is_hidden() -> bool:
    """Return whether there are things in the main module that another process may not find by name."""
    return _known is not None or is_session(sys.modules["__main__"])


# ----------------------------------------------------------------------------------------------------------------------
# When processes are started


def before_fork() -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """A child is about to be forked. Returns what it is to give to `after_fork`."""
    global _forked
    main = sys.modules["__main__"]
    if not is_session(main):
        _note_start(main)
        if _known is None:
            defined = {name: _keep(value) for name, value in list(main.__dict__.items()) if _is_defined(value)}
            _forked = defined if _forked is None else _in_both(_forked, defined)
            _look_again()
            return None, defined
    whole = _snapshot(main)
    _restrict(whole)
    return whole, None


def after_fork(parents: tuple[dict[str, Any] | None, dict[str, Any] | None]) -> None:
    """Take note, in the forked child, of what its parent has as well: what `before_fork` returned there.

    What other children of the parent lack does not matter here: it is the parent that gets what this child sends.
    """
    global _known, _forked, _guard, _looked_at
    _known, _forked = parents
    _guard = _looked_at = None
    _look_again()


def before_start() -> int | None:
    """A child is about to be started that imports our main module.

    Returns the line of the statement above which its import has to end: None if it can import all, or nothing.
    """
    global _unguarded, _guard, _above, _looked_at
    main = sys.modules["__main__"]
    if is_session(main):
        _restrict({})
        return None
    line = getattr(main, "_manycore_ends_at", None)
    if line is not None:
        return line
    if _looked_at is None or _looked_at() is not main:
        _unguarded = _guard = _above = None
        _note_start(main)
        # It may be noted later, when the main module itself starts a process.
        if _first_start is not None and _first_start[0]() is main:
            _looked_at = ref(main)
            from . import _main_guard

            _, line, by_thread = _first_start
            _unguarded, _guard = _main_guard.find_unguarded(main, line)
            if _unguarded is not None and by_thread:
                _unguarded, _guard = _main_guard.find_thread_start(main, _unguarded)
            if _unguarded is not None:
                above = _main_guard.names_above(_main_guard.source_of(main) or "", _unguarded)
                found = _snapshot(main).items()
                _restrict({name: kept for name, kept in found if _is_above(name, kept(), _unguarded, above)})
                _main_guard.warn(main, _unguarded)
            _look_again()
    return _unguarded


def _restrict(known: dict[str, Any]) -> None:
    """Another process is being started, which finds only `known`: what others do not find is not found by all."""
    global _known
    if _known is None:
        _known = known
        from ._engine import set_main_hidden

        set_main_hidden(True)
    else:
        _known = _in_both(_known, known)


def settle(value: Any) -> None:
    """Note what other processes do not have, if `value`, of the main module and about to be sent, shows it.

    In a program with a main guard that is found out here, and not for each message: a function or a class may be
    defined below the guard, or after workers were forked.
    """
    main = sys.modules["__main__"]
    if _known is not None or is_session(main) or not _is_defined(value):
        return
    name, _, rest = _name_of(value).partition(".")
    found = main.__dict__.get(name)
    if (rest or found is value) and _is_late(name, found, main):
        _restrict_to_what_is_found(main)


def has_late() -> bool:
    """Return whether the main module holds a function or a class, not met yet, that others may not find."""
    main = sys.modules["__main__"]
    if _known is not None or is_session(main):
        return False
    return any(_is_late(name, value, main) for name, value in list(main.__dict__.items()))


def settle_late() -> None:
    """Note that `has_late` is true, and matters: what was pickled names the main module."""
    if has_late():
        _restrict_to_what_is_found(sys.modules["__main__"])


def _is_late(name: str, value: Any, main: ModuleType) -> bool:
    """Return whether processes that were started do not have this function or class of the main module."""
    if not _is_defined(value):
        return False
    if _forked is not None and not _same(_forked.get(name), _keep(value)):
        return True
    return _guard is not None and _is_below(value, main, _guard)


def _restrict_to_what_is_found(main: ModuleType) -> None:
    if _forked is not None:
        _restrict(_forked)
    if _guard is not None:
        defined = {name: value for name, value in list(main.__dict__.items()) if _is_defined(value)}
        _restrict({name: _keep(value) for name, value in defined.items() if not _is_below(value, main, _guard)})


def _look_again() -> None:
    """Have the codec forget what it has had settled: processes are started that may lack it."""
    engine = sys.modules.get(f"{__package__}._engine")
    if engine is not None:
        engine.forget_settled()


def _name_of(value: Any) -> str:
    return getattr(value, "__qualname__", None) or value.__name__


def _is_defined(value: Any) -> bool:
    """Return whether `value` is something that pickle writes as a name, of the main module."""
    kind = type(value)
    # Not `isinstance`, which asks the object: it may be anybody's.
    if not issubclass(kind, (FunctionType, type)) and kind.__name__ not in _DEFINED:
        return False
    try:
        return value.__module__ in NAMES
    except Exception:
        return False


# Types whose instances pickle writes as names, too: those of `functools.cache`, and of `typing`.
_DEFINED = ("_lru_cache_wrapper", "NewType", "ParamSpec", "TypeAliasType")


def _is_below(value: Any, main: ModuleType, guard: int) -> bool:
    """Return whether a function or a class is defined below the line of the main guard."""
    global _above
    line = _line_of(value, getattr(main, "__file__", None))
    if line is not None:
        return line > guard
    if _above is None:
        from . import _main_guard

        try:
            _above = _main_guard.names_above(_main_guard.source_of(main) or "", guard)
        except (SyntaxError, ValueError):
            # The file is another one by now.
            _above = frozenset(main.__dict__)
    return _name_of(value).partition(".")[0] not in _above


def _line_of(value: Any, path: str | None) -> int | None:
    """Return the line of the file `path` where a function or a class is defined, if it says so itself.

    What a decorator has made says where the decorator stands.
    """
    if isinstance(value, FunctionType):
        code = value.__code__
        is_its_own = code.co_filename == path and code.co_qualname == value.__qualname__
        return code.co_firstlineno if is_its_own else None
    own = getattr(value, "__dict__", {})
    if "__firstlineno__" in own:
        return own["__firstlineno__"]
    # Only from 3.13 on does a class know where it is defined; its methods always do.
    name = _name_of(value)
    codes = [part.__code__ for part in list(own.values()) if isinstance(part, FunctionType)]
    names = [code for code in codes if code.co_filename == path and code.co_qualname == f"{name}.{code.co_name}"]
    return names[0].co_firstlineno if names else None


def _is_above(name: str, value: Any, line: int, above: frozenset[str]) -> bool:
    """Return whether children have this variable, who import what is above `line`, where the names `above` stand."""
    return (name in above or name.startswith("__")) and not (
        isinstance(value, FunctionType) and value.__code__.co_firstlineno >= line
    )


def _let_go() -> None:
    """Forget the values of the main module: see `util._let_go`. From now on all of it is unknown to other processes."""
    global _known, _forked
    if _known is not None:
        _known = {}
    if _forked is not None:
        _forked = {}


def _in_both(some: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    return {name: kept for name, kept in others.items() if _same(some.get(name), kept)}


def _snapshot(main: ModuleType) -> dict[str, Any]:
    return {name: _keep(value) for name, value in list(main.__dict__.items())}


def _keep(value: Any) -> Any:
    """Return what tells `value` from another one.

    Where possible that is a weak reference: a large array is not to live longer for it, nor a function with all the
    variables of its module.
    """
    try:
        return ref(value)
    except TypeError:
        return _Kept(value)


class _Kept:
    """Holds a value that knows no weak references."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        return self.value


def _same(one: Any, other: Any) -> bool:
    # Two weak references whose objects are gone both give None, and are not equal for that.
    return one is not None and one() is other() and (one() is not None or isinstance(one, _Kept))


# ----------------------------------------------------------------------------------------------------------------------
# What is found


def is_known(obj: Any, name: str) -> bool:
    """Return whether receivers find `obj`, a function or a class, as `name` in the main module, and as it is now."""
    settle(obj)
    if _known is None:
        return not is_session(sys.modules["__main__"])
    return _is_unchanged(obj, name, set())


def _is_unchanged(obj: Any, name: str, seen: set[int]) -> bool:
    """Return whether `obj` and the variables of the main module that it uses are what receivers have."""
    if id(obj) in seen:
        return True
    seen.add(id(obj))
    first, _, rest = name.partition(".")
    kept = (_known or {}).get(first)
    if kept is None:
        return False
    value = kept()
    if rest:
        owner = sys.modules["__main__"].__dict__.get(first)
        return owner is not None and owner is value and _is_unchanged(owner, first, seen)
    if value is not obj:
        return False
    functions = [obj] if isinstance(obj, FunctionType) else _functions_of(obj)
    return all(_uses_unchanged(function, seen) for function in functions)


def _uses_unchanged(function: FunctionType, seen: set[int]) -> bool:
    from ._code_names import names_of

    scope = sys.modules["__main__"].__dict__
    if function.__globals__ is not scope:
        return True
    for name in names_of(function.__code__).variables:
        if name not in scope:
            continue
        value = scope[name]
        kept = (_known or {}).get(name)
        if not _same(kept, _keep(value)):
            return False
        own = isinstance(value, (FunctionType, type)) and getattr(value, "__module__", None) in NAMES
        if own and not _is_unchanged(value, name, seen):
            return False
    return True


def _functions_of(cls: type) -> list[FunctionType]:
    found: list[FunctionType] = []
    for value in list(getattr(cls, "__dict__", {}).values()):
        parts = (value, *(getattr(value, part, None) for part in ("__func__", "fget", "fset", "fdel")))
        found += [part for part in parts if isinstance(part, FunctionType)]
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Its two names


def shared_name(module: str | None) -> str:
    """Return the one name for a module that has two."""
    return "__main__" if module is None or module in NAMES else module


# ----------------------------------------------------------------------------------------------------------------------
# The statement that starts processes


def _note_start(main: ModuleType) -> None:
    """Remember which line of the main module's own code starts the first process."""
    global _first_start
    if _first_start is not None and _first_start[0]() is main:
        return
    frame = module_frame(sys._getframe(1))
    by_thread = frame is None
    if by_thread:
        # The main module has started a thread, which starts processes, and goes on meanwhile; it may import something.
        threading = sys.modules.get("threading")
        ident = None if threading is None else threading.main_thread().ident
        frame = None if ident is None else module_frame(sys._current_frames().get(ident), main)
    # Whatever starts a process while it is imported itself is no matter of a guard in the main module.
    if frame is not None and frame.f_globals is main.__dict__:
        _first_start = ref(main), frame.f_lineno, by_thread


def module_frame(frame: FrameType | None, module: ModuleType | None = None) -> FrameType | None:
    """Return the innermost frame, from `frame` outwards, that runs a module's file; of `module` itself, if given."""
    while frame is not None:
        # What the program gives to exec() has no lines in its file.
        is_it = frame.f_code.co_name == "<module>" and frame.f_code.co_filename != "<string>"
        if is_it and (module is None or frame.f_globals is module.__dict__):
            return frame
        frame = frame.f_back
    return None


# ----------------------------------------------------------------------------------------------------------------------
# In a worker that could not import it

#: Why this worker of a pool could not import the main module.
failure: BaseException | None = None


def failure_to_report() -> Exception | None:
    """Return what a pool is to be told about `failure`, with what to do about it; None if all is well."""
    if failure is None:
        return None
    error = failure if isinstance(failure, Exception) else RuntimeError(f"the main module ends the worker: {failure!r}")
    error.add_note(
        "A worker process raised this while it imported the main module of the program. Everything at the top level of "
        "that module, and of those that it imports, runs in each worker, too: what only the program itself can do "
        "belongs below\n\n"
        '    if __name__ == "__main__":\n'
    )
    return error
