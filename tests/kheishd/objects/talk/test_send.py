"""Sending over the socket: every outcome of conversation.send and session.send."""

import os
from pathlib import Path
from typing import Any

import pytest

from kheishd.core.workspace import Workspaces
from kheishd.store.tables import CONVERSATIONS, RUNS
from protocol.errors.conversation import SenderForbidden, SenderInvalid
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.route import RouteForbidden, RouteNotFound, RouteNotReady
from protocol.errors.rpc import IdempotencyConflict, InvalidParams, NotSupported
from protocol.errors.session import (
    ContractInvalid,
    InputContractViolated,
    InputTooLarge,
    QueueFull,
    SessionAlreadyEnded,
    SessionNotFound,
    WorkspaceForbidden,
    WorkspaceMissing,
)
from protocol.errors.token import InputOriginForbidden
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.limits.names import MAX_METADATA_BYTES, MAX_PATH_BYTES
from protocol.limits.rpc import MAX_SUBSCRIPTIONS
from protocol.limits.session import MAX_INPUT_BYTES, MAX_QUEUED_RUNS
from protocol.transcript import text_of
from tests.support.desk import echo, fails, says
from tests.support.household import AGENTS, Household, agent, household, refusal_of
from tests.support.runtimes import make_runtime


async def test_a_run_that_nothing_delays_starts_with_its_acceptance(tmp_path: Path) -> None:
    """The daemon starts it in the same commit; a long input and a run behind another one start later."""
    async with household(tmp_path) as house:
        await house.call("conversation.send", sender="ada", content="hello", wait="settled")
        gate = house.gate("slow")
        sent = await house.call("conversation.send", sender="ada", content="slow")
        behind = await house.call("conversation.send", sender="ada", content="behind")
        assert (sent["status"], behind["status"]) == ("queued", "queued")
        await gate.reached.wait()
        read = await house.call("journal.read", session_id=sent["session_id"], after=sent["cursor"] - 1)
        own = [event for event in read["events"] if event["run_id"] == sent["run_id"]]
        assert [event["type"] for event in own] == ["run_accepted", "run_started", "model_asked"]
        assert own[0]["cursor"] == sent["cursor"]
        assert len({event["at_ms"] for event in own}) == 1
        assert [event.get("actor", "daemon") == "daemon" for event in own] == [False, True, True]
        assert [event.get("request_id") is None for event in own] == [False, True, True]
        assert (await house.call("run.get", run_id=behind["run_id"]))["status"] == "queued"
        gate.opened.set()
        await house.call("run.wait", run_id=behind["run_id"])
        long = await house.call(
            "conversation.send", sender="bob", content="x" * (MAX_INPUT_BYTES - 1_000), wait="settled"
        )
        assert long["status"] == "completed"


async def test_a_check_starts_nothing(tmp_path: Path) -> None:
    """A dry run of a send leaves no run, and the next send starts one."""
    async with household(tmp_path) as house:
        send = {"sender": "ada", "content": "hello"}
        await house.call("conversation.send", **send, wait="settled")
        checked = await house.call("conversation.send", **send, check=True)
        assert (await house.call("run.list"))["runs"][-1]["run_id"] != checked["run_id"]
        again = {**send, "idempotency_key": "once", "wait": "settled"}
        first = await house.call("conversation.send", **again)
        assert first == await house.call("conversation.send", **again)
        assert len((await house.call("run.list"))["runs"]) == 2


