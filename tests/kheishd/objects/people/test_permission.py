"""Permissions over the socket: every outcome of why, list and update; and the layers of rules."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.config.sections.permissions import PermissionsSection
from kheishd.core.permissions.judge import HookOpinion, ToolFacts, judge
from kheishd.core.run.commands import Start
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.hook import Deny, NeedsAnswer, NeedsApproval, SubHook, Tool
from kheishd.objects.people.permission import facts_of, layers_of, opinion_of
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import RUNS, SESSIONS
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.permission import GrantNotFound
from protocol.errors.refusal import Refusal
from protocol.errors.rpc import InvalidParams
from protocol.errors.run import RunAlreadyEnded, RunNotFound
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, SessionNotFound
from protocol.errors.token import ScopeMissing, ScopeWouldWiden
from protocol.events.approval import ApprovalAnswered
from protocol.events.call import CallsJudged
from protocol.limits.permission import MAX_RULES
from protocol.limits.session import MAX_SESSION_DEPTH
from protocol.objects.approval import Remember
from protocol.objects.permission import CallFacts, Grant, Rule, Verdict
from tests.support.histories import approval_requested
from tests.support.household import AGENTS, Household, agent, household, pages, refusal_of
from tests.support.runtimes import make_runtime

TOOLS = {
    tool.name: tool
    for tool in (
        Tool("bash", "Run a command.", {}, "execute", default="ask"),
        Tool("edit_file", "Edit a file.", {}, "edit", default="ask"),
        Tool("read_file", "Read a file.", {}, "read", in_plan=True),
    )
}


class Toolbox(SubHook):
    """A sub-hook that offers the tools."""

    name = "toolbox"
    tools = tuple(TOOLS.values())


CAREFUL = agent(
    "careful", "permissions:\n- {tool: bash, subject: 'git push*', decision: deny, note: by hand}"
)
BOLD = agent("bold", "permissions: [{tool: '*', decision: allow}]\npermission_mode: acceptEdits")
FIELDS: dict[str, Any] = {
    "definitions": AGENTS | {"careful": CAREFUL, "bold": BOLD},
    "hooks": CompositeHook((Toolbox(),)),
}


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon with three tools and without a run worker; tokens work."""
    async with household(tmp_path, work=False, tcp=True, **FIELDS) as house:
        yield house


async def create(house: Household, session_id: str, **params: Any) -> str:
    """Create a session."""
    await house.call("session.create", session_id=session_id, **params)
    return session_id


async def run_in(house: Household, session_id: str, **params: Any) -> str:
    """Queue a run in a session."""
    sent = await house.call("session.send", session_id=session_id, content="x", **params)
    return str(sent["run_id"])


async def why(house: Household, tool: str = "bash", subject: str = "ls", **place: Any) -> tuple[str, str]:
    """Return the decision on a call and the line that decides it."""
    facts = {"workdir": "/w"} if tool == "bash" else None
    explanation = await house.call("permission.why", tool=tool, subject=subject, facts=facts, **place)
    return explanation["decision"], explanation["why"]


async def update(house: Household, *rules: dict[str, Any], **params: Any) -> Any:
    """Add rules to a layer."""
    return await house.call("permission.update", add=list(rules), **params)


def rule(decision: str, tool: str = "bash", subject: str | None = None) -> dict[str, Any]:
    """Return a rule as a client sends it."""
    return {"tool": tool, "decision": decision} | ({"subject": subject} if subject is not None else {})


async def remember(house: Household, run_id: str, scope: Remember, uses: int | None = None) -> None:
    """Append the approval of a call of ``bash`` on ``ls``, with a grant."""
    grant = Grant(
        grant_id=f"grt_{scope}",
        tool="bash",
        subject="ls",
        granted_by="uid:0",
        facts=CallFacts(workdir="/w"),
        remaining_uses=uses,
    )
    approval_id = f"apr_{scope}"
    answer = ApprovalAnswered(
        approval_id=approval_id, call_id="c", decision="allow", remember=scope, grant=grant
    )
    await append(house, run_id, approval_requested(approval_id, "c"))
    await append(house, run_id, answer)


