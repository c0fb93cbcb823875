"""Secrets that lie across several values: nobody who joins the texts of a row has one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.text.scrub import REPLACEMENT, Scrubber
from kheishd.core.text.stream import MAX_HELD, StreamRedactor, seamless

SECRET = "sk-0123456789"
SCRUBBER = Scrubber([SECRET])


def delta(text: str, index: int = 0) -> dict[str, Any]:
    """An event as providers send it."""
    return {"type": "delta", "choices": [{"index": index, "delta": {"text": text}}]}


def text_of(event: dict[str, Any]) -> str:
    """The text of one."""
    text: str = event["choices"][0]["delta"]["text"]
    return text


def through(events: list[Any], scrubber: Scrubber = SCRUBBER) -> list[Any]:
    """A row of values, scrubbed."""
    seams = StreamRedactor()
    given = [value for event in events for value in seams.feed(event, scrubber)]
    return given + seams.rest(scrubber)


@pytest.mark.parametrize("size", [1, 2, 5, 13, 100])
def test_a_secret_in_pieces(size: int) -> None:
    """However a text is cut, its secret is gone; the events are as many, and of their shape."""
    text = f"it is {SECRET}, yes, {SECRET[:5]}"
    events = [delta(text[at : at + size]) for at in range(0, len(text), size)]
    given = through([delta(text_of(event)) for event in events])
    assert "".join(map(text_of, given)) == f"it is {REPLACEMENT}, yes, {SECRET[:5]}"
    assert given == [delta(text_of(event)) for event in given]
    assert len(given) == len(events)


def test_a_secret_as_json_spells_it() -> None:
    """What a tool is called with comes as pieces of JSON."""
    arguments = json.dumps({"key": 'sk-"quoted"-1'})
    given = through([delta(piece) for piece in arguments], Scrubber(['sk-"quoted"-1']))
    assert "".join(map(text_of, given)) == '{"key": "[scrubbed]"}'


def test_what_cannot_become_a_secret_is_not_held() -> None:
    """An event is told at once; one that may begin a secret once the next one rules it out."""
    seams = StreamRedactor()
    assert seams.feed(delta("hello"), SCRUBBER) == [delta("hello")]
    assert seams.feed(delta("it is s"), SCRUBBER) == []
    assert seams.feed({"type": "ping"}, SCRUBBER) == [], "the order stays"
    assert seams.feed(delta("o"), SCRUBBER) == [delta("it is s"), {"type": "ping"}, delta("o")]
    assert seams.rest(SCRUBBER) == []


def test_texts_at_other_places_are_other_texts() -> None:
    """Two answers side by side are two texts, told apart by their number."""
    given = through([delta("sk-01234", 0), delta("hello", 1), delta("56789", 0)])
    assert [text_of(event) for event in given] == [REPLACEMENT, "hello", ""]


def test_a_secret_within_an_event() -> None:
    """Wherever it stands: in a list, in a name, as the value of a tag, twice."""
    value = {"type": SECRET, "list": [f"a{SECRET}", {SECRET: 1}], "text": SECRET + SECRET, "n": 1.5}
    assert seamless(value, SCRUBBER) == {
        "type": REPLACEMENT,
        "list": [f"a{REPLACEMENT}", {REPLACEMENT: 1}],
        "text": REPLACEMENT * 2,
        "n": 1.5,
    }
    assert seamless(SECRET, SCRUBBER) == REPLACEMENT
    assert seamless(None, SCRUBBER) is None


def test_a_value_nests_as_deep_as_it_likes() -> None:
    """What a provider may send is no reason to fail."""
    deep: Any = SECRET
    for _ in range(5_000):
        deep = [deep]
    found = seamless(deep, SCRUBBER)
    while isinstance(found, list):
        found = found[0]
    assert found == REPLACEMENT


def test_no_more_is_held_than_a_limit() -> None:
    """A text that never goes on holds back so many events and no more."""
    seams = StreamRedactor()
    assert seams.feed({"id": "msg-s"}, SCRUBBER) == []
    held = [seams.feed({"n": number}, SCRUBBER) for number in range(MAX_HELD - 1)]
    assert not any(held)
    assert len(seams.feed({"n": -1}, SCRUBBER)) == MAX_HELD + 1


def test_without_secrets_nothing_is_held() -> None:
    """Where nothing is known as a secret, events go through as they are."""
    assert StreamRedactor().feed(delta("sk-"), Scrubber()) == [delta("sk-")]


@given(st.text("ab", min_size=2, max_size=6), st.lists(st.text("ab", max_size=4), max_size=12))
def test_no_secret_survives_any_cut(secret: str, pieces: list[str]) -> None:
    """The joined text holds no secret but such as the replacing itself would make, as of a whole text."""
    scrubber = Scrubber([secret])
    given = through([delta(piece) for piece in pieces], scrubber)
    assert "".join(map(text_of, given)) == scrubber.text("".join(pieces))
    assert len(json.dumps(given)) > 0
