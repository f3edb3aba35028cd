"""Pickling what pickle cannot send by name: functions and classes travel by value, whole.

Pickle writes a function or a class as a name, which the receiver looks up. What has no name that it would find (a
lambda, what a function or a cell of a notebook defines, the main module of `python -c`) is written here as what it is
made of. This module is imported when pickle has refused something, or when the main module is one that other processes
cannot import.

Functions are written by us: the code by `marshal`, which knows its own interpreter's code, and beside it what
cloudpickle sends along, too: the global variables that the code names, closures, defaults, attributes. That takes a
millisecond to import, where cloudpickle takes ten in a program that has not loaded `dataclasses`, `typing` and
`logging` already; and the namespaces of `_from_value`, which reads what is written here, need it. Classes, and whatever
else pickle refuses, are cloudpickle's.
"""

from __future__ import annotations

import _pickle as pickle  # type: ignore[import-not-found]
import io
import marshal
import sys
from types import CellType, FunctionType, ModuleType

from . import _main_module
from ._by_value_kinds import annotations_of, evaluated, is_dispatcher, reduce_dispatcher, reducers
from ._code_names import names_of
from ._from_value import cloud_module, find_namespace, make_class, make_function, set_class, set_function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["dumps"]


class _NeedsCloudpickleError(Exception):
    """Something has to be written that only cloudpickle can write."""


def dumps(
    obj: Any,
    protocol: int | None = None,
    buffer_callback: Callable[[Any], Any] | None = None,
    reducers: dict[type, Callable[[Any], Any]] | None = None,
) -> bytes:
    """Return `obj` pickled, by value what the receiver cannot find by name. `reducers` is a dispatch table.

    Raises what pickle raises for what cannot be sent at all.
    """
    from .reduction import _OwnPickler, register_late

    # The object may hold a socket although nothing has been pickled since the module of sockets came.
    register_late()
    reducers = {**_OwnPickler._extra_reducers, **(reducers or {})}
    if "cloudpickle" not in sys.modules:
        collected: list[Any] = []
        try:
            callback = None if buffer_callback is None else collected.append
            pickled = _dump(Pickler, obj, protocol, callback, reducers)
        except Exception:
            # Whatever it was, cloudpickle may know better; what nobody can pickle fails there again.
            pass
        else:
            for buffer in collected:
                buffer_callback(buffer)  # type: ignore[misc]
            return pickled
    return _dump(_CloudPickler, obj, protocol, buffer_callback, reducers)


def dumps_instead(
    obj: Any,
    protocol: int | None,
    buffer_callback: Callable[[Any], Any] | None,
    reducers: dict[type, Callable[[Any], Any]] | None,
    refused: BaseException | None,
    root: str = "value",
) -> bytes | BaseException:
    """As `dumps`, after pickle has refused `obj` with `refused`, or has written names that may not be found.

    What `dumps` would raise is returned, and says which part of `obj` cannot be sent; `root` says what `obj` is, see
    `_explain`. An exception that was raised here would hold the frames of all callers, for as long as a job holds it.
    """
    try:
        return dumps(obj, protocol, buffer_callback, reducers)
    except Exception as error:
        from ._explain import explained

        return explained(refused or error, obj, root, lambda part: dumps(part, 5, _ignore, reducers))


def _ignore(buffer: Any) -> None:
    """Take a buffer that is not sent."""


def _dump(
    kind: type[Pickler],
    obj: Any,
    protocol: int | None,
    buffer_callback: Callable[[Any], Any] | None,
    reducers: dict[type, Callable[[Any], Any]] | None,
) -> bytes:
    file = io.BytesIO()
    pickler = kind(file, protocol, buffer_callback=buffer_callback)
    pickler.dispatch_table = {**kind.known(), **_copyreg_table(), **(reducers or {})}
    pickler.dump(obj)
    return file.getvalue()


def _copyreg_table() -> dict[type, Callable[[Any], Any]]:
    import copyreg

    return copyreg.dispatch_table


