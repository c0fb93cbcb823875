"""Conversations over the socket: every outcome of get, list and reset."""

from typing import Any

import pytest

from kheishd.records.doctor import examine_whole
from protocol.errors.conversation import ConversationNotFound, SenderForbidden, SenderInvalid
from protocol.errors.definition import AgentForbidden
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import (
    SessionAlreadyEnded,
    SessionBusy,
    SessionNotFound,
)
from protocol.errors.token import ScopeMissing
from tests.support.household import (
    Household,
    pages,
    refusal_of,
    require_conversation_not_found,
    require_limited,
    require_sender_invalid,
)

# conversation.get, .list


async def test_conversation_get_ok(idle: Household) -> None:
    """An address returns its session with the record."""
    sent = await idle.send(agent="reviewer", sender="ann")
    view = await idle.call("conversation.get", agent="reviewer", sender="ann")
    assert view["session_id"] == sent["session_id"] == view["session"]["session_id"]
    assert view["session"]["open_runs"] == [sent["run_id"]]
    assert view["session"]["scope"] == {"tools": ["read_file", "grep"]}


async def test_conversation_get_conversation_not_found(idle: Household) -> None:
    """An address without a conversation is refused."""
    await require_conversation_not_found(idle, "conversation.get")


async def test_conversation_get_agent_forbidden(idle: Household) -> None:
    """The caller's token does not cover the agent."""
    await require_limited(idle, "conversation.get")


async def test_conversation_get_sender_forbidden(idle: Household) -> None:
    """The caller's token does not cover the sender."""
    await require_limited(idle, "conversation.get")


async def test_conversation_get_sender_invalid(idle: Household) -> None:
    """An impossible sender is refused."""
    await require_sender_invalid(idle, "conversation.get")


async def test_conversation_list_ok(idle: Household) -> None:
    """Conversations are listed by agent and sender, in pages, filtered by either."""
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
    for token in ("x", "a\x00/b", "/", "a/\x01", "a\nb"):
        assert isinstance(await idle.refusal_of("conversation.list", after=token), InvalidParams)


async def test_conversation_list_ok_shows_a_limited_caller_its_own(idle: Household) -> None:
    """Neither rows nor page tokens name conversations of others."""
    for agent in ("critic", "default", "reviewer"):
        for sender in ("ann", "bob", "eve"):
            await idle.send(agent=agent, sender=sender)
    ann = await idle.connect_limited(agents=["default", "reviewer"], senders=["eve", "ann"])
    addresses = [
        (row["agent"], row["sender"])
        for row in await pages(ann, "conversation.list", "conversations", limit=1)
    ]
    assert addresses == [("default", "ann"), ("default", "eve"), ("reviewer", "ann"), ("reviewer", "eve")]
    by_sender = await idle.connect_limited(senders=["bob"])
    rows = await pages(by_sender, "conversation.list", "conversations", limit=1)
    assert [row["agent"] for row in rows] == ["critic", "default", "reviewer"]
    assert (await ann.call("conversation.list", agent="critic"))["conversations"] == []
    assert (await ann.call("conversation.list", sender="bob"))["conversations"] == []


# conversation.reset


async def test_conversation_reset_ok(house: Household) -> None:
    """The next send starts a new session; the old one stays readable and is no longer bound."""
    first = await house.ask("one")
    reset = await house.call("conversation.reset")
    assert reset == {"agent": "default", "sender": "user", "session_id": first["session_id"]}
    assert isinstance(await house.refusal_of("conversation.get"), ConversationNotFound)
    second = await house.ask("two")
    assert second["session_id"] != first["session_id"]
    assert [message.role for message in house.models.requests[-1].messages] == ["user"]
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
    """A caller with ``converse`` only cannot shed bounds that an operator set."""
    sent = await idle.send()
    await idle.call("run.cancel", run_id=sent["run_id"])
    await idle.call("session.update", session_id=sent["session_id"], **bound)
    speaker = await idle.connect_limited(scopes=["converse"])
    refusal = await refusal_of(speaker, "conversation.reset")
    assert (type(refusal), refusal.hint) == (ScopeMissing, "operate")
    await idle.call("conversation.reset")


async def test_conversation_reset_session_busy(idle: Household) -> None:
    """A conversation with open runs is not reset."""
    await idle.send()
    refusal = await idle.refusal_of("conversation.reset")
    assert isinstance(refusal, SessionBusy)
    assert (await idle.call("conversation.get"))["agent"] == "default"


