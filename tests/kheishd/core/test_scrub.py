"""Known secrets leave neither a text nor a journal line, and a line stays a line."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.scrub import Scrubber
from protocol.events import Envelope, MessageAppended, decode_event, encode_line
from protocol.transcript import Message, Text, ToolCall

SECRET = 'sk-"quoted\\and"-1234'


def test_a_text() -> None:
    """The exact value goes; the longer of two that overlap goes whole."""
    scrubber = Scrubber(["secret-1", "secret-1-and-more"])
    assert scrubber.text("a secret-1-and-more b secret-1") == "a [scrubbed] b [scrubbed]"


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
