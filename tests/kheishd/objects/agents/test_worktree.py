"""Where a worktree of an agent can be made."""

from pathlib import Path

import pytest

from kheishd.objects.agents.worktree import find_repository, plan_worktree, require_repository
from kheishd.store.tables import SESSIONS
from protocol.errors.agent import WorktreeUnavailable
from tests.support.families import root, spawn
from tests.support.git_repositories import git, make_repository
from tests.support.household import Household


def test_only_the_top_of_a_repository_has_worktrees(tmp_path: Path) -> None:
    """A directory in one, a bare one, a worktree, a link to one, and a shared one are refused."""
    source = make_repository(tmp_path / "source")
    require_repository(str(source))
    inner, bare, linked = source / "inner", tmp_path / "bare", tmp_path / "linked"
    inner.mkdir()
    git(tmp_path, "init", "-q", "--bare", "bare")
    git(source, "worktree", "add", "-q", str(linked))
    for name in ("link", "empty", "shared"):
        (tmp_path / name).mkdir()
    (tmp_path / "link/.git").symlink_to(source / ".git")
    (tmp_path / "empty/.git").mkdir()
    (tmp_path / "shared/.git").mkdir()
    for name in ("HEAD", "objects", "refs", "commondir"):
        (tmp_path / "shared/.git" / name).touch()
    for path in (inner, bare, linked, *(tmp_path / name for name in ("link", "empty", "shared"))):
        with pytest.raises(WorktreeUnavailable) as caught:
            require_repository(str(path))
        assert caught.value.field == "$.params.isolation"


async def test_an_agent_below_has_the_repository_of_its_directory(idle: Household, tmp_path: Path) -> None:
    """Nobody else has it: neither its parent, nor an agent that works in a directory of such a name."""
    source = make_repository(tmp_path / "source")
    parent = await root(idle, workspace=str(source))
    child = (await spawn(idle, parent, isolation="worktree"))["agent_id"]
    path = Path(plan_worktree(str(source), child, "scout").path)
    named = path.parent / "ses_named"
    (path / "inner").mkdir(parents=True)
    named.mkdir()
    below = (await spawn(idle, child))["agent_id"]
    inside = (await spawn(idle, child, workspace=str(path / "inner")))["agent_id"]
    beside = (await spawn(idle, parent, workspace=str(named)))["agent_id"]
    repositories = {}
    for agent_id in (parent, child, below, inside, beside):
        with idle.state.read() as store:
            session = store.need(SESSIONS, agent_id)
        repositories[agent_id] = find_repository(idle.state, session, session.workspace or str(path))
    assert repositories == {parent: None, child: str(source), below: str(source), inside: None, beside: None}


def test_a_path_that_is_too_long_is_refused() -> None:
    """The limit is that of every workspace."""
    with pytest.raises(WorktreeUnavailable, match="longer than"):
        plan_worktree("/" + "x" * 4080, "ses_1", "scout")
