"""Framing: the same messages for any cut of the bytes, and no needless buffering."""

import itertools
import json
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits.rpc import MAX_HEADER_BYTES, MAX_LINE_BYTES
from protocol.rpc import wire
from protocol.rpc.codec import Codec
from protocol.rpc.wire import Batch, Decoded, Malformed, Notification, Request, Response

PING = b'{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}'
LINES = b"\n".join(
    [
        PING,
        b"",
        b'{"jsonrpc":"2.0","method":"told","params":{"text":"\xc3\xa9\xf0\x9f\x8c\x8d"}}\r',
        b"not json",
        b" \t\r",
        b"\xff\xfe",
        b'[{"jsonrpc":"2.0","id":2,"method":"a"},5]',
        b"[]",
        b'{"jsonrpc":"2.0","id":3.0,"result":{"ok":true}}',
        b'{"jsonrpc":"2.0","id":4,"method":"last"}',
    ]
)
HEADERS = b"".join(
    [
        b"Content-Length: 44\r\n\r\n" + PING,
        b"content-type: application/vscode-jsonrpc; charset=utf-8\r\nCONTENT-LENGTH:8\r\n\r\nnot json",
        b"Content-Length: 2\n\n[]",
        b"Content-Length: nine\r\n\r\n",
        b"no header\r\nContent-Length: 5\r\n\r\n",
        b"Content-Length: 900\r\n\r\n" + b"x" * 900,
        b"Content-Length: 44\r\n\r\n" + PING,
    ]
)


def shown(values: list[Decoded]) -> list[object]:
    """Return values in a comparable form."""
    return [show(value) for value in values]


def show(value: Decoded) -> object:
    """Return a value in a comparable form."""
    match value:
        case Batch(items):
            return [show(item) for item in items]
        case Malformed(refusal, id_):
            return (refusal.reason, refusal.message, id_)
        case Request(id_, method, params):
            return (id_, method, bytes(params))
        case Notification(method, params):
            return (method, bytes(params))
        case Response(id_, result, error):
            return (id_, bytes(result), error)


def read(pieces: list[bytes], limit: int = MAX_LINE_BYTES) -> list[object]:
    """Return the values that a codec decodes from pieces and the end of input."""
    codec = Codec(limit)
    values = [value for piece in pieces for value in codec.feed(piece)]
    return shown(values + codec.eof())


def reasons(values: list[object]) -> list[object]:
    """Return the reason of each refusal, the type of everything else."""
    return [value[0] if isinstance(value, tuple) else type(value) for value in values]


# Cuts.


@pytest.mark.parametrize("transcript", [LINES, HEADERS])
def test_cut_at_every_byte(transcript: bytes) -> None:
    """A cut at any byte gives the same messages."""
    whole = read([transcript], limit=500)
    assert len(whole) >= 7
    for cut in range(len(transcript) + 1):
        assert read([transcript[:cut], transcript[cut:]], limit=500) == whole


@pytest.mark.parametrize("transcript", [LINES, HEADERS])
def test_byte_by_byte(transcript: bytes) -> None:
    """One byte at a time gives the same messages."""
    pieces = [transcript[at : at + 1] for at in range(len(transcript))]
    assert read(pieces, limit=500) == read([transcript], limit=500)


@given(st.data())
def test_cut_anywhere(data: st.DataObject) -> None:
    """Any number of cuts gives the same messages, also with a small limit."""
    transcript = data.draw(st.sampled_from([LINES, HEADERS]))
    limit = data.draw(st.sampled_from([10, 44, 500]))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(transcript)), max_size=20)) | {0, len(transcript)})
    pieces = [transcript[start:end] for start, end in itertools.pairwise(cuts)]
    assert read(pieces, limit) == read([transcript], limit)


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_feed_is_total(pieces: list[bytes]) -> None:
    """No input makes the codec raise."""
    read(pieces, limit=100)


# Lines.


def test_lines_transcript() -> None:
    """Blank lines are ignored, and malformed lines are values among the others."""
    codec = Codec()
    values = codec.feed(LINES)
    kinds = [type(value) for value in values]
    assert kinds == [Request, Notification, Malformed, Malformed, Batch, Malformed, Response]
    (last,) = codec.eof()
    assert isinstance(last, Request)
    assert last.method == "last"