async def test_the_largest_values_fit_into_their_transactions(tmp_path: Path) -> None:
    """The longest input, metadata, instructions, scope, names, queue and answer fit together."""
    metadata = {"a": "b" * (MAX_METADATA_BYTES - 20)}
    deep = tmp_path
    while len(str(deep)) < MAX_PATH_BYTES:
        deep /= "w" * min(200, MAX_PATH_BYTES - len(str(deep)) - 1)
    deep.mkdir(parents=True)
    async with household(tmp_path, definitions={"large": agent("large")}) as house:
        await house.call(
            "session.create",
            session_id="s" * 128,
            agent="large",
            title="t" * 512,
            scope={"tools": ["t" * 70] * 54},
            metadata=metadata,
            workspace=str(deep),
        )
        gate = house.gate("first")
        gate.rest = "x" * 2 * MAX_ANSWER_BYTES
        to_it = {"session_id": "s" * 128, "model": "m" * 256}
        first = await house.call("session.send", content="first", **to_it)
        await gate.reached.wait()
        for _ in range(MAX_QUEUED_RUNS - 1):
            await house.client.request("session.send", content="x", **to_it)
        large = agent("large", instructions="i" * 65_000)
        house.holder.replace(make_runtime(2, models=house.models, definitions={"large": large}))
        last = await house.call(
            "session.send", content="x" * (MAX_INPUT_BYTES - 100), metadata=metadata, **to_it
        )
        assert last["status"] == "queued"
        gate.opened.set()
        answered = await house.call("run.wait", run_id=first["run_id"])
        assert answered["status"] == "completed"
        assert len(answered["output"]) > MAX_ANSWER_BYTES - 100


async def test_conversation_send_ok(house: Household) -> None:
    """An accepted input is durable; a message to the same pair resumes the session."""
    accepted = await house.send("one")
    assert accepted["status"] == "queued"
    settled = await house.ask("two")
    assert (settled["status"], settled["output"]) == ("completed", "You said: two")
    assert settled["session_id"] == accepted["session_id"]
    events = await house.events(session_id=accepted["session_id"])
    assert [event["type"] for event in events][:4] == [
        "session_created",
        "conversation_bound",
        "input_received",
        "run_accepted",
    ]
    assert events[3]["cursor"] == accepted["cursor"]
    assert {event["actor"] for event in events[:4]} == {f"uid:{os.geteuid()}"}
    assert {event["on_behalf_of"] for event in events[:4]} == {"user"}


async def test_conversation_send_ok_other_pairs_are_other_conversations(house: Household) -> None:
    """Agent and sender together are the address, compared exactly."""
    ids = {
        (await house.send(agent=agent, sender=sender))["session_id"]
        for agent in ("default", "reviewer")
        for sender in ("ann", "Ann", "ann ")
    }
    assert len(ids) == 6


async def test_conversation_send_ok_once_for_a_key(house: Household) -> None:
    """A repeated request returns the same run and waits again; other content conflicts."""
    first = await house.send("one", idempotency_key="k")
    again = await house.ask("one", idempotency_key="k")
    assert again["run_id"] == first["run_id"]
    assert (again["status"], again["output"]) == ("completed", "You said: one")
    assert isinstance(
        await house.refusal_of("conversation.send", content="two", idempotency_key="k"), IdempotencyConflict
    )
    assert len((await house.call("run.list"))["runs"]) == 1


async def test_conversation_send_ok_check_leaves_nothing_behind(idle: Household) -> None:
    """A check returns the result and writes no session, run, event or instructions."""
    head = idle.head()
    would = await idle.send(check=True, wait="settled", stream=True)
    assert would["status"] == "queued"
    assert idle.head() == head
    assert idle.sessions() == 0
    with idle.state.read() as store:
        assert store.count(RUNS) == store.count(CONVERSATIONS) == 0


async def test_conversation_send_ok_streams_from_the_first_event(house: Household) -> None:
    """The stream begins with the input and ends with the run."""
    await house.ask("before")
    sent = await house.send("streamed", stream=True)
    seen = []
    while True:
        method, note = await house.client.next()
        assert note["subscription"] == sent["subscription"]
        if method == "journal.end":
            assert note["reason"] == "settled"
            break
        if method == "journal.event":
            seen.append(note["event"]["type"])
            assert note["event"]["run_id"] == sent["run_id"]
    assert seen[:2] == ["input_received", "run_accepted"]
    assert seen[-2:] == ["message_appended", "run_ended"]


async def test_conversation_send_ok_without_a_stream_when_overloaded(house: Household) -> None:
    """The input is accepted without a subscription: a refusal would cause a second send."""
    for _ in range(MAX_SUBSCRIPTIONS):
        await house.client.request("journal.subscribe")
    sent = await house.send(stream=True)
    assert sent["status"] == "queued"
    assert "subscription" not in sent


