"""Workspace rules: no workspace overlaps with the daemon's home, and none is wider than its parent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.workspace import (
    Workspaces,
    choose_workspace,
    find_outermost,
    find_root_problem,
    find_trust_problem,
    is_within,
    require_within_parent,
)
from protocol.errors.session import WorkspaceForbidden

HOME = "/home/kheish"
DEFAULT = Workspaces(f"{HOME}/workspace", HOME)
LIMITED = Workspaces("/srv/team", HOME, limited=True)
OUTSIDE = [HOME, f"{HOME}/state", f"{HOME}/run", f"{HOME}/agents/x", f"{HOME}/workspaces", "/home", "/"]

PATHS = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=4).map(lambda names: "/" + "/".join(names))


def is_allowed(workspaces: Workspaces, path: str, *, by_operator: bool = True) -> bool:
    """Whether agents may work in a directory."""
    try:
        workspaces.require_allowed(path, by_operator=by_operator)
    except WorkspaceForbidden:
        return False
    return True


def test_is_within() -> None:
    """A directory is within itself, and names are compared whole."""
    assert is_within("/a", "/a")
    assert is_within("/a/b", "/a")
    assert is_within("/a", "/")
    assert not is_within("/ab", "/a")
    assert not is_within("/a", "/a/b")


@pytest.mark.parametrize("path", OUTSIDE)
def test_the_home_is_never_a_workspace(path: str) -> None:
    """Neither the home, nor its content, nor its parents are allowed, with any configuration."""
    assert not is_allowed(DEFAULT, path)
    assert not is_allowed(LIMITED, path)


def test_without_a_configured_root_an_operator_chooses() -> None:
    """Callers without the scope work in the whole default workspace."""
    for path, by_anyone in ((DEFAULT.root, True), (f"{DEFAULT.root}/a", False), ("/srv", False)):
        assert is_allowed(DEFAULT, path)
        assert is_allowed(DEFAULT, path, by_operator=False) == by_anyone


def test_with_a_configured_root_everybody_chooses_within_it() -> None:
    """Every caller may choose within the configured root, and nobody beyond it."""
    for path, inside in (("/srv/team", True), ("/srv/team/a", True), ("/srv/teams", False), ("/srv", False)):
        assert is_allowed(LIMITED, path) == inside
        assert is_allowed(LIMITED, path, by_operator=False) == inside


def test_a_root_inside_the_home() -> None:
    """A root inside the home may be used, a directory beside it may not."""
    inside = Workspaces(f"{HOME}/jobs", HOME, limited=True)
    assert is_allowed(inside, f"{HOME}/jobs/a")
    assert not is_allowed(inside, f"{HOME}/workspace")


@pytest.mark.parametrize("root", [HOME, "/", "/home", f"{HOME}/state", f"{HOME}/agents/a", f"{HOME}/debug"])
def test_find_root_problem(root: str) -> None:
    """The problem names the daemon's own directory."""
    assert "daemon's own" in (find_root_problem(root, HOME) or "")


@pytest.mark.parametrize("root", ["/workspace", "/work", "/statements", "2"])
def test_find_root_problem_none(root: str) -> None:
    """A root beside the home, or in an unused directory of it, has no problem."""
    assert find_root_problem(f"{HOME}{root}", HOME) is None


def test_choose_workspace() -> None:
    """The chosen workspace comes before the agent's, the parent's and the root."""
    assert choose_workspace("/root", None, "/chosen", "/agent") == "/chosen"
    assert choose_workspace("/root", None, None, "/agent") == "/agent"
    assert choose_workspace("/root", None, None, None) == "/root"
    assert choose_workspace("/root", "/parent", None, None) == "/parent"
    assert choose_workspace("/root", "/parent", None, "/parent/agent") == "/parent/agent"
    assert choose_workspace("/root", "/parent", None, "/agent") == "/parent"
    assert require_within_parent("/parent/x", "/parent") == "/parent/x"
    with pytest.raises(WorkspaceForbidden, match="/chosen is not within /parent"):
        choose_workspace("/root", "/parent", "/chosen", None)


@given(st.lists(st.tuples(st.none() | PATHS, st.none() | PATHS), min_size=1, max_size=6))
def test_no_chain_of_sessions_leaves_the_parents(chain: list[tuple[str | None, str | None]]) -> None:
    """No chain of sessions leaves a parent's workspace, whatever is chosen or set by an agent."""
    parent: str | None = None
    for requested, by_agent in chain:
        try:
            workspace = choose_workspace("/root", parent, requested, by_agent)
        except WorkspaceForbidden:
            return
        assert parent is None or is_within(workspace, parent)
        parent = workspace


@pytest.mark.parametrize("root", ["/", "/home", "/home/ann", HOME, f"{HOME}/state/x", f"{HOME}/agents"])
def test_roots_that_cannot_be_trusted(root: str) -> None:
    """No root contains the user's home or the daemon's own, nor is it a directory that the daemon obeys."""
    assert find_trust_problem(root, HOME, "/home/ann") is not None


@pytest.mark.parametrize("root", ["/srv", "/home/ann/src", "/home/annette", f"{HOME}/workspace"])
def test_roots_that_can_be_trusted(root: str) -> None:
    """A directory below a home, beside it, or for workspaces can be trusted."""
    assert find_trust_problem(root, HOME, "/home/ann") is None


@given(st.lists(PATHS, max_size=4), PATHS)
def test_the_outermost_root_counts(roots: list[str], path: str) -> None:
    """It contains the path, and so does no root above it."""
    outermost = find_outermost(path, roots)
    containing = [root for root in roots if is_within(path, root)]
    assert (outermost is None) == (not containing)
    assert outermost is None or all(is_within(root, outermost) for root in containing)
