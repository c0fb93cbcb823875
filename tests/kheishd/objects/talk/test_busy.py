"""Messages to a busy session over the socket: each policy, the truth of the result, and no lost message."""

from typing import Any

import pytest

from kheishd.core.run.commands import Start
from kheishd.hooks.ask_user import AskUser
from kheishd.hooks.composite import CompositeHook
from kheishd.store.environment import Transaction
from protocol.errors.session import SessionBusy
from protocol.events.goal import GoalContinued
from protocol.limits.session import MAX_STEERS
from protocol.transcript import ToolCall
from tests.support.desk import gives, writer_of
from tests.support.household import Household, agent
from tests.support.runtimes import change_runtime


def start_run(tx: Transaction, run_id: str) -> None:
    """Append the start of a run, as a worker that goes away."""
    writer = writer_of(tx, run_id)
    writer.carry_out(Start())
    writer.write()


async def texts(house: Household) -> list[str]:
    """Return the texts of the conversation's messages."""
    history = await house.call("conversation.history")
    return [message["message"]["items"][0]["text"] for message in history["messages"]]


async def open_slow(house: Household, **params: Any) -> tuple[Any, Any]:
    """Return the gate of a run in flight and the result of its send."""
    gate = house.gate("slow")
    sent = await house.send("slow", **params)
    await gate.reached.wait()
    assert sent["applied"] == "started"
    return gate, sent


async def test_queue_is_the_default(house: Household) -> None:
    """A message waits for its turn, and the result names the run in flight."""
    gate, sent = await open_slow(house)
    queued = await house.send("next")
    assert (queued["applied"], queued["in_flight"]) == ("queued", sent["run_id"])
    assert queued["run_id"] != sent["run_id"]
    gate.opened.set()
    await house.call("run.wait", run_id=queued["run_id"])
    assert await texts(house) == ["slow", "so far and so on", "next", "You said: next"]


async def test_steer_joins_the_run_in_flight(house: Household) -> None:
    """A steered message has no run: the result is the joined run's, once for each idempotency key."""
    gate, sent = await open_slow(house)
    steered = await house.send("hurry", busy="steer", idempotency_key="k")
    assert await house.send("hurry", busy="steer", idempotency_key="k") == steered
    assert (steered["applied"], steered["run_id"]) == ("steered", sent["run_id"])
    events = await house.events(run_id=sent["run_id"], types=["steered"])
    assert [(event["steer_id"], event["cursor"]) for event in events] == [
        (steered["steer_id"], steered["cursor"])
    ]
    gate.opened.set()
    run = await house.call("run.wait", run_id=sent["run_id"])
    assert run["output"] == "You said: hurry"


async def test_steer_waits_for_the_joined_run(house: Household) -> None:
    """A steer that waits or streams gets the outcome of the run that it joined."""
    gate, sent = await open_slow(house)
    request = await house.client.request(
        "conversation.send", content="hurry", busy="steer", stream=True, wait="settled"
    )
    while not await house.events(run_id=sent["run_id"], types=["steered"]):
        pass
    gate.opened.set()
    result = await house.client.answer(request)
    assert (result["run_id"], result["output"]) == (sent["run_id"], "You said: hurry")


@pytest.mark.parametrize(
    ("params", "note"),
    [
        ({"route": "local"}, "'route' needs a run of its own"),
        ({"guest": "critic"}, "'guest' needs a run of its own"),
        ({"budget": {"max_tokens": 9}}, "'budget' needs a run of its own"),
    ],
)
async def test_steer_falls_back_to_queue(house: Household, params: dict[str, Any], note: str) -> None:
    """A message that cannot join the run waits for its turn, and the result says why."""
    gate, sent = await open_slow(house)
    queued = await house.send("next", busy="steer", **params)
    assert (queued["applied"], queued["in_flight"]) == ("queued", sent["run_id"])
    assert queued["note"].startswith("queued instead of steered: ")
    assert note in queued["note"]
    gate.opened.set()


async def test_steer_falls_back_to_queue_in_a_full_run(idle: Household) -> None:
    """A run that already has as many messages as it may have takes no more: they are queued."""
    await idle.send("one")
    for _ in range(MAX_STEERS):
        assert (await idle.send("more", busy="steer"))["applied"] == "steered"
    queued = await idle.send("last", busy="steer")
    assert queued["applied"] == "queued"
    assert f"{MAX_STEERS} messages wait" in queued["note"]


async def test_steer_does_not_join_a_guest(house: Household) -> None:
    """A message to the agent waits until its guest has spoken."""
    await open_slow(house, guest="critic")
    queued = await house.send("next", busy="steer")
    assert "the guest 'critic' is speaking" in queued["note"]


async def test_interrupt_stops_the_run_and_is_next(house: Household) -> None:
    """The run in flight is interrupted with its partial answer kept; the message overtakes queued ones."""
    _, sent = await open_slow(house)
    queued = await house.send("queued before")
    urgent = await house.send("now", busy="interrupt")
    assert (urgent["applied"], urgent["in_flight"]) == ("interrupted", sent["run_id"])
    await house.call("run.wait", run_id=queued["run_id"])
    run = await house.call("run.get", run_id=sent["run_id"])
    assert run["status"] == "interrupted"
    assert await texts(house) == [
        "slow",
        "so far",
        "now",
        "You said: now",
        "queued before",
        "You said: queued before",
    ]


