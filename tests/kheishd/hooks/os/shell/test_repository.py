"""The repository of an agent's worktree in the sandbox: git commits, and changes nothing that others obey."""

import subprocess
from pathlib import Path

import pytest
import trio

from kheishd.config.sections.tools import LimitsSection
from kheishd.hooks.os.shell.repository import closes_repository
from kheishd.hooks.os.shell.sandbox import Sandbox
from kheishd.hooks.os.shell.scan import PathRules
from kheishd.hooks.os.shell.shield import Shield
from kheishd.hooks.os.shell.workdir import open_workdir
from kheishd.hooks.os.worktrees import KeptWork, make_worktree, remove_worktree
from kheishd.objects.agents.worktree import plan_worktree
from protocol.objects.agent import AgentWorktree
from tests.support.git_repositories import exists, git, make_repository

pytestmark = pytest.mark.usefixtures("bubblewrap")

GIT = "git -c user.name=a -c user.email=b"


@pytest.fixture
async def worktree(tmp_path: Path) -> AgentWorktree:
    """Provide the worktree of an agent."""
    source = make_repository(tmp_path / "source")
    planned = plan_worktree(str(source), "ses_1", "scout")
    commit = await make_worktree(planned)
    return AgentWorktree(
        path=planned.path, source_root=planned.source_root, branch=planned.branch, base_commit=commit
    )


async def run(worktree: AgentWorktree, command: str, *closed: str) -> tuple[str, list[str]]:
    """Run a command of the agent; return its output, and the sentences of the shield."""
    sandbox = Sandbox(["/nonexistent"])
    assert await sandbox.choose("required")
    return await trio.to_thread.run_sync(_run, sandbox, worktree, command, closed)


def _run(
    sandbox: Sandbox, worktree: AgentWorktree, command: str, closed: tuple[str, ...]
) -> tuple[str, list[str]]:
    workdir = open_workdir(worktree.path, ".", worktree.source_root)
    try:
        shield = Shield(workdir, PathRules(closed=closed))
        boxed = sandbox.confine(workdir, ["/bin/sh", "-c", command], LimitsSection(), shield.scan)
        try:
            done = subprocess.run(
                boxed.argv,
                stdout=-1,
                stderr=subprocess.STDOUT,
                env={"PATH": "/usr/bin:/bin", "HOME": worktree.path},
                timeout=60,
                check=False,
                pass_fds=boxed.descriptors,
            )
        finally:
            boxed.close()
        return done.stdout.decode(), shield.finish()
    finally:
        workdir.close()


async def test_an_agent_commits_in_its_worktree(worktree: AgentWorktree) -> None:
    """Git works as usual on the agent's own branches: commit, amend, merge, reset, and branches beside it."""
    script = (
        f"set -e; git status --short; echo two >file; echo x >new; git add -A; {GIT} commit -qm second;"
        f" echo three >file; {GIT} commit -qam third; {GIT} commit -q --amend -m other; git diff --stat main;"
        f" git switch -q -c kheish/ses_1/more; {GIT} commit -q --allow-empty -m more; git switch -q -;"
        f" {GIT} merge -q kheish/ses_1/more; git log --format=%s"
    )
    text, sentences = await run(worktree, script)
    assert text.split("\n")[-5:] == ["more", "other", "second", "first", ""]
    assert sentences == []
    source = Path(worktree.source_root)
    assert git(source, "log", "--format=%s", "-1", worktree.branch) == "more"
    assert git(source, "fsck") == ""
    assert (await remove_worktree(worktree)).branch == worktree.branch
    assert not exists(worktree.path)


