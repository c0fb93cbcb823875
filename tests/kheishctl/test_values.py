"""Immutable values of the client."""

from typing import Any

import pytest

from kheishctl.values import ClientValue


class Point(ClientValue):
    """A point."""

    x: int
    y: int = 0


class Size(ClientValue):
    """A value with the same fields."""

    x: int
    y: int = 0


def test_a_value_has_its_fields() -> None:
    """Fields are given by position or by name; defaults fill the rest."""
    point = Point(1, y=2)
    assert (point.x, point.y) == (1, 2)
    assert Point(x=1) == Point(1, 0)
    assert repr(Point(1)) == "Point(x=1, y=0)"
    assert Point(1).replace(y=5) == Point(1, 5)
    match point:
        case Point(x, y):
            assert (x, y) == (1, 2)


def test_a_value_equals_values_of_its_class() -> None:
    """Values of another class are different, whatever their fields."""
    assert Point(1) != Size(1)
    assert {Point(1), Point(1), Point(2)} == {Point(1), Point(2)}


def test_a_value_cannot_be_changed() -> None:
    """No field of a value can be assigned."""
    point: Any = Point(1)
    with pytest.raises(AttributeError, match="Point cannot be changed"):
        point.x = 2
    assert point.x == 1


@pytest.mark.parametrize(("values", "fields"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((), {"y": 1})])
def test_a_value_needs_its_fields(values: tuple[int, ...], fields: dict[str, int]) -> None:
    """A missing, unknown or surplus field is an error."""
    kind: Any = Point
    with pytest.raises(TypeError, match="Point has the fields x, y"):
        kind(*values, **fields)