async def test_conversation_send_ok_concurrent_first_messages_share_a_session(house: Household) -> None:
    """An address is bound once, whichever message comes first."""
    second = await house.server.connect()
    requests = [
        (client, await client.request("conversation.send", content="x", sender="new"))
        for client in (house.client, second) * 5
    ]
    ids = {(await client.answer(request))["session_id"] for client, request in requests}
    assert len(ids) == 1
    assert (await house.kinds(session_id=ids.pop())).count("session_created") == 1


async def test_conversation_send_ok_not_settled_in_time(house: Household) -> None:
    """After a timeout the answer is the current state, and the run continues."""
    gate = house.gate("slow")
    sent = await house.ask("slow", timeout_s=0.05)
    assert sent["status"] in ("queued", "running")
    assert "output" not in sent
    gate.opened.set()
    waited = await house.call("run.wait", run_id=sent["run_id"])
    assert waited["status"] == "completed"


async def test_conversation_send_ok_in_parts(house: Household) -> None:
    """Several texts are one input."""
    items = [{"kind": "text", "text": "a"}, {"kind": "text", "text": "b"}]
    sent = await house.call("conversation.send", input_items=items, wait="settled")
    assert sent["output"] == "You said: ab"


async def test_conversation_send_ok_a_guest_answers(house: Household) -> None:
    """A guest answers with its own instructions and name, without tools."""
    await house.ask("first")
    sent = await house.ask("And you?", guest="critic")
    request = house.models.requests[-1]
    assert request.instructions == "Criticize."
    assert "guest" in request.situation
    assert request.pinned.tools == []
    assert [message.role for message in request.messages] == ["user", "user", "user"]
    events = await house.events(run_id=sent["run_id"], types=["message_appended"])
    assert events[0]["message"]["agent"] == "critic"
    await house.ask("Thanks.")
    request = house.models.requests[-1]
    assert '<from agent="critic">' in request.messages[-2].items[0].text  # type: ignore[union-attr]
    assert "guests" in request.situation
    own = await house.ask("Me?", guest="default")
    assert "guest" not in (await house.call("run.get", run_id=own["run_id"]))


async def test_a_guest_that_fails(house: Household) -> None:
    """The user's message remains, with or without an answer, and no explanation of the tags is stored."""
    house.models.answers = [lambda request: fails("unauthorized", retryable=False), echo]
    failed = await house.ask("And you?", guest="critic")
    assert failed["status"] == "failed"
    history = await house.call("conversation.history")
    assert [message["message"]["items"][0]["text"] for message in history["messages"]] == ["And you?"]
    await house.ask("Try again.", guest="critic")
    await house.ask("Thanks.")
    texts = [text_of(message.items) for message in house.models.requests[-1].messages]
    assert texts[:2] == ["And you?", "Try again."]
    assert texts[2].startswith('<from agent="critic">')
    assert "You are a guest" in house.models.requests[-2].situation
    stored = str(await house.events(session_id=failed["session_id"]))
    assert "<from" not in stored
    assert "You are a guest" not in stored


async def test_conversation_send_ok_after_the_session_was_ended(house: Household) -> None:
    """An address whose session has ended gets a new session."""
    first = await house.ask()
    await house.call("session.end", session_id=first["session_id"])
    second = await house.ask()
    assert second["session_id"] != first["session_id"]
    view = await house.call("conversation.get")
    assert view["session_id"] == second["session_id"]


async def test_conversation_send_agent_not_found(idle: Household) -> None:
    """An unknown agent or guest is refused by its field, with the names of the covered agents."""
    refusal = await idle.refusal_of("conversation.send", agent="nobody", content="x")
    assert isinstance(refusal, AgentNotFound)
    assert "critic, default, reviewer" in refusal.message
    refusal = await idle.refusal_of("conversation.send", guest="nobody", content="x")
    assert (type(refusal), refusal.field) == (AgentNotFound, "$.params.guest")
    ann = await idle.connect_limited(agents=["default", "gone"])
    refusal = await refusal_of(ann, "conversation.send", agent="gone", content="x")
    assert "reviewer" not in refusal.message


