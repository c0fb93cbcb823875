"""Runs over the socket: showing, waiting for and cancelling them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from protocol.errors.rpc import InvalidParams
from protocol.errors.run import RunAlreadyEnded, RunNotFound
from protocol.errors.session import SessionNotFound
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


async def not_found(house: Household, method: str) -> None:
    """The method finds neither what is not there nor what the caller's token does not cover."""
    sent = await house.send(agent="reviewer", sender="bob")
    ann = await house.limited(senders=["ann"])
    critic = await house.limited(agents=["critic"])
    for client, run_id in ((house.client, "run_none"), (ann, sent["run_id"]), (critic, sent["run_id"])):
        refusal = await refused(client, method, run_id=run_id)
        assert (type(refusal), refusal.field) == (RunNotFound, "$.params.run_id")


# run.get


async def test_run_get_ok(house: Household) -> None:
    """What it uses, what it cost and what it answered."""
    sent = await house.ask("one", sender="ann")
    run = await house.call("run.get", run_id=sent["run_id"])
    assert (run["status"], run["output"], run["sender"]) == ("completed", "You said: one", "ann")
    assert run["pinned"]["route"] == "offline"
    assert run["started_at_ms"] <= run["ended_at_ms"]
    assert run["usage"] == {"input_tokens": 1, "output_tokens": 1}


async def test_run_get_ok_says_its_place_in_the_queue(idle: Household) -> None:
    """One is next; the first in line has no place, it waits for a worker only."""
    sent = [await idle.send() for _ in range(3)]
    views = [await idle.call("run.get", run_id=each["run_id"]) for each in sent]
    assert [view.get("queue_position") for view in views] == [None, 1, 2]
    assert all("output" not in view for view in views)


async def test_run_get_run_not_found(idle: Household) -> None:
    """Nor for a token that does not cover it."""
    await not_found(idle, "run.get")


# run.list


async def test_run_list_ok(house: Household) -> None:
    """Newest first or oldest first, of one session or of all, by status, page by page."""
    gate = house.gate("slow")
    done = [(await house.ask(sender="ann"))["run_id"] for _ in range(3)]
    slow = await house.send("slow", sender="bob")
    await gate.reached.wait()
    queued = (await house.send(sender="bob"))["run_id"]
    every = [*done, slow["run_id"], queued]
    for limit in (1, 2, 50):
        rows = await pages(house.client, "run.list", "runs", limit=limit)
        assert [row["run_id"] for row in rows] == every[::-1]
        for order, expected in (("newest", every[:2:-1]), ("oldest", every[3:])):
            session_id = slow["session_id"]
            rows = await pages(
                house.client, "run.list", "runs", limit=limit, session_id=session_id, order=order
            )
            assert [row["run_id"] for row in rows] == expected
    for asked, expected in (
        ({"active": True}, [queued, slow["run_id"]]),
        ({"status": "queued"}, [queued]),
        ({"status": "completed", "order": "oldest"}, done),
    ):
        assert [row["run_id"] for row in (await house.call("run.list", **asked))["runs"]] == expected
    gate.opened.set()


async def test_run_list_ok_shows_a_limited_caller_its_own(idle: Household) -> None:
    """Not one of another agent or sender, by any way of asking."""
    sent = [
        await idle.send(agent=agent, sender=sender)
        for agent, sender in (("default", "ann"), ("default", "bob"), ("critic", "ann"))
    ]
    ann = await idle.limited(agents=["default"], senders=["ann"])
    for asked in ({}, {"active": True}, {"status": "queued"}, {"session_id": sent[0]["session_id"]}):
        rows = await pages(ann, "run.list", "runs", limit=1, **asked)
        assert [row["run_id"] for row in rows] == [sent[0]["run_id"]]


async def test_run_list_ok_hides_what_others_said_in_the_same_session(idle: Household) -> None:
    """A run that somebody else started in a covered session is theirs."""
    sent = await idle.send(sender="ann")
    await idle.call("session.send", session_id=sent["session_id"], sender="bob", content="x")
    ann = await idle.limited(senders=["ann"])
    rows = (await ann.call("run.list", session_id=sent["session_id"]))["runs"]
    assert [row["run_id"] for row in rows] == [sent["run_id"]]


async def test_a_run_belongs_to_its_session(idle: Household) -> None:
    """What a covered sender said in a session that is not covered is answered there, and not shown."""
    sent = await idle.send(sender="bob")
    said = await idle.call("session.send", session_id=sent["session_id"], sender="ann", content="x")
    ann = await idle.limited(senders=["ann"])
    assert (await ann.call("run.list"))["runs"] == []
    for method in ("run.get", "run.wait", "run.cancel"):
        assert type(await refused(ann, method, run_id=said["run_id"])) is RunNotFound


async def test_run_list_session_not_found(idle: Household) -> None:
    """Nor for a token that does not cover it."""
    sent = await idle.send(sender="bob")
    ann = await idle.limited(senders=["ann"])
    for client, session_id in ((idle.client, "ses_none"), (ann, sent["session_id"])):
        refusal = await refused(client, "run.list", session_id=session_id)
        assert (type(refusal), refusal.field) == (SessionNotFound, "$.params.session_id")


