"""Sessions over the socket: every outcome of the methods of kheishd/objects/talk/session.py."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from kheishd.config.sections.permissions import PermissionsSection
from kheishd.core.context.checkpoint import CHECKPOINT_BYTES
from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.plan import Planning
from kheishd.store.environment import Transaction
from kheishd.store.tables import CHECKPOINT_CHUNKS, CHECKPOINTS
from protocol.errors.conversation import SenderForbidden
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.persona import PersonaNotFound
from protocol.errors.route import RouteNotFound
from protocol.errors.rpc import IdempotencyConflict, InvalidParams
from protocol.errors.session import (
    ContractInvalid,
    InputTooLarge,
    SessionAlreadyEnded,
    SessionBusy,
    SessionExists,
    SessionNotFound,
    TooDeep,
    WorkspaceForbidden,
    WorkspaceMissing,
)
from protocol.errors.token import ScopeMissing, ScopeWouldWiden
from protocol.limits.session import MAX_SESSION_DEPTH
from protocol.transcript import ToolCall
from tests.support.desk import gives, says
from tests.support.household import Household, household, pages, refusal_of, require_session_not_found


async def create(house: Household, **params: Any) -> Any:
    """Create a session."""
    return await house.call("session.create", **params)


# session.create


async def test_session_create_ok(idle: Household, srv: Path) -> None:
    """A session has the requested properties, within the limits of its agent."""
    made = await create(
        idle,
        session_id="my-project",
        agent="reviewer",
        title="A title",
        scope={"tools": ["grep", "bash"], "mcp": []},
        permission_mode="plan",
        workspace=str(srv),
        route="local",
        model="m",
        metadata={"team": "red"},
    )
    assert made["scope"] == {"tools": ["grep"], "mcp": []}
    assert (made["status"], made["agent"], made["title"]) == ("open", "reviewer", "A title")
    assert (await idle.call("session.get", session_id="my-project")).items() >= made.items()
    assert await idle.kinds(session_id="my-project") == ["session_created"]


async def test_session_create_ok_again_returns_the_same(idle: Household) -> None:
    """An existing id with the same properties returns that session, with or without a key."""
    made = await create(idle, session_id="s", agent="critic")
    assert await create(idle, session_id="s", agent="critic") == made
    keyed = await create(idle, idempotency_key="k")
    assert await create(idle, idempotency_key="k") == keyed
    refusal = await idle.refusal_of("session.create", idempotency_key="k", title="other")
    assert isinstance(refusal, IdempotencyConflict)
    assert idle.sessions() == 2


async def test_session_create_ok_check_leaves_nothing_behind(idle: Household) -> None:
    """A check returns the session and creates none."""
    head = idle.head()
    assert (await create(idle, title="x", check=True))["title"] == "x"
    assert (idle.head(), idle.sessions()) == (head, 0)


async def test_session_create_ok_as_a_child(idle: Household) -> None:
    """A child inherits absent properties and names its parent and its root."""
    root = await create(idle, scope={"tools": ["a", "b"], "skills": []}, permission_mode="acceptEdits")
    child = await create(idle, parent_session_id=root["session_id"], scope={"tools": ["a"]})
    grandchild = await create(idle, parent_session_id=child["session_id"])
    assert grandchild["scope"] == {"tools": ["a"], "skills": []}
    assert grandchild["permission_mode"] == "acceptEdits"
    assert grandchild["root_session_id"] == root["session_id"]
    strict = await create(idle, agent="reviewer", parent_session_id=root["session_id"])
    assert (strict["permission_mode"], strict["scope"]["tools"]) == ("plan", [])


async def test_session_create_session_exists(idle: Household) -> None:
    """The refusal names the differing properties, or only the owner of an uncovered session."""
    await create(idle, session_id="s", route="local")
    refusal = await idle.refusal_of("session.create", session_id="s", agent="critic", model="m")
    assert isinstance(refusal, SessionExists)
    assert "agent, route, model" in refusal.message
    critic = await idle.connect_limited(agents=["critic"])
    refusal = await refusal_of(critic, "session.create", session_id="s", agent="critic")
    assert "another owner" in refusal.message


async def test_session_create_agent_not_found(idle: Household) -> None:
    """An unknown agent is refused."""
    assert isinstance(await idle.refusal_of("session.create", agent="nobody"), AgentNotFound)


async def test_session_create_agent_forbidden(idle: Household) -> None:
    """The caller's token does not cover the agent."""
    critic = await idle.connect_limited(agents=["critic"])
    assert isinstance(await refusal_of(critic, "session.create", agent="default"), AgentForbidden)


