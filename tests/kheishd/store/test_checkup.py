"""Checks in a child process, and the note of an orderly close."""

import errno
import os
from pathlib import Path

import pytest

from kheishd.store import checkup
from kheishd.store.checkup import (
    Checkup,
    check_data,
    check_snapshot,
    count_unclean_start,
    describe_problems,
    expect_check,
    needs_check,
)
from kheishd.store.environment import DATA
from kheishd.store.writer import Store
from protocol.errors.store import StoreDamaged
from tests.support.stores import append, closed, fill, open_inline, point_free_page


def test_a_sound_file(tmp_path: Path) -> None:
    """A sound file has no problems, whole or quick."""
    data = closed(tmp_path / "s", 3) / DATA
    assert check_data(data) == check_data(data, quick=True) == Checkup([])


def test_problems_come_from_the_child(tmp_path: Path) -> None:
    """The child's problems are returned, and described in one sentence."""
    store = open_inline(tmp_path / "s")
    for number in range(5):
        fill(store, number % 2, 50_000)
    store.close()
    page = point_free_page(tmp_path / "s" / DATA)
    problems = check_data(tmp_path / "s" / DATA).problems
    assert f"page {page}, which is in use" in problems[0]
    assert describe_problems(problems) == f"{problems[0]} (and {len(problems) - 1} more)"
    assert describe_problems(problems[:1]) == problems[0]


def test_a_child_that_dies_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that SIGBUS ends says that the file cannot be read."""
    data = closed(tmp_path / "s", 1) / DATA
    monkeypatch.setattr(checkup, "PROGRAM", "import os, signal; os.kill(os.getpid(), signal.SIGBUS)")
    assert check_data(data).problems == ["a part of the file cannot be read: reading it ended with SIGBUS"]


@pytest.mark.parametrize(
    ("program", "obstacle"),
    [
        ("import os; os.kill(os.getpid(), 9)", "its process was ended by SIGKILL; perhaps memory was short"),
        ("raise OSError('no such disk')", "OSError: no such disk"),
        ("print('null')", "it printed no result"),
        ("", "it printed no result"),
        ("import signal; signal.pause()", "it took longer than 0 seconds"),
    ],
)
def test_a_failed_check_permits_no_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, obstacle: str
) -> None:
    """A small file is checked without the child; a large one that nothing checked is not written to."""
    data = closed(tmp_path / "s", 1) / DATA
    os.utime(data, (1, 1))
    before = data.read_bytes()
    monkeypatch.setattr(checkup, "PROGRAM", program)
    monkeypatch.setattr(checkup, "limit_seconds", lambda size: 0.01 if "pause" in program else 60)
    assert check_data(data) == Checkup([])
    monkeypatch.setattr(checkup, "SMALL_BYTES", 4096)
    assert check_data(data) == Checkup([], obstacle)
    store = open_inline(data.parent)
    assert store.damage is not None
    assert obstacle in store.damage
    with pytest.raises(StoreDamaged):
        append(store)
    store.close()
    assert data.read_bytes() == before
    monkeypatch.undo()
    store = open_inline(data.parent)
    append(store)
    store.close()


def test_damage_is_found_without_a_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no process can be started, the file is checked all the same."""
    store = open_inline(tmp_path / "s")
    for number in range(5):
        fill(store, number % 2, 50_000)
    store.close()
    point_free_page(tmp_path / "s" / DATA)
    problems = check_data(tmp_path / "s" / DATA).problems

    def run(command: list[str], **options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("kheishd.store.checkup.subprocess.run", run)
    assert check_data(tmp_path / "s" / DATA).problems == problems
    monkeypatch.setattr(checkup, "SMALL_BYTES", 4096)
    assert "no process could be started" in check_data(tmp_path / "s" / DATA).doubts[0]


def test_a_file_in_use_is_checked_as_of_a_snapshot(store: Store) -> None:
    """While the store is open, a consistent state of its file is checked."""
    for number in range(5):
        append(store)
        fill(store, number % 2, 50_000)
        assert check_snapshot(store._environment) == Checkup([])


def test_only_an_orderly_close_needs_no_check(tmp_path: Path) -> None:
    """A store that is open, was killed, or was changed by another program needs a check."""
    data = tmp_path / "s" / DATA
    store = open_inline(data.parent)
    append(store)
    assert needs_check(data)
    store.close()
    assert not needs_check(data)
    with data.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"x")
    assert needs_check(data)


def test_unclean_starts_are_counted(tmp_path: Path) -> None:
    """Starts after a kill are counted until the store is closed in order."""
    data = closed(tmp_path / "s", 1) / DATA
    assert [count_unclean_start(data) for _ in range(3)] == [1, 2, 3]
    open_inline(data.parent).close()
    assert not needs_check(data)
    assert count_unclean_start(data) == 1
    os.truncate(data.with_name(checkup.NOTE), 0)
    assert count_unclean_start(data) == 1


def test_a_long_check_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a check before opening is known before: for a large file that was not closed in order."""
    data = closed(tmp_path / "s", 1) / DATA
    assert expect_check(data) is None
    with data.open("r+b") as file:
        file.write(file.read(1))
    os.utime(data, (1, 1))
    assert expect_check(data) is None
    monkeypatch.setattr(checkup, "SMALL_BYTES", 4096)
    seconds = expect_check(data)
    assert seconds is not None
    assert seconds > checkup.MIN_SECONDS
    assert expect_check(tmp_path / "none") is None
