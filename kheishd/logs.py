"""Structured logs, to stderr or to the systemd journal, never into the store.

A log call passes fields as ``extra={"run_id": ...}``. They become ``key=value`` in text, members in JSON, and
``KHEISH_RUN_ID=`` fields in the journal. Known secrets are scrubbed from all output.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any, Final, Literal

from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.log_fields import current_log_fields
from protocol.text import escape, escape_json, escape_line

LogFormat = Literal["auto", "text", "json"]
JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"

# A datagram may have the size of the socket's send buffer, 208 KiB by default; no message needs more.
MAX_MESSAGE_CHARACTERS: Final = 64 * 1024

_STANDARD_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


def extract_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of the task that logs, and those that the log call passed as ``extra``."""
    extra = {key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS}
    return {**current_log_fields(), **extra}


def timestamp(seconds: float) -> str:
    """Return a time in UTC as RFC 3339, to the millisecond."""
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{second}.{int(seconds * 1000) % 1000:03d}Z"


class TextFormatter(logging.Formatter):
    """A formatter of ``2026-11-20T09:53:21.123Z info kheishd.daemon: message key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, followed by the lines of a traceback."""
        fields = "".join(f" {key}={escape_line(str(value))}" for key, value in extract_fields(record).items())
        head = f"{timestamp(record.created)} {record.levelname.lower()} {record.name}: "
        # Indented, so that a message with line breaks cannot look like several messages.
        message, trace = (
            escape(text).replace("\n", "\n    ")
            for text in (record.getMessage(), _format_traceback(self, record))
        )
        return head + message + fields + trace


class JsonFormatter(logging.Formatter):
    """A formatter of one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        import msgspec

        entry = {
            "at": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **extract_fields(record),
        }
        if trace := _format_traceback(self, record):
            entry["exception"] = trace.strip()
        return escape_json(msgspec.json.encode(entry, enc_hook=str).decode())


def _format_traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return "\n" + formatter.formatException(record.exc_info) if record.exc_info else ""


class StreamHandler(logging.Handler):
    """A handler that writes scrubbed lines to a stream."""

    def __init__(self, stream: IO[str], formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.scrubber = Scrubber()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; errors of the stream are ignored."""
        try:
            self._stream.write(self.scrubber.scrub_text(self.format(record)) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return


class JournalHandler(logging.Handler):
    """A handler that sends records to the systemd journal in its native protocol, with their fields."""

    def __init__(self, address: str = JOURNAL_SOCKET) -> None:
        super().__init__()
        self.scrubber = Scrubber()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        # A blocked journal must not block the daemon; records are dropped instead.
        self._socket.setblocking(False)
        self._socket.connect(address)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; errors of the socket are ignored."""
        message = record.getMessage() + _format_traceback(logging.Formatter(), record)
        entry = {
            # Scrubbed before it is cut: the rest of a secret would not be recognized.
            "MESSAGE": self.scrubber.scrub_text(message)[:MAX_MESSAGE_CHARACTERS],
            "PRIORITY": _PRIORITIES.get(record.levelno, 5),
            "SYSLOG_IDENTIFIER": "kheishd",
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            **{f"KHEISH_{key.upper()}": value for key, value in extract_fields(record).items()},
        }
        parts = [_encode_field(key, self.scrubber.scrub_text(str(value))) for key, value in entry.items()]
        try:
            self._socket.send(b"".join(parts))
        except OSError:
            return

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _encode_field(key: str, value: str) -> bytes:
    """Return ``KEY=value``; for a value with line breaks, the key, the length in 8 bytes, the value."""
    content = value.encode(errors="replace")
    if "\n" not in value:
        return b"%s=%s\n" % (key.encode(), content)
    return b"%s\n%s%s\n" % (key.encode(), len(content).to_bytes(8, "little"), content)


def journal_is_stderr(environ: Mapping[str, str]) -> bool:
    """Whether stderr leads to the systemd journal."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class Logs:
    """The logs of the process, whose level and secrets can change."""

    def __init__(
        self,
        format_: LogFormat,
        level: str,
        *,
        environ: Mapping[str, str] = os.environ,
        stream: IO[str] | None = None,
    ) -> None:
        formatter = JsonFormatter() if format_ == "json" else TextFormatter()
        self._handler: StreamHandler | JournalHandler = StreamHandler(stream or sys.stderr, formatter)
        # The native protocol of the journal keeps fields and priorities.
        if format_ == "auto" and journal_is_stderr(environ):
            with suppress(OSError):
                self._handler = JournalHandler()
        self._root = logging.getLogger()
        self._root.addHandler(self._handler)
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Log this level and higher ones."""
        self._root.setLevel(level.upper())

    def scrub(self, scrubber: Scrubber) -> None:
        """Replace the scrubber of all output."""
        self._handler.scrubber = scrubber

    def close(self) -> None:
        """Remove the handler."""
        self._root.removeHandler(self._handler)
        self._handler.close()
