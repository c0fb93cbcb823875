"""Escaping and truncation: nothing active is shown, and nothing is cut inside a character."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.text import (
    escape,
    escape_json,
    escape_line,
    fold_text,
    json_length,
    one_line,
    reveal,
    reveal_line,
    sanitize,
    truncate,
    truncate_json,
)

ACTIVE = "\x00\x07\x1b\x7f\x9b\u061c\u200b\u200e\u2028\u202e\u2066\ufeff\ufff9\U000e0041"
PRINTABLE = "plain ünïcödé 漢字 👩‍👩‍👧\ttab"

ANY_TEXT = st.text(st.characters(exclude_categories=[]))


@pytest.mark.parametrize("character", ACTIVE)
def test_active_characters_are_replaced(character: str) -> None:
    """No function returns an active character unescaped."""
    for text in (escape(character), escape_line(character), sanitize(character), one_line(f"a{character}b")):
        assert character not in text
    assert "\x1b" not in escape_json(json.dumps(character, ensure_ascii=False))
    assert json.loads(escape_json(json.dumps(character, ensure_ascii=False))) == character


@pytest.mark.parametrize("function", [escape, sanitize, escape_json])
def test_printable_text_is_unchanged(function: object) -> None:
    """Letters, emoji with joiners, tabs and newlines stay."""
    assert callable(function)
    assert function(PRINTABLE + "\n") == PRINTABLE + "\n"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("\x1b[2J", "\\x1b[2J"), ("\u202e", "\\u202e"), ("\U000e0041", "\\U000e0041"), ("a\nb", "a\nb")],
)
def test_escapes_name_the_character(text: str, escaped: str) -> None:
    """An escape is the character's number in hex."""
    assert escape(text) == escaped


def test_a_line_has_no_newline() -> None:
    """escape_line writes a newline as an escape, one_line as a blank."""
    assert escape_line("a\nb") == "a\\nb"
    assert one_line("  a\n\n b\r\n") == "a b"


def test_symbols() -> None:
    """A control character has its Unicode symbol; a carriage return is removed."""
    assert sanitize("\x1b[31mred\r\n") == "␛[31mred\n"
    assert sanitize("\u202e") == "\N{REPLACEMENT CHARACTER}"


@given(st.lists(st.text(max_size=8), max_size=6))
def test_pieces_are_sanitized_like_the_whole(pieces: list[str]) -> None:
    """Sanitizing piece by piece gives the sanitized text."""
    assert "".join(map(sanitize, pieces)) == sanitize("".join(pieces))


@given(st.text(), st.integers(3, 40))
def test_truncated_text_fits_and_says_so(text: str, max_bytes: int) -> None:
    """A text that fits is unchanged; another one fits with its ellipsis and is a prefix."""
    short = truncate(text, max_bytes)
    assert len(short.encode()) <= max_bytes
    if short != text:
        assert short.endswith("…")
        assert text.startswith(short[:-1])


def test_without_an_ellipsis() -> None:
    """An empty ellipsis leaves the bare prefix."""
    assert truncate("äöü", 3, "") == "ä"
    assert truncate("äöü", 6, "") == "äöü"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 40))
def test_truncated_json_fits_and_is_the_longest(text: str, max_json_bytes: int) -> None:
    """The prefix fits, and one more character would not; lengths are those that msgspec writes."""
    short = truncate_json(text, max_json_bytes)
    assert text.startswith(short)
    assert json_length(short) == len(msgspec.json.encode(short)) - 2 <= max_json_bytes
    if short != text:
        assert json_length(text[: len(short) + 1]) > max_json_bytes


@given(ANY_TEXT)
def test_sanitized_text_holds_no_active_character(text: str) -> None:
    """Sanitized text holds no control except tab and newline, no reordering mark and no surrogate."""
    for character in sanitize(text):
        assert character in "\t\n" or (ord(character) >= 0x20 and not 0x7F <= ord(character) < 0xA0)
        assert character not in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    sanitize(text).encode()


@pytest.mark.parametrize("hidden", ["\u200b", "\xad", "\u2060", "\ufeff", "\U000e0001", "\U000e0041"])
def test_invisible_characters_become_visible(hidden: str) -> None:
    """Invisible characters are replaced by a symbol, except joiners, which scripts need."""
    assert sanitize(f"rm{hidden} -rf") == "rm\N{REPLACEMENT CHARACTER} -rf"
    safe = escape_json(json.dumps(hidden, ensure_ascii=False))
    assert (safe.isascii(), json.loads(safe)) == (True, hidden)
    assert sanitize("\u0646\u200c\u0645 👩\u200d🔧") == "\u0646\u200c\u0645 👩\u200d🔧"


def test_folded_texts_are_compared_without_case_and_blanks() -> None:
    """Names and titles that people take for the same are the same."""
    assert fold_text("  Big\tHAWK ") == fold_text("big hawk")
    assert fold_text("Straße") == fold_text("STRASSE")
    assert fold_text("bighawk") != fold_text("big hawk")


def test_one_line() -> None:
    """White space, newlines included, becomes a single blank."""
    assert one_line(" a\n\tb\r\nc ") == "a b c"


@given(ANY_TEXT)
def test_escaped_json_decodes_to_the_same_text(text: str) -> None:
    """An escaped document decodes to the same text and holds no active character."""
    safe = escape_json(json.dumps(text, ensure_ascii=False))
    assert json.loads(safe) == text
    assert sanitize(safe) == safe


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat notes\u3164; rm x", "cat notes⟨HANGUL FILLER⟩; rm x"),
        ("ls\rrm x", "ls⟨CARRIAGE RETURN⟩rm x"),
        ("a\x1b[2Jb\x00", "a⟨ESCAPE⟩[2Jb⟨NULL⟩"),
        ("a\x01", "a⟨U+0001⟩"),
        ("a\xa0b\u2800c\u200bd", "a⟨NO-BREAK SPACE⟩b⟨BRAILLE PATTERN BLANK⟩c⟨ZERO WIDTH SPACE⟩d"),
        ("rm\u200d x\ufe0f", "rm⟨ZERO WIDTH JOINER⟩ x⟨VARIATION SELECTOR-16⟩"),
        ("\u202e", "⟨RIGHT-TO-LEFT OVERRIDE⟩"),
        (
            "👩\u200d💻 ❤\ufe0f \u0645\u06cc\u200c\u062e\u3000x\ttab",
            "👩\u200d💻 ❤\ufe0f \u0645\u06cc\u200c\u062e\u3000x\ttab",
        ),
        ("two\nlines", "two\nlines"),
    ],
)
def test_hidden_characters_are_revealed_by_name(text: str, shown: str) -> None:
    """A person who approves sees each character; joiners keep their effect on letters and emoji."""
    assert reveal(text) == shown
    assert reveal_line(text) == shown.replace("\n", "⟨LINE FEED⟩")
