r"""The spellings in which a secret may occur in a text, and where they are.

A secret is found as it is, with JSON escapes of any depth (``\"``, ``\/``, ``\u0041``), with ``\x41``, with
percent signs (``%41``, ``%2541``, ``+``), with HTML entities, in hexadecimal digits and in base64 at any of
its three alignments and in both alphabets. In all of these, it may be split by line breaks and the
indentation after them.

It is also found with ``\101``, ``\u{41}`` and ``\U00000041``, with colour codes of a terminal inside, in
lines with a prefix (``> ``, ``+``, ``- ``, ``| ``, ``# ``), and in base32 unless that is split into chunks.
A secret that has a backslash itself may be missed where such a spelling breaks or escapes it a second time.

A text is reduced to its letters and digits, in lower case, and the reduced spellings are searched in that:
one fast pass, which misses none. Only where one is found, the text is normalized step by step with the place
of each byte. So the time is linear in the length of the text. Pure.
"""

from __future__ import annotations

import sys
from base64 import b32encode, b64encode
from bisect import bisect_right
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

from msgspec import json

from protocol.lazy import lazy_pattern
from protocol.structs import Value

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Iterator

MIN_SECRET_CHARACTERS: Final = 8
"""A shorter secret would vanish from ordinary text everywhere, and its spellings would, too."""

# A line break as it is, or as JSON escapes it, with the "=" of a soft break and the indentation after it.
_FOLD: Final = lazy_pattern(rb"=?(?:\r?\n[ \t]*|(?:\\+r)?\\+n(?:[ \t]|\\+t)*)+")
_ESCAPE: Final = lazy_pattern(
    # Each alternative begins with a literal, by which the search is fast.
    rb"\\\\*u([0-9A-Fa-f]{4})|\\\\*x([0-9A-Fa-f]{2})|%(?:25)*([0-9A-Fa-f]{2})"
    rb"|&(#[0-9]{1,4}|#[xX][0-9A-Fa-f]{1,4}|quot|amp|lt|gt|apos);"
)
# Less usual spellings are searched in a text of their own: parts of them are ordinary text in others.
_RARE_ESCAPE: Final = lazy_pattern(
    rb"\\{1,8}(?:u\{0*([0-9A-Fa-f]{1,6})\}|U([0-9A-Fa-f]{8}))|\\{1,8}([0-3][0-7]{2})(?!\[)|&#0*([0-9]{1,7});"
    rb"|(?:\x1b|\\{1,8}(?:u001[bB]|x1[bB]|033))\[[0-9;:?]*[A-Za-z]"
)
# A line break with the blanks around it, and with no sign, one or several of a prefix after it: a sign may
# also belong to the secret.
_RARE_FOLDS: Final = tuple(
    lazy_pattern(
        rb"(?:[ \t]{0,8}(?:\r?\n|(?:\\{1,8}r)?\\{1,8}n)(?:[ \t]|\\{1,8}t)*%b)+|[ \t]{1,8}\Z" % prefix
    )
    for prefix in (b"", rb"(?:[>|#+-](?:[ \t]|\\{1,8}t)*)?", rb"(?:[ \t>|#+-]|\\{1,8}t)*")
)
_ROWS: Final = 4 + len(_RARE_FOLDS)
_ENTITIES: Final = {b"quot": b'"', b"amp": b"&", b"lt": b"<", b"gt": b">", b"apos": b"'"}
# The end of a text that may be the beginning of an escape or of a line break.
_BEGINNING: Final = lazy_pattern(
    rb"(?:=?\\+r\\*|=?\\+(?:u[0-9A-Fa-f]{0,3}|x[0-9A-Fa-f]?)?|%(?:25)*2?[0-9A-Fa-f]?"
    rb"|\\+(?:u\{[0-9A-Fa-f]{0,8}|U[0-9A-Fa-f]{0,7}|[0-3][0-7]?)"
    rb"|(?:\x1b|\\+u001[bB]|\\+x1[bB]|\\+033)(?:\[[0-9;:?]{0,32})?"
    rb"|&(?:#[xX]?[0-9A-Fa-f]{0,10}|[a-z]{0,4})?|=\r?|\r)\Z"
)
_MAX_BEGINNING_BYTES: Final = 64

