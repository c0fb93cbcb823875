"""The tools with which agents of one tree talk, through runs with scripted models."""

import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

from kheishd.core.question import DECLINED_BY_AGENT
from kheishd.hooks.agents.delegation import Delegation
from kheishd.hooks.agents.mail import MailTools
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.runtime import ModelEvent, ModelRequest
from kheishd.objects.agents.agent import spawn_agent
from kheishd.objects.people import question
from kheishd.objects.talk.session import create
from kheishd.store.tables import MAIL
from kheishd.workers.mail import MailWorker
from protocol.errors.question import QuestionClosed
from protocol.errors.rpc import InvalidParams
from protocol.limits.mailbox import MAX_MAIL_PAYLOAD_BYTES
from protocol.objects.agent import SpawnParams
from protocol.objects.session import SessionCreate
from protocol.transcript import ToolCall, ToolResult, text_of
from tests.support.desk import Desk, Gate, Scripted, gives, open_desk, says, working
from tests.support.families import root, spawn, until, until_closed
from tests.support.household import Household, household

COLOR = {"question": "Which color?", "options": [{"label": "Red"}, {"label": "Blue"}]}
ASK = ToolCall("c1", "request_parent_clarification", {"questions": [COLOR]})


class Cast:
    """Models of several agents: the parts of each session in order; after them it answers ``fine``."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Any]] = {}
        self.requests: dict[str, list[ModelRequest]] = {}
        self.everyone: list[Any] = []

    def __call__(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Return the next part of the session's model."""
        self.requests.setdefault(request.session_id, []).append(request)
        parts = self.parts.get(request.session_id) or self.everyone
        part = parts.pop(0) if parts else "fine"
        if isinstance(part, ToolCall):
            return gives(part, stop_reason="tool_calls")
        return says(part) if isinstance(part, str) else part(request)

    def results(self, session_id: str) -> list[str]:
        """Return the tool results that a session's model has read, in order."""
        messages = self.requests[session_id][-1].messages
        return [item.text for message in messages for item in message.items if isinstance(item, ToolResult)]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon with workers, whose agents have the tools; its root agent is ``boss``."""
    async with household(tmp_path, hooks=CompositeHook((MailTools(),))) as house:
        await root(house, session_id="boss")
        yield house


@pytest.fixture
def cast(house: Household) -> Cast:
    """Return the models of all agents."""
    cast = Cast()
    house.models.answers = [cast]
    return cast


def message(agent: str, **more: Any) -> ToolCall:
    """Return a call of ``message_agent``."""
    return ToolCall("c1", "message_agent", {"agent": agent, "subject": "s", "message": "hello", **more})


def answer(agent: str, *answers: Any, call_id: str = "c1", **more: Any) -> ToolCall:
    """Return a call of ``answer_agent``."""
    return ToolCall(call_id, "answer_agent", {"agent": agent, "answers": list(answers), **more})


async def run_boss(house: Household, cast: Cast, *parts: Any) -> list[str]:
    """Send to ``boss``, whose model gives these parts; return the tool results that it has read."""
    cast.parts["boss"] = [*parts]
    await house.call("session.send", session_id="boss", content="go", wait="settled")
    return cast.results("boss")


async def settled(house: Household, agents: Iterable[str]) -> None:
    """Wait until no agent has an open run or mail that is to be read."""
    for agent in agents:
        while True:
            bell = house.state.bell("journal")
            snapshot = await house.call("agent.get", agent=agent)
            messages = (await house.call("mailbox.list", agent=agent))["messages"]
            if "active_run_id" not in snapshot and not messages:
                break
            await bell.wait()


async def asking(house: Household, cast: Cast) -> tuple[Any, str, Gate]:
    """Spawn a child that asks its busy parent; return it, the id of its question and the parent's gate."""
    gate = Gate()
    cast.parts["boss"] = [gate]
    await house.call("session.send", session_id="boss", content="work")
    await gate.reached.wait()
    cast.everyone = [ASK]
    child = await spawn(house, "boss", "scout")
    await until(house, child["agent_id"], "waiting_for_user_input")
    (pending,) = (await house.call("question.list"))["questions"]
    assert pending["to_agent"] == "boss"
    return child, str(pending["question_id"]), gate


