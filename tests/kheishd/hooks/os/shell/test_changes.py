"""The changes of commands, as git tells them."""

import os
from pathlib import Path

import pytest

from kheishd.hooks.os.shell import changes
from kheishd.hooks.os.shell.changes import FilesBefore, find_changes_since, find_place, look_before
from kheishd.kernel.hook import CheckpointDraft, SavedFile
from tests.support.git_repositories import exists, git, make_hostile, make_repository


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Provide a repository with a clean, a modified, an untracked and an ignored file."""
    repository = make_repository((tmp_path / "repository").resolve())
    (repository / "clean").write_text("clean\n")
    (repository / "sub").mkdir()
    (repository / "sub" / "deep").write_text("deep\n")
    (repository / ".gitignore").write_text("ignored\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "second")
    (repository / "file").write_text("modified\n")
    (repository / "untracked").write_text("untracked\n")
    (repository / "ignored").write_text("ignored\n")
    return repository


async def look(workspace: Path) -> FilesBefore:
    """Return the files before a command."""
    place = find_place(str(workspace), None)
    assert place is not None
    assert place.problem == ""
    before = await look_before(str(workspace), place)
    assert isinstance(before, FilesBefore), before
    return before


async def changed(workspace: Path, before: FilesBefore) -> dict[str, SavedFile]:
    """Return the files that have changed since, by path."""
    draft = await find_changes_since(str(workspace), before)
    assert draft is None or isinstance(draft, CheckpointDraft)
    return {} if draft is None else {file.path: file for file in draft.files}


def run_command(repository: Path) -> None:
    """Change files in every way."""
    (repository / "clean").write_text("changed\n")
    (repository / "file").write_text("modified again\n")
    (repository / "untracked").unlink()
    (repository / "sub" / "deep").unlink()
    (repository / "new").write_text("new\n")
    (repository / "ignored").write_text("changed\n")


async def test_each_changed_file_has_its_content_before(repository: Path) -> None:
    """Clean, modified, untracked, deleted and new files are told; ignored ones are not."""
    before = await look(repository)
    assert await changed(repository, before) == {}
    run_command(repository)
    files = await changed(repository, before)
    assert {path: file.content for path, file in files.items()} == {
        "clean": b"clean\n",
        "file": b"modified\n",
        "untracked": b"untracked\n",
        "sub/deep": b"deep\n",
        "new": None,
    }
    assert (files["new"].digest, files["sub/deep"].after, files["clean"].mode) == (None, None, 0o644)
    assert not any(file.problem for file in files.values())


async def test_commits_and_other_branches(repository: Path) -> None:
    """A commit changes no file; another branch does, and its files are clean before and after."""
    git(repository, "commit", "-q", "-am", "third")
    before = await look(repository)
    git(repository, "checkout", "-q", "HEAD~1")
    assert {path: file.content for path, file in (await changed(repository, before)).items()} == {
        "file": b"modified\n"
    }
    before = await look(repository)
    git(repository, "rm", "-q", "--cached", "clean")
    assert await changed(repository, before) == {}


async def test_a_part_of_a_repository(repository: Path) -> None:
    """Paths are relative to the workspace, and what is outside of it does not count."""
    before = await look(repository / "sub")
    run_command(repository)
    assert list(await changed(repository / "sub", before)) == ["deep"]


async def test_files_that_git_did_not_see_before_are_not_deleted(repository: Path) -> None:
    """Where the rules of ignored files change, or another repository is opened, nothing counts as new."""
    make_repository(repository / "nested")
    before = await look(repository)
    os.rename(repository / "nested/.git", repository / "nested/git")
    (repository / "nested" / "file").write_text("x")
    assert await changed(repository, before) == {}
    (repository / ".gitignore").write_text("")
    files = await changed(repository, before)
    assert "ignored by git" in files["ignored"].problem


async def test_files_of_a_submodule_are_not_deleted(repository: Path) -> None:
    """They existed before, though git lists them only once the directory is no submodule any more."""
    make_repository(repository / "nested")
    git(repository, "add", "nested")
    git(repository, "commit", "-q", "-m", "submodule")
    before = await look(repository)
    os.rename(repository / "nested/.git", repository / "gone")
    git(repository, "rm", "-q", "--cached", "nested")
    git(repository, "add", "nested")
    assert "nested/file" not in await changed(repository, before)


async def test_no_program_of_the_repository_runs(repository: Path, tmp_path: Path) -> None:
    """Neither hooks nor filters nor a monitor run."""
    mark = make_hostile(repository, tmp_path / "tools")
    if exists(mark):
        mark.unlink()
    before = await look(repository)
    run_command(repository)
    assert "clean" in await changed(repository, before)
    assert not exists(mark)


def test_repositories_that_lead_elsewhere_are_not_asked(repository: Path, tmp_path: Path) -> None:
    """An undo would bring foreign contents into the workspace."""
    assert find_place("/proc", None) is None
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/.git").write_text(f"gitdir: {repository}/.git\n")
    place = find_place(str(tmp_path / "linked"), None)
    assert place is not None
    assert "elsewhere" in place.problem
    (repository / ".git/objects/zz").symlink_to("/tmp")
    place = find_place(str(repository), None)
    assert place is not None
    assert "elsewhere" in place.problem
    (repository / ".git/objects/zz").unlink()
    (repository / ".git/objects/info").mkdir(exist_ok=True)
    (repository / ".git/objects/info/alternates").write_text("/elsewhere\n")
    place = find_place(str(repository), None)
    assert place is not None
    assert "elsewhere" in place.problem


def test_repositories_of_others_are_not_asked(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration of another user, and one that may differ each time, could name any program."""
    os.rename(repository / ".git/config", repository / ".git/real")
    os.mkfifo(repository / ".git/config")
    place = find_place(str(repository / "sub"), None)
    assert place is not None
    assert place.problem == "the configuration of the repository is no file"
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    place = find_place(str(repository / "sub"), None)
    assert place is not None
    assert place.problem == ".git belongs to another user"


