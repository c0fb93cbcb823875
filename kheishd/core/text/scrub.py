"""Scrub known secrets from everything that is journaled, logged or sent to a client.

A secret is found in the spellings of ``spellings.py``. Journal lines are scrubbed by structure: secrets
are replaced inside values, never in field names, constants of the protocol or ids that the daemon made, so a
scrubbed line still decodes as its type. Texts and values that arrive in chunks are scrubbed by
``core/text/stream.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from kheishd.core.text.spellings import MIN_SECRET_CHARACTERS, Spellings
from protocol.ids import ID_SHAPED
from protocol.text import ELLIPSIS, truncate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

REPLACEMENT: Final = "[scrubbed]"
MAX_PART_CHARACTERS: Final = 510
# Fields with JSON of models, providers and clients, in which these names are names like any other.
_FREE_FORM: Final = frozenset(
    ("arguments", "evidence", "fields", "metadata", "reply_targets", "updated_input", "value")
)


class Scrubber:
    """A replacer of a fixed set of secrets; immutable, so another set takes another scrubber.

    The preparation of secrets that ``known`` has, too, is not repeated.
    """

    def __init__(self, secrets: Iterable[str] = (), known: Scrubber | None = None) -> None:
        # Longest first: a secret that contains another is replaced whole.
        self.secrets: Final = sorted(set(secrets), key=lambda secret: (-len(secret), secret))
        parts = (part for secret in self.secrets for part in _split(secret))
        self._spellings: Final[Spellings] = Spellings(parts, None if known is None else known._spellings)

    def __bool__(self) -> bool:
        return bool(self.secrets)

    def scrub_text(self, text: str) -> str:
        """Replace the secrets in a text, in all their spellings."""
        spans = self.find_spans(text)
        return replace_spans(text, spans, 0, len(text)) if spans else text

    def may_occur(self, content: bytes) -> bool:
        """Whether a secret may be in bytes: most likely it is."""
        return bool(self.secrets) and self._spellings.occur_in(content)

    def scrub_bytes(self, content: bytes) -> bytes:
        """Replace the secrets in bytes, such as a file's content, of any encoding."""
        parts: list[bytes] = []
        start = 0
        for first, end in self._spellings.find_spans(content) if self.secrets else ():
            parts += [content[start:first], REPLACEMENT.encode()]
            start = end
        return b"".join([*parts, content[start:]]) if parts else content

    def scrub_cut(self, content: bytes) -> bytes:
        """Replace the secrets in the beginning of a longer text, whose last one the cut may have split.

        What may be the beginning of a secret is left out at the end: nothing would recognize it later.
        """
        if not self.secrets or not content:
            return content
        cut = self._spellings.find_beginning(content)
        for start, end in reversed(self._spellings.find_spans(content)):
            if start < cut < end:
                cut = start
        return self.scrub_bytes(content[:cut])

    def scrub_journal_line(self, line: bytes) -> bytes:
        """Replace the secrets in a JSON object; the same bytes object if it has none."""
        if not self.may_occur(line):
            return line
        table = msgspec.json.decode(line)
        scrubbed = self._scrub_fields(table, top=True, free_form=False)
        return line if scrubbed == table else msgspec.json.encode(scrubbed)

    def find_spans(self, text: str) -> list[tuple[int, int]]:
        """Return where secrets are in a text, in any spelling: ordered, without overlaps."""
        if not self.secrets or not text:
            return []
        content = text.encode(errors="surrogatepass")
        spans = self._spellings.find_spans(content)
        if len(content) == len(text) or not spans:
            return spans
        # The position of a character follows from the bytes before it.
        positions: list[tuple[int, int]] = []
        character = byte = 0
        for span in spans:
            places: list[int] = []
            for end in span:
                character += len(content[byte:end].decode(errors="surrogatepass"))
                byte = end
                places.append(character)
            positions.append((places[0], places[1]))
        return positions

    def safe_length(self, text: str, unsafe: int = 0) -> int:
        """Return the length of the prefix that can be scrubbed before more text arrives.

        The prefix cuts no secret, whether complete or only begun. The first ``unsafe`` characters were unsafe
        before: a secret that reaches into them includes all of them.
        """
        if not self.secrets or not text:
            return len(text)
        content = text.encode(errors="surrogatepass")
        cut = self._spellings.find_beginning(content)
        if len(content) != len(text):
            cut = len(content[:cut].decode(errors="surrogatepass"))
        spans = self.find_spans(text)
        for start, end in reversed(spans):
            if start < cut < end:
                cut = start if start >= unsafe else 0
        if spans and len(text) - cut > self._spellings.max_held_characters:
            # Secrets that overlap each other without an end: their text must not be held for ever.
            cut = max(cut, spans[-1][1])
        return cut

    def _scrub_fields(self, table: dict[str, Any], *, top: bool, free_form: bool) -> dict[str, Any]:
        scrubbed = {}
        for key, value in table.items():
            name = key if top or (not free_form and _is_own_word(key)) else self.scrub_text(key)
            is_own = (
                not free_form
                and isinstance(value, str)
                and (_is_own_word(value) or (key.endswith("_id") and ID_SHAPED.fullmatch(value)))
            )
            is_free = free_form or key in _FREE_FORM
            scrubbed[name] = value if is_own else self._scrub_value(value, free_form=is_free)
        return scrubbed

    def _scrub_value(self, value: Any, *, free_form: bool) -> Any:
        match value:
            case str():
                return self.scrub_text(value)
            case list():
                return [self._scrub_value(element, free_form=free_form) for element in value]
            case dict():
                return self._scrub_fields(value, top=False, free_form=free_form)
            case int() | float() if free_form and not isinstance(value, bool):
                text = str(value)
                scrubbed = self.scrub_text(text)
                return value if scrubbed == text else scrubbed
            case _:
                return value


def _is_own_word(text: str) -> bool:
    """Whether a text is a word of the daemon's own, which is no secret."""
    # Imported where a secret was found, because that needs the types of all answers.
    from kheishd.core.text.vocabulary import list_words

    return text in list_words()


def _split(secret: str) -> Iterator[str]:
    """Yield the parts by which a secret is found.

    A stream holds back what may be the beginning of a part: of a long secret as a whole it would hold back a
    page. The length of a part is a multiple of three, as that of base64's groups.
    """
    end = max(len(secret) - MIN_SECRET_CHARACTERS, 1)
    starts = range(0, end, MAX_PART_CHARACTERS)
    for start in starts:
        yield secret[start:] if start == starts[-1] else secret[start : start + MAX_PART_CHARACTERS]


def cut_text(text: str, max_bytes: int, scrub_cut: Callable[[bytes], bytes], ellipsis: str = ELLIPSIS) -> str:
    """Return a text from outside within ``max_bytes``; if it is cut, no part of a secret is left at its end.

    Every cut of such a text goes through this function. A text that fits is redacted where it is stored or
    sent. ``scrub_cut`` is that of the current scrubber.
    """
    head = truncate(text, max_bytes, ellipsis)
    if head is text:
        return text
    content = scrub_cut(head.removesuffix(ellipsis).encode(errors="replace"))
    # A mark may be longer than its secret.
    return truncate(content.decode(errors="ignore"), max_bytes - len(ellipsis.encode()), "") + ellipsis


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