async def test_session_create_sender_forbidden(idle: Household) -> None:
    """A token that covers certain senders creates no session without a sender."""
    ann = await idle.connect_limited(senders=["ann"])
    assert isinstance(await refusal_of(ann, "session.create"), SenderForbidden)


async def test_session_create_route_not_found(idle: Household) -> None:
    """An unknown route is refused."""
    assert isinstance(await idle.refusal_of("session.create", route="nowhere"), RouteNotFound)


async def test_session_create_session_not_found(idle: Household) -> None:
    """An unknown parent, and one that the token does not cover, are refused alike."""
    sent = await idle.send(sender="bob")
    critic = await idle.connect_limited(agents=["critic"])
    for client, parent in ((idle.client, "ses_none"), (critic, sent["session_id"])):
        refusal = await refusal_of(client, "session.create", agent="critic", parent_session_id=parent)
        assert (type(refusal), refusal.field) == (SessionNotFound, "$.params.parent_session_id")


async def test_session_create_persona_not_found(idle: Household) -> None:
    """The field names the persona that does not exist."""
    refusal = await idle.refusal_of("session.create", persona_id="nobody")
    assert isinstance(refusal, PersonaNotFound)
    assert refusal.field == "$.params.persona_id"


async def test_session_create_scope_would_widen(idle: Household) -> None:
    """A child's scope and mode do not exceed its parent's."""
    parent = (await create(idle, scope={"tools": []}, permission_mode="plan"))["session_id"]
    for properties in ({"scope": {"tools": ["a"]}}, {"permission_mode": "default"}):
        refusal = await idle.refusal_of("session.create", parent_session_id=parent, **properties)
        assert isinstance(refusal, ScopeWouldWiden)


async def test_session_create_workspace_forbidden(idle: Household, srv: Path) -> None:
    """The daemon's home is refused, and for a child every directory outside of its parent's workspace."""
    home = idle.holder.current().workspaces.home
    for path in (home, f"{home}/state/x", "/", "..", "../agents"):
        refusal = await idle.refusal_of("session.create", workspace=path)
        assert (type(refusal), refusal.field) == (WorkspaceForbidden, "$.params.workspace")
    parent = (await create(idle, workspace=f"{srv}/a"))["session_id"]
    for path in (f"{srv}/ab", str(srv)):
        refusal = await idle.refusal_of("session.create", parent_session_id=parent, workspace=path)
        assert isinstance(refusal, WorkspaceForbidden)
    assert (await create(idle, parent_session_id=parent, workspace=f"{srv}/a/b"))["workspace"] == f"{srv}/a/b"


async def test_session_create_a_wider_mode_requires_approve(idle: Household) -> None:
    """A mode wider than the agent's approves calls in advance, so it requires ``approve``."""
    operator = await idle.connect_limited(scopes=["operate"])
    for agent, mode in (("default", "acceptEdits"), ("reviewer", "default"), ("critic", "bypassPermissions")):
        refusal = await refusal_of(operator, "session.create", agent=agent, permission_mode=mode)
        assert (type(refusal), refusal.hint) == (ScopeMissing, "approve")
        assert (await create(idle, agent=agent, permission_mode=mode))["permission_mode"] == mode
    for agent, narrow in (
        ("default", "plan"),
        ("reviewer", "plan"),
        ("default", "default"),
        ("default", None),
    ):
        made = await operator.call("session.create", agent=agent, permission_mode=narrow)
        assert made.get("permission_mode") == narrow


