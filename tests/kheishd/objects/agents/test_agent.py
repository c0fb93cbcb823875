"""Agents over the socket: spawn, judge, list, show, rename and close them, and their audit."""

from pathlib import Path
from typing import Any

import msgspec

from kheishd.config.sections.agents import AgentsSection
from kheishd.config.sections.config import Config
from kheishd.objects.agents.agent import SLOW_CLOSE_MS, find_agent_warnings
from kheishd.store.tables import AGENTS as AGENT_TABLE
from kheishd.workers.agents import begin_close
from protocol.errors.agent import (
    AgentAlreadyClosed,
    MemberForbidden,
    NoSuchAgent,
    SpawnConflict,
    SpawnLimit,
)
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.route import RouteForbidden, RouteNotFound, RouteNotReady
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, WorkspaceForbidden, WorkspaceMissing
from protocol.errors.token import ScopeWouldWiden
from protocol.limits.agent import MAX_AGENT_PROMPT_BYTES
from protocol.limits.session import MAX_INPUT_BYTES
from tests.support.families import root, spawn, until
from tests.support.household import AGENTS, Household, household, pages, refusal_of
from tests.support.household import agent as define_agent
from tests.support.runtimes import change_runtime


async def close(house: Household, agent: str, **params: Any) -> Any:
    """Close an agent and wait until it is closed."""
    return await house.call("agent.close", agent=agent, **params)


# Spawn.


async def test_agent_spawn_ok(house: Household) -> None:
    """A child has a session of its own, a place in the tree, and works at once."""
    parent = await root(house, title="main")
    child = await spawn(house, parent, "Scout the area", prompt="go", description="Looks around.")
    assert child["path"] == f"{parent}/scout_the_area"
    assert (child["parent_id"], child["root_id"], child["depth"]) == (parent, parent, 1)
    assert (child["definition"], child["description"]) == ("default", "Looks around.")
    settled = await until(house, child["agent_id"], "idle")
    assert settled["output"] == "You said: go"
    assert (settled["last_run_id"], settled["last_outcome"]) == (child["launch_run_id"], "completed")
    assert (await house.kinds(session_id=parent))[:2] == ["session_created", "child_spawned"]
    # It is found by its path and by its nickname, in any case.
    for address in (child["path"], child["nickname"], child["nickname"].lower()):
        assert (await house.call("agent.get", agent=address))["agent_id"] == child["agent_id"]


async def test_agent_spawn_ok_with_its_own_instructions(house: Household) -> None:
    """They follow those of its definition, or replace them; the task is what it reads."""
    parent = await root(house, agent="critic")
    for mode, instructions in (("append", "Criticize.\n\nBe kind."), ("replace", "Be kind.")):
        child = await spawn(house, parent, instructions="Be kind.", instructions_mode=mode)
        await until(house, child["agent_id"], "idle")
        assert instructions in [request.instructions for request in house.models.requests]


async def test_agent_spawn_ok_once_for_each_request(house: Household) -> None:
    """The same request returns the same agent, also when it is closed; siblings get distinct names."""
    parent = await root(house)
    first = await spawn(house, parent, spawn_request_id="r1")
    assert (await spawn(house, parent, spawn_request_id="r1"))["agent_id"] == first["agent_id"]
    second = await spawn(house, parent, spawn_request_id="r2")
    assert (first["name"], second["name"]) == ("scout", "scout_2")
    assert first["nickname"] != second["nickname"]
    await close(house, first["agent_id"])
    assert (await spawn(house, parent, spawn_request_id="r1"))["state"] == "closed"


