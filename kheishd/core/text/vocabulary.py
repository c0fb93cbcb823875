"""The daemon's own words: the names of fields and the constants in the journal and in answers.

To redact a secret that occurs in one of them would change the data itself: an event with another status, an
answer without one of its fields. Such a text is not accepted as a secret. Pure.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from protocol.ids import ID_SHAPED
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent
from protocol.rpc.catalogue import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def find_collision(texts: Iterable[str], names: Iterable[str]) -> str | None:
    """Return a word of the daemon, or one of these names, that contains a text; None if there is none.

    An id that the daemon made collides as a whole only: part of one is left as it is wherever ids stand.
    """
    texts = list(texts)
    words = (*names, *_list_words())
    contained = (word for word in words if any(text in word for text in texts))
    return next(contained, next((text for text in texts if ID_SHAPED.fullmatch(text)), None))


@cache
def _list_words() -> tuple[str, ...]:
    """Return all words, without those that are too short to contain a secret."""
    types: list[Any] = [Envelope, JournalEvent, *(method.result for method in METHODS.values())]
    _, components = msgspec.json.schema_components(types)
    return tuple(sorted({*_find_words(components), *METHODS}))


def _find_words(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for element in schema:
            yield from _find_words(element)
    elif isinstance(schema, dict):
        yield from schema.get("properties", ())
        yield from (word for word in (*schema.get("enum", ()), schema.get("const")) if isinstance(word, str))
        for value in schema.values():
            yield from _find_words(value)
