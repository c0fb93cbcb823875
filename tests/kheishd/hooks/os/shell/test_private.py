"""The files that only root may read: they are found whatever was remembered of their directories."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kheishd.hooks.os.shell import private
from kheishd.hooks.os.shell.private import PrivateFiles


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """Provide a directory with public and private files."""
    etc = tmp_path / "etc"
    (etc / "a" / "b").mkdir(parents=True)
    (etc / "a" / "b" / "key").touch(0o600)
    (etc / "a" / "public").touch(0o644)
    (etc / "private").mkdir(0o700)
    (etc / "private" / "x").touch(0o600)
    (etc / "link").symlink_to(etc / "private")
    return etc


def find(files: PrivateFiles, directory: Path) -> list[str]:
    """Return the private files, relative to their directory."""
    return sorted(os.path.relpath(path, directory) for path in files.find())


def settle(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock of files tick, and let all directories have changed long ago."""
    probe = directory.parent / "probe"
    probe.touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == before:
        probe.touch()
    monkeypatch.setattr(private, "SETTLED_NS", 0)


def test_what_is_root_only(etc: Path, tmp_path: Path) -> None:
    """Files and directories that only root may read are found; links are skipped."""
    assert find(PrivateFiles(str(etc)), etc) == ["a/b/key", "private"]
    (tmp_path / "link").symlink_to(etc)
    assert find(PrivateFiles(str(tmp_path / "link")), etc) == ["a/b/key", "private"]
    assert PrivateFiles(str(etc / "missing")).find() == []


def replace_by_link(etc: Path) -> None:
    """Replace a directory by a link to it."""
    (etc / "a").rename(etc.parent / "elsewhere")
    (etc / "a").symlink_to(etc.parent / "elsewhere")


CHANGES: list[tuple[Callable[[Path], object], list[str]]] = [
    (lambda etc: (etc / "a" / "public").chmod(0o640), ["a/b/key", "a/public", "private"]),
    (lambda etc: (etc / "a" / "b" / "key").chmod(0o644), ["private"]),
    (lambda etc: (etc / "private").chmod(0o755), ["a/b/key", "private/x"]),
    (lambda etc: (etc / "a" / "b").chmod(0o700), ["a/b", "private"]),
    (lambda etc: (etc / "a" / "b" / "new").touch(0o600), ["a/b/key", "a/b/new", "private"]),
    (lambda etc: (etc / "a" / "b" / "key").unlink(), ["private"]),
    (lambda etc: (etc / "a" / "b").rename(etc / "c"), ["c/key", "private"]),
    (lambda etc: shutil.copytree(etc / "a", etc / "c"), ["a/b/key", "c/b/key", "private"]),
    (lambda etc: shutil.rmtree(etc / "a"), ["private"]),
    (lambda etc: shutil.rmtree(etc), []),
    (replace_by_link, ["private"]),
]


@pytest.mark.parametrize(("change", "paths"), CHANGES)
def test_changes_after_a_search(
    etc: Path, change: Callable[[Path], object], paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that became private or public, came or went since the last search is known."""
    settle(etc, monkeypatch)
    files = PrivateFiles(str(etc))
    assert find(files, etc) == find(files, etc) == ["a/b/key", "private"]
    change(etc)
    assert find(files, etc) == paths
    assert find(PrivateFiles(str(etc)), etc) == paths


def test_directories_are_listed_once(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory is listed again after a change, or if it has just changed, or if there are very many."""
    listed: list[str] = []
    list_paths = private.list_paths

    def list_and_note(path: str) -> tuple[str, ...]:
        listed.append(path)
        return list_paths(path)

    monkeypatch.setattr(private, "list_paths", list_and_note)

    def search(files: PrivateFiles) -> list[str]:
        listed.clear()
        files.find()
        return sorted(os.path.relpath(path, etc) for path in listed)

    files, everything = PrivateFiles(str(etc)), [".", "a", "a/b"]
    assert search(files) == search(files) == everything
    settle(etc, monkeypatch)
    assert search(files) == everything
    assert search(files) == []
    (etc / "a" / "new").touch()
    assert search(files) == ["a"]
    monkeypatch.setattr(private, "MAX_REMEMBERED", 3)
    files = PrivateFiles(str(etc))
    assert search(files) == everything
    assert search(files) == ["a", "a/b"]