_SPACE: Final = b" \t\r\n\\"
_SIGNS: Final = _SPACE + b"=+:-,_/\b\f>|#"
_HEX_SIGNS: Final = _SPACE + b":-,"
# A part of a secret, by which most texts are recognized to hold none.
_PROBE_BYTES: Final = 6
# A slice is compared as a number, and a beginning is found by its end.
_SLICE_BYTES: Final = 8
_END_BYTES: Final = 4

_TO_BLANK: Final = bytes.maketrans(b"+", b" ")
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_TO_LOWER: Final = bytes(range(256)).lower()


class _Text(Value, frozen=True):
    """Bytes, and where each of them begins and ends in the text; None: it is the text itself."""

    content: bytes
    places: list[tuple[int, int]] | None = None

    def locate(self) -> list[tuple[int, int]]:
        """Return the places of the bytes."""
        return self.places or [(position, position + 1) for position in range(len(self.content))]

    def substitute(self, pattern: re.Pattern[bytes], replace: Callable[[re.Match[bytes]], bytes]) -> _Text:
        """Replace the matches of a pattern."""
        if self.places is None:
            return _Text(pattern.sub(replace, self.content))
        pieces: list[bytes] = []
        places: list[tuple[int, int]] = []
        start = 0
        for match in pattern.finditer(self.content):
            replacement = replace(match)
            pieces += [self.content[start : match.start()], replacement]
            places += self.places[start : match.start()]
            whole = (self.places[match.start()][0], self.places[match.end() - 1][1])
            places += [whole] * len(replacement)
            start = match.end()
        return _Text(b"".join([*pieces, self.content[start:]]), [*places, *self.places[start:]])

    def translate(self, table: bytes, delete: bytes) -> _Text:
        """Replace single bytes, and delete some."""
        content = self.content.translate(table, delete)
        if self.places is None:
            return _Text(content)
        pairs = zip(self.content, self.places, strict=True)
        return _Text(content, [place for byte, place in pairs if byte not in delete])


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1] or match[2] or match[3]
    if code is None:
        name = match[4].lower()
        if name in _ENTITIES:
            return _ENTITIES[name]
        number = int(name[2:], 16) if name[1:2] == b"x" else int(name[1:])
        return chr(number).encode(errors="surrogatepass")
    number = int(code, 16)
    return chr(number).encode(errors="surrogatepass") if match[1] else bytes((number,))


def _unescape_rare(match: re.Match[bytes]) -> bytes:
    """Return the character of an escape, and nothing for a code of a terminal."""
    digits, base = match[1] or match[2], 16
    if digits is None:
        digits, base = (match[3], 8) if match[3] else (match[4], 10)
    if digits is None:
        return b""
    number = int(digits, base)
    if base == 8:
        return bytes((number,))
    return chr(number).encode(errors="surrogatepass") if number <= sys.maxunicode else match[0]


def _normalize(text: _Text) -> Iterator[_Text]:
    """Yield a text as it is, without escapes, as base64, as hexadecimal digits, and without rare escapes."""
    yield text
    rare = text.substitute(_RARE_ESCAPE, _unescape_rare)
    text = text.substitute(_FOLD, lambda match: b"").substitute(_ESCAPE, _unescape)
    yield text.translate(_TO_BLANK, b"\\\r\n=")
    yield text.translate(_TO_STANDARD, _SPACE)
    yield text.translate(_TO_LOWER, _HEX_SIGNS)
    for fold in _RARE_FOLDS:
        whole = rare.substitute(fold, lambda match: b"").substitute(_ESCAPE, _unescape)
        yield whole.translate(_TO_BLANK, b"\\\r\n=")


