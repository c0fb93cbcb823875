"""Compaction over the socket: every outcome of both methods."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from kheishd.core.workspace import Workspaces
from kheishd.kernel.runtime import ModelAnswer, ModelEvent
from protocol.errors.conversation import ConversationNotFound, SenderForbidden, SenderInvalid
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.route import RouteForbidden, RouteNotFound, RouteNotReady
from protocol.errors.rpc import IdempotencyConflict
from protocol.errors.session import SessionAlreadyEnded, SessionBusy, SessionNotFound, WorkspaceForbidden
from protocol.errors.token import ScopeMissing
from protocol.transcript import Text, Usage
from tests.support.desk import Gate, fails, gives
from tests.support.household import AGENTS, ROUTES, Household, refusal_of
from tests.support.runtimes import make_runtime


async def make_conversation(house: Household, turns: int = 5) -> str:
    """Make a conversation that is long enough for a summary. Returns its session."""
    for number in range(turns):
        house.models.answers_to[f"{number} " + "word " * 100] = lambda request: answer(
            600 * len(request.messages)
        )
        sent = await house.ask(f"{number} " + "word " * 100)
    session_id: str = sent["session_id"]
    return session_id


async def answer(tokens: int) -> AsyncIterator[ModelEvent]:
    """Answer, and report a prompt of this many tokens."""
    yield ModelAnswer([Text("fine " * 100)], Usage(tokens, 100), "end")


def compact(house: Household, **params: Any) -> Any:
    """Compact the conversation and wait for it."""
    return house.call("conversation.compact", wait="settled", **params)


async def create_session(house: Household, **properties: Any) -> str:
    """Create a session with some properties. Returns its id."""
    made = await house.call("session.create", **properties)
    session_id: str = made["session_id"]
    return session_id


async def test_conversation_compact_ok(house: Household) -> None:
    """All but the last messages become a summary, which later model calls read."""
    session_id = await make_conversation(house)
    done = await compact(house)
    assert (done["session_id"], done["status"], done["summary"]) == (session_id, "completed", "They talked.")
    assert done["pre_tokens"] == 600 * 9 + 100 > done["post_tokens"] > 2_000
    assert done["usage"] == {"input_tokens": 500, "output_tokens": 20}
    assert await house.kinds(run_id=done["run_id"]) == [
        "run_accepted",
        "run_started",
        "model_asked",
        "context_compacted",
        "run_ended",
    ]
    (event,) = await house.events(run_id=done["run_id"], types=["context_compacted"])
    assert (event["trigger"], event["strategy"]) == ("manual", "summary")
    calls = len(house.models.requests)
    await house.ask("and now?")
    assert len(house.models.requests) == calls + 1
    assert [message.role for message in house.models.requests[-1].messages] == [
        "user",
        *["user", "assistant"] * 3,
        "user",
    ]
    assert len((await house.call("conversation.history"))["messages"]) == 12


async def test_conversation_compact_ok_is_a_run(house: Household) -> None:
    """A compaction is a run: it can be followed, awaited, and repeated by its key."""
    await make_conversation(house)
    gate = Gate("", "They talked.")
    house.models.summary_answers = [gate]
    accepted = await house.call("conversation.compact", idempotency_key="k")
    assert accepted["status"] == "queued"
    await gate.reached.wait()
    assert isinstance(await house.refusal_of("conversation.compact"), SessionBusy)
    gate.opened.set()
    again = await compact(house, idempotency_key="k")
    assert (again["run_id"], again["status"]) == (accepted["run_id"], "completed")
    assert isinstance(
        await house.refusal_of("conversation.compact", idempotency_key="k", agent="critic"),
        IdempotencyConflict,
    )
    run = await house.call("run.get", run_id=accepted["run_id"])
    assert (run["kind"], run["status"], "output" in run) == ("compaction", "completed", False)


async def test_conversation_compact_ok_with_nothing_to_summarize(house: Household) -> None:
    """A short conversation is not summarized, and the note says so; a check calls no model."""
    await house.ask("one")
    head = house.head()
    assert (await house.call("conversation.compact", check=True))["status"] == "queued"
    assert house.head() == head
    done = await compact(house)
    assert (done["status"], done["note"]) == ("completed", "there was nothing to summarize")
    assert "summary" not in done
    assert house.models.summary_requests == []


async def test_conversation_compact_ok_says_why_it_failed(house: Household) -> None:
    """A model that fails or returns nothing fails the run; a transient failure is retried."""
    await make_conversation(house)
    house.models.summary_answers = [lambda request: gives()]
    done = await compact(house)
    assert (done["status"], done["error"]["reason"]) == ("failed", "no_summary")
    house.models.summary_answers = [lambda request: fails("unauthorized", retryable=False)]
    done = await compact(house)
    assert (done["status"], done["error"]["reason"]) == ("failed", "unauthorized")
    house.models.summary_answers = [
        lambda request: fails("overloaded", retry_after_s=0.01),
        house.models.summary_answers[0],
    ]
    done = await compact(house)
    assert done["status"] == "failed"
    assert "model_failed" in await house.kinds(run_id=done["run_id"])
    assert (await house.ask("and now?"))["status"] == "completed"


async def test_conversation_compact_ok_can_be_stopped(house: Household) -> None:
    """A cancelled compaction stops and changes nothing."""
    session_id = await make_conversation(house)
    gate = Gate()
    house.models.summary_answers = [gate]
    accepted = await house.call("conversation.compact")
    await gate.reached.wait()
    assert (await house.call("conversation.cancel"))["run_id"] == accepted["run_id"]
    assert (await house.call("run.get", run_id=accepted["run_id"]))["status"] == "cancelled"
    assert "context_compacted" not in await house.kinds(session_id=session_id)


async def test_conversation_compact_ok_cannot_be_steered(house: Household) -> None:
    """A compaction takes no messages."""
    await make_conversation(house)
    gate = Gate("", "They talked.")
    house.models.summary_answers = [gate]
    await house.call("conversation.compact")
    await gate.reached.wait()
    refusal = await house.refusal_of("conversation.steer", content="x")
    assert refusal.reason == "nothing_to_steer"
    sent = await house.send("next")
    gate.opened.set()
    assert (await house.call("run.wait", run_id=sent["run_id"]))["output"] == "You said: next"


async def test_conversation_compact_session_busy(idle: Household) -> None:
    """A session with an open run is not compacted."""
    await idle.send()
    assert isinstance(await idle.refusal_of("conversation.compact"), SessionBusy)


async def test_conversation_compact_session_already_ended(idle: Household) -> None:
    """An ended session is not compacted."""
    sent = await idle.send()
    await idle.call("run.cancel", run_id=sent["run_id"])
    await idle.call("session.end", session_id=sent["session_id"])
    assert isinstance(await idle.refusal_of("conversation.compact"), SessionAlreadyEnded)


async def leave_idle(house: Household, **runtime: Any) -> None:
    """Leave an idle conversation, and replace the runtime."""
    sent = await house.send(agent="critic")
    await house.call("run.cancel", run_id=sent["run_id"])
    house.holder.replace(make_runtime(2, models=house.models, **({"definitions": AGENTS} | runtime)))


async def test_conversation_compact_agent_not_found(idle: Household) -> None:
    """The conversation's agent is no longer defined."""
    await leave_idle(idle, definitions={name: AGENTS[name] for name in ("default", "reviewer")})
    assert isinstance(await idle.refusal_of("conversation.compact", agent="critic"), AgentNotFound)


