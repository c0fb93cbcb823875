"""Server-sent events, bytes in, data out (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Only the data is returned, because providers repeat the names of events in it; the data of an error is marked.
Lines are split as bytes, so a read may end inside a character. JSON behind events is returned, too,
because Google ends a broken stream with an error object on several lines without a field name.
"""

import re

# One event. A complete answer in one event, JSON-escaped and wrapped, takes less than a fourth of it.
MAX_EVENT_BYTES = 1024 * 1024

_LINE_END = re.compile(rb"[\r\n]")
_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"data:", b"event:", b"error:", b"id:", b"retry:", b":")


class ErrorEventData(bytes):
    """The data of an event that is called ``error``, or of a line ``error: ...``."""


class StrayData(bytes):
    """JSON behind events, on lines without a field name."""


class EventTooLarge(Exception):
    """An event exceeds MAX_EVENT_BYTES."""


class EventDecoder:
    """The decoder of one stream."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._began = False
        self._is_error = False
        self._stray: list[bytes] = []
        self._has_events = False

    def feed(self, received: bytes) -> list[bytes]:
        """Return the data of every event that these bytes complete.

        Errors: EventTooLarge.
        """
        buffer = received
        if self._rest:
            is_inside_line = self._began and self._rest[-1:] != b"\r" and not _LINE_END.search(received)
            self._rest += received
            if is_inside_line:
                # The line is not searched again: a server may send a megabyte of it byte by byte.
                self._require_size()
                return []
            buffer = bytes(self._rest)
        if not self._began:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                self._rest = bytearray(buffer)
                return []
            self._began, buffer = True, buffer.removeprefix(_BOM)
        if buffer[:6] == b"data: " and not (self._data or self._is_error or self._stray or b"\r" in buffer):
            # Most reads are events of one line of data, which one split finds.
            whole, end, rest = buffer[6:].rpartition(b"\n\n")
            events = whole.split(b"\n\ndata: ")
            if end and b"\n" not in b"".join((rest, *events)) and len(rest) + self._size <= MAX_EVENT_BYTES:
                self._rest, self._has_events = bytearray(rest), True
                return events
        # Bytes end their lines with LF, CR LF or CR only, as the specification has it.
        lines = buffer.splitlines()
        end = buffer[-1:]
        # A CR may be the first half of CR LF: its line ends with the next byte.
        self._rest = bytearray(b"" if end == b"\n" or not lines else lines.pop())
        self._rest += end if end == b"\r" else b""
        events = self._take(lines)
        self._require_size()
        return events

    def finish(self) -> list[bytes]:
        """Return the rest at the end of the stream: an event without its blank line."""
        return self._take([bytes(self._rest.rstrip(b"\r")), b""])

    def _require_size(self) -> None:
        if len(self._rest) + self._size > MAX_EVENT_BYTES:
            raise EventTooLarge

    def _take(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        # This runs for each line: slices are cheaper than calls of startswith.
        for line in lines:
            name = line[:5]
            if self._stray:
                if line and not line.startswith(_FIELDS):
                    self._stray.append(line)
                    self._size += len(line) + 1
                    continue
                events.append(StrayData(b"\n".join(self._stray)))
                self._stray = []
            if name == b"data:":
                value = line[6:] if line[5:6] == b" " else line[5:]
                self._data.append(value)
                self._size += len(value) + 1
            elif not name:
                if self._is_error:
                    events.append(ErrorEventData(b"\n".join(self._data)))
                    self._data, self._size, self._is_error = [], 0, False
                elif self._data:
                    events.append(b"\n".join(self._data))
                    self._data, self._size = [], 0
            elif name == b"event":
                if b"error" in line or self._is_error:
                    self._is_error = line.removeprefix(b"event:").strip() == b"error"
            elif line.startswith(b"error:"):
                events.append(ErrorEventData(line[6:].strip()))
            elif line.startswith((b"{", b"[")) and (events or self._has_events):
                self._stray.append(line)
                self._size += len(line) + 1
        self._has_events = self._has_events or bool(events)
        return events
