"""The stream scrubbers remove secrets that are split across chunks, at any cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.text.scrub import REPLACEMENT, Scrubber
from kheishd.core.text.stream import MAX_HELD_VALUES, TextStreamScrubber, ValueStreamScrubber, scrub_value

SECRET = "sk-0123456789"
SCRUBBER = Scrubber([SECRET])

# One text.


def scrub_chunks(chunks: list[str], scrubber: Scrubber) -> list[str]:
    """Return the output for each chunk, and that of the end."""
    stream = TextStreamScrubber()
    return [*(stream.feed(chunk, scrubber) for chunk in chunks), stream.finish(scrubber)]


def test_a_text_stream_holds_back_the_beginning_of_a_secret() -> None:
    """Only a possible beginning is held back; otherwise it is returned with the next chunk, or at the end."""
    scrubber = Scrubber(["sk-12345", "token-one"])
    assert scrub_chunks(["a s", "k-123", "45 and s", "o", " sk-1"], scrubber) == [
        "a ",
        "",
        "[scrubbed] and ",
        "so",
        " ",
        "sk-1",
    ]
    assert scrub_chunks(["as it comes", "", "sk-12345"], Scrubber()) == ["as it comes", "", "sk-12345", ""]


def test_a_text_stream_waits_for_the_longer_secret() -> None:
    """A secret is held back while it may continue as a longer one that begins with it or within it."""
    scrubber = Scrubber(["secret-1", "secret-1-and-more", "1-and-so-on"])
    assert scrub_chunks(["a secret-1", "-and-", "more."], scrubber) == ["a ", "", "[scrubbed].", ""]
    assert scrub_chunks(["a secret-1", "-and-", "less."], scrubber) == ["a ", "", "[scrubbed]-and-less.", ""]


def test_a_text_stream_with_a_secret_that_overlaps_itself() -> None:
    """It is held back until its end is certain, but not for ever: the text held is limited."""
    output = scrub_chunks(["0" * 4] * 400 + ["."], Scrubber(["0" * 8]))
    assert set("".join(output).split("[scrubbed]")) == {"", "."}
    assert any(output[:-2])


SHORT_TEXTS = st.text("ab-", min_size=2, max_size=5)


@given(st.lists(SHORT_TEXTS, min_size=1, max_size=3), st.lists(st.text("ab-", max_size=4), max_size=12))
def test_a_text_stream_equals_the_scrubbed_text(secrets: list[str], chunks: list[str]) -> None:
    """At any cut and with overlapping secrets, the output is always a prefix of the scrubbed text."""
    whole = Scrubber(secrets).scrub_text("".join(chunks))
    output = scrub_chunks(chunks, Scrubber(secrets))
    assert "".join(output) == whole
    for count in range(len(output)):
        assert whole.startswith("".join(output[:count]))


# A sequence of values.


def delta(text: str, index: int = 0) -> dict[str, Any]:
    """Make an event as providers send it."""
    return {"type": "delta", "choices": [{"index": index, "delta": {"text": text}}]}


def text_of(event: dict[str, Any]) -> str:
    """Return the text of such an event."""
    text: str = event["choices"][0]["delta"]["text"]
    return text


def scrub_events(events: list[Any], scrubber: Scrubber = SCRUBBER) -> list[Any]:
    """Scrub a sequence of events."""
    stream = ValueStreamScrubber()
    output = [value for event in events for value in stream.feed(event, scrubber)]
    return output + stream.finish(scrubber)


@pytest.mark.parametrize("size", [1, 2, 5, 13, 100])
def test_a_secret_in_chunks(size: int) -> None:
    """A secret is removed at any cut; the number and the shape of the events stay."""
    text = f"it is {SECRET}, yes, {SECRET[:5]}"
    events = [delta(text[start : start + size]) for start in range(0, len(text), size)]
    output = scrub_events([delta(text_of(event)) for event in events])
    assert "".join(map(text_of, output)) == f"it is {REPLACEMENT}, yes, {SECRET[:5]}"
    assert output == [delta(text_of(event)) for event in output]
    assert len(output) == len(events)


def test_a_secret_in_its_json_spelling() -> None:
    """A secret is removed from tool arguments, which arrive as chunks of JSON."""
    arguments = json.dumps({"key": 'sk-"quoted"-1'})
    output = scrub_events([delta(chunk) for chunk in arguments], Scrubber(['sk-"quoted"-1']))
    assert "".join(map(text_of, output)) == '{"key": "[scrubbed]"}'


def test_only_possible_secrets_are_held_back() -> None:
    """An event is returned at once, or as soon as a later one rules out the secret."""
    stream = ValueStreamScrubber()
    assert stream.feed(delta("hello"), SCRUBBER) == [delta("hello")]
    assert stream.feed(delta("it is s"), SCRUBBER) == []
    assert stream.feed({"type": "ping"}, SCRUBBER) == [], "the order stays"
    assert stream.feed(delta("o"), SCRUBBER) == [delta("it is s"), {"type": "ping"}, delta("o")]
    assert stream.finish(SCRUBBER) == []


def test_texts_at_different_paths_are_different_texts() -> None:
    """Two answers side by side are two texts, distinguished by their index."""
    output = scrub_events([delta("sk-01234", 0), delta("hello", 1), delta("56789", 0)])
    assert [text_of(event) for event in output] == [REPLACEMENT, "hello", ""]


def test_a_secret_within_one_event() -> None:
    """A secret is removed in a list, a name, a tag's value, and twice in one text."""
    value = {"type": SECRET, "list": [f"a{SECRET}", {SECRET: 1}], "text": SECRET + SECRET, "n": 1.5}
    assert scrub_value(value, SCRUBBER) == {
        "type": REPLACEMENT,
        "list": [f"a{REPLACEMENT}", {REPLACEMENT: 1}],
        "text": REPLACEMENT * 2,
        "n": 1.5,
    }
    assert scrub_value(SECRET, SCRUBBER) == REPLACEMENT
    assert scrub_value(None, SCRUBBER) is None


def test_values_may_be_nested_deeply() -> None:
    """A deeply nested value of a provider is scrubbed like any other."""
    deep: Any = SECRET
    for _ in range(5_000):
        deep = [deep]
    scrubbed = scrub_value(deep, SCRUBBER)
    while isinstance(scrubbed, list):
        scrubbed = scrubbed[0]
    assert scrubbed == REPLACEMENT


def test_the_number_of_held_values_is_limited() -> None:
    """A text that never continues holds back at most ``MAX_HELD_VALUES`` values."""
    stream = ValueStreamScrubber()
    assert stream.feed({"id": "msg-s"}, SCRUBBER) == []
    output = [stream.feed({"n": number}, SCRUBBER) for number in range(MAX_HELD_VALUES - 1)]
    assert not any(output)
    assert len(stream.feed({"n": -1}, SCRUBBER)) == MAX_HELD_VALUES + 1


def test_without_secrets_no_value_is_held_back() -> None:
    """Without known secrets, events pass unchanged."""
    assert ValueStreamScrubber().feed(delta("sk-"), Scrubber()) == [delta("sk-")]


@given(st.text("ab", min_size=2, max_size=6), st.lists(st.text("ab", max_size=4), max_size=12))
def test_a_value_stream_equals_the_scrubbed_text(secret: str, chunks: list[str]) -> None:
    """At any cut, the joined text of the events is the scrubbed text."""
    scrubber = Scrubber([secret])
    output = scrub_events([delta(chunk) for chunk in chunks], scrubber)
    assert "".join(map(text_of, output)) == scrubber.scrub_text("".join(chunks))
    assert len(json.dumps(output)) > 0
