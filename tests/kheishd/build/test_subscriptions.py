"""Reading the file of subscriptions: whatever it is, the daemon goes on."""

from pathlib import Path

import pytest

from kheishd.build.subscriptions import read_subscriptions
from protocol.limits.event import MAX_SUBSCRIPTIONS_FILE_BYTES


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff", "it is not UTF-8"),
        (b"#" * (MAX_SUBSCRIPTIONS_FILE_BYTES + 1), "the limit"),
        (b"[[", "f.toml"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, problem: str) -> None:
    """An unreadable file keeps the triggers as they are, and the warning says why."""
    path = tmp_path / "f.toml"
    path.write_bytes(content)
    file = read_subscriptions(path)
    assert not file.is_readable
    assert problem in file.warnings[0]


def test_a_directory_and_a_file(tmp_path: Path) -> None:
    """A directory of the name is no file; an empty file has no rows."""
    assert not read_subscriptions(tmp_path).is_readable
    path = tmp_path / "f.toml"
    path.write_text('[[subscription]]\nid = "a"\nsource = "s"\nagent = "x"\nprompt = "p"\n')
    assert set(read_subscriptions(path).rows) == {"a"}
