"""Framing: bytes in, messages out. No I/O: the owner of the socket feeds the bytes that it read.

A peer's first bytes select one of two framings:

* **lines**: one message per line, ended by a newline (JSON ignores a carriage return before it);
* **headers**: ``Content-Length: <n>``, a blank line, ``n`` bytes, as editors send them.

Nothing here raises for input from a peer. A frame over the limit becomes one ``Malformed``, and its bytes are
skipped without being buffered; any other error becomes ``Malformed``, too. The next frame is read normally.
Between frames the buffer is empty.
"""

from __future__ import annotations

from protocol.errors.rpc import MessageTooLarge, ParseError
from protocol.limits.rpc import MAX_HEADER_BYTES, MAX_LINE_BYTES
from protocol.rpc.wire import Malformed, Value, decode

_HEADER_STARTS = (b"content-length:", b"content-type:")
_BLANK = b" \t\r\n"


class Codec:
    """The framing of one connection, on either side of it."""

    __slots__ = ("_first", "_framing", "_limit")

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._first = b""
        self._framing: _Lines | _Headers | None = None

    def feed(self, data: bytes) -> list[Value]:
        """Return the messages that ``data`` completes, in order; often none."""
        values: list[Value] = []
        if self._framing is None:
            data = self._first + data
            self._framing = _choose(data, self._limit)
            if self._framing is None:
                self._first = data
                return values
            self._first = b""
        self._framing.feed(data, values)
        return values

    def eof(self) -> list[Value]:
        """Return the messages that the end of input completes: a last line needs no newline."""
        values: list[Value] = []
        if self._framing is None:
            self._framing = _Lines(self._limit)
            self._framing.feed(self._first, values)
        self._framing.end(values)
        return values

    def frame(self, body: bytes) -> bytes:
        """Return one message in the peer's framing."""
        if isinstance(self._framing, _Headers):
            return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        return body + b"\n"

    @property
    def held_bytes(self) -> int:
        """The number of buffered bytes of an unfinished message; 0 between messages."""
        return len(self._first) + (self._framing.held_bytes if self._framing else 0)


def _choose(data: bytes, limit: int) -> _Lines | _Headers | None:
    """Return the framing that the first bytes select; None while they may still become a header."""
    start = data[: max(map(len, _HEADER_STARTS))].lower()
    if start.startswith(_HEADER_STARTS):
        return _Headers(limit)
    if any(header.startswith(start) for header in _HEADER_STARTS):
        return None
    return _Lines(limit)


class _Lines:
    """A decoder of lines: buffers the current line, or skips the rest of one that is too long."""

    __slots__ = ("_held", "_limit", "_skipping")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: bytearray | None = None
        self._skipping = False

    @property
    def held_bytes(self) -> int:
        return len(self._held or b"")

    def feed(self, data: bytes, values: list[Value]) -> None:
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and (self._held is not None or self._skipping):
            self._hold(lines.pop(0), values)
            self.end(values)
        for line in lines:
            if len(line) > self._limit:
                values.append(_too_large(self._limit))
            elif line:
                _decode_line(line, values)
        if rest:
            self._hold(rest, values)

    def end(self, values: list[Value]) -> None:
        """Complete the current line."""
        held, self._held = self._held, None
        self._skipping = False
        if held is not None:
            _decode_line(bytes(held), values)

    def _hold(self, piece: bytes, values: list[Value]) -> None:
        if self._skipping:
            return
        if self.held_bytes + len(piece) > self._limit:
            self._held, self._skipping = None, True
            values.append(_too_large(self._limit))
        elif self._held is None:
            self._held = bytearray(piece)
        else:
            # Only what is new was searched for a newline, so a long line costs its length once.
            self._held += piece


class _Headers:
    """A decoder of header blocks: buffers a header line or a body, or skips one that is too long.

    ``_length`` is the announced length; ``_in_body`` is set after the blank line. An invalid block is
    reported once (``_bad``) and ends, like any other, with a blank line.
    """

    __slots__ = ("_bad", "_held", "_in_body", "_length", "_limit", "_skip")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: bytearray | None = None
        self._skip = 0
        self._length: int | None = None
        self._in_body = False
        self._bad = False

    @property
    def held_bytes(self) -> int:
        return len(self._held or b"")

    def feed(self, data: bytes, values: list[Value]) -> None:
        held = self._held or bytearray()
        held += data
        position = 0
        while (end := self._step(held, position, values)) is not None:
            position = end
        del held[:position]
        self._held = held or None

    def end(self, values: list[Value]) -> None:
        """Handle the end of input; a message that is cut short is an error."""
        if self._held is not None or self._in_body or self._length is not None:
            values.append(_bad_header("the input ended inside a message"))
        self._held = None

    def _step(self, held: bytearray, position: int, values: list[Value]) -> int | None:
        """Consume one element from ``position``; return its end, or None if more bytes are needed."""
        ready = len(held) - position
        if self._skip:
            skipped = min(self._skip, ready)
            self._skip -= skipped
            return position + skipped if skipped else None
        if self._in_body:
            assert self._length is not None, "a body follows a length"
            end = position + self._length
            if end > len(held):
                return None
            values.append(decode(bytes(memoryview(held)[position:end])))
            self._begin_block()
            return end
        newline = held.find(b"\n", position)
        if newline >= 0:
            self._header(bytes(held[position:newline]).strip(), values)
            return newline + 1
        if ready > MAX_HEADER_BYTES:
            self._complain("a header line is too long", values)
            return len(held)
        return None

    def _header(self, line: bytes, values: list[Value]) -> None:
        name, colon, value = line.partition(b":")
        if not line:
            self._blank_line(values)
        elif self._bad:
            pass
        elif not colon:
            self._complain("a header line is 'Name: value'", values)
        elif name.strip().lower() == b"content-length":
            if value.strip().isdigit() and len(value) <= 20:
                self._length = int(value)
            else:
                self._complain("Content-Length is a number of bytes", values)

    def _blank_line(self, values: list[Value]) -> None:
        if self._bad or self._length is None:
            self._begin_block()
        elif self._length > self._limit:
            values.append(_too_large(self._limit))
            skip = self._length
            self._begin_block()
            self._skip = skip
        else:
            self._in_body = True

    def _begin_block(self) -> None:
        self._length, self._in_body, self._bad = None, False, False

    def _complain(self, text: str, values: list[Value]) -> None:
        if not self._bad:
            self._bad = True
            values.append(_bad_header(text))


def _decode_line(line: bytes, values: list[Value]) -> None:
    """Append the value of a line, unless it is blank."""
    value = decode(line)
    if type(value) is not Malformed or line.strip(_BLANK):
        values.append(value)


def _too_large(limit: int) -> Malformed:
    text = f"the message exceeds {limit} bytes; put large content in a file in the workspace"
    return Malformed(MessageTooLarge(text))


def _bad_header(text: str) -> Malformed:
    return Malformed(ParseError(f"{text}; a message is 'Content-Length: <bytes>', a blank line, the bytes"))
