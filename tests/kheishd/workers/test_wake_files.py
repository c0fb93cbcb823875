"""The follower of a file of rows."""

from pathlib import Path
from typing import Any

import pytest

from kheishd.core.cron.file import CRON_FILE
from kheishd.workers.wake_files import FileFollower
from protocol.errors.store import StorageFull
from protocol.objects.cron import CronProperties
from tests.support.desk import open_desk

ROWS = "".join(f'[[cron]]\nid = "{name}"\nschedule = "@daily"\nagent = "a"\nprompt = "x"\n' for name in "abc")


async def test_rows_are_stored_in_parts_and_deleted_once_they_are_gone(
    tmp_path: Path, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk delays a part; a bad row keeps its object; an unreadable file changes nothing."""
    parts: list[dict[str, bool]] = []
    stored = ["a", "gone"]
    fails = [True]

    def apply(tx: Any, rows: Any) -> list[str]:
        if fails and fails.pop():
            raise StorageFull("the disk is full")
        parts.append({row_id: properties is not None for row_id, properties in rows})
        return ["a problem"]

    async with open_desk(tmp_path) as desk:
        follower = FileFollower[CronProperties](
            desk.services, "cron entry", apply, lambda store: stored, max_rows=2
        )
        file = CRON_FILE.parse(ROWS, "f.toml")
        await follower.follow(file)
        assert parts == [{"a": True, "b": True}, {"c": True, "gone": False}]
        assert "the cron entry of the file is skipped: a problem" in caplog.text
        parts.clear()
        await follower.follow(file)
        await follower.follow(CRON_FILE.parse("[[", "f.toml"))
        assert parts == []
        await follower.follow(CRON_FILE.parse('[[cron]]\nid = "gone"\n', "f.toml"))
        assert parts == [{"a": False}]
        parts.clear()
        await follower.follow(None)
        assert parts == [{"a": False, "gone": False}]
