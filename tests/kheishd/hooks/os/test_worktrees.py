"""The worktrees of agents: made where nothing is, removed where no work is, and nothing else is executed."""

import os
from contextlib import suppress
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from kheishd.hooks.os.git import GitFailed
from kheishd.hooks.os.shell.scan import PathRules
from kheishd.hooks.os.shell.shield import Shield
from kheishd.hooks.os.shell.workdir import open_workdir
from kheishd.hooks.os.worktrees import KeptWork, make_worktree, remove_worktree, undo_worktree
from kheishd.objects.agents.worktree import plan_worktree
from protocol.errors.agent import WorktreeUnavailable
from protocol.objects.agent import AgentWorktree
from tests.support.git_repositories import exists, git, make_hostile, make_repository


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Provide a repository whose path has a blank."""
    return make_repository(tmp_path / "a repository")


def plan(source: Path, agent_id: str = "ses_1") -> AgentWorktree:
    """Return the plan of a worktree."""
    return plan_worktree(str(source), agent_id, "scout")


async def make(source: Path, agent_id: str = "ses_1") -> AgentWorktree:
    """Make a worktree."""
    planned = plan(source, agent_id)
    commit = await make_worktree(planned)
    return AgentWorktree(
        path=planned.path, source_root=planned.source_root, branch=planned.branch, base_commit=commit
    )


async def test_a_worktree_has_the_files_of_the_head(source: Path) -> None:
    """It is on a branch of its own, and the repository does not show it as untracked."""
    worktree = await make(source)
    path = Path(worktree.path)
    assert (path / "file").read_text() == "one\n"
    assert worktree.base_commit == git(source, "rev-parse", "HEAD")
    assert git(path, "branch", "--show-current") == "kheish/ses_1/scout"
    assert git(source, "status", "--porcelain") == ""
    assert git(source, "branch", "--show-current") == "main"


async def test_a_clean_worktree_is_removed_with_its_branch(source: Path) -> None:
    """Nothing of it stays, ignored files included."""
    worktree = await make(source)
    (source / ".git/info/exclude").write_text("built\n")
    (Path(worktree.path) / "built").write_text("x")
    assert await remove_worktree(worktree) == KeptWork()
    assert not exists(worktree.path)
    assert git(source, "branch", "--list", "--format=%(refname:short)") == "main"
    assert git(source, "worktree", "list").count("\n") == 0


async def test_a_branch_with_commits_stays(source: Path) -> None:
    """The worktree is removed: the branch has its work."""
    worktree = await make(source)
    git(Path(worktree.path), "commit", "-q", "--allow-empty", "-m", "second")
    kept = await remove_worktree(worktree)
    assert (kept.path, kept.branch) == (None, "kheish/ses_1/scout")
    assert git(source, "log", "-1", "--format=%s", "kheish/ses_1/scout") == "second"
    assert not exists(worktree.path)


@pytest.mark.parametrize("work", ["changed", "untracked", "staged", "detached", "module"])
async def test_uncommitted_work_keeps_the_worktree(source: Path, tmp_path: Path, work: str) -> None:
    """Changes, new files, staged files, commits on no branch and submodules are work."""
    worktree = await make(source)
    path = Path(worktree.path)
    match work:
        case "changed":
            (path / "file").write_text("two\n")
        case "untracked":
            (path / "new").write_text("x")
        case "staged":
            (path / "file").write_text("two\n")
            git(path, "add", "file")
        case "detached":
            git(path, "checkout", "-q", "--detach")
            git(path, "commit", "-q", "--allow-empty", "-m", "lost")
        case _:
            mark = make_hostile(make_repository(path / "sub"), tmp_path / "tools")
            git(path, "update-index", "--add", "--cacheinfo", f"160000,{worktree.base_commit},sub")
            git(path, "commit", "-q", "-m", "module")
            (path / "sub/file").touch()
            mark.unlink(missing_ok=True)
    kept = await remove_worktree(worktree)
    assert (kept.path, kept.branch) == (worktree.path, worktree.branch)
    assert f"its worktree {path} stays: " in kept.note
    assert exists(path)
    assert not (tmp_path / "tools/marked").exists()


async def test_nothing_that_a_repository_names_is_executed(source: Path, tmp_path: Path) -> None:
    """Hooks, filters and monitors of the file system do not run; settings do not hide work."""
    mark = make_hostile(source, tmp_path / "tools")
    git_was_marked = mark.exists()
    worktree = await make(source)
    assert (Path(worktree.path) / "file").read_text() == "one\n"
    (Path(worktree.path) / "new").write_text("x")
    assert (await remove_worktree(worktree)).path == worktree.path
    (Path(worktree.path) / "new").unlink()
    (Path(worktree.path) / "file").touch()
    assert await remove_worktree(worktree) == KeptWork()
    assert (git_was_marked, mark.exists()) == (False, False)
    with suppress(CalledProcessError):
        git(source, "add", "-A")
    assert mark.exists(), "the programs would have left a mark"


async def test_nothing_is_overwritten(source: Path) -> None:
    """A directory or a link that exists at the place is not touched, whoever made it."""
    for name, make_file in (("ses_d", Path.mkdir), ("ses_l", lambda path: path.symlink_to(source))):
        path = Path(plan(source, name).path)
        path.parent.mkdir(parents=True, exist_ok=True)
        make_file(path)
        with pytest.raises(GitFailed, match="exists already"):
            await make_worktree(plan(source, name))
        with pytest.raises(GitFailed, match="exists already"):
            await undo_worktree(plan(source, name))
        assert exists(path)
    assert (source / "file").exists()


async def test_a_link_in_place_of_the_directory_is_not_followed(source: Path, tmp_path: Path) -> None:
    """Neither its own directory nor the repository may lead elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (source / ".kheish").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GitFailed, match="is a link"):
        await make_worktree(plan(source))
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("stage", ["record", "empty", "files", "complete"])
async def test_a_half_made_worktree_is_made_again(source: Path, stage: str) -> None:
    """Whatever an earlier attempt has left, the worktree is complete afterwards."""
    planned = plan(source)
    record, path = source / ".git/worktrees/ses_1", Path(planned.path)
    if stage in ("record", "empty"):
        record.mkdir(parents=True)
        (record / "locked").write_text("initializing")
    if stage == "empty":
        (record / "gitdir").write_text(f"{path}/.git\n")
        os.makedirs(path)
    if stage in ("files", "complete"):
        await make_worktree(planned)
    if stage == "files":
        (record / "locked").write_text("initializing")
        (record / "index").unlink()
    await make_worktree(planned)
    assert git(path, "status", "--porcelain") == ""
    await undo_worktree(planned)
    assert git(source, "branch", "--list", "--format=%(refname:short)") == "main"
    assert not exists(path)
    assert not exists(record)


