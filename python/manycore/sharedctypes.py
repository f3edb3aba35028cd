"""Values and arrays of C types in memory that child processes share, alone (`Raw...`) or with a lock of their own.

They travel to a child as it is started, like everything that is shared by inheritance.
"""

from __future__ import annotations

import ctypes
import weakref

from . import context, heap, reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["Array", "RawArray", "RawValue", "Value", "copy", "synchronized"]

typecode_to_type: dict[Any, Any] = {
    "c": ctypes.c_char,
    "u": ctypes.c_wchar,
    "b": ctypes.c_byte,
    "B": ctypes.c_ubyte,
    "h": ctypes.c_short,
    "H": ctypes.c_ushort,
    "i": ctypes.c_int,
    "I": ctypes.c_uint,
    "l": ctypes.c_long,
    "L": ctypes.c_ulong,
    "q": ctypes.c_longlong,
    "Q": ctypes.c_ulonglong,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
}


def _new_value(type_: Any) -> Any:
    """Return an object of a ctypes type in shared memory, with whatever is there."""
    return rebuild_ctype(type_, heap.BufferWrapper(ctypes.sizeof(type_)), None)


def _type_of(typecode_or_type: Any) -> Any:
    """Return the ctypes type that a type code or a type stands for. TypeError if there is none."""
    type_ = typecode_to_type.get(typecode_or_type, typecode_or_type)
    try:
        ctypes.sizeof(type_)
    except TypeError:
        codes = ", ".join(typecode_to_type)
        raise TypeError(f"bad typecode {type_!r}: give a ctypes type or one of {codes}") from None
    return type_


def _new_zeroed(type_: Any) -> Any:
    obj = _new_value(type_)
    ctypes.memset(ctypes.addressof(obj), 0, ctypes.sizeof(obj))
    return obj


def RawValue(typecode_or_type: Any, *args: Any) -> Any:
    """Return an object of a ctypes type, or of that of an `array` type code, in shared memory.

    It is what `type(*args)` would be: zero without arguments. Nothing protects it from being written by two at once.
    """
    obj = _new_zeroed(_type_of(typecode_or_type))
    obj.__init__(*args)
    return obj


def RawArray(typecode_or_type: Any, size_or_initializer: int | Iterable[Any]) -> Any:
    """Return a ctypes array in shared memory: of so many zeros, or of the items given."""
    type_ = _type_of(typecode_or_type)
    if isinstance(size_or_initializer, int):
        return _new_zeroed(type_ * size_or_initializer)
    items = size_or_initializer
    if not hasattr(items, "__len__"):
        items = list(items)
    array = _new_value(type_ * len(items))  # type: ignore[arg-type]
    array.__init__(*items)
    return array


def Value(typecode_or_type: Any, *args: Any, lock: Any = True, ctx: Any = None) -> Any:
    """Return a `RawValue` with a lock: a new RLock of `ctx`, or the one given; with `lock=False` the bare value.

    AttributeError if `lock` is neither a bool nor something that can be acquired.
    """
    return _with_lock(RawValue(typecode_or_type, *args), lock, ctx)


def Array(typecode_or_type: Any, size_or_initializer: int | Iterable[Any], *, lock: Any = True, ctx: Any = None) -> Any:
    """Return a `RawArray` with a lock, as `Value` does."""
    return _with_lock(RawArray(typecode_or_type, size_or_initializer), lock, ctx)


def _with_lock(obj: Any, lock: Any, ctx: Any) -> Any:
    if lock is False:
        return obj
    if lock is True or lock is None:
        lock = _new_lock(ctx)
    elif not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    return synchronized(obj, lock, ctx)


def _new_lock(ctx: Any) -> Any:
    ctx = ctx or context._default_context.get_context()
    return ctx.RLock()


def copy(obj: Any) -> Any:
    """Return another object like the ctypes object `obj`, in shared memory."""
    new = _new_value(type(obj))
    ctypes.pointer(new)[0] = obj
    return new


