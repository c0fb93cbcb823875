"""The encodings of a transcript's messages that drivers keep between model calls.

A conversation grows at its end: the beginning of a request is the whole of the previous one. A driver keeps
the messages as it sent them, and encodes only the new ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable

MAX_FORMS: Final = 2
"""Encodings of one transcript: a conversation changes its model now and then, not at every turn."""

FORM_BYTES: Final = 1_900
"""The memory of an encoding without messages."""


class Encoding(Protocol):
    """The messages in one driver's form."""

    @property
    def size_bytes(self) -> int:
        """The memory that they take."""
        ...


class MessageEncodings:
    """The encodings of one transcript as one agent reads it, one for each form.

    While the same object is handed out, the list of messages only grows: the messages that were encoded are
    the same objects at the same indexes. A compaction begins with another object.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[Hashable, Encoding] = {}

    @property
    def size_bytes(self) -> int:
        """The memory of all encodings."""
        return sum(FORM_BYTES + encoding.size_bytes for encoding in self._kept.values())

    def take(self, form: Hashable) -> Any:
        """Remove and return the encoding of a form, to be kept again once it has grown; None without one.

        An error half-way leaves none behind.

        Args:   ``form`` names everything that the encoding depends on beside the messages: the driver, the
                origin, the options and marks that change a message.
        """
        return self._kept.pop(form, None)

    def keep(self, form: Hashable, encoding: Encoding) -> None:
        """Keep an encoding; it replaces the least recently used one if there are too many."""
        self._kept.pop(form, None)
        if len(self._kept) == MAX_FORMS:
            del self._kept[next(iter(self._kept))]
        self._kept[form] = encoding