async def test_agent_spawn_ok_with_ordered_items(house: Household) -> None:
    """Texts stay in their order; assets are refused by name."""
    parent = await root(house)
    items = [{"kind": "text", "text": "one "}, {"kind": "text", "text": "two"}]
    child = await spawn(house, parent, prompt=None, input_items=items)
    assert (await until(house, child["agent_id"], "idle"))["output"] == "You said: one two"
    for params, field in (
        (
            {"prompt": None, "input_items": [{"kind": "asset", "asset_id": "a"}]},
            "$.params.input_items[0].kind",
        ),
        ({"prompt": "x", "input_items": items}, "$.params.prompt"),
        ({"prompt": None}, "$.params.prompt"),
        ({"prompt": "  "}, "$.params.prompt"),
    ):
        refusal = await house.refusal_of("agent.spawn", parent=parent, name="a", **params)
        assert (type(refusal), refusal.field) == (InvalidParams, field)


async def test_agent_spawn_ok_checked(house: Household) -> None:
    """A dry run creates nothing."""
    parent = await root(house)
    await spawn(house, parent, check=True)
    assert (await house.call("agent.list", root=parent))["agents"] == [await _without_output(house, parent)]


async def _without_output(house: Household, agent: str) -> Any:
    snapshot = await house.call("agent.get", agent=agent)
    snapshot.pop("output", None)
    return snapshot


async def test_agent_spawn_no_such_agent(house: Household) -> None:
    """A parent that does not exist and one that the token does not cover are refused alike."""
    other = await root(house, agent="critic")
    limited = await house.connect_limited(agents=["default"], scopes=["read", "operate"])
    for client, parent in ((house.client, "nobody"), (house.client, "a\0b"), (limited, other)):
        refusal = await refusal_of(client, "agent.spawn", parent=parent, name="x", prompt="x")
        assert (type(refusal), refusal.field) == (NoSuchAgent, "$.params.parent")


async def test_agent_spawn_agent_already_closed(idle: Household) -> None:
    """An agent that is being closed spawns no more, and takes no more input."""
    parent = await root(idle)
    child = await spawn(idle, parent)
    agent_id = child["agent_id"]
    await idle.state.update(lambda tx: begin_close(tx, tx.need(AGENT_TABLE, agent_id), note="enough"))
    refusal = await idle.refusal_of("agent.spawn", parent=agent_id, name="x", prompt="x")
    assert (type(refusal), refusal.field) == (AgentAlreadyClosed, "$.params.parent")
    assert "enough" in refusal.message
    refusal = await idle.refusal_of("session.send", session_id=agent_id, content="more")
    assert isinstance(refusal, SessionAlreadyEnded)


async def test_no_session_below_a_closing_agent_takes_work(idle: Household) -> None:
    """Sessions that clients created below it spawn no agents, and take no input and no mail."""
    parent = await root(idle)
    child = await spawn(idle, parent)
    created = await root(idle, parent_session_id=child["agent_id"])
    agent_id = child["agent_id"]
    await idle.state.update(lambda tx: begin_close(tx, tx.need(AGENT_TABLE, agent_id), note="enough"))
    mail = {"from": parent, "to": created, "subject": "s", "payload": {}}
    for method, params, kind in (
        ("agent.spawn", {"parent": created, "name": "x", "prompt": "x"}, AgentAlreadyClosed),
        ("session.send", {"session_id": created, "content": "x"}, SessionAlreadyEnded),
        ("mailbox.post", mail, AgentAlreadyClosed),
    ):
        assert isinstance(await idle.refusal_of(method, **params), kind)


async def test_agent_spawn_session_already_ended(house: Household) -> None:
    """An ended session has no more children."""
    parent = await root(house)
    await house.call("session.end", session_id=parent)
    refusal = await house.refusal_of("agent.spawn", parent=parent, name="x", prompt="x")
    assert (type(refusal), refusal.field) == (SessionAlreadyEnded, "$.params.parent")


async def test_agent_spawn_spawn_conflict(house: Household) -> None:
    """A request id is for one task."""
    parent = await root(house)
    child = await spawn(house, parent, spawn_request_id="r1")
    refusal = await house.refusal_of(
        "agent.spawn", parent=parent, name="scout", prompt="other", spawn_request_id="r1"
    )
    assert isinstance(refusal, SpawnConflict)
    assert child["path"] in refusal.message


