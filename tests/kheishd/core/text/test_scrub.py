"""The scrubber removes known secrets from texts and journal lines, and a line keeps its type."""

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kheishd.core.text.scrub import Scrubber, cut_text, replace_spans
from protocol.events.run import MessageAppended, RunEnded
from protocol.journal.envelope import Envelope
from protocol.journal.line import decode_event, encode_line
from protocol.transcript import Message, Text, ToolCall

SECRET = 'sk-"quoted\\and"-1234'


def test_scrub_text() -> None:
    """The exact value is replaced; of two overlapping secrets, the longer is replaced whole."""
    scrubber = Scrubber(["secret-1", "secret-1-and-more"])
    assert scrubber.scrub_text("a secret-1-and-more b secret-1") == "a [scrubbed] b [scrubbed]"


def test_scrub_bytes() -> None:
    """Bytes are scrubbed even if they are not text."""
    assert Scrubber(["sécret"]).scrub_bytes(b"\xff a s\xc3\xa9cret \x00") == b"\xff a [scrubbed] \x00"
    content = b"nothing"
    assert Scrubber(["sk-1"]).scrub_bytes(content) == content


def test_a_journal_line_without_secrets_is_returned_as_is() -> None:
    """The common case copies nothing."""
    line = b'{"cursor":1,"type":"x"}'
    assert Scrubber([SECRET]).scrub_journal_line(line) is line
    assert not Scrubber()


def test_a_journal_line_keeps_its_shape() -> None:
    """Values and nested names are scrubbed, escapes included; the event's fields and tags are not."""
    message = Message("assistant", [Text(f"it is {SECRET}"), ToolCall("c", "tool", {SECRET: [SECRET]})])
    line = encode_line(Envelope(cursor=1, at_ms=2), MessageAppended(item_id="i", message=message))
    scrubber = Scrubber([SECRET, "tool_call", "message_appended", "assistant"])
    scrubbed = scrubber.scrub_journal_line(line)
    event = decode_event(scrubbed)
    assert isinstance(event, MessageAppended)
    assert event.message.items == [
        Text("it is [scrubbed]"),
        ToolCall("c", "tool", {"[scrubbed]": ["[scrubbed]"]}),
    ]
    assert list(json.loads(scrubbed)) == list(json.loads(line))


def test_free_form_json_has_no_tags() -> None:
    """In the arguments of a call, a secret under the name of a tag is replaced, too; real tags are kept."""
    line = (
        b'{"type":"message_appended","message":{"role":"assistant","items":[{"kind":"tool_call",'
        b'"call_id":"c","name":"n","arguments":{"type":"hunter2","deep":[{"kind":"hunter2"}]}}]}}'
    )
    scrubbed = Scrubber(["hunter2", "tool"]).scrub_journal_line(line)
    assert b"hunter2" not in scrubbed
    assert b'"kind":"tool_call"' in scrubbed


def test_a_scrubber_made_from_another() -> None:
    """A reload adds secrets and forgets none."""
    scrubber = Scrubber(["first-one", "second-one"], Scrubber(["first-one", "old-one-01"]))
    assert scrubber.scrub_text("first-one second-one") == "[scrubbed] [scrubbed]"


@given(st.text(min_size=8, max_size=20), st.text(max_size=20), st.text(max_size=20))
@example("01000000", "0100", "0000")
@example('n3w"pass-word', "C:\\", "")
@example("\\\n\\\\\n\n\\\n", "\\\\\\", "\n")
def test_no_secret_survives(secret: str, prefix: str, suffix: str) -> None:
    """No secret survives in a journal line, whatever its characters and surroundings are."""
    line = msgspec.json.encode({"type": "x", "text": prefix + secret + suffix})
    scrubbed = msgspec.json.decode(Scrubber([secret]).scrub_journal_line(line))
    # What is left on both sides of a redacted secret may form it anew, once the mark between is removed.
    assert all(secret not in part for part in scrubbed["text"].split("[scrubbed]"))


def test_scrub_text_with_json() -> None:
    """In a log line, a secret is replaced in its plain and in its JSON spelling."""
    line = f"text {SECRET} and json {json.dumps({'key': SECRET})}"
    assert Scrubber([SECRET]).scrub_text(line) == 'text [scrubbed] and json {"key": "[scrubbed]"}'


def test_find_spans() -> None:
    """Spans are ordered; of overlapping secrets the longer counts, spelled plainly or as in JSON."""
    scrubber = Scrubber(["secret-1", "secret-1-and-more", 'quo"ted-one'])
    text = 'secret-1 secret-1-and-more quo"ted-one quo\\"ted-one'
    assert [text[start:end] for start, end in scrubber.find_spans(text)] == text.split(" ")
    assert scrubber.find_spans("nothing") == []


def test_replace_spans_part_by_part() -> None:
    """Parts of any size join to the scrubbed text: a secret is replaced in the part where it begins."""
    text = f"a{SECRET}b{SECRET}"
    spans = Scrubber([SECRET]).find_spans(text)
    for size in (1, 2, 7, len(SECRET), 100):
        starts = range(0, len(text), size)
        parts = [replace_spans(text, spans, start, min(start + size, len(text))) for start in starts]
        assert "".join(parts) == "a[scrubbed]b[scrubbed]"


@pytest.mark.parametrize(
    "secret", ["completed", "complete", "assistant", "input_tokens", "run_ended", "anthropic"]
)
def test_the_daemons_own_words_stay(secret: str) -> None:
    """A secret that is a word of the protocol, or a part of one, leaves events as they are, but not texts."""
    ended = RunEnded("completed")
    message = MessageAppended("itm_1", Message("assistant", [Text(f"it is {secret}.")]))
    for event in (ended, message):
        line = encode_line(Envelope(cursor=1, at_ms=2, session_id="ses_1"), event)
        stored = decode_event(Scrubber([secret]).scrub_journal_line(line))
        assert type(stored) is type(event)
    assert stored == MessageAppended("itm_1", Message("assistant", [Text("it is [scrubbed].")]))


LONG_SECRET = "sk-AbCdEf0123456789"


def test_cut_text_at_every_place() -> None:
    """Wherever a text is cut, no part of a secret is at its end, in any spelling; a whole text stays."""
    scrubber = Scrubber([LONG_SECRET])
    for spelled in (LONG_SECRET, LONG_SECRET.encode().hex(), LONG_SECRET.replace("-", "\\u002d")):
        text = f"a{'é' * 9} {spelled} and {spelled} then more text"
        for size in range(4, len(text.encode())):
            cut = cut_text(text, size, scrubber.scrub_cut)
            assert len(cut.encode()) <= size
            assert cut.endswith("…")
            parts = (spelled[start : start + 4] for start in range(len(spelled) - 4))
            assert not any(part in cut for part in parts), (size, cut)
    assert cut_text(text, 1_000, scrubber.scrub_cut) is text
    assert cut_text("x" * 20, 10, scrubber.scrub_cut, "") == "x" * 10


def test_scrub_cut() -> None:
    """The beginning of a secret at the end is left out, a whole one is replaced, ordinary text stays."""
    scrubber = Scrubber([LONG_SECRET])
    assert scrubber.scrub_cut(b"the sk-AbCdEf01") == b"the "
    assert scrubber.scrub_cut(f"{LONG_SECRET}, \xff".encode("latin-1")) == b"[scrubbed], \xff"
    assert scrubber.scrub_cut(b"ordinary text") == b"ordinary text"
    assert scrubber.scrub_cut(b"") == b""
    assert Scrubber().scrub_cut(b"the sk-AbCdEf01") == b"the sk-AbCdEf01"