async def append(house: Household, run_id: str, event: Any) -> None:
    """Append an event of a run, as the run worker does."""

    def change(tx: Transaction) -> None:
        run = tx.get(RUNS, run_id)
        assert run is not None
        writer = SessionWriter(tx, run.session_id, session=tx.get(SESSIONS, run.session_id), run=run)
        if run.status == "queued":
            writer.carry_out(Start())
        writer.append(event)
        writer.write()

    await house.state.update(change)


# permission.why


async def test_permission_why_ok(idle: Household) -> None:
    """The explanation lists every line of the verdict, as for a real call."""
    session_id = await create(idle, "s", agent="careful")
    explanation = await idle.call("permission.why", tool="bash", subject="git push", session_id=session_id)
    assert (explanation["decision"], explanation["base"], explanation["note"]) == ("deny", "deny", "by hand")
    assert explanation["why"] == "definition careful rule bash 'git push*' deny"
    assert [(step["source"], step["says"]) for step in explanation["lines"]] == [
        ("tool", "ask"),
        ("managed", None),
        ("daemon", None),
        ("definition careful", "deny"),
        ("session s", None),
        ("mode", None),
    ]
    with idle.state.read() as store:
        session = store.get(SESSIONS, session_id)
        assert session is not None
        layers = layers_of(store, idle.holder.current(), session)
    judged = judge(facts_of(TOOLS["bash"]), "git push", layers)
    assert (judged.decision, judged.why, judged.note) == ("deny", explanation["why"], "by hand")


async def test_permission_why_ok_for_a_new_session(idle: Household) -> None:
    """Without a session the explanation is for a new one of an agent, and none is created."""
    assert await why(idle) == ("ask", "bash's default")
    assert await why(idle, agent="careful", subject="git push") == (
        "deny",
        "definition careful rule bash 'git push*' deny",
    )
    assert (await idle.call("permission.why", tool="edit_file", agent="bold"))["mode"] == "acceptEdits"
    assert await why(idle, "edit_file", agent="reviewer") == ("deny", "definition reviewer")
    assert await why(idle, "read_file", agent="reviewer") == ("allow", "read_file's default")
    assert (idle.sessions(), idle.head()) == (0, 0)
    refusal = await idle.refusal_of("permission.why", tool="bash", agent="bold", session_id="s")
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.agent")


async def test_permission_why_ok_as_if_in_another_mode(idle: Household) -> None:
    """Another mode applies within the bounds of the parent and of the configuration."""
    await create(idle, "p", permission_mode="acceptEdits")
    await create(idle, "c", parent_session_id="p", permission_mode="plan")
    assert await why(idle, "edit_file", session_id="c") == ("deny", "mode plan")
    as_if = await idle.call(
        "permission.why",
        tool="edit_file",
        session_id="c",
        mode="bypassPermissions",
        run_id=await run_in(idle, "c"),
    )
    assert (as_if["decision"], as_if["mode"]) == ("allow", "acceptEdits")
    assert await why(idle, mode="bypassPermissions") == ("allow", "mode bypassPermissions")


async def test_permission_why_ok_for_the_circumstances_of_a_call(idle: Household) -> None:
    """A grant and a host count only in the circumstances that the request names."""
    await create(idle, "s")
    run_id = await run_in(idle, "s")
    await remember(idle, run_id, "run")
    unknown = await idle.call("permission.why", tool="bash", subject="ls", run_id=run_id)
    assert unknown["decision"] == "ask"
    assert "grt_run holds only in /w" in [line["text"] for line in unknown["lines"]]
    await update(idle, rule("allow"), rule("allow", "*", "net:pypi.org"))
    for host, decision in (("pypi.org", "allow"), ("evil.example", "ask")):
        facts = {"workdir": "/w", "network": [f"net:{host}:443"]}
        explanation = await idle.call("permission.why", tool="bash", subject="ls", facts=facts)
        assert explanation["decision"] == decision
        assert [claim["kind"] for claim in explanation["claims"]] == ["call", "network"]
        assert (await why(idle, subject=f"net:{host}:443"))[0] == decision


