"""Audiences over the socket: only the people of a request answer it, each once."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from kheishd.objects.people.audience import MAX_WARNINGS, find_unanswerable, requester_of
from kheishd.records.doctor import examine_whole
from kheishd.store.tables import APPROVALS, RUNS, SESSIONS
from protocol.errors.approval import AlreadyVoted, ApprovalAlreadyResolved, ApprovalNotFound, NotInAudience
from protocol.errors.conversation import SenderForbidden, SenderInvalid
from protocol.errors.rpc import InvalidParams
from protocol.errors.run import RunNotFound
from protocol.rpc.method import SCOPES
from tests.support.household import Household, household, refusal_of
from tests.support.rpc_server import Client
from tests.support.workshop import Workshop, ask, calls, hooks, write

RED, BLUE = ([{"key": "q1", "selected": [option]}] for option in ("o1", "o2"))


@pytest.fixture
def workshop() -> Workshop:
    """Return the tools of the daemon."""
    return Workshop()


@pytest.fixture
async def house(tmp_path: Path, workshop: Workshop) -> AsyncIterator[Household]:
    """Serve a daemon whose model calls tools; tokens work."""
    async with household(tmp_path, tcp=True, hooks=hooks(workshop)) as house:
        yield house


async def name_audience(house: Household, tool: str = "write", **audience: Any) -> None:
    """Add a rule that asks these people."""
    rule = {"tool": tool, "decision": "ask", "audience": audience}
    await house.call("permission.update", add=[rule])


async def start(house: Household, call: Any = None, **params: Any) -> tuple[str, str]:
    """Start a run that waits for an answer; return its id and that of its approval or question."""
    house.models.answers = calls(call or write(text="x"))
    sent = await house.ask(**({"sender": "user"} | params))
    assert sent["status"].startswith("waiting"), sent
    for kind in ("approval", "question"):
        for row in (await house.call(f"{kind}.list", run_id=sent["run_id"]))[f"{kind}s"]:
            return sent["run_id"], row[f"{kind}_id"]
    raise AssertionError("nothing waits")


async def connect(house: Household, *senders: str) -> Client:
    """Connect a caller that may do everything for these senders and for the run's."""
    return await house.connect_limited(scopes=list(SCOPES), senders=[*senders])


async def resolve(client: Client, approval_id: str, decision: str = "allow", **more: Any) -> Any:
    """Answer an approval, and return it."""
    top = {name: more.pop(name) for name in ("sender",) if name in more}
    resolution = {"approval_id": approval_id, "decision": decision, **more}
    return (await client.call("approval.resolve", resolutions=[resolution], **top))["approvals"][0]


async def refuse(client: Client, approval_id: str, decision: str = "allow", **more: Any) -> Any:
    """Return the refusal of an answer."""
    top = {name: more.pop(name) for name in ("sender",) if name in more}
    resolution = {"approval_id": approval_id, "decision": decision, **more}
    return await refusal_of(client, "approval.resolve", resolutions=[resolution], **top)


async def test_approval_resolve_not_in_audience(house: Household, workshop: Workshop) -> None:
    """Nobody outside of the audience allows or denies, not even the operator; one of its people does."""
    await name_audience(house, people=["user", "bea"])
    run_id, approval_id = await start(house)
    for decision in ("allow", "deny"):
        refusal = await refuse(house.client, approval_id, decision)
        assert (type(refusal), refusal.field) == (NotInAudience, "$.params.resolutions[0].approval_id")
        assert "its audience is: user, bea" in refusal.message
    assert workshop.done == []
    (requested,) = await house.events(run_id=run_id, types=["approval_requested"])
    assert requested["audience"] == {"people": ["user", "bea"]}
    user = await connect(house, "user")
    view = await resolve(user, approval_id)
    assert (view["status"], view["resolved_by"]) == ("allowed", "user")
    refusal = await refuse(house.client, approval_id)
    assert type(refusal) is ApprovalAlreadyResolved
    assert "was allowed by user already" in refusal.message
    assert (await house.call("run.wait", run_id=run_id))["status"] == "completed"


