"""Terms: the words of texts in every script, and excerpts around them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.memory.terms import (
    STOP_WORDS,
    choose_query_terms,
    count_terms,
    find_terms,
    fold_name,
    make_snippet,
)
from protocol.limits.memory import MAX_SNIPPET_CHARACTERS, MAX_TERM_CHARACTERS


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
