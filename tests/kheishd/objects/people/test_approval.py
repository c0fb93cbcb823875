"""Approvals over the socket: permissions, effects of answers, and the first answer."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from kheishd.config.sections.runs import RunsSection
from kheishd.objects.people import approval
from kheishd.store.tables import APPROVALS, DEADLINES, RUNS, RUNS_READY
from protocol.errors.approval import (
    ApprovalAlreadyResolved,
    ApprovalExpired,
    ApprovalNotFound,
    ToolInputInvalid,
)
from protocol.errors.rpc import IdempotencyConflict, InvalidParams
from protocol.errors.run import RunNotFound
from protocol.errors.session import InputTooLarge, SessionNotFound
from protocol.errors.token import ScopeMissing
from protocol.limits.call import MAX_SUBJECT_BYTES, MAX_WAITING_CALLS
from protocol.limits.permission import MAX_RESOLUTIONS, MAX_RESOLUTIONS_BYTES
from protocol.limits.units import KIB
from protocol.rpc.method import SCOPES
from protocol.transcript import ToolCall
from tests.support.household import Household, household, pages, refusal_of
from tests.support.rpc_server import Client
from tests.support.workshop import Workshop, ask, calls, hooks, write


@pytest.fixture
def workshop() -> Workshop:
    """Return the tools of the daemon."""
    return Workshop()


@pytest.fixture
async def house(tmp_path: Path, workshop: Workshop) -> AsyncIterator[Household]:
    """Serve a daemon whose model calls tools; tokens work."""
    async with household(tmp_path, tcp=True, hooks=hooks(workshop)) as house:
        yield house


async def start_waiting_run(
    house: Household, *tool_calls: Any, sender: str = "user", **params: Any
) -> tuple[str, list[str]]:
    """Start a run that waits, and return the ids of its approvals."""
    house.models.answers = calls(*(tool_calls or (write(text="x"),)))
    sent = await house.ask(sender=sender, **params)
    assert sent["status"].startswith("waiting")
    waiting = await pages(house.client, "approval.list", "approvals", run_id=sent["run_id"])
    return sent["run_id"], [row["approval_id"] for row in waiting]


def allow(approval_id: str, **more: Any) -> dict[str, Any]:
    """Return a resolution that allows."""
    return {"approval_id": approval_id, "decision": "allow", **more}


def deny(approval_id: str, **more: Any) -> dict[str, Any]:
    """Return a resolution that denies."""
    return {"approval_id": approval_id, "decision": "deny", **more}


async def resolve(client: Client, *resolutions: dict[str, Any], **more: Any) -> Any:
    """Answer approvals."""
    return await client.call("approval.resolve", resolutions=list(resolutions), **more)


async def unchanged_refusal_of(house: Household, *resolutions: dict[str, Any]) -> Any:
    """Return the refusal of answers, which changes nothing."""
    head = house.head()
    refusal = await refusal_of(house.client, "approval.resolve", resolutions=list(resolutions))
    assert house.head() == head
    return refusal


async def wait_for_run(house: Household, run_id: str) -> Any:
    """Wait until a run has ended or waits for a person, and return it."""
    return await house.call("run.wait", run_id=run_id)


# approval.get and approval.list


async def test_approval_get_ok(house: Household) -> None:
    """An approval shows the call's arguments and its preview."""
    run_id, (approval_id,) = await start_waiting_run(house, write("/a", text="x"))
    view = await house.call("approval.get", approval_id=approval_id)
    assert view["arguments"] == {"path": "/a", "text": "x"}
    assert view["preview"] == {"kind": "diff", "text": "+x"}
    assert (view["tool"], view["subject"], view["run_id"]) == ("write", "/a", run_id)
    assert (view["status"], view["agent"], view["sender"]) == ("pending", "default", "user")


async def test_approval_get_approval_not_found(house: Household) -> None:
    """An unknown id, the id of a question and an approval that is not covered are refused alike."""
    _, (approval_id,) = await start_waiting_run(house, sender="bob")
    house.models.answers = calls(ask())
    await house.ask(sender="carl")
    question_id = (await house.call("question.list"))["questions"][0]["question_id"]
    ann = await house.connect_limited(senders=["ann"])
    critic = await house.connect_limited(agents=["critic"])
    for client, name in (
        (house.client, "apr_none"),
        (house.client, question_id),
        (ann, approval_id),
        (critic, approval_id),
    ):
        refusal = await refusal_of(client, "approval.get", approval_id=name)
        assert (type(refusal), refusal.field) == (ApprovalNotFound, "$.params.approval_id")


