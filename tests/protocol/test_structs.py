"""Copies of fields between structs."""

from msgspec import Struct

from protocol.structs import fields_of


class Short(Struct):
    """A record."""

    name: str
    size: int = 0


class Long(Short):
    """A view of it."""

    note: str = ""


def test_fields_of_a_base() -> None:
    """A view becomes its record, and a record its view."""
    view = Long("x", 3, "more")
    record = Short(**fields_of(Short, view))
    assert record == Short("x", 3)
    assert Long(**fields_of(Short, record), note="more") == view
