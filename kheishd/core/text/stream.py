"""JSON values in a row, such as the events of a stream, are scrubbed of secrets that lie across several.

A model's text comes in pieces, and a secret in it may be cut anywhere: no piece holds it, and whoever joins
the pieces has it. So the texts that stand at the same place in one value after another are scrubbed as the
one text that they are. A value is held back while a text in it may be the beginning of a secret.

The values themselves stay what they are and keep their order; only the texts in them change.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from kheishd.core.text.scrub import Scrubber, without

# A text that looks like the beginning of a secret and never goes on would hold everything back. A secret that
# comes letter by letter takes as many values as it has letters, and few have more than these.
MAX_HELD = 1_024

# What is remembered to hold no secret, so that it need not be looked at again.
MAX_REMEMBERED = 1_024
REMEMBERED_CHARACTERS = 64

Place = tuple[str | int, ...]


@dataclass(slots=True)
class _Held:
    """A value, and how many texts in it are not certain."""

    value: Any
    open: int = 0


@dataclass(slots=True)
class _Piece:
    """A text in a value: what is certain of it, and what is not yet."""

    held: _Held
    holder: Any
    key: str | int
    text: str
    certain: list[str] = field(default_factory=list)


class StreamRedactor:
    """One row of values on its way."""

    def __init__(self) -> None:
        self._held: deque[_Held] = deque()
        self._threads: dict[Place, deque[_Piece]] = {}
        self._scrubber: Scrubber | None = None
        self._harmless: set[str] = set()
        self._names: set[str] = set()

    def feed(self, value: Any, scrubber: Scrubber) -> list[Any]:
        """One more value, which is ours from now on: those that can be told by now."""
        if scrubber is not self._scrubber:
            self._scrubber, self._harmless, self._names = scrubber, set(), set()
        # A text is reached by what holds it, so one that is the whole value is put into a list.
        held = _Held([value])
        self._held.append(held)
        for place, holder, key in self._texts(held.value, scrubber):
            if place in self._threads or not self._is_harmless(holder[key], scrubber):
                self._add(place, _Piece(held, holder, key, holder[key]), scrubber)
        if len(self._held) > MAX_HELD:
            return self.rest(scrubber)
        return self._given()

    def rest(self, scrubber: Scrubber) -> list[Any]:
        """The row has ended: the values that were held back."""
        for place in list(self._threads):
            joined = "".join(piece.text for piece in self._threads[place])
            self._settle(place, scrubber, joined, len(joined))
        return self._given()

    def _add(self, place: Place, piece: _Piece, scrubber: Scrubber) -> None:
        piece.held.open += 1
        thread = self._threads.setdefault(place, deque())
        thread.append(piece)
        joined = "".join(piece.text for piece in thread)
        self._settle(place, scrubber, joined, scrubber.certain(joined))

    def _is_harmless(self, text: str, scrubber: Scrubber) -> bool:
        """Whether a text holds no secret and ends with the beginning of none.

        What is short is remembered: events repeat ids, models and types, and to look at them once is enough.
        """
        if text in self._harmless:
            return True
        if scrubber.certain(text) < len(text) or scrubber.spans(text):
            return False
        if len(text) <= REMEMBERED_CHARACTERS and len(self._harmless) < MAX_REMEMBERED:
            self._harmless.add(text)
        return True

    def _texts(self, root: list[Any], scrubber: Scrubber) -> list[tuple[Place, Any, str | int]]:
        """Every text in a value: its place, what holds it and under which key. Names are scrubbed on the way.

        What has a number of its own, called ``index``, is at that place wherever it stands.
        """
        texts: list[tuple[Place, Any, str | int]] = []
        left: list[tuple[Place, Any]] = [((), root)]
        while left:
            place, holder = left.pop()
            if isinstance(holder, dict):
                self._scrub_names(holder, scrubber)
                index = holder.get("index")
                place = (*place, index) if isinstance(index, int) else place
            for key, inner in holder.items() if isinstance(holder, dict) else enumerate(holder):
                if isinstance(inner, str):
                    texts.append(((*place, key), holder, key))
                elif isinstance(inner, dict | list):
                    left.append(((*place, key), inner))
        return texts

    def _scrub_names(self, table: dict[str, Any], scrubber: Scrubber) -> None:
        if self._names.issuperset(table):
            return
        entries = [(scrubber.text(name), inner) for name, inner in table.items()]
        table.clear()
        table.update(entries)
        if len(self._names) < MAX_REMEMBERED:
            self._names.update(name for name in table if len(name) <= REMEMBERED_CHARACTERS)

    def _settle(self, place: Place, scrubber: Scrubber, joined: str, upto: int) -> None:
        """Be certain of as much of the texts at one place."""
        thread = self._threads[place]
        spans = scrubber.spans(joined[:upto])
        at = 0
        for piece in thread:
            taken = min(len(piece.text), upto - at)
            piece.certain.append(without(joined, spans, at, at + taken))
            piece.text = piece.text[taken:]
            at += taken
        while thread and not thread[0].text:
            piece = thread.popleft()
            piece.holder[piece.key] = "".join(piece.certain)
            piece.held.open -= 1
        if not thread:
            del self._threads[place]

    def _given(self) -> list[Any]:
        given = []
        while self._held and not self._held[0].open:
            given.append(self._held.popleft().value[0])
        return given


def seamless(value: Any, scrubber: Scrubber) -> Any:
    """One value without the secrets."""
    seams = StreamRedactor()
    return (seams.feed(value, scrubber) + seams.rest(scrubber))[0]