async def test_conversation_send_agent_forbidden(idle: Household) -> None:
    """A token that covers one agent reaches no other, not even as a guest."""
    ann = await idle.connect_limited(agents=["default"])
    for params in ({"agent": "reviewer"}, {"guest": "reviewer"}):
        assert isinstance(await refusal_of(ann, "conversation.send", content="x", **params), AgentForbidden)
    assert (await ann.call("conversation.send", content="x"))["status"] == "queued"


async def test_conversation_send_sender_forbidden(idle: Household) -> None:
    """A token that covers one sender sends as no other, not even as the default one."""
    ann = await idle.connect_limited(senders=["ann"])
    assert isinstance(await refusal_of(ann, "conversation.send", content="x"), SenderForbidden)
    assert (await ann.call("conversation.send", content="x", sender="ann"))["status"] == "queued"


async def test_conversation_send_workspace_forbidden(idle: Household, srv: Path) -> None:
    """The daemon's home is refused; without ``operate`` only the default workspace is allowed."""
    workspaces = Workspaces(f"{srv}/home/workspace", f"{srv}/home")
    (srv / "home" / "workspace").mkdir(parents=True)
    idle.holder.replace(make_runtime(2, models=idle.models, definitions=AGENTS, workspaces=workspaces))
    speaker = await idle.connect_limited(scopes=["read", "converse"])
    for client, path in (
        (idle.client, workspaces.home),
        (idle.client, "../state"),
        (speaker, str(srv)),
        (speaker, f"{workspaces.root}/a"),
    ):
        refusal = await refusal_of(client, "conversation.send", content="x", workspace=path)
        assert (type(refusal), refusal.field) == (WorkspaceForbidden, "$.params.workspace")
    assert idle.sessions() == 0
    for client, path in ((speaker, workspaces.root), (speaker, "."), (idle.client, f"{srv}/a")):
        sent = await client.call("conversation.send", content="x", workspace=path)
        pinned = (await idle.call("run.get", run_id=sent["run_id"]))["pinned"]
        assert pinned["workspace"] == (path if path == f"{srv}/a" else workspaces.root)


async def test_a_conversation_keeps_its_workspace(idle: Household, srv: Path) -> None:
    """It begins in the sender's directory; a requested one counts from then on, unless for a guest."""
    workspaces = Workspaces(f"{srv}/home/workspace", f"{srv}/home")
    (srv / "home" / "workspace").mkdir(parents=True)
    agents = AGENTS | {"own": agent("own", f"workspace: {srv}/a")}
    idle.holder.replace(make_runtime(2, models=idle.models, definitions=agents, workspaces=workspaces))
    (srv / "b").mkdir()

    async def workspace_of(sender: str, **params: Any) -> tuple[str, str]:
        sent = await idle.call("conversation.send", content="x", sender=sender, **params)
        pinned = (await idle.call("run.get", run_id=sent["run_id"]))["pinned"]
        params = {name: value for name, value in params.items() if name == "agent"}
        conversation = await idle.call("conversation.get", sender=sender, **params)
        session = await idle.call("session.get", session_id=sent["session_id"])
        assert session["effective_workspace"] == conversation["workspace"]
        return pinned["workspace"], conversation["workspace"]

    a, b, root = f"{srv}/a", f"{srv}/b", workspaces.root
    assert await workspace_of("ann", cwd=a) == (a, a)
    assert await workspace_of("ann", cwd=b) == (a, a)
    assert await workspace_of("ann", workspace=b, guest="critic") == (b, a)
    assert await workspace_of("ann", workspace=b) == (b, b)
    assert await workspace_of("ann") == (b, b)
    assert await workspace_of("bob", workspace=a) == (a, a)
    for number, cwd in enumerate((workspaces.home, f"{srv}/gone", "a\nb", root, "/")):
        assert await workspace_of(f"eve{number}", cwd=cwd) == (root, root)
    assert await workspace_of("own", cwd=b, agent="own") == (a, a)
    speaker = await idle.connect_limited(scopes=["read", "converse"])
    sent = await speaker.call("conversation.send", content="x", sender="limited", cwd=a)
    assert (await idle.call("run.get", run_id=sent["run_id"]))["pinned"]["workspace"] == root


