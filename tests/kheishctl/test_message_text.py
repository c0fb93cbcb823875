"""The text of a message from the command line and standard input."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import click
import pytest

from kheishctl import message_text
from kheishctl.cli import App
from kheishctl.contract import MAX_INPUT_BYTES
from kheishctl.message_text import read_text
from kheishctl.options import NO_STDIN

APP = App(None, None, as_json=True)

OPENED: list[TextIO] = []
"""The streams that the current test made standard input."""


@pytest.fixture(autouse=True)
def context() -> Iterator[click.Context]:
    """Provide the context of a command, which is the current one, and restore standard input afterwards."""
    stdin = sys.stdin
    with click.Context(click.Command("send")) as ctx:
        yield ctx
    sys.stdin = stdin
    while OPENED:
        OPENED.pop().close()


def set_input(descriptor: int) -> None:
    """Make a descriptor standard input, in place of the previous one."""
    OPENED.append(open(descriptor, encoding="utf-8"))
    sys.stdin = OPENED[-1]


def set_pipe(content: bytes) -> int:
    """Make a pipe with some content standard input; return its open writing end."""
    reader, writer = os.pipe()
    os.write(writer, content)
    set_input(reader)
    return writer


def test_the_words_and_the_pipe() -> None:
    """The pipe's data follows the words; white space alone is no data."""
    os.close(set_pipe(b"diff\n"))
    assert read_text(APP, ("a", "b"), None) == "a b\n\ndiff\n"
    os.close(set_pipe(b" \n"))
    assert read_text(APP, ("a",), None) == "a"
    os.close(set_pipe(b"diff"))
    assert read_text(APP, ("-",), None) == "diff"


def test_a_silent_pipe_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe that stays open without data does not hang the command; a note names the remedies."""
    monkeypatch.setattr(message_text, "FIRST_BYTE_SECONDS", 0.01)
    writer = set_pipe(b"")
    assert read_text(APP, ("a",), None) == "a"
    note = capsys.readouterr().err
    assert "'-'" in note
    assert "--no-stdin" in note
    os.close(writer)


def test_a_terminal_waits_for_the_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person at a terminal sees that a slow pipe is waited for, and can end the wait."""
    monkeypatch.setattr(message_text, "FIRST_BYTE_SECONDS", 0.0)
    writer = set_pipe(b"")

    def isatty() -> bool:
        os.write(writer, b"late")
        os.close(writer)
        return True

    monkeypatch.setattr(sys.stderr, "isatty", isatty)
    assert read_text(APP, ("a",), None) == "a\n\nlate"
    assert "Waiting for standard input" in capsys.readouterr().err


def test_no_stdin(context: click.Context, tmp_path: Path) -> None:
    """With --no-stdin, a loop over the lines of a file keeps its lines."""
    (tmp_path / "lines").write_text("one\ntwo\n")
    descriptor = os.open(tmp_path / "lines", os.O_RDONLY)
    set_input(descriptor)
    context.meta[NO_STDIN] = True
    assert read_text(APP, ("a",), None) == "a"
    assert os.read(descriptor, 3) == b"one"


def test_devices_and_closed_streams_have_no_data() -> None:
    """A device such as /dev/zero is not read beside words, and neither is a closed stream."""
    set_input(os.open("/dev/zero", os.O_RDONLY))
    assert read_text(APP, ("a",), None) == "a"
    sys.stdin.close()
    assert read_text(APP, ("a",), None) == "a"


def test_input_without_end_is_refused() -> None:
    """Input is read up to the limit of a message only."""
    set_input(os.open("/dev/zero", os.O_RDONLY))
    with pytest.raises(click.UsageError, match="the limit is 128 KiB"):
        read_text(APP, ("-",), None)
    os.close(set_pipe(b"x"))
    with pytest.raises(click.UsageError, match="too large"):
        read_text(APP, ("a" * MAX_INPUT_BYTES, "-"), None)


def test_unsuitable_text() -> None:
    """An empty message, and bytes that are no text, are usage errors."""
    os.close(set_pipe(b"\xff"))
    with pytest.raises(click.UsageError, match="not UTF-8"):
        read_text(APP, ("a",), None)
    os.close(set_pipe(b" "))
    with pytest.raises(click.UsageError, match="no message for the agent 'x'"):
        read_text(APP, (), "x")
    with pytest.raises(click.UsageError, match="TEXT is not UTF-8"):
        read_text(APP, ("\udcff",), None)