@pytest.mark.parametrize("after", ["", "a b", "x" * 1025, "\x00"])
async def test_a_page_begins_only_where_one_ended(idle: Household, after: str) -> None:
    """An 'after' that no page gave is refused by its path, also as a cursor."""
    sent = await idle.send()
    for asked in ({}, {"session_id": sent["session_id"]}):
        refusal = await idle.refused("run.list", after=after, **asked)
        assert (type(refusal), refusal.field) == (InvalidParams, "$.params.after")
    for wrong in ("run_x", "9" * 20, "-1", "٣"):
        refusal = await idle.refused("run.list", after=wrong, session_id=sent["session_id"])
        assert isinstance(refusal, InvalidParams)


# run.wait


async def test_run_wait_ok(house: Household) -> None:
    """Until it has ended; at once where it has."""
    gate = house.gate("slow")
    sent = await house.send("slow")
    await gate.reached.wait()
    waiting = await house.client.request("run.wait", run_id=sent["run_id"])
    await house.call("run.get", run_id=sent["run_id"])
    gate.opened.set()
    assert (await house.client.answer(waiting))["output"] == "so far and so on"
    assert (await house.call("run.wait", run_id=sent["run_id"]))["status"] == "completed"


async def test_run_wait_ok_not_in_time(idle: Household) -> None:
    """The answer is the run as it is then."""
    sent = await idle.send()
    waited = await idle.call("run.wait", run_id=sent["run_id"], timeout_s=0.01)
    assert waited["status"] == "queued"


async def test_run_wait_can_be_given_up(house: Household) -> None:
    """Who waits can be cancelled; the run goes on."""
    gate = house.gate("slow")
    sent = await house.send("slow")
    await house.client.request("run.wait", run_id=sent["run_id"])
    await gate.reached.wait()
    await house.client.transport.aclose()
    gate.opened.set()
    other = await house.server.connect()
    assert (await other.call("run.wait", run_id=sent["run_id"]))["status"] == "completed"


async def test_many_wait_for_one(house: Household) -> None:
    """All are answered by its end."""
    gate = house.gate("slow")
    sent = await house.send("slow")
    waiting = [await house.client.request("run.wait", run_id=sent["run_id"]) for _ in range(20)]
    await gate.reached.wait()
    gate.opened.set()
    with trio.fail_after(10):
        assert {(await house.client.answer(each))["status"] for each in waiting} == {"completed"}


async def test_run_wait_run_not_found(idle: Household) -> None:
    """Nor for a token that does not cover it."""
    await not_found(idle, "run.wait")


# run.cancel


async def test_run_cancel_ok(house: Household) -> None:
    """In flight: it has stopped when it answers, and what had arrived is kept."""
    gate = house.gate("slow")
    sent = await house.send("slow")
    await gate.reached.wait()
    run = await house.call("run.cancel", run_id=sent["run_id"], reason="enough")
    assert (run["status"], house.models.open) == ("cancelled", 0)
    assert (await house.call("run.get", run_id=sent["run_id"]))["output"] == "so far"


async def test_run_cancel_ok_queued(idle: Household) -> None:
    """It ends at once, wherever it stands; the ones behind it move up."""
    sent = [await idle.send() for _ in range(3)]
    assert (await idle.call("run.cancel", run_id=sent[1]["run_id"]))["status"] == "cancelled"
    view = await idle.call("run.get", run_id=sent[2]["run_id"])
    assert view["queue_position"] == 1
    assert (await idle.call("run.cancel", run_id=sent[0]["run_id"]))["status"] == "cancelled"
    assert "queue_position" not in await idle.call("run.get", run_id=sent[2]["run_id"])


async def test_run_cancel_ok_check_stops_nothing(idle: Household) -> None:
    """It says what would become of it."""
    sent = await idle.send()
    would = await idle.call("run.cancel", run_id=sent["run_id"], check=True)
    assert would["status"] == "cancelled"
    assert (await idle.call("run.get", run_id=sent["run_id"]))["status"] == "queued"


async def test_run_cancel_ok_once_for_a_key(idle: Household) -> None:
    """The same key is answered again although the run has ended."""
    sent = await idle.send()
    first = await idle.call("run.cancel", run_id=sent["run_id"], idempotency_key="k")
    again = await idle.call("run.cancel", run_id=sent["run_id"], idempotency_key="k")
    assert first == again
    assert (await idle.kinds(run_id=sent["run_id"])).count("run_ended") == 1


async def test_run_cancel_ok_although_nobody_waits_for_it(house: Household) -> None:
    """A caller that takes its request back has cancelled all the same: that was committed."""
    gate = house.gate("slow")
    sent = await house.send("slow")
    await gate.reached.wait()
    await house.client.request("run.cancel", run_id=sent["run_id"])
    await house.client.transport.aclose()
    other = await house.server.connect()
    assert (await other.call("run.wait", run_id=sent["run_id"]))["status"] == "cancelled"


async def test_run_cancel_run_not_found(idle: Household) -> None:
    """Nor for a token that does not cover it."""
    await not_found(idle, "run.cancel")


async def test_run_cancel_run_already_ended(house: Household) -> None:
    """It is too late, and the refusal says how it ended."""
    sent = await house.ask()
    refusal = await house.refused("run.cancel", run_id=sent["run_id"])
    assert isinstance(refusal, RunAlreadyEnded)
    assert "already completed" in refusal.message
