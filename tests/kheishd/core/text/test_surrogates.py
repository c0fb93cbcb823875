"""Halves of surrogate pairs: joined where both are there, replaced where one is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.text.surrogates import join_surrogates, split_first_half


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("plain ü", "plain ü"),
        ("\ud83d\ude00", "😀"),
        ("a\ud83db", "a\ufffdb"),
        ("a\ud83d", "a\ufffd"),
        ("\ude00a", "\ufffda"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
        ("😀", "😀"),
    ],
)
def test_join_surrogates(text: str, joined: str) -> None:
    """A pair is one character, and a single half is U+FFFD."""
    assert join_surrogates(text) == joined


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_every_text_becomes_valid(text: str) -> None:
    """Any text can be encoded afterwards, and a valid text is unchanged."""
    joined = join_surrogates(text)
    assert joined.encode().decode() == joined
    assert join_surrogates(joined) == joined


def test_split_first_half() -> None:
    """Only a first half at the end is split off."""
    assert split_first_half("a\ud83d") == ("a", "\ud83d")
    assert split_first_half("a\ude00") == ("a\ude00", "")
    assert split_first_half("a") == ("a", "")
    assert split_first_half("") == ("", "")
