"""What the initializer of a pool has changed in a worker: functions that come by value later are to see it.

Such a function brings its global variables along. Those that the initializer has set, or whose contents it has changed
(`cache[key] = value`, `Config.value = value`), stay as the initializer has left them: that is what it is for.
"""

from __future__ import annotations

import sys
from types import FunctionType

from ._main_module import shared_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import CodeType
    from typing import Any

__all__ = ["is_kept", "kept", "run"]

#: The variables that an initializer has changed in this worker, by module: in which dictionary each of them is.
kept: dict[str, dict[str, dict[str, Any]]] = {}

# So many objects are compared at most: who keeps more in the variables of an initializer changes some of those.
_MOST = 10_000


def run(initializer: Callable[..., object], initargs: Iterable[Any]) -> None:
    """Call the initializer, and note the variables that it has changed."""
    function = getattr(initializer, "func", initializer)
    scope: Any = getattr(function, "__globals__", None)
    module = scope.get("__name__") if type(scope) is dict else None
    if not isinstance(module, str):
        initializer(*initargs)
        return
    before = dict(scope)
    code = getattr(function, "__code__", None)
    named = {} if code is None else {name: _contents(before[name], module) for name in _names(code, before)}
    initializer(*initargs)
    missing = object()
    changed = {name for name, value in scope.items() if before.get(name, missing) is not value}
    changed |= {name for name, contents in named.items() if name in scope and not all(map(_is_same, contents))}
    if changed:
        kept.setdefault(shared_name(module), {}).update(dict.fromkeys(changed, scope))


def is_kept(value: object) -> bool:
    """Return whether the initializer has changed `value`, or has set a variable to it."""
    return any(scope.get(name) is value for names in kept.values() for name, scope in names.items())


def _names(code: CodeType, scope: dict[str, Any]) -> set[str]:
    """Return which of the variables `scope` a code names, also by way of functions that it names."""
    found: set[str] = set()
    codes = [code]
    for one in codes:
        codes += [const for const in one.co_consts if isinstance(const, type(code))]
        for name in one.co_names:
            if name in scope and name not in found:
                found.add(name)
                value = scope[name]
                if isinstance(value, FunctionType) and value.__globals__.get("__name__") == scope["__name__"]:
                    codes.append(value.__code__)
    return found


def _contents(value: Any, module: str) -> list[tuple[Any, list[Any]]]:
    """Return all objects that can be changed and are reached from `value`, each with what is in it now."""
    found: list[tuple[Any, list[Any]]] = []
    seen: set[int] = set()
    waiting = [value]
    while waiting and len(found) < _MOST:
        one = waiting.pop()
        if id(one) in seen or not _is_changeable(one, module):
            continue
        seen.add(id(one))
        parts = _parts(one)
        found.append((one, parts))
        waiting += parts
    return found


def _is_changeable(value: Any, module: str) -> bool:
    if isinstance(value, (dict, list, set)):
        return True
    if isinstance(value, (type, FunctionType)):
        return shared_name(value.__module__) == shared_name(module)
    return type(value) is not type(sys) and type(getattr(value, "__dict__", None)) is dict


def _parts(value: Any) -> list[Any]:
    """Return what is in an object, in an order that stays while nothing is changed."""
    parts: list[Any] = []
    own = getattr(value, "__dict__", None)
    if own:
        parts += [part for item in list(own.items()) for part in item]
    if isinstance(value, dict):
        parts += [part for item in list(dict.items(value)) for part in item]
    elif isinstance(value, (list, set)):
        parts += list(value)
    return parts


def _is_same(noted: tuple[Any, list[Any]]) -> bool:
    value, before = noted
    now = _parts(value)
    return len(now) == len(before) and all(map(_is, now, before))


def _is(one: object, other: object) -> bool:
    return one is other
