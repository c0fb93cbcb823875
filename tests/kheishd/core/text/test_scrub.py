"""Known secrets leave neither a text nor a journal line, and a line stays a line."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.text.scrub import Flow, Scrubber, without
from protocol.events.run import MessageAppended
from protocol.journal.envelope import Envelope
from protocol.journal.line import decode_event, encode_line
from protocol.transcript import Message, Text, ToolCall

SECRET = 'sk-"quoted\\and"-1234'


def test_a_text() -> None:
    """The exact value goes; the longer of two that overlap goes whole."""
    scrubber = Scrubber(["secret-1", "secret-1-and-more"])
    assert scrubber.text("a secret-1-and-more b secret-1") == "a [scrubbed] b [scrubbed]"


def test_a_content() -> None:
    """Of a file, say, which need not be text."""
    assert Scrubber(["sécret"]).content(b"\xff a s\xc3\xa9cret \x00") == b"\xff a [scrubbed] \x00"
    content = b"nothing"
    assert Scrubber(["sk-1"]).content(content) == content


def test_a_line_without_secrets_is_the_same_object() -> None:
    """The common case copies nothing."""
    line = b'{"cursor":1,"type":"x"}'
    assert Scrubber([SECRET]).line(line) is line
    assert not Scrubber()


def test_a_line_keeps_its_shape() -> None:
    """Values and nested names are scrubbed, escapes included; names and tags of the event are not."""
    message = Message("assistant", [Text(f"it is {SECRET}"), ToolCall("c", "tool", {SECRET: [SECRET]})])
    line = encode_line(Envelope(cursor=1, at_ms=2), MessageAppended(item_id="i", message=message))
    scrubbed = Scrubber([SECRET, "tool_call", "message_appended", "assistant"]).line(line)
    event = decode_event(scrubbed)
    assert isinstance(event, MessageAppended)
    assert event.message.items == [
        Text("it is [scrubbed]"),
        ToolCall("c", "tool", {"[scrubbed]": ["[scrubbed]"]}),
    ]
    assert list(json.loads(scrubbed)) == list(json.loads(line))


def test_what_was_a_secret_stays_one() -> None:
    """A reload adds secrets and forgets none."""
    assert (
        Scrubber(["first-one"]).with_more(["second-one"]).text("first-one second-one")
        == "[scrubbed] [scrubbed]"
    )


@given(st.text(min_size=8, max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_no_secret_survives(secret: str, before: str, after: str) -> None:
    """Whatever the secret is made of and whatever stands around it."""
    line = msgspec.json.encode({"type": "x", "text": before + secret + after})
    found = msgspec.json.decode(Scrubber([secret]).line(line))
    assert secret not in found["text"].replace("[scrubbed]", "")


def test_a_line_of_a_log() -> None:
    """The secret goes as it is and as JSON spells it."""
    line = f"text {SECRET} and json {json.dumps({'key': SECRET})}"
    assert Scrubber([SECRET]).logged(line) == 'text [scrubbed] and json {"key": "[scrubbed]"}'


def told(pieces: list[str], scrubber: Scrubber) -> list[str]:
    """What a flow gives for each piece, and at the end."""
    flow = Flow()
    return [*(flow.feed(piece, scrubber) for piece in pieces), flow.rest(scrubber)]


def test_a_flow_holds_back_what_may_become_a_secret() -> None:
    """And nothing else; what did not become one is told with the next piece, or at the end."""
    scrubber = Scrubber(["sk-12345", "token-one"])
    assert told(["a s", "k-123", "45 and s", "o", " sk-1"], scrubber) == [
        "a ",
        "",
        "[scrubbed] and ",
        "so",
        " ",
        "sk-1",
    ]
    assert told(["as it comes", "", "sk-12345"], Scrubber()) == ["as it comes", "", "sk-12345", ""]


def test_a_flow_waits_for_the_longer_secret() -> None:
    """One that begins with a whole other one, or in the middle of it."""
    scrubber = Scrubber(["secret-1", "secret-1-and-more", "1-and-so-on"])
    assert told(["a secret-1", "-and-", "more."], scrubber) == ["a ", "", "[scrubbed].", ""]
    assert told(["a secret-1", "-and-", "less."], scrubber) == ["a ", "", "[scrubbed]-and-less.", ""]


def test_a_flow_of_a_secret_that_overlaps_itself() -> None:
    """It is held until it is certain where it ends, and costs no more the longer it is held."""
    given = told(["0" * 4] * 20_000 + ["."], Scrubber(["0" * 8]))
    assert "".join(given) == "[scrubbed]" * 10_000 + "."
    assert set(given[:-2]) == {""}


few = st.text("ab-", min_size=2, max_size=5)


@given(st.lists(few, min_size=1, max_size=3), st.lists(st.text("ab-", max_size=4), max_size=12))
def test_a_flow_gives_what_scrubbing_the_whole_would(secrets: list[str], pieces: list[str]) -> None:
    """However the text was cut, and however the secrets overlap; and at no time more than that."""
    whole = Scrubber(secrets).text("".join(pieces))
    given = told(pieces, Scrubber(secrets))
    assert "".join(given) == whole
    for count in range(len(given)):
        assert whole.startswith("".join(given[:count]))


def test_where_secrets_stand() -> None:
    """In order, the longer of two that overlap, as they are and as JSON spells them."""
    scrubber = Scrubber(["secret-1", "secret-1-and-more", 'quo"ted-one'])
    text = 'secret-1 secret-1-and-more quo"ted-one quo\\"ted-one'
    assert [text[start:end] for start, end in scrubber.spans(text)] == text.split(" ")
    assert scrubber.spans("nothing") == []


def test_a_part_without_secrets() -> None:
    """A text read part by part is the text scrubbed: a secret is replaced in the part where it begins."""
    text = f"a{SECRET}b{SECRET}"
    spans = Scrubber([SECRET]).spans(text)
    for size in (1, 2, 7, len(SECRET), 100):
        parts = [without(text, spans, at, min(at + size, len(text))) for at in range(0, len(text), size)]
        assert "".join(parts) == "a[scrubbed]b[scrubbed]"