async def test_interrupts_of_several_clients_stay_in_order(idle: Household) -> None:
    """Messages that interrupt are answered in the order of their arrival, before the queued ones."""
    first = await idle.send("first")
    await idle.state.update(lambda tx: start_run(tx, first["run_id"]))
    queued = await idle.send("queued")
    urgent = [await idle.send(text, busy="interrupt") for text in ("a", "b")]
    assert [result["applied"] for result in urgent] == ["interrupted", "interrupted"]
    assert urgent[1]["note"] == "the run was being stopped already"
    session = await idle.call("session.get", session_id=first["session_id"])
    runs = [first, *urgent, queued]
    assert session["open_runs"] == [result["run_id"] for result in runs]


async def test_interrupt_keeps_a_run_that_has_not_begun(idle: Household) -> None:
    """A run that has not begun is not interrupted, because its message would be lost."""
    first = await idle.send("first")
    urgent = await idle.send("now", busy="interrupt")
    assert (urgent["applied"], urgent["in_flight"]) == ("queued", first["run_id"])
    assert "has not begun" in urgent["note"]
    session = await idle.call("session.get", session_id=first["session_id"])
    assert session["open_runs"] == [first["run_id"], urgent["run_id"]]


async def test_conversation_send_session_busy(house: Household) -> None:
    """A rejected message leaves no trace; the refusal names the run in flight, and the key may be reused."""
    gate, sent = await open_slow(house)
    head = house.head()
    refusal = await house.refusal_of("conversation.send", content="next", busy="reject", idempotency_key="k")
    assert isinstance(refusal, SessionBusy)
    assert f"{sent['run_id']} is running" in refusal.message
    assert house.head() == head
    gate.opened.set()
    await house.call("run.wait", run_id=sent["run_id"])
    accepted = await house.ask("next", busy="reject", idempotency_key="k")
    assert (accepted["applied"], accepted["output"]) == ("started", "You said: next")


async def test_session_send_session_busy(house: Household) -> None:
    """A session that rejects messages while it is busy refuses them by both addresses."""
    gate, sent = await open_slow(house)
    session_id = sent["session_id"]
    await house.call("session.update", session_id=session_id, busy="reject")
    for method, address in (("session.send", {"session_id": session_id}), ("conversation.send", {})):
        assert isinstance(await house.refusal_of(method, content="x", **address), SessionBusy)
    gate.opened.set()


async def test_policy_of_send_session_agent_and_daemon(house: Household) -> None:
    """The policy of a send comes before the session's, the session's before the agent's, that before all."""
    runtime = house.holder.current()
    definitions = {**runtime.definitions, "default": agent("default", "busy: reject")}
    house.holder.replace(change_runtime(runtime, generation=2, definitions=definitions))
    gate, sent = await open_slow(house)
    assert isinstance(await house.refusal_of("conversation.send", content="x"), SessionBusy)
    session = await house.call("session.update", session_id=sent["session_id"], busy="steer")
    assert session["busy"] == "steer"
    assert (await house.send("x"))["applied"] == "steered"
    assert (await house.send("y", busy="queue"))["applied"] == "queued"
    session = await house.call("session.update", session_id=sent["session_id"], busy=None)
    assert "busy" not in session
    gate.opened.set()


async def test_a_check_changes_nothing(house: Household) -> None:
    """A check says what would be applied."""
    gate, _ = await open_slow(house)
    head = house.head()
    for busy, applied in (("queue", "queued"), ("steer", "steered"), ("interrupt", "interrupted")):
        assert (await house.send("x", busy=busy, check=True))["applied"] == applied
    assert house.head() == head
    gate.opened.set()


async def test_interrupt_ends_a_run_that_waits_for_a_person(house: Household) -> None:
    """A run that waits is ended at once, and the message starts in the same transaction."""
    runtime = house.holder.current()
    house.holder.replace(change_runtime(runtime, generation=2, hooks=CompositeHook((AskUser(),))))
    question = {"questions": [{"question": "Why?"}]}
    house.models.answers_to["ask"] = lambda _: gives(ToolCall("c1", "ask_user_question", question))
    waiting = await house.ask("ask")
    assert waiting["status"] == "waiting_for_user_question"
    urgent = await house.ask("now", busy="interrupt")
    assert (urgent["applied"], urgent["in_flight"]) == ("interrupted", waiting["run_id"])
    assert urgent["status"] == "completed"
    assert (await house.call("run.get", run_id=waiting["run_id"]))["status"] == "interrupted"


async def test_a_goal_does_not_keep_people_out(idle: Household) -> None:
    """A continuation that the daemon accepted by itself never causes a rejection."""
    sent = await idle.send("one")

    def continue_goal(tx: Transaction) -> None:
        writer = writer_of(tx, sent["run_id"])
        writer.append(GoalContinued(goal_id="gol_1", number=1, reason="the goal was set"))
        writer.write()

    await idle.state.update(continue_goal)
    queued = await idle.send("two", busy="reject")
    assert queued["applied"] == "queued"
    assert "continues the session's goal" in queued["note"]
