"""Trusted roots over the socket: every outcome of trust, untrust, list and get."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.core.workspace import Workspaces
from kheishd.objects.talk.workspace import find_trusted_root, is_trusted
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import WorkspaceForbidden, WorkspaceMissing
from protocol.errors.token import ScopeMissing, ScopeWouldWiden
from protocol.errors.workspace import RootConfigured, RootLimit, RootNotFound
from protocol.limits.workspace import MAX_TRUSTED_ROOTS
from tests.support.household import Household, household, pages, refusal_of


@pytest.fixture
def srv(tmp_path: Path) -> Path:
    """Provide a directory beside the home, with its links resolved."""
    srv = (tmp_path / "srv").resolve()
    for name in ("home/workspace", "home/state", "shop/api"):
        (srv / name).mkdir(parents=True)
    return srv


@pytest.fixture
async def node(tmp_path: Path, srv: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Household]:
    """Provide a household whose home and user's home are known."""
    workspaces = Workspaces(f"{srv}/home/workspace", f"{srv}/home", trusted=(f"{srv}/home/workspace",))
    monkeypatch.setenv("HOME", f"{srv}/home")
    async with household(tmp_path, tcp=True, workspaces=workspaces) as house:
        yield house


async def roots(house: Household) -> list[str]:
    """Return the paths of the trusted roots."""
    return [root["root"] for root in await pages(house.client, "workspace.list", "workspaces", limit=1)]


def trusts(house: Household, path: Path | str) -> bool:
    """Whether a directory is trusted."""
    with house.state.read() as store:
        return is_trusted(store, house.holder.current(), str(path))


async def test_workspace_trust_ok(node: Household, srv: Path) -> None:
    """A root covers what is below it, and nothing above or beside it; links are resolved once."""
    (srv / "link").symlink_to("shop")
    trusted = await node.call("workspace.trust", root=f"{srv}/link/", note="mine")
    assert (trusted["root"], trusted["source"], trusted["note"]) == (f"{srv}/shop", "client", "mine")
    head = node.head()
    assert await node.call("workspace.trust", root=f"{srv}/shop") == trusted
    assert node.head() == head
    assert trusts(node, srv / "shop/api")
    assert not trusts(node, srv)
    assert not trusts(node, f"{srv}/shopping")
    (event,) = await node.events(types=["workspace_trusted"])
    assert (event["root"], event["actor"]) == (f"{srv}/shop", trusted["trusted_by"])


async def test_nested_roots(node: Household, srv: Path) -> None:
    """The outermost root counts; without it, the inner one remains."""
    for root in ("shop/api", "shop"):
        await node.call("workspace.trust", root=f"{srv}/{root}")
    with node.state.read() as store:
        assert find_trusted_root(store, node.holder.current(), f"{srv}/shop/api/v1") == f"{srv}/shop"
    await node.call("workspace.untrust", root=f"{srv}/shop")
    assert trusts(node, srv / "shop/api")
    assert not trusts(node, srv / "shop")


@pytest.mark.parametrize("root", ["shop", "", "~", "/srv/a\nb", "/" + "x" * 1030, "/a\x00b"])
async def test_a_root_is_an_absolute_path(node: Household, root: str) -> None:
    """Anything else is refused, in both methods."""
    for method in ("workspace.trust", "workspace.untrust"):
        assert isinstance(await node.refusal_of(method, root=root), InvalidParams)


async def test_workspace_trust_workspace_forbidden(node: Household, srv: Path) -> None:
    """Neither ``/`` nor a home directory, what contains one, the daemon's own or a public directory."""
    (srv / "public").mkdir()
    os.chmod(srv / "public", 0o777)
    (srv / "root").symlink_to("/")
    for path in ("/", str(srv), f"{srv}/home", f"{srv}/home/state", f"{srv}/public", f"{srv}/root"):
        refusal = await node.refusal_of("workspace.trust", root=path)
        assert (type(refusal), refusal.field) == (WorkspaceForbidden, "$.params.root"), path
    # Another user could put a directory of their own in the place of this one.
    (srv / "public/own").mkdir()
    refusal = await node.refusal_of("workspace.trust", root=f"{srv}/public/own")
    assert f"may write in {srv}/public;" in refusal.message
    assert await roots(node) == [f"{srv}/home/workspace"]
    os.chmod(srv / "public", 0o1777)
    await node.call("workspace.trust", root=f"{srv}/public/own")


async def test_workspace_trust_workspace_missing(node: Household, srv: Path) -> None:
    """The root is no directory."""
    (srv / "file").touch()
    for name in ("gone", "file"):
        assert isinstance(await node.refusal_of("workspace.trust", root=f"{srv}/{name}"), WorkspaceMissing)


async def test_workspace_trust_root_limit(node: Household, srv: Path) -> None:
    """The number of roots is limited."""
    for number in range(MAX_TRUSTED_ROOTS + 1):
        (srv / str(number)).mkdir()
    for number in range(MAX_TRUSTED_ROOTS):
        await node.call("workspace.trust", root=f"{srv}/{number}")
    refusal = await node.refusal_of("workspace.trust", root=f"{srv}/{MAX_TRUSTED_ROOTS}")
    assert isinstance(refusal, RootLimit)
    assert len(await roots(node)) == MAX_TRUSTED_ROOTS + 1


