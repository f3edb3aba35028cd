"""What to say of something that cannot be sent: which object it is, how one gets to it, and what to do instead.

Pickle says "cannot pickle '_thread.lock' object" and leaves it to the program to find the lock. Here the parts of what
was to be sent are pickled one by one until the one that fails has no part that fails. It takes its time, once something
has failed anyway.
"""

from __future__ import annotations

import sys
from types import FunctionType, MethodType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

__all__ = ["DEPTH", "TRIALS", "explained"]

# How far to look: what is deeper is not named.
DEPTH = 40
# How many parts to try to pickle at most.
TRIALS = 3000

# What the pickler of the interpreter itself says, and cloudpickle.
_WORDS = ("pickle", "Can't get ", "local object", "not the same object")


def explained(error: BaseException, obj: Any, root: str, dumps: Callable[[Any], object]) -> BaseException:
    """Return an exception of the type of `error`, why `obj` cannot be sent, that says where the reason lies.

    `root` says what `obj` is: "call" (positional and named arguments), "process", "value", "results" (of several
    tasks), or the number of the first of the items that it consists of. `dumps` pickles. An error that is not the
    pickler's own is returned as it is.
    """
    kind = type(error)
    if not _is_the_picklers(error):
        return error
    try:
        path, culprit, reason = _Search(dumps).find(obj, root, error)
        place = _spoken(path)
        said = f"cannot send {place}: {reason}" if place else str(reason)
        if _is_the_picklers(reason):
            return kind(f"{said}. {_advice(culprit)}")
        # The object itself has refused, and has said what to do.
        return (type(reason) if type(reason).__module__ == "builtins" else kind)(said)
    except Exception:
        # To explain runs code of the objects; whatever that does, the reason itself must come through.
        return error


def _is_the_picklers(error: BaseException) -> bool:
    """Return whether `error` is one of the pickler itself, and not of the code of an object that it has called."""
    own = type(error).__module__ in ("builtins", "_pickle", "pickle")
    return own and any(word in str(error) for word in _WORDS)