async def until_posted(house: Household, question_id: str, state: str) -> Any:
    """Wait until the message that asks a question is in a state."""
    while True:
        bell = house.state.bell("journal")
        messages = (await house.call("mailbox.list", agent="boss", state="any"))["messages"]
        for row in messages:
            if row["id"] == f"clarification:{question_id}" and row["state"] == state:
                return row
        await bell.wait()


# message_agent


async def test_a_message_is_read_by_its_recipient(house: Household, cast: Cast) -> None:
    """A message is posted once, with the tool's envelope, and the parent is told how its run ended."""
    child = await spawn(house, "boss", "scout")
    await settled(house, ("boss", "boss/scout"))
    (result,) = map(json.loads, await run_boss(house, cast, message("scout", message_type="hint")))
    assert result == {
        "queued": True,
        "message_id": result["message_id"],
        "duplicate": False,
        "agent_id": child["agent_id"],
        "path": "boss/scout",
        "subject": "s",
        "message_type": "hint",
    }
    await settled(house, ("boss/scout", "boss"))
    posted = await house.call("mailbox.get", agent=child["path"], message_id=result["message_id"])
    assert (posted["state"], posted["type"], posted["payload"]["message"]) == ("done", "hint", "hello")
    notices = (await house.call("mailbox.list", agent="boss", state="done"))["messages"]
    assert [row["id"] for row in notices] == [
        f"notice:{child['launch_run_id']}",
        f"notice:{posted['run_id']}",
    ]


async def test_messages_stay_in_the_tree(house: Household, cast: Cast) -> None:
    """An agent of another tree, an unknown one, itself, a closed one and a long text are refused."""
    child = await spawn(house, "boss", "scout")
    await root(house, session_id="stranger")
    await house.call("agent.close", agent=child["agent_id"])
    await settled(house, ("boss",))
    long = "x" * MAX_MAIL_PAYLOAD_BYTES
    for call, problem in (
        (message("stranger"), "there is no agent 'stranger' in this tree"),
        (message("nobody"), "there is no agent 'nobody' in this tree"),
        (message("boss"), "this is yourself"),
        (message("scout"), "the agent boss/scout is closed"),
        (message("scout", message=long), "the limit is 16384"),
        (message("scout", message_type="agent_settled"), "are the daemon's"),
        (message("scout", message_type=" Agent_Settled"), "are the daemon's"),
    ):
        results = await run_boss(house, cast, call)
        assert problem in results[-1]


# Questions


async def test_a_parent_answers_its_child(house: Household, cast: Cast) -> None:
    """An idle parent reads the question as mail, answers it by label, and the child goes on."""
    cast.everyone = [ASK]
    cast.parts["boss"] = [answer("scout", {"key": "q1", "choose": ["blue"], "text": "dark"})]
    child = await spawn(house, "boss", "scout")
    await settled(house, (child["agent_id"], "boss"))
    (reply,) = map(json.loads, cast.results(child["agent_id"]))
    assert reply == {"answers": [{"question": "Which color?", "chosen": ["Blue"], "text": "dark"}]}
    (result,) = map(json.loads, cast.results("boss")[:1])
    assert (result["status"], result["path"]) == ("answered", "boss/scout")
    asked = await house.call("question.get", question_id=result["question_id"])
    assert (asked["status"], asked["resolved_by"]) == ("answered", "agent:boss")
    first = cast.requests["boss"][0].messages[-1]
    assert "The agent waits until you answer" in text_of(first.items)


