"""Characters that look like ASCII characters, shown by name, for text that a person is to approve.

A word of another script is a word: it is left alone. Its letters are named where they pass for ASCII, which
is in a word that mixes them with ASCII letters, and in a word that consists of nothing else. Punctuation is
named in code only, where it decides what a program does: prose may have dashes and quotation marks.

The letters are those of the Unicode table of confusable characters (UTS 39) that common fonts draw like an
ASCII letter or digit. Standard library only.
"""

import re
import unicodedata
from typing import Final

_LATIN: Final = "\u0251\u0261\u0269\u01bd\u01c0\u01c3"
_GREEK: Final = (
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03b1\u03b9\u03bd"
    "\u03bf\u03c1\u03c5\u03f2\u03f3\u03f9"
)
_CYRILLIC: Final = (
    "\u0410\u0412\u0415\u0417\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0405\u0406\u0408\u04c0"
    "\u0430\u0433\u0435\u043e\u0440\u0441\u0443\u0445\u0455\u0456\u0458\u0475\u04af\u04bb\u04cf\u0501\u051b"
    "\u051d\u050c\u051a\u051c\u04ae"
)
_ARMENIAN: Final = "\u054d\u0555\u053c\u054f\u0570\u0578\u057d\u0581\u0566\u0561\u0585"
_CHEROKEE: Final = (
    "\u13a0\u13a1\u13a2\u13a5\u13aa\u13ab\u13ac\u13b3\u13b7\u13bb\u13bd\u13c0\u13c3\u13ce\u13cf\u13d2\u13d4"
    "\u13d5\u13d9\u13da\u13de\u13df\u13e2\u13e6\u13f4"
)
_LETTERS: Final = frozenset(_LATIN + _GREEK + _CYRILLIC + _ARMENIAN + _CHEROKEE)

# Variants of ASCII characters: full width, mathematical alphabets, Roman numerals.
_VARIANTS: Final = ("<wide>", "<narrow>", "<font>", "<small>", "<compat>")

# Signs that look like a semicolon, bar, slash, dash, quotation mark, asterisk, angle, tilde or dot.
_SIGNS: Final = re.compile(
    "[\u037e\u204f\u2223\u05c0\u2758\u2215\u2044\u29f8\u2571\u27cb\u2010-\u2015\u2212\u2043\u02d7\ufe58"
    "\u2018-\u201f\u2032\u2033\u2035\u02b9\u02bc\u02cb\u02ca\u00b4\u2217\u204e\u2039\u203a\u02c2\u02c3\u02dc"
    "\u223c\u2053\u2024\u2216\u29f5\u29f9\ufe54\ufe60-\ufe62\ufe64-\ufe66\ufe68\ufe69"
    "\uff01-\uff0b\uff0d-\uff0f\uff1b-\uff20\uff3b-\uff40\uff5b-\uff5e]"
)
_WORD: Final = re.compile(r"[^\W_]+")


def name_lookalikes(text: str, *, prose: bool = False) -> str:
    """Replace look-alikes of ASCII characters by their names; in ``prose``, those of letters only."""
    if text.isascii():
        return text
    named = _WORD.sub(lambda match: _name_letters(match.group()), text)
    return named if prose else _SIGNS.sub(lambda match: _name(match.group()), named)


def _name_letters(word: str) -> str:
    if word.isascii():
        return word
    foreign = [letter for letter in word if not letter.isascii()]
    passing = {letter for letter in foreign if _passes(letter)}
    is_mixed = any(letter.isascii() and letter.isalpha() for letter in word)
    if not passing or not (is_mixed or all(letter in passing for letter in foreign)):
        return word
    return "".join(_name(letter) if letter in passing else letter for letter in word)


def _passes(letter: str) -> bool:
    """Whether a letter or digit looks like one of ASCII."""
    if letter in _LETTERS:
        return True
    kind, _, code = unicodedata.decomposition(letter).partition(" ")
    return kind in _VARIANTS and unicodedata.normalize("NFKC", letter).isascii() and " " not in code


def _name(character: str) -> str:
    return f"⟨{unicodedata.name(character, f'U+{ord(character):04X}')}⟩"