async def test_agent_spawn_spawn_limit(tmp_path: Path) -> None:
    """Each limit is named, with its value."""
    for number, (name, below) in enumerate(
        (
            ("max_children", 1),
            ("max_descendants", 1),
            ("max_live", 1),
            ("max_depth", 0),
            ("max_spawns_per_minute", 1),
            ("max_daemon_spawns_per_minute", 1),
        )
    ):
        limits: Any = {name: below}
        config = Config(agents=AgentsSection(**limits))
        async with household(tmp_path / str(number), work=False, config=config) as house:
            parent = await root(house)
            if below:
                await spawn(house, parent)
            refusal = await house.refusal_of("agent.spawn", parent=parent, name="x", prompt="x")
            assert isinstance(refusal, SpawnLimit), name
            assert f"agents.{name} is {below}" in refusal.message


async def test_agent_spawn_member_forbidden(tmp_path: Path) -> None:
    """An agent delegates to its members and to its own definition only, and so do its children."""
    lead = msgspec.structs.replace(AGENTS["critic"], name="lead", members=["reviewer"])
    async with household(tmp_path, work=False, definitions=AGENTS | {"lead": lead}) as house:
        parent = await root(house, agent="lead")
        refusal = await house.refusal_of("agent.spawn", parent=parent, name="x", prompt="x", agent="critic")
        assert (type(refusal), refusal.field) == (MemberForbidden, "$.params.agent")
        assert f"its session {parent}, with the limits of its creation, may delegate to: reviewer" in (
            refusal.message
        )
        assert (await spawn(house, parent, agent="reviewer"))["definition"] == "reviewer"
        child = await spawn(house, parent)
        refusal = await house.refusal_of(
            "agent.spawn", parent=child["agent_id"], name="x", prompt="x", agent="default"
        )
        assert isinstance(refusal, MemberForbidden)


async def test_agent_spawn_agent_forbidden(house: Household) -> None:
    """A token for some definitions spawns no other."""
    parent = await root(house)
    limited = await house.connect_limited(agents=["default"], scopes=["read", "operate"])
    refusal = await refusal_of(limited, "agent.spawn", parent=parent, name="x", prompt="x", agent="critic")
    assert isinstance(refusal, AgentForbidden)


async def test_agent_spawn_agent_not_found(house: Household) -> None:
    """The message names the definitions that exist."""
    parent = await root(house)
    refusal = await house.refusal_of("agent.spawn", parent=parent, name="x", prompt="x", agent="nobody")
    assert (type(refusal), refusal.field) == (AgentNotFound, "$.params.agent")
    assert "reviewer" in refusal.message


async def test_agent_spawn_scope_would_widen(house: Household) -> None:
    """A child's scope and mode are at most its parent's, which may be narrowed later."""
    parent = await root(house, scope={"tools": ["read_file"]}, permission_mode="plan")
    for params, field in (
        ({"scope": {"tools": ["read_file", "bash"]}}, "$.params.scope.tools"),
        ({"permission_mode": "bypassPermissions"}, "$.params.permission_mode"),
    ):
        refusal = await house.refusal_of("agent.spawn", parent=parent, name="x", prompt="x", **params)
        assert (type(refusal), refusal.field) == (ScopeWouldWiden, field)
    child = await spawn(house, parent)
    session = await house.call("session.get", session_id=child["agent_id"])
    assert (session["scope"], session["permission_mode"]) == ({"tools": ["read_file"]}, "plan")


async def test_agent_spawn_route_not_found(house: Household) -> None:
    """No agent is left behind by a refused spawn."""
    parent = await root(house)
    refusal = await house.refusal_of("agent.spawn", parent=parent, name="x", prompt="x", route="nowhere")
    assert isinstance(refusal, RouteNotFound)
    assert (await house.call("agent.list"))["agents"] == []


