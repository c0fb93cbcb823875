"""Every format of the logs, with fields and without secrets."""

import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheishd.core.text.scrub import Scrubber
from kheishd.logs import JournalHandler, LogFormat, Logs, journal_is_stderr, timestamp

log = logging.getLogger("kheishd.test")


@pytest.fixture(autouse=True)
def _level() -> Iterator[None]:
    """Restore the level of the root logger, which belongs to the process."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


class CapturedLogs:
    """Logs captured to a string."""

    def __init__(self, form: LogFormat, level: str = "info") -> None:
        self.stream = io.StringIO()
        self.logs = Logs(form, level, environ={}, stream=self.stream)

    def lines(self) -> list[str]:
        """Close the logs and return the lines."""
        self.logs.close()
        return self.stream.getvalue().splitlines()


def test_text() -> None:
    """A line has the time, the level, the logger, the message and the fields."""
    captured = CapturedLogs("text")
    log.warning("took %d ms", 5, extra={"run_id": "run_1"})
    (line,) = captured.lines()
    time, rest = line.split(" ", 1)
    assert rest == "warning kheishd.test: took 5 ms run_id=run_1"
    assert time.endswith("Z")


def test_messages_with_line_breaks() -> None:
    """Line breaks in a message are indented, so that it cannot look like two messages."""
    captured = CapturedLogs("text")
    log.info("a\n2026-01-01T00:00:00.000Z error forged")
    assert captured.lines()[1].startswith("    2026")


def test_fields_and_tracebacks_with_line_breaks() -> None:
    """Line breaks in a field are escaped, and those in a traceback are indented."""
    captured = CapturedLogs("text")
    try:
        raise ValueError("x\n2026-01-01T00:00:00.000Z error forged")
    except ValueError:
        log.exception("failed", extra={"path": "a\n2026-01-01T00:00:00.000Z error forged"})
    first, *rest = captured.lines()
    assert first.endswith("failed path=a\\n2026-01-01T00:00:00.000Z error forged")
    assert all(line.startswith("    ") for line in rest)


@pytest.mark.parametrize("form", ["text", "json"])
def test_terminal_sequences_are_escaped(form: LogFormat) -> None:
    """Control characters in messages, fields and errors are escaped."""
    captured = CapturedLogs(form)
    try:
        raise ValueError("\x1b[2J\x9b2J")
    except ValueError:
        log.exception("\x1b]0;x\x07 \u202e", extra={"path": "\x9b2J"})
    text = "\n".join(captured.lines())
    assert not any(character in text for character in "\x1b\x07\x9b\u202e")


def test_json() -> None:
    """A record is one object on one line, with fields as members and the traceback inside."""
    captured = CapturedLogs("json")
    try:
        raise KeyError("k")
    except KeyError:
        log.exception("it\nfailed", extra={"path": Path("/x")})
    (line,) = captured.lines()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"], entry["path"]) == (
        "error",
        "kheishd.test",
        "it\nfailed",
        "/x",
    )
    assert "KeyError: 'k'" in entry["exception"]


def test_levels() -> None:
    """Records below the level are not captured; the level can change."""
    captured = CapturedLogs("text", "warning")
    log.info("not this")
    captured.logs.set_level("debug")
    log.debug("but this")
    assert [line.rsplit(" ", 2)[-2:] for line in captured.lines()] == [["but", "this"]]


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_scrubbed(form: LogFormat) -> None:
    """Secrets are scrubbed from messages, fields and tracebacks."""
    captured = CapturedLogs(form)
    captured.logs.scrub(Scrubber(["sk-secret-value"]))
    try:
        raise ValueError("key sk-secret-value refused")
    except ValueError:
        log.exception("with sk-secret-value", extra={"key": "sk-secret-value"})
    text = "\n".join(captured.lines())
    assert "sk-secret-value" not in text
    assert text.count("[scrubbed]") >= 3


def test_closed_stream() -> None:
    """A closed stream causes no error."""
    captured = CapturedLogs("text")
    captured.stream.close()
    log.info("into the void")
    captured.logs.close()


def test_timestamp() -> None:
    """A time is in UTC, to the millisecond."""
    assert timestamp(1_763_632_401.1239) == "2025-11-20T09:53:21.123Z"


def test_native_protocol_of_the_journal(tmp_path: Path) -> None:
    """Fields are sent by name, line breaks by length, levels as syslog priorities, secrets scrubbed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.settimeout(5)
        handler = JournalHandler(str(tmp_path / "journal"))
        handler.scrubber = Scrubber(["sk-secret-value"])
        record = log.makeRecord(
            log.name,
            logging.ERROR,
            "f.py",
            7,
            "two\nlines sk-secret-value",
            (),
            None,
            extra={"run_id": "run_1"},
        )
        handler.emit(record)
        datagram = journal.recv(65536)
        handler.close()
    message = b"two\nlines [scrubbed]"
    assert b"MESSAGE\n" + len(message).to_bytes(8, "little") + message + b"\n" in datagram
    assert b"PRIORITY=3\n" in datagram
    assert b"KHEISH_RUN_ID=run_1\n" in datagram
    assert b"SYSLOG_IDENTIFIER=kheishd\n" in datagram


def test_journal_is_stderr() -> None:
    """The variable must name stderr itself, because child processes inherit it."""
    status = os.fstat(2)
    assert journal_is_stderr({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    assert not journal_is_stderr({"JOURNAL_STREAM": "1:1"})
    assert not journal_is_stderr({})