async def test_what_others_obey_cannot_be_changed(worktree: AgentWorktree) -> None:
    """Configuration, hooks, other branches and worktrees, packs and links to other repositories."""
    other = plan_worktree(worktree.source_root, "ses_2", "other")
    await make_worktree(other)
    git_directory = Path(worktree.source_root) / ".git"
    record = "worktrees/ses_1"
    paths = (
        *("config", "hooks/pre-commit", "info/attributes", "HEAD", "index", "packed-refs"),
        *(
            "refs/heads/main",
            "refs/heads/kheish/ses_2/other",
            "refs/heads/kheish/x",
            "modules/x",
            "commondir",
        ),
        *("objects/info/alternates", "objects/pack/x", "worktrees/ses_2/HEAD", "worktrees/x/HEAD"),
        *(f"{record}/commondir", f"{record}/gitdir", f"{record}/config.worktree", f"{record}/modules/x"),
    )
    script = "".join(
        f"mkdir -p {git_directory}/$(dirname {path}); echo x >>{git_directory}/{path} && echo written {path};"
        for path in paths
    )
    script += f"mv {git_directory}/{record} {git_directory}/worktrees/y; rm -rf {git_directory}/objects/pack;"
    script += f"mv {git_directory}/{record}/modules {git_directory}/{record}/m; ln -sf x .git;"
    script += "git config a.b c; git branch z; git tag t; git worktree add ../w;"
    script += "git update-ref -d refs/heads/main"
    before = git(git_directory, "for-each-ref"), (git_directory / "config").read_text()
    text, _ = await run(worktree, f"{{ {script}; }} 2>&1")
    assert "written" not in text
    assert (git(git_directory, "for-each-ref"), (git_directory / "config").read_text()) == before
    assert (git_directory / record / "commondir").read_text() == "../..\n"
    assert await remove_worktree(worktree) == KeptWork()
    assert not exists(git_directory / "refs/heads/kheish/ses_1")


async def test_an_unfinished_operation_is_named(worktree: AgentWorktree) -> None:
    """It may list commands, which a person would run with ``git rebase --continue``."""
    record = f"{worktree.source_root}/.git/worktrees/ses_1"
    _, sentences = await run(
        worktree, f"mkdir {record}/rebase-merge; echo exec evil >{record}/rebase-merge/todo"
    )
    assert f"inspect them first: {record}/rebase-merge" in sentences[0]


async def test_links_in_the_record_lead_the_daemon_nowhere(worktree: AgentWorktree, tmp_path: Path) -> None:
    """Neither a link in place of the index nor a symbolic branch changes what is elsewhere."""
    source = Path(worktree.source_root)
    record = f"{source}/.git/worktrees/ses_1"
    index = (source / ".git/index").read_bytes()
    script = (
        f"rm {record}/index; ln -s {source}/.git/index {record}/index;"
        f" echo 'ref: refs/heads/main' >{source}/.git/refs/heads/{worktree.branch}; touch file"
    )
    await run(worktree, script)
    await remove_worktree(worktree)
    assert (source / ".git/index").read_bytes() == index
    assert git(source, "rev-parse", "main") == worktree.base_commit
    assert git(source, "status", "--porcelain") == ""


async def test_rules_that_close_git_directories(worktree: AgentWorktree) -> None:
    """Then a command sees nothing of the repository; other rules do not matter."""
    closing = (".git", ".git/config", ".git/*", ".g*", "*git", "*.git", ".git*", "*")
    assert [closes_repository(pattern) for pattern in closing] == [True] * len(closing)
    assert not any(map(closes_repository, (".env", "*.env", ".gitignore", "keys/*", ".github/x", "a/.git/x")))
    for rule, text in ((".git/config", "fatal"), ("*.env", "first")):
        assert text in (await run(worktree, "git log --format=%s", rule))[0]


@pytest.mark.parametrize("part", ["objects/pack", "worktrees/ses_1/modules"])
async def test_a_repository_with_a_missing_part_is_not_mounted(worktree: AgentWorktree, part: str) -> None:
    """Commands run without git, and files can be used."""
    path = Path(worktree.source_root) / ".git" / part
    path.rename(path.parent / "away")
    for _ in range(2):
        text, _ = await run(worktree, "git log; cat file")
        assert "not a git repository" in text
        assert "one" in text
        if not exists(path):
            path.symlink_to("away")
