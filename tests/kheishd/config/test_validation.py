"""Strict validation accepts exactly the documents that msgspec accepts, and reports more about the others."""

from typing import Annotated, Any, Literal

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from kheishd.config.validation import Problem, find_problems, format_path


class Leaf(Struct, frozen=True, forbid_unknown_fields=True):
    """A struct inside another one."""

    size: Annotated[int, Meta(ge=0)]
    name: str = ""


class Tree(Struct, frozen=True, forbid_unknown_fields=True):
    """A struct with structs inside in every position."""

    leaf: Leaf | None = None
    by_name: dict[Annotated[str, Meta(pattern="^[a-z]+$")], Leaf] = {}
    in_order: Annotated[list[Leaf], Meta(max_length=2)] = []
    free: dict[str, Any] = {}
    words: list[str] | None = None
    kind: Literal["red", "green"] | None = None
    kinds: list[Literal["red", "green"]] = []


def validate(document: Any) -> list[str]:
    """Return the problems of a document, as text."""
    return [str(problem) for problem in find_problems(Tree, document)]


def test_paths_name_tables_and_elements() -> None:
    """Each position of a struct is named by its whole path."""
    assert validate({"by_name": {"x": {"size": 1, "sise": 2}}}) == [
        "by_name.x.sise: unknown key; did you mean 'size'?"
    ]
    assert validate({"in_order": [{"size": 1}, {"size": -1}]}) == [
        "in_order[1].size: expected a whole number >= 0"
    ]
    assert validate({"leaf": {"name": "n"}}) == ["leaf: the key 'size' is missing"]
    assert validate({"by_name": {"X": {"size": 1}}})[0].startswith(
        "by_name.X: expected a string matching regex"
    )
    assert validate({"words": ["a", 1]}) == ["words: expected a string, got a whole number (at [1])"]
    assert validate({"leaf": [1]}) == ["leaf: expected a table, got an array"]
    assert validate({"words": 1}) == ["words: expected an array, got a whole number"]
    assert validate({"in_order": {}}) == ["in_order: expected an array, got a table"]
    assert validate({"in_order": [{"size": 1}] * 3}) == ["in_order: expected an array of length <= 2"]
    assert validate([]) == ["expected a table, got an array"]


def test_a_wrong_word_is_answered_with_the_choices() -> None:
    """Choices are named, in lists and optional fields, too."""
    assert validate({"kind": "b"}) == ["kind: expected one of red, green, got 'b'"]
    assert validate({"kinds": ["red", "c"]}) == ["kinds: expected one of red, green, got 'c' (at [1])"]
    assert not validate({"kind": None})


def test_format_path() -> None:
    """A path has dots between names and brackets around numbers."""
    assert format_path(("a", "b", 0, "c")) == "a.b[0].c"
    assert str(Problem((), "nothing there")) == "nothing there"


_keys = st.sampled_from(["leaf", "by_name", "in_order", "free", "words", "size", "name", "x", "Y"])
_documents = st.recursive(
    st.integers(-2, 2) | st.none() | st.just("w"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)


@given(_documents)
def test_no_problems_exactly_when_msgspec_agrees(document: Any) -> None:
    """A document has no problem if and only if msgspec converts it."""
    try:
        msgspec.convert(document, Tree)
    except msgspec.ValidationError:
        assert validate(document)
    else:
        assert not validate(document)