async def test_approval_list_ok(house: Household) -> None:
    """Pending approvals are listed oldest first, of a session or run; resolved ones on request."""
    first, (one_id, two) = await start_waiting_run(house, write("/a", "c1"), write("/b", "c2"), sender="ann")
    second, (three,) = await start_waiting_run(house, sender="bob")
    await resolve(house.client, deny(one_id), allow(two))
    await wait_for_run(house, first)
    fourth, (four,) = await start_waiting_run(house, sender="carl")
    session_id = (await house.call("run.get", run_id=first))["session_id"]
    bobs = (await house.call("run.get", run_id=second))["session_id"]
    for filters, expected in (
        ({}, [three, four]),
        ({"status": "denied"}, [one_id]),
        ({"status": "pending", "run_id": second}, [three]),
        ({"run_id": fourth}, [four]),
        ({"run_id": first}, []),
        ({"run_id": first, "status": "any"}, [one_id, two]),
        ({"session_id": session_id}, []),
        ({"session_id": session_id, "status": "allowed"}, [two]),
        ({"session_id": bobs}, [three]),
        ({"session_id": bobs, "run_id": second}, [three]),
    ):
        for limit in (1, 50):
            rows = await pages(house.client, "approval.list", "approvals", limit=limit, **filters)
            assert [row["approval_id"] for row in rows] == expected, filters
    rows = await pages(house.client, "approval.list", "approvals", limit=1, status="any")
    assert sorted(row["approval_id"] for row in rows) == sorted([one_id, two, three, four])


async def test_approval_list_ok_shows_a_limited_caller_its_own(house: Household) -> None:
    """No filter and no page token shows approvals of other agents and senders."""
    _, (mine,) = await start_waiting_run(house, sender="ann")
    _, (hidden,) = await start_waiting_run(house, sender="bob")
    ann = await house.connect_limited(senders=["ann"])
    for filters in ({}, {"status": "any"}):
        rows = await pages(ann, "approval.list", "approvals", limit=1, **filters)
        assert [row["approval_id"] for row in rows] == [mine]
        page = await ann.call("approval.list", limit=1, **filters)
        assert hidden not in str(page)