async def test_the_directory_of_a_sender_is_not_compared(idle: Household, srv: Path) -> None:
    """A send that is repeated from another directory is the same send."""
    send = {"content": "x", "idempotency_key": "k"}
    first = await idle.call("conversation.send", **send, cwd=f"{srv}/a")
    assert await idle.call("conversation.send", **send, cwd=str(srv)) == first


@pytest.mark.parametrize("sender", ["ä" * 65, "a\nb", "\x00", "​"])
async def test_conversation_send_sender_invalid(idle: Household, sender: str) -> None:
    """A sender is 1 to 128 bytes of printable text."""
    refusal = await idle.refusal_of("conversation.send", content="x", sender=sender)
    assert (type(refusal), refusal.field) == (SenderInvalid, "$.params.sender")


async def test_conversation_send_route_not_found(idle: Household) -> None:
    """The refusal names the configured routes."""
    refusal = await idle.refusal_of("conversation.send", content="x", route="nowhere")
    assert isinstance(refusal, RouteNotFound)
    assert "local, offline, unready" in refusal.message
    assert idle.sessions() == 0


async def test_conversation_send_route_not_ready(idle: Household) -> None:
    """The refusal names the reason and can be retried."""
    refusal = await idle.refusal_of("conversation.send", content="x", route="unready")
    assert isinstance(refusal, RouteNotReady)
    assert refusal.retryable
    assert "NOT_SET" in refusal.message


async def test_conversation_send_route_forbidden(house: Household) -> None:
    """A request cannot choose a route outside of the session's credential scope."""
    sent = await house.ask()
    await house.call(
        "session.update", session_id=sent["session_id"], credential_scope={"routes": ["offline"]}
    )
    refusal = await house.refusal_of("conversation.send", content="x", route="local")
    assert isinstance(refusal, RouteForbidden)
    assert refusal.field == "$.params.route"
    assert "it has only offline" in refusal.message
    assert (await house.ask())["status"] == "completed"


async def test_conversation_send_input_too_large(idle: Household) -> None:
    """Input and metadata have limits, counted as JSON."""
    refusal = await idle.refusal_of("conversation.send", content='"' * (MAX_INPUT_BYTES // 2))
    assert isinstance(refusal, InputTooLarge)
    refusal = await idle.refusal_of("conversation.send", content="x", metadata={"a": "b" * 20_000})
    assert (type(refusal), refusal.field) == (InputTooLarge, "$.params.metadata")
    assert (await idle.send("x" * (MAX_INPUT_BYTES - 100)))["status"] == "queued"


async def test_conversation_send_queue_full(idle: Household) -> None:
    """A session takes one run in flight and 256 behind it."""
    for _ in range(MAX_QUEUED_RUNS + 1):
        await idle.client.request("conversation.send", content="x")
    refusal = await idle.refusal_of("conversation.send", content="x")
    assert isinstance(refusal, QueueFull)
    assert refusal.retryable
    await idle.call("conversation.cancel")
    assert (await idle.send())["status"] == "queued"


async def test_conversation_send_not_supported(idle: Household) -> None:
    """Deliveries are not supported yet."""
    refusal = await idle.refusal_of("conversation.send", content="x", reply_targets=[{"kind": "slack"}])
    assert isinstance(refusal, NotSupported)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"content": ""},
        {"input_items": []},
        {"input_items": [{"kind": "text", "text": ""}]},
        {"content": "x", "input_items": [{"kind": "text", "text": "y"}]},
        {"input_items": [{"kind": "asset", "asset_id": "ast_1"}]},
        {"content": "x", "model": "m" * 300},
        {"content": "x", "workspace": "/" * 5000},
    ],
)
async def test_conversation_send_refuses_invalid_content(idle: Household, params: dict[str, object]) -> None:
    """Empty, contradictory and unsupported content is refused."""
    assert isinstance(await idle.refusal_of("conversation.send", **params), InvalidParams)


