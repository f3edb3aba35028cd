"""Which names the code of a function uses.

The instructions are read as the `dis` module describes them, two bytes each: to import that module takes as long as all
else that a first function by value needs. `co_code` has no specialized instructions, and its caches are zeros.
"""

from __future__ import annotations

from _frozen_importlib_external import MAGIC_NUMBER  # type: ignore[import-not-found]
from weakref import WeakKeyDictionary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

__all__ = ["names_of"]

# The last two are the body of a class, which looks into its own names first.
_OPERATIONS = ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "EXTENDED_ARG")

# Their numbers, by the number of the bytecode, which changes whenever one of them does. `opcode` knows them all, but
# takes half a millisecond.
_KNOWN: dict[int, tuple[int | None, ...]] = {
    3495: (116, 97, 98, 101, None, 144),  # CPython 3.11
    3531: (116, 97, 98, 101, 175, 144),  # 3.12
    3571: (91, 113, 66, 92, 90, 71),  # 3.13
    3627: (92, 115, 64, 93, 91, 69),  # 3.14
    3666: (91, 114, 62, 92, 90, 67),  # 3.15
}


def _numbers() -> tuple[int | None, ...]:
    from opcode import opmap

    return tuple(map(opmap.get, _OPERATIONS))


*_LOADS, _EXTENDED_ARG = _KNOWN.get(int.from_bytes(MAGIC_NUMBER[:2], "little")) or _numbers()
# How many low bits of the operation's operand are no part of the name's number: whether a null is pushed, too.
_FLAGS = {number: int(place == 0) for place, number in enumerate(_LOADS) if number is not None}


class Names:
    """What a code names: global variables, and everything, attributes included."""

    __slots__ = ("all", "variables")

    def __init__(self, code: CodeType) -> None:
        self.variables: dict[str, None] = {}
        self.all: set[str] = set()
        codes = [code]
        for one in codes:
            self.all.update(one.co_names)
            self.variables.update(dict.fromkeys(_globals(one)))
            codes += [const for const in one.co_consts if isinstance(const, type(code))]


_names: WeakKeyDictionary[CodeType, Names] = WeakKeyDictionary()


def names_of(code: CodeType) -> Names:
    """Return what `code`, and the code within, names."""
    names = _names.get(code)
    if names is None:
        names = _names[code] = Names(code)
    return names


def _globals(code: CodeType) -> Iterator[str]:
    """Give the global variables that `code` itself names, in its order."""
    names, instructions, extended = code.co_names, code.co_code, 0
    for operation, operand in zip(instructions[::2], instructions[1::2], strict=True):
        operand |= extended
        if operation in _FLAGS:
            yield names[operand >> _FLAGS[operation]]
        extended = operand << 8 if operation == _EXTENDED_ARG else 0
