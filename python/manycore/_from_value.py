"""Making functions and classes of what `_by_value` has written.

**Namespaces.** The functions of one module that came to a child share one dictionary of global variables there. What
a message brings replaces what an earlier one has brought, so a function that a later cell defines anew is the new
one. But a variable that the pool's initializer has set in this worker stays as it set it: that is what initializers
are for. In a process that is nobody's child each message has namespaces of its own: a function that comes back as a
result must not change the program's variables.

**Classes.** A class has a number, and is one object in each process: instances sent one after the other are of the
same class, and those that come back to where the class was made are of that very class.
"""

from __future__ import annotations

import marshal
import sys
from _weakrefset import WeakSet
from types import CellType, FunctionType

from . import _initialized, _main_module, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["cloud_module", "find_namespace", "make_class", "make_function", "set_class", "set_function"]

# By the name of the module that the functions are of.
_shared: dict[str, dict[str, Any]] = {}
# The classes that messages have brought into being here.
_received: WeakSet[type] = WeakSet()


def find_namespace(name: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return the global variables for functions of the module `name`; None: those of no module."""
    import builtins

    fresh = {**given, "__builtins__": builtins}
    if name is None or process.parent_process() is None:
        return fresh
    name = _main_module.shared_name(name)
    main = sys.modules["__main__"]
    if name == "__main__" and _main_module.is_session(main):
        # A module in which no code has run has none, and imports by compiled modules look for them here.
        main.__dict__.setdefault("__builtins__", builtins)
        return main.__dict__
    return _shared.setdefault(name, fresh)


def make_function(code: bytes, namespace: dict[str, Any], cells: tuple[CellType, ...]) -> FunctionType:
    """Return a function without what it refers to."""
    return FunctionType(marshal.loads(code), namespace, None, None, cells or None)


def set_function(function: FunctionType, state: tuple[Any, ...]) -> None:
    """Give a function of `make_function` what it refers to."""
    attributes, own, variables, contents, _ = state
    for name, value in attributes.items():
        setattr(function, name, value)
    if own:
        function.__dict__.update(own)
    scope = function.__globals__
    kept = _initialized.kept.get(_main_module.shared_name(attributes["__module__"]))
    if kept:
        from ._code_names import names_of

        for name in names_of(function.__code__).variables:
            source = kept.get(name, {})
            if name in source:
                variables[name] = source[name]
    scope.update(variables)
    for cell, value in contents:
        cell.cell_contents = value


def make_class(make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """Return the class of a number: the one that is here, or a new one without its contents."""
    cloud = cloud_module()
    known = cloud._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])
    if known is not None:
        return known
    made = make(*args)
    _received.add(made)
    return made


def set_class(cls: type, state: Any) -> None:
    """Give a class of `make_class` its contents. One that this program has made itself, or its initializer has changed,
    has them."""
    if cls in _received and not _initialized.is_kept(cls):
        contents, slots, members = state
        cloud_module()._class_setstate(cls, (contents, slots))
        for name, attributes in members.items():
            vars(getattr(cls, name)).update(attributes)


def cloud_module() -> Any:
    """Return cloudpickle, which takes ten milliseconds to import: for classes, and what pickle refuses."""
    import cloudpickle.cloudpickle

    return cloudpickle.cloudpickle
