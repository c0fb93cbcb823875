"""Commands of the person."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from kheishctl.client import Failure
from kheishctl.shell.person_commands import MAX_SHARED_CHARACTERS, PersonCommand, run_command


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the same shell on every machine."""
    monkeypatch.setenv("SHELL", "/bin/sh")


def run(line: str, directory: Path) -> tuple[PersonCommand, list[str]]:
    """Run a line; return the command and what was written."""
    written: list[str] = []
    return asyncio.run(run_command(line, str(directory), written.append)), written


def test_output_and_exit_code(tmp_path: Path) -> None:
    """Both streams are written in whole lines without control characters, in the directory, without input."""
    command, written = run("pwd; echo 'a\033[2J' >&2; cat; printf end; exit 3", tmp_path)
    assert "".join(written) == f"{tmp_path}\na␛[2J\nend\n"
    assert command == PersonCommand("pwd; echo 'a\033[2J' >&2; cat; printf end; exit 3", 3, command.output)
    assert command.output == f"{tmp_path}\na␛[2J\nend"


def test_long_output_keeps_its_end(tmp_path: Path) -> None:
    """Everything is written, and the last part is kept."""
    command, written = run("seq 100000", tmp_path)
    assert len("".join(written).splitlines()) == 100_000
    assert command.output.endswith("99999\n100000")
    assert len(command.output) <= MAX_SHARED_CHARACTERS


def test_a_line_without_an_end(tmp_path: Path) -> None:
    """A long line is written in parts."""
    _, written = run("head -c 200000 /dev/zero | tr '\\0' x", tmp_path)
    assert "".join(written).replace("\n", "") == "x" * 200_000
    assert max(map(len, written)) < 100_000


def test_a_process_in_the_background_goes_on(tmp_path: Path) -> None:
    """A process without the command's output outlives the command."""
    command, _ = run("sleep 60 >/dev/null 2>&1 & echo $!", tmp_path)
    os.kill(int(command.output), signal.SIGKILL)


def test_a_stopped_command_does_not_wait_for_other_sessions(tmp_path: Path) -> None:
    """A process that left the command's session keeps the output open, and Ctrl-C ends the command anyway."""
    written: list[str] = []

    async def stop() -> None:
        line = "setsid sh -c 'echo $$; exec sleep 600'"
        has_pid = asyncio.Event()

        def write(text: str) -> None:
            written.append(text)
            has_pid.set()

        task = asyncio.create_task(run_command(line, str(tmp_path), write))
        await has_pid.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    try:
        asyncio.run(asyncio.wait_for(stop(), 60))
    finally:
        os.kill(int(written[0]), signal.SIGKILL)


def test_a_missing_directory_or_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that cannot be started says why."""
    with pytest.raises(Failure, match=r"cannot run /bin/sh in .*none: No such file"):
        run("true", tmp_path / "none")
    monkeypatch.setenv("SHELL", "/no/shell")
    with pytest.raises(Failure, match="cannot run /no/shell"):
        run("true", tmp_path)


def test_a_stopped_command(tmp_path: Path) -> None:
    """A command that is cancelled is killed with its children: the pipe that they share is closed."""

    async def body() -> None:
        started = asyncio.Event()
        line = f"mkfifo pipe; sh -c 'echo begun; exec 3>{tmp_path}/pipe; exec cat pipe' & exec cat pipe"
        task = asyncio.ensure_future(run_command(line, str(tmp_path), lambda _: started.set()))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())


def test_message() -> None:
    """The message has the person's text, the command, its exit code and its output in a fence."""
    assert PersonCommand("make", 2, "x ``` y").format_message("Why?") == (
        "Why?\n\nI ran `make`; its exit code was 2.\n\n````\nx ``` y\n````"
    )
    assert PersonCommand("ls", 0, "").format_message("").startswith("I ran `ls`")