async def test_permission_why_ok_for_an_unknown_tool(idle: Household) -> None:
    """An unknown tool is judged as one that asks, and noted; one outside of the scope is denied."""
    explanation = await idle.call("permission.why", tool="mcp__git__push")
    assert explanation["decision"] == "ask"
    assert "there is no tool 'mcp__git__push' now" in explanation["lines"][0]["text"]
    await create(idle, "s", scope={"tools": ["read_file"]})
    explanation = await idle.call("permission.why", tool="bash", session_id="s")
    assert (explanation["decision"], explanation["base"], explanation["why"]) == ("deny", "ask", "session s")
    assert explanation["lines"][0] == {
        "source": "session s",
        "says": "deny",
        "text": "its tools do not include 'bash': it has only read_file",
    }
    explanation = await idle.call("permission.why", tool="read_file", session_id="s")
    assert explanation["lines"][0]["source"] == "tool"


async def test_permission_why_ok_names_every_link(idle: Household) -> None:
    """What hides an item is named, for the session itself and for each session above it."""
    await create(idle, "root", profile="verification", credential_scope={"routes": ["offline"]})
    await create(
        idle, "child", parent_session_id="root", blocked_tools=["bash"], scope={"mcp": ["git"], "skills": []}
    )

    async def links(name: str, kind: str = "tool") -> tuple[str, dict[str, str]]:
        explanation = await idle.call("permission.why", tool=name, item_kind=kind, session_id="child")
        denied = {line["source"]: line["text"] for line in explanation["lines"] if line["says"] == "deny"}
        return explanation["decision"], denied

    decision, denied = await links("edit_file")
    assert (decision, list(denied)) == ("deny", ["session child", "parent root profile verification"])
    assert denied["parent root profile verification"] == "it blocks 'edit_file'"
    assert await links("bash") == ("deny", {"session child": "it blocks 'bash'"})
    assert await links("read_file") == ("allow", {})
    decision, denied = await links("mcp__web__get")
    assert (decision, list(denied)[-1]) == ("deny", "parent root profile verification")
    assert (await links("poem", "skill"))[1] == {
        "skill": "there is no skill 'poem' now",
        "session child": "its skills do not include 'poem': it has none",
    }
    assert await links("offline", "route") == ("allow", {})
    assert list((await links("local", "route"))[1]) == ["session child", "parent root"]
    assert "route" in (await links("nowhere", "route"))[1]
    assert (await links("mail:KEY", "connector_credential"))[0] == "deny"
    assert await links("critic", "member") == ("allow", {})
    await create(idle, "alone", scope={"members": []})
    where = {"item_kind": "member", "session_id": "alone"}
    decisions = [
        (await idle.call("permission.why", tool=name, **where))["decision"] for name in ("critic", "default")
    ]
    assert decisions == ["deny", "allow"]
    place = {"item_kind": "route", "session_id": "child"}
    refusal = await idle.refusal_of("permission.why", tool="offline", subject="x", **place)
    assert refusal.field == "$.params.subject"


async def test_permission_why_ok_for_a_run_that_was_accepted_with_fewer_tools(idle: Household) -> None:
    """A run keeps to the tools that it had when it was accepted."""
    sent = await idle.send(guest="critic")
    explanation = await idle.call("permission.why", tool="bash", run_id=sent["run_id"])
    assert (explanation["decision"], explanation["why"]) == ("deny", f"run {sent['run_id']}")


async def require_not_found(house: Household, method: str, **params: Any) -> list[Refusal]:
    """Require the same refusal for an unknown session or run as for an uncovered one."""
    sent = await house.send(agent="careful", sender="bob")
    ann = await house.connect_limited(senders=["ann"], scopes=["read", "approve"])
    refusals = []
    for name, missing in (("session_id", "ses_none"), ("run_id", "run_none")):
        for client, value in ((house.client, missing), (ann, sent[name])):
            refusal = await refusal_of(client, method, **params, **{name: value})
            assert refusal.field == f"$.params.{name}"
            refusals.append(refusal)
    another = await create(house, "other")
    refusals.append(await house.refusal_of(method, session_id=another, run_id=sent["run_id"], **params))
    return refusals


