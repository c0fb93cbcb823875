"""The codec of a connection: split received bytes into messages, and frame messages to send. No I/O.

A peer's first bytes select one of two framings:

* **lines**: one message per line, ended by a newline (JSON ignores a carriage return before it);
* **headers**: ``Content-Length: <n>``, a blank line, ``n`` bytes, as editors send them.

A byte order mark before them, as in a file of requests that is piped in, is ignored.

Invalid input from a peer never raises. A frame over the limit becomes one ``Malformed``, and its bytes are
skipped without being buffered; any other error becomes ``Malformed``, too. The next frame is read normally.
Between frames the buffer is empty.
"""

from __future__ import annotations

from codecs import BOM_UTF8

from protocol.errors.rpc import MessageTooLarge, ParseError
from protocol.limits.rpc import MAX_HEADER_BYTES, MAX_LINE_BYTES
from protocol.rpc.wire import Decoded, Malformed, decode

_HEADER_STARTS = (b"content-length:", b"content-type:")
_BLANK = b" \t\r\n"


class Codec:
    """The codec of one connection, for the daemon or the client."""

    __slots__ = ("_framing", "_limit", "_start")

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._start = b""
        self._framing: _Lines | _Headers | None = None

    def feed(self, data: bytes) -> list[Decoded]:
        """Return the messages that ``data`` completes, in order; often none."""
        messages: list[Decoded] = []
        if self._framing is None:
            data = (self._start + data).removeprefix(BOM_UTF8)
            self._framing = _choose_framing(data, self._limit)
            if self._framing is None:
                self._start = data
                return messages
            self._start = b""
        self._framing.feed(data, messages)
        return messages

    def eof(self) -> list[Decoded]:
        """Return the messages that the end of input completes: the last line may lack its newline."""
        messages: list[Decoded] = []
        if self._framing is None:
            self._framing = _Lines(self._limit)
            self._framing.feed(self._start, messages)
        self._framing.end(messages)
        return messages

    def frame(self, body: bytes) -> bytes:
        """Return one message in the peer's framing."""
        if isinstance(self._framing, _Headers):
            return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        return body + b"\n"

    def clear(self) -> None:
        """Drop an unfinished message; only frames can be made from here on."""
        self._start = b""
        if self._framing is not None:
            self._framing.clear()

    @property
    def buffered_bytes(self) -> int:
        """The number of buffered bytes of an unfinished message; 0 between messages."""
        return len(self._start) + (self._framing.buffered_bytes if self._framing else 0)


def _choose_framing(data: bytes, limit: int) -> _Lines | _Headers | None:
    """Return the framing that the first bytes select; None while more bytes are needed to decide."""
    start = data[: max(map(len, _HEADER_STARTS))].lower()
    if BOM_UTF8.startswith(start):
        return None
    if start.startswith(_HEADER_STARTS):
        return _Headers(limit)
    if any(header.startswith(start) for header in _HEADER_STARTS):
        return None
    return _Lines(limit)


class _Lines:
    """A decoder of lines: buffers the current line, or skips the rest of one that is too long."""

    __slots__ = ("_buffer", "_limit", "_skipping")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer: bytearray | None = None
        self._skipping = False

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer or b"")

    def clear(self) -> None:
        self._buffer = None

    def feed(self, data: bytes, messages: list[Decoded]) -> None:
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and (self._buffer is not None or self._skipping):
            self._append(lines.pop(0), messages)
            self.end(messages)
        for line in lines:
            if len(line) > self._limit:
                messages.append(_make_size_error(self._limit))
            elif line:
                _decode_line(line, messages)
        if rest:
            self._append(rest, messages)

    def end(self, messages: list[Decoded]) -> None:
        """Complete the current line."""
        buffer, self._buffer = self._buffer, None
        self._skipping = False
        if buffer is not None:
            _decode_line(bytes(buffer), messages)

    def _append(self, piece: bytes, messages: list[Decoded]) -> None:
        if self._skipping:
            return
        if self.buffered_bytes + len(piece) > self._limit:
            self._buffer, self._skipping = None, True
            messages.append(_make_size_error(self._limit))
        elif self._buffer is None:
            self._buffer = bytearray(piece)
        else:
            # feed() searches only new bytes for a newline, so a long line takes linear time.
            self._buffer += piece


