"""HTTP messages: the bytes of a request, and responses byte by byte, valid and not."""

from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.providers.http_errors import UnsendableRequest
from kheishd.providers.http_message import (
    MAX_COPIED_BYTES,
    MAX_HEAD_BYTES,
    ResponseParser,
    encode_request,
    make_headers,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
TWO = b"content-length: 2\r\n\r\nok"


def parse(*reads: bytes) -> ResponseParser:
    """Return a parser that processed these reads."""
    parser = ResponseParser()
    for read in reads:
        parser.feed(read)
    return parser


def test_a_request() -> None:
    """A request has the client's headers, then those of the driver, and its body."""
    headers = make_headers("api.test", {"authorization": "Bearer x", "accept": "a/b"}, 2)
    (message,) = encode_request("/v1?a=b", headers, (b"{}",))
    message = bytes(message)
    assert message.startswith(b"POST /v1?a=b HTTP/1.1\r\nhost: api.test\r\naccept: a/b\r\n")
    assert message.endswith(b"content-length: 2\r\nauthorization: Bearer x\r\n\r\n{}")


def test_a_long_body_is_not_copied() -> None:
    """A long body is a write of its own."""
    body = bytes(MAX_COPIED_BYTES + 1)
    headers = make_headers("api.test", {}, len(body))
    head, rest = encode_request("/v1", headers, (body,))
    assert bytes(head).endswith(b"content-length: 65537\r\n\r\n")
    assert rest is body


def test_a_body_in_parts() -> None:
    """The first part is written with the head, the others are writes of their own."""
    block = memoryview(b"block")
    head, *rest = encode_request("/v1", make_headers("api.test", {}, 7), (b"[", block, b"]"))
    assert bytes(head).endswith(b"content-length: 7\r\n\r\n[")
    assert rest == [block, b"]"]
    assert rest[0] is block


@pytest.mark.parametrize("value", ["\r\nx: y", "\n", "\0", " ", "\x7f", "\xe9", "\u20ac"])
def test_a_header_that_is_not_allowed(value: str) -> None:
    """A value that would split the request is refused, and not quoted, because it may be a credential."""
    with pytest.raises(UnsendableRequest, match="the header 'x-key' has a character") as raised:
        make_headers("api.test", {"x-key": f"secret{value}"}, 0)
    assert "secret" not in str(raised.value)
    with pytest.raises(UnsendableRequest):
        make_headers("api.test", {f"x{value}": "x"}, 0)


@pytest.mark.parametrize("headers", [{"transfer-encoding": "chunked"}, {"content-length": "1"}])
def test_a_header_about_another_length(headers: dict[str, str]) -> None:
    """A header that contradicts the length of the body is refused."""
    with pytest.raises(UnsendableRequest, match="contradicts the length"):
        make_headers("api.test", headers, 2)


@pytest.mark.parametrize("target", ["/a b", "/a\r\nb", "a", ""])
def test_a_target_that_is_not_allowed(target: str) -> None:
    """A path that would split the request is refused."""
    with pytest.raises(UnsendableRequest, match="path"):
        encode_request(target, {}, (b"",))


@pytest.mark.parametrize(
    ("response", "status", "body"),
    [
        (OK + b"x-empty:\r\n" + TWO, 200, b"ok"),
        (CHUNKED + b"1\r\no\r\n1;name=value\r\nk\r\n0;last\r\ntrailer: x\r\n\r\n", 200, b"ok"),
        (CHUNKED + b"2  \r\nok\r\n0\r\n\r\n", 200, b"ok"),
        (b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok", 200, b"ok"),
        (b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n" + OK + TWO, 200, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n", 304, b""),
    ],
)
def test_responses_that_keep_the_connection(response: bytes, status: int, body: bytes) -> None:
    """A whole response is read alike in one read and byte by byte, and its connection may be reused."""
    for reads in ([response], [bytes([byte]) for byte in response]):
        parser = parse(*reads)
        assert (parser.status, b"".join(parser.pieces)) == (status, body)
        assert parser.is_complete
        assert parser.may_reuse
        assert not {"x", "trailer"} & set(parser.headers), "of 1xx and trailers nothing is kept"


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n" + TWO,
        OK + b"connection: close\r\n" + TWO,
        OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\ncontent-length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        OK + TWO + b"x",
        OK + TWO + OK + TWO,
        OK + b"connection: close\r\n" + TWO + OK,
    ],
)
def test_responses_that_end_the_connection(response: bytes) -> None:
    """A response of doubtful length, or with bytes behind it, is read, and its connection not reused."""
    parser = parse(response)
    assert b"".join(parser.pieces) == b"ok"
    assert parser.is_complete
    assert parser.error is None
    assert not parser.may_reuse


def test_a_response_until_the_end() -> None:
    """A response without length ends with the connection, which is not reused."""
    for version in (b"1.0", b"1.1"):
        parser = parse(b"HTTP/" + version + b" 200 OK\r\n\r\nok")
        assert not parser.is_complete
        parser.feed(b"")
        assert parser.is_complete
        assert (parser.pieces, parser.may_reuse) == ([b"ok"], False)