def test_unterminated_last_line_is_a_message() -> None:
    """The end of input completes the last line."""
    codec = Codec()
    assert codec.feed(PING) == []
    assert shown(codec.eof()) == [(b"1", "rpc.ping", b"")]
    assert codec.eof() == []


def test_nothing_sent() -> None:
    """No bytes give no messages."""
    assert Codec().eof() == []
    assert read([b""]) == []
    assert read([b"\n\r\n  \n"]) == []


@pytest.mark.parametrize("size", [64 * 1024, 1024 * 1024, 17 * 1024 * 1024])
def test_line_of_17_mib(size: int) -> None:
    """A line over the limit is refused once, and the next line is a message."""
    line = b'{"jsonrpc":"2.0","id":1,"method":"%b"}\n' % (b"x" * 17 * 1024 * 1024)
    transcript = line + PING + b"\n"
    pieces = [transcript[at : at + size] for at in range(0, len(transcript), size)]
    values = read(pieces)
    assert reasons(values) == ["message_too_large", b"1"]
    assert isinstance(values[0], tuple)
    assert str(MAX_LINE_BYTES) in str(values[0][1])


def test_line_of_exactly_the_limit() -> None:
    """The limit applies to a line without its newline."""
    for extra, expected in ((0, b"1"), (1, "message_too_large")):
        line = PING + b" " * extra + b"\n"
        assert reasons(read([line], limit=len(PING))) == [expected]
        assert reasons(read([line[:20], line[20:-1], b"\n"], limit=len(PING))) == [expected]
        assert reasons(read([line[:20], line[20:-1]], limit=len(PING))) == [expected]


