"""The progress of a command that takes long."""

import io
import sys
import threading
from pathlib import Path

import pytest

from kheishctl import progress as module
from kheishctl.cli import App
from kheishctl.progress import measure_path, progress


class FakeTerminal(io.StringIO):
    """A terminal; ``has_drawn`` is set by the first line."""

    def __init__(self, is_terminal: bool = True) -> None:
        super().__init__()
        self.is_terminal = is_terminal
        self.has_drawn = threading.Event()

    def isatty(self) -> bool:
        """Whether this is a terminal."""
        return self.is_terminal

    def flush(self) -> None:
        """Note that something was drawn."""
        self.has_drawn.set()


def test_a_long_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first second, a terminal has a line with label, time and detail, until the end."""
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.001)
    terminal = FakeTerminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(App(None, None, as_json=False), "backing up", lambda: "5 MiB\x1b"):
        assert terminal.has_drawn.wait(60)
    text = terminal.getvalue()
    assert text.startswith("\rbacking up … ")
    assert ", 5 MiB␛\x1b[K" in text
    assert text.endswith("\r\x1b[K")


def test_a_fast_command_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that ends within the first second leaves no trace."""
    monkeypatch.setattr(module, "FIRST_SECONDS", 3600.0)
    terminal = FakeTerminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(App(None, None, as_json=False), "backing up"):
        pass
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(("is_terminal", "as_json"), [(False, False), (True, True)])
def test_only_for_people(monkeypatch: pytest.MonkeyPatch, is_terminal: bool, as_json: bool) -> None:
    """Neither a pipe nor JSON gets a progress, so no thread is started."""
    terminal = FakeTerminal(is_terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    count = threading.active_count()
    with progress(App(None, None, as_json=as_json), "backing up"):
        assert threading.active_count() == count
    assert terminal.getvalue() == ""


def test_sizes(tmp_path: Path) -> None:
    """The size of a file, of the files in a directory, and of nothing."""
    (tmp_path / "a").write_bytes(bytes(2048))
    (tmp_path / "b").write_bytes(bytes(1024))
    assert measure_path(str(tmp_path / "a")) == "2.0 KiB"
    assert measure_path(str(tmp_path)) == "3.0 KiB"
    assert measure_path(str(tmp_path / "none")) == ""
