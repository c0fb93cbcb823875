"""The daemon's own words: the names of fields and the constants in the journal and in answers.

To redact a secret that occurs in one of them would change the data itself: an event with another status, an
answer without one of its fields. So they are never changed, and a slot does not accept such a text. Pure.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from protocol.ids import ID_SHAPED
from protocol.journal.envelope import Envelope
from protocol.journal.line import TAG_VALUES, JournalEvent
from protocol.rpc.catalogue import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def find_collision(texts: Iterable[str], names: Iterable[str]) -> str | None:
    """Return a word of the daemon, or one of these names, that contains a text; None if there is none.

    An id that the daemon made collides as a whole only: part of one is left as it is wherever ids stand.
    """
    texts = list(texts)
    words = (*names, *sorted(list_words()))
    contained = (word for word in words if any(text in word for text in texts))
    return next(contained, next((text for text in texts if ID_SHAPED.fullmatch(text)), None))


@cache
def list_words() -> frozenset[str]:
    """Return all words. The first call takes some time: nothing needs it before a secret is found."""
    types: list[Any] = [Envelope, JournalEvent, *(method.result for method in METHODS.values())]
    _, components = msgspec.json.schema_components(types)
    tags = (tag for values in TAG_VALUES.values() for tag in values)
    return frozenset((*_find_words(components), *METHODS, *tags))


def _find_words(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for element in schema:
            yield from _find_words(element)
    elif isinstance(schema, dict):
        yield from schema.get("properties", ())
        yield from (word for word in (*schema.get("enum", ()), schema.get("const")) if isinstance(word, str))
        for value in schema.values():
            yield from _find_words(value)
