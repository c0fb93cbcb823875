"""Server-sent events: the cases of the specification, at any cut."""

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.text.sse import MAX_EVENT_BYTES, ErrorEventData, EventDecoder, EventTooLarge, StrayData


def decoded(*reads: bytes) -> list[bytes]:
    """All the data of a stream that arrives in these reads."""
    decoder = EventDecoder()
    return [event for read in reads for event in decoder.feed(read)] + decoder.finish()


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: one\n\ndata: two\n\n", [b"one", b"two"]),
        (b"data:one\n\n", [b"one"]),
        (b"data:  one\n\n", [b" one"]),
        (b"data: one\ndata: two\n\n", [b"one\ntwo"]),
        (b"data: one\r\n\r\ndata: two\r\n\r\n", [b"one", b"two"]),
        (b"data: one\r\rdata: two\r\r", [b"one", b"two"]),
        (b"data: one\r\n\ndata: two\n\r\n", [b"one", b"two"]),
        (b": comment\n\ndata: one\n\n:\n\n", [b"one"]),
        (b"event: named\nid: 1\nretry: 10\nunknown: x\ndata: one\n\n", [b"one"]),
        (b"event: nothing\n\n", []),
        (b"data: one\n\n\n\n\ndata: two\n\n", [b"one", b"two"]),
        (b"\xef\xbb\xbfdata: one\n\n", [b"one"]),
        (b"database: no\n\n", []),
        ("data: a\u2028b\x85c\n\n".encode(), ["a\u2028b\x85c".encode()]),
        (b"data: whole\n\ndata: without its empty line", [b"whole", b"without its empty line"]),
        (b"data: one\r", [b"one"]),
        (b"", []),
    ],
)
def test_streams(stream: bytes, events: list[bytes]) -> None:
    """Every stream gives its events, whole and cut at every byte."""
    assert decoded(stream) == events
    for cut in range(len(stream)):
        assert decoded(stream[:cut], stream[cut:]) == events, f"cut at {cut}"
    assert decoded(*(stream[n : n + 1] for n in range(len(stream)))) == events


@given(
    events=st.lists(st.binary(min_size=1).filter(lambda data: not set(data) & {10, 13})),
    cuts=st.lists(st.integers(0, 200)),
)
def test_any_data_at_any_cut(events: list[bytes], cuts: list[int]) -> None:
    """Any data and any boundaries of reads give the same events."""
    stream = b"".join(b"data: %b\n\n" % event for event in events)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reads = [stream[a:b] for a, b in pairwise(edges)]
    assert decoded(*reads) == events


@given(
    lines=st.lists(
        st.sampled_from(
            [
                b"data: one",
                b"data:two",
                b"data: ",
                b"data",
                b"",
                b"",
                b"",
                b": c",
                b"event: error",
                b'{"a"',
                b"x",
            ]
        ),
        max_size=12,
    ),
    cuts=st.lists(st.integers(0, 100), max_size=4),
)
def test_any_lines_at_any_cut(lines: list[bytes], cuts: list[int]) -> None:
    """Lines that end with LF, which have a faster way, give the events of lines that end with CR LF."""
    stream = b"".join(line + b"\n" for line in lines)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    expected = decoded(stream.replace(b"\n", b"\r\n"))
    events = decoded(*(stream[a:b] for a, b in pairwise(edges)))
    assert [(event, type(event)) for event in events] == [(event, type(event)) for event in expected]


def test_an_event_is_returned_at_its_last_byte() -> None:
    """An event is returned with its last byte, not with the next event."""
    decoder = EventDecoder()
    assert decoder.feed(b"data: one\n") == []
    assert decoder.feed(b"\n") == [b"one"]


