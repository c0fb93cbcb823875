"""Data that a provider attaches to messages and calls: who gets it back, and how its pieces are joined.

The data is opaque. It goes back unchanged to its origin, and to no other provider. The origin is the driver,
the host of the ``base_url`` and the model:

* Each driver stores its own fields, which another driver could not use.
* Another host may be another company. The path does not count, because ``/v1`` and ``/v1/`` are one server.
* Signatures of one model are invalid for another one, even at the same host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field

from kheishd.providers.address import host_of
from protocol.limits.model import MAX_PROVIDER_DATA_BYTES
from protocol.rpc.wire import find_storage_problem

if TYPE_CHECKING:
    from protocol.objects.run import Pinned
    from protocol.transcript import Message, ProviderData, ToolCall

# Strings that arrive in pieces; all other values arrive whole.
_PIECEWISE = frozenset(("text", "thinking", "summary", "signature"))


def origin_of(pinned: Pinned, base_url: str) -> str:
    """Return the origin of data that this route's provider attaches."""
    return f"{pinned.driver} {host_of(base_url).lower()} {pinned.model}"


def is_origin(data: ProviderData | None, origin: str) -> bool:
    """Whether the data may be sent to this origin."""
    return data is not None and data.origin == origin


def own_fields(holder: Message | ToolCall, origin: str) -> dict[str, Any]:
    """Return the fields of a message or call that this origin attached; empty for those of another one."""
    data = holder.provider_data
    return data.fields if data is not None and data.origin == origin else {}


class Attachments(Struct):
    """The fields that a provider attaches to one message or one call, as they arrive."""

    fields: dict[str, Any] = field(default_factory=dict)
    size: int = 0

    def add(self, name: str, value: Any) -> None:
        """Add a field, or another piece of it. Fields that became too large are dropped whole."""
        if value is None or self.size > MAX_PROVIDER_DATA_BYTES:
            return
        self.size += _join(self.fields, name, value)
        if self.size > MAX_PROVIDER_DATA_BYTES:
            self.fields = {}

    def take(self, room: int) -> dict[str, Any]:
        """Return the fields if they fit into ``room`` bytes of JSON and can be stored; else none."""
        if not self.fields or find_storage_problem(self.fields) is not None:
            return {}
        return self.fields if measure_fields(self.fields) <= room else {}


def measure_fields(fields: dict[str, Any]) -> int:
    """Return the bytes of fields as JSON."""
    return len(msgspec.json.encode(fields)) if fields else 0


def _join(fields: dict[str, Any], name: str, value: Any) -> int:
    """Join a value with the earlier pieces of its field; return the bytes that it adds."""
    present = fields.get(name)
    match present, value:
        case list(), list():
            return sum(_join_element(present, element) for element in value)
        case dict(), dict():
            return sum(_join(present, key, element) for key, element in value.items() if element is not None)
        case str(), str() if name in _PIECEWISE:
            fields[name] = present + value
            return len(value.encode())
    if isinstance(value, list):
        fields[name] = []
        return len(name) + sum(_join_element(fields[name], element) for element in value)
    fields[name] = value
    return len(name) + len(msgspec.json.encode(value))


def _join_element(elements: list[Any], element: Any) -> int:
    """Append an element to a list, or join it with the last one if it continues that."""
    last = elements[-1] if elements else None
    if isinstance(last, dict) and isinstance(element, dict) and _continues(last, element):
        return sum(_join(last, key, value) for key, value in element.items() if value is not None)
    elements.append(dict(element) if isinstance(element, dict) else element)
    return len(msgspec.json.encode(element))


def _continues(last: dict[str, Any], element: dict[str, Any]) -> bool:
    """Whether an object continues the previous one: same kind, index and id, neither encrypted nor signed."""
    if "data" in element or "data" in last or last.get("type") != element.get("type"):
        return False
    for key in ("index", "id"):
        if None not in (last.get(key), element.get(key)) and last[key] != element[key]:
            return False
    # A new text after a signature is the next thought.
    return not last.get("signature") or not any(element.get(key) for key in ("text", "thinking", "summary"))