async def test_conversation_reset_conversation_not_found(idle: Household) -> None:
    """An address without a conversation is refused."""
    await require_conversation_not_found(idle, "conversation.reset")


async def test_conversation_reset_agent_forbidden(idle: Household) -> None:
    """The caller's token does not cover the agent."""
    await require_limited(idle, "conversation.reset")


async def test_conversation_reset_sender_forbidden(idle: Household) -> None:
    """The caller's token does not cover the sender."""
    await require_limited(idle, "conversation.reset")


async def test_conversation_reset_sender_invalid(idle: Household) -> None:
    """An impossible sender is refused."""
    await require_sender_invalid(idle, "conversation.reset")


# conversation.resume


async def test_conversation_resume_ok(house: Household) -> None:
    """An address continues an earlier session or a fork; doing it again changes nothing."""
    first = (await house.ask("one"))["session_id"]
    await house.call("conversation.reset")
    second = (await house.ask("two"))["session_id"]
    resumed = await house.call("conversation.resume", session_id=first)
    assert (resumed["session_id"], resumed["session"]["session_id"]) == (first, first)
    head = house.head()
    await house.call("conversation.resume", session_id=first)
    assert house.head() == head
    assert (await house.ask("three"))["session_id"] == first
    fork = (await house.call("session.fork", session_id=second))["session_id"]
    await house.call("conversation.resume", session_id=fork)
    assert (await house.ask("four"))["session_id"] == fork
    assert await house.kinds(session_id=first, types=["conversation_bound", "conversation_unbound"]) == [
        "conversation_bound",
        "conversation_unbound",
        "conversation_bound",
        "conversation_unbound",
    ]
    assert examine_whole(house.state.read, deep=True).findings == []


async def test_conversation_resume_session_not_found(house: Household) -> None:
    """A session of another pair, of no sender or below another one is none of the address."""
    other = (await house.ask("one", sender="bob"))["session_id"]
    await house.call("session.create", session_id="s")
    for session_id in ("ses_none", other, "s"):
        refusal = await house.refusal_of("conversation.resume", session_id=session_id)
        assert (type(refusal), refusal.field) == (SessionNotFound, "$.params.session_id")


async def test_conversation_resume_session_already_ended(house: Household) -> None:
    """An ended session takes no more input."""
    session_id = (await house.ask("one"))["session_id"]
    await house.call("session.end", session_id=session_id)
    refusal = await house.refusal_of("conversation.resume", session_id=session_id)
    assert isinstance(refusal, SessionAlreadyEnded)


async def test_conversation_resume_session_busy(idle: Household) -> None:
    """While the current session has open runs, their answers would go unseen."""
    first = (await idle.send("one"))["session_id"]
    fork = (await idle.call("session.fork", session_id=first))["session_id"]
    assert isinstance(await idle.refusal_of("conversation.resume", session_id=fork), SessionBusy)


async def test_conversation_resume_scope_missing(idle: Household) -> None:
    """Without ``operate``, no bounds are shed that an operator set."""
    first = await idle.send("one")
    await idle.call("run.cancel", run_id=first["run_id"])
    fork = (await idle.call("session.fork", session_id=first["session_id"]))["session_id"]
    await idle.call("session.update", session_id=first["session_id"], blocked_tools=["bash"])
    speaker = await idle.connect_limited(scopes=["read", "converse"])
    refusal = await refusal_of(speaker, "conversation.resume", session_id=fork)
    assert isinstance(refusal, ScopeMissing)


async def require_resume_limited(house: Household) -> None:
    """Require that a token that covers (default, ann) resumes for no other pair."""
    ann = await house.connect_limited(agents=["default"], senders=["ann"])
    refusal = await refusal_of(ann, "conversation.resume", session_id="s", agent="reviewer", sender="ann")
    assert isinstance(refusal, AgentForbidden)
    assert isinstance(await refusal_of(ann, "conversation.resume", session_id="s"), SenderForbidden)


async def test_conversation_resume_agent_forbidden(idle: Household) -> None:
    """The token does not cover the agent."""
    await require_resume_limited(idle)


async def test_conversation_resume_sender_forbidden(idle: Household) -> None:
    """The token does not cover the sender."""
    await require_resume_limited(idle)


async def test_conversation_resume_sender_invalid(idle: Household) -> None:
    """A sender is 1 to 128 bytes of printable text."""
    refusal = await idle.refusal_of("conversation.resume", session_id="s", sender="a\nb")
    assert isinstance(refusal, SenderInvalid)