def test_an_unfinished_line_is_not_read_again() -> None:
    """A byte costs the same behind the start of a line as behind a megabyte of it."""
    decoder = EventDecoder()
    tracemalloc.start()
    try:
        decoder.feed(b"data: " + b"x" * (MAX_EVENT_BYTES // 2))
        tracemalloc.reset_peak()
        for _ in range(1_000):
            assert decoder.feed(b"x") == []
        # The line is there once: nothing copies or splits it.
        assert tracemalloc.get_traced_memory()[1] < MAX_EVENT_BYTES * 3 // 4
    finally:
        tracemalloc.stop()
    assert decoder.feed(b"\n\n") == [b"x" * (MAX_EVENT_BYTES // 2 + 1_000)]


@pytest.mark.parametrize("piece", [b"x", b"data: x"])
def test_an_unfinished_line_over_the_limit_is_refused(piece: bytes) -> None:
    """A line that grows by reads without its end is an error at the limit."""
    decoder = EventDecoder()
    decoder.feed(b"data: " + b"x" * (MAX_EVENT_BYTES - 20))
    with pytest.raises(EventTooLarge):
        [decoder.feed(piece) for _ in range(20)]


def test_an_event_over_the_limit_is_refused() -> None:
    """An event without an end is an error, in one line or in many."""
    with pytest.raises(EventTooLarge):
        EventDecoder().feed(b"data: " + b"x" * MAX_EVENT_BYTES + b"x")
    decoder = EventDecoder()
    line = b"data: " + b"x" * 999 + b"\n"
    for _ in range(MAX_EVENT_BYTES // 1000):
        decoder.feed(line)
    with pytest.raises(EventTooLarge):
        decoder.feed(line)
    with pytest.raises(EventTooLarge):
        EventDecoder().feed(b"data:\n" * (MAX_EVENT_BYTES + 1))


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"event: error\ndata: one\n\ndata: two\n\n", [(b"one", True), (b"two", False)]),
        (b"data: one\nevent:error\n\n", [(b"one", True)]),
        (b"event: error\nevent: other\ndata: one\n\n", [(b"one", False)]),
        (b"event: error\n\ndata: two\n\n", [(b"", True), (b"two", False)]),
        (b'error: {"message":"m"}\n\ndata: two\n\n', [(b'{"message":"m"}', True), (b"two", False)]),
        (b"event: error\ndata: one", [(b"one", True)]),
        (b"error: one", [(b"one", True)]),
    ],
)
def test_errors_are_marked(stream: bytes, events: list[tuple[bytes, bool]]) -> None:
    """The data of an event that is called error, and of a line of errors, is marked at any cut."""
    for cut in range(len(stream) + 1):
        decoder = EventDecoder()
        received = decoder.feed(stream[:cut]) + decoder.feed(stream[cut:]) + decoder.finish()
        assert [(bytes(data), isinstance(data, ErrorEventData)) for data in received] == events


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b'data: one\n\n{\n "error": 1\n}\n', [(b"one", False), (b'{\n "error": 1\n}', True)]),
        (b'data: one\r\n\r\n[{"error": 1}]\r\n\r\n', [(b"one", False), (b'[{"error": 1}]', True)]),
        (b"{\n1}\ndata: two\n\n", [(b"two", False)]),
        (b"data: one\n\n{\n: comment\n[", [(b"one", False), (b"{", True), (b"[", True)]),
    ],
)
def test_json_behind_events_is_marked(stream: bytes, events: list[tuple[bytes, bool]]) -> None:
    """JSON behind an event is returned with its mark, up to the next field or blank line."""
    for cut in range(len(stream) + 1):
        decoder = EventDecoder()
        received = decoder.feed(stream[:cut]) + decoder.feed(stream[cut:]) + decoder.finish()
        assert [(bytes(data), isinstance(data, StrayData)) for data in received] == events


def test_json_behind_events_is_limited() -> None:
    """JSON behind events counts against the limit of an event."""
    decoder = EventDecoder()
    with pytest.raises(EventTooLarge):
        decoder.feed(b"data: one\n\n{\n" + (b"x" * 1000 + b"\n") * (MAX_EVENT_BYTES // 1000 + 1))