async def test_a_repository_that_is_gone_blocks_nothing(source: Path, tmp_path: Path) -> None:
    """A removed worktree, and a moved or deleted repository, are no failure."""
    removed, moved = await make(source, "ses_1"), await make(source, "ses_2")
    git(source, "worktree", "remove", removed.path)
    assert await remove_worktree(removed) == KeptWork()
    os.rename(source, tmp_path / "moved")
    kept = await remove_worktree(moved)
    assert (kept.path, kept.branch) == (None, None)
    assert "has no directory .git" in kept.note
    with pytest.raises(WorktreeUnavailable):
        await make_worktree(moved)


async def test_a_repository_without_a_commit_has_no_worktree(tmp_path: Path) -> None:
    """The reason is named."""
    git(tmp_path, "init", "-q")
    with pytest.raises(GitFailed, match="no commit yet"):
        await make_worktree(plan(tmp_path))


async def test_a_command_of_the_parent_is_not_blamed(source: Path) -> None:
    """A command sees worktrees come and go: nothing is renamed or named, and no mount of it is lost."""
    workdir = open_workdir(str(source), ".")
    try:
        shield = Shield(workdir, PathRules())
        first = await make(source, "ses_1")
        assert shield.finish() == []
        shield = Shield(workdir, PathRules())
        # Each of these directories stays when a worktree is removed.
        assert {path for path, is_writable in shield.scan.mounts.items() if not is_writable} == {
            ".kheish",
            ".git/worktrees",
            ".git/config",
            ".git/hooks",
        }
        await make(source, "ses_2")
        assert await remove_worktree(first) == KeptWork()
        assert shield.finish() == []
        assert exists(source / ".git/worktrees")
    finally:
        workdir.close()


async def test_a_forged_record_of_a_worktree_is_put_aside(source: Path) -> None:
    """A command that makes what looks like an agent's worktree does not smuggle in a configuration."""
    workdir = open_workdir(str(source), ".")
    try:
        shield = Shield(workdir, PathRules())
        record = source / ".git/worktrees/ses_forged"
        os.makedirs(record)
        for name, text in (
            ("HEAD", "x"),
            ("commondir", "../..\n"),
            ("config.worktree", "[core]\nfsmonitor=x"),
        ):
            (record / name).write_text(text)
        os.makedirs(source / ".kheish/worktrees/ses_forged")
        (source / ".kheish/.gitignore").write_text("*\n")
        (sentence,) = shield.finish()
        assert ".git/worktrees/ses_forged/config.worktree, .kheish." in sentence
    finally:
        workdir.close()
