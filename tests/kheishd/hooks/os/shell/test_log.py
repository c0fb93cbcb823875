"""The files of shells' output: the newest part is kept, and is readable while it grows; and prompts."""

import os
import stat
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from kheishd.hooks.os.shell.log import MARKER, NEW, ShellFiles, ShellLog, ends_in_prompt
from kheishd.kernel.shells import Shells, Written
from protocol.limits.shell import MAX_SHELL_KEPT_BYTES, MAX_SHELL_OUTPUT_BYTES
from protocol.limits.units import MIB


@pytest.fixture
def files(tmp_path: Path) -> ShellFiles:
    """Return an empty directory of files."""
    return ShellFiles(tmp_path / "run" / "shells")


def begun(files: ShellFiles, task_id: str = "t") -> ShellLog:
    """Return a log that is open for writing."""
    log = files.log(task_id)
    log.begin()
    return log


async def test_what_is_written_is_read(files: ShellFiles, tmp_path: Path) -> None:
    """A read returns the whole, its end, or the part after an offset; nothing if there is no file."""
    reads: Shells = files
    assert await reads.read("t", 100) == Written()
    log = begun(files)
    assert (await reads.read("t", 100)).path == str(tmp_path / "run" / "shells" / "t")
    await files.write("t", log, b"one\ntwo\n")
    whole = await reads.read("t", 100)
    assert (whole.text, whole.offset, whole.left_out_bytes) == ("one\ntwo\n", 8, 0)
    assert (whole.total_bytes, whole.kept_bytes) == (8, 8)
    tail = await reads.read("t", 4)
    assert (tail.text, tail.offset, tail.left_out_bytes) == ("two\n", 8, 4)
    part = await reads.read("t", 5, 1)
    assert (part.text, part.offset) == ("ne\ntw", 6)
    assert (await reads.read("t", 5, part.offset)).text == "o\n"
    assert (await reads.read("t", 5, 99)).offset == 8
    log.close()
    assert (await reads.read("t", 100)).text == "one\ntwo\n"


async def test_nobody_else_reads_them(files: ShellFiles, tmp_path: Path) -> None:
    """The directory and the files are private, and a link in their place is not followed."""
    begun(files).close()
    directory = tmp_path / "run" / "shells"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "t").stat().st_mode) == 0o600
    (tmp_path / "precious").write_text("keep")
    (directory / "linked").symlink_to(tmp_path / "precious")
    log = begun(files, "linked")
    await files.write("linked", log, b"x")
    assert log.problem is not None
    assert (tmp_path / "precious").read_text() == "keep"
    assert await files.read("linked", 10) == Written()


async def test_a_bell_rings_when_there_is_more(files: ShellFiles) -> None:
    """The bell wakes all readers of one file once; unused bells are dropped."""
    log = begun(files)
    heard: list[int] = []

    async def wait(number: int) -> None:
        await files.growth("t").wait()
        heard.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 1)
        nursery.start_soon(wait, 2)
        second = files.growth("other")
        await wait_all_tasks_blocked()
        await files.write("t", log, b"x")
    assert sorted(heard) == [1, 2]
    assert not second.rung
    assert files.growth("other") is second
    assert not files.growth("t").rung
    log.close()