async def test_people_may_answer_first(house: Household, cast: Cast) -> None:
    """A question that a person has answered is not delivered to the parent any more; it is answered once."""
    child, question_id, gate = await asking(house, cast)
    await until_posted(house, question_id, "pending")
    # The message cannot be removed while the child waits.
    message_id = f"clarification:{question_id}"
    parent = child["parent_id"]
    refusal = await house.refusal_of("mailbox.ack", agent=parent, message_id=message_id)
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.message_id")
    assert question_id in refusal.message
    answers = [{"key": "q1", "selected": ["o1"]}]
    await house.call("question.answer", question_id=question_id, answers=answers)
    assert isinstance(
        await house.refusal_of("question.answer", question_id=question_id, answers=answers), QuestionClosed
    )
    await until(house, child["agent_id"], "idle")
    gate.opened.set()
    row = await until_posted(house, question_id, "done")
    assert row["outcome"] == "answered"
    await settled(house, ("boss",))
    assert all("clarification:" not in str(request.messages) for request in cast.requests["boss"])


async def test_a_question_that_is_cancelled_is_declined(house: Household, cast: Cast) -> None:
    """The child goes on without an answer, and its run is not cancelled."""
    child, question_id, gate = await asking(house, cast)
    declined = await house.call("question.cancel", question_id=question_id, justification="later")
    assert declined["status"] == "declined"
    await until(house, child["agent_id"], "idle")
    (reply,) = map(json.loads, cast.results(child["agent_id"]))
    assert reply == {"declined": True, "message": DECLINED_BY_AGENT, "justification": "later"}
    gate.opened.set()


async def test_a_question_that_expires_is_declined(house: Household, cast: Cast) -> None:
    """A child that set a time goes on when it is over."""
    arguments = {"questions": [COLOR], "expires_after_s": 0.001}
    cast.everyone = [ToolCall("c1", "request_parent_clarification", arguments)]
    cast.parts["boss"] = [gate := Gate()]
    await house.call("session.send", session_id="boss", content="work")
    await gate.reached.wait()
    child = await spawn(house, "boss", "scout")
    await until(house, child["agent_id"], "waiting_for_user_input")
    (pending,) = (await house.call("question.list"))["questions"]
    while "idle" != (await house.call("agent.get", agent=child["agent_id"]))["status"]:
        await house.state.update(lambda tx: question.expire(tx, pending["question_id"]))
    (reply,) = map(json.loads, cast.results(child["agent_id"]))
    assert reply["justification"] == "no answer came in time"
    gate.opened.set()