def _normalize_bytes(content: bytes) -> tuple[bytes, ...]:
    """Return what :func:`_normalize` yields, without places."""
    text = content
    if b"\n" in text or b"\\" in text:
        text = _FOLD.sub(b"", text)
    if b"\\" in text or b"%" in text or b"&" in text:
        text = _ESCAPE.sub(_unescape, text)
    rare = _RARE_ESCAPE.sub(_unescape_rare, content)
    folded = {fold.sub(b"", rare): None for fold in _RARE_FOLDS}
    unfolded = [_ESCAPE.sub(_unescape, whole).translate(_TO_BLANK, b"\\\r\n=") for whole in folded]
    return (
        content,
        text.translate(_TO_BLANK, b"\\\r\n="),
        text.translate(_TO_STANDARD, _SPACE),
        text.translate(_TO_LOWER, _HEX_SIGNS),
        *unfolded,
        *unfolded[-1:] * (len(_RARE_FOLDS) - len(unfolded)),
    )


def _reduce(content: bytes) -> bytes:
    """Return a text that contains the reduced form of each spelling that occurs in the content."""
    # A sign may also stand before a secret whose beginning looks like the rest of an escape.
    forms = {content: None}
    has_rare = _RARE_ESCAPE.search(content) if b"\\" in content or b"\x1b" in content else b"&#0" in content
    unbroken = content
    if b"\\" in content:
        unbroken = _unbreak(content)
        forms[unbroken] = None
    # Once, as in the normalization: what it makes may look like an escape.
    if b"%" in content or b"&" in content or b"\\u" in content or b"\\x" in content:
        forms[_ESCAPE.sub(_unescape, unbroken)] = None
    if has_rare:
        rare = _RARE_FOLDS[-1].sub(b"", _RARE_ESCAPE.sub(_unescape_rare, content))
        forms[_ESCAPE.sub(_unescape, rare)] = None
    content = b"\0".join(reversed(forms))
    return content.translate(_TO_LOWER, _SIGNS)


def _unbreak(content: bytes) -> bytes:
    for escape in (b"\\n", b"\\r", b"\\t", b"\\b", b"\\f"):
        content = content.replace(escape, b"")
    return content


class _Beginnings:
    """The beginnings of normalized secrets, in one text that is searched for the end of another."""

    def __init__(self, contents: Iterable[bytes]) -> None:
        self._contents = list(contents)
        self._starts = [0, *accumulate(map(len, self._contents))]
        self._joined = b"".join(self._contents)
        self._short = {
            content[:length]
            for content in self._contents
            for length in range(1, min(_END_BYTES, len(content)))
        }

    def measure(self, text: bytes) -> int:
        """Return the length of the longest beginning of a secret with which a text ends."""
        lengths = range(1, min(_END_BYTES, len(text) + 1))
        longest = max((length for length in lengths if text[-length:] in self._short), default=0)
        end = text[-_END_BYTES:]
        if len(end) < _END_BYTES:
            return longest
        position = self._joined.find(end)
        while position >= 0:
            index = bisect_right(self._starts, position) - 1
            length = position + _END_BYTES - self._starts[index]
            content = self._contents[index]
            if longest < length < len(content) and text.endswith(content[:length]):
                longest = length
            position = self._joined.find(end, position + 1)
        return longest