async def test_conversation_compact_route_not_found(idle: Household) -> None:
    """The session's route is no longer configured."""
    sent = await idle.send(agent="critic")
    await idle.call("session.update", session_id=sent["session_id"], route="local")
    await idle.call("run.cancel", run_id=sent["run_id"])
    idle.holder.replace(make_runtime(2, models=idle.models, definitions=AGENTS))
    assert isinstance(await idle.refusal_of("conversation.compact", agent="critic"), RouteNotFound)


async def test_conversation_compact_route_not_ready(idle: Household) -> None:
    """The session's route is not ready."""
    sent = await idle.send()
    await idle.call("session.update", session_id=sent["session_id"], route="unready")
    await idle.call("run.cancel", run_id=sent["run_id"])
    assert isinstance(await idle.refusal_of("conversation.compact"), RouteNotReady)


async def test_conversation_compact_route_forbidden(idle: Household) -> None:
    """The session may no longer use its route."""
    sent = await idle.send()
    await idle.call("session.update", session_id=sent["session_id"], credential_scope={"routes": []})
    await idle.call("run.cancel", run_id=sent["run_id"])
    assert isinstance(await idle.refusal_of("conversation.compact"), RouteForbidden)


async def test_conversation_compact_workspace_forbidden(idle: Household, srv: Path) -> None:
    """The session's workspace is no longer allowed."""
    sent = await idle.send(agent="critic", workspace=f"{srv}/a")
    await idle.call("session.update", session_id=sent["session_id"], workspace=f"{srv}/a")
    await leave_idle(idle, workspaces=Workspaces("/elsewhere", "/home", limited=True), routes=ROUTES)
    assert isinstance(await idle.refusal_of("conversation.compact", agent="critic"), SessionBusy)
    await idle.call("run.cancel", run_id=sent["run_id"])
    assert isinstance(await idle.refusal_of("conversation.compact", agent="critic"), WorkspaceForbidden)


