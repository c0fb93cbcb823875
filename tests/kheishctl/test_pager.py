"""The pager."""

import sys
from pathlib import Path

import pytest

from kheishctl.pager import show_in_pager
from tests.support.ctl import Ctl
from tests.support.terminal import Terminal


@pytest.fixture
def pager(tmp_path: Path) -> str:
    """Return a pager that prints its input between two marks."""
    script = tmp_path / "pager"
    script.write_text("#!/bin/sh\necho begin $LESS; cat; echo end\n")
    script.chmod(0o755)
    return str(script)


def show_long_output(home: Path, pager: str, *options: str, rows: int = 5) -> tuple[str, int]:
    """Return the screen and the exit code of a command with about ten lines of output."""
    command = [sys.executable, "-m", "kheishctl", "--home", str(home), "status", *options]
    with Terminal(command, {"PAGER": pager}, rows=rows) as terminal:
        code = terminal.ends()
        return terminal.text, code


def test_long_output_is_paged(ctl: Ctl, pager: str) -> None:
    """A terminal shows text that is longer than itself in $PAGER, with colors and without clearing."""
    text, code = show_long_output(ctl.home, pager)
    assert (code, "begin FRX" in text, text.rstrip().endswith("end")) == (0, True, True)


def test_short_output_and_no_pager(ctl: Ctl, pager: str) -> None:
    """Output that fits, --no-pager, an empty PAGER and one that does not exist print directly."""
    assert "begin" not in show_long_output(ctl.home, pager, rows=200)[0]
    assert "begin" not in show_long_output(ctl.home, pager, "--no-pager")[0]
    for value in ("", "cat", "/no/such/pager", "'"):
        text, code = show_long_output(ctl.home, value)
        assert (code, "version" in text) == (0, True), value


def test_a_pipe_is_not_paged(ctl: Ctl, pager: str) -> None:
    """In a pipe nothing is paged."""
    assert "begin" not in ctl("status", PAGER=pager).out


def test_a_pager_that_is_left_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving the pager before the end is no error; a pager that cannot be run is none."""
    monkeypatch.setenv("PAGER", "true")
    assert show_in_pager("x" * 1_000_000)
    monkeypatch.setenv("PAGER", "sh -c 'exit 127'")
    assert not show_in_pager("x")
