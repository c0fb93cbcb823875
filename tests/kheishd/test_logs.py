"""Logs: every form of them, with their fields, without secrets."""

import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheishd.core.text.scrub import Scrubber
from kheishd.logs import Format, JournalHandler, Logs, journal_is_stderr, timestamp

log = logging.getLogger("kheishd.test")


@pytest.fixture(autouse=True)
def _level() -> Iterator[None]:
    """The root logger is the process's: put its level back."""
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)


class Written:
    """Logs into a string."""

    def __init__(self, form: Format, level: str = "info") -> None:
        self.stream = io.StringIO()
        self.logs = Logs(form, level, environ={}, stream=self.stream)

    def lines(self) -> list[str]:
        """What was written, when all is said."""
        self.logs.close()
        return self.stream.getvalue().splitlines()


def test_text_says_when_how_grave_who_what_and_its_fields() -> None:
    """One line for people and grep."""
    written = Written("text")
    log.warning("took %d ms", 5, extra={"run_id": "run_1"})
    (line,) = written.lines()
    time, rest = line.split(" ", 1)
    assert rest == "warning kheishd.test: took 5 ms run_id=run_1"
    assert time.endswith("Z")


def test_a_message_cannot_pass_for_two() -> None:
    """What came from outside may hold line breaks; they are indented."""
    written = Written("text")
    log.info("a\n2026-01-01T00:00:00.000Z error forged")
    assert written.lines()[1].startswith("    2026")


def test_no_field_or_traceback_passes_for_a_message() -> None:
    """Line breaks in a field are escapes; a traceback is indented, whatever the error says."""
    written = Written("text")
    try:
        raise ValueError("x\n2026-01-01T00:00:00.000Z error forged")
    except ValueError:
        log.exception("failed", extra={"path": "a\n2026-01-01T00:00:00.000Z error forged"})
    first, *rest = written.lines()
    assert first.endswith("failed path=a\\n2026-01-01T00:00:00.000Z error forged")
    assert all(line.startswith("    ") for line in rest)


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_that_is_logged_acts_on_a_terminal(form: Format) -> None:
    """An agent's file may be called anything, and a provider may say anything."""
    written = Written(form)
    try:
        raise ValueError("\x1b[2J\x9b2J")
    except ValueError:
        log.exception("\x1b]0;x\x07 \u202e", extra={"path": "\x9b2J"})
    text = "\n".join(written.lines())
    assert not any(character in text for character in "\x1b\x07\x9b\u202e")


def test_json_is_one_object_a_line() -> None:
    """With fields as members, and the traceback inside the line."""
    written = Written("json")
    try:
        raise KeyError("k")
    except KeyError:
        log.exception("it\nfailed", extra={"path": Path("/x")})
    (line,) = written.lines()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"], entry["path"]) == (
        "error",
        "kheishd.test",
        "it\nfailed",
        "/x",
    )
    assert "KeyError: 'k'" in entry["exception"]


def test_levels() -> None:
    """Below the level nothing is written; it can change while running."""
    written = Written("text", "warning")
    log.info("not this")
    written.logs.level("debug")
    log.debug("but this")
    assert [line.rsplit(" ", 2)[-2:] for line in written.lines()] == [["but", "this"]]


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_scrubbed(form: Format) -> None:
    """From messages, fields and tracebacks alike."""
    written = Written(form)
    written.logs.scrub(Scrubber(["sk-secret-value"]))
    try:
        raise ValueError("key sk-secret-value refused")
    except ValueError:
        log.exception("with sk-secret-value", extra={"key": "sk-secret-value"})
    text = "\n".join(written.lines())
    assert "sk-secret-value" not in text
    assert text.count("[scrubbed]") >= 3


def test_a_stream_that_is_gone_is_no_reason_to_stop() -> None:
    """Somebody closed the terminal: work goes on."""
    written = Written("text")
    written.stream.close()
    log.info("into the void")
    written.logs.close()


def test_a_time() -> None:
    """UTC, to the millisecond."""
    assert timestamp(1_763_632_401.1239) == "2025-11-20T09:53:21.123Z"


def test_the_journals_native_protocol(tmp_path: Path) -> None:
    """Fields by name, line breaks by length, the level as a syslog priority, secrets gone."""
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


def test_whether_stderr_is_the_journal() -> None:
    """Only when the variable names this very descriptor: it is inherited by everything we start."""
    found = os.fstat(2)
    assert journal_is_stderr({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
    assert not journal_is_stderr({"JOURNAL_STREAM": "1:1"})
    assert not journal_is_stderr({})