class Pickler(pickle.Pickler):
    """Writes functions by value where need be; classes only by name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._namespaces: dict[int, _Namespace] = {}
        self._cells: dict[int, _Cell] = {}
        self._kinds = reducers()

    @staticmethod
    def known() -> dict[type, Callable[[Any], Any]]:
        """Return the reducers for types that pickle refuses."""
        return {ModuleType: _reduce_module}

    def reducer_override(self, obj: Any) -> Any:
        """Say how to write `obj`, if it is a function or a class that has to go by value."""
        kind = type(obj)
        if kind is FunctionType:
            if is_found(obj):
                return NotImplemented
            return reduce_dispatcher(obj) if is_dispatcher(obj) else self._reduce_function(obj)
        reduce = self._kinds.get(kind)
        if reduce is not None:
            return NotImplemented if is_found(obj) else reduce(obj)
        if issubclass(kind, type) and obj not in _SINGLETONS and not is_found(obj):
            return self._reduce_class(obj)
        return NotImplemented

    def _reduce_class(self, cls: Any) -> Any:
        raise _NeedsCloudpickleError

    def _reduce_function(self, function: FunctionType) -> Any:
        names = names_of(function.__code__)
        scope = function.__globals__
        variables = {name: scope[name] for name in names.variables if name in scope and name not in _A_MODULES_OWN}
        cells, contents = [], []
        for cell in function.__closure__ or ():
            shell = self._cells.get(id(cell))
            if shell is None:
                shell = self._cells[id(cell)] = _Cell(cell)
                try:
                    contents.append((shell, cell.cell_contents))
                except ValueError:
                    pass  # empty as yet
            cells.append(shell)
        submodules = _submodules([*variables.values(), *(content for _, content in contents)], names.all)
        args = (marshal.dumps(function.__code__), self._namespace(scope), tuple(cells))
        state = (_attributes(function), function.__dict__ or None, variables, contents, submodules)
        return make_function, args, state, None, None, set_function

    def _namespace(self, scope: dict[str, Any]) -> _Namespace:
        namespace = self._namespaces.get(id(scope))
        if namespace is None:
            namespace = self._namespaces[id(scope)] = _Namespace(scope)
        return namespace


class _CloudPickler(Pickler):
    """Writes by cloudpickle what pickle refuses and is no function."""

    _known: dict[type, Callable[[Any], Any]] | None = None

    @staticmethod
    def known() -> dict[type, Callable[[Any], Any]]:
        """Return the reducers for types that pickle refuses."""
        cls = _CloudPickler
        if cls._known is None:
            known = dict(cloud_module().Pickler._dispatch_table)
            # A file's content would travel in its place, and the bytes of a memory in that of a view of it: silently.
            known[io.TextIOWrapper] = _reduce_file
            known.pop(memoryview, None)
            known.update(Pickler.known())
            cls._known = known
        return cls._known

    def _reduce_class(self, cls: Any) -> Any:
        cloud = cloud_module()
        reduced = cloud._class_reduce(cls)
        if reduced is NotImplemented:
            reduced = cloud._dynamic_class_reduce(cls)
        if len(reduced) == 2:
            return reduced
        make, args, (contents, slots) = reduced[:3]
        members: dict[str, Any] = {}
        if make is not cloud._make_skeleton_class:
            # An enumeration is made without its `__init__` and `__new__`, which may have set attributes.
            members = {name: {**vars(member)} for name, member in cls.__members__.items() if member.name == name}
        if sys.version_info >= (3, 14):
            annotations = annotations_of(cls)
            contents = {name: value for name, value in contents.items() if name != "__annotations_cache__"}
            if annotations is not None:
                contents["__annotations__"] = annotations
        if make is cloud._make_skeleton_class and "__slots__" in cls.__dict__ and not _is_named_tuple(cls):
            # Given to the class when it is made, or its instances would have a dictionary, too.
            kwargs = {**args[3], "__slots__": cls.__slots__}
            args = (*args[:3], kwargs, *args[4:])
            contents = {name: value for name, value in contents.items() if name != "__slots__"}
        return make_class, (make, args), (contents, slots, members), None, None, set_class


def _is_named_tuple(cls: type) -> bool:
    """Return whether `cls` is a class of `typing.NamedTuple`, which gives it slots itself."""
    typing = sys.modules.get("typing")
    return typing is not None and typing.NamedTuple in cls.__dict__.get("__orig_bases__", ())


_SINGLETONS = (type(None), type(NotImplemented), type(Ellipsis))


def is_found(obj: Any) -> bool:
    """Return whether whoever receives the name of a function or a class finds `obj` by it."""
    module_name = getattr(obj, "__module__", None)
    name = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
    if not isinstance(module_name, str) or not isinstance(name, str):
        return False
    found: Any = sys.modules.get(module_name)
    if found is None:
        return False
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not obj:
        return False
    return module_name not in _main_module.NAMES or _main_module.is_known(obj, name)


def _submodules(values: list[Any], names: set[str]) -> list[ModuleType]:
    """Return the modules below the packages in `values` that the function gets at as attributes."""
    found = []
    packages = [value.__name__ for value in values if isinstance(value, ModuleType) and hasattr(value, "__path__")]
    for package in packages:
        for name in names:
            module = sys.modules.get(f"{package}.{name}")
            if isinstance(module, ModuleType) and module not in found:
                found.append(module)
                packages.append(f"{package}.{name}")
    return found


# What each module has anyway; the body of a class names the first of them.
_A_MODULES_OWN = frozenset(("__name__", "__package__", "__file__", "__loader__", "__spec__", "__builtins__"))
# What a new function has from its code and its namespace need not travel.
_PLAIN = ("__defaults__", "__kwdefaults__")


def _attributes(function: FunctionType) -> dict[str, Any]:
    code = function.__code__
    attributes: dict[str, Any] = {"__module__": function.__module__}
    for name in _PLAIN:
        if getattr(function, name) is not None:
            attributes[name] = getattr(function, name)
    if function.__name__ != code.co_name:
        attributes["__name__"] = function.__name__
    if function.__qualname__ != code.co_qualname:
        attributes["__qualname__"] = function.__qualname__
    attributes["__doc__"] = function.__doc__
    if sys.version_info >= (3, 14):
        # The function that makes the annotations: their names may be defined by nobody yet. A method's has all that
        # its class is made of.
        annotate = function.__annotate__
        if annotate is not None and "__classdict__" in annotate.__code__.co_freevars:
            attributes["__annotations__"] = evaluated(function)
        elif annotate is not None:
            attributes["__annotate__"] = annotate
    elif function.__annotations__:
        attributes["__annotations__"] = function.__annotations__
    if getattr(function, "__type_params__", ()):
        attributes["__type_params__"] = function.__type_params__  # type: ignore[attr-defined]
    return attributes


class _Namespace:
    """Stands for the global variables of a module, in one message."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope

    def __reduce__(self) -> tuple[Any, ...]:
        name = self.scope.get("__name__")
        module = sys.modules.get(name) if isinstance(name, str) else None
        shared = module is not None and getattr(module, "__dict__", None) is self.scope
        given = {key: self.scope[key] for key in ("__name__", "__package__", "__file__") if key in self.scope}
        return find_namespace, (name if shared else None, given)


class _Cell:
    """Stands for a variable of an enclosing function: functions that share it share it afterwards."""

    def __init__(self, cell: CellType) -> None:
        # Alive as long as its address is what it is known by.
        self.cell = cell

    def __reduce__(self) -> tuple[Any, ...]:
        return CellType, ()


def _reduce_module(module: ModuleType) -> Any:
    import importlib

    if sys.modules.get(module.__name__) is module:
        return importlib.import_module, (module.__name__,)
    if "cloudpickle" not in sys.modules:
        raise _NeedsCloudpickleError
    return cloud_module()._module_reduce(module)


def _reduce_file(file: Any) -> Any:
    for name in ("stdout", "stderr"):
        if file is getattr(sys, name):
            return getattr, (sys, name)
    raise TypeError(f"cannot pickle '_io.{type(file).__name__}' object")