def test_a_change_of_protocol() -> None:
    """An unasked change of protocol is the final response, and its connection is not reused."""
    parser = parse(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nabc")
    assert (parser.status, parser.is_complete, parser.pieces, parser.may_reuse) == (101, True, [], False)


@pytest.mark.parametrize(
    "response",
    [
        OK + b"content-length: 2\r\ncontent-length: 2\r\n\r\nok",
        OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nok",
        OK + b"content-length: 2, 2\r\n\r\nok",
        OK + b"content-length: -2\r\n\r\nok",
        OK + b"content-length: +2\r\n\r\nok",
        OK + b"content-length: two\r\n\r\nok",
        OK + b"content-length: 99999999999999999999\r\n\r\nok",
        OK + b"transfer-encoding: gzip\r\n\r\nok",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        OK + b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        OK + b"x: a\r\n b\r\n" + TWO,
        OK + b"x : a\r\n" + TWO,
        OK + b"x: a\0b\r\n" + TWO,
        OK + b"x: a\rcontent-length: 3\r\n" + TWO,
        CHUNKED + b"fffffffffffffffff\r\nok",
        CHUNKED + b"-2\r\nok\r\n0\r\n\r\n",
        CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n",
        CHUNKED + b"\r\n0\r\n\r\n",
        CHUNKED + b"1\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 99 x\r\n" + TWO,
        b"HTTP/1.1 2000 x\r\n" + TWO,
        b"SSH-2.0-OpenSSH\r\n",
        b"<html></html>",
        b"\x16\x03\x01",
    ],
)
def test_responses_that_are_invalid(response: bytes) -> None:
    """A response whose end two readers could place differently, or that is no HTTP, is an error."""
    parser = parse(response)
    assert not parser.is_complete
    assert "invalid HTTP: " in str(parser.error)
    assert not parser.may_reuse


@pytest.mark.parametrize(
    ("response", "has_head"),
    [
        (b"", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False),
        (OK, False),
        (OK + b"content-length: 3\r\n\r\nok", True),
        (CHUNKED + b"2\r\nok\r\n", True),
        (CHUNKED + b"2\r\nok\r\n0\r\n", True),
    ],
)
def test_responses_that_are_cut(response: bytes, has_head: bool) -> None:
    """A connection that ends before the response does is an error, never the end of the response."""
    parser = parse(response, b"") if response else parse(b"")
    assert not parser.is_complete
    assert str(parser.error) == f"the server closed it {'inside its' if has_head else 'without an'} answer"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (OK + b"x: ", b"y" * 1_000),
        (OK, b"x: y\r\n" * 100),
        (b"HTTP/1.1 ", b"0" * 1_000),
        (b"", b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" * 10),
        (b"", b"\r\n" * 1_000),
        (CHUNKED + b"2;", b"x" * 1_000),
        (CHUNKED + b"0\r\n", b"trailer: x\r\n" * 100),
        (CHUNKED, b"1;" + b"x" * 1_000 + b"\r\ny\r\n"),
    ],
)
def test_bytes_without_content_are_limited(begin: bytes, more: bytes) -> None:
    """An endless head, trailer, or series of chunk extensions or 1xx responses is an error."""
    parser = parse(begin)
    size = 0
    while parser.error is None:
        parser.feed(more)
        size += len(more)
        assert size <= MAX_HEAD_BYTES * 1.1 + len(more)
    assert not parser.is_complete


def test_a_long_body_is_no_overhead() -> None:
    """The size of a body, and of the chunks of one byte that it comes in, has no limit here."""
    parser = parse(CHUNKED)
    for _ in range(MAX_HEAD_BYTES // 100):
        parser.feed(b"1;extension\r\nx\r\n" * 20)
    parser.feed(b"0\r\n\r\n")
    assert parser.is_complete
    assert len(parser.pieces) == MAX_HEAD_BYTES // 100 * 20


def read_with_h11(response: bytes) -> tuple[int, bytes] | None:
    """Return the status and the body that another parser reads; None if it finds an error."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    client.send(h11.EndOfMessage())
    client.receive_data(response)
    client.receive_data(b"")
    status, body = 0, b""
    try:
        while True:
            event = client.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif not isinstance(event, h11.InformationalResponse):
                return (status, body) if isinstance(event, h11.EndOfMessage) else None
    except h11.RemoteProtocolError:
        return None


@given(
    parts=st.tuples(
        st.sampled_from([b"", b"HTTP/1.1 100 C\r\n\r\n", b"HTTP/1.1 103 E\r\nx: y\r\n\r\n"]),
        st.sampled_from([OK, b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 204 No\r\n", b"HTTP/1.1 500\n"]),
        st.sampled_from([b"", b"x: a\r\n", b"x: a\r\n b\r\n", b"connection: close\r\n", b"x : a\r\n"]),
        st.sampled_from(
            [b"", b"content-length: 5\r\n", b"content-length: 05\n", b"content-length: 5, 5\r\n"]
        ),
        st.sampled_from([b"", b"transfer-encoding: chunked\r\n", b"transfer-encoding: Gzip, chunked\r\n"]),
        st.sampled_from([b"\r\n", b"\n"]),
        st.sampled_from(
            [b"hello", b"hel", b"hello, more", b"5\r\nhello\r\n", b"5;a=b\r\nhello\r\n", b"5 \nhello"]
        ),
        st.sampled_from([b"", b"0\r\n\r\n", b"0\r\nt: u\r\n\r\n", b"0\r\n", b"00\r\n\r\nHTTP/1.1 200 OK"]),
    ),
    cuts=st.lists(st.integers(0, 200), max_size=4),
)
def test_any_response_at_any_cut(parts: tuple[bytes, ...], cuts: list[int]) -> None:
    """A response is read alike wherever it is cut; another parser that accepts it reads the same."""
    response = b"".join(parts)
    edges = [0, *sorted(min(cut, len(response)) for cut in cuts), len(response)]
    reads = [read for a, b in pairwise(edges) if (read := response[a:b])]
    outcomes = []
    for reads_of_it in ([response], reads):
        parser = ResponseParser()
        for read in (*reads_of_it, b""):
            if not parser.is_complete and parser.error is None:
                parser.feed(read)
        outcomes.append((parser.status, b"".join(parser.pieces)) if parser.is_complete else None)
    whole, cut = outcomes
    assert whole == cut
    assert whole is None or read_with_h11(response) in (None, whole)