async def test_the_requester_answers(house: Household) -> None:
    """The requester is the sender of the run and the principal that sent it, and no other sender."""
    await name_audience(house, requester=True)
    _, approval_id = await start(house, sender="ada")
    approval = await house.call("approval.get", approval_id=approval_id)
    assert approval["audience"]["people"][0] == "ada"
    both = await connect(house, "ada", "bea")
    assert type(await refuse(both, approval_id, sender="bea")) is NotInAudience
    assert (await resolve(house.client, approval_id))["resolved_by"].startswith("uid:")


async def test_approval_resolve_already_voted(house: Household, workshop: Workshop) -> None:
    """Each person has one vote that stays; the call runs after the second allow, and the others learn it."""
    await name_audience(house, people=["user", "bea", "carl"], votes=2)
    run_id, approval_id = await start(house)
    gateway = await connect(house, "user", "bea", "carl")
    view = await resolve(gateway, approval_id, sender="user", justification="fine")
    assert (view["status"], view["votes"]) == ("pending", [{"person": "user", "choice": "allow"}])
    for decision in ("allow", "deny"):
        refusal = await refuse(gateway, approval_id, decision, sender="user")
        assert type(refusal) is AlreadyVoted
    refusal = await refuse(gateway, approval_id, sender="bea", updated_input={"path": "/b"})
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.resolutions[0].updated_input")
    assert workshop.done == []
    await resolve(gateway, approval_id, "deny", sender="carl")
    view = await resolve(gateway, approval_id, sender="bea")
    assert (view["status"], view["resolved_by"]) == ("allowed", "user, bea")
    refusal = await refuse(gateway, approval_id, sender="bea")
    assert "allowed by user, bea already; the votes are complete" in refusal.message
    await house.call("run.wait", run_id=run_id)
    assert len(workshop.done) == 1
    rows = (await house.call("permission.audit", run_id=run_id, order="oldest"))["audits"]
    assert [(row["actor"], row["decision"]) for row in rows if row.get("is_vote")] == [
        ("user", "allow"),
        ("carl", "deny"),
        ("bea", "allow"),
    ]
    assert examine_whole(house.state.read, deep=True).findings == []


async def test_a_call_is_denied_once_its_votes_are_impossible(house: Household, workshop: Workshop) -> None:
    """After two denials of three people, two allows are impossible, and the model reads the note."""
    await name_audience(house, people=["user", "bea", "carl"], votes=2)
    run_id, approval_id = await start(house)
    gateway = await connect(house, "user", "bea", "carl")
    await resolve(gateway, approval_id, "deny", sender="bea")
    view = await resolve(gateway, approval_id, "deny", sender="carl", note="not today")
    assert (view["status"], view["resolved_by"]) == ("denied", "bea, carl")
    await house.call("run.wait", run_id=run_id)
    assert workshop.done == []
    assert "not today" in str(house.models.requests[-1].messages)


async def test_two_clients_that_vote_at_once_are_one_after_the_other(
    house: Household, workshop: Workshop
) -> None:
    """Of many votes at once, the second one decides, the rest are refused, and the call runs once."""
    people = ["user", "bea", "carl"]
    await name_audience(house, people=people, votes=2)
    run_id, approval_id = await start(house)
    results: list[str] = []

    async def vote(client: Client, person: str) -> None:
        try:
            results.append((await resolve(client, approval_id, sender=person))["status"])
        except (AlreadyVoted, ApprovalAlreadyResolved) as refusal:
            results.append(refusal.reason)

    clients = [(await connect(house, *people), person) for person in people * 2]
    async with trio.open_nursery() as nursery:
        for client, person in clients:
            nursery.start_soon(vote, client, person)
    assert len([status for status in results if status in ("pending", "allowed")]) == 2
    await house.call("run.wait", run_id=run_id)
    assert len(workshop.done) == 1