async def require_rights(house: Household, method: str, root: str) -> None:
    """Require that a caller needs ``operate``, for every agent and sender."""
    expected: list[tuple[dict[str, Any], Any]] = [
        ({"scopes": ["read", "converse", "approve"]}, ScopeMissing),
        ({"scopes": ["operate"], "agents": ["default"]}, ScopeWouldWiden),
        ({"scopes": ["operate"], "senders": ["ann"]}, ScopeWouldWiden),
    ]
    for grant, refusal in expected:
        client = await house.connect_limited(**grant)
        assert isinstance(await refusal_of(client, method, root=root), refusal)


async def test_workspace_trust_scope_would_widen(node: Household, srv: Path) -> None:
    """Trust concerns every agent and sender."""
    await require_rights(node, "workspace.trust", f"{srv}/shop")


async def test_workspace_untrust_ok(node: Household, srv: Path) -> None:
    """The root is trusted no longer, even if its directory is gone."""
    await node.call("workspace.trust", root=f"{srv}/shop/api")
    (srv / "shop/api").rmdir()
    assert (await node.call("workspace.untrust", root=f"{srv}/shop/api"))["root"] == f"{srv}/shop/api"
    assert not trusts(node, srv / "shop/api")
    assert await node.kinds(types=["workspace_trusted", "workspace_untrusted"]) == [
        "workspace_trusted",
        "workspace_untrusted",
    ]


async def test_workspace_untrust_root_not_found(node: Household, srv: Path) -> None:
    """Only a root itself can be untrusted, not a part of it."""
    await node.call("workspace.trust", root=f"{srv}/shop")
    refusal = await node.refusal_of("workspace.untrust", root=f"{srv}/shop/api")
    assert (type(refusal), refusal.field) == (RootNotFound, "$.params.root")


async def test_workspace_untrust_root_configured(node: Household, srv: Path) -> None:
    """The configuration's roots stay."""
    refusal = await node.refusal_of("workspace.untrust", root=f"{srv}/home/workspace")
    assert isinstance(refusal, RootConfigured)
    assert trusts(node, srv / "home/workspace/x")


async def test_workspace_untrust_scope_would_widen(node: Household, srv: Path) -> None:
    """As for trust."""
    await require_rights(node, "workspace.untrust", f"{srv}/shop")


async def test_workspace_list_ok(node: Household, srv: Path) -> None:
    """The configuration's roots come first, page by page."""
    await node.call("workspace.trust", root=f"{srv}/shop")
    await node.call("workspace.trust", root=f"{srv}/shop/api")
    listed = await node.call("workspace.list")
    assert [(root["root"], root["source"]) for root in listed["workspaces"]] == [
        (f"{srv}/home/workspace", "config"),
        (f"{srv}/shop", "client"),
        (f"{srv}/shop/api", "client"),
    ]
    assert await roots(node) == [root["root"] for root in listed["workspaces"]]


async def test_workspace_get_ok(node: Household, srv: Path) -> None:
    """A directory is shown resolved, with its trusted root, or with why no agent may work there."""
    (srv / "link").symlink_to("shop/api")
    expected = {"path": f"{srv}/shop/api", "workspace": f"{srv}/shop/api"}
    assert await node.call("workspace.get", path=f"{srv}/link") == expected
    await node.call("workspace.trust", root=f"{srv}/shop")
    trusted = expected | {"root": f"{srv}/shop"}
    assert await node.call("workspace.get", path=f"{srv}/link", agent="default") == trusted
    for path, problem in ((f"{srv}/gone", "does not exist"), (f"{srv}/home/state", "the daemon's own home")):
        view = await node.call("workspace.get", path=path)
        assert problem in view.pop("problem")
        assert view == {"path": path, "workspace": f"{srv}/home/workspace"}
    view = await node.call("workspace.get", path=".")
    assert (view["default"], view["root"]) == (True, f"{srv}/home/workspace")
    refusal = await node.refusal_of("workspace.get", path="a\nb")
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.path")


async def test_workspace_get_of_a_caller_that_may_not_choose(node: Household, srv: Path) -> None:
    """A caller without ``operate`` learns neither where a link leads nor whether it leads anywhere."""
    (srv / "link").symlink_to("shop")
    client = await node.connect_limited(scopes=["read", "converse"])
    for name in ("link", "gone"):
        view = await client.call("workspace.get", path=f"{srv}/{name}")
        assert "needs the scope 'operate'" in view["problem"]
        assert view["path"] == f"{srv}/{name}"


async def test_workspace_get_agent_not_found(node: Household, srv: Path) -> None:
    """An unknown agent works nowhere."""
    refusal = await node.refusal_of("workspace.get", path=str(srv), agent="nobody")
    assert isinstance(refusal, AgentNotFound)


async def test_workspace_get_agent_forbidden(node: Household, srv: Path) -> None:
    """The token does not cover the agent."""
    client = await node.connect_limited(scopes=["read"], agents=["other"])
    assert isinstance(await refusal_of(client, "workspace.get", path=str(srv)), AgentForbidden)
