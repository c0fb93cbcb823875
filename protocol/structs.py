"""Copy fields between structs that share a base class."""

from typing import Any

from msgspec import Struct


def fields_of(kind: type[Struct], value: Struct) -> dict[str, Any]:
    """Return the fields that ``kind`` declares, by name, as ``value`` has them.

    A record becomes its longer view with ``View(**fields_of(Record, record), more=...)``.
    """
    return {name: getattr(value, name) for name in kind.__struct_fields__}
