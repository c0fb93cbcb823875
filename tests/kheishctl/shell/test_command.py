"""Tests of ``kheishctl chat`` before the chat starts."""

from pathlib import Path

from kheishctl import exit_codes
from tests.support.ctl import Ctl


def test_chat_needs_a_terminal(ctl: Ctl) -> None:
    """In a pipe, the chat is refused with the command that is made for pipes."""
    done = ctl("chat")
    assert done.code == exit_codes.USAGE
    assert "kheishctl send" in done.err


def test_chat_needs_a_terminal_before_a_daemon(tmp_path: Path) -> None:
    """No daemon is started for a chat that is refused."""
    assert Ctl(tmp_path)("chat", "--spawn").code == exit_codes.USAGE
    assert list(tmp_path.iterdir()) == []
