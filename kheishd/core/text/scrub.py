"""Known secrets are taken out of whatever is journaled, logged or sent to a client.

Only exact values can be found. Journal lines are scrubbed by structure: a secret is replaced inside
values, never in field names or tags, so that a scrubbed line is still a line of its type. A text that is
sent while it is written comes in pieces of any length: its end is held back while it may become a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

REPLACEMENT: Final = "[scrubbed]"
# Values that name a variant of a union. A secret that is a substring of one must not make lines unreadable.
_TAGS: Final = frozenset(("type", "kind", "role"))


class Scrubber:
    """Replaces a fixed set of secrets; a new set is a new scrubber."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # Longest first: a secret that contains another is replaced whole.
        self.secrets: Final = sorted(set(secrets), key=lambda secret: (-len(secret), secret))
        self._needles: Final = [msgspec.json.encode(secret)[1:-1] for secret in self.secrets]
        # As they are spelled inside JSON, where that is another way: a log line may be JSON.
        self._spelled: Final = [
            spelled
            for secret, needle in zip(self.secrets, self._needles, strict=True)
            if (spelled := needle.decode()) != secret
        ]
        self._looked_for: Final = (*self.secrets, *self._spelled)

    def __bool__(self) -> bool:
        return bool(self.secrets)

    def with_more(self, secrets: Iterable[str]) -> Scrubber:
        """A scrubber that knows these as well: what was a secret before a reload still is one."""
        return Scrubber([*self.secrets, *secrets])

    def text(self, text: str) -> str:
        """A text without the secrets."""
        for secret in self.secrets:
            text = text.replace(secret, REPLACEMENT)
        return text

    def content(self, content: bytes) -> bytes:
        """The content of a file or of some output without the secrets, whatever it is otherwise."""
        for secret in self.secrets:
            content = content.replace(secret.encode(), REPLACEMENT.encode())
        return content

    def logged(self, line: str) -> str:
        """A line for a log without the secrets, whether it is text or JSON."""
        for spelled in self._spelled:
            line = line.replace(spelled, REPLACEMENT)
        return self.text(line)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where secrets stand in a text, as they are or as JSON spells them: in order, none over another."""
        found: list[tuple[int, int]] = []
        for needle in self._looked_for:
            at = text.find(needle)
            while at >= 0:
                end = at + len(needle)
                if all(end <= other or at >= until for other, until in found):
                    found.append((at, end))
                at = text.find(needle, at + 1)
        return sorted(found)

    def certain(self, text: str, held: int = 0) -> int:
        """How much of a text that goes on can be scrubbed now: where no secret is cut, whole or begun.

        The first ``held`` characters were not certain before: what reaches into them holds all of them.
        """
        cut = min((_begun(text, form) for form in self._looked_for), default=len(text))
        while (moved := min((_start(text, form, cut) for form in self._looked_for), default=cut)) < cut:
            cut = moved if moved >= held else 0
        return cut

    def line(self, line: bytes) -> bytes:
        """A JSON object without the secrets; the very same bytes where there are none in it."""
        for needle in self._needles:
            if needle in line:
                break
        else:
            return line
        return msgspec.json.encode(self._fields(msgspec.json.decode(line), top=True))

    def _fields(self, table: dict[str, Any], *, top: bool) -> dict[str, Any]:
        return {
            (key if top else self.text(key)): value if key in _TAGS else self._value(value)
            for key, value in table.items()
        }

    def _value(self, value: Any) -> Any:
        match value:
            case str():
                return self.text(value)
            case list():
                return [self._value(element) for element in value]
            case dict():
                return self._fields(value, top=False)
            case _:
                return value


def without(text: str, spans: Iterable[tuple[int, int]], start: int, end: int) -> str:
    """The part of a text from ``start`` to ``end``; a span is replaced in the part where it begins."""
    parts: list[str] = []
    for at, until in spans:
        if until <= start or at >= end:
            continue
        if at >= start:
            parts += [text[start:at], REPLACEMENT]
        start = min(until, end)
    return "".join([*parts, text[start:end]])


def _begun(text: str, secret: str) -> int:
    """From where the end of a text is the beginning of a secret; the text's length if it is not."""
    at = text.find(secret[0], max(len(text) - len(secret) + 1, 0))
    while at >= 0 and not secret.startswith(text[at:]):
        at = text.find(secret[0], at + 1)
    return len(text) if at < 0 else at


def _start(text: str, secret: str, cut: int) -> int:
    """Where a secret stands that a cut would go through; the cut itself if there is none."""
    at = text.find(secret, max(cut - len(secret) + 1, 0), cut + len(secret) - 1)
    return at if 0 <= at < cut else cut


class Flow:
    """A text on its way in pieces; what is given of it never holds a secret, however it was cut."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str, scrubber: Scrubber) -> str:
        """More of the text: what can be told by now."""
        if not scrubber:
            return self.rest(scrubber) + text
        held = len(self._held)
        text = self._held + text
        cut = scrubber.certain(text, held)
        self._held = text[cut:]
        return scrubber.text(text[:cut])

    def rest(self, scrubber: Scrubber) -> str:
        """The text has ended: what was held back."""
        held, self._held = self._held, ""
        return scrubber.text(held)