async def test_approval_list_session_not_found(house: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    run_id, _ = await start_waiting_run(house, sender="bob")
    session_id = (await house.call("run.get", run_id=run_id))["session_id"]
    ann = await house.connect_limited(senders=["ann"])
    for client, name in ((house.client, "ses_none"), (ann, session_id)):
        refusal = await refusal_of(client, "approval.list", session_id=name)
        assert (type(refusal), refusal.field) == (SessionNotFound, "$.params.session_id")


async def test_approval_list_run_not_found(house: Household) -> None:
    """An unknown run, one that is not covered and one of another session are refused alike."""
    run_id, _ = await start_waiting_run(house, sender="bob")
    another = (await house.call("session.create"))["session_id"]
    ann = await house.connect_limited(senders=["ann"])
    for client, filters in (
        (house.client, {"run_id": "run_none"}),
        (house.client, {"run_id": run_id, "session_id": another}),
        (ann, {"run_id": run_id}),
    ):
        refusal = await refusal_of(client, "approval.list", **filters)
        assert (type(refusal), refusal.field) == (RunNotFound, "$.params.run_id")


# approval.resolve


async def test_approval_resolve_ok_allowed(house: Household, workshop: Workshop) -> None:
    """An allowed call runs, and the run continues to its end."""
    run_id, (approval_id,) = await start_waiting_run(house, write("/a", text="x"))
    assert workshop.done == []
    result = await resolve(house.client, allow(approval_id, justification="as agreed"))
    (view,) = result["approvals"]
    assert (result["run_id"], result["pending"]) == (run_id, 0)
    assert (view["status"], view["justification"], view["arguments"]) == (
        "allowed",
        "as agreed",
        {"path": "/a", "text": "x"},
    )
    assert view["resolved_by"].startswith("uid:")
    assert (await wait_for_run(house, run_id))["output"] == "done"
    assert workshop.done == [("write", {"path": "/a", "text": "x"})]


async def test_approval_resolve_ok_denied(house: Household, workshop: Workshop) -> None:
    """A denied call does not run; the model reads the note and not the justification."""
    run_id, (approval_id,) = await start_waiting_run(house)
    result = await resolve(house.client, deny(approval_id, note="wrong file", justification="policy 7"))
    assert result["approvals"][0]["denial_note"] == "wrong file"
    assert (await wait_for_run(house, run_id))["status"] == "completed"
    assert workshop.done == []
    read = str(house.models.requests[-1].messages)
    assert "wrong file" in read
    assert "policy 7" not in read
    (returned,) = await house.events(run_id=run_id, types=["tool_returned"])
    assert (returned["how"], returned["is_error"]) == ("denied", True)
    (answered,) = await house.events(run_id=run_id, types=["approval_answered"])
    assert returned["cursor"] == answered["cursor"] + 1


async def test_approval_resolve_ok_a_part_of_them(house: Household, workshop: Workshop) -> None:
    """No call of a batch runs while another is pending; each answer counts those that still are."""
    calls = (write("/a", "c1"), write("/b", "c2"), write("/c", "c3"))
    run_id, (first, two, three) = await start_waiting_run(house, *calls)
    assert (await resolve(house.client, allow(two)))["pending"] == 2
    assert (await resolve(house.client, deny(first)))["pending"] == 1
    assert (await house.call("run.get", run_id=run_id))["status"] == "waiting_for_approval"
    assert workshop.done == []
    assert (await resolve(house.client, allow(three)))["pending"] == 0
    await wait_for_run(house, run_id)
    assert [arguments["path"] for _, arguments in workshop.done] == ["/b", "/c"]


async def test_approval_resolve_ok_with_another_input(house: Household, workshop: Workshop) -> None:
    """A changed input runs as the tool takes it, and the model is told of the change."""
    run_id, (approval_id,) = await start_waiting_run(house)
    result = await resolve(house.client, allow(approval_id, updated_input={"path": "/b", "times": "3"}))
    assert result["approvals"][0]["updated_input"] == {"path": "/b", "times": 3}
    await wait_for_run(house, run_id)
    assert workshop.done == [("write", {"path": "/b", "times": 3})]
    assert "changed its input" in str(house.models.requests[-1].messages[-1])


@pytest.mark.parametrize("remember", ["run", "session"])
async def test_approval_resolve_ok_remembered(house: Household, remember: str) -> None:
    """The event holds the grant: the tool, the exact subject and the number of uses."""
    run_id, (approval_id,) = await start_waiting_run(house, write("/a*"))
    await resolve(house.client, allow(approval_id, remember=remember, uses=3))
    (event,) = await house.events(run_id=run_id, types=["approval_answered"])
    grant = event["grant"]
    assert grant.pop("grant_id").startswith("grt_")
    by = grant.pop("granted_by")
    assert by == event["actor"]
    assert grant == {"tool": "write", "subject": "/a*", "remaining_uses": 3, "approval_id": approval_id}
    assert event["remember"] == remember


async def test_approval_resolve_ok_by_two_at_once(house: Household, workshop: Workshop) -> None:
    """Of two clients one is first; the other learns who was, and the call runs once."""
    run_id, (approval_id,) = await start_waiting_run(house)
    _, secret = await house.server.token(scopes=list(SCOPES))
    second = await house.server.connect_websocket(secret)
    results: list[str] = []

    async def answer(client: Client, resolution: dict[str, Any]) -> None:
        try:
            await resolve(client, resolution)
            results.append("first")
        except ApprovalAlreadyResolved as refusal:
            results.append(refusal.message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, house.client, allow(approval_id))
        nursery.start_soon(answer, second, deny(approval_id))
    assert sorted(results)[1] == "first"
    view = await house.call("approval.get", approval_id=approval_id)
    assert f"{view['status']} by {view['resolved_by']}" in sorted(results)[0]
    await wait_for_run(house, run_id)
    assert len(workshop.done) == (1 if view["status"] == "allowed" else 0)
    assert len(await house.events(run_id=run_id, types=["approval_answered"])) == 1


async def test_approval_resolve_ok_repeated_by_its_key(house: Household) -> None:
    """A repeated request returns the same result, although the approval is resolved."""
    _, (approval_id,) = await start_waiting_run(house)
    first = await resolve(house.client, allow(approval_id), idempotency_key="k")
    assert await resolve(house.client, allow(approval_id), idempotency_key="k") == first
    with pytest.raises(IdempotencyConflict):
        await resolve(house.client, deny(approval_id), idempotency_key="k")


async def test_approval_resolve_ok_as_a_check(house: Household) -> None:
    """A check returns the result and leaves the approval pending."""
    _, (approval_id,) = await start_waiting_run(house)
    head = house.head()
    checked = await resolve(house.client, deny(approval_id), check=True)
    assert (checked["approvals"][0]["status"], house.head()) == ("denied", head)
    assert (await house.call("approval.get", approval_id=approval_id))["status"] == "pending"


async def test_approval_resolve_ok_while_a_large_batch_is_still_judged(tmp_path: Path) -> None:
    """The first calls of a large batch can be answered while the others are still judged."""
    workshop, first = Workshop(), trio.Event()
    gate = trio.Event()

    class Slow(Workshop):
        async def preview(self, use: Any) -> Any:
            if use.call_id == "c20":
                first.set()
                await gate.wait()
            return None

    workshop = Slow()
    async with household(tmp_path, hooks=hooks(workshop)) as house:
        early = [write(f"/{number}", f"c{number}") for number in range(10)]
        looks = [ToolCall(f"c{number}", "look", {"path": "/"}) for number in range(10, 20)]
        house.models.answers = calls(*early, *looks, write("/20", "c20"), write("/21", "c21"))
        sent = await house.send()
        await first.wait()
        waiting = (await house.call("approval.list", run_id=sent["run_id"]))["approvals"]
        assert [row["call_id"] for row in waiting] == [call.call_id for call in early]
        result = await resolve(house.client, *(allow(row["approval_id"]) for row in waiting))
        assert result["pending"] == 0
        gate.set()
        assert (await wait_for_run(house, sent["run_id"]))["status"] == "waiting_for_approval"
        assert workshop.done == []
        rest = (await house.call("approval.list", run_id=sent["run_id"]))["approvals"]
        await resolve(house.client, *(deny(row["approval_id"]) for row in rest))
        assert (await wait_for_run(house, sent["run_id"]))["status"] == "completed"
        written = [arguments["path"] for tool, arguments in workshop.done if tool == "write"]
        assert written == [f"/{number}" for number in range(10)]


async def test_approval_resolve_ok_after_a_restart(tmp_path: Path) -> None:
    """A pending approval survives a restart; the next daemon takes the answer and finishes the run."""
    async with household(tmp_path, hooks=hooks(Workshop())) as house:
        run_id, approvals = await start_waiting_run(house, write("/a", "c1"), write("/b", "c2"))
    workshop = Workshop()
    async with household(tmp_path, hooks=hooks(workshop)) as house:
        house.models.answers = calls(write())[1:]
        rows = (await house.call("approval.list"))["approvals"]
        assert [row["approval_id"] for row in rows] == approvals
        await resolve(house.client, *map(allow, approvals))
        assert (await wait_for_run(house, run_id))["output"] == "done"
    assert [arguments["path"] for _, arguments in workshop.done] == ["/a", "/b"]


async def test_approval_resolve_approval_not_found(house: Household) -> None:
    """An unknown or uncovered approval is refused, and then none of the others is answered."""
    _, (approval_id,) = await start_waiting_run(house, sender="bob")
    refusal = await unchanged_refusal_of(house, deny(approval_id), deny("apr_none"))
    assert (type(refusal), refusal.field) == (
        ApprovalNotFound,
        "$.params.resolutions[1].approval_id",
    )
    ann = await house.connect_limited(senders=["ann"])
    for resolution in (allow(approval_id), allow(approval_id, updated_input={"path": "/b"})):
        with pytest.raises(ApprovalNotFound):
            await resolve(ann, resolution)


async def test_approval_resolve_approval_already_resolved(house: Household) -> None:
    """A second answer learns who gave the first and which, or that the run has ended."""
    run_id, (first, two) = await start_waiting_run(house, write("/a", "c1"), write("/b", "c2"))
    await resolve(house.client, deny(first))
    refusal = await unchanged_refusal_of(house, allow(two), allow(first))
    assert (type(refusal), refusal.field) == (
        ApprovalAlreadyResolved,
        "$.params.resolutions[1].approval_id",
    )
    assert "was denied by uid:" in refusal.message
    await house.call("run.cancel", run_id=run_id)
    refusal = await unchanged_refusal_of(house, allow(two))
    assert isinstance(refusal, ApprovalAlreadyResolved)
    assert "its run has ended" in refusal.message


async def test_approval_resolve_approval_expired(tmp_path: Path) -> None:
    """A late answer is refused, even before the expiry is recorded."""
    limits = RunsSection(approval_expires_s=0.001)
    async with household(tmp_path, hooks=hooks(Workshop()), runs=limits) as house:
        run_id, (approval_id,) = await start_waiting_run(house)
        with house.state.read() as store:
            record = store.get(APPROVALS, approval_id)
        assert record is not None
        assert record.expires_at_ms is not None
        while house.state.now_ms() < record.expires_at_ms:
            await trio.lowlevel.checkpoint()
        assert isinstance(await unchanged_refusal_of(house, allow(approval_id)), ApprovalExpired)
        await house.state.update(lambda tx: approval.expire(tx, approval_id))
        assert (await wait_for_run(house, run_id))["status"] == "completed"
        assert isinstance(await unchanged_refusal_of(house, allow(approval_id)), ApprovalExpired)
        assert "nobody answered in time" in str(house.models.requests[-1].messages[-1])
        assert (await house.call("approval.get", approval_id=approval_id))["status"] == "expired"


async def test_approval_resolve_tool_input_invalid(house: Household) -> None:
    """An input that the tool rejects is refused with the reason; so is any input of a tool that is gone."""
    _, (approval_id,) = await start_waiting_run(house)
    refusal = await unchanged_refusal_of(house, allow(approval_id, updated_input={"path": 7}))
    assert (type(refusal), refusal.field) == (
        ToolInputInvalid,
        "$.params.resolutions[0].updated_input",
    )
    assert "path" in refusal.message
    house.holder.replace(with_hooks(house, hooks()))
    refusal = await unchanged_refusal_of(house, allow(approval_id, updated_input={"path": "/b"}))
    assert isinstance(refusal, ToolInputInvalid)
    assert "the tool 'write' no longer exists" in refusal.message


def with_hooks(house: Household, composite: Any) -> Any:
    """Replace the runtime by one with other tools."""
    return replace(house.holder.current(), generation=2, load_hooks=lambda: composite)


async def test_approval_resolve_input_too_large(house: Household) -> None:
    """The answers of one request share a limit."""
    _, (approval_id,) = await start_waiting_run(house)
    large = {"path": "/a", "text": "x" * MAX_RESOLUTIONS_BYTES}
    assert isinstance(
        await unchanged_refusal_of(house, allow(approval_id, updated_input=large)), InputTooLarge
    )
    _, approvals = await start_waiting_run(
        house, *(write(f"/{n}", f"c{n}") for n in range(MAX_WAITING_CALLS)), sender="bob"
    )
    wordy = [deny(approval_id, note='"' * 2 * KIB) for approval_id in approvals]
    refusal = await unchanged_refusal_of(house, *wordy)
    assert (type(refusal), refusal.field) == (InputTooLarge, "$.params.resolutions")


async def test_the_most_approvals_are_answered_at_once(house: Household, workshop: Workshop) -> None:
    """All pending approvals of one message, with the longest texts, fit into one transaction."""
    others = [ToolCall(f"{number}" + "c" * 30, "look", {"path": "/"}) for number in range(200)]
    calls = [write(f"/{number}" + "p" * 1000, f"w{number}" + "c" * 30) for number in range(MAX_WAITING_CALLS)]
    _, approvals = await start_waiting_run(house, *others, *calls)
    assert len(approvals) == MAX_WAITING_CALLS == MAX_RESOLUTIONS
    several, last = approvals[:-1], approvals[-1]
    result = await resolve(
        house.client,
        *(deny(row, note="r" * 1100, justification="j" * 120) for row in several),
        idempotency_key="k",
    )
    assert result["pending"] == 1
    assert all(len(row["arguments"]["path"]) > 1000 for row in result["approvals"])
    _, approvals = await start_waiting_run(house, *calls, sender="another")
    large = {"path": "/a", "text": "x" * (MAX_RESOLUTIONS_BYTES - 1 * KIB)}
    await resolve(house.client, allow(last, updated_input=large), idempotency_key="l")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"decision": "deny", "remember": "run"}, "remember"),
        ({"decision": "deny", "updated_input": {}}, "updated_input"),
        ({"uses": 3}, "uses"),
        # A grant would allow the model's input, not the changed one.
        ({"updated_input": {"path": "/b", "text": "b"}, "remember": "session"}, "remember"),
        ({"updated_input": {"path": "/b", "text": "b"}, "remember": "run"}, "remember"),
    ],
)
async def test_contradictory_answers_are_refused(
    house: Household, changes: dict[str, Any], field: str
) -> None:
    """Contradictory answers are refused by their field."""
    _, (approval_id,) = await start_waiting_run(house)
    refusal = await unchanged_refusal_of(house, allow(approval_id) | changes)
    assert (type(refusal), refusal.field) == (InvalidParams, f"$.params.resolutions[0].{field}")


