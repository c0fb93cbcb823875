"""Tests of the names of look-alikes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.lookalikes import name_lookalikes


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("r\u043e\u043et", "r⟨CYRILLIC SMALL LETTER O⟩⟨CYRILLIC SMALL LETTER O⟩t"),
        ("\u0441\u0440", "⟨CYRILLIC SMALL LETTER ES⟩⟨CYRILLIC SMALL LETTER ER⟩"),
        ("\u03bfs", "⟨GREEK SMALL LETTER OMICRON⟩s"),
        ("\uff52m", "⟨FULLWIDTH LATIN SMALL LETTER R⟩m"),
        ("\U0001d5ce1", "⟨MATHEMATICAL SANS-SERIF SMALL U⟩1"),
        ("a\u2160", "a⟨ROMAN NUMERAL ONE⟩"),
    ],
    ids=["mixed", "whole", "greek", "wide", "font", "roman"],
)
def test_letters(text: str, shown: str) -> None:
    """A letter that passes for one of ASCII is shown by name, in code and in prose."""
    assert name_lookalikes(text) == shown
    assert name_lookalikes(text, prose=True) == shown


@pytest.mark.parametrize(
    "text",
    [
        "plain; ascii | text",
        "naïve Füße façade größe 10 m² ½ №",
        "\u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440",
        "漢字 ひらがな fooテスト",
        "👩‍👩‍👧 π β",
    ],
)
def test_words_of_other_scripts(text: str) -> None:
    """Words of other scripts, accents and emoji are left alone."""
    assert name_lookalikes(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ls \u2013la", "ls ⟨EN DASH⟩la"),
        (
            "echo \u201cok; rm x\u201d",
            "echo ⟨LEFT DOUBLE QUOTATION MARK⟩ok; rm x⟨RIGHT DOUBLE QUOTATION MARK⟩",
        ),
        ("a\uff1b b", "a⟨FULLWIDTH SEMICOLON⟩ b"),
        ("a\u037e b", "a⟨GREEK QUESTION MARK⟩ b"),
        ("\u2215etc", "⟨DIVISION SLASH⟩etc"),
    ],
)
def test_signs(text: str, shown: str) -> None:
    """A sign that passes for one of ASCII is shown by name in code, and is usual in prose."""
    assert name_lookalikes(text) == shown
    assert name_lookalikes(text, prose=True) == text


@given(st.text())
def test_nothing_is_lost(text: str) -> None:
    """ASCII characters stay, in order, and a second pass changes nothing."""
    shown = name_lookalikes(text)
    assert name_lookalikes(shown) == shown
    kept = iter(shown)
    assert all(character in kept for character in text if character.isascii())