async def test_permission_why_session_not_found(idle: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    refusals = await require_not_found(idle, "permission.why", tool="bash")
    assert [type(refusal) for refusal in refusals[:2]] == [SessionNotFound] * 2


async def test_permission_why_run_not_found(idle: Household) -> None:
    """An unknown run and a run of another session are refused."""
    refusals = await require_not_found(idle, "permission.why", tool="bash")
    assert [type(refusal) for refusal in refusals[2:]] == [RunNotFound] * 3


async def test_permission_why_agent_not_found(idle: Household) -> None:
    """An unknown agent is refused."""
    assert isinstance(await idle.refusal_of("permission.why", tool="bash", agent="nobody"), AgentNotFound)


async def test_permission_why_agent_forbidden(idle: Household) -> None:
    """A token learns nothing about agents that it does not cover, the default one included."""
    critic = await idle.connect_limited(agents=["critic"])
    for place in ({"agent": "careful"}, {}):
        assert isinstance(await refusal_of(critic, "permission.why", tool="bash", **place), AgentForbidden)
    assert (await critic.call("permission.why", tool="bash", agent="critic"))["decision"] == "ask"


# permission.list


async def test_permission_list_ok(idle: Household) -> None:
    """Every layer is listed, broadest first, in pages, with modes and grants."""
    await create(idle, "p", agent="careful", permission_mode="plan")
    await create(idle, "c", agent="critic", parent_session_id="p")
    run_id = await run_in(idle, "c")
    await remember(idle, run_id, "run", uses=3)
    await update(idle, rule("ask"), session_id="c")
    for limit in (1, 50):
        layers = await pages(idle.client, "permission.list", "permissions", run_id=run_id, limit=limit)
        assert [(layer["layer"], layer.get("name"), layer.get("mode")) for layer in layers] == [
            ("managed", None, "bypassPermissions"),
            ("daemon", None, None),
            ("definition", "careful", None),
            ("parent", "p", "plan"),
            ("definition", "critic", None),
            ("session", "c", "plan"),
            ("run", run_id, "plan"),
        ]
        assert layers[2]["rules"][0]["note"] == "by hand"
        assert layers[5]["rules"] == [rule("ask")]
        assert [layer["remaining_uses"] for layer in layers[6]["grants"]] == [3]
    nowhere = await idle.call("permission.list", agent="bold")
    assert [layer["layer"] for layer in nowhere["permissions"]] == [
        "managed",
        "daemon",
        "definition",
        "session",
    ]


async def test_permission_list_session_not_found(idle: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    refusals = await require_not_found(idle, "permission.list")
    assert [type(refusal) for refusal in refusals[:2]] == [SessionNotFound] * 2


async def test_permission_list_run_not_found(idle: Household) -> None:
    """An unknown run and a run of another session are refused."""
    refusals = await require_not_found(idle, "permission.list")
    assert [type(refusal) for refusal in refusals[2:]] == [RunNotFound] * 3


async def test_permission_list_agent_not_found(idle: Household) -> None:
    """An unknown agent is refused."""
    assert isinstance(await idle.refusal_of("permission.list", agent="nobody"), AgentNotFound)


async def test_permission_list_agent_forbidden(idle: Household) -> None:
    """The caller's token does not cover the agent."""
    critic = await idle.connect_limited(agents=["critic"])
    assert isinstance(await refusal_of(critic, "permission.list", agent="bold"), AgentForbidden)


# permission.update


async def test_permission_update_ok(idle: Household) -> None:
    """Rules of the daemon, a session or a run are effective from the next call, and journaled."""
    await create(idle, "s")
    run_id = await run_in(idle, "s")
    assert await update(idle, rule("allow"), session_id="s") == {
        "layer": "session",
        "name": "s",
        "rules": [rule("allow")],
        "mode": "default",
    }
    assert await why(idle, session_id="s") == ("allow", "session s rule bash allow")
    made = await update(idle, rule("ask", subject="l*"), run_id=run_id, session_id="s")
    assert (made["layer"], made["rules"]) == ("run", [rule("ask", subject="l*")])
    assert await why(idle, run_id=run_id) == ("ask", f"run {run_id} rule bash 'l*' ask")
    assert await why(idle, session_id="s") == ("allow", "session s rule bash allow")
    assert await update(idle, rule("deny", "*")) == {"layer": "daemon", "rules": [rule("deny", "*")]}
    assert await why(idle) == await why(idle, session_id="s") == ("deny", "daemon rule * deny")
    events = await idle.events(types=["permissions_changed"])
    assert [(e.get("session_id"), e.get("run_id")) for e in events] == [
        ("s", None),
        ("s", run_id),
        (None, None),
    ]
    assert events[2]["actor"].startswith("uid:")


async def test_permission_update_ok_replaces_and_removes(idle: Household) -> None:
    """A rule replaces one on the same subject; no change appends no event, and neither does a check."""
    await update(idle, rule("allow"), rule("deny", subject="rm *"))
    head = idle.head()
    assert (await update(idle, rule("allow")))["rules"] == [rule("deny", subject="rm *"), rule("allow")]
    assert (await update(idle, rule("ask"), check=True))["rules"][1] == rule("ask")
    assert await why(idle) == ("allow", "daemon rule bash allow")
    removed = await idle.call("permission.update", remove=[{"tool": "bash", "subject": "rm *"}])
    assert removed["rules"] == [rule("allow")]
    assert idle.head() > head
    head = idle.head()
    assert (await idle.call("permission.update", remove=[{"tool": "web"}]))["rules"] == [rule("allow")]
    assert idle.head() == head
    assert (await update(idle, rule("ask")))["rules"] == [rule("ask")]


async def test_permission_update_ok_survives_a_restart(tmp_path: Path) -> None:
    """The stored rules equal the answer, and the doctor derives them from the journal."""
    async with household(tmp_path, work=False, **FIELDS) as house:
        await update(house, rule("deny"))
    async with household(tmp_path, work=False, **FIELDS) as house:
        assert await why(house) == ("deny", "daemon rule bash deny")


async def test_permission_update_ok_revokes(idle: Household) -> None:
    """After a grant is revoked the next such call asks again."""
    await create(idle, "s")
    run_id = await run_in(idle, "s")
    for scope in ("session", "run"):
        await remember(idle, run_id, scope)
    assert await why(idle, run_id=run_id) == ("allow", "grant grt_run")
    await idle.call("permission.update", run_id=run_id, revoke=["grt_run"])
    assert await why(idle, run_id=run_id) == ("allow", "grant grt_session")
    layer = await idle.call("permission.update", session_id="s", revoke=["grt_session"])
    assert "grants" not in layer
    assert await why(idle, run_id=run_id) == ("ask", "bash's default")


async def test_permission_update_session_not_found(idle: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    refusals = await require_not_found(idle, "permission.update")
    assert [type(refusal) for refusal in refusals[:2]] == [SessionNotFound] * 2


async def test_permission_update_run_not_found(idle: Household) -> None:
    """An unknown run and a run of another session are refused."""
    refusals = await require_not_found(idle, "permission.update")
    assert [type(refusal) for refusal in refusals[2:]] == [RunNotFound] * 3


async def test_permission_update_session_already_ended(idle: Household) -> None:
    """Rules of an ended session do not change."""
    await create(idle, "s")
    await idle.call("session.end", session_id="s")
    assert isinstance(
        await idle.refusal_of("permission.update", session_id="s", add=[rule("ask")]), SessionAlreadyEnded
    )


async def test_permission_update_run_already_ended(idle: Household) -> None:
    """Rules of an ended run do not change."""
    await create(idle, "s")
    run_id = await run_in(idle, "s")
    await idle.call("run.cancel", run_id=run_id)
    assert isinstance(await idle.refusal_of("permission.update", run_id=run_id), RunAlreadyEnded)


async def test_permission_update_grant_not_found(idle: Household) -> None:
    """A grant is revoked in its own layer only; a refused change changes nothing."""
    await create(idle, "s")
    run_id = await run_in(idle, "s")
    await remember(idle, run_id, "run")
    for place in ({}, {"session_id": "s"}):
        refusal = await idle.refusal_of("permission.update", add=[rule("deny")], revoke=["grt_run"], **place)
        assert (type(refusal), refusal.field) == (GrantNotFound, "$.params.revoke[0]")
    assert await why(idle, run_id=run_id) == ("allow", "grant grt_run")


async def test_permission_update_scope_would_widen(idle: Household) -> None:
    """A limited caller cannot change the rules of the whole daemon."""
    await create(idle, "s", agent="critic")
    for grant in ({"agents": ["critic"]}, {"senders": ["ann"]}):
        limited = await idle.connect_limited(scopes=["read", "approve"], **grant)
        assert isinstance(
            await refusal_of(limited, "permission.update", add=[rule("allow")]), ScopeWouldWiden
        )
    critic = await idle.connect_limited(scopes=["read", "approve"], agents=["critic"])
    made = await critic.call("permission.update", session_id="s", add=[rule("allow")])
    assert made["rules"] == [rule("allow")]
    reader = await idle.connect_limited(scopes=["read", "operate"])
    assert isinstance(await refusal_of(reader, "permission.update", session_id="s"), ScopeMissing)


async def test_permission_update_input_too_large(idle: Household) -> None:
    """Rules are limited in number and size, those of the layer included; removing is always possible."""
    for part in (0, 1):
        half = [rule("ask", f"t{part}_{number}") for number in range(MAX_RULES // 2)]
        await update(idle, *half)
    for new in (rule("ask", "more"), rule("ask", "t0_1", "x" * 1000)):
        refusal = await idle.refusal_of("permission.update", add=[new, rule("ask", "x", "y" * 1000)])
        assert (type(refusal), refusal.field) == (InputTooLarge, "$.params.add")
    assert len((await idle.call("permission.update", remove=[{"tool": "t0_1"}]))["rules"]) == MAX_RULES - 1


# The layers of rules.


async def test_a_child_session_has_no_rights_of_its_own(idle: Household) -> None:
    """A child obeys the deny rules of its root's agent; the allow rules of its own agent do not widen it."""
    parent = await create(idle, "s0", agent="careful")
    for depth in range(1, MAX_SESSION_DEPTH):
        name = ("bold", "critic", "careful")[depth % 3]
        parent = await create(idle, f"s{depth}", agent=name, parent_session_id=parent)
    assert await why(idle, session_id=parent) == ("ask", "bash's default")
    assert (await why(idle, subject="git push", session_id=parent))[0] == "deny"
    alone = await create(idle, "alone", agent="bold")
    assert (await why(idle, session_id=alone))[0] == "allow"
    layers = await pages(idle.client, "permission.list", "permissions", session_id=parent)
    assert [layer["name"] for layer in layers if layer["layer"] == "definition"] == [
        "careful",
        "critic",
        "bold",
    ]
    await update(idle, rule("allow"), session_id=parent)
    assert (await why(idle, session_id=parent))[0] == "allow"


async def test_a_grant_is_not_inherited(idle: Household) -> None:
    """A grant of a session does not apply in its children."""
    await create(idle, "p")
    await create(idle, "c", parent_session_id="p")
    await remember(idle, await run_in(idle, "p"), "session")
    assert (await why(idle, session_id="p"), await why(idle, session_id="c")) == (
        ("allow", "grant grt_session"),
        ("ask", "bash's default"),
    )


async def test_a_counted_grant_is_spent_by_a_verdict(idle: Household) -> None:
    """Each verdict that uses a counted grant lowers its count, in a session or a run."""
    await create(idle, "s")
    run_id = await run_in(idle, "s")
    await remember(idle, run_id, "session", uses=2)
    verdict = Verdict(
        call_id="c", tool="bash", decision="allow", base="ask", why="grant", grant_id="grt_session"
    )
    for expected in ("allow", "ask"):
        await append(idle, run_id, CallsJudged(item_id="itm_1", verdicts=[verdict]))
        assert (await why(idle, run_id=run_id))[0] == expected
    assert "grants" not in await idle.call("session.get", session_id="s")


async def test_a_run_obeys_the_narrower_of_pinned_and_current_mode(idle: Household) -> None:
    """A run in flight is judged by its session's current mode, and by no wider one than it pinned."""
    await create(idle, "s", permission_mode="acceptEdits")
    run_id = await run_in(idle, "s")
    assert await why(idle, "edit_file", run_id=run_id) == ("allow", "mode acceptEdits")
    await idle.call("session.update", session_id="s", permission_mode="plan")
    assert await why(idle, "edit_file", run_id=run_id) == ("deny", "mode plan")
    await idle.call("session.update", session_id="s", permission_mode="bypassPermissions")
    assert await why(idle, run_id=run_id) == ("ask", "bash's default")
    assert await why(idle, session_id="s") == ("allow", "mode bypassPermissions")


async def test_a_guest_brings_its_own_boundary(idle: Household) -> None:
    """The rules of both agents apply, and the mode is the guest's."""
    sent = await idle.send(agent="careful", guest="reviewer")
    layers = await pages(idle.client, "permission.list", "permissions", run_id=sent["run_id"])
    assert [layer["name"] for layer in layers if layer["layer"] == "definition"] == ["careful", "reviewer"]
    assert [layer["mode"] for layer in layers if layer["layer"] in ("session", "run")] == ["plan", "plan"]


async def test_an_undefined_agent_asks_for_every_call(idle: Household) -> None:
    """The deny rules of an agent that is gone are unknown, so no mode allows its calls."""
    await create(idle, "s", agent="careful", permission_mode="bypassPermissions")
    remaining = {name: definition for name, definition in AGENTS.items() if name != "careful"}
    idle.holder.replace(make_runtime(2, models=idle.models, definitions=remaining, hooks=FIELDS["hooks"]))
    for tool in TOOLS:
        decision, decided_by = await why(idle, tool, session_id="s")
        assert (decision, decided_by) == ("ask", "managed careful rule * ask")


async def test_managed_rules_come_first(tmp_path: Path) -> None:
    """Managed rules and the widest mode of the configuration come first."""
    rule = Rule(tool="bash", decision="ask", note="always")
    permissions = PermissionsSection(rules=[rule], max_mode="acceptEdits")
    async with household(tmp_path, work=False, permissions=permissions, **FIELDS) as house:
        await create(house, "s", agent="bold")
        assert await why(house, session_id="s") == ("ask", "managed rule bash ask")
        explanation = await house.call(
            "permission.why", tool="edit_file", session_id="s", mode="bypassPermissions"
        )
        assert (explanation["decision"], explanation["mode"]) == ("allow", "acceptEdits")


def test_facts_and_opinions() -> None:
    """Tools and hook verdicts become plain values; a call that is a question has no opinion."""
    assert opinion_of(Deny("no")) == HookOpinion("deny", "no")
    assert opinion_of(NeedsApproval("look")) == HookOpinion("ask", "look")
    assert opinion_of(NeedsApproval("x", is_firm=False)) == HookOpinion("ask", "x", is_firm=False)
    assert opinion_of(NeedsAnswer([])) is opinion_of(None) is None
    assert facts_of(TOOLS["read_file"]) == ToolFacts("read_file", "read", "allow", in_plan=True)


# Origins.


async def test_a_rule_for_an_origin(idle: Household) -> None:
    """It applies to a run that has read such an input, and ``why`` names the rules that do not apply."""
    await update(idle, rule("allow", "edit_file"), rule("ask", "edit_file") | {"origin": "connector"})
    assert await why(idle, "edit_file") == ("allow", "daemon rule edit_file allow")
    because = "daemon rule edit_file ask for the origin connector"
    assert await why(idle, "edit_file", origins=["connector"]) == ("ask", because)
    explanation = await idle.call("permission.why", tool="edit_file")
    assert explanation["lines"][0] == {
        "source": "daemon",
        "says": None,
        "text": "rule edit_file ask for the origin connector does not apply: read was person",
    }
    by_person = await run_in(idle, await create(idle, "s"))
    assert await why(idle, "edit_file", run_id=by_person) == ("allow", "daemon rule edit_file allow")
    by_mail = await run_in(idle, await create(idle, "m"), origin="connector")
    assert await why(idle, "edit_file", run_id=by_mail) == ("ask", because)
    listed = await idle.call("permission.list")
    assert len(listed["permissions"][1]["rules"]) == 2
    remove = [{"tool": "edit_file", "origin": "connector"}]
    await idle.call("permission.update", remove=remove)
    assert await why(idle, "edit_file", run_id=by_mail) == ("allow", "daemon rule edit_file allow")


async def test_an_allow_for_an_origin(idle: Household) -> None:
    """It does not hold for a run that has read something less trusted."""
    await update(idle, rule("allow") | {"origin": "person"})
    by_person = await run_in(idle, await create(idle, "s"))
    assert await why(idle, run_id=by_person) == ("allow", "daemon rule bash allow for the origin person")
    await idle.call("session.steer", session_id="s", content="x", origin="event")
    assert await why(idle, run_id=by_person) == ("ask", "bash's default")