class _Forms:
    """The normalized spellings of one secret, in the order of the texts that _normalize yields.

    ``held`` are those whose beginnings a stream holds back. ``reduced`` has all of them, each with its place
    in that order and reduced; ``ends`` are the last two bytes of each beginning.
    """

    def __init__(self, secret: str) -> None:
        content = secret.encode(errors="surrogatepass")
        self.bytes = len(content)
        self.held: list[set[bytes]] = [{content}, *(set() for _ in range(1, _ROWS))]
        if len(secret) >= MIN_SECRET_CHARACTERS:
            normalized = _normalize_bytes(content)
            cores = set(_find_base64_cores(content))
            # A secret may look like an escape itself.
            literal = content.translate(_TO_BLANK, b"\\\r\n=")
            self.held[1:4] = [{normalized[1], literal}, cores, {content.hex().encode()}]
            self.held[4:] = [{form, normalized[1], literal} for form in normalized[4:]]
        self.all = [row - {b""} for row in self.held]
        if len(secret) >= MIN_SECRET_CHARACTERS:
            # Of so many letters, some would begin at the end of almost any chunk, so they are not held.
            self.all[3].update(_find_base32_cores(content))
        self.reduced = [
            (index, content, reduced)
            for index, row in enumerate(self.all)
            for content in row
            for reduced in {form.translate(_TO_LOWER, _SIGNS) for form in (content, _unbreak(content))}
        ]
        self.ends = {reduced[:1] for _, _, reduced in self.reduced}
        pairs: set[tuple[int, int]] = set()
        for _, _, reduced in self.reduced:
            pairs.update(pairwise(reduced))
        self.ends.update(map(bytes, pairs))