async def test_large_repositories_are_skipped(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large index is not listed, and beyond a number of changed files the others are counted."""
    before = await look(repository)
    run_command(repository)
    monkeypatch.setattr(changes, "MAX_CHECKPOINT_FILES", 2)
    draft = await find_changes_since(str(repository), before)
    assert isinstance(draft, CheckpointDraft)
    assert (len(draft.files), draft.more) == (2, 3)
    monkeypatch.setattr(changes, "MAX_GIT_INDEX_BYTES", 10)
    place = find_place(str(repository), None)
    assert place is not None
    assert "too many files" in place.problem
    monkeypatch.setattr(changes, "LOOK_SECONDS", 0.0)
    assert await look_before(str(repository), place) == "the repository is too large"
    assert await find_changes_since(str(repository), before) == "the repository is too large"


async def test_a_worktree_of_an_agent(repository: Path) -> None:
    """Its record is in the repository, and so are its objects."""
    tree = repository / ".kheish/worktrees/ses_1"
    git(repository, "worktree", "add", "-q", str(tree))
    place = find_place(str(tree), str(repository))
    assert place is not None
    assert place.problem == ""
    before = await look_before(str(tree), place)
    assert isinstance(before, FilesBefore)
    (tree / "clean").write_text("x")
    assert (await changed(tree, before))["clean"].content == b"clean\n"


async def test_contents_in_git_lfs_are_not_restored(repository: Path) -> None:
    """The blob is only a pointer to the content."""
    (repository / "clean").write_text("version https://git-lfs.github.com/spec/v1\n")
    git(repository, "commit", "-qam", "pointer")
    before = await look(repository)
    (repository / "clean").write_text("x")
    assert "does not have" in (await changed(repository, before))["clean"].problem


async def test_work_that_was_not_read_is_not_undone(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that deletes large files makes room for others, whose contents before were not read."""
    monkeypatch.setattr(changes, "MAX_CHECKPOINT_CONTENT_BYTES", 100)
    (repository / "a").write_text("x" * 200)
    (repository / "clean").write_text("of a person\n")
    before = await look(repository)
    (repository / "a").unlink()
    files = await changed(repository, before)
    assert set(files) == {"a", "clean", "file", "untracked"}
    assert {path for path, file in files.items() if "not read" in file.problem} == {
        "clean",
        "file",
        "untracked",
    }


async def test_changes_that_git_ignores_are_not_undone(repository: Path) -> None:
    """A file whose changes git was told to ignore does not have the content of its blob."""
    git(repository, "update-index", "--skip-worktree", "clean")
    git(repository, "update-index", "--assume-unchanged", "sub/deep")
    (repository / "clean").write_text("of a person\n")
    (repository / "sub/deep").write_text("of a person\n")
    before = await look(repository)
    git(repository, "update-index", "--no-skip-worktree", "clean")
    git(repository, "update-index", "--no-assume-unchanged", "sub/deep")
    assert await changed(repository, before) == {}


@pytest.mark.parametrize("attribute", ["filter=strip", "working-tree-encoding=UTF-16", "ident", "eol=crlf"])
async def test_contents_that_git_converts_are_not_restored(repository: Path, attribute: str) -> None:
    """The file in the working tree has another content than its blob."""
    (repository / ".gitattributes").write_text(f"clean {attribute}\nsub/deep eol=lf -filter -ident\n")
    (repository / "clean").write_bytes("a\n".encode("utf-16" if "16" in attribute else "ascii"))
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "attributes")
    before = await look(repository)
    (repository / "clean").write_text("x")
    (repository / "sub/deep").write_text("x")
    files = await changed(repository, before)
    assert "converts" in files["clean"].problem
    assert files["sub/deep"].content == b"deep\n"


async def test_line_ends_that_git_converts_are_not_restored(repository: Path) -> None:
    """The repository's settings may convert every text."""
    git(repository, "config", "core.autocrlf", "true")
    before = await look(repository)
    (repository / "clean").write_text("x")
    assert "converts" in (await changed(repository, before))["clean"].problem
