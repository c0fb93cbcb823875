"""Protected files that file tools wrote."""

from pathlib import Path

import pytest

from kheishd.hooks.os.files import written
from kheishd.hooks.os.files.written import note_written, was_written


def was(workspace: Path, path: str) -> bool:
    """Whether a file tool wrote a file of a workspace."""
    return was_written(f"{workspace}/{path}", str(workspace / path))


def test_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only protected files are remembered, with their content, and the newest of them only."""
    monkeypatch.setattr(written, "MAX_WRITTEN", 2)
    for name in ("plain", ".envrc", ".bashrc", "AGENTS.md"):
        (tmp_path / name).write_text(name)
        note_written(str(tmp_path), name, name.encode())
    assert [path.name for path in sorted(tmp_path.iterdir()) if was(tmp_path, path.name)] == [
        ".bashrc",
        "AGENTS.md",
    ]


@pytest.mark.parametrize("text", ["other", "AGENTS.md and more", "", "AGENTS"])
def test_another_content(tmp_path: Path, text: str) -> None:
    """A file with another content was not written by a tool, also if it is the same file."""
    note_written(str(tmp_path), "AGENTS.md", b"AGENTS.md")
    assert not was(tmp_path, "AGENTS.md")
    (tmp_path / "AGENTS.md").write_text(text)
    assert not was(tmp_path, "AGENTS.md")
    (tmp_path / "AGENTS.md").unlink()
    (tmp_path / "approved").write_text("AGENTS.md")
    (tmp_path / "AGENTS.md").symlink_to("approved")
    assert not was(tmp_path, "AGENTS.md")


def test_directories_of_written_files(tmp_path: Path) -> None:
    """A directory was written if each file in it was, and not because one of its name was."""
    note_written(str(tmp_path), ".husky/a/pre-push", b"x")
    note_written(str(tmp_path), ".husky/pre-commit", b"x")
    (tmp_path / ".husky/a").mkdir(parents=True)
    (tmp_path / ".husky/a/pre-push").write_text("x")
    assert was(tmp_path, ".husky")
    (tmp_path / ".husky/pre-commit").write_text("evil")
    assert not was(tmp_path, ".husky")
    assert was(tmp_path, ".husky/a")
