"""`@frozen`: what such a class has in common with a frozen dataclass."""

from __future__ import annotations

from dataclasses import field, replace
from typing import ClassVar

import pytest

from fetcher.frozen import frozen


@frozen
class Point:
    """A class with every kind of field."""

    kind: ClassVar[str] = "point"
    x: int
    y: int = 0
    secret: str = field(default="s", repr=False)
    note: str = field(default="", compare=False)


@frozen
class Twin:
    """Another class with the same fields."""

    x: int
    y: int = 0


@frozen
class Named(Point):
    """A class that inherits fields."""

    name: str = ""


@frozen
class Folded:
    """A class with an equality of its own."""

    text: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folded) and self.text.lower() == other.text.lower()

    def __hash__(self) -> int:
        return hash(self.text.lower())

    def __repr__(self) -> str:
        return "Folded()"


def test_equal_fields_are_equal_values_of_one_class_only() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert hash(Point(1, 2)) == hash(Point(1, 2))
    assert Point(1, 2) != Point(1, 3)
    assert Point(1, 2) != Named(1, 2)
    assert len({Point(1), Point(1), Named(1), Twin(1)}) == 3


def test_fields_that_are_not_compared_or_not_shown_are_neither() -> None:
    assert Point(1, note="a") == Point(1, note="b")
    assert Point(1, secret="a") != Point(1, secret="b")
    assert repr(Named(1, note="n")) == "Named(x=1, y=0, note='n', name='')"


def test_a_class_keeps_the_methods_that_it_has() -> None:
    assert Folded("A") == Folded("a")
    assert hash(Folded("A")) == hash(Folded("a"))
    assert repr(Folded("A")) == "Folded()"


def test_values_are_replaced_matched_and_have_slots() -> None:
    changed = replace(Point(1, 2), y=3)
    match changed:
        case Point(x, y):
            assert (x, y) == (1, 3)
    with pytest.raises(AttributeError):
        changed.other = 1  # type: ignore[attr-defined]
