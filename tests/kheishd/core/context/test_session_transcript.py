"""A session's transcript: what follows from its messages is the same, computed at once or step by step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.context.reduction import TranscriptEntry
from kheishd.core.context.session_transcript import MAX_SPEAKERS, SessionTranscript
from kheishd.core.context.tokens import estimate_messages
from kheishd.core.context.transcript import Transcript, frame_messages
from protocol.events.context import ContextCompacted
from protocol.journal.envelope import Envelope
from protocol.transcript import Message, Text, ToolCall
from tests.kheishd.core.context.test_transcript import STEPS, make_script

AGENTS = st.lists(st.sampled_from([None, None, "critic", "poet"]), max_size=30)


def with_guests(agents: list[str | None]) -> SessionTranscript:
    """Return a session in which agents spoke."""
    messages = [Message("assistant", [Text(f"I am {agent}.")], agent=agent) for agent in agents]
    entries = [TranscriptEntry(cursor, cursor, message) for cursor, message in enumerate(messages, 1)]
    return SessionTranscript(Transcript(len(entries), entries))


def assert_same(kept: SessionTranscript, fresh: SessionTranscript) -> None:
    """Require that a kept transcript has the values of one that was read anew."""
    messages = kept.transcript.messages
    assert kept.transcript == fresh.transcript
    assert kept.call_ids == fresh.call_ids
    assert list(kept.guests) == list(fresh.guests)
    assert kept.estimates == fresh.estimates
    assert kept.estimates == [estimate_messages(messages[:end]) for end in range(len(messages) + 1)]
    for speaker in ("default", "critic"):
        framed = frame_messages(messages, speaker=speaker, primary="default")
        assert kept.view(speaker=speaker, primary="default").messages == framed
    fresh.view(speaker="default", primary="default")
    fresh.view(speaker="critic", primary="default")
    # The two grew in other steps, so that their lists have other reserves.
    assert abs(kept.size_bytes - fresh.size_bytes) <= 1_000 + 64 * len(messages)


@given(STEPS, st.data())
def test_a_kept_transcript_equals_a_fresh_one(steps: list[tuple[str, int, int]], data: st.DataObject) -> None:
    """After any events, compactions included, a kept transcript has the values of one that is read anew."""
    script = make_script(steps)
    kept = SessionTranscript()
    for number, line in enumerate(script.lines, 1):
        kept.transcript.fold(*line)
        if data.draw(st.booleans()):
            kept.update()
            fresh = Transcript()
            for earlier in script.lines[:number]:
                fresh.fold(*earlier)
            assert_same(kept, SessionTranscript(fresh))


@given(AGENTS, st.integers(0, 30))
def test_guests_are_named_once(agents: list[str | None], cut: int) -> None:
    """Guests are named once, in the order of their first message; views frame them step by step."""
    kept, added = with_guests(agents[:cut]), with_guests(agents)
    assert_same(kept, with_guests(agents[:cut]))
    kept.transcript.entries += added.transcript.entries[cut:]
    kept.transcript.cursor = added.transcript.cursor
    kept.update()
    assert_same(kept, added)
    assert list(kept.guests) == list(dict.fromkeys(filter(None, agents)))


def test_messages_keep_their_encodings_until_a_compaction() -> None:
    """A view only grows and keeps its encodings; a compaction begins with new ones."""
    session = with_guests([None, "critic"])
    view = session.view(speaker="default", primary="default")
    messages, encodings = list(view.messages), view.encodings
    encodings.keep("a", cast("Any", SimpleNamespace(size_bytes=5_000)))
    assert session.size_bytes > 5_000
    session.transcript.entries.append(TranscriptEntry(9, 9, Message("user", [Text("next")])))
    session.transcript.cursor = 9
    session.update()
    later = session.view(speaker="default", primary="default")
    assert later.encodings is encodings
    assert all(old is new for old, new in zip(messages, later.messages, strict=False))
    assert len(later.messages) == 3
    event = ContextCompacted(upto=9, strategy="summary", trigger="auto", summary="They talked.")
    session.transcript.fold(Envelope(cursor=10, at_ms=10), event)
    session.update()
    assert session.view(speaker="default", primary="default").encodings is not encodings
    assert session.size_bytes < 5_000


def test_the_number_of_views_is_bounded() -> None:
    """The view that was not used for the longest time makes room for that of another speaker."""
    session = with_guests([None])
    first = session.view(speaker="default", primary="default")
    for number in range(MAX_SPEAKERS - 1):
        session.view(speaker=f"guest{number}", primary="default")
    assert session.view(speaker="default", primary="default") is first
    guest = session.view(speaker="guest0", primary="default")
    session.view(speaker="another", primary="default")
    session.view(speaker="one_more", primary="default")
    assert session.view(speaker="guest0", primary="default") is guest
    assert session.view(speaker="guest1", primary="default").messages == [
        Message("user", [Text('<from agent="default">\nI am None.\n</from>')])
    ]


def test_call_ids_of_compacted_messages_are_forgotten() -> None:
    """Call ids are those of the messages that a model is shown."""
    message = Message("assistant", [ToolCall("c1", "look", {}), ToolCall("c2", "look", {})])
    session = SessionTranscript(Transcript(1, [TranscriptEntry(1, 1, message)]))
    assert session.call_ids == {"c1", "c2"}
    event = ContextCompacted(upto=1, strategy="summary", trigger="auto", summary="They looked.")
    session.transcript.fold(Envelope(cursor=2, at_ms=2), event)
    session.update()
    assert session.call_ids == set()
