"""What pickle writes as a name, or refuses, and can be made of its parts: cached functions, types of `typing`, others.

Each is written as a call of a function here, with its parts, and only where its receiver would not find it by name.
Whatever module has made it is loaded, so none is imported here.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FunctionType
    from typing import Any

__all__ = ["annotations_of", "evaluated", "is_dispatcher", "reduce_dispatcher", "reducers"]


def reducers() -> dict[type, Callable[[Any], Any]]:
    """Return how to write the instances of types, of those modules that are loaded."""
    found: dict[type, Callable[[Any], Any]] = {}
    functools = sys.modules.get("functools")
    if functools is not None:
        found[functools._lru_cache_wrapper] = _reduce_cached
        found[functools.partialmethod] = _reduce_partial_method
        found[functools.cached_property] = _reduce_cached_property
        found[functools.singledispatchmethod] = _reduce_dispatching_method
    typing = sys.modules.get("typing")
    if typing is not None:
        found[typing.NewType] = _reduce_new_type
        found[typing.ParamSpec] = _reduce_param_spec
        if sys.version_info >= (3, 12):
            found[typing.TypeAliasType] = _reduce_alias
    annotationlib = sys.modules.get("annotationlib")
    if annotationlib is not None:
        found[annotationlib.ForwardRef] = _reduce_forward_reference
    return found


# ----------------------------------------------------------------------------------------------------------------------
# functools


def _reduce_cached(cached: Any) -> Any:
    parameters = cached.cache_parameters()
    args = (parameters["maxsize"], parameters["typed"], cached.__wrapped__)
    return make_cached, args, dict(cached.__dict__), None, None, set_attributes


def make_cached(maxsize: int | None, typed: bool, function: Callable[..., Any]) -> Any:
    """Return a function with an empty cache."""
    import functools

    return functools.lru_cache(maxsize, typed)(function)


def set_attributes(obj: Any, attributes: dict[str, Any]) -> None:
    """Give an object its attributes."""
    obj.__dict__.update(attributes)


def _reduce_partial_method(method: Any) -> Any:
    return make_partial_method, (method.func, method.args, method.keywords)


def make_partial_method(function: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Return a method some of whose arguments are given."""
    import functools

    return functools.partialmethod(function, *args, **keywords)


def _reduce_cached_property(prop: Any) -> Any:
    return make_cached_property, (prop.func, prop.attrname)


def make_cached_property(function: Any, name: str | None) -> Any:
    """Return a property whose value is kept; its lock, on versions that have one, is a new one."""
    import functools

    prop: Any = functools.cached_property(function)
    prop.attrname = name
    return prop


def is_dispatcher(function: FunctionType) -> bool:
    """Return whether `function` was made by `functools.singledispatch`."""
    if not {"register", "dispatch", "registry"} <= function.__dict__.keys():
        return False
    import functools

    return function.__code__ is functools.singledispatch(_nowhere).__code__  # type: ignore[attr-defined]


def reduce_dispatcher(dispatcher: Any) -> Any:
    """Say how to write what `functools.singledispatch` has made: by the functions registered."""
    own = {name: value for name, value in dispatcher.__dict__.items() if name not in _DISPATCHERS_OWN}
    names = {name: getattr(dispatcher, name) for name in ("__module__", "__name__", "__qualname__", "__doc__")}
    return make_dispatcher, (), (dict(dispatcher.registry), names, own), None, None, set_dispatcher


_DISPATCHERS_OWN = ("register", "dispatch", "registry", "_clear_cache")


def make_dispatcher() -> Any:
    """Return a function that dispatches to none yet."""
    import functools

    return functools.singledispatch(_nowhere)


def _nowhere() -> None: ...


def set_dispatcher(dispatcher: Any, state: tuple[Any, ...]) -> None:
    """Give a function of `make_dispatcher` what it dispatches to."""
    registry, names, own = state
    for kind, function in registry.items():
        dispatcher.register(kind, function)
    for name, value in names.items():
        setattr(dispatcher, name, value)
    dispatcher.__dict__.update(own)


def _reduce_dispatching_method(method: Any) -> Any:
    return make_dispatching_method, (), (method.dispatcher, method.func), None, None, set_dispatching_method


def make_dispatching_method() -> Any:
    """Return a method that dispatches to none yet; its cache, on versions that have one, is a new one."""
    import functools

    return functools.singledispatchmethod(_nowhere)


def set_dispatching_method(method: Any, state: tuple[Any, Any]) -> None:
    """Give a method of `make_dispatching_method` what it dispatches by."""
    method.dispatcher, method.func = state


# ----------------------------------------------------------------------------------------------------------------------
# typing


def _reduce_new_type(kind: Any) -> Any:
    return make_new_type, (kind.__qualname__, kind.__supertype__, kind.__module__)


def make_new_type(name: str, supertype: Any, module: str) -> Any:
    """Return a type for type checkers."""
    import typing

    make: Any = typing.NewType
    made = make(name, supertype)
    made.__module__ = module
    return made


def _reduce_param_spec(spec: Any) -> Any:
    how = {"bound": spec.__bound__, "covariant": spec.__covariant__, "contravariant": spec.__contravariant__}
    return make_param_spec, (spec.__name__, how)


def make_param_spec(name: str, how: dict[str, Any]) -> Any:
    """Return the parameters of a function, for type checkers."""
    import typing

    make: Any = typing.ParamSpec
    return make(name, **how)


def _reduce_alias(alias: Any) -> Any:
    return make_alias, (alias.__name__, alias.__value__, alias.__type_params__)


def make_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    """Return another name for a type."""
    import typing

    return typing.TypeAliasType(name, value, type_params=parameters)  # type: ignore[attr-defined]


def _reduce_forward_reference(reference: Any) -> Any:
    # It holds all variables of the module that it stands in, for the day that somebody evaluates it.
    return make_forward_reference, (reference.__forward_arg__, reference.__forward_module__)


def make_forward_reference(text: str, module: Any) -> Any:
    """Return the name of a type that was not defined yet where it was named."""
    import annotationlib  # type: ignore[import-not-found]

    return annotationlib.ForwardRef(text, module=module)


def annotations_of(cls: type) -> dict[str, Any] | None:
    """Return the annotations of a class on CPython 3.14 and later, where a function makes them; None if it has none."""
    import annotationlib  # type: ignore[import-not-found]

    if annotationlib.get_annotate_from_class_namespace(cls.__dict__) is None:
        return cls.__dict__.get("__annotations_cache__")
    return evaluated(cls)


def evaluated(annotated: Any) -> dict[str, Any]:
    """Return the annotations of a class or a function on CPython 3.14 and later.

    What they name and is not there, or not there yet, is a forward reference."""
    import annotationlib  # type: ignore[import-not-found]

    try:
        return dict(annotationlib.get_annotations(annotated))
    except Exception:
        return dict(annotationlib.get_annotations(annotated, format=annotationlib.Format.FORWARDREF))
