"""HTTP/1.1 messages of a client: the bytes of a request, and the parser of its response.

The parser is llhttp, the one of Node.js, in its strict mode with three exceptions, which servers need:

* Lines of the head may end with LF alone.
* A size of a chunk may be followed by blanks.
* A response may have a length besides its chunks: the chunks count, and the connection is not reused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from kheishd.providers.http_errors import ConnectionBroken, UnsendableRequest
from protocol.limits.units import KIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A head, and everything else that is not the body: 1xx responses, sizes and extensions of chunks, trailers.
# A body raises the limit by a multiple of its size, because one byte in a chunk of its own takes six.
MAX_HEAD_BYTES = 100 * 1024
MAX_CHUNKING_RATIO = 16

MAX_COPIED_BYTES = 64 * KIB
"""A longer part of a body is written by itself: a copy of a megabyte costs more than another write."""

_NAME = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_VALUE = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?")
_TARGET = re.compile(r"/[!-~]*")
_WITHOUT_BODY = (204, 304)


def make_headers(host: str, extra: Mapping[str, str], body_bytes: int) -> dict[str, str]:
    """Return the headers of a request. Errors: UnsendableRequest for ``extra`` ones that HTTP forbids."""
    headers = {
        "host": host,
        "accept": "text/event-stream, application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(body_bytes),
        **extra,
    }
    for name, value in headers.items():
        # The message must not quote the value, which may be a credential.
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise UnsendableRequest(f"the header {name!r} has a character that HTTP does not allow")
    if "transfer-encoding" in headers or headers["content-length"] != str(body_bytes):
        raise UnsendableRequest("a header contradicts the length of the body")
    return headers


def encode_request(
    target: str, headers: Mapping[str, str], parts: Sequence[bytes | memoryview]
) -> Sequence[bytes | memoryview]:
    """Return the writes of a POST request. Errors: UnsendableRequest for a target that is no path."""
    if not _TARGET.fullmatch(target):
        raise UnsendableRequest("the path of the URL has a character that HTTP does not allow")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {target} HTTP/1.1\r\n{lines}\r\n".encode("ascii")
    return (head + parts[0], *parts[1:]) if len(parts[0]) <= MAX_COPIED_BYTES else (head, *parts)


class ResponseParser:
    """The parser of one response.

    ``pieces`` are the parts of the body, which the reader removes. A violation of HTTP, or the end of the
    connection, is the ``error`` after the pieces. Once the response ``is_complete``, ``may_reuse`` tells
    whether the next request may use its connection.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.has_head = False
        self.is_complete = False
        self.may_reuse = False
        self.error: ConnectionBroken | None = None
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append
        self._is_until_end = False
        self._overhead_bytes = 0
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
            lenient_chunked_length=True,
        )

    def feed(self, data: bytes | bytearray) -> None:
        """Process received bytes; none are the end of the connection."""
        if not data:
            self._end()
            return
        old_pieces = len(self.pieces)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self.may_reuse = False
        except HttpParserError as error:
            # Bytes after the response are not read as the next one.
            self.may_reuse = False
            if not self.is_complete:
                # An error of a method below is the context of the parser's own.
                self.error = ConnectionBroken(f"invalid HTTP: {error.__context__ or error}")
        body_bytes = sum(map(len, self.pieces[old_pieces:]))
        self._overhead_bytes += len(data) - (1 + MAX_CHUNKING_RATIO) * body_bytes
        if self._overhead_bytes > MAX_HEAD_BYTES and not self.is_complete:
            self.error = ConnectionBroken(f"more than {MAX_HEAD_BYTES} bytes of HTTP without content")

    def _end(self) -> None:
        if self._is_until_end:
            self.is_complete = True
        elif not self.has_head:
            self.error = ConnectionBroken("the server closed it without an answer")
        elif not self.is_complete:
            self.error = ConnectionBroken("the server closed it inside its answer")

    # The parser calls these.

    def on_message_begin(self) -> None:
        """Begin a response, after one of 1xx or none."""
        if self.is_complete:
            raise ValueError("bytes after the response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Process a header; trailers are ignored."""
        if self.has_head:
            return
        key, content = name.decode("latin-1").lower(), value.decode("latin-1")
        if key == "transfer-encoding" and key in self.headers:
            content = f"{self.headers[key]}, {content}"
        self.headers[key] = content

    def on_headers_complete(self) -> None:
        """Process the end of a head; forget that of a 1xx response, which announces another one."""
        self.status = self._parser.get_status_code()
        if 100 <= self.status <= 199 and self.status != 101:
            self.headers.clear()
            return
        self.has_head = True
        encoding = self.headers.get("transfer-encoding")
        if encoding is not None and encoding.strip().lower() != "chunked":
            raise ValueError(f"the transfer encoding {encoding!r}")
        has_length = encoding is not None or "content-length" in self.headers
        self._is_until_end = not has_length and self.status not in (101, *_WITHOUT_BODY)

    def on_message_complete(self) -> None:
        """Process the end of a response."""
        if self.has_head:
            self.is_complete = True
            is_ambiguous = "transfer-encoding" in self.headers and "content-length" in self.headers
            has_version = self._parser.get_http_version() == "1.1"
            self.may_reuse = has_version and not is_ambiguous and self._parser.should_keep_alive()
