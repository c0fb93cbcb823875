"""Scrub secrets that are split across the chunks of a stream.

A model's text arrives in chunks, and a secret may be cut anywhere: no chunk contains it, but the joined text
does. :class:`TextStreamScrubber` scrubs one text; :class:`ValueStreamScrubber` scrubs a sequence of JSON
values, such as the events of a provider's stream. There, the texts at the same path of successive values are
scrubbed as one text. A chunk or value is held back while its text may be the beginning of a secret. Values
keep their order and structure; only texts and names change.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from msgspec import Struct, field

from kheishd.core.text.scrub import Scrubber, replace_spans

# A text that looks like the beginning of a secret and never continues would hold back everything. A secret
# that arrives letter by letter takes one value per letter, and few secrets are longer than this.
MAX_HELD_VALUES = 1_024

# Short texts without secrets are remembered, so that they are searched once.
MAX_REMEMBERED = 1_024
MAX_REMEMBERED_CHARACTERS = 64

ValuePath = tuple[str | int, ...]


class TextStreamScrubber:
    """A scrubber of one text in chunks; its output never contains a secret, however the text was cut."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str, scrubber: Scrubber) -> str:
        """Add a chunk and return the text that is safe by now."""
        if not scrubber:
            return self.finish(scrubber) + text
        unsafe = len(self._held)
        text = self._held + text
        cut = scrubber.safe_length(text, unsafe)
        self._held = text[cut:]
        return scrubber.scrub_text(text[:cut])

    def finish(self, scrubber: Scrubber) -> str:
        """End the text and return the part that was held back."""
        rest, self._held = self._held, ""
        return scrubber.scrub_text(rest)


class _HeldValue(Struct):
    """A value, and the number of texts in it that are not safe yet."""

    value: Any
    pending: int = 0


class _HeldText(Struct):
    """A text in a value: its scrubbed part, and the rest that is not safe yet."""

    owner: _HeldValue
    container: Any
    key: str | int
    rest: str
    scrubbed: list[str] = field(default_factory=list)


class ValueStreamScrubber:
    """A scrubber of one sequence of JSON values."""

    def __init__(self) -> None:
        self._held: deque[_HeldValue] = deque()
        self._texts: dict[ValuePath, deque[_HeldText]] = {}
        self._scrubber: Scrubber | None = None
        self._harmless: set[str] = set()
        self._names: set[str] = set()

    def feed(self, value: Any, scrubber: Scrubber) -> list[Any]:
        """Add a value, which is changed in place, and return the values that are safe by now."""
        if scrubber is not self._scrubber:
            self._scrubber, self._harmless, self._names = scrubber, set(), set()
        # A text is replaced through its container, so a value that is itself a text needs one.
        owner = _HeldValue([value])
        self._held.append(owner)
        for path, container, key in self._find_texts(owner.value, scrubber):
            text = container[key]
            if path in self._texts or not self._is_harmless(text, scrubber):
                owner.pending += 1
                texts = self._texts.setdefault(path, deque())
                texts.append(_HeldText(owner, container, key, text))
                joined = "".join(item.rest for item in texts)
                self._scrub_prefix(path, scrubber, joined, scrubber.safe_length(joined))
        if len(self._held) > MAX_HELD_VALUES:
            return self.finish(scrubber)
        return self._release()

    def finish(self, scrubber: Scrubber) -> list[Any]:
        """End the sequence and return the values that were held back."""
        for path in list(self._texts):
            joined = "".join(item.rest for item in self._texts[path])
            self._scrub_prefix(path, scrubber, joined, len(joined))
        return self._release()

    def _is_harmless(self, text: str, scrubber: Scrubber) -> bool:
        """Whether a text contains no secret and does not end with the beginning of one.

        Short texts are remembered: events repeat ids, models and types.
        """
        if text in self._harmless:
            return True
        if scrubber.safe_length(text) < len(text) or scrubber.find_spans(text):
            return False
        if len(text) <= MAX_REMEMBERED_CHARACTERS and len(self._harmless) < MAX_REMEMBERED:
            self._harmless.add(text)
        return True

    def _find_texts(self, root: list[Any], scrubber: Scrubber) -> list[tuple[ValuePath, Any, str | int]]:
        """Return path, container and key of every text in a value, and scrub the names on the way.

        An object with a field ``index`` has that number in its path, wherever it is in an array.
        """
        texts: list[tuple[ValuePath, Any, str | int]] = []
        containers: list[tuple[ValuePath, Any]] = [((), root)]
        while containers:
            path, container = containers.pop()
            if isinstance(container, dict):
                self._scrub_names(container, scrubber)
                index = container.get("index")
                path = (*path, index) if isinstance(index, int) else path
            for key, inner in container.items() if isinstance(container, dict) else enumerate(container):
                if isinstance(inner, str):
                    texts.append(((*path, key), container, key))
                elif isinstance(inner, dict | list):
                    containers.append(((*path, key), inner))
        return texts

    def _scrub_names(self, table: dict[str, Any], scrubber: Scrubber) -> None:
        if self._names.issuperset(table):
            return
        entries = [(scrubber.scrub_text(name), inner) for name, inner in table.items()]
        table.clear()
        table.update(entries)
        if len(self._names) < MAX_REMEMBERED:
            self._names.update(name for name in table if len(name) <= MAX_REMEMBERED_CHARACTERS)

    def _scrub_prefix(self, path: ValuePath, scrubber: Scrubber, joined: str, length: int) -> None:
        """Scrub the first ``length`` characters of the texts at a path."""
        texts = self._texts[path]
        spans = scrubber.find_spans(joined[:length])
        start = 0
        for item in texts:
            taken = min(len(item.rest), length - start)
            item.scrubbed.append(replace_spans(joined, spans, start, start + taken))
            item.rest = item.rest[taken:]
            start += taken
        while texts and not texts[0].rest:
            complete = texts.popleft()
            complete.container[complete.key] = "".join(complete.scrubbed)
            complete.owner.pending -= 1
        if not texts:
            del self._texts[path]

    def _release(self) -> list[Any]:
        values = []
        while self._held and not self._held[0].pending:
            values.append(self._held.popleft().value[0])
        return values


def scrub_value(value: Any, scrubber: Scrubber) -> Any:
    """Scrub one JSON value, names included."""
    stream = ValueStreamScrubber()
    return (stream.feed(value, scrubber) + stream.finish(scrubber))[0]
