"""Git as the daemon runs it: limited in time, and without the programs of a repository."""

from pathlib import Path

import pytest

from kheishd.hooks.os import git
from kheishd.hooks.os.git import GitDirectory, GitFailed
from tests.support.git_repositories import git as run_git
from tests.support.git_repositories import make_repository
from tests.support.mcp_servers import until


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Provide a repository."""
    return make_repository(tmp_path / "source")


def directory(source: Path) -> GitDirectory:
    """Return the repository for git."""
    return GitDirectory(f"{source}/.git", str(source))


def is_running(pid: str) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


async def test_a_failure_has_gits_own_words(source: Path, tmp_path: Path) -> None:
    """It is one line; a directory that is gone and a git that is missing are failures, too."""
    with pytest.raises(GitFailed, match=r"^Needed a single revision$"):
        await directory(source).run("rev-parse", "--verify", "nothing")
    with pytest.raises(GitFailed, match="no such file or directory"):
        await directory(tmp_path / "gone").run("status")


async def test_no_git(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a trusted program, nothing is run."""
    monkeypatch.setattr(git, "find_program", lambda name: None)
    with pytest.raises(GitFailed, match="git is not installed"):
        await directory(source).run("status")


async def test_a_call_that_does_not_end_is_killed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed with all that it has started."""
    pids = tmp_path / "pids"
    program = tmp_path / "slow"
    program.write_text(f"#!/bin/sh\nsleep 1000 & echo $! $$ >{pids}.new; mv {pids}.new {pids}; wait\n")
    program.chmod(0o755)
    monkeypatch.setattr(git, "find_program", lambda name: str(program))
    monkeypatch.setattr(git, "MAX_GIT_SECONDS", 1.0)
    with pytest.raises(GitFailed, match="did not end within 1 s and was killed"):
        await directory(source).run("status")
    numbers = pids.read_text().split()
    # A killed process ends when it is scheduled again.
    await until(lambda: not any(map(is_running, numbers)))


async def test_too_many_filters_are_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that cannot be switched off is not risked."""
    monkeypatch.setattr(git, "MAX_FILTERS", 1)
    for name in ("a", "b.c"):
        run_git(source, "config", f"filter.{name}.clean", "cat")
    with pytest.raises(GitFailed, match="more than 1 filters"):
        await directory(source).run("status")


async def test_a_call_with_too_much_output_is_killed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent can make any number of files, whose names the daemon does not hold in memory."""
    program = tmp_path / "endless"
    program.write_text("#!/bin/sh\nexec yes\n")
    program.chmod(0o755)
    monkeypatch.setattr(git, "find_program", lambda name: str(program))
    monkeypatch.setattr(git, "MAX_OUTPUT_BYTES", 100_000)
    with pytest.raises(GitFailed, match="config has more output than 100000 bytes"):
        await directory(source).run("status")


@pytest.mark.parametrize("section", ["[include]", '[includeIf "onbranch:main"]'])
async def test_a_configuration_in_the_working_tree_is_refused(source: Path, section: str) -> None:
    """An agent could change an included file after the filters were listed; one in ``.git`` is protected."""
    (source / ".git/more").write_text('[filter "x"]\n\tclean = false\n')
    with (source / ".git/config").open("a") as config:
        config.write(f"{section}\n\tpath = more\n")
    await directory(source).run("status")
    (source / ".git/more").write_text("[include]\n\tpath = ../settings\n")
    with pytest.raises(GitFailed, match=r"includes \.\./settings, which agents may change"):
        await directory(source).run("status")
    run_git(source, "worktree", "add", "-q", "--force", str(source / "tree"), "main")
    with pytest.raises(GitFailed, match="which agents may change"):
        await GitDirectory(f"{source}/.git/worktrees/tree", str(source / "tree")).run("status")
