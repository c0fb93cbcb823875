"""The program: its commands, its streams and its end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kheishctl import exit_codes
from kheishctl.program import ENTRIES, report_error, root


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``kheishctl`` in a shell, where ``$@`` is the command line."""
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "kheishctl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_entry_is_a_command() -> None:
    """Each command of the help can be imported."""
    import click

    with click.Context(root) as ctx:
        for rows in ENTRIES.values():
            for name, _, _ in rows:
                assert root.get_command(ctx, name) is not None


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(streams: str) -> None:
    """A closed standard stream leads nowhere; the command does the same."""
    assert run(f'exec "$@" {streams}', "--version").returncode == exit_codes.OK
    failed = run(f'exec "$@" {streams}', "--home", "/nonexistent", "status")
    assert failed.returncode == exit_codes.NO_DAEMON
    assert "Traceback" not in failed.stderr


def test_output_that_cannot_be_written() -> None:
    """On a full disk, the exit code and a message say so; a closed pipe is no error to talk about."""
    full = run('exec "$@" >/dev/full', "--version")
    assert (full.returncode, "No space left" in full.stderr) == (exit_codes.FAILED, True)
    assert "Traceback" not in full.stderr
    assert run('exec "$@" >/dev/full 2>/dev/full', "--help").returncode == exit_codes.FAILED
    for arguments in (["completion", "bash"], ["--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "kheishctl", *arguments]
        closed = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
        os.close(writer)
        assert (closed.returncode, closed.stderr) == (exit_codes.PIPE_CLOSED, b"")


def test_an_unexpected_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An error of the program is reported with its place; a variable shows the whole trace."""
    with pytest.raises(KeyError) as caught:
        {}["pid"]  # type: ignore[index]
    assert report_error(caught.value) == exit_codes.FAILED
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KHEISHCTL_DEBUG", "1")
        report_error(caught.value)
    short, _, trace = capsys.readouterr().err.partition("\n")
    assert short.startswith(f"kheishctl: unexpected KeyError in {Path(__file__).name}:")
    assert "Traceback" in trace


INTERRUPTED_CALLBACK = """
import signal, sys
from kheishctl.program import repeat_interrupt

class Owner:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

sys.unraisablehook = repeat_interrupt
try:
    Owner()
    signal.pause()
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_that_python_would_ignore() -> None:
    """Ctrl-C during a finalizer interrupts the program a moment later, without a word."""
    command = [sys.executable, "-c", INTERRUPTED_CALLBACK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
