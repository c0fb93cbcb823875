"""Tests of desktop notices."""

import asyncio
from pathlib import Path

import pytest

from kheishctl.shell.notices import BELL, NoticeSender, choose_kind, format_sequence
from kheishctl.shell.settings import ChatSettings, NoticeKind

TITLE, TEXT = "default", "the answer is complete"


@pytest.mark.parametrize(
    ("environ", "kind"),
    [
        ({"TERM": "xterm-256color"}, "bell"),
        ({"TERM_PROGRAM": "WezTerm"}, "osc9"),
        ({"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}, "osc9"),
        ({"TERM": "foot"}, "osc777"),
        ({"TERM": "rxvt-unicode-256color"}, "osc777"),
        ({"TERM_PROGRAM": "WezTerm", "TMUX": "/tmp/tmux,1,0"}, "bell"),
        ({"TERM": "screen", "STY": "1.tty"}, "bell"),
        ({}, "bell"),
    ],
)
def test_kind(environ: dict[str, str], kind: NoticeKind) -> None:
    """The kind of notice is one that the terminal is known to show."""
    assert choose_kind(environ) == kind


@pytest.mark.parametrize(
    ("kind", "sequence"),
    [
        ("osc9", "\x1b]9;a;b: c␛]d;e\a"),
        ("osc777", "\x1b]777;notify;a,b;c␛]d,e\a"),
        ("bell", BELL),
        ("off", ""),
    ],
)
def test_sequence(kind: NoticeKind, sequence: str) -> None:
    """A notice is one sequence, whatever its text contains."""
    assert format_sequence(kind, "a;b", "c\x1b]d;e\r\n") == sequence
    assert len(format_sequence("osc9", "a", "x" * 9_999)) < 300


def notify(settings: ChatSettings, *, is_in_front: bool) -> tuple[str, list[str]]:
    """Ring and announce; return the output and the reports."""
    written: list[str] = []
    reports: list[str] = []

    async def main() -> None:
        notifier = NoticeSender(settings, {}, written.append, reports.append)
        notifier.is_in_front = is_in_front
        notifier.ring()
        for _ in range(2):
            notifier.announce(TITLE, TEXT)
            await asyncio.gather(*notifier.tasks)

    asyncio.run(main())
    return "".join(written), reports


def test_terminal_in_front() -> None:
    """A terminal in front gets the bell for a request, and no notice."""
    assert notify(ChatSettings(notice="osc9", notice_command=("false",)), is_in_front=True) == (BELL, [])


def test_terminal_in_the_back() -> None:
    """A terminal in the back gets a notice; ``off`` silences the bell as well."""
    assert notify(ChatSettings(notice="osc9"), is_in_front=False)[0].count("\x1b]9;default: the answer") == 2
    assert notify(ChatSettings(notice="off"), is_in_front=False) == ("", [])


def test_command(tmp_path: Path) -> None:
    """The command is run with the title and the text as its last arguments."""
    command = ("sh", "-c", 'echo "$1 says $2" >> "$0"', str(tmp_path / "notices"))
    assert notify(ChatSettings(notice="off", notice_command=command), is_in_front=False) == ("", [])
    assert (tmp_path / "notices").read_text() == f"{TITLE} says {TEXT}\n" * 2


def test_failing_command() -> None:
    """A command that fails is reported; one that does not exist is not tried again."""
    _, reports = notify(ChatSettings(notice_command=("false",)), is_in_front=False)
    assert reports == ["notice_command: false ended with code 1"] * 2
    _, reports = notify(ChatSettings(notice_command=("/nonexistent",)), is_in_front=False)
    assert reports == ["notice_command: /nonexistent: No such file or directory; it is not run again"]
