"""Checkpoints: head and chunks give the same transcript again, at any cut, in any pieces."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.context.checkpoint import (
    Chunks,
    decode_entries,
    decode_head,
    encode_entry,
    encode_head,
    encode_state,
)
from kheishd.core.context.reduction import TranscriptEntry
from kheishd.core.context.transcript import Transcript
from protocol.transcript import Message, ProviderData, Text, ToolCall
from tests.kheishd.core.context.test_transcript import STEPS, Script, make_script


def save(transcript: Transcript, size: int = 100) -> tuple[bytes, list[bytes]]:
    """Return the head and the chunks of a transcript, which have at most ``size`` bytes."""
    content = b"".join(map(encode_entry, transcript.entries))
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    chunks = Chunks(transcript.cursor, 1, 0, len(transcript.entries))
    for piece in pieces:
        chunks = chunks.extend(piece)
    return encode_head(chunks, encode_state(transcript)), pieces


def load(head: bytes, pieces: list[bytes]) -> Transcript:
    """Return the transcript of a head and chunks."""
    transcript, chunks = decode_head(head)
    if chunks is not None:
        assert (chunks.cursor, chunks.last) == (transcript.cursor, len(pieces))
        transcript.entries = decode_entries(chunks, b"".join(pieces))
    return transcript


@given(STEPS, st.data(), st.integers(1, 300))
def test_a_checkpoint_at_any_cut_equals_a_replay(
    steps: list[tuple[str, int, int]], data: st.DataObject, size: int
) -> None:
    """A transcript loaded at any cut and folded further equals a complete replay."""
    script = make_script(steps)
    cut = data.draw(st.integers(0, len(script.lines)))
    prefix = Script()
    prefix.lines = script.lines[:cut]
    resumed = script.fold(load(*save(prefix.fold(), size)))
    assert resumed == script.fold()


def test_a_checkpoint_keeps_provider_data() -> None:
    """Data of messages and calls survives a checkpoint, and one without such data is still read."""
    data = ProviderData("openai api.test gpt", "functions.look:0", {"extra_content": {"a": [1, None]}})
    call = ToolCall("c1", "look", {}, provider_data=data)
    for message in (Message("assistant", [call], provider_data=data), Message("assistant", [Text("a")])):
        transcript = Transcript(1, [TranscriptEntry(1, 1, message)])
        assert load(*save(transcript)).messages == [message]


def test_many_messages() -> None:
    """The number of messages is not limited."""
    entries = [TranscriptEntry(cursor, 1, Message("user", [Text("x")])) for cursor in range(1, 70_001)]
    transcript = Transcript(70_000, entries)
    assert load(*save(transcript, 200_000)) == transcript


def test_a_checkpoint_of_an_earlier_version() -> None:
    """A checkpoint that is a whole transcript is read."""
    transcript = Transcript(5, [TranscriptEntry(1, 1, Message("user", [Text("x")]))], marks={"o": ["m"]})
    assert decode_head(msgspec.msgpack.encode([3, transcript])) == (transcript, None)


def test_decode_head_of_another_shape() -> None:
    """A checkpoint of another shape, or a damaged one, is an error."""
    head, _ = save(Transcript())
    shape, *fields = msgspec.msgpack.decode(head)
    older = {"cursor": 3, "messages": [], "inputs": {}, "runs": {}, "calls": {}, "results": {}, "said": []}
    rejected = (msgspec.msgpack.encode(older), msgspec.msgpack.encode([shape + 1, *fields]))
    for damaged in (b"", b"\xc1", head[:-1], *rejected):
        with pytest.raises(ValueError, match=r".*"):
            decode_head(damaged)


def test_other_chunks_are_rejected() -> None:
    """A missing, changed, shorter or longer chunk is an error, also if it can be decoded."""
    entries = [TranscriptEntry(cursor, 1, Message("user", [Text("x" * 99)])) for cursor in range(1, 9)]
    head, pieces = save(Transcript(8, entries))
    _, chunks = decode_head(head)
    assert chunks is not None
    changed = pieces[0].replace(b"x", b"y", 1)
    for damaged in (pieces[:-1], pieces[1:], [changed, *pieces[1:]], [*pieces, b"\x90"], pieces[::-1]):
        with pytest.raises(ValueError, match="not those that were written"):
            decode_entries(chunks, b"".join(damaged))