class _Search:
    def __init__(self, dumps: Callable[[Any], object]) -> None:
        self._dumps = dumps
        self._left = TRIALS

    def find(self, obj: Any, root: str, error: BaseException) -> tuple[list[tuple[str, str]], Any, BaseException]:
        """Return the way to the innermost part of `obj` that cannot be pickled, that part, and why."""
        path: list[tuple[str, str]] = []
        parts = _roots(obj, root)
        seen = [obj]
        for _ in range(DEPTH):
            found = self._first_bad(parts, seen)
            if found is None:
                break
            step, obj, error = found
            path.append(step)
            seen.append(obj)
            if not _is_the_picklers(error):
                break
            parts = _parts(obj)
        return path, obj, error

    def _first_bad(
        self, parts: Iterator[tuple[tuple[str, str], Any]], seen: list[Any]
    ) -> tuple[tuple[str, str], Any, BaseException] | None:
        known = list(parts)
        # Halves first: the one bad item of many is found in a few steps.
        while len(known) > 8:
            half = known[: len(known) // 2]
            known = half if self._why([part for _, part in half]) else known[len(half) :]
        for step, part in known:
            if not any(part is one for one in seen):
                why = self._why(part)
                if why is not None:
                    return step, part, why
        return None

    def _why(self, obj: Any) -> BaseException | None:
        self._left -= 1
        if self._left < 0:
            return None
        try:
            self._dumps(obj)
        except Exception as error:
            return error
        return None


def _roots(obj: Any, root: str) -> Iterator[tuple[tuple[str, str], Any]]:
    if root == "call":
        args, kwargs = obj
        yield from _arguments(args, kwargs or {})
    elif root == "process":
        yield ("", "the target"), obj._target
        yield from _arguments(obj._args, obj._kwargs)
        yield from ((("attribute", name), value) for name, value in vars(obj).items() if name not in _OF_A_PROCESS)
    elif root == "results":
        yield from ((("", "the result"), item) for item in obj)
    elif root.isdigit():
        yield from ((("", f"item {int(root) + number}"), item) for number, item in enumerate(obj))
    else:
        yield from _parts(obj)


_OF_A_PROCESS = ("_target", "_args", "_kwargs", "_config", "_popen")


def _arguments(args: Any, kwargs: Any) -> Iterator[tuple[tuple[str, str], Any]]:
    yield from ((("", f"argument {number}"), value) for number, value in enumerate(args))
    yield from ((("", f"argument {name!r}"), value) for name, value in kwargs.items())


def _parts(obj: Any) -> Iterator[tuple[tuple[str, str], Any]]:
    """Return what `obj` consists of, as far as it is pickled with it, each with its name."""
    if isinstance(obj, dict):
        yield from ((("item", f"key {key!r:.40}"), key) for key in obj)
        yield from ((("item", f"{key!r:.40}"), value) for key, value in obj.items())
    elif isinstance(obj, (list, tuple)):
        yield from ((("item", str(number)), value) for number, value in enumerate(obj))
    elif isinstance(obj, (set, frozenset)):
        yield from ((("item", "..."), value) for value in obj)
    if isinstance(obj, FunctionType):
        yield from _parts_of_function(obj)
        return
    if isinstance(obj, MethodType):
        yield ("attribute", "__self__"), obj.__self__
        yield ("attribute", "__func__"), obj.__func__
        return
    if isinstance(obj, type):
        yield from (
            (("attribute", name), value) for name, value in vars(obj).items() if isinstance(value, FunctionType)
        )
        return
    partial = getattr(sys.modules.get("functools"), "partial", None)
    if partial is not None and isinstance(obj, partial):
        carried: Any = obj
        yield ("attribute", "func"), carried.func
        yield from _arguments(carried.args, carried.keywords)
    yield from ((("attribute", name), value) for name, value in list(getattr(obj, "__dict__", {}).items()))
    for cls in type(obj).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(obj, name):
                yield ("attribute", name), getattr(obj, name)


def _parts_of_function(function: FunctionType) -> Iterator[tuple[tuple[str, str], Any]]:
    from ._code_names import names_of

    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield ("variable", f"variable {name!r} of the function around it"), cell.cell_contents
        except ValueError:
            pass
    for name in names_of(function.__code__).variables:
        if name in function.__globals__:
            yield ("variable", f"global variable {name!r}"), function.__globals__[name]
    for value in function.__defaults__ or ():
        yield ("variable", "a default"), value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield ("variable", f"the default of {name!r}"), value
    yield from ((("attribute", name), value) for name, value in function.__dict__.items())


def _spoken(path: list[tuple[str, str]]) -> str:
    """Return the path in words: `argument 0, attribute 'model.cache[3]'`."""
    words: list[str] = []
    chain = ""
    for kind, text in [*path, ("", "")]:
        if kind == "attribute":
            chain += f".{text}" if chain else text
            continue
        if kind == "item":
            chain += f"[{text}]"
            continue
        if chain:
            words.append(f"item {chain[1:].replace(']', '', 1)}" if chain[0] == "[" else f"attribute '{chain}'")
            chain = ""
        if text:
            words.append(text)
    return ", ".join(words)


def _advice(culprit: Any) -> str:
    name = f"{type(culprit).__module__}.{type(culprit).__qualname__}"
    if name in ("_thread.lock", "_thread.RLock") or name.startswith("threading."):
        return (
            "It belongs to the threads of this process. For processes there are manycore's own, Lock() and its kin, in "
            "the arguments of a Process or a pool's initargs; or make one in each worker, in the pool's initializer"
        )
    if name in ("builtins.generator", "builtins.coroutine", "builtins.async_generator"):
        return "It is a running function. Send what it gives, list(...), or call the function in the worker"
    if name.startswith(("_io.", "socket.")):
        return "It is open in this process. Send its name and open it in the worker, or once in the pool's initializer"
    return "Make it in the worker: in the task, or for all tasks of a worker in the pool's initializer"