async def test_answers_of_one_request_are_about_one_run_once(house: Household) -> None:
    """One request answers each approval once, and approvals of one run only."""
    _, (first,) = await start_waiting_run(house, sender="ann")
    _, (two,) = await start_waiting_run(house, sender="bob")
    for second in (two, first):
        refusal = await unchanged_refusal_of(house, allow(first), allow(second))
        assert (type(refusal), refusal.field) == (
            InvalidParams,
            "$.params.resolutions[1].approval_id",
        )


async def test_a_truncated_subject_is_not_remembered(house: Household) -> None:
    """A grant matches a subject exactly, and a truncated subject is only a beginning."""
    _, (approval_id,) = await start_waiting_run(house, write("/" + "a" * MAX_SUBJECT_BYTES + "/harmless"))
    refusal = await unchanged_refusal_of(house, allow(approval_id, remember="session"))
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.resolutions[0].remember")
    await resolve(house.client, allow(approval_id))


async def test_answering_takes_its_own_right(house: Household) -> None:
    """Answering requires a scope of its own, beyond those of other methods."""
    _, (approval_id,) = await start_waiting_run(house)
    client = await house.connect_limited(scopes=["read", "converse", "operate"])
    with pytest.raises(ScopeMissing):
        await resolve(client, allow(approval_id))