def test_too_long_a_line_is_not_held() -> None:
    """The bytes of a skipped line are not buffered."""
    codec = Codec()
    piece = b"x" * 64 * 1024
    for _ in range(MAX_LINE_BYTES // len(piece)):
        assert codec.feed(piece) == []
    assert codec.buffered_bytes == MAX_LINE_BYTES
    assert len(codec.feed(piece)) == 1
    for _ in range(100):
        assert codec.feed(piece) == []
        assert codec.buffered_bytes == 0


def test_idle_holds_nothing() -> None:
    """Between messages, a codec buffers nothing and is small."""
    for transcript in (LINES + b"\n", HEADERS):
        codec = Codec(500)
        codec.feed(transcript)
        assert codec.buffered_bytes == 0
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    codecs = [Codec() for _ in range(1000)]
    for codec in codecs:
        codec.feed(PING + b"\n")
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert (after - before) / len(codecs) < 512


def seconds_to_hold(megabytes: int, size: int) -> float:
    """Measure the processor time of buffering one line in pieces; the best of three."""
    took = []
    for _ in range(3):
        codec = Codec()
        piece = b"x" * size
        start = time.process_time()
        for _ in range(megabytes * 1024 * 1024 // size):
            codec.feed(piece)
        took.append(time.process_time() - start)
    return min(took)


@pytest.mark.parametrize("size", [512, 64 * 1024])
def test_long_line_costs_its_length(size: int) -> None:
    """Buffering a line takes time proportional to its length."""
    assert seconds_to_hold(8, size) < 10 * seconds_to_hold(2, size) + 0.01


def test_many_lines_in_one_piece() -> None:
    """A pipelined read gives every message, in order."""
    lines = b"".join(b'{"jsonrpc":"2.0","id":%d,"method":"a"}\n' % number for number in range(1000))
    values = Codec().feed(lines)
    assert [value.id for value in values if isinstance(value, Request)] == [
        b"%d" % number for number in range(1000)
    ]


# Headers.


def test_headers_transcript() -> None:
    """Framed messages are read; an invalid one is refused once and the next one is read."""
    assert reasons(read([HEADERS], limit=500)) == [
        b"1",
        "parse_error",
        "invalid_request",
        "parse_error",
        "parse_error",
        "message_too_large",
        b"1",
    ]


def test_answers_use_the_framing_of_the_peer() -> None:
    """Answers use the peer's framing, and lines before its first byte."""
    codec = Codec()
    assert codec.frame(b"{}") == b"{}\n"
    codec.feed(b"Content-Length: 44\r\n\r\n" + PING)
    framed = codec.frame(PING)
    assert framed == b"Content-Length: 44\r\n\r\n" + PING
    assert shown(Codec().feed(framed)) == [(b"1", "rpc.ping", b"")]
    codec = Codec()
    codec.feed(PING + b"\n")
    assert codec.frame(b"{}") == b"{}\n"


def test_content_length_over_the_limit() -> None:
    """A body over the limit is skipped without being buffered."""
    codec = Codec(100)
    (value,) = codec.feed(b"Content-Length: 1000000000\r\n\r\nxxx")
    assert isinstance(value, Malformed)
    assert value.refusal.reason == "message_too_large"
    piece = b"x" * 1_000_000
    for _ in range(999):
        assert codec.feed(piece) == []
        assert codec.buffered_bytes == 0
    assert codec.feed(b"x" * 999_997) == []
    (value,) = codec.feed(b"Content-Length: 44\r\n\r\n" + PING)
    assert isinstance(value, Request)


@pytest.mark.parametrize("length", [b"-1", b"1.5", b"", b"x", b"9" * 30, b"1 2"])
def test_content_length_is_a_number(length: bytes) -> None:
    """Any other Content-Length is refused, and the connection continues."""
    good = b"Content-Length: 44\r\n\r\n" + PING
    values = read([b"Content-Length: " + length + b"\r\n\r\n" + good])
    assert reasons(values) == ["parse_error", b"1"]


def test_header_line_too_long() -> None:
    """An endless header line is not buffered."""
    codec = Codec()
    codec.feed(b"Content-Length: 44\r\n\r\n" + PING)
    values = [value for _ in range(10) for value in codec.feed(b"x" * MAX_HEADER_BYTES)]
    assert len(values) == 1
    assert codec.buffered_bytes <= MAX_HEADER_BYTES
    codec.feed(b"\r\n\r\n")
    (value,) = codec.feed(b"Content-Length: 44\r\n\r\n" + PING)
    assert isinstance(value, Request)


@pytest.mark.parametrize("cut", [b"Content-Le", b"Content-Length: 44\r\n\r\n{"])
def test_input_ends_inside_a_message(cut: bytes) -> None:
    """A message that is cut short is refused."""
    assert reasons(read([b"Content-Length: 44\r\n\r\n" + PING, cut])) == [b"1", "parse_error"]


def test_only_a_header_begins_like_one() -> None:
    """A first line that only begins like a header is a line."""
    for line in (b"C", b"content", b"Contents\n", b"Content-Lengthy: 5\n"):
        assert reasons(read([line])) == ["parse_error"]
    codec = Codec()
    codec.feed(b"content\n")
    assert shown(codec.feed(PING + b"\n")) == [(b"1", "rpc.ping", b"")]


@pytest.mark.parametrize("size", range(1, 6))
def test_a_byte_order_mark_is_ignored(size: int) -> None:
    """A byte order mark before the first message is ignored, in any pieces and framing."""
    mark = b"\xef\xbb\xbf"
    for message in (PING + b"\n", b"Content-Length: 44\r\n\r\n" + PING):
        data = mark + message
        assert reasons(read([data[start : start + size] for start in range(0, len(data), size)])) == [b"1"]
    assert reasons(read([mark])) == []


# One message at a time.


def test_both_sides_speak() -> None:
    """A codec reads the frames of another one, in both directions."""
    client, server = Codec(), Codec()
    (request,) = server.feed(client.frame(b'{"jsonrpc":"2.0","id":5,"method":"rpc.ping","params":{}}'))
    assert isinstance(request, Request)
    (response,) = client.feed(server.frame(wire.encode_result(request.id, b'{"version":"0"}')))
    assert isinstance(response, Response)
    assert json.loads(bytes(response.result)) == {"version": "0"}
