"""Reading the file of cron entries."""

from pathlib import Path

from kheishd.build.crons import read_crons
from protocol.limits.cron import MAX_CRON_FILE_BYTES


def test_an_unreadable_file_changes_nothing_and_is_named(tmp_path: Path) -> None:
    """Too long, not UTF-8, no file, or no TOML: each is a warning, and the file stays as it is."""
    path = tmp_path / "crons.toml"
    for content, words in (
        (b"#" * (MAX_CRON_FILE_BYTES + 1), "the limit"),
        (b"\xff", "not UTF-8"),
        (b"[[cron]", "line 1"),
    ):
        path.write_bytes(content)
        read = read_crons(path)
        assert (read.is_readable, dict(read.rows)) == (False, {})
        (warning,) = read.warnings
        assert f"the cron entries stay as they are: {path}: " in warning
        assert words in warning
        assert path.read_bytes() == content
    path.unlink()
    path.mkdir()
    assert "Is a directory" in read_crons(path).warnings[0]


def test_rows_are_read(tmp_path: Path) -> None:
    """A valid file has no warnings."""
    path = tmp_path / "crons.toml"
    path.write_text('[[cron]]\nid = "tidy"\nschedule = "@daily"\nagent = "default"\nprompt = "tidy up"\n')
    read = read_crons(path)
    assert (read.is_readable, [*read.rows], read.warnings) == (True, ["tidy"], ())
