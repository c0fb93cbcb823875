"""Leftovers: found by their mark, and killed; everybody else's processes are let be."""

import signal
import subprocess
from pathlib import Path

import pytest
import trio

from kheishd.hooks import leftovers as module
from kheishd.hooks.os.shell.keeper import started_at
from kheishd.hooks.leftovers import MARK, home_id, hunt, leftovers


async def marked(mark: str, command: str) -> trio.Process:
    """A shell command whose processes carry a mark; it has begun."""
    environ = {MARK: mark, "PATH": "/usr/bin:/bin"}
    argv = ["/bin/sh", "-c", f"echo ready; {command}"]
    process = await trio.lowlevel.open_process(
        argv, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.receive_some() == b"ready\n"
    return process


def test_marks_of_homes_differ(tmp_path: Path) -> None:
    """And are the same for one home, whatever leads to it; a mark is one word."""
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to("home")
    assert home_id(tmp_path / "home") == home_id(tmp_path / "link") != home_id(tmp_path)
    assert home_id(tmp_path).isalnum()


async def test_found_by_the_whole_mark() -> None:
    """A mark that only begins alike is another's."""
    one, other = await marked("test-1", "read x"), await marked("test-11", "read x")
    assert leftovers("test-1") == [(one.pid, started_at(one.pid))]
    assert leftovers("test-") == []
    assert await hunt("test-1")
    assert await one.wait() == -signal.SIGKILL
    assert other.returncode is None
    assert await hunt("test-11")
    assert await other.wait() == -signal.SIGKILL


async def test_those_that_are_just_ending_may() -> None:
    """Within the patience that was asked for, nothing is killed."""
    process = await marked("test-2", "read x; exit 5")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: hunt("test-2", patience_s=30))
        await trio.testing.wait_all_tasks_blocked()
        assert process.stdin is not None
        await process.stdin.aclose()
        assert await process.wait() == 5


async def test_a_process_between_two_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a moment it carries no mark; who finds nothing looks again."""
    process = await marked("test-4", "read x")
    found = iter([[], leftovers("test-4")])
    monkeypatch.setattr(module, "leftovers", lambda mark: next(found, []))
    assert await hunt("test-4")
    assert await process.wait() == -signal.SIGKILL


async def test_nothing_left() -> None:
    """Then there is nothing to wait for."""
    with trio.fail_after(5):
        assert await hunt("test-none", patience_s=60)


async def test_what_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for without end."""
    process = await marked("test-3", "read x")
    monkeypatch.setattr(module, "MAX_HUNT_SECONDS", 0.1)
    monkeypatch.setattr(module, "strike", lambda process, number: None)
    assert not await hunt("test-3")
    process.kill()
    await process.wait()
