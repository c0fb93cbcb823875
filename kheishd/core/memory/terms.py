"""Terms: the words of a text as an index holds them, and excerpts around words. Pure.

Case and width of letters do not count. Scripts without spaces between words become pairs of neighbouring
characters, and single ones, so that every part of a sentence can be found. A few of the most common English
words, and single letters, are no terms.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, deque
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from protocol.lazy import lazy_pattern
from protocol.limits.memory import MAX_SEARCHED_CHARACTERS, MAX_SNIPPET_CHARACTERS, MAX_TERM_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# Letters and digits of every script, with the marks that belong to letters: those of Indic scripts, of Hebrew
# and of Arabic are no word characters to the regular expressions.
_WORD: Final = lazy_pattern(
    r"(?:[^\W_]|[\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0971-\u109f])+"
)

# Thai, Lao, Myanmar, Khmer, kana, Han, Hangul: scripts that do not, or not only, divide words by spaces.
_UNSPACED: Final = lazy_pattern(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\U00020000-\U0003ffff]+"
)

# A text is normalized in pieces, which end before a space if there is one: the time for a sequence of
# combining marks is the square of its length.
_PIECE: Final = lazy_pattern(r"(?s).{1,256}(?!\S)|.{1,256}")

STOP_WORDS: Final = frozenset(
    "an and are as at be been but by can did do does for from had has have he her his how if in into is it "
    "its me my no not of on or our she so than that the their them then there these they this to was we were "
    "what when where which who will with would you your".split()
)


def fold(text: str, max_characters: int | None = None) -> str:
    """Return a text without differences of case and width.

    Args:   ``max_characters`` limits the text and the result, which may be 18 times as long.
    """
    text = text[:max_characters]
    if text.isascii():
        return text.lower()
    pieces: list[str] = []
    length = 0
    for piece in _PIECE.finditer(text):
        normalized = unicodedata.normalize("NFKC", piece[0]).casefold()
        pieces.append(unicodedata.normalize("NFKC", normalized))
        length += len(pieces[-1])
        if max_characters is not None and length >= max_characters:
            break
    return "".join(pieces)[:max_characters]


def fold_name(name: str) -> str:
    """Return a name as names are compared: also without differences of spaces."""
    return " ".join(fold(name).split())


def find_terms(text: str, max_characters: int | None = None) -> list[str]:
    """Return the terms of a text, in their order, each as often as it occurs.

    Args:   ``max_characters`` limits the text, folded and not.
    """
    return split_terms(fold(text, max_characters))


def split_terms(folded: str) -> list[str]:
    """Return the terms of a text that is folded already."""
    words = _WORD.findall(folded)
    if folded.isascii():
        return [word[:MAX_TERM_CHARACTERS] for word in words if len(word) > 1 and word not in STOP_WORDS]
    return [term for word in words for term in _split_word(word)]


def _split_word(word: str) -> Iterable[str]:
    """Yield the terms of a word that may be of several scripts."""
    end = 0
    for run in _UNSPACED.finditer(word):
        yield from _take_word(word[end : run.start()])
        end = run.end()
        characters = run[0]
        yield from characters
        yield from map("".join, pairwise(characters))
    yield from _take_word(word[end:])


def _take_word(word: str) -> Iterable[str]:
    if len(word) > 1 and word not in STOP_WORDS:
        yield word[:MAX_TERM_CHARACTERS]


def count_terms(texts: Iterable[str]) -> Counter[str]:
    """Return the terms of some texts with their numbers."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(find_terms(text))
    return counts


def choose_query_terms(query: str, max_terms: int) -> list[str]:
    """Return the terms to search for: each once, without characters that are parts of pairs.

    The longest ones, if there are too many: long words are rare.
    """
    terms = list(dict.fromkeys(find_terms(query)))
    parts = {character for term in terms if len(term) == 2 and _UNSPACED.match(term) for character in term}
    terms = [term for term in terms if term not in parts]
    return sorted(terms, key=len, reverse=True)[:max_terms] if len(terms) > max_terms else terms


def make_snippet(text: str, terms: Collection[str]) -> str:
    """Return an excerpt of a text, in one line, where the most of the terms stand close together.

    The first place with all of them will do. Only ``MAX_SEARCHED_CHARACTERS`` of the text are looked at.
    """
    if len(text) <= MAX_SNIPPET_CHARACTERS:
        return " ".join(text.split())
    wanted = frozenset(terms)
    # The matches of the last few words, and the number of each term in them.
    window: deque[tuple[int, str]] = deque()
    counts: Counter[str] = Counter()
    best, best_start, room = 0, 0, MAX_SEARCHED_CHARACTERS
    for word in _WORD.finditer(text, 0, MAX_SEARCHED_CHARACTERS):
        folded = fold(word[0], room)
        room -= len(folded)
        for term in wanted.intersection(split_terms(folded)):
            window.append((word.start(), term))
            counts[term] += 1
        while window and word.start() - window[0][0] > MAX_SNIPPET_CHARACTERS * 3 // 4:
            _, term = window.popleft()
            counts[term] -= 1
            if not counts[term]:
                del counts[term]
        if len(counts) > best:
            best, best_start = len(counts), window[0][0]
        if best == len(wanted) or room <= 0:
            break
    start = max(0, min(best_start - MAX_SNIPPET_CHARACTERS // 8, len(text) - MAX_SNIPPET_CHARACTERS))
    if start:
        # Begin at a word, if one begins soon.
        space = re.compile(r"\s").search(text, start, min(start + 32, len(text)))
        start = space.end() if space is not None else start
    end = start + MAX_SNIPPET_CHARACTERS
    excerpt = " ".join(text[start:end].split())
    return f"{'… ' if start else ''}{excerpt}{' …' if end < len(text) else ''}"
