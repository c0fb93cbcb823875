"""Where agents may work: never where the daemon keeps what it obeys, never wider than what is above."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.workspace import Workspaces, place, root_problem, within, within_parent
from protocol.errors.session import WorkspaceForbidden

HOME = "/home/kheish"
DEFAULT = Workspaces(f"{HOME}/workspace", HOME)
LIMITED = Workspaces("/srv/work", HOME, limited=True)
OUTSIDE = [HOME, f"{HOME}/state", f"{HOME}/run", f"{HOME}/agents/x", f"{HOME}/workspaces", "/home", "/"]

PATHS = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=4).map(lambda names: "/" + "/".join(names))


def allowed(workspaces: Workspaces, path: str, *, free: bool = True) -> bool:
    """Whether agents may work there."""
    try:
        workspaces.check(path, free=free)
    except WorkspaceForbidden:
        return False
    return True


def test_within() -> None:
    """A directory is within itself, and names are compared whole."""
    assert within("/a", "/a")
    assert within("/a/b", "/a")
    assert within("/a", "/")
    assert not within("/ab", "/a")
    assert not within("/a", "/a/b")


@pytest.mark.parametrize("path", OUTSIDE)
def test_the_home_is_nobodys_workspace(path: str) -> None:
    """Neither it, nor what is in it, nor what holds it; whoever asks, whatever is configured."""
    assert not allowed(DEFAULT, path)
    assert not allowed(LIMITED, path)


def test_without_configuration_an_operator_chooses() -> None:
    """Others work in the default workspace, all of it."""
    for path, by_others in ((DEFAULT.root, True), (f"{DEFAULT.root}/a", False), ("/srv", False)):
        assert allowed(DEFAULT, path)
        assert allowed(DEFAULT, path, free=False) == by_others


def test_with_a_configured_root_everybody_chooses_within_it() -> None:
    """And nobody leaves it."""
    for path, inside in (("/srv/work", True), ("/srv/work/a", True), ("/srv/worker", False), ("/srv", False)):
        assert allowed(LIMITED, path) == inside
        assert allowed(LIMITED, path, free=False) == inside


def test_a_root_inside_the_home() -> None:
    """What lies in it may be used, what lies beside it may not."""
    inside = Workspaces(f"{HOME}/work", HOME, limited=True)
    assert allowed(inside, f"{HOME}/work/a")
    assert not allowed(inside, f"{HOME}/workspace")


@pytest.mark.parametrize("root", [HOME, "/", "/home", f"{HOME}/state", f"{HOME}/agents/a", f"{HOME}/debug"])
def test_a_root_that_is_the_daemons_own(root: str) -> None:
    """It is told why."""
    assert "daemon's own" in (root_problem(root, HOME) or "")


@pytest.mark.parametrize("root", ["/workspace", "/work", "/statements", "2"])
def test_a_root_that_is_not(root: str) -> None:
    """Beside the home, or in a part of it that nothing else is kept in."""
    assert root_problem(f"{HOME}{root}", HOME) is None


def test_where_a_session_works() -> None:
    """Told so before its agent's own, before its parent's, before the root."""
    assert place("/root", None, "/chosen", "/agent") == "/chosen"
    assert place("/root", None, None, "/agent") == "/agent"
    assert place("/root", None, None, None) == "/root"
    assert place("/root", "/above", None, None) == "/above"
    assert place("/root", "/above", None, "/above/agent") == "/above/agent"
    assert place("/root", "/above", None, "/agent") == "/above"
    assert within_parent("/above/x", "/above") == "/above/x"
    with pytest.raises(WorkspaceForbidden, match="/chosen is not within /above"):
        place("/root", "/above", "/chosen", None)


@given(st.lists(st.tuples(st.none() | PATHS, st.none() | PATHS), min_size=1, max_size=6))
def test_no_chain_of_sessions_leads_out(chain: list[tuple[str | None, str | None]]) -> None:
    """Whatever each was told and whatever its agent's own directory is."""
    above: str | None = None
    for chosen, by_agent in chain:
        try:
            here = place("/root", above, chosen, by_agent)
        except WorkspaceForbidden:
            return
        assert above is None or within(here, above)
        above = here