async def test_several_people_remember_only_together(house: Household) -> None:
    """A grant needs the wish of all who allowed, and answers no asks of a narrower audience."""
    await name_audience(house, people=["user", "bea"], votes=2)
    run_id, approval_id = await start(house)
    gateway = await connect(house, "user", "bea")
    await resolve(gateway, approval_id, sender="user", remember="session")
    assert (await resolve(gateway, approval_id, sender="bea")).get("remember", "once") == "once"
    await house.call("run.wait", run_id=run_id)
    run_id, approval_id = await start(house)
    await resolve(gateway, approval_id, sender="user", remember="session", uses=5)
    await resolve(gateway, approval_id, sender="bea", remember="session", uses=3)
    await house.call("run.wait", run_id=run_id)
    house.models.answers = calls(write(text="x"))
    assert (await house.ask(sender="user"))["status"] == "completed"
    await name_audience(house, people=["bea"])
    run_id, approval_id = await start(house)
    why = await house.call("permission.why", run_id=run_id, tool="write", subject="/a", facts={})
    assert why["audience"] == {"people": ["bea"]}
    assert any("is of another audience: 2 of user, bea" in line["text"] for line in why["lines"])


async def allow_together(house: Household, run_id: str) -> dict[str, Any]:
    """Let two people allow the only pending approval of a run, and return it as it was shown."""
    (shown,) = (await house.call("approval.list", run_id=run_id))["approvals"]
    assert shown["audience"] == {"people": ["user", "bea"], "votes": 2}
    gateway = await connect(house, "user", "bea")
    for person in ("user", "bea"):
        await resolve(gateway, shown["approval_id"], sender=person)
    assert (await house.call("run.wait", run_id=run_id))["status"] == "completed"
    return dict(shown)


async def test_a_changed_input_is_asked_of_its_own_audience(house: Household, workshop: Workshop) -> None:
    """One approver does not turn a call that they may allow into one that needs two other people."""
    audience = {"people": ["user", "bea"], "votes": 2}
    rule = {"tool": "write", "decision": "ask", "subject": "/deploy", "audience": audience}
    await house.call("permission.update", add=[rule])
    run_id, approval_id = await start(house)
    await resolve(house.client, approval_id, updated_input={"path": "/deploy", "text": "y"})
    await house.call("run.wait", run_id=run_id)
    assert workshop.done == []
    shown = await allow_together(house, run_id)
    assert (shown["subject"], shown["arguments"]) == ("/deploy", {"path": "/deploy", "text": "y"})
    assert workshop.done == [("write", {"path": "/deploy", "text": "y"})]


async def test_an_audience_that_is_added_meanwhile_answers(house: Household, workshop: Workshop) -> None:
    """A rule with an audience that comes while a call waits is not met by the answer of others."""
    run_id, approval_id = await start(house)
    await name_audience(house, people=["user", "bea"], votes=2)
    await resolve(house.client, approval_id)
    await house.call("run.wait", run_id=run_id)
    assert workshop.done == []
    await allow_together(house, run_id)
    assert len(workshop.done) == 1


async def test_no_mode_answers_for_an_audience(house: Household) -> None:
    """A session whose mode allows everything still asks the audience."""
    await name_audience(house, people=["bea"])
    session_id = (await house.call("session.create", permission_mode="bypassPermissions"))["session_id"]
    house.models.answers = calls(write(text="x"))
    sent = await house.call("session.send", session_id=session_id, content="hello", wait="settled")
    assert sent["status"] == "waiting_for_approval"


async def refuse_sender(house: Household, kind: str, sender: str | None, *senders: str) -> Any:
    """Return the refusal of an answer for a sender by a caller with these senders, or of the operator."""
    call = write(text="x") if kind == "approval.resolve" else ask()
    await name_audience(house, call.name, people=["user", "uid:77"])
    _, name = await start(house, call, sender=(senders or ("user",))[-1])
    client = await connect(house, *senders) if senders else house.client
    if kind == "approval.resolve":
        return await refuse(client, name, sender=sender)
    params = {"answers": RED} if kind == "question.answer" else {}
    return await refusal_of(client, kind, question_id=name, sender=sender, **params)


