"""`@frozen`: a dataclass with slots whose values are not changed, cheap to define.

`@dataclass(frozen=True, slots=True)` compiles half a dozen methods for each class: 0.5-0.9 ms,
60 ms for the 90 classes of a start, and assigns fields twice as slowly. Here equality, hash
and representation are methods that all classes share, and that nothing is assigned to
afterwards is what mypy checks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, TypeVar, dataclass_transform

C = TypeVar("C")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[C]) -> type[C]:
    """Make a class of annotated fields a frozen dataclass; two are equal if class and fields are.

    A class that has, or inherits, an equality of its own keeps it, as it does its `repr`.
    """
    made = dataclass(slots=True, eq=False, repr=False)(cls)
    shared: dict[str, Any] = {"__repr__": _shown}
    if made.__eq__ is object.__eq__:
        shared |= {"__eq__": _equal, "__hash__": _hashed}
    for name, method in shared.items():
        if getattr(made, name) is getattr(object, name):
            setattr(made, name, method)
    return made


@cache
def _compared(cls: Any) -> tuple[str, ...]:
    return tuple(one.name for one in fields(cls) if one.compare)


def _values(value: Any) -> tuple[Any, ...]:
    return tuple([getattr(value, name) for name in _compared(value.__class__)])


def _equal(self: Any, other: object) -> bool:
    return type(self) is type(other) and _values(self) == _values(other)


def _hashed(self: Any) -> int:
    return hash(_values(self))


def _shown(self: Any) -> str:
    said = ", ".join(
        [f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr]
    )
    return f"{type(self).__name__}({said})"