async def test_conversation_send_contract_invalid(idle: Household) -> None:
    """Every problem of the schema is named, and no session is created."""
    refusal = await idle.refusal_of(
        "conversation.send", content="x", output_contract={"schema": {"type": "object", "oneOf": []}}
    )
    assert (type(refusal), refusal.field) == (ContractInvalid, "$.params.output_contract.schema")
    assert "$.oneOf: not a keyword" in refusal.message
    assert "$.additionalProperties: must be false" in refusal.message
    assert idle.sessions() == 0


async def test_conversation_send_input_contract_violated(idle: Household) -> None:
    """The input contract of the session applies to its conversation."""
    sent = await idle.send()
    contract = {"schema": {"type": "boolean"}}
    await idle.call("session.update", session_id=sent["session_id"], input_contract=contract)
    assert isinstance(await idle.refusal_of("conversation.send", content="maybe"), InputContractViolated)
    assert (await idle.send(" true "))["session_id"] == sent["session_id"]
    events = await idle.events(session_id=sent["session_id"], types=["input_received"])
    assert [event["items"][0]["text"] for event in events] == ["hello", "true"]


async def test_conversation_send_ok_under_its_own_contract(house: Household) -> None:
    """A contract sent with the input comes before the session's, and binds this run only."""
    house.models.answers_to["a number"] = lambda request: says(" 7 ")
    sent = await house.ask("a number", output_contract={"schema": {"type": "integer"}})
    assert (sent["output"], sent["value"], sent["output_kind"]) == ("7", 7, "structured_output")
    session_id = sent["session_id"]
    await house.call("session.update", session_id=session_id, output_contract={"schema": {"type": "null"}})
    again = await house.ask("a number", output_contract={"schema": {"type": "integer"}})
    assert again["value"] == 7
    run = await house.call("run.get", run_id=sent["run_id"])
    assert run["pinned"]["output_contract"]["digest"]


async def create(house: Household, **params: Any) -> Any:
    """Create a session."""
    return await house.call("session.create", **params)


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


async def test_session_send_ok(house: Household) -> None:
    """A session takes input by its id."""
    session_id = (await create(house))["session_id"]
    sent = await house.call("session.send", session_id=session_id, content="one", wait="settled")
    assert (sent["session_id"], sent["output"]) == (session_id, "You said: one")
    bound = await house.ask("two", sender="ann")
    sent = await house.call("session.send", session_id=bound["session_id"], content="x", sender="ann")
    assert sent["session_id"] == bound["session_id"]