async def test_no_mode_is_wider_than_max_mode(tmp_path: Path) -> None:
    """No caller sets a mode beyond ``permissions.max_mode``, for a session or its child, at once or later."""
    async with household(
        tmp_path, work=False, permissions=PermissionsSection(max_mode="acceptEdits")
    ) as house:
        session_id = (await create(house, permission_mode="acceptEdits"))["session_id"]
        for method, params in (
            ("session.create", {}),
            ("session.create", {"parent_session_id": session_id}),
            ("session.update", {"session_id": session_id}),
        ):
            refusal = await house.refusal_of(method, permission_mode="bypassPermissions", **params)
            assert (type(refusal), refusal.field) == (ScopeWouldWiden, "$.params.permission_mode")


async def test_session_create_session_already_ended(idle: Household) -> None:
    """An ended session gets no children; a repeated request returns the child that it had."""
    parent = (await create(idle))["session_id"]
    child = await create(idle, parent_session_id=parent, session_id="kid")
    await idle.call("session.end", session_id=parent)
    refusal = await idle.refusal_of("session.create", parent_session_id=parent)
    assert (type(refusal), refusal.field) == (SessionAlreadyEnded, "$.params.parent_session_id")
    again = await create(idle, parent_session_id=parent, session_id="kid")
    assert again["session_id"] == child["session_id"]


async def test_a_session_ends_once_nothing_below_it_works(idle: Household) -> None:
    """Runs of created children keep it from its end; idle children take no more work afterwards."""
    parent = (await create(idle))["session_id"]
    child = (await create(idle, parent_session_id=parent))["session_id"]
    lowest = (await create(idle, parent_session_id=child))["session_id"]
    sent = await idle.call("session.send", session_id=lowest, content="x")
    for session_id in (parent, child):
        assert isinstance(await idle.refusal_of("session.end", session_id=session_id), SessionBusy)
    await idle.call("run.cancel", run_id=sent["run_id"])
    await idle.call("session.end", session_id=parent)
    refusal = await idle.refusal_of("session.send", session_id=lowest, content="x")
    assert isinstance(refusal, SessionAlreadyEnded)
    assert parent in refusal.message


async def test_session_create_too_deep(idle: Household) -> None:
    """The depth of sessions is limited."""
    parent = (await create(idle))["session_id"]
    for _ in range(MAX_SESSION_DEPTH - 1):
        parent = (await create(idle, parent_session_id=parent))["session_id"]
    refusal = await idle.refusal_of("session.create", parent_session_id=parent)
    assert (type(refusal), refusal.field) == (TooDeep, "$.params.parent_session_id")


async def test_session_create_input_too_large(idle: Household) -> None:
    """Metadata and scopes have limits, because records repeat them."""
    for properties in (
        {"metadata": {"a": "b" * 20_000}},
        {"scope": {"tools": ["t" * 100] * 100}},
        {"credential_scope": {"routes": ["t" * 100] * 100}},
        {"scope": {"tools": ["t" * 100] * 25}, "blocked_tools": ["u"] * 1000},
    ):
        assert isinstance(await idle.refusal_of("session.create", **properties), InputTooLarge)


async def test_session_create_refuses_a_reserved_id(idle: Household) -> None:
    """The name of the daemon's stream is no session id."""
    assert isinstance(await idle.refusal_of("session.create", session_id="daemon"), InvalidParams)


# session.get, .list


async def test_session_get_ok(house: Household) -> None:
    """A session shows the fold of its events."""
    sent = await house.ask()
    view = await house.call("session.get", session_id=sent["session_id"])
    assert (view["runs"], view["sender"], view["usage"]) == (
        1,
        "user",
        {"input_tokens": 1, "output_tokens": 1},
    )
    assert "open_runs" not in view


