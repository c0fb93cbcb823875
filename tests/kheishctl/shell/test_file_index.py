"""Tests of the list of files and of the search in it."""

import asyncio
from pathlib import Path

import pytest

from kheishctl.shell import file_index
from kheishctl.shell.file_index import FileIndex, list_files, walk_files
from tests.support.git_repositories import git


def make_files(directory: Path, *paths: str) -> None:
    """Create empty files."""
    for path in paths:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).touch()


def test_order_of_a_search() -> None:
    """Names that begin with the query come first, then those that contain it, paths, and letters in order."""
    paths = ["prompt/a.py", "src/my_prompt.py", "src/core/prompt.py", "p/r/o/m/p/t", "p_r_o_m_p_t.md", "x.py"]
    ordered = ["src/core/prompt.py", "src/my_prompt.py", "prompt/a.py", "p_r_o_m_p_t.md", "p/r/o/m/p/t"]
    assert FileIndex(paths).search("PROMPT", 10) == ordered
    assert FileIndex(paths).search("prompt", 2) == ordered[:2]
    assert FileIndex(paths).search("core/p", 10) == ["src/core/prompt.py"]


def test_an_empty_query_finds_the_shortest_paths() -> None:
    """Without letters, the shortest paths are listed."""
    assert FileIndex(["src/main.py", "README.md", "src/x.py"]).search("", 2) == ["src/x.py", "README.md"]


@pytest.mark.parametrize("query", ["[", "]", "^", "\\", ".*", "-", "a-z", "(", "$", "#&~|"])
def test_a_query_is_no_pattern(query: str) -> None:
    """Signs of regular expressions stand for themselves."""
    assert FileIndex([f"a/{query}z", "a/other"]).search(query, 10) == [f"a/{query}z"]


def test_odd_names() -> None:
    """Newlines, letters whose small form is longer, and bytes that are no UTF-8, confuse no positions."""
    paths = ["a\nb/İİİ", "b/\udcff", "c/plain", "nested/"]
    index = FileIndex(paths)
    assert index.search("plain", 9) == ["c/plain"]
    assert index.search("a b", 9) == index.search("a\nb", 9) == ["a\nb/İİİ"]
    assert index.search("\udcff", 9) == ["b/\udcff"]
    assert index.search("nest", 9) == ["nested/"]
    assert FileIndex([]).search("x", 9) == FileIndex([]).search("", 9) == []


def test_files_of_a_repository(tmp_path: Path) -> None:
    """Git's files and new ones are listed, below the directory; ignored and deleted ones are not."""
    make_files(tmp_path, "sub/kept.py", "sub/deleted.py", "sub/it's odd\n\x1b.txt", "outside.py")
    (tmp_path / ".gitignore").write_text("*.log\n")
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", "-A")
    (tmp_path / "sub/deleted.py").unlink()
    make_files(tmp_path, "sub/new/added.py", "sub/ignored.log")
    paths = asyncio.run(list_files(str(tmp_path / "sub")))
    assert sorted(paths) == ["it's odd\n\x1b.txt", "kept.py", "new/added.py"]


def test_a_repository_runs_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of a repository's configuration, and git's part of the environment, stay unused."""
    make_files(tmp_path, "a.py")
    git(tmp_path, "init", "-q", "-b", "main")
    hook = tmp_path / ".git" / "evil"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/.git/mark\n")
    hook.chmod(0o755)
    git(tmp_path, "config", "core.fsmonitor", str(hook))
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert asyncio.run(list_files(str(tmp_path))) == ["a.py"]
    assert not (tmp_path / ".git" / "mark").exists()


def test_files_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere, near files come first; links are not followed, directories of tools are skipped."""
    make_files(tmp_path, "z.py", "a/b/deep.py", "a/near.py", "node_modules/x.js", ".git/config")
    (tmp_path / "a" / "link").symlink_to(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert asyncio.run(list_files(str(tmp_path))) == ["z.py", "a/link", "a/near.py", "a/b/deep.py"]
    assert asyncio.run(list_files(str(tmp_path / "missing"))) == []
    assert asyncio.run(list_files("/no\0such")) == []


def test_a_listing_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list ends at its limit, a walk when it is cancelled."""
    make_files(tmp_path, *(f"{number}.py" for number in range(9)))
    monkeypatch.setattr(file_index, "MAX_PATHS", 5)
    assert len(walk_files(str(tmp_path), lambda: False)) == 5
    assert walk_files(str(tmp_path), lambda: True) == []
    git(tmp_path, "init", "-q", "-b", "main")
    assert len(asyncio.run(list_files(str(tmp_path)))) == 5
    monkeypatch.setattr(file_index, "MAX_LISTED_BYTES", 1)
    assert asyncio.run(list_files(str(tmp_path)))
