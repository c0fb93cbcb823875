"""Conversations over the socket: every outcome of every method."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.store.tables import CONVERSATIONS, RUNS
from protocol.errors.conversation import ConversationNotFound, SenderForbidden, SenderInvalid
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.route import RouteNotFound, RouteNotReady
from protocol.errors.rpc import IdempotencyConflict, InvalidParams, NotSupported
from protocol.errors.session import (
    ContractInvalid,
    InputContractViolated,
    InputTooLarge,
    QueueFull,
    SessionBusy,
    WorkspaceForbidden,
)
from protocol.errors.token import ScopeMissing
from protocol.limits.rpc import MAX_SUBSCRIPTIONS
from protocol.limits.session import MAX_INPUT_BYTES, MAX_QUEUED_RUNS
from tests.support.desk import says
from tests.support.household import Household, household, pages, refused


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """A daemon whose worker is at work."""
    async with household(tmp_path) as house:
        yield house


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Household]:
    """A daemon whose runs stay queued, with tokens."""
    async with household(tmp_path, work=False, tcp=True) as house:
        yield house


# conversation.send


async def test_conversation_send_ok(house: Household) -> None:
    """Accepted when it is on the disk; whoever sends to the same pair again resumes."""
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
    """The same key gives the same run, and waiting is done anew; another content is a conflict."""
    first = await house.send("one", idempotency_key="k")
    again = await house.ask("one", idempotency_key="k")
    assert again["run_id"] == first["run_id"]
    assert (again["status"], again["output"]) == ("completed", "You said: one")
    assert isinstance(
        await house.refused("conversation.send", content="two", idempotency_key="k"), IdempotencyConflict
    )
    assert len((await house.call("run.list"))["runs"]) == 1


async def test_conversation_send_ok_check_leaves_nothing_behind(idle: Household) -> None:
    """It says what would come of it: no session, no run, no event, no instructions."""
    head = idle.head()
    would = await idle.send(check=True, wait="settled", stream=True)
    assert would["status"] == "queued"
    assert idle.head() == head
    assert idle.sessions() == 0
    with idle.state.read() as store:
        assert store.count(RUNS) == store.count(CONVERSATIONS) == 0


async def test_conversation_send_ok_streams_from_the_first_event(house: Household) -> None:
    """The input is the first that is streamed; after the end of the run the stream ends."""
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


async def test_conversation_send_ok_without_a_stream_where_none_is_left(house: Household) -> None:
    """The input is accepted all the same, and says so: a refusal would have it sent twice."""
    for _ in range(MAX_SUBSCRIPTIONS):
        await house.client.request("journal.subscribe")
    sent = await house.send(stream=True)
    assert sent["status"] == "queued"
    assert "subscription" not in sent


async def test_conversation_send_ok_two_who_begin_at_once_share_the_session(house: Household) -> None:
    """The pair is bound once, whoever comes first."""
    other = await house.server.connect()
    requests = [
        (client, await client.request("conversation.send", content="x", sender="new"))
        for client in (house.client, other) * 5
    ]
    ids = {(await client.answer(request))["session_id"] for client, request in requests}
    assert len(ids) == 1
    assert (await house.kinds(session_id=ids.pop())).count("session_created") == 1


async def test_conversation_send_ok_not_settled_in_time(house: Household) -> None:
    """When the time is over the answer is the present state; the run goes on."""
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
    """Another agent speaks in the conversation, by its own instructions and name, without tools."""
    await house.ask("first")
    sent = await house.ask("And you?", guest="critic")
    asked = house.models.asked[-1]
    assert asked.instructions.startswith("Criticise.")
    assert "guest" in asked.instructions
    assert asked.pinned.tools == []
    assert [message.role for message in asked.messages] == ["user", "user", "user"]
    events = await house.events(run_id=sent["run_id"], types=["message_appended"])
    assert events[0]["message"]["agent"] == "critic"
    await house.ask("Thanks.")
    asked = house.models.asked[-1]
    assert '<from agent="critic">' in asked.messages[-2].items[0].text  # type: ignore[union-attr]
    assert "guests" in asked.instructions
    own = await house.ask("Me?", guest="default")
    assert "guest" not in (await house.call("run.get", run_id=own["run_id"]))


async def test_conversation_send_ok_after_the_session_was_ended(house: Household) -> None:
    """The address then means a new session."""
    first = await house.ask()
    await house.call("session.end", session_id=first["session_id"])
    second = await house.ask()
    assert second["session_id"] != first["session_id"]
    found = await house.call("conversation.get")
    assert found["session_id"] == second["session_id"]


async def test_conversation_send_agent_not_found(idle: Household) -> None:
    """The agent, or the guest, that nobody defined; the refusal names those there are, and the field."""
    refusal = await idle.refused("conversation.send", agent="nobody", content="x")
    assert isinstance(refusal, AgentNotFound)
    assert "critic, default, reviewer" in refusal.message
    refusal = await idle.refused("conversation.send", guest="nobody", content="x")
    assert (type(refusal), refusal.field) == (AgentNotFound, "$.params.guest")
    ann = await idle.limited(agents=["default", "gone"])
    refusal = await refused(ann, "conversation.send", agent="gone", content="x")
    assert "reviewer" not in refusal.message


async def test_conversation_send_agent_forbidden(idle: Household) -> None:
    """A token that covers one agent speaks to no other, not even as a guest."""
    ann = await idle.limited(agents=["default"])
    for params in ({"agent": "reviewer"}, {"guest": "reviewer"}):
        assert isinstance(await refused(ann, "conversation.send", content="x", **params), AgentForbidden)
    assert (await ann.call("conversation.send", content="x"))["status"] == "queued"


async def test_conversation_send_sender_forbidden(idle: Household) -> None:
    """A token that covers one sender speaks as no other, not even as the default one."""
    ann = await idle.limited(senders=["ann"])
    assert isinstance(await refused(ann, "conversation.send", content="x"), SenderForbidden)
    assert (await ann.call("conversation.send", content="x", sender="ann"))["status"] == "queued"


async def test_conversation_send_workspace_forbidden(idle: Household) -> None:
    """The daemon's own home to everybody; any but the default to who is no operator."""
    workspaces = idle.holder.current().workspaces
    speaker = await idle.limited(scopes=["read", "converse"])
    for client, path in (
        (idle.client, workspaces.home),
        (idle.client, "../state"),
        (speaker, "/srv"),
        (speaker, f"{workspaces.root}/a"),
    ):
        refusal = await refused(client, "conversation.send", content="x", workspace=path)
        assert (type(refusal), refusal.field) == (WorkspaceForbidden, "$.params.workspace")
    assert idle.sessions() == 0
    for client, path in ((speaker, workspaces.root), (speaker, "."), (idle.client, "/srv")):
        sent = await client.call("conversation.send", content="x", workspace=path)
        pinned = (await idle.call("run.get", run_id=sent["run_id"]))["pinned"]
        assert pinned["workspace"] == ("/srv" if path == "/srv" else workspaces.root)


