"""Terms: the words of texts in every script, and excerpts around them."""

import sys
import unicodedata
from types import FrameType
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.memory import terms as room
from kheishd.core.memory.terms import (
    STOP_WORDS,
    choose_query_terms,
    count_terms,
    find_terms,
    fold,
    fold_name,
    make_snippet,
)
from protocol.limits.memory import MAX_SEARCHED_CHARACTERS, MAX_SNIPPET_CHARACTERS, MAX_TERM_CHARACTERS


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The cat, the HAT and 42 x", ["cat", "hat", "42"]),
        ("Straße \uff21\uff22\uff23 ﬁnd É", ["strasse", "abc", "find"]),
        ("snake_case e-mail", ["snake", "case", "mail"]),
        ("東京都", ["東", "京", "都", "東京", "京都"]),
        ("v2東京", ["v2", "東", "京", "東京"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("\uff34\uff28\uff25 É", []),
        ("a" * 50, ["a" * MAX_TERM_CHARACTERS]),
        ("", []),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    """Case and width do not count; stop words and single letters are left out; Han is paired."""
    assert find_terms(text) == terms


def test_terms_are_counted() -> None:
    """The number of a term is that of all texts."""
    assert count_terms(["one two", "two"]) == {"one": 1, "two": 2}


@given(st.text())
def test_every_text_has_terms_that_find_it(text: str) -> None:
    """Each term of a query is a term of a text that contains the query, and none is longer than the limit."""
    terms = find_terms(text)
    assert set(choose_query_terms(text, 1_000)) <= set(terms)
    assert all(0 < len(term) <= MAX_TERM_CHARACTERS and term not in STOP_WORDS for term in terms)


def test_terms_of_a_query() -> None:
    """Each is searched once, Han by pairs, and the longest if there are too many."""
    assert choose_query_terms("make Make test", 16) == ["make", "test"]
    assert choose_query_terms("東京都", 16) == ["東京", "京都"]
    assert choose_query_terms("猫", 16) == ["猫"]
    assert choose_query_terms("aa bbbb ccc dd", 2) == ["bbbb", "ccc"]


def test_names_are_compared_without_case_and_spaces() -> None:
    """Two spellings of a name are one name."""
    assert fold_name(" Build  Steps ") == fold_name("\uff22UILD steps") == "build steps"


def test_a_short_text_is_its_own_excerpt() -> None:
    """Line breaks become spaces."""
    assert make_snippet("one\n two", ["two"]) == "one two"


def test_an_excerpt_is_where_the_terms_are() -> None:
    """The excerpt has the place with the most of the terms, and marks what it leaves out."""
    text = f"{'before ' * 100} alpha {'between ' * 100} alpha beta {'after ' * 100}"
    snippet = make_snippet(text, ["alpha", "beta"])
    assert "alpha beta" in snippet
    assert snippet.startswith("… ")
    assert snippet.endswith(" …")
    assert len(snippet) <= MAX_SNIPPET_CHARACTERS + 4
    assert make_snippet(text, ["nothing"]).startswith("before")


def record_words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that receives each folded word that is split into terms."""
    folded: list[str] = []
    split = room.split_terms

    def record(text: str) -> list[str]:
        folded.append(text)
        return split(text)

    monkeypatch.setattr(room, "split_terms", record)
    return folded


@pytest.mark.parametrize("text", ["aa " * 40_000, "\ufdfa" * 40_000, "\ufdfa " * 40_000, "zz " * 40_000])
def test_the_work_for_an_excerpt_is_bounded(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is read up to a length, folded, in a few steps for each word, however often a term occurs."""
    folded = record_words(monkeypatch)
    steps = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal steps
        steps += 1

    sys.setprofile(count)
    try:
        make_snippet(text, ["aa", "\u0635\u0644\u0649", "missing"])
    finally:
        sys.setprofile(None)
    assert sum(map(len, folded)) <= MAX_SEARCHED_CHARACTERS
    assert steps < 2 * MAX_SEARCHED_CHARACTERS * 10


def test_an_excerpt_ends_its_search_at_all_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """No place is better than one with all of the terms."""
    folded = record_words(monkeypatch)
    make_snippet("one aa bb " + "aa bb " * 1_000, ["aa", "bb"])
    assert folded == ["one", "aa", "bb"]


def test_a_text_is_folded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long sequences of combining marks, for which the time grows with the square, are cut; words are not."""
    lengths: list[int] = []
    normalize = unicodedata.normalize

    def count(form: Literal["NFKC"], text: str) -> str:
        lengths.append(len(text))
        return normalize(form, text)

    monkeypatch.setattr(unicodedata, "normalize", count)
    fold("a" + "\u0301\u0323" * 16_000)
    assert max(lengths) <= 512
    assert fold("e\u0301t\u00c9 " * 1_000) == "\u00e9t\u00e9 " * 1_000
    assert len(fold("\ufdfa" * 1_000, 100)) == 100