def synchronized(obj: Any, lock: Any = None, ctx: Any = None) -> SynchronizedBase:
    """Return a wrapper of the ctypes object `obj` that takes `lock` (default: a new RLock) around every access."""
    if isinstance(obj, SynchronizedBase):
        raise AssertionError("object already synchronized")
    if isinstance(obj, ctypes._SimpleCData):
        return Synchronized(obj, lock, ctx)
    if isinstance(obj, ctypes.Array):
        return (SynchronizedString if obj._type_ is ctypes.c_char else SynchronizedArray)(obj, lock, ctx)
    cls = type(obj)
    wrapper = class_cache.get(cls)
    if wrapper is None:
        fields = {field[0]: make_property(field[0]) for field in getattr(cls, "_fields_", ())}
        wrapper = class_cache[cls] = type(f"Synchronized{cls.__name__}", (SynchronizedBase,), fields)
    return wrapper(obj, lock, ctx)


# ----------------------------------------------------------------------------------------------------------------------
# On the way to a child


def reduce_ctype(obj: Any) -> tuple[Any, ...]:
    """Return how a child gets the same object: its type, and the block it lies in."""
    context.assert_spawning(obj)
    if isinstance(obj, ctypes.Array):
        return rebuild_ctype, (obj._type_, obj._wrapper, obj._length_)  # type: ignore[attr-defined]
    return rebuild_ctype, (type(obj), obj._wrapper, None)


def rebuild_ctype(type_: Any, wrapper: heap.BufferWrapper, length: int | None) -> Any:
    """Return the object of a type, or the array of `length` of them, that lies in a block."""
    if length is not None:
        type_ = type_ * length
    # Its class is known only now: a structure of the program, an array of some length.
    reduction.ForkingPickler.register(type_, reduce_ctype)
    obj = type_.from_buffer(wrapper.create_memoryview())
    obj._wrapper = wrapper
    return obj


# ----------------------------------------------------------------------------------------------------------------------
# With a lock


def make_property(name: str) -> property:
    """Return a property that reads and writes `name` of the wrapped object under its lock."""
    if name not in prop_cache:
        # Written out, so that each access is a plain attribute and not a getattr().
        scope: dict[str, Any] = {}
        exec(_PROPERTY.format(name=name), scope)
        prop_cache[name] = property(scope["get"], scope["set"], doc=f"`{name}` of the object, under its lock.")
    return prop_cache[name]


# Not by `with`: before CPython 3.14 that takes twice as long as the two calls.
_PROPERTY = """
def get(self):
    self.acquire()
    try:
        return self._obj.{name}
    finally:
        self.release()

def set(self, value):
    self.acquire()
    try:
        self._obj.{name} = value
    finally:
        self.release()
"""

prop_cache: dict[str, property] = {}
class_cache: weakref.WeakKeyDictionary[type, type[SynchronizedBase]] = weakref.WeakKeyDictionary()


class SynchronizedBase:
    """A ctypes object and its lock; as a context manager it holds the lock."""

    def __init__(self, obj: Any, lock: Any = None, ctx: Any = None) -> None:
        self._obj = obj
        if lock is None:
            lock = _new_lock(ctx)
        self._lock = lock
        self.acquire = lock.acquire
        self.release = lock.release

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(self, *args: Any) -> Any:
        return self._lock.__exit__(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        context.assert_spawning(self)
        return synchronized, (self._obj, self._lock)

    def get_obj(self) -> Any:
        """Return the object without its lock."""
        return self._obj

    def get_lock(self) -> Any:
        """Return the lock."""
        return self._lock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self._obj}>"


class Synchronized(SynchronizedBase):
    """One value. `value += 1` is a read and a write: hold `get_lock()` around it."""

    value = make_property("value")


class SynchronizedArray(SynchronizedBase):
    """An array; items and slices are read and written under the lock."""

    def __len__(self) -> int:
        return len(self._obj)

    def __getitem__(self, i: Any) -> Any:
        self.acquire()
        try:
            return self._obj[i]
        finally:
            self.release()

    def __setitem__(self, i: Any, value: Any) -> None:
        self.acquire()
        try:
            self._obj[i] = value
        finally:
            self.release()

    def __getslice__(self, start: int, stop: int) -> Any:
        return self[start:stop]

    def __setslice__(self, start: int, stop: int, values: Any) -> None:
        self[start:stop] = values


class SynchronizedString(SynchronizedArray):
    """An array of characters, which are also to be had as bytes: `value` to the first zero, `raw` all of them."""

    value = make_property("value")
    raw = make_property("raw")


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__path__":  # every `from ... import ...` asks
            raise AttributeError(name)
        from ._names import find

        return find(__name__, name)