async def test_conversation_compact_conversation_not_found(idle: Household) -> None:
    """An address without a conversation is refused."""
    assert isinstance(await idle.refusal_of("conversation.compact"), ConversationNotFound)


async def test_conversation_compact_agent_forbidden(idle: Household) -> None:
    """The caller's token does not cover the agent."""
    await idle.send()
    critic = await idle.connect_limited(agents=["critic"])
    assert isinstance(await refusal_of(critic, "conversation.compact"), AgentForbidden)


async def test_conversation_compact_sender_forbidden(idle: Household) -> None:
    """The caller's token does not cover the sender."""
    await idle.send()
    ann = await idle.connect_limited(senders=["ann"])
    assert isinstance(await refusal_of(ann, "conversation.compact"), SenderForbidden)


async def test_conversation_compact_sender_invalid(idle: Household) -> None:
    """An impossible sender is refused."""
    assert isinstance(await idle.refusal_of("conversation.compact", sender="a\nb"), SenderInvalid)


# session.compact


async def test_session_compact_ok(house: Household) -> None:
    """A session is compacted by its id; a caller that may read the session may read the run."""
    session_id = await make_conversation(house)
    done = await house.call("session.compact", session_id=session_id, wait="settled")
    assert (done["status"], done["summary"]) == ("completed", "They talked.")
    run = await house.call("run.get", run_id=done["run_id"])
    assert run["sender"] == "user"


async def test_session_compact_session_not_found(idle: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    sent = await idle.send(sender="bob")
    ann = await idle.connect_limited(senders=["ann"])
    for client, session_id in ((idle.client, "ses_none"), (ann, sent["session_id"])):
        assert isinstance(await refusal_of(client, "session.compact", session_id=session_id), SessionNotFound)


async def test_session_compact_session_already_ended(idle: Household) -> None:
    """An ended session is not compacted."""
    session_id = await create_session(idle)
    await idle.call("session.end", session_id=session_id)
    assert isinstance(await idle.refusal_of("session.compact", session_id=session_id), SessionAlreadyEnded)


async def test_session_compact_session_busy(idle: Household) -> None:
    """A session with an open run is not compacted."""
    sent = await idle.send()
    refusal = await idle.refusal_of("session.compact", session_id=sent["session_id"])
    assert isinstance(refusal, SessionBusy)


async def test_session_compact_agent_not_found(idle: Household) -> None:
    """The session's agent is no longer defined."""
    session_id = await create_session(idle, agent="critic")
    idle.holder.replace(make_runtime(2, models=idle.models))
    assert isinstance(await idle.refusal_of("session.compact", session_id=session_id), AgentNotFound)


async def test_session_compact_route_not_found(idle: Household) -> None:
    """The session's route is no longer configured."""
    session_id = await create_session(idle, route="local")
    idle.holder.replace(make_runtime(2, models=idle.models, definitions=AGENTS))
    assert isinstance(await idle.refusal_of("session.compact", session_id=session_id), RouteNotFound)


async def test_session_compact_route_not_ready(idle: Household) -> None:
    """The session's route is not ready."""
    session_id = await create_session(idle, route="unready")
    assert isinstance(await idle.refusal_of("session.compact", session_id=session_id), RouteNotReady)


async def test_session_compact_route_forbidden(idle: Household) -> None:
    """The session may not use its route."""
    session_id = await create_session(idle, credential_scope={"routes": ["local"]})
    assert isinstance(await idle.refusal_of("session.compact", session_id=session_id), RouteForbidden)


async def test_session_compact_workspace_forbidden(idle: Household, srv: Path) -> None:
    """The workspace of a child is outside of its parent's new one."""
    parent = await create_session(idle, workspace=f"{srv}/a")
    child = await create_session(idle, parent_session_id=parent, workspace=f"{srv}/a/b")
    await idle.call("session.update", session_id=parent, workspace=f"{srv}/c")
    assert isinstance(await idle.refusal_of("session.compact", session_id=child), WorkspaceForbidden)


async def test_compacting_requires_converse(idle: Household) -> None:
    """Compaction costs a model call and changes the prompt, so it requires ``converse``."""
    session_id = await create_session(idle)
    reader = await idle.connect_limited(scopes=["read"])
    for method, params in (("conversation.compact", {}), ("session.compact", {"session_id": session_id})):
        assert isinstance(await refusal_of(reader, method, **params), ScopeMissing)
