"""The memory that a value takes. Pure."""

import sys
from typing import Final

from msgspec import Struct

from protocol.transcript import Message, Text

MESSAGE_BYTES: Final = 600
"""A message in a transcript, with its entry and its list of items, without the items."""

ITEM_BYTES: Final = 64
"""An item, without its fields."""


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


def memory_of_message(message: Message) -> int:
    """Return about the memory of a message in a transcript; texts, which are most items, are quick."""
    size = MESSAGE_BYTES + (memory_of(message.provider_data) if message.provider_data is not None else 0)
    for item in message.items:
        size += ITEM_BYTES + sys.getsizeof(item.text) if isinstance(item, Text) else memory_of(item)
    return size