async def test_agent_spawn_route_forbidden(house: Household) -> None:
    """A child has only its parent's routes, and those of its own credential scope."""
    parent = await root(house, credential_scope={"routes": ["offline", "local"]})
    spawn = {"parent": parent, "name": "x", "prompt": "x"}
    for narrowed in ({"route": "unready"}, {"route": "local", "credential_scope": {"routes": ["offline"]}}):
        refusal = await house.refusal_of("agent.spawn", **spawn, **narrowed)
        assert isinstance(refusal, RouteForbidden)
        assert refusal.field == "$.params.route"


async def test_agent_spawn_ok_with_a_profile_and_blocked_tools(house: Household) -> None:
    """A child has its profile's tools without the blocked ones, and by default no connector's credential."""
    parent = await root(house)
    child = await house.call(
        *("agent.spawn",), parent=parent, name="x", prompt="x", profile="verification", blocked_tools=["bash"]
    )
    session = await house.call("session.get", session_id=child["agent_id"])
    assert (session["profile"], session["blocked_tools"]) == ("verification", ["bash"])
    assert "write_file" not in session["effective_scope"]["tools"]
    assert session["credential_scope"] == {
        "connectors": [],
        "connector_credentials": [],
        "mcp_credentials": [],
    }
    spawn = {"parent": child["agent_id"], "name": "y", "prompt": "y"}
    explained = await house.call("agent.explain", spawn=spawn | {"allowed_tools": ["bash"]})
    assert (explained["allowed"], explained["field"]) == (False, "$.params.allowed_tools")
    explained = await house.call("agent.explain", spawn=spawn | {"allowed_tools": ["read_file"]})
    assert explained["scope"]["tools"] == ["read_file"]
    refusal = await house.refusal_of("agent.spawn", **spawn, credential_scope={"connectors": ["mail"]})
    assert refusal.field == "$.params.credential_scope.connectors"


async def test_agent_spawn_route_not_ready(house: Household) -> None:
    """The problem of the route is named."""
    parent = await root(house)
    refusal = await house.refusal_of("agent.spawn", parent=parent, name="x", prompt="x", route="unready")
    assert isinstance(refusal, RouteNotReady)
    assert "NOT_SET" in refusal.message


async def test_agent_spawn_workspace_forbidden(house: Household, tmp_path: Path) -> None:
    """A child works within its parent's workspace; a relative path begins there, links are resolved."""
    workspace = tmp_path / "work"
    (workspace / "part").mkdir(parents=True)
    (workspace / "out").symlink_to("/")
    parent = await root(house, workspace=str(workspace))
    for path in ("/", "..", "out", "out/etc", "part/../.."):
        refusal = await house.refusal_of("agent.spawn", parent=parent, name="x", prompt="x", workspace=path)
        assert (type(refusal), refusal.field) == (WorkspaceForbidden, "$.params.workspace"), path
    child = await spawn(house, parent, workspace="part")
    session = await house.call("session.get", session_id=child["agent_id"])
    assert session["workspace"] == str(workspace / "part")


async def test_agent_spawn_workspace_missing(house: Household) -> None:
    """A directory that does not exist is not created."""
    parent = await root(house)
    refusal = await house.refusal_of("agent.spawn", parent=parent, name="x", prompt="x", workspace="gone")
    assert (type(refusal), refusal.field) == (WorkspaceMissing, "$.params.workspace")


async def test_agent_spawn_input_too_large(house: Household) -> None:
    """A task has the limit of an input."""
    parent = await root(house)
    refusal = await house.refusal_of("agent.spawn", parent=parent, name="x", prompt="x" * MAX_INPUT_BYTES)
    assert (type(refusal), refusal.field) == (InputTooLarge, "$.params.prompt")


