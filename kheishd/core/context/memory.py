"""The memory that a value takes. Pure."""

import sys

from msgspec import Struct


def memory_of(value: object) -> int:
    """Return the memory of a value and all its parts; a part that occurs twice counts twice."""
    parts: list[object] = []
    match value:
        case Struct():
            parts = [getattr(value, name) for name in value.__struct_fields__]
        case dict():
            parts = [*value, *value.values()]
        case list() | tuple():
            parts = [*value]
        case _:
            pass
    return sys.getsizeof(value) + sum(map(memory_of, parts))
