"""Versions of files: read, restored and compared."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheishd.hooks.os.files import versions
from kheishd.hooks.os.files.versions import diff_versions, read_versions, write_versions
from kheishd.hooks.os.umask import restrict_umask
from kheishd.kernel.hook import FileWrite, SavedFile, Stale, ToolError


@pytest.fixture(autouse=True)
def starter_umask() -> Iterator[None]:
    """Restrict the umask as a daemon does, and restore it."""
    previous = os.umask(0o022)
    restrict_umask()
    yield
    os.umask(previous)


@pytest.fixture
def workspace(tmp_path: Path) -> str:
    """Provide a workspace with a file."""
    (tmp_path / "a").write_text("one\n")
    (tmp_path / "a").chmod(0o751)
    return os.path.realpath(tmp_path)


def test_only_ordinary_files_are_read(workspace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file has no digest; a link, a pipe, a directory and a large file have a problem."""
    os.symlink("a", f"{workspace}/link")
    os.mkfifo(f"{workspace}/pipe")
    os.mkdir(f"{workspace}/dir")
    a, missing, below, *others = read_versions(workspace, ["a", "gone", "a/b", "link", "pipe", "dir"])
    assert (a.content, a.mode, a.problem) == (b"one\n", 0o751, "")
    assert (missing.digest, missing.problem) == (None, "")
    assert below.content is None
    assert all(other.problem and other.content is None for other in others)
    monkeypatch.setattr(versions, "MAX_CHECKPOINT_FILE_BYTES", 3)
    assert "more than" in read_versions(workspace, ["a"])[0].problem


def test_files_are_written_and_deleted_if_they_are_as_expected(workspace: str) -> None:
    """A file is restored with its mode, one that did not exist is deleted, and nothing is half done."""
    (a,) = read_versions(workspace, ["a"])
    write_versions(workspace, [FileWrite("a", None, 0, a.digest)], "k1")
    assert not os.path.exists(f"{workspace}/a")
    writes = [FileWrite("a", b"one\n", 0o751, None), FileWrite("sub/b", b"b", 0, None)]
    write_versions(workspace, writes, "k2")
    assert read_versions(workspace, ["a"]) == [a]
    with pytest.raises(Stale, match="sub/b was changed"):
        write_versions(
            workspace, [FileWrite("a", b"x", 0, a.digest), FileWrite("sub/b", b"y", 0, "0" * 64)], "k3"
        )
    assert read_versions(workspace, ["a"]) == [a]
    os.symlink("a", f"{workspace}/link")
    with pytest.raises(ToolError, match="links are not followed"):
        write_versions(workspace, [FileWrite("link", b"x", 0, a.digest)], "k4")


def test_a_secret_file_is_never_readable_by_others(workspace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deleted file comes back with its mode at once, not with the usual one first."""
    modes: list[int] = []
    set_mode = os.fchmod

    def note_mode(descriptor: int, mode: int) -> None:
        modes.append(mode)
        set_mode(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", note_mode)
    write_versions(workspace, [FileWrite("secret", b"s", 0o600, None)], "k1")
    assert read_versions(workspace, ["secret"])[0].mode == 0o600
    assert set(modes) == {0o600}


def test_a_diff_names_files_that_it_cannot_show() -> None:
    """A file that is gone is shown as removed lines; one without its content is only named."""
    before = SavedFile("a", b"one\n", "1")
    text = diff_versions(
        [(before, SavedFile("a", None, None)), (SavedFile("b", None, "", problem="too large"), before)]
    )
    assert "# a no longer exists.\n" in text
    assert "-one\n" in text
    assert "# b: too large\n" in text
    assert diff_versions([]) == ""