class Spellings:
    """The spellings of a set of secrets; immutable. Those that ``known`` has are not made again."""

    def __init__(self, secrets: Iterable[str], known: Spellings | None = None) -> None:
        made: dict[str, _Forms] = {} if known is None else known._forms
        self._forms: dict[str, _Forms] = {secret: made.get(secret) or _Forms(secret) for secret in secrets}
        forms = list(self._forms.values())
        self._beginnings = [
            _Beginnings({content for form in forms for content in form.held[row]} - {b""})
            for row in range(_ROWS)
        ]
        self._needles = [
            sorted({content for form in forms for content in form.all[row]}) for row in range(_ROWS)
        ]
        self._ends: set[bytes] = set().union(*(form.ends for form in forms))
        # The first eight slices of each long spelling. A text is cut into slices, too: wherever the spelling
        # begins, one of them is one of those eight. So the search does not depend on the number of secrets.
        self._slices: dict[int, list[bytes]] = {}
        self._probes: list[tuple[bytes, bytes]] = []
        # Spellings of hardly any letters and digits are searched in the normalized text.
        self._short: list[tuple[int, bytes]] = []
        for index, content, reduced in (spelling for form in forms for spelling in form.reduced):
            if len(reduced) < _PROBE_BYTES:
                self._short.append((index, content))
            elif len(reduced) < 2 * _SLICE_BYTES - 1:
                slices = [reduced[start:][:_PROBE_BYTES] for start in range(len(reduced) - _PROBE_BYTES + 1)]
                self._probes.append((min(slices, key=_count_common), reduced))
            else:
                for start in range(_SLICE_BYTES):
                    number = int.from_bytes(reduced[start : start + _SLICE_BYTES], sys.byteorder)
                    self._slices.setdefault(number, []).append(reduced)
        # A line of JSON has these as they are here, whatever stands before them: a backslash before an "n" of
        # the secret, or a secret of signs only, would look like another text once it is reduced.
        encodable = (secret.encode(errors="replace") for secret in self._forms)
        in_json = ((secret, json.encode(secret.decode())[1:-1]) for secret in encodable)
        self._in_json = [escaped for secret, escaped in in_json if escaped != secret]
        longest = max((form.bytes for form in forms), default=0)
        # The longest spelling takes eight characters for each byte, besides some line breaks.
        self._reach = 10 * longest + 256
        self._window = max(64 * 1024, 4 * self._reach)
        self.max_held_characters: Final = 4 * self._reach

    def occur_in(self, content: bytes) -> bool:
        """Whether a secret may occur in a text: most likely it does."""
        text = _reduce(content)
        numbers = memoryview(text)[: len(text) // _SLICE_BYTES * _SLICE_BYTES].cast("Q")
        if not self._slices.keys().isdisjoint(numbers):
            for number in self._slices.keys() & set(numbers):
                if any(reduced in text for reduced in self._slices[number]):
                    return True
        # A loop, because it runs for every piece of text, and a generator costs more than the search.
        for probe, reduced in self._probes:
            if probe in text and reduced in text:
                return True
        if any(escaped in content for escaped in self._in_json):
            return True
        if not self._short:
            return False
        texts = _normalize_bytes(content)
        return any(short in texts[index] for index, short in self._short)

    def find_spans(self, content: bytes) -> list[tuple[int, int]]:
        """Return where secrets are: ordered, and those that overlap as one."""
        spans: set[tuple[int, int]] = set()
        for start in range(0, max(len(content) - self._reach, 1), self._window):
            window = content[start : start + self._window + self._reach]
            if self.occur_in(window):
                for first, end in self._locate(window):
                    spans.add((start + first, start + end))
        merged: list[tuple[int, int]] = []
        for first, end in sorted(spans):
            if merged and first < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((first, end))
        return merged

    def _locate(self, content: bytes) -> Iterator[tuple[int, int]]:
        masked = bytearray(content)
        for needle in self._needles[0]:
            start = content.find(needle)
            while start >= 0:
                end = start + len(needle)
                yield start, end
                masked[start:end] = bytes(end - start)
                start = content.find(needle, start + 1)
        content = bytes(masked)
        if not self.occur_in(content):
            return
        text = _Text(content)
        for normal, needles in zip(_normalize(_Text(content, text.locate())), self._needles, strict=True):
            places = normal.locate()
            for needle in needles:
                start = normal.content.find(needle)
                while start >= 0:
                    yield places[start][0], places[start + len(needle) - 1][1]
                    start = normal.content.find(needle, start + 1)

    def find_beginning(self, content: bytes) -> int:
        """Return the position from which the end of a text may be the beginning of a secret.

        Without such a beginning, that is the length of the text.
        """
        offset = max(len(content) - self._reach, 0)
        tail = content[offset:]
        end = tail[-_MAX_BEGINNING_BYTES:]
        escape = None
        if (
            b"\\" in end
            or b"\x1b" in end
            or b"%" in end
            or b"&" in end
            or end[-2:-1] == b"="
            or end[-1:] in (b"=", b"\r")
        ):
            escape = _BEGINNING.search(tail, max(len(tail) - _MAX_BEGINNING_BYTES, 0))
        elif tail[-1] not in _SIGNS:
            reduced = _reduce(tail[-_MAX_BEGINNING_BYTES:])
            if reduced[-2:] not in self._ends and reduced[-1:] not in self._ends:
                return len(content)
        beginnings = [len(tail)] if escape is None else [escape.start()]
        for end in [tail] if escape is None else [tail, tail[: escape.start()]]:
            located: list[_Text] = []
            texts = zip(_normalize_bytes(end), self._beginnings, strict=True)
            for index, (text, known) in enumerate(texts):
                length = known.measure(text)
                if length:
                    located = located or list(_normalize(_Text(end, _Text(end).locate())))
                    beginnings.append(located[index].locate()[-length][0])
        return offset + min(beginnings)


def _count_common(part: bytes) -> int:
    """Return the number of bytes that are common in ordinary text: a search for others is faster."""
    return sum(byte in b"etaoinshrdlu" for byte in part)


def _find_base64_cores(content: bytes) -> Iterator[bytes]:
    """Yield the part of a secret's base64 that does not depend on the bytes around it, at each alignment."""
    for shift in range(3):
        encoded = b64encode(bytes(shift) + content)
        yield encoded[-(-shift * 8 // 6) : (shift + len(content)) * 8 // 6]


def _find_base32_cores(content: bytes) -> Iterator[bytes]:
    """Yield the part of a secret's base32, in lower case, that does not depend on the bytes around it."""
    for shift in range(5):
        encoded = b32encode(bytes(shift) + content).lower()
        yield encoded[-(-shift * 8 // 5) : (shift + len(content)) * 8 // 5]