@pytest.mark.parametrize("sender", ["ä" * 65, "a\nb", "\x00", "​"])
async def test_conversation_send_sender_invalid(idle: Household, sender: str) -> None:
    """A sender is 1 to 128 bytes of printable text."""
    refusal = await idle.refused("conversation.send", content="x", sender=sender)
    assert (type(refusal), refusal.field) == (SenderInvalid, "$.params.sender")


async def test_conversation_send_route_not_found(idle: Household) -> None:
    """A route that is not configured is named with those there are."""
    refusal = await idle.refused("conversation.send", content="x", route="nowhere")
    assert isinstance(refusal, RouteNotFound)
    assert "local, offline, unready" in refusal.message
    assert idle.sessions() == 0


async def test_conversation_send_route_not_ready(idle: Household) -> None:
    """A route that cannot be used now says why; trying again may help."""
    refusal = await idle.refused("conversation.send", content="x", route="unready")
    assert isinstance(refusal, RouteNotReady)
    assert refusal.retryable
    assert "NOT_SET" in refusal.message


async def test_conversation_send_input_too_large(idle: Household) -> None:
    """Input and metadata have limits, counted as JSON."""
    refusal = await idle.refused("conversation.send", content='"' * (MAX_INPUT_BYTES // 2))
    assert isinstance(refusal, InputTooLarge)
    refusal = await idle.refused("conversation.send", content="x", metadata={"a": "b" * 20_000})
    assert (type(refusal), refusal.field) == (InputTooLarge, "$.params.metadata")
    assert (await idle.send("x" * (MAX_INPUT_BYTES - 100)))["status"] == "queued"


async def test_conversation_send_queue_full(idle: Household) -> None:
    """One in flight and 256 behind it; the next is refused until one has ended."""
    for _ in range(MAX_QUEUED_RUNS + 1):
        await idle.client.request("conversation.send", content="x")
    refusal = await idle.refused("conversation.send", content="x")
    assert isinstance(refusal, QueueFull)
    assert refusal.retryable
    await idle.call("conversation.cancel")
    assert (await idle.send())["status"] == "queued"


async def test_conversation_send_not_supported(idle: Household) -> None:
    """Deliveries do not exist yet."""
    refusal = await idle.refused("conversation.send", content="x", reply_targets=[{"kind": "slack"}])
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
async def test_conversation_send_refuses_what_says_nothing(
    idle: Household, params: dict[str, object]
) -> None:
    """Nothing, both ways at once, or what this version cannot take."""
    assert isinstance(await idle.refused("conversation.send", **params), InvalidParams)


# conversation.get, .list, .history


async def test_conversation_get_ok(idle: Household) -> None:
    """The session that the address means, with its record."""
    sent = await idle.send(agent="reviewer", sender="ann")
    found = await idle.call("conversation.get", agent="reviewer", sender="ann")
    assert found["session_id"] == sent["session_id"] == found["session"]["session_id"]
    assert found["session"]["open_runs"] == [sent["run_id"]]
    assert found["session"]["scope"] == {"tools": ["read_file", "grep"]}


ADDRESSED = ("conversation.get", "conversation.history", "conversation.cancel", "conversation.reset")


async def no_conversation(house: Household, method: str) -> None:
    """The method says so, for what could be an address and for what could not."""
    for agent in ("default", "nobody", "a\x00b", "ä" * 128):
        refusal = await house.refused(method, agent=agent, sender="nobody")
        assert isinstance(refusal, ConversationNotFound)


async def limited_to_ann(house: Household, method: str) -> None:
    """A token that covers (default, ann) reaches no other pair by the method."""
    await house.send(agent="reviewer", sender="ann")
    await house.send(sender="bob")
    ann = await house.limited(agents=["default"], senders=["ann"])
    assert isinstance(await refused(ann, method, agent="reviewer", sender="ann"), AgentForbidden)
    assert isinstance(await refused(ann, method, sender="bob"), SenderForbidden)


async def invalid_sender(house: Household, method: str) -> None:
    """What no sender can be is refused before it is looked for."""
    assert isinstance(await house.refused(method, sender="a\nb"), SenderInvalid)


async def test_conversation_get_conversation_not_found(idle: Household) -> None:
    """Nobody has spoken there yet."""
    await no_conversation(idle, "conversation.get")


async def test_conversation_get_agent_forbidden(idle: Household) -> None:
    """The token covers another agent."""
    await limited_to_ann(idle, "conversation.get")


async def test_conversation_get_sender_forbidden(idle: Household) -> None:
    """The token covers another sender."""
    await limited_to_ann(idle, "conversation.get")


async def test_conversation_get_sender_invalid(idle: Household) -> None:
    """No sender is called so."""
    await invalid_sender(idle, "conversation.get")


async def test_conversation_list_ok(idle: Household) -> None:
    """By agent and sender, page by page, filtered by either."""
    senders = ["ann", "bob", "zoë", "Ann"]
    for agent in ("default", "critic"):
        for sender in senders:
            await idle.send(agent=agent, sender=sender)
    expected = [(agent, sender) for agent in ("critic", "default") for sender in sorted(senders)]
    for limit in (1, 3, 50):
        rows = await pages(idle.client, "conversation.list", "conversations", limit=limit)
        assert [(row["agent"], row["sender"]) for row in rows] == expected
    rows = await pages(idle.client, "conversation.list", "conversations", limit=1, agent="default")
    assert [row["sender"] for row in rows] == sorted(senders)
    rows = await pages(idle.client, "conversation.list", "conversations", limit=1, sender="zoë")
    assert [row["agent"] for row in rows] == ["critic", "default"]
    assert await idle.call("conversation.list", agent="nobody\x00") == {"conversations": [], "next": None}
    for after in ("x", "a\x00/b", "/", "a/\x01", "a\nb"):
        assert isinstance(await idle.refused("conversation.list", after=after), InvalidParams)


async def test_conversation_list_ok_shows_a_limited_caller_its_own(idle: Household) -> None:
    """Others' conversations are neither listed nor told by where a page ends."""
    for agent in ("critic", "default", "reviewer"):
        for sender in ("ann", "bob", "eve"):
            await idle.send(agent=agent, sender=sender)
    ann = await idle.limited(agents=["default", "reviewer"], senders=["eve", "ann"])
    found = [
        (row["agent"], row["sender"])
        for row in await pages(ann, "conversation.list", "conversations", limit=1)
    ]
    assert found == [("default", "ann"), ("default", "eve"), ("reviewer", "ann"), ("reviewer", "eve")]
    by_sender = await idle.limited(senders=["bob"])
    rows = await pages(by_sender, "conversation.list", "conversations", limit=1)
    assert [row["agent"] for row in rows] == ["critic", "default", "reviewer"]
    assert (await ann.call("conversation.list", agent="critic"))["conversations"] == []
    assert (await ann.call("conversation.list", sender="bob"))["conversations"] == []


async def test_conversation_history_ok(house: Household) -> None:
    """The messages of the address, from either end, page by page."""
    for text in ("one", "two"):
        await house.ask(text)
    texts = ["one", "You said: one", "two", "You said: two"]
    for order, expected in (("oldest", texts), ("newest", texts[::-1])):
        for limit in (1, 3, 50):
            rows = await pages(house.client, "conversation.history", "messages", order=order, limit=limit)
            assert [row["message"]["items"][0]["text"] for row in rows] == expected


async def test_conversation_history_conversation_not_found(idle: Household) -> None:
    """Nobody has spoken there yet."""
    await no_conversation(idle, "conversation.history")


async def test_conversation_history_agent_forbidden(idle: Household) -> None:
    """The token covers another agent."""
    await limited_to_ann(idle, "conversation.history")


async def test_conversation_history_sender_forbidden(idle: Household) -> None:
    """The token covers another sender."""
    await limited_to_ann(idle, "conversation.history")


async def test_conversation_history_sender_invalid(idle: Household) -> None:
    """No sender is called so."""
    await invalid_sender(idle, "conversation.history")


# conversation.cancel


async def test_conversation_cancel_ok(house: Household) -> None:
    """The run in flight has stopped when it answers; what is queued goes on; the conversation stays."""
    gate = house.gate("slow")
    first, second = await house.send("slow"), await house.send("next")
    await gate.reached.wait()
    answer = await house.call("conversation.cancel", reason="enough")
    assert answer == {"cancelled": True, "session_id": first["session_id"], "run_id": first["run_id"]}
    run = await house.call("run.get", run_id=first["run_id"])
    assert (run["status"], run["output"]) == ("cancelled", "so far")
    asked = await house.events(run_id=first["run_id"], types=["cancel_requested"])
    assert asked[0]["reason"] == "enough"
    assert (await house.call("run.wait", run_id=second["run_id"]))["status"] == "completed"
    nothing = await house.call("conversation.cancel")
    assert nothing == {"cancelled": False, "session_id": first["session_id"]}


async def test_conversation_cancel_conversation_not_found(idle: Household) -> None:
    """Nobody has spoken there yet."""
    await no_conversation(idle, "conversation.cancel")


async def test_conversation_cancel_agent_forbidden(idle: Household) -> None:
    """The token covers another agent."""
    await limited_to_ann(idle, "conversation.cancel")


async def test_conversation_cancel_sender_forbidden(idle: Household) -> None:
    """The token covers another sender."""
    await limited_to_ann(idle, "conversation.cancel")


async def test_conversation_cancel_sender_invalid(idle: Household) -> None:
    """No sender is called so."""
    await invalid_sender(idle, "conversation.cancel")


# conversation.reset


async def test_conversation_reset_ok(house: Household) -> None:
    """The next send starts a new session; the old one stays readable and is not bound any more."""
    first = await house.ask("one")
    reset = await house.call("conversation.reset")
    assert reset == {"agent": "default", "sender": "user", "session_id": first["session_id"]}
    assert isinstance(await house.refused("conversation.get"), ConversationNotFound)
    second = await house.ask("two")
    assert second["session_id"] != first["session_id"]
    assert [message.role for message in house.models.asked[-1].messages] == ["user"]
    history = await house.call("session.history", session_id=first["session_id"])
    assert len(history["messages"]) == 2
    assert (await house.kinds(session_id=first["session_id"]))[-1] == "conversation_unbound"


CLOSED = {"type": "object", "additionalProperties": False}


@pytest.mark.parametrize(
    "bound",
    [
        {"permission_mode": "plan"},
        {"scope": {"tools": []}},
        {"input_contract": {"schema": {"type": "object", "additionalProperties": False}}},
    ],
    ids=lambda bound: next(iter(bound)),
)
async def test_conversation_reset_scope_missing(idle: Household, bound: dict[str, Any]) -> None:
    """Whoever may only converse does not shed what an operator set: a new session would not have it."""
    sent = await idle.send()
    await idle.call("run.cancel", run_id=sent["run_id"])
    await idle.call("session.update", session_id=sent["session_id"], **bound)
    speaker = await idle.limited(scopes=["converse"])
    refusal = await refused(speaker, "conversation.reset")
    assert (type(refusal), refusal.hint) == (ScopeMissing, "operate")
    await idle.call("conversation.reset")


async def test_conversation_reset_session_busy(idle: Household) -> None:
    """While runs are open their answers would go unseen."""
    await idle.send()
    refusal = await idle.refused("conversation.reset")
    assert isinstance(refusal, SessionBusy)
    assert (await idle.call("conversation.get"))["agent"] == "default"


async def test_conversation_reset_conversation_not_found(idle: Household) -> None:
    """Nobody has spoken there yet."""
    await no_conversation(idle, "conversation.reset")


async def test_conversation_reset_agent_forbidden(idle: Household) -> None:
    """The token covers another agent."""
    await limited_to_ann(idle, "conversation.reset")


async def test_conversation_reset_sender_forbidden(idle: Household) -> None:
    """The token covers another sender."""
    await limited_to_ann(idle, "conversation.reset")


async def test_conversation_reset_sender_invalid(idle: Household) -> None:
    """No sender is called so."""
    await invalid_sender(idle, "conversation.reset")


async def test_conversation_send_contract_invalid(idle: Household) -> None:
    """Every problem of the schema is named, and no session is made."""
    refusal = await idle.refused(
        "conversation.send", content="x", output_contract={"schema": {"type": "object", "oneOf": []}}
    )
    assert (type(refusal), refusal.field) == (ContractInvalid, "$.params.output_contract.schema")
    assert "$.oneOf: not a keyword" in refusal.message
    assert "$.additionalProperties: must be false" in refusal.message
    assert idle.sessions() == 0


async def test_conversation_send_input_contract_violated(idle: Household) -> None:
    """A conversation is bound as its session is."""
    sent = await idle.send()
    contract = {"schema": {"type": "boolean"}}
    await idle.call("session.update", session_id=sent["session_id"], input_contract=contract)
    assert isinstance(await idle.refused("conversation.send", content="maybe"), InputContractViolated)
    assert (await idle.send(" true "))["session_id"] == sent["session_id"]
    events = await idle.events(session_id=sent["session_id"], types=["input_received"])
    assert [each["items"][0]["text"] for each in events] == ["hello", "true"]


async def test_conversation_send_ok_under_its_own_contract(house: Household) -> None:
    """What it is sent with binds its run, before what binds its session; the others are as before."""
    house.models.to["a number"] = lambda request: says(" 7 ")
    sent = await house.ask("a number", output_contract={"schema": {"type": "integer"}})
    assert (sent["output"], sent["value"], sent["output_kind"]) == ("7", 7, "structured_output")
    session_id = sent["session_id"]
    await house.call("session.update", session_id=session_id, output_contract={"schema": {"type": "null"}})
    again = await house.ask("a number", output_contract={"schema": {"type": "integer"}})
    assert again["value"] == 7
    run = await house.call("run.get", run_id=sent["run_id"])
    assert run["pinned"]["output_contract"]["digest"]
