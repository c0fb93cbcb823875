"""Logs: structured, to stderr or to the systemd journal, never into the store.

A log call gives its fields as ``extra={"run_id": ...}``. They become ``key=value`` in text, members in
JSON, and ``KHEISH_RUN_ID=`` fields in the journal. Everything is scrubbed of known secrets on its way out.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import IO, Any, Final, Literal

from kheishd.core.text.scrub import Scrubber
from protocol.text import escape, escape_json, escape_line

Format = Literal["auto", "text", "json"]
LEVELS: Final = ("debug", "info", "warning", "error")
JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"

# A datagram may have as much as the socket's send buffer, 208 KiB by default; no message needs more.
MAX_MESSAGE_CHARACTERS: Final = 64 * 1024

_ORDINARY: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PRIORITY: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a log call gave as ``extra``."""
    return {key: value for key, value in vars(record).items() if key not in _ORDINARY}


def timestamp(seconds: float) -> str:
    """UTC, RFC 3339, to the millisecond."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"


class Text(logging.Formatter):
    """``2026-11-20T09:53:21.123Z info kheishd.daemon: message key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback's where there is one."""
        fields = "".join(f" {key}={escape_line(str(value))}" for key, value in fields_of(record).items())
        head = f"{timestamp(record.created)} {record.levelname.lower()} {record.name}: "
        # What has line breaks could pass for several messages; indented it cannot.
        message, trace = (
            escape(text).replace("\n", "\n    ") for text in (record.getMessage(), _trace(self, record))
        )
        return head + message + fields + trace


class Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, always."""
        import msgspec

        entry = {
            "at": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if trace := _trace(self, record):
            entry["exception"] = trace.strip()
        return escape_json(msgspec.json.encode(entry, enc_hook=str).decode())


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return "\n" + formatter.formatException(record.exc_info) if record.exc_info else ""


class StreamHandler(logging.Handler):
    """Writes scrubbed lines to a stream."""

    def __init__(self, stream: IO[str], formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.scrubber = Scrubber()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; a stream that is gone is no reason to stop."""
        try:
            self._stream.write(self.scrubber.scrub_log_line(self.format(record)) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return


class JournalHandler(logging.Handler):
    """Sends records to the systemd journal in its native protocol, fields and all."""

    def __init__(self, address: str = JOURNAL_SOCKET) -> None:
        super().__init__()
        self.scrubber = Scrubber()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        # A journal that is stuck must not stop the daemon: what does not fit is lost.
        self._socket.setblocking(False)
        self._socket.connect(address)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        message = record.getMessage() + _trace(logging.Formatter(), record)
        entry = {
            "MESSAGE": message[:MAX_MESSAGE_CHARACTERS],
            "PRIORITY": _PRIORITY.get(record.levelno, 5),
            "SYSLOG_IDENTIFIER": "kheishd",
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            **{f"KHEISH_{key.upper()}": value for key, value in fields_of(record).items()},
        }
        parts = [_journal_field(key, self.scrubber.scrub_text(str(value))) for key, value in entry.items()]
        try:
            self._socket.send(b"".join(parts))
        except OSError:
            return

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _journal_field(key: str, value: str) -> bytes:
    """``KEY=value``, or with a line break in the value: the key, its length in 8 bytes, the value."""
    content = value.encode(errors="replace")
    if "\n" not in value:
        return b"%s=%s\n" % (key.encode(), content)
    return b"%s\n%s%s\n" % (key.encode(), len(content).to_bytes(8, "little"), content)


def journal_is_stderr(environ: Mapping[str, str]) -> bool:
    """Whether stderr is a stream of the systemd journal: then its native protocol says more."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


class Logs:
    """The logs of one process: set up once, then told of new levels and new secrets."""

    def __init__(
        self,
        format_: Format,
        level: str,
        *,
        environ: Mapping[str, str] = os.environ,
        stream: IO[str] | None = None,
    ) -> None:
        self._handler = _handler(format_, environ, stream or sys.stderr)
        self._root = logging.getLogger()
        self._root.addHandler(self._handler)
        self.level(level)

    def level(self, level: str) -> None:
        """Log from this level upward."""
        self._root.setLevel(level.upper())

    def scrub(self, scrubber: Scrubber) -> None:
        """From now on, let no secret of these through."""
        self._handler.scrubber = scrubber

    def close(self) -> None:
        """Take the handler away again."""
        self._root.removeHandler(self._handler)
        self._handler.close()


def _handler(format_: Format, environ: Mapping[str, str], stream: IO[str]) -> StreamHandler | JournalHandler:
    if format_ == "auto" and journal_is_stderr(environ):
        try:
            return JournalHandler()
        except OSError:
            return StreamHandler(stream, Text())
    return StreamHandler(stream, Json() if format_ == "json" else Text())