# Approvals that nobody answers.


async def test_a_cancelled_run_withdraws_its_approvals(house: Household) -> None:
    """Its approvals are withdrawn, its calls have results, and the session's next run starts."""
    run_id, (approval_id,) = await start_waiting_run(house)
    house.models.answers = calls(write())[1:]
    queued = await house.send("next")
    assert (await house.call("run.cancel", run_id=run_id))["status"] == "cancelled"
    assert (await house.call("approval.get", approval_id=approval_id))["status"] == "withdrawn"
    assert (await house.call("approval.list"))["approvals"] == []
    assert (await wait_for_run(house, queued["run_id"]))["status"] == "completed"


async def test_an_approval_expires_once_and_in_its_time(tmp_path: Path) -> None:
    """A pending approval expires in its time; the call is denied and the run continues."""
    limits = RunsSection(approval_expires_s=3600)
    async with household(tmp_path, hooks=hooks(Workshop()), runs=limits) as house:
        run_id, (first, two) = await start_waiting_run(house, write("/a", "c1"), write("/b", "c2"))
        head = house.head()
        await house.state.update(lambda tx: approval.expire(tx, first))
        await house.state.update(lambda tx: approval.expire(tx, "apr_none"))
        assert house.head() == head
        later = house.state.now_ms() + 3_600_000
        house.state.now_ms = lambda: later
        await house.state.update(lambda tx: approval.expire(tx, first))
        await house.state.update(lambda tx: approval.expire(tx, first))
        with house.state.read() as store:
            run = store.get(RUNS, run_id)
            assert (store.count(DEADLINES), store.count(RUNS_READY)) == (1, 0)
        assert run is not None
        assert [call.state for call in run.calls] == ["returned", "asked"]
        await house.state.update(lambda tx: approval.expire(tx, two))
        assert (await wait_for_run(house, run_id))["status"] == "completed"