async def test_a_question_that_no_parent_can_read_is_declined(house: Household, cast: Cast) -> None:
    """If the parent's runs fail with the question in their input, the child does not wait for ever."""

    async def fail(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        raise RuntimeError("the model is broken")
        yield

    cast.everyone = [ASK]
    cast.parts["boss"] = [fail, fail, fail]
    child = await spawn(house, "boss", "scout")
    await until(house, child["agent_id"], "idle")
    (reply,) = map(json.loads, cast.results(child["agent_id"]))
    assert reply["justification"] == "the question could not be delivered to your parent"


async def test_only_agents_above_answer(house: Household, cast: Cast) -> None:
    """A wrong key, an agent without a question and one that is not below are errors that help the model."""
    child, _, gate = await asking(house, cast)
    sibling = await spawn(house, "boss", "sibling")
    gate.opened.set()
    await settled(house, ("boss", "boss/sibling"))
    results = await run_boss(
        house,
        cast,
        answer("scout", {"key": "q9", "text": "x"}),
        answer("boss", {"key": "q1", "text": "x"}, call_id="c2"),
        answer("sibling", {"key": "q1", "text": "x"}, call_id="c3"),
        answer("scout", decline=True, call_id="c4"),
        answer("scout", decline=True, call_id="c5"),
    )
    assert [("there is no question 'q9'" in results[-5]), ("not an agent below you" in results[-4])] == [
        True
    ] * 2
    assert "boss/sibling has no open question" in results[-3]
    assert json.loads(results[-2])["status"] == "declined"
    assert "boss/scout has no open question" in results[-1]
    await settled(house, (child["agent_id"],))
    assert sibling["agent_id"] in cast.requests


async def test_a_child_of_a_closed_parent_asks_nobody(house: Household, cast: Cast) -> None:
    """A root has no such tool; a second question in one message, and one to a closed parent, are denied."""
    results = await run_boss(house, cast, ASK)
    assert "There is no tool 'request_parent_clarification'" in results[-1]
    child, _, gate = await asking(house, cast)
    await house.call("agent.close", agent=child["agent_id"])
    await until_closed(house, child["agent_id"])
    assert (await house.call("question.list"))["questions"] == []
    gate.opened.set()


# Waits


async def test_a_waiting_parent_gets_the_question(house: Household, cast: Cast) -> None:
    """A wait returns the child's question at once; the next one its result, which no mail repeats."""
    hooks = CompositeHook((Delegation(house.server.services), MailTools()))
    house.holder.replace(replace(house.holder.current(), generation=2, load_hooks=lambda: hooks))
    cast.everyone = [ASK, "it is blue"]
    results = await run_boss(
        house,
        cast,
        ToolCall("w1", "spawn_agent", {"name": "scout", "prompt": "look", "wait": True}),
        answer("scout", {"key": "q1", "choose": ["o2"]}),
        ToolCall("w2", "wait_agent", {"agent": "scout"}),
    )
    asked, answered, waited = map(json.loads, results)
    assert (asked["status"], asked["asks"]["questions"][0]["key"]) == ("waiting_for_user_input", "q1")
    assert answered["question_id"] == asked["asks"]["question_id"]
    assert waited["final_output"] == "it is blue"
    await settled(house, ("boss", "boss/scout"))
    messages = (await house.call("mailbox.list", agent="boss", state="any"))["messages"]
    outcomes = {row["id"].partition(":")[0]: row["outcome"] for row in messages}
    assert outcomes == {"clarification": "answered"} or outcomes == {
        "clarification": "answered",
        "notice": "waited",
    }
    # The parent has one run: no mail was left to read.
    assert len((await house.call("run.list", session_id="boss"))["runs"]) == 1


# Restarts


def by_content(request: ModelRequest) -> AsyncIterator[ModelEvent]:
    """Ask as a child, answer as its parent, and go on with the result: by the transcript alone."""
    last = request.messages[-1]
    if last.role == "tool":
        return says("it is blue")
    if request.session_id != "boss":
        return gives(ASK, stop_reason="tool_calls")
    if "parent_clarification" in text_of(last.items):
        return gives(answer("scout", {"key": "q1", "choose": ["Blue"]}), stop_reason="tool_calls")
    return says("fine")


async def finish(desk: Desk) -> None:
    """Run all workers until the child has its answer, and its parent has read the notice."""
    async with working(desk), trio.open_nursery() as nursery:
        await nursery.start(MailWorker(desk.services).serve)

        def is_done() -> bool:
            with desk.state.read() as store:
                mails = [mail for _, mail in store.scan(MAIL)]
                return len(mails) == 2 and all(mail.state == "done" for mail in mails)

        await desk.until(is_done)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_restart_neither_loses_nor_repeats_an_answer(tmp_path: Path, autojump_clock: Any) -> None:
    """From a copy of the store after any commit, the question is answered once and the end reported once."""
    fields: dict[str, Any] = {"models": Scripted([by_content]), "hooks": CompositeHook((MailTools(),))}
    copies = 0
    async with open_desk(tmp_path / "home", **fields) as desk:
        await desk.do(create, SessionCreate(session_id="boss"))
        child = await desk.do(spawn_agent, SpawnParams(parent="boss", name="scout", prompt="look"))
        deliver = desk.state.deliver

        def copy_and_deliver(group: Any) -> None:
            nonlocal copies
            copies += 1
            desk.copy_store(tmp_path / f"copy{copies}")
            deliver(group)

        desk.state.deliver = copy_and_deliver  # type: ignore[method-assign]
        await finish(desk)
    assert copies > 15
    for number in range(1, copies + 1):
        async with open_desk(tmp_path / f"copy{number}", **fields) as desk:
            await finish(desk)
            kinds = desk.kinds(child.agent_id)
            once = ("question_asked", "question_answered", "run_accepted", "run_ended", "run_concluded")
            assert [kinds.count(name) for name in once] == [1] * 5, number
            assert desk.kinds("boss").count("mail_posted") == 2
            assert desk.answers(child.agent_id)[-1] == "it is blue"
