"""Reading the files of cron entries and of triggers."""

from pathlib import Path
from typing import Any

import pytest

from kheishd.build.wake_files import read_wake_file
from kheishd.core.cron.file import CRON_FILE
from kheishd.core.subscriptions import SUBSCRIPTION_FILE


@pytest.mark.parametrize("kind", [CRON_FILE, SUBSCRIPTION_FILE])
def test_an_unreadable_file_changes_nothing_and_is_named(tmp_path: Path, kind: Any) -> None:
    """Too long, not UTF-8, a directory, or no TOML: each is a warning, and the file stays as it is."""
    path = tmp_path / "rows.toml"
    for content, words in (
        (b"#" * (kind.max_bytes + 1), "the limit"),
        (b"\xff", "not UTF-8"),
        (b"[[cron]", "line 1"),
    ):
        path.write_bytes(content)
        read = read_wake_file(path, kind)
        assert (read.is_readable, dict(read.rows)) == (False, {})
        (warning,) = read.warnings
        assert f"the {kind.plural} stay as they are: {path}: " in warning
        assert words in warning
        assert path.read_bytes() == content
    path.unlink()
    path.mkdir()
    assert "Is a directory" in read_wake_file(path, kind).warnings[0]


def test_rows_are_read(tmp_path: Path) -> None:
    """A valid file has no warnings."""
    path = tmp_path / "crons.toml"
    path.write_text('[[cron]]\nid = "tidy"\nschedule = "@daily"\nagent = "default"\nprompt = "tidy up"\n')
    read = read_wake_file(path, CRON_FILE)
    assert (read.is_readable, [*read.rows], read.warnings) == (True, ["tidy"], ())
