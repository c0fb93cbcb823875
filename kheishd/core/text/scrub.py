"""Scrub known secrets from everything that is journaled, logged or sent to a client.

Only exact values can be found. Journal lines are scrubbed by structure: secrets are replaced inside values,
never in field names or tags, so a scrubbed line still decodes as its type. Texts and values that arrive in
chunks are scrubbed by ``core/text/stream.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

REPLACEMENT: Final = "[scrubbed]"
# Fields whose values name a variant of a union. A secret that is a substring of one must not make lines
# unreadable.
_TAGS: Final = frozenset(("type", "kind", "role"))
# Fields with JSON of models, providers and clients, in which these names are names like any other.
_FREE_FORM: Final = frozenset(
    ("arguments", "evidence", "fields", "metadata", "reply_targets", "updated_input", "value")
)


class Scrubber:
    """A replacer of a fixed set of secrets; immutable, so another set takes another scrubber."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # Longest first: a secret that contains another is replaced whole.
        self.secrets: Final = sorted(set(secrets), key=lambda secret: (-len(secret), secret))
        self._needles: Final = [msgspec.json.encode(secret)[1:-1] for secret in self.secrets]
        # The JSON spellings that differ from the secrets: a log line may contain JSON.
        self._json_spellings: Final = [
            spelling
            for secret, needle in zip(self.secrets, self._needles, strict=True)
            if (spelling := needle.decode()) != secret
        ]
        self._spellings: Final = (*self.secrets, *self._json_spellings)

    def __bool__(self) -> bool:
        return bool(self.secrets)

    def with_more(self, secrets: Iterable[str]) -> Scrubber:
        """Return a scrubber of these secrets too: a secret from before a reload stays a secret."""
        return Scrubber([*self.secrets, *secrets])

    def scrub_text(self, text: str) -> str:
        """Replace the secrets in a text."""
        for secret in self.secrets:
            text = text.replace(secret, REPLACEMENT)
        return text

    def scrub_bytes(self, content: bytes) -> bytes:
        """Replace the secrets in bytes, such as a file's content, of any encoding."""
        for secret in self.secrets:
            content = content.replace(secret.encode(), REPLACEMENT.encode())
        return content

    def scrub_log_line(self, line: str) -> str:
        """Replace the secrets in a log line, spelled plainly or as in JSON."""
        for spelling in self._json_spellings:
            line = line.replace(spelling, REPLACEMENT)
        return self.scrub_text(line)

    def scrub_journal_line(self, line: bytes) -> bytes:
        """Replace the secrets in a JSON object; the same bytes object if it has none."""
        for needle in self._needles:
            if needle in line:
                return msgspec.json.encode(
                    self._scrub_fields(msgspec.json.decode(line), top=True, free_form=False)
                )
        return line

    def find_spans(self, text: str) -> list[tuple[int, int]]:
        """Return where secrets are in a text, spelled plainly or as in JSON: ordered, without overlaps."""
        spans: list[tuple[int, int]] = []
        for spelling in self._spellings:
            start = text.find(spelling)
            while start >= 0:
                end = start + len(spelling)
                if all(end <= span_start or start >= span_end for span_start, span_end in spans):
                    spans.append((start, end))
                start = text.find(spelling, start + 1)
        return sorted(spans)

    def safe_length(self, text: str, unsafe: int = 0) -> int:
        """Return the length of the prefix that can be scrubbed before more text arrives.

        The prefix cuts no secret, whether complete or only begun. The first ``unsafe`` characters were unsafe
        before: a secret that reaches into them includes all of them.
        """
        cut = min((_find_beginning(text, spelling) for spelling in self._spellings), default=len(text))
        while (moved := min((_find_cut_secret(text, s, cut) for s in self._spellings), default=cut)) < cut:
            cut = moved if moved >= unsafe else 0
        return cut

    def _scrub_fields(self, table: dict[str, Any], *, top: bool, free_form: bool) -> dict[str, Any]:
        return {
            (key if top else self.scrub_text(key)): value
            if key in _TAGS and not free_form
            else self._scrub_value(value, free_form=free_form or key in _FREE_FORM)
            for key, value in table.items()
        }

    def _scrub_value(self, value: Any, *, free_form: bool) -> Any:
        match value:
            case str():
                return self.scrub_text(value)
            case list():
                return [self._scrub_value(element, free_form=free_form) for element in value]
            case dict():
                return self._scrub_fields(value, top=False, free_form=free_form)
            case _:
                return value


def replace_spans(text: str, spans: Iterable[tuple[int, int]], start: int, end: int) -> str:
    """Return ``text[start:end]``, with each span that begins in it replaced.

    The rest of a span that begins earlier is removed: consecutive parts join to the scrubbed text.
    """
    parts: list[str] = []
    for span_start, span_end in spans:
        if span_end <= start or span_start >= end:
            continue
        if span_start >= start:
            parts += [text[start:span_start], REPLACEMENT]
        start = min(span_end, end)
    return "".join([*parts, text[start:end]])


def _find_beginning(text: str, secret: str) -> int:
    """Return the position from which the text's end is the beginning of a secret, or the text's length."""
    position = text.find(secret[0], max(len(text) - len(secret) + 1, 0))
    while position >= 0 and not secret.startswith(text[position:]):
        position = text.find(secret[0], position + 1)
    return len(text) if position < 0 else position


def _find_cut_secret(text: str, secret: str, cut: int) -> int:
    """Return the position of a secret that the cut would divide, or the cut itself."""
    position = text.find(secret, max(cut - len(secret) + 1, 0), cut + len(secret) - 1)
    return position if 0 <= position < cut else cut