async def test_session_send_session_not_found(idle: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    refusal = await idle.refusal_of("session.send", session_id="ses_none", content="x")
    assert isinstance(refusal, SessionNotFound)
    sent = await idle.send(sender="bob")
    ann = await idle.connect_limited(senders=["ann"])
    refusal = await refusal_of(ann, "session.send", session_id=sent["session_id"], content="x", sender="ann")
    assert isinstance(refusal, SessionNotFound)


@pytest.mark.parametrize("name", ["gone", "file", "file/below"])
async def test_conversation_send_workspace_missing(idle: Household, srv: Path, name: str) -> None:
    """A workspace that does not exist or is a file is refused by its name; nothing is created."""
    (srv / "file").touch()
    refusal = await idle.refusal_of("conversation.send", content="x", workspace=f"{srv}/{name}")
    assert (type(refusal), refusal.field) == (WorkspaceMissing, "$.params.workspace")
    assert f"the workspace {srv}/{name} " in refusal.message
    assert idle.sessions() == 0
    assert not (srv / "gone").exists()


async def test_session_send_workspace_forbidden(idle: Household, srv: Path) -> None:
    """The stored workspace of a child is refused once it is outside of its parent's."""
    parent = (await create(idle, workspace=f"{srv}/a"))["session_id"]
    child = (await create(idle, parent_session_id=parent, workspace=f"{srv}/a/b"))["session_id"]
    assert (await idle.call("session.send", session_id=child, content="x"))["status"] == "queued"
    await idle.call("session.update", session_id=parent, workspace=f"{srv}/c")
    refusal = await idle.refusal_of("session.send", session_id=child, content="x")
    assert isinstance(refusal, WorkspaceForbidden)
    assert f"{srv}/a/b is not within {srv}/c" in refusal.message
    await idle.call("session.update", session_id=child, workspace=None)
    assert (await idle.call("session.send", session_id=child, content="x"))["status"] == "queued"


async def test_session_send_session_already_ended(idle: Household) -> None:
    """An ended session takes no input."""
    await create(idle, session_id="s")
    await idle.call("session.end", session_id="s")
    assert isinstance(await idle.refusal_of("session.send", session_id="s", content="x"), SessionAlreadyEnded)


async def test_session_send_agent_not_found(idle: Household) -> None:
    """The session's agent is no longer defined; the session stays."""
    await create(idle, session_id="s", agent="critic")
    remaining = {name: agent for name, agent in AGENTS.items() if name != "critic"}
    idle.holder.replace(make_runtime(2, models=idle.models, definitions=remaining))
    assert isinstance(await idle.refusal_of("session.send", session_id="s", content="x"), AgentNotFound)


async def test_session_send_sender_forbidden(idle: Household) -> None:
    """The token covers another sender, and an absent sender is another sender."""
    sent = await idle.send(sender="ann")
    ann = await idle.connect_limited(senders=["ann"])
    for params in ({}, {"sender": "bob"}):
        refusal = await refusal_of(ann, "session.send", session_id=sent["session_id"], content="x", **params)
        assert isinstance(refusal, SenderForbidden)


async def test_session_send_sender_invalid(idle: Household) -> None:
    """An impossible sender is refused."""
    await create(idle, session_id="s")
    refusal = await idle.refusal_of("session.send", session_id="s", content="x", sender="a\nb")
    assert isinstance(refusal, SenderInvalid)


async def test_session_send_route_not_found(idle: Household) -> None:
    """The requested route does not exist, or the session's route is gone."""
    await create(idle, session_id="s", route="local")
    refusal = await idle.refusal_of("session.send", session_id="s", content="x", route="nowhere")
    assert isinstance(refusal, RouteNotFound)
    idle.holder.replace(make_runtime(2, models=idle.models, definitions=AGENTS))
    assert isinstance(await idle.refusal_of("session.send", session_id="s", content="x"), RouteNotFound)


async def test_session_send_route_not_ready(idle: Household) -> None:
    """The session's route is not ready."""
    await create(idle, session_id="s", route="unready")
    assert isinstance(await idle.refusal_of("session.send", session_id="s", content="x"), RouteNotReady)


async def test_session_send_route_forbidden(idle: Household) -> None:
    """A child has no other routes than its parent has now."""
    await create(idle, session_id="p", credential_scope={"routes": ["offline", "local"]})
    await create(idle, session_id="s", parent_session_id="p", route="local")
    await idle.call("session.send", session_id="s", content="x")
    await idle.call("session.update", session_id="p", credential_scope={"routes": ["offline"]})
    refusal = await idle.refusal_of("session.send", session_id="s", content="x")
    assert isinstance(refusal, RouteForbidden)
    assert refusal.field is None


async def test_session_send_input_too_large(idle: Household) -> None:
    """The input has a limit."""
    await create(idle, session_id="s")
    refusal = await idle.refusal_of("session.send", session_id="s", content="x" * (MAX_INPUT_BYTES + 1))
    assert isinstance(refusal, InputTooLarge)


async def test_session_send_queue_full(idle: Household) -> None:
    """The queue of a session has a limit."""
    await create(idle, session_id="s")
    for _ in range(MAX_QUEUED_RUNS + 1):
        await idle.client.request("session.send", session_id="s", content="x")
    assert isinstance(await idle.refusal_of("session.send", session_id="s", content="x"), QueueFull)


async def test_session_send_ok_under_an_input_contract(house: Household) -> None:
    """The input is stored as canonical JSON."""
    session_id = (await create(house, input_contract={"schema": WORD}))["session_id"]
    sent = await house.call("session.send", session_id=session_id, content='{ "word": "hi" }', wait="settled")
    assert sent["output"] == 'You said: {"word":"hi"}'


async def test_session_send_input_contract_violated(idle: Household) -> None:
    """The refusal names the violation, and no run is accepted."""
    session_id = (await create(idle, input_contract={"schema": WORD}))["session_id"]
    refusal = await idle.refusal_of("session.send", session_id=session_id, content='{"word": 1}')
    assert (type(refusal), refusal.field) == (InputContractViolated, "$.params.content")
    assert "$.word: 1 is not of type" in refusal.message
    assert (await idle.call("run.list", session_id=session_id))["runs"] == []


async def test_session_send_contract_invalid(idle: Household) -> None:
    """An invalid output contract is refused, and no run is accepted."""
    session_id = (await create(idle))["session_id"]
    await require_contract_invalid(idle, "session.send", session_id=session_id, content="x")
    assert (await idle.call("run.list", session_id=session_id))["runs"] == []


# Origins.


async def test_an_input_has_an_origin(house: Household) -> None:
    """It is journaled and shown, and the session's later runs have read it."""
    sent = await house.ask("ring", origin="event", source="doorbell")
    (event,) = await house.events(run_id=sent["run_id"], types=["input_received"])
    assert (event["origin"], event["source"]) == ("event", "doorbell")
    assert text_of(house.models.requests[-1].messages[0].items) == (
        '<data origin="event" source="doorbell">\nring\n</data>'
    )
    assert "Texts in <data> tags" in house.models.requests[-1].situation
    assert (await house.call("run.get", run_id=sent["run_id"]))["origins"] == ["event"]
    again = await house.ask("and you?")
    assert (await house.call("run.get", run_id=again["run_id"]))["origins"] == ["person"]
    session = await house.call("session.get", session_id=sent["session_id"])
    assert session["origins"] == ["person", "event"]


async def test_a_run_that_never_started_has_read_nothing(idle: Household) -> None:
    """Its input never enters the transcript."""
    sent = await idle.send("ring", origin="event")
    await idle.call("run.cancel", run_id=sent["run_id"])
    assert "origins" not in await idle.call("session.get", session_id=sent["session_id"])


@pytest.mark.parametrize(
    "params",
    [
        {"origin": "agent"},
        {"origin": "mailbox"},
        {"origin": "tool_output"},
        {"origin": "owner"},
        {"origin": None, "source": "a\nb"},
        {"source": "ä" * 129},
        {"source": 7},
    ],
)
async def test_an_origin_is_one_that_a_client_may_declare(idle: Household, params: Any) -> None:
    """The daemon alone writes inputs of agents, mailboxes and tools; a source is printable and short."""
    refusal = await idle.refusal_of("conversation.send", content="x", **params)
    assert isinstance(refusal, InvalidParams)
    assert idle.sessions() == 0


async def test_conversation_send_input_origin_forbidden(idle: Household) -> None:
    """A token that fixes the origin sends nothing as a person."""
    bridge = await idle.connect_limited(origin="connector")
    for origin in ("person", "program", "event"):
        refusal = await refusal_of(bridge, "conversation.send", content="x", origin=origin)
        assert (type(refusal), refusal.field) == (InputOriginForbidden, "$.params.origin")
    await bridge.call("conversation.send", content="x", origin="connector")
    await bridge.call("conversation.send", content="x")
    events = await idle.events(types=["input_received"])
    assert [event["origin"] for event in events] == ["connector", "connector"]


async def test_session_send_input_origin_forbidden(idle: Household) -> None:
    """The same by session."""
    await create(idle, session_id="s")
    bridge = await idle.connect_limited(origin="schedule")
    refusal = await refusal_of(bridge, "session.send", session_id="s", content="x", origin="person")
    assert isinstance(refusal, InputOriginForbidden)