async def test_the_newest_part_is_kept(files: ShellFiles, tmp_path: Path) -> None:
    """Of a file that is too long, 6 of 8 MiB remain, as whole lines after a marker."""
    log = begun(files)
    line = b"x" * 99 + b"\n"
    for _ in range(13 * MIB // (len(line) * 500)):
        await files.write("t", log, line * 500)
        assert (tmp_path / "run" / "shells" / "t").stat().st_size <= MAX_SHELL_OUTPUT_BYTES
    await files.write("t", log, b"the end\n")
    log.close()
    result = await files.read("t", 100)
    assert result.text.endswith("the end\n")
    assert (result.total_bytes, result.offset) == (log.total_bytes, log.total_bytes)
    assert MAX_SHELL_KEPT_BYTES - 200 < result.kept_bytes <= MAX_SHELL_OUTPUT_BYTES
    gone = result.total_bytes - result.kept_bytes
    text = (tmp_path / "run" / "shells" / "t").read_bytes()
    assert text.startswith(MARKER.format(gone).encode() + line)
    early = await files.read("t", 100, 5)
    assert (early.text, early.left_out_bytes) == (line.decode(), gone)
    assert os.listdir(tmp_path / "run" / "shells") == ["t"]


@given(st.lists(st.text(max_size=40), max_size=30), st.integers(1, 12), st.integers(0, 300))
async def test_whatever_is_written_its_end_is_there(pieces: list[str], size: int, offset: int) -> None:
    """Reading in portions of any size, from any offset, has no gap and cuts no character."""
    with tempfile.TemporaryDirectory() as directory:
        log = ShellLog(Path(directory) / "t", max_bytes=400, bytes_kept=200)
        log.begin()
        for piece in pieces:
            log.write(piece.encode())
        log.close()
        files, written = ShellFiles(Path(directory)), "".join(pieces).encode()
        result = await files.read("t", 10_000)
        assert written.endswith(result.text.encode())
        assert result.total_bytes == log.total_bytes == len(written)
        assert result.kept_bytes == len(result.text.encode()) >= min(len(written), 150)
        read, position = "", offset
        while (part := await files.read("t", size, position)).offset < result.total_bytes:
            assert part.offset > position
            read, position = read + part.text, part.offset
        assert result.text.endswith(read + part.text)
        assert len(read + part.text) == len(result.text) or offset > result.total_bytes - result.kept_bytes


async def test_a_disk_that_takes_nothing(files: ShellFiles, tmp_path: Path) -> None:
    """A disk failure is reported and stops nothing; size and end are still known."""
    (tmp_path / "run").write_text("no directory")
    log = begun(files)
    await files.write("t", log, b"x" * 5000 + b"?")
    assert log.problem == "Not a directory"
    assert (log.total_bytes, len(log.last), log.last[-1:]) == (5001, 1024, b"?")
    log.close()


async def test_what_is_no_longer_wanted_goes(files: ShellFiles, tmp_path: Path) -> None:
    """Pruning removes the named files, then the oldest beyond the limit, and none that grows."""
    directory = tmp_path / "run" / "shells"
    for age, name in enumerate(("live", "old", "older", "oldest", "deleted")):
        log = begun(files, name)
        log.write(b"x" * 100)
        log.close()
        os.utime(directory / name, (1_000 - age, 1_000 - age))
    (directory / f"old{NEW}").write_text("a cut that was never finished")
    assert await files.names() == ["deleted", "live", "old", "older", "oldest"]
    await files.prune(["deleted"], ["live"], 200)
    assert sorted(os.listdir(directory)) == ["live", "old", "older"]
    assert await ShellFiles(tmp_path / "none").names() == []
    await ShellFiles(tmp_path / "none").prune([], [], 0)


# Prompts.


@pytest.mark.parametrize(
    "tail",
    [
        "Need to install the following packages:\ncreate-thing@1.0\nOk to proceed? (y) ",
        "Overwrite existing file? [y/N] ",
        "Do you want to continue? [Y/n]",
        "Are you sure (yes/no/[fingerprint])? ",
        "[sudo] password for ada: ",
        "Username for 'https://example.org': ",
        "Enter passphrase for key '/home/ada/.ssh/id':",
        "Press any key to go on\n",
        "Press ENTER to continue",
        "Continue? (yes/no)\n",
        "\x1b[1m\x1b[36m?\x1b[0m Project name: ",
        "What is your name? ",
        ">>> ",
        "mysql> ",
        "user@host:~$ ",
        "50%\r100%\nSelect a template\n  > ",
    ],
)
def test_a_question(tail: str) -> None:
    """A prompt is recognized."""
    assert ends_in_prompt(tail)


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "\n\n",
        "Listening on http://localhost:8080/\n",
        "Server started.\n",
        "compiling module 3 of 7 ...",
        "GET /index.html 200\n",
        "What could go wrong?\nNothing did.\n",
        "Done in 3 s",
        "warning: password is deprecated\n",
        "> build\n> tsc --watch\n\nWatching for file changes.\n",
    ],
)
def test_no_question(tail: str) -> None:
    """Progress and silence are not taken for a prompt."""
    assert not ends_in_prompt(tail)


def test_it_does_not_take_long() -> None:
    """Recognition is fast for any output, because it runs in the daemon's loop."""
    for piece in ("(y/", "[n/", "password", "continue ", "\x1b[", "?"):
        ends_in_prompt(piece * (1024 // len(piece)))
