"""Workspaces as requested and as used, with real directories and links."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.core.workspace import Workspaces
from kheishd.objects.talk.workspace import find_problem, resolve
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import WorkspaceForbidden, WorkspaceMissing
from protocol.limits.names import MAX_PATH_BYTES
from tests.support.household import AGENTS, Household, agent, household
from tests.support.runtimes import make_runtime


def workspaces(directory: Path, *, limited: bool = False) -> Workspaces:
    """Return the workspaces of a home in a directory."""
    root = directory / "work" if limited else directory / "home" / "workspace"
    for name in ("a/b", "b", "own"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (directory / "home" / "state").mkdir(parents=True, exist_ok=True)
    return Workspaces(str(root), str(directory / "home"), limited)


@pytest.fixture
async def free(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon without a configured workspace root."""
    async with household(tmp_path, work=False, tcp=True, workspaces=workspaces(tmp_path)) as house:
        yield house


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon with a workspace root, and an agent that works in a directory of it."""
    own = agent("own", f"workspace: {tmp_path}/work/own")
    async with household(
        tmp_path,
        work=False,
        definitions={**AGENTS, "own": own},
        workspaces=workspaces(tmp_path, limited=True),
    ) as house:
        yield house


async def read_workspace(house: Household, **params: Any) -> str:
    """Send to a session and return the workspace of its run."""
    sent = await house.call("session.send", content="x", **params)
    workspace: str = (await house.call("run.get", run_id=sent["run_id"]))["pinned"]["workspace"]
    return workspace


def test_resolve(tmp_path: Path) -> None:
    """Links and dots are resolved, relative paths begin at the root, and other paths are none."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    root = str(tmp_path)
    assert resolve("link/./x", root) == f"{root}/real/x"
    assert resolve("..", f"{root}/link") == root
    assert resolve("/srv//x/", root) == "/srv/x"
    assert resolve("a\nb", root) is None
    assert resolve("x" * MAX_PATH_BYTES, root) is None
    (tmp_path / "strange").symlink_to("a\x1bb")
    assert resolve("strange", root) is None


def test_find_problem(tmp_path: Path) -> None:
    """A directory that is missing, a file, below a file, or closed to the daemon's user is a problem."""
    (tmp_path / "file").touch()
    assert find_problem(str(tmp_path)) is None
    assert find_problem(str(tmp_path / "gone")) == "does not exist; create it, or name an existing directory"
    assert find_problem(str(tmp_path / "file")) == "is not a directory"
    assert find_problem(str(tmp_path / "file" / "x")) == "cannot be entered: not a directory"
    (tmp_path / "closed").mkdir(0o000)
    if os.geteuid() != 0:
        assert "cannot be entered by the daemon's user" in str(find_problem(str(tmp_path / "closed")))


async def test_the_default_workspace_is_pinned(free: Household, tmp_path: Path) -> None:
    """Without a workspace of its own a run pins the default one."""
    sent = await free.send()
    pinned = (await free.call("run.get", run_id=sent["run_id"]))["pinned"]
    assert pinned["workspace"] == str(tmp_path / "home" / "workspace")


async def test_links_are_resolved_when_they_are_accepted(free: Household, tmp_path: Path) -> None:
    """A link into the daemon's home is refused, and a link that is changed later changes nothing."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    made = await free.call("session.create", workspace=str(tmp_path / "link"))
    assert made["workspace"] == str(tmp_path / "elsewhere")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "home" / "state")
    assert await read_workspace(free, session_id=made["session_id"]) == str(tmp_path / "elsewhere")
    refusal = await free.refusal_of("session.create", workspace=str(tmp_path / "link"))
    assert isinstance(refusal, WorkspaceForbidden)


@pytest.mark.parametrize("path", ["a\nb", "x" * 1000, "\u202e"])
async def test_impossible_workspaces_are_refused(free: Household, path: str) -> None:
    """A path that is too long when resolved, or not printable, is refused."""
    for method in ("session.create", "conversation.send"):
        content = {"content": "x"} if method == "conversation.send" else {}
        assert isinstance(await free.refusal_of(method, workspace=path, **content), InvalidParams)


async def test_a_relative_workspace_begins_at_the_root(limited: Household, tmp_path: Path) -> None:
    """A relative path begins at the root for every caller."""
    made = await limited.call("session.create", workspace="a/../b")
    assert made["workspace"] == str(tmp_path / "work" / "b")


async def test_a_child_works_where_its_parent_does(limited: Household, tmp_path: Path) -> None:
    """A child works in its parent's workspace or in a part of it; its agent's directory counts only there."""
    work = tmp_path / "work"
    parent = (await limited.call("session.create", workspace="a"))["session_id"]
    child = (await limited.call("session.create", parent_session_id=parent, agent="own"))["session_id"]
    assert await read_workspace(limited, session_id=child) == str(work / "a")
    part = await limited.call("session.create", parent_session_id=child, workspace="a/b")
    assert await read_workspace(limited, session_id=part["session_id"]) == str(work / "a" / "b")
    await limited.call("session.update", session_id=parent, workspace=None)
    assert await read_workspace(limited, session_id=child) == str(work / "own")


async def test_a_workspace_is_checked_again_when_it_is_used(limited: Household, tmp_path: Path) -> None:
    """A new root applies to existing sessions."""
    made = await limited.call("session.create", workspace="a")
    elsewhere = Workspaces(str(tmp_path / "other"), str(tmp_path / "home"), limited=True)
    limited.holder.replace(make_runtime(2, models=limited.models, definitions=AGENTS, workspaces=elsewhere))
    refusal = await limited.refusal_of("session.send", session_id=made["session_id"], content="x")
    assert isinstance(refusal, WorkspaceForbidden)
    await limited.call("session.update", session_id=made["session_id"], workspace=None)
    assert await read_workspace(limited, session_id=made["session_id"]) == str(tmp_path / "other")


def names_in(directory: Path) -> set[str]:
    """Return the names in a directory."""
    return {path.name for path in directory.iterdir()}


async def test_no_directory_is_created_by_a_request(free: Household, tmp_path: Path) -> None:
    """A missing workspace is not created, neither the requested one nor the default one."""
    (tmp_path / "home" / "workspace").rename(tmp_path / "moved")
    names = names_in(tmp_path)
    refusal = await free.refusal_of("session.create", workspace=str(tmp_path / "new"))
    assert isinstance(refusal, WorkspaceMissing)
    await free.send()
    assert not (tmp_path / "home" / "workspace").exists()
    assert names_in(tmp_path) == names