class _Headers:
    """A decoder of header blocks: buffers a header line or a body, or skips one that is too long.

    ``_length`` is the announced length; ``_in_body`` is set after the blank line. An invalid block is
    reported once (``_invalid``) and ends with a blank line, as a valid one does.
    """

    __slots__ = ("_buffer", "_in_body", "_invalid", "_length", "_limit", "_skip")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer: bytearray | None = None
        self._skip = 0
        self._length: int | None = None
        self._in_body = False
        self._invalid = False

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer or b"")

    def clear(self) -> None:
        self._buffer = None

    def feed(self, data: bytes, messages: list[Decoded]) -> None:
        buffer = self._buffer or bytearray()
        buffer += data
        position = 0
        while (end := self._consume(buffer, position, messages)) is not None:
            position = end
        del buffer[:position]
        self._buffer = buffer or None

    def end(self, messages: list[Decoded]) -> None:
        """Handle the end of input; a truncated message is an error."""
        if self._buffer is not None or self._in_body or self._length is not None:
            messages.append(_make_header_error("the input ended inside a message"))
        self._buffer = None

    def _consume(self, buffer: bytearray, position: int, messages: list[Decoded]) -> int | None:
        """Consume a header line or a body at ``position``; return its end, or None if bytes are missing."""
        ready = len(buffer) - position
        if self._skip:
            skipped = min(self._skip, ready)
            self._skip -= skipped
            return position + skipped if skipped else None
        if self._in_body:
            assert self._length is not None, "a body without Content-Length"
            end = position + self._length
            if end > len(buffer):
                return None
            messages.append(decode(bytes(memoryview(buffer)[position:end])))
            self._begin_block()
            return end
        newline = buffer.find(b"\n", position)
        if newline >= 0:
            self._read_header(bytes(buffer[position:newline]).strip(), messages)
            return newline + 1
        if ready > MAX_HEADER_BYTES:
            self._reject_block("a header line is too long", messages)
            return len(buffer)
        return None

    def _read_header(self, line: bytes, messages: list[Decoded]) -> None:
        name, colon, value = line.partition(b":")
        if not line:
            self._end_block(messages)
        elif self._invalid:
            pass
        elif not colon:
            self._reject_block("a header line must be 'Name: value'", messages)
        elif name.strip().lower() == b"content-length":
            if value.strip().isdigit() and len(value) <= 20:
                self._length = int(value)
            else:
                self._reject_block("Content-Length must be a number of bytes", messages)

    def _end_block(self, messages: list[Decoded]) -> None:
        if self._invalid or self._length is None:
            self._begin_block()
        elif self._length > self._limit:
            messages.append(_make_size_error(self._limit))
            skip = self._length
            self._begin_block()
            self._skip = skip
        else:
            self._in_body = True

    def _begin_block(self) -> None:
        self._length, self._in_body, self._invalid = None, False, False

    def _reject_block(self, text: str, messages: list[Decoded]) -> None:
        if not self._invalid:
            self._invalid = True
            messages.append(_make_header_error(text))


def _decode_line(line: bytes, messages: list[Decoded]) -> None:
    """Append the decoded line, unless it is blank."""
    message = decode(line)
    if type(message) is not Malformed or line.strip(_BLANK):
        messages.append(message)


def _make_size_error(limit: int) -> Malformed:
    text = f"the message exceeds {limit} bytes; put large content in a file in the workspace"
    return Malformed(MessageTooLarge(text))


def _make_header_error(text: str) -> Malformed:
    return Malformed(ParseError(f"{text}; a message is 'Content-Length: <bytes>', a blank line, the bytes"))
