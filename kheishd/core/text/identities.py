"""Identities in decoded values: names, ids, patterns and addresses, which must never be redacted.

Redacting one would change its meaning: two senders would become one, and a rule would match something else.
So a request with a secret in one of them is refused. The type decides whether a text is an identity: one with
a pattern or a short limit is, unless its ``Meta(extra=...)`` says otherwise. Pure.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from msgspec import inspect

from kheishd.core.text.scrub import REPLACEMENT
from protocol.ids import ID_SHAPED
from protocol.limits.names import MAX_SOURCE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kheishd.core.text.scrub import Scrubber

_describe: Final = cache(inspect.type_info)


def find_secret(kind: Any, value: Any, scrubber: Scrubber, path: str) -> str | None:
    """Return the path of an identity in a decoded value that redaction changes or has changed; else None."""
    for place, text in find_identities(kind, value, path):
        if not ID_SHAPED.fullmatch(text) and REPLACEMENT in scrubber.scrub_text(text):
            return place
    return None


def find_identities(kind: Any, value: Any, path: str = "$") -> Iterator[tuple[str, str]]:
    """Yield the identities in a decoded value of a type, with their paths."""
    return _find_identities(_describe(kind), value, path, {})


def _find_identities(
    kind: inspect.Type, value: Any, path: str, extra: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    match kind:
        case inspect.Metadata():
            yield from _find_identities(kind.type, value, path, {**extra, **(kind.extra or {})})
        case inspect.StrType() if isinstance(value, str):
            is_short = kind.max_length is not None and kind.max_length <= MAX_SOURCE_BYTES
            if extra.get("identity", kind.pattern is not None or is_short):
                yield path, value
        case inspect.UnionType():
            for inner in kind.types:
                yield from _find_identities(inner, value, path, extra)
        case inspect.CollectionType() if isinstance(value, list | tuple | set | frozenset):
            for index, element in enumerate(value):
                yield from _find_identities(kind.item_type, element, f"{path}[{index}]", extra)
        case inspect.DictType() if isinstance(value, dict):
            for key, element in value.items():
                # The path of a name is that of the object: it must not be in a message.
                yield from _find_identities(kind.key_type, key, path, extra)
                yield from _find_identities(kind.value_type, element, f"{path}[...]", extra)
        case inspect.StructType() if isinstance(value, kind.cls):
            for field in kind.fields:
                inner_path = f"{path}.{field.encode_name}"
                yield from _find_identities(field.type, getattr(value, field.name), inner_path, {})