async def test_the_limits_of_texts_are_bytes(house: Household) -> None:
    """An agent whose instructions are too long is refused, and explained so."""
    spawn = {"parent": await root(house), "name": "x", "prompt": "x"}
    for name, limit in (("instructions", MAX_AGENT_PROMPT_BYTES), ("description", 1024)):
        params = spawn | {name: "é" * (limit // 2 + 1)}
        refusal = await house.refusal_of("agent.spawn", **params)
        assert isinstance(refusal, InputTooLarge)
        explained = await house.call("agent.explain", spawn=params)
        assert (explained["allowed"], explained["field"]) == (False, refusal.field)
        assert refusal.field == f"$.params.{name}"


async def test_a_close_without_progress_is_a_warning(idle: Household) -> None:
    """It is named after two minutes."""
    child = await spawn(idle, await root(idle))
    await idle.state.update(lambda tx: begin_close(tx, tx.need(AGENT_TABLE, child["agent_id"]), note=""))
    now_ms = idle.state.now_ms()
    with idle.state.read() as store:
        assert list(find_agent_warnings(store, now_ms)) == []
        (warning,) = find_agent_warnings(store, now_ms + SLOW_CLOSE_MS + 1000)
    assert child["path"] in warning


# Explain.


async def test_agent_explain_ok(house: Household) -> None:
    """The verdict is that of a spawn, with every limit and its use; nothing is created."""
    parent = await root(house)
    await spawn(house, parent)
    explained = await house.call("agent.explain", spawn={"parent": parent, "name": "scout", "prompt": "x"})
    assert explained["allowed"]
    assert explained["path"] == f"{parent}/scout_2"
    uses = {use["limit"]: (use["used"], use["allowed"]) for use in explained["limits"]}
    assert uses["agents.max_children"] == (1, 6)
    assert uses["agents.max_depth"] == (0, 4)
    request = {"parent": parent, "name": "x", "prompt": "x", "permission_mode": "bypassPermissions"}
    refused = await house.call("agent.explain", spawn=request)
    assert not refused["allowed"]
    assert (refused["reason"], refused["field"]) == ("scope_would_widen", "$.params.permission_mode")
    assert len((await house.call("agent.list"))["agents"]) == 1


async def test_agent_explain_ok_model(house: Household) -> None:
    """The model is the one that the agent will use: a request that names a route gets that route's model."""
    modelled = {"modelled": define_agent("modelled", "model: m-own")}
    house.holder.replace(change_runtime(house.holder.current(), generation=2, definitions=AGENTS | modelled))
    parent = await root(house)
    for route, model in ((None, "m-own"), ("offline", "offline")):
        request = {"parent": parent, "name": "x", "prompt": "x", "agent": "modelled", "route": route}
        assert (await house.call("agent.explain", spawn=request))["model"] == model
        child = await house.call("agent.spawn", **request)
        run = await house.call("run.get", run_id=child["launch_run_id"])
        assert run["pinned"]["model"] == model


async def test_agent_explain_no_such_agent(house: Household) -> None:
    """There is nothing to explain without a parent."""
    refusal = await house.refusal_of("agent.explain", spawn={"parent": "nobody", "name": "x", "prompt": "x"})
    assert (type(refusal), refusal.field) == (NoSuchAgent, "$.params.spawn.parent")


# List and show.


async def test_agent_list_ok(house: Household) -> None:
    """A tree is listed from any of its agents, each agent after its parent, in pages of any size."""
    parent = await root(house)
    first = await spawn(house, parent, "b")
    inner = await spawn(house, first["agent_id"], "z")
    await spawn(house, parent, "b")
    await spawn(house, parent, "a")
    await root(house)
    expected = [parent, *(f"{parent}/{path}" for path in ("a", "b", "b/z", "b_2"))]
    for limit in (1, 2, 50):
        rows = await pages(house.client, "agent.list", "agents", root=inner["path"], limit=limit)
        assert [row["path"] for row in rows] == expected
    assert len((await house.call("agent.list"))["agents"]) == 4
    for agent in (inner["agent_id"], first["agent_id"]):
        await until(house, agent, "idle")
    await close(house, first["agent_id"])
    rows = await pages(house.client, "agent.list", "agents", root=parent)
    assert [row["path"] for row in rows] == [parent, f"{parent}/a", f"{parent}/b_2"]
    rows = await pages(house.client, "agent.list", "agents", root=parent, closed=True)
    assert len(rows) == 5
    failed = await house.call("agent.list", root=parent, status="failed")
    assert failed["agents"] == []


async def test_agent_list_no_such_agent(house: Household) -> None:
    """A root that does not exist has no tree."""
    refusal = await house.refusal_of("agent.list", root="nobody")
    assert (type(refusal), refusal.field) == (NoSuchAgent, "$.params.root")


async def test_agent_explain_names_the_tools_that_are_missing(house: Household) -> None:
    """A requested tool that the definition does not have, or that does not exist, is a warning."""
    parent = await root(house)
    asked = {"parent": parent, "name": "x", "prompt": "x", "agent": "reviewer"}
    names = ["bash", "mcp__x__y"]
    explained = await house.call("agent.explain", spawn=asked | {"allowed_tools": names})
    assert explained["allowed"]
    assert explained["warnings"] == [
        f"the agent will not have the tool '{name}': 'reviewer' or the request excludes it" for name in names
    ]
    del asked["agent"]
    names = ["nothing", "mcp__x__y"]
    explained = await house.call("agent.explain", spawn=asked | {"allowed_tools": names})
    assert explained["warnings"] == ["there is no tool 'nothing' now"]


async def test_agent_list_ok_without_what_a_token_does_not_cover(house: Household) -> None:
    """A token for some definitions sees their agents only."""
    parent = await root(house)
    await spawn(house, parent, agent="critic")
    await spawn(house, parent)
    limited = await house.connect_limited(agents=["default"])
    rows = await pages(limited, "agent.list", "agents", root=parent)
    assert [row["definition"] for row in rows] == ["default", "default"]


async def test_agent_get_ok(house: Household) -> None:
    """A root is shown from its session, and its status is that of its runs."""
    sent = await house.ask("hello")
    shown = await house.call("agent.get", agent=sent["session_id"])
    assert (shown["path"], shown["status"], shown["output"]) == (
        sent["session_id"],
        "idle",
        "You said: hello",
    )
    gate = house.gate("slow")
    await house.send("slow")
    await gate.reached.wait()
    await house.send("later")
    shown = await house.call("agent.get", agent=sent["session_id"])
    assert (shown["status"], shown["queued_runs"]) == ("running", 1)
    gate.opened.set()


async def test_agent_get_no_such_agent(house: Household) -> None:
    """An agent of another tree is found, one that does not exist is not."""
    refusal = await house.refusal_of("agent.get", agent="nobody")
    assert (type(refusal), refusal.field) == (NoSuchAgent, "$.params.agent")


async def test_agent_audit_ok(house: Household) -> None:
    """The audit has every transition, in pages; it is computed from the journal."""
    parent = await root(house)
    child = await spawn(house, parent)
    await until(house, child["agent_id"], "idle")
    await close(house, child["agent_id"], note="enough")
    expected = [
        ("session_created", "idle"),
        ("agent_spawned", "idle"),
        ("run_accepted", "queued"),
        ("run_started", "running"),
        ("run_ended", "idle"),
        ("agent_close_requested", "idle"),
        ("agent_closed", "idle"),
    ]
    for limit in (1, 3, 50):
        rows = await pages(house.client, "agent.audit", "transitions", agent=child["agent_id"], limit=limit)
        assert [(row["event"], row["status"]) for row in rows] == expected
    assert rows[-2]["note"] == "enough"


async def test_agent_audit_no_such_agent(house: Household) -> None:
    """Nobody has an audit without being an agent."""
    refusal = await house.refusal_of("agent.audit", agent="nobody")
    assert (type(refusal), refusal.field) == (NoSuchAgent, "$.params.agent")


# Rename and close.


async def test_agent_rename_ok(house: Household) -> None:
    """A nickname is unique in the whole home; the old one is free again."""
    parent = await root(house)
    first = await spawn(house, parent, nickname="Eagle")
    second = await spawn(house, parent, nickname="eagle")
    assert (first["nickname"], second["nickname"]) == ("Eagle", "eagle 2")
    renamed = await house.call("agent.rename", agent="eagle", nickname="  Big  Hawk ")
    assert renamed["nickname"] == "Big Hawk"
    assert (await house.call("agent.get", agent="big hawk"))["agent_id"] == first["agent_id"]
    assert (await house.call("agent.rename", agent="eagle 2", nickname="Eagle"))["nickname"] == "Eagle"
    refusal = await house.refusal_of("agent.rename", agent="Eagle", nickname="a\nb\x00")
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.nickname")
    refusal = await house.refusal_of("agent.rename", agent=parent, nickname="x")
    assert isinstance(refusal, InvalidParams)


async def test_agent_rename_no_such_agent(house: Household) -> None:
    """An agent that does not exist has no nickname."""
    assert isinstance(await house.refusal_of("agent.rename", agent="x", nickname="y"), NoSuchAgent)


async def test_agent_rename_agent_already_closed(house: Household) -> None:
    """A closed agent keeps its nickname."""
    child = await spawn(house, await root(house))
    await close(house, child["agent_id"])
    refusal = await house.refusal_of("agent.rename", agent=child["agent_id"], nickname="y")
    assert isinstance(refusal, AgentAlreadyClosed)


async def test_agent_close_ok(house: Household) -> None:
    """All agents below are closed first; runs in flight stop; the answer comes when nothing runs."""
    parent = await root(house)
    outer_gate, inner_gate = house.gate("outer"), house.gate("inner")
    outer = await spawn(house, parent, "outer", prompt="outer")
    inner = await spawn(house, outer["agent_id"], "inner", prompt="inner")
    await outer_gate.reached.wait()
    await inner_gate.reached.wait()
    closed = await close(house, outer["path"], note="enough")
    assert (closed["state"], closed["close_note"], closed["last_outcome"]) == (
        "closed",
        "enough",
        "cancelled",
    )
    below = await house.call("agent.get", agent=inner["agent_id"])
    assert (below["state"], below["last_outcome"]) == ("closed", "cancelled")
    assert below["closed_at_ms"] <= closed["closed_at_ms"]
    session = await house.call("session.get", session_id=outer["agent_id"])
    assert session["status"] == "ended"
    # Closed sidechains are hidden from the list of sessions, and still shown by their ids.
    listed = await house.call("session.list")
    assert [row["session_id"] for row in listed["sessions"]] == [parent]


async def test_agent_close_no_such_agent(house: Household) -> None:
    """A root is not closed: it ends with its session, once it has no live children."""
    assert isinstance(await house.refusal_of("agent.close", agent="nobody"), NoSuchAgent)
    parent = await root(house)
    assert isinstance(await house.refusal_of("agent.close", agent=parent), InvalidParams)
    child = await spawn(house, parent)
    await until(house, child["agent_id"], "idle")
    for session_id in (parent, child["agent_id"]):
        refusal = await house.refusal_of("session.end", session_id=session_id)
        assert refusal.reason == "session_busy"
    await close(house, child["agent_id"])
    await house.call("session.end", session_id=parent)


async def test_agent_close_agent_already_closed(house: Household) -> None:
    """A second close is refused with the note of the first."""
    child = await spawn(house, await root(house))
    await close(house, child["agent_id"], note="enough")
    refusal = await house.refusal_of("agent.close", agent=child["agent_id"])
    assert isinstance(refusal, AgentAlreadyClosed)
    assert "enough" in refusal.message
    refusal = await house.refusal_of("session.send", session_id=child["agent_id"], content="x")
    assert isinstance(refusal, SessionAlreadyEnded)
