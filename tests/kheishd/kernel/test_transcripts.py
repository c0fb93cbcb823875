"""The cache of transcripts: one owner of each, bounded in bytes, the least recently used ones make room."""

import gc
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.context.reduction import TranscriptEntry
from kheishd.core.context.session_transcript import SessionTranscript
from kheishd.core.context.transcript import Transcript
from kheishd.kernel.runtime import ModelRequest
from kheishd.kernel.transcripts import TranscriptCache
from kheishd.providers.caller import find_driver
from protocol.objects.run import Pinned
from protocol.transcript import Message, Text, ToolCall, ToolResult


def make_transcript(size: int = 0, cursor: int = 1) -> SessionTranscript:
    """Return a transcript with one message."""
    message = Message("user", [Text("x" * size)])
    return SessionTranscript(Transcript(cursor, [TranscriptEntry(cursor, cursor, message)]))


def test_a_transcript_has_one_owner() -> None:
    """A transcript that was taken is not in the cache until it is put back."""
    cache, transcript = TranscriptCache(), make_transcript(1_000)
    assert cache.take("s") is None
    cache.put("s", transcript)
    assert (len(cache), cache.size_bytes) == (1, transcript.size_bytes)
    assert cache.take("s") is transcript
    assert cache.take("s") is None
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_the_newer_of_two_transcripts_stays() -> None:
    """If two readers put a session's transcript, the one that was read further stays."""
    cache, newer = TranscriptCache(), make_transcript(cursor=5)
    cache.put("s", make_transcript(cursor=4))
    cache.put("s", newer)
    cache.put("s", make_transcript(cursor=3))
    assert cache.take("s") is newer
    assert cache.size_bytes == 0


def test_the_least_recently_used_makes_room() -> None:
    """The cache never exceeds its bound."""
    size = make_transcript(1_000).size_bytes
    cache = TranscriptCache(3 * size)
    for name in "abc":
        cache.put(name, make_transcript(1_000))
    used = cache.take("a")
    assert used is not None
    cache.put("a", used)
    cache.put("d", make_transcript(1_000))
    assert [cache.take(name) is not None for name in "abcd"] == [True, False, True, True]
    cache.put("e", make_transcript(3 * size))
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_a_huge_transcript_evicts_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transcript beyond the limit of one is not kept, and the others stay."""
    monkeypatch.setattr("kheishd.kernel.transcripts.MAX_CACHED_TRANSCRIPT_BYTES", 10_000)
    cache = TranscriptCache()
    cache.put("small", make_transcript())
    cache.put("huge", make_transcript(10_000))
    assert cache.take("huge") is None
    assert cache.take("small") is not None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3_000), st.booleans()), max_size=40))
def test_the_size_is_that_of_the_transcripts(steps: list[tuple[str, int, bool]]) -> None:
    """After any steps, the size is the sum of the sizes and within the bound."""
    cache = TranscriptCache(10_000)
    for name, size, takes in steps:
        if takes:
            cache.take(name)
        else:
            cache.put(name, make_transcript(size))
        assert cache.size_bytes <= 10_000
    total = cache.size_bytes
    assert total == sum(kept.size_bytes for name in "abcdef" if (kept := cache.take(name)) is not None)
    assert (len(cache), cache.size_bytes) == (0, 0)


@pytest.mark.parametrize("messages", [0, 2, 20])
@pytest.mark.parametrize("driver", ["", "anthropic", "google", "openai", "responses"])
def test_the_size_is_at_least_the_memory(driver: str, messages: int) -> None:
    """Many short transcripts, with a view and a driver's encodings, take no more memory than is counted."""
    cache = TranscriptCache()
    # The first one makes what all share.
    cache.put("first", make_used(0, messages, driver))
    counted = cache.size_bytes
    gc.collect()
    tracemalloc.start()
    for number in range(1, 101):
        cache.put(f"ses_{number}", make_used(number, messages, driver))
    gc.collect()
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert memory <= cache.size_bytes - counted


def make_used(number: int, messages: int, driver: str) -> SessionTranscript:
    """Return a transcript whose messages a driver has encoded."""
    entries: list[TranscriptEntry] = []
    for index in range(messages // 2):
        call_id = f"call_{number}_{index}"
        call = Message("assistant", [ToolCall(call_id, "look", {"at": f"{number}"})])
        result = Message("tool", [ToolResult(call_id, "look", f"seen {number}", False)])
        for message in (call, result):
            cursor = 1_000 * (number + 1) + len(entries)
            entries.append(TranscriptEntry(cursor, 1_800_000_000_000 + cursor, message))
    session = SessionTranscript(Transcript(number + 1, entries))
    view = session.view(speaker="default", primary="default")
    if driver:
        pinned = Pinned(route="r", driver=driver, model="m", base_url="http://localhost/v1")
        request = ModelRequest(
            pinned=pinned, instructions="", messages=view.messages, marks={}, encodings=view.encodings
        )
        implementation = find_driver(driver)
        assert implementation is not None
        implementation.post(request, "http://localhost/v1", None)
    return session