async def require_sender_forbidden(house: Household, method: str) -> None:
    """Require that nobody answers for a sender that its rights do not name."""
    for sender, senders in (("user", ()), ("carl", ("user", "bea"))):
        refusal = await refuse_sender(house, method, sender, *senders)
        assert (type(refusal), refusal.field) == (SenderForbidden, "$.params.sender")


async def require_sender_invalid(house: Household, method: str) -> None:
    """Require that a sender with the name of a principal answers for nobody."""
    refusal = await refuse_sender(house, method, "uid:77", "uid:77", "user")
    assert (type(refusal), refusal.field) == (SenderInvalid, "$.params.sender")


async def test_approval_resolve_sender_forbidden(house: Household) -> None:
    """Nobody votes for a sender that its rights do not name."""
    await require_sender_forbidden(house, "approval.resolve")


async def test_approval_resolve_sender_invalid(house: Household) -> None:
    """A sender with the name of a principal has no vote."""
    await require_sender_invalid(house, "approval.resolve")


async def test_question_answer_sender_forbidden(house: Household) -> None:
    """Nobody answers for a sender that its rights do not name."""
    await require_sender_forbidden(house, "question.answer")


async def test_question_answer_sender_invalid(house: Household) -> None:
    """A sender with the name of a principal answers nothing."""
    await require_sender_invalid(house, "question.answer")


async def test_question_cancel_sender_forbidden(house: Household) -> None:
    """Nobody cancels for a sender that its rights do not name."""
    await require_sender_forbidden(house, "question.cancel")


async def test_question_cancel_sender_invalid(house: Household) -> None:
    """A sender with the name of a principal cancels nothing."""
    await require_sender_invalid(house, "question.cancel")


async def test_a_caller_answers_as_one_of_its_senders(house: Household) -> None:
    """A caller is the sender that its rights name, and never its principal as well."""
    await name_audience(house, people=["user", "bea", "uid:77"], votes=2)
    _, approval_id = await start(house)
    both = await connect(house, "user", "bea")
    refusal = await refuse(both, approval_id)
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.sender")
    one = await connect(house, "user")
    assert (await resolve(one, approval_id))["votes"] == [{"person": "user", "choice": "allow"}]


async def test_question_answer_already_voted(house: Household) -> None:
    """Two equal answers of three answer a question; three different ones decline it."""
    await name_audience(house, "ask_user_question", people=["user", "bea", "carl"], votes=2)
    gateway = await connect(house, "user", "bea", "carl")
    run_id, question_id = await start(house, ask())

    async def answer(person: str, **params: Any) -> Any:
        return await gateway.call("question.answer", question_id=question_id, sender=person, **params)

    assert (await answer("user", answers=RED))["status"] == "pending"
    refusal = await refusal_of(
        gateway, "question.answer", question_id=question_id, sender="user", answers=BLUE
    )
    assert (type(refusal), refusal.field) == (AlreadyVoted, "$.params.question_id")
    assert (await answer("bea", answers=BLUE))["status"] == "pending"
    view = await answer("carl", answers=RED)
    assert (view["status"], view["resolved_by"], view["answers"]) == ("answered", "user, carl", RED)
    await house.call("run.wait", run_id=run_id)
    run_id, question_id = await start(house, ask())
    await answer("user", answers=RED)
    await answer("bea", answers=BLUE)
    view = await answer("carl", declined=True)
    assert (view["status"], view["resolved_by"]) == ("declined", "user, bea, carl")
    assert "did not agree" in view["justification"]
    await house.call("run.wait", run_id=run_id)
    assert examine_whole(house.state.read, deep=True).findings == []