async def test_session_get_session_not_found(idle: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    await require_session_not_found(idle, "session.get")


async def test_session_list_ok(idle: Household) -> None:
    """Sessions are listed from either end, in pages, filtered."""
    ids = [(await create(idle, session_id=f"s{number}"))["session_id"] for number in range(5)]
    for order, expected in (("newest", ids[::-1]), ("oldest", ids)):
        for limit in (1, 2, 50):
            rows = await pages(idle.client, "session.list", "sessions", limit=limit, order=order)
            assert [row["session_id"] for row in rows] == expected
    await idle.call("session.end", session_id="s1")
    sent = await idle.send(agent="critic", sender="ann")
    for filters, expected_ids in (
        ({"status": "ended"}, ["s1"]),
        ({"agent": "critic"}, [sent["session_id"]]),
        ({"sender": "ann"}, [sent["session_id"]]),
    ):
        listed = await idle.call("session.list", **filters)
        assert [row["session_id"] for row in listed["sessions"]] == expected_ids
    for token in ("a b", "\x00", ""):
        assert isinstance(await idle.refusal_of("session.list", after=token), InvalidParams)


@pytest.mark.parametrize(("method", "plural"), [("session.list", "sessions"), ("run.list", "runs")])
async def test_page_tokens_name_no_uncovered_rows(
    idle: Household, monkeypatch: pytest.MonkeyPatch, method: str, plural: str
) -> None:
    """A page may end at a row that is not covered, and its token does not reveal which."""
    monkeypatch.setattr("kheishd.objects.pages.MAX_PAGE_EXAMINED_ROWS", 2)
    mine = []
    for number in range(9):
        sent = await idle.send(agent="critic" if number % 4 else "default", sender=f"s{number}")
        mine += [sent[f"{plural[:-1]}_id"]] * (number % 4 == 0)
    limited = await idle.connect_limited(agents=["default"])
    marks, listed = [], []
    position: dict[str, str] = {}
    while True:
        page = await limited.call(method, order="oldest", **position)
        listed += [row[f"{plural[:-1]}_id"] for row in page[plural]]
        if page["next"] is None:
            break
        position = {"after": page["next"]}
        marks.append(page["next"])
    assert listed == mine
    assert len(marks) == 4
    assert not any(mark.startswith(("ses_", "run_")) for mark in marks)


async def test_session_list_ok_children(idle: Household) -> None:
    """The children of a parent are listed; ended ones only on request."""
    for number, parent in (("p", None), ("a", "p"), ("b", "p"), ("c", "a")):
        await create(idle, session_id=number, **({"parent_session_id": parent} if parent else {}))
    await idle.call("session.end", session_id="b")

    async def list_ids(**params: Any) -> list[str]:
        rows = await pages(idle.client, "session.list", "sessions", order="oldest", limit=1, **params)
        return [row["session_id"] for row in rows]

    assert await list_ids() == ["a", "c", "p"]
    assert await list_ids(sidechains=True) == ["a", "b", "c", "p"]
    assert await list_ids(parent_session_id="p") == ["a"]
    assert await list_ids(parent_session_id="p", sidechains=True) == ["a", "b"]
    refusal = await idle.refusal_of("session.list", parent_session_id="none")
    assert (type(refusal), refusal.field) == (SessionNotFound, "$.params.parent_session_id")


async def test_session_list_ok_shows_a_limited_caller_its_own(idle: Household) -> None:
    """Sessions of other agents and senders, and those without a sender, are left out."""
    for agent, sender in (("default", "ann"), ("default", "bob"), ("critic", "ann")):
        await idle.send(agent=agent, sender=sender)
    await create(idle)
    ann = await idle.connect_limited(agents=["default"], senders=["ann"])
    rows = await pages(ann, "session.list", "sessions", limit=1)
    assert [(row["agent"], row["sender"]) for row in rows] == [("default", "ann")]
    nobody = await idle.connect_limited(senders=[])
    assert await pages(nobody, "session.list", "sessions") == []


async def test_session_create_workspace_missing(idle: Household, srv: Path) -> None:
    """A workspace that does not exist is refused by its name, and so is the target of a dangling link."""
    (srv / "link").symlink_to("gone")
    for path in (f"{srv}/gone", f"{srv}/link"):
        refusal = await idle.refusal_of("session.create", workspace=path)
        assert (type(refusal), refusal.field) == (WorkspaceMissing, "$.params.workspace")
        assert f"the workspace {srv}/gone does not exist" in refusal.message
    assert idle.sessions() == 0


# session.update


async def test_session_update_ok(house: Household, srv: Path) -> None:
    """An absent field is unchanged, null unsets it; accepted runs keep their pinned values."""
    gate = house.gate("slow")
    session_id = (await create(house, model="before", metadata={"a": 1}))["session_id"]
    await house.call("session.send", session_id=session_id, content="slow")
    queued = await house.call("session.send", session_id=session_id, content="queued")
    updated = await house.call("session.update", session_id=session_id, model=None, workspace=str(srv))
    assert (updated.get("model"), updated["workspace"], updated["metadata"]) == (None, str(srv), {"a": 1})
    later = await house.call("session.send", session_id=session_id, content="later")
    gate.opened.set()
    await house.call("run.wait", run_id=later["run_id"])
    pinned = [(await house.call("run.get", run_id=run["run_id"]))["pinned"] for run in (queued, later)]
    assert [values["model"] for values in pinned] == ["before", "offline"]
    assert [values["workspace"] for values in pinned] == [house.holder.current().workspace_root, str(srv)]


async def test_session_update_ok_narrows(idle: Household) -> None:
    """A scope can be narrowed; an update without changes appends no event."""
    session_id = (await create(idle, scope={"tools": ["a", "b"]}))["session_id"]
    updated = await idle.call("session.update", session_id=session_id, scope={"tools": ["b"], "mcp": []})
    assert updated["scope"] == {"tools": ["b"], "mcp": []}
    assert await idle.call("session.update", session_id=session_id) == updated
    assert await idle.kinds(session_id=session_id) == ["session_created", "session_updated"]


async def test_session_update_ok_narrows_credentials_and_tools(idle: Household) -> None:
    """Routes are only taken away, more tools are blocked, and a profile is chosen once."""
    session_id = (await create(idle, credential_scope={"routes": ["a", "b"]}, blocked_tools=["bash"]))[
        "session_id"
    ]
    changes = {"credential_scope": {"routes": ["b"]}, "blocked_tools": ["bash", "x"], "profile": "plan"}
    updated = await idle.call("session.update", session_id=session_id, **changes)
    assert {name: updated[name] for name in changes} == changes
    for wider, field in (
        ({"credential_scope": {"routes": ["a"]}}, "credential_scope.routes"),
        ({"credential_scope": {}}, "credential_scope.routes"),
        ({"blocked_tools": ["x"]}, "blocked_tools"),
        ({"profile": "coordinator"}, "profile"),
    ):
        refusal = await idle.refusal_of("session.update", session_id=session_id, **wider)
        assert isinstance(refusal, ScopeWouldWiden)
        assert refusal.field == f"$.params.{field}"


async def test_session_get_and_list_ok_show_effective_scopes(idle: Household) -> None:
    """Views have a session's own scopes, and what the agent, the profile and the parent leave of them."""
    await create(idle, session_id="reviewed", agent="reviewer")
    await create(idle, session_id="root", credential_scope={"routes": ["a", "b"]})
    await create(idle, session_id="child", parent_session_id="root", profile="verification")
    await idle.call("session.update", session_id="root", scope={"tools": ["bash", "write_file"]})
    await idle.call("session.update", session_id="root", credential_scope={"routes": ["a"]})
    listed = {row["session_id"]: row for row in (await idle.call("session.list"))["sessions"]}
    none: dict[str, list[str]] = {"connectors": [], "connector_credentials": [], "mcp_credentials": []}
    for child in (listed["child"], await idle.call("session.get", session_id="child")):
        assert child["scope"] == {}
        assert child["effective_scope"] == {"tools": ["bash"]}
        assert child["effective_blocked_tools"] == ["write_file", "edit_file", "apply_patch"]
        assert child["credential_scope"] == {"routes": ["a", "b"], **none}
        assert child["effective_credential_scope"] == {"routes": ["a"], **none}
    assert listed["reviewed"]["effective_scope"] == {"tools": ["read_file", "grep"]}


async def test_session_update_session_not_found(idle: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    await require_session_not_found(idle, "session.update", model="m")


async def test_session_update_session_already_ended(idle: Household) -> None:
    """An ended session is not updated."""
    await create(idle, session_id="s")
    await idle.call("session.end", session_id="s")
    assert isinstance(await idle.refusal_of("session.update", session_id="s", model="m"), SessionAlreadyEnded)


async def test_session_update_route_not_found(idle: Household) -> None:
    """An unknown route is refused."""
    await create(idle, session_id="s")
    assert isinstance(await idle.refusal_of("session.update", session_id="s", route="nowhere"), RouteNotFound)


async def test_session_update_workspace_forbidden(idle: Household, srv: Path) -> None:
    """A workspace is validated as at creation; a refused update changes nothing."""
    parent = (await create(idle, workspace=f"{srv}/a"))["session_id"]
    child = (await create(idle, parent_session_id=parent, workspace=f"{srv}/a/b"))["session_id"]
    for session_id, path in ((parent, "../run"), (child, str(srv)), (child, f"{srv}/ab")):
        refusal = await idle.refusal_of("session.update", session_id=session_id, workspace=path)
        assert (type(refusal), refusal.field) == (WorkspaceForbidden, "$.params.workspace")
    updated = await idle.call("session.update", session_id=child, workspace=f"{srv}/a/c")
    assert updated["workspace"] == f"{srv}/a/c"


async def test_session_update_workspace_missing(idle: Household, srv: Path) -> None:
    """A workspace that was moved away is refused; the session keeps its own."""
    session_id = (await create(idle, workspace=f"{srv}/a"))["session_id"]
    (srv / "c").rename(f"{srv}/moved")
    refusal = await idle.refusal_of("session.update", session_id=session_id, workspace=f"{srv}/c")
    assert (type(refusal), refusal.field) == (WorkspaceMissing, "$.params.workspace")
    assert (await idle.call("session.get", session_id=session_id))["workspace"] == f"{srv}/a"


async def test_session_update_scope_would_widen(idle: Household) -> None:
    """A scope is not widened again, and a child's mode stays within its parent's."""
    await create(idle, session_id="p", scope={"tools": ["a"]}, permission_mode="plan")
    await create(idle, session_id="c", parent_session_id="p")
    for properties in (
        {"session_id": "p", "scope": {}},
        {"session_id": "p", "scope": {"tools": ["a", "b"]}},
        {"session_id": "c", "permission_mode": "bypassPermissions"},
    ):
        assert isinstance(await idle.refusal_of("session.update", **properties), ScopeWouldWiden)
    cleared = await idle.call("session.update", session_id="c", permission_mode=None)
    assert cleared["permission_mode"] == "plan"


async def test_session_update_a_wider_mode_requires_approve(idle: Household) -> None:
    """A mode wider than the agent's and the session's requires ``approve``; the agent's own does not."""
    operator = await idle.connect_limited(scopes=["operate"])
    await create(idle, session_id="s")
    refusal = await refusal_of(operator, "session.update", session_id="s", permission_mode="acceptEdits")
    assert (type(refusal), refusal.hint) == (ScopeMissing, "approve")
    await idle.call("session.update", session_id="s", permission_mode="bypassPermissions")
    for mode in ("acceptEdits", "default", "plan", None):
        updated = await operator.call("session.update", session_id="s", permission_mode=mode)
        assert updated.get("permission_mode") == mode
    assert isinstance(
        await refusal_of(operator, "session.update", session_id="s", permission_mode="acceptEdits"),
        ScopeMissing,
    )


async def test_session_update_input_too_large(idle: Household) -> None:
    """The limits are those of creation."""
    await create(idle, session_id="s")
    for properties in (
        {"metadata": {"a": "b" * 20_000}},
        {"scope": {"tools": ["t" * 100] * 100}},
        {"credential_scope": {"routes": ["t" * 100] * 100}},
        {"scope": {"tools": ["t" * 100] * 25}, "blocked_tools": ["u"] * 1000},
    ):
        assert isinstance(
            await idle.refusal_of("session.update", session_id="s", **properties), InputTooLarge
        )


# session.send


# session.rename, .end


async def test_session_rename_ok(idle: Household) -> None:
    """A title is set, replaced and removed."""
    await create(idle, session_id="s", title="one")
    assert (await idle.call("session.rename", session_id="s", title="two"))["title"] == "two"
    assert "title" not in await idle.call("session.rename", session_id="s", title=None)
    refusal = await idle.refusal_of("session.rename", session_id="s", title="t" * 513)
    assert isinstance(refusal, InvalidParams)


async def test_session_rename_session_not_found(idle: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    await require_session_not_found(idle, "session.rename", title="x")


async def test_session_end_ok(idle: Household) -> None:
    """An ended session takes no input, and its journal stays readable."""
    await create(idle, session_id="s")
    ended = await idle.call("session.end", session_id="s", note="done")
    assert ended["status"] == "ended"
    assert await idle.kinds(session_id="s") == ["session_created", "session_ended"]


@pytest.mark.parametrize("number", [1, 3, 10])
async def test_session_end_ok_deletes_the_checkpoint(
    house: Household, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The disk has no checkpoint of an ended session; the session is readable and may be forked."""
    monkeypatch.setattr("kheishd.records.checkpoint.MAX_DELETED_CHUNKS", 3)
    session_id = (await house.ask("x" * CHECKPOINT_BYTES))["session_id"]
    for chunk in range(2, number + 1):
        await house.state.update(partial(put_chunk, session_id, chunk))
    other_id = (await house.ask("y" * CHECKPOINT_BYTES, sender="other"))["session_id"]
    assert checkpoint_rows(house, session_id) == 1 + number
    await house.call("session.end", session_id=session_id)
    with trio.fail_after(5):
        while checkpoint_rows(house, session_id):
            await trio.lowlevel.checkpoint()
    assert checkpoint_rows(house, other_id) == 2
    history = await house.call("session.history", session_id=session_id)
    assert len(history["messages"]) == 2
    fork_id = (await house.call("session.fork", session_id=session_id))["session_id"]
    await house.call("session.send", session_id=fork_id, content="on", wait="settled")
    assert len(house.models.requests[-1].messages) == 3


def put_chunk(session_id: str, number: int, tx: Transaction) -> None:
    """Store a chunk behind those of a checkpoint."""
    tx.put(CHECKPOINT_CHUNKS, session_id, number, value=b"chunk")


def checkpoint_rows(house: Household, session_id: str) -> int:
    """Return the number of a session's rows in the tables of checkpoints."""
    with house.state.read() as store:
        return sum(len(list(store.scan(table, session_id))) for table in (CHECKPOINTS, CHECKPOINT_CHUNKS))


async def test_session_end_session_not_found(idle: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    await require_session_not_found(idle, "session.end")


async def test_session_end_session_already_ended(idle: Household) -> None:
    """A session ends once."""
    await create(idle, session_id="s")
    await idle.call("session.end", session_id="s")
    assert isinstance(await idle.refusal_of("session.end", session_id="s"), SessionAlreadyEnded)


async def test_session_end_session_busy(idle: Household) -> None:
    """A session with open runs is not ended."""
    sent = await idle.send()
    assert isinstance(await idle.refusal_of("session.end", session_id=sent["session_id"]), SessionBusy)


async def test_every_mutation_needs_its_scope(idle: Household) -> None:
    """A token with ``read`` and ``converse`` creates, changes and ends no session."""
    reader = await idle.connect_limited(scopes=["read", "converse"])
    sent = await idle.send()
    for verb, params in (
        ("create", {}),
        ("update", {"session_id": sent["session_id"]}),
        ("rename", {"session_id": sent["session_id"], "title": "x"}),
        ("interrupt", {"session_id": sent["session_id"]}),
        ("end", {"session_id": sent["session_id"]}),
        ("import", {"lines": ["{}"]}),
    ):
        assert isinstance(await refusal_of(reader, f"session.{verb}", **params), ScopeMissing)
    mine = await reader.call("session.send", session_id=sent["session_id"], content="x")
    assert mine["status"] == "queued"


# contracts

WORD: dict[str, Any] = {
    "type": "object",
    "properties": {"word": {"type": "string"}},
    "additionalProperties": False,
}
UNKNOWN: dict[str, Any] = {"schema": {"type": "string", "enum": ["a"]}}


async def require_contract_invalid(house: Household, method: str, **params: Any) -> None:
    """Require that the method refuses an unsupported schema by its field."""
    refusal = await house.refusal_of(method, **params, output_contract=UNKNOWN)
    assert (type(refusal), refusal.field) == (ContractInvalid, "$.params.output_contract.schema")
    assert "$.enum: not a keyword" in refusal.message


async def test_session_create_ok_with_contracts(idle: Household) -> None:
    """Contracts are shown as sent; the same id with the same contracts returns that session."""
    contracts = {"input_contract": {"schema": WORD}, "output_contract": {"schema": WORD, "max_repairs": 1}}
    made = await create(idle, session_id="s", **contracts)
    assert made["output_contract"] == {"digest": made["input_contract"], "max_repairs": 1}
    view = await idle.call("session.get", session_id="s")
    assert (view["input_schema"], view["output_schema"]) == (WORD, WORD)
    assert await create(idle, session_id="s", **contracts) == made
    refusal = await idle.refusal_of("session.create", session_id="s")
    assert isinstance(refusal, SessionExists)
    assert "input_contract, output_contract" in refusal.message


async def test_session_create_contract_invalid(idle: Household) -> None:
    """An invalid contract is refused, and no session is created."""
    await require_contract_invalid(idle, "session.create")
    assert idle.sessions() == 0


async def test_session_update_ok_changes_contracts(house: Household) -> None:
    """Accepted runs keep their contract; null unsets one."""
    session_id = (await create(house, output_contract={"schema": WORD, "max_repairs": 0}))["session_id"]
    sent = await house.call("session.send", session_id=session_id, content="x", wait="settled")
    assert sent["error"]["reason"] == "output_contract_violated"
    updated = await house.call("session.update", session_id=session_id, output_contract=None)
    assert "output_contract" not in updated
    sent = await house.call("session.send", session_id=session_id, content="x", wait="settled")
    assert (sent["status"], sent["output"]) == ("completed", "You said: x")
    updated = await house.call(
        "session.update", session_id=session_id, output_contract={"schema": {"type": "string"}}
    )
    assert "input_contract" not in updated
    assert (await house.call("session.get", session_id=session_id))["output_schema"] == {"type": "string"}


async def test_session_update_contract_invalid(idle: Household) -> None:
    """An invalid contract is refused, and nothing changes."""
    session_id = (await create(idle))["session_id"]
    await require_contract_invalid(idle, "session.update", session_id=session_id)


async def test_session_get_ok_shows_todos_and_plan(tmp_path: Path) -> None:
    """A session shows the todos and the plan of its agent."""
    async with household(tmp_path, hooks=CompositeHook((Planning(),))) as house:
        todos = {"todos": [{"content": "look"}]}
        house.models.answers[:] = [
            lambda request: gives(ToolCall("call_1", "todo_write", todos)),
            lambda request: says("done"),
        ]
        sent = await house.ask()
        view = await house.call("session.get", session_id=sent["session_id"])
        assert view["todos"] == [{"todo_id": "todo-1", "content": "look"}]
        assert "plan" not in view
