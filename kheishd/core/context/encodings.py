"""The encodings of a transcript's messages that drivers keep between model calls.

A conversation grows at its end: the beginning of a request is the whole of the previous one. A driver encodes
only the new messages and appends them to its prefix.
"""

from __future__ import annotations

from typing import Any, Final

MAX_PREFIXES: Final = 2
"""Prefixes of one transcript: a conversation changes its model now and then, not at every turn."""


class EncodedPrefix:
    """The encoding of a transcript's first ``count`` messages, as one driver sends them.

    ``parts`` are its pieces, in order; a message may be none, one or several of them. ``carry`` is the
    driver's own state between the last encoded message and the next one.
    """

    __slots__ = ("carry", "count", "parts", "size_bytes")

    def __init__(self) -> None:
        self.count = 0
        self.parts: list[bytes] = []
        self.carry: Any = None
        self.size_bytes = 0

    def append(self, count: int, *parts: bytes) -> None:
        """Append the pieces of the next ``count`` messages."""
        self.count += count
        self.parts += parts
        self.size_bytes += sum(map(len, parts))


class MessageEncodings:
    """The encodings of one transcript as one agent reads it, one prefix for each form.

    While the same object is handed out, the list of messages only grows: the messages that were encoded are
    the same objects at the same indexes. A compaction begins with another object.
    """

    __slots__ = ("_prefixes",)

    def __init__(self) -> None:
        self._prefixes: dict[str, EncodedPrefix] = {}

    @property
    def size_bytes(self) -> int:
        """The size of all encodings."""
        return sum(prefix.size_bytes for prefix in self._prefixes.values())

    def prefix(self, form: str) -> EncodedPrefix:
        """Return the prefix of a form; the least recently used one makes room for a new one.

        Args:   ``form`` names everything that the encoding depends on beside the messages: the driver, the
                origin, the options and marks that change a message.
        """
        prefix = self._prefixes.pop(form, None)
        if prefix is None:
            prefix = EncodedPrefix()
            if len(self._prefixes) == MAX_PREFIXES:
                del self._prefixes[next(iter(self._prefixes))]
        self._prefixes[form] = prefix
        return prefix