async def test_question_answer_not_in_audience(house: Household) -> None:
    """Nobody outside of the audience answers or declines."""
    await name_audience(house, "ask_user_question", people=["user"])
    _, question_id = await start(house, ask())
    for params in ({"answers": RED}, {"declined": True}):
        refusal = await refusal_of(house.client, "question.answer", question_id=question_id, **params)
        assert (type(refusal), refusal.field) == (NotInAudience, "$.params.question_id")


async def test_question_cancel_not_in_audience(house: Household) -> None:
    """To cancel a question is an answer, too."""
    await name_audience(house, "ask_user_question", people=["user"])
    _, question_id = await start(house, ask())
    refusal = await refusal_of(house.client, "question.cancel", question_id=question_id)
    assert (type(refusal), refusal.field) == (NotInAudience, "$.params.question_id")
    user = await connect(house, "user")
    view = await user.call("question.cancel", question_id=question_id)
    assert (view["status"], view["resolved_by"]) == ("cancelled", "user")


async def test_a_request_that_nobody_can_answer_is_reported(house: Household) -> None:
    """There is a warning while too few people of an audience have a token or a socket."""
    await name_audience(house, people=["user", "bea", "uid:0"], votes=3)
    for _ in range(MAX_WARNINGS + 1):
        await start(house, sender=f"user{_}")
    _, approval_id = await start(house)

    def warnings() -> list[str]:
        with house.state.read() as store:
            assert store.get(APPROVALS, approval_id) is not None
            return find_unanswerable(store, house.state.now_ms(), None)

    assert len(warnings()) == MAX_WARNINGS
    assert "its audience is 3 of user, bea, uid:0, and 1 of them" in warnings()[0]
    await connect(house, "user", "bea")
    assert warnings() == []


async def test_a_child_has_the_requester_of_the_session_above(house: Household) -> None:
    """The requester of a run is the principal that sent it if it has no sender."""
    await name_audience(house, requester=True)
    session_id = (await house.call("session.create"))["session_id"]
    house.models.answers = calls(write(text="x"))
    sent = await house.call("session.send", session_id=session_id, content="hello", wait="settled")
    (row,) = (await house.call("approval.list", run_id=sent["run_id"]))["approvals"]
    (actor,) = row["audience"]["people"]
    assert actor.startswith("uid:")


async def test_a_rule_with_an_unusable_audience_is_refused(house: Household) -> None:
    """The refusal names the field of the rule."""
    rule = {"tool": "write", "decision": "allow", "audience": {"requester": True}}
    refusal = await house.refusal_of("permission.update", add=[rule])
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.add[0].audience")


async def test_who_is_named_may_read_and_answer_the_request(house: Household, workshop: Workshop) -> None:
    """A person with a token for herself alone finds the request about another person's run, and no other."""
    _, hidden = await start(house, sender="carl")
    await name_audience(house, people=["bea"])
    run_id, approval_id = await start(house)
    bea = await connect(house, "bea")
    rows = (await bea.call("approval.list"))["approvals"]
    assert [row["approval_id"] for row in rows] == [approval_id]
    refusal = await refusal_of(bea, "approval.get", approval_id=hidden)
    assert type(refusal) is ApprovalNotFound
    assert type(await refusal_of(bea, "run.get", run_id=run_id)) is RunNotFound
    assert (await resolve(bea, approval_id))["resolved_by"] == "bea"
    await house.call("run.wait", run_id=run_id)
    assert len(workshop.done) == 1
    critic = await house.connect_limited(scopes=list(SCOPES), senders=["bea"], agents=["critic"])
    assert (await critic.call("approval.list", status="any"))["approvals"] == []


async def test_the_daemons_own_runs_have_the_requester_of_their_session(house: Household) -> None:
    """A run that nobody sent belongs to the person of the conversation."""
    await house.ask(sender="ada")
    with house.state.read() as store:
        (run,) = [run for _, run in store.scan(RUNS)]
        session = store.need(SESSIONS, run.session_id)
        assert requester_of(store, session, run)[0] == "ada"
        own = replace(run, sender=None, accepted_cursor=store.last_cursor)
        assert requester_of(store, session, own)[0] == "ada"
