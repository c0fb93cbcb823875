"""Runs over the socket: shown, awaited, cancelled, and their debug captures."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from kheishd.config.sections.debug import DebugSection
from kheishd.config.sections.runs import RunsSection
from kheishd.core.text.scrub import Scrubber
from kheishd.debug.captures import CaptureService
from kheishd.debug.files import CaptureFiles
from kheishd.kernel.runtime import RouteSpec
from kheishd.providers.caller import ProviderCaller
from protocol.errors.rpc import InvalidParams, Overloaded
from protocol.errors.run import ArtifactNotFound, DebugNotFound, RunAlreadyEnded, RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.errors.token import ScopeMissing
from protocol.limits.rpc import MAX_RUN_WAITS
from tests.support.household import Household, household, pages, refusal_of
from tests.support.model_server import ModelServer, running_model_server
from tests.support.runtimes import change_runtime


async def require_not_found(house: Household, method: str) -> None:
    """Require that the method refuses an unknown run and an uncovered one alike."""
    sent = await house.send(agent="reviewer", sender="bob")
    ann = await house.connect_limited(senders=["ann"])
    critic = await house.connect_limited(agents=["critic"])
    for client, run_id in ((house.client, "run_none"), (ann, sent["run_id"]), (critic, sent["run_id"])):
        refusal = await refusal_of(client, method, run_id=run_id)
        assert (type(refusal), refusal.field) == (RunNotFound, "$.params.run_id")


# run.get


async def test_run_get_ok(house: Household) -> None:
    """A run is shown with its pinned values, its cost and its answer."""
    sent = await house.ask("one", sender="ann")
    run = await house.call("run.get", run_id=sent["run_id"])
    assert (run["status"], run["output"], run["sender"]) == ("completed", "You said: one", "ann")
    assert run["pinned"]["route"] == "offline"
    assert run["started_at_ms"] <= run["ended_at_ms"]
    assert run["usage"] == {"input_tokens": 1, "output_tokens": 1}


async def test_run_get_ok_shows_the_queue_position(idle: Household) -> None:
    """Position 1 is next; the first open run has none, because it only waits for a worker."""
    sent = [await idle.send() for _ in range(3)]
    views = [await idle.call("run.get", run_id=result["run_id"]) for result in sent]
    assert [view.get("queue_position") for view in views] == [None, 1, 2]
    assert all("output" not in view for view in views)


async def test_run_get_run_not_found(idle: Household) -> None:
    """An unknown run, and one that the token does not cover, are refused alike."""
    await require_not_found(idle, "run.get")


# run.list


async def test_run_list_ok(house: Household) -> None:
    """Runs are listed from either end, of one session or of all, by status, in pages."""
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
    for filters, expected in (
        ({"active": True}, [queued, slow["run_id"]]),
        ({"status": "queued"}, [queued]),
        ({"status": "completed", "order": "oldest"}, done),
    ):
        assert [row["run_id"] for row in (await house.call("run.list", **filters))["runs"]] == expected
    gate.opened.set()


async def test_run_list_ok_shows_a_limited_caller_its_own(idle: Household) -> None:
    """No filter shows runs of other agents and senders."""
    sent = [
        await idle.send(agent=agent, sender=sender)
        for agent, sender in (("default", "ann"), ("default", "bob"), ("critic", "ann"))
    ]
    ann = await idle.connect_limited(agents=["default"], senders=["ann"])
    for filters in ({}, {"active": True}, {"status": "queued"}, {"session_id": sent[0]["session_id"]}):
        rows = await pages(ann, "run.list", "runs", limit=1, **filters)
        assert [row["run_id"] for row in rows] == [sent[0]["run_id"]]


async def test_run_list_ok_hides_runs_of_other_senders(idle: Household) -> None:
    """Runs of other senders in a covered session are left out."""
    sent = await idle.send(sender="ann")
    await idle.call("session.send", session_id=sent["session_id"], sender="bob", content="x")
    ann = await idle.connect_limited(senders=["ann"])
    rows = (await ann.call("run.list", session_id=sent["session_id"]))["runs"]
    assert [row["run_id"] for row in rows] == [sent["run_id"]]


async def test_a_run_belongs_to_its_session(idle: Household) -> None:
    """A covered sender's run in an uncovered session is accepted, and not shown."""
    sent = await idle.send(sender="bob")
    accepted = await idle.call("session.send", session_id=sent["session_id"], sender="ann", content="x")
    ann = await idle.connect_limited(senders=["ann"])
    assert (await ann.call("run.list"))["runs"] == []
    for method in ("run.get", "run.wait", "run.cancel"):
        assert type(await refusal_of(ann, method, run_id=accepted["run_id"])) is RunNotFound


async def test_run_list_session_not_found(idle: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    sent = await idle.send(sender="bob")
    ann = await idle.connect_limited(senders=["ann"])
    for client, session_id in ((idle.client, "ses_none"), (ann, sent["session_id"])):
        refusal = await refusal_of(client, "run.list", session_id=session_id)
        assert (type(refusal), refusal.field) == (SessionNotFound, "$.params.session_id")


@pytest.mark.parametrize("token", ["", "a b", "x" * 1025, "\x00"])
async def test_a_page_begins_only_where_one_ended(idle: Household, token: str) -> None:
    """Only the ``next`` of a page is a page token."""
    sent = await idle.send()
    for filters in ({}, {"session_id": sent["session_id"]}):
        refusal = await idle.refusal_of("run.list", after=token, **filters)
        assert (type(refusal), refusal.field) == (InvalidParams, "$.params.after")
    for wrong in ("run_x", "9" * 20, "-1", "٣"):
        refusal = await idle.refusal_of("run.list", after=wrong, session_id=sent["session_id"])
        assert isinstance(refusal, InvalidParams)


# run.wait


async def test_run_wait_ok(house: Household) -> None:
    """The answer comes when the run has ended, at once if it has."""
    gate = house.gate("slow")
    sent = await house.send("slow")
    await gate.reached.wait()
    waiting = await house.client.request("run.wait", run_id=sent["run_id"])
    await house.call("run.get", run_id=sent["run_id"])
    gate.opened.set()
    assert (await house.client.answer(waiting))["output"] == "so far and so on"
    assert (await house.call("run.wait", run_id=sent["run_id"]))["status"] == "completed"


async def test_run_wait_ok_not_in_time(idle: Household) -> None:
    """After a timeout the answer is the run's current state."""
    sent = await idle.send()
    waited = await idle.call("run.wait", run_id=sent["run_id"], timeout_s=0.01)
    assert waited["status"] == "queued"


async def test_run_wait_can_be_cancelled(house: Household) -> None:
    """A cancelled wait leaves the run alone."""
    gate = house.gate("slow")
    sent = await house.send("slow")
    await house.client.request("run.wait", run_id=sent["run_id"])
    await gate.reached.wait()
    await house.client.transport.aclose()
    gate.opened.set()
    client = await house.server.connect()
    assert (await client.call("run.wait", run_id=sent["run_id"]))["status"] == "completed"


async def test_many_callers_wait_for_one_run(house: Household) -> None:
    """The end of a run answers every caller that waits."""
    gate = house.gate("slow")
    sent = await house.send("slow")
    waiting = [await house.client.request("run.wait", run_id=sent["run_id"]) for _ in range(20)]
    await gate.reached.wait()
    gate.opened.set()
    with trio.fail_after(10):
        assert {(await house.client.answer(request))["status"] for request in waiting} == {"completed"}


async def test_run_wait_overloaded(house: Household) -> None:
    """One caller waits for one run a limited number of times, over all its connections."""
    gate = house.gate("slow")
    sent, other = await house.send("slow"), await house.send(sender="other")
    clients = [house.client, await house.server.connect()]
    for number in range(MAX_RUN_WAITS):
        await clients[number % 2].request("run.wait", run_id=sent["run_id"])
    await gate.reached.wait()
    assert type(await refusal_of(clients[1], "run.wait", run_id=sent["run_id"])) is Overloaded
    await clients[1].call("run.wait", run_id=other["run_id"])
    await clients[0].transport.aclose()
    limited = await house.connect_limited(agents=["default"])
    waiting = await limited.request("run.wait", run_id=sent["run_id"])
    gate.opened.set()
    assert (await limited.answer(waiting))["status"] == "completed"
    assert (await clients[1].call("run.wait", run_id=sent["run_id"]))["status"] == "completed"


async def test_run_wait_run_not_found(idle: Household) -> None:
    """An unknown run, and one that the token does not cover, are refused alike."""
    await require_not_found(idle, "run.wait")


# run.cancel


async def test_run_cancel_ok(house: Household) -> None:
    """The run has stopped when the answer comes, and its partial text is stored."""
    gate = house.gate("slow")
    sent = await house.send("slow")
    await gate.reached.wait()
    run = await house.call("run.cancel", run_id=sent["run_id"], note="enough")
    assert (run["status"], house.models.open_calls) == ("cancelled", 0)
    assert (await house.call("run.get", run_id=sent["run_id"]))["output"] == "so far"


async def test_run_cancel_ok_queued(idle: Household) -> None:
    """A queued run ends at once, at any position, and later ones move up."""
    sent = [await idle.send() for _ in range(3)]
    assert (await idle.call("run.cancel", run_id=sent[1]["run_id"]))["status"] == "cancelled"
    view = await idle.call("run.get", run_id=sent[2]["run_id"])
    assert view["queue_position"] == 1
    assert (await idle.call("run.cancel", run_id=sent[0]["run_id"]))["status"] == "cancelled"
    assert "queue_position" not in await idle.call("run.get", run_id=sent[2]["run_id"])


async def test_run_cancel_ok_check_stops_nothing(idle: Household) -> None:
    """A check returns the outcome and stops nothing."""
    sent = await idle.send()
    would = await idle.call("run.cancel", run_id=sent["run_id"], check=True)
    assert would["status"] == "cancelled"
    assert (await idle.call("run.get", run_id=sent["run_id"]))["status"] == "queued"


async def test_run_cancel_ok_once_for_a_key(idle: Household) -> None:
    """A repeated request is answered again although the run has ended."""
    sent = await idle.send()
    first = await idle.call("run.cancel", run_id=sent["run_id"], idempotency_key="k")
    again = await idle.call("run.cancel", run_id=sent["run_id"], idempotency_key="k")
    assert first == again
    assert (await idle.kinds(run_id=sent["run_id"])).count("run_ended") == 1


async def test_run_cancel_ok_without_a_waiting_caller(house: Household) -> None:
    """A caller that cancels its request has still committed the stop."""
    gate = house.gate("slow")
    sent = await house.send("slow")
    await gate.reached.wait()
    await house.client.request("run.cancel", run_id=sent["run_id"])
    await house.client.transport.aclose()
    client = await house.server.connect()
    assert (await client.call("run.wait", run_id=sent["run_id"]))["status"] == "cancelled"


async def test_run_cancel_run_not_found(idle: Household) -> None:
    """An unknown run, and one that the token does not cover, are refused alike."""
    await require_not_found(idle, "run.cancel")


async def test_run_cancel_run_already_ended(house: Household) -> None:
    """The refusal names the outcome of the run."""
    sent = await house.ask()
    refusal = await house.refusal_of("run.cancel", run_id=sent["run_id"])
    assert isinstance(refusal, RunAlreadyEnded)
    assert "already completed" in refusal.message


SECRET = "sk-canary-0123456789"


STEM = "turn-0001-attempt-0001"


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """Serve a model in this process."""
    async with running_model_server() as server:
        yield server


@pytest.fixture
async def capturing(tmp_path: Path, server: ModelServer) -> AsyncIterator[Household]:
    """Serve a daemon whose routes lead to the model server; each send sets its debug level."""
    captures = CaptureService(CaptureFiles(tmp_path / "debug"))
    limits = RunsSection(backoff_s=0.0, max_backoff_s=0.0)
    models = ProviderCaller(
        limits,
        environ={"KEY": SECRET},
        learned=lambda secret: captures.scrub(Scrubber([secret])),
        captures=captures,
    )
    names = {"echo": "echo", "failing": "n-failures-then-ok:2:500", "slow": "hang-mid", "cut": "cut:2"}
    routes = {
        name: RouteSpec(name, "openai", model, server.base_url, "env:KEY") for name, model in names.items()
    }
    runtime: dict[str, Any] = {"models": models, "routes": routes, "default_route": "echo", "runs": limits}
    async with household(tmp_path, tcp=True, captures=captures, **runtime) as capturing:
        yield capturing
        await models.aclose()


async def send_captured(capturing: Household, level: str = "full", **params: Any) -> str:
    """Send with a debug level, wait, and return the id of the run."""
    run_id: str = (await capturing.ask(debug=level, **params))["run_id"]
    return run_id


async def test_run_debug_ok(capturing: Household) -> None:
    """Artifacts are listed in the order of the call and can be read."""
    run_id = await send_captured(capturing, content="Grüße")
    listed = await capturing.call("run.debug", run_id=run_id)
    assert (listed["run_id"], listed["debug"]) == (run_id, "full")
    assert [row["artifact_id"] for row in listed["artifacts"]] == [
        f"{STEM}-request.json",
        f"{STEM}-events.jsonl",
        f"{STEM}-answer.json",
    ]
    assert not any(row["truncated"] for row in listed["artifacts"])
    assert "text" not in listed
    read = await capturing.call("run.debug", run_id=run_id, artifact=f"{STEM}-request.json")
    assert read["artifacts"] == [listed["artifacts"][0]]
    assert json.loads(read["text"])["body"]["messages"][-1] == {"role": "user", "content": "Grüße"}
    assert "next" not in read


async def test_run_debug_ok_in_parts(capturing: Household) -> None:
    """The parts of a long artifact join to its whole text."""
    run_id = await send_captured(capturing, content="Grüße aus 東京 " * 20)
    whole = (await capturing.call("run.debug", run_id=run_id, artifact=f"{STEM}-events.jsonl"))["text"]
    offset: int | None = 0
    parts = []
    while offset is not None:
        part = await capturing.call(
            "run.debug", run_id=run_id, artifact=f"{STEM}-events.jsonl", offset=offset, limit=101
        )
        parts.append(part["text"])
        offset = part.get("next")
    assert "".join(parts) == whole
    assert max(len(part.encode()) for part in parts) <= 101


async def test_run_debug_ok_of_a_retried_call(capturing: Household) -> None:
    """Each attempt has its own artifacts, and no artifact holds a credential."""
    run_id = await send_captured(capturing, route="failing")
    listed = (await capturing.call("run.debug", run_id=run_id))["artifacts"]
    outcomes = []
    for attempt in (1, 2, 3):
        stem = f"turn-0001-attempt-{attempt:04d}"
        read = await capturing.call("run.debug", run_id=run_id, artifact=f"{stem}-answer.json")
        outcomes.append(json.loads(read["text"])["outcome"])
    assert outcomes == ["failed", "failed", "answered"]
    assert len(listed) == 9
    read = await capturing.call("run.debug", run_id=run_id, artifact=f"{STEM}-events.jsonl")
    assert "The credential was: [scrubbed]" in read["text"]


async def test_run_debug_ok_of_a_cut_stream(capturing: Household) -> None:
    """The artifact holds the events that arrived and the failure."""
    run_id = await send_captured(capturing, route="cut")
    read = await capturing.call("run.debug", run_id=run_id, artifact=f"{STEM}-events.jsonl")
    assert "piece2" in read["text"].splitlines()[-1]
    read = await capturing.call("run.debug", run_id=run_id, artifact=f"{STEM}-answer.json")
    assert json.loads(read["text"])["failure"]["reason"] == "connection_failed"


async def test_run_debug_ok_of_a_run_in_flight(capturing: Household, server: ModelServer) -> None:
    """Artifacts can be read while the model answers; a stopped call records its outcome."""
    sent = await capturing.send(route="slow", debug="full")
    await (await server.request()).streaming.wait()
    with trio.fail_after(10):
        while True:
            listed = await capturing.call("run.debug", run_id=sent["run_id"])
            if "events" in [row["kind"] for row in listed["artifacts"]]:
                break
    await capturing.call("run.cancel", run_id=sent["run_id"])
    read = await capturing.call("run.debug", run_id=sent["run_id"], artifact=f"{STEM}-answer.json")
    assert json.loads(read["text"])["outcome"] == "left"


async def test_run_debug_ok_of_a_summary(capturing: Household) -> None:
    """The call of a compaction has artifacts with a name of their own."""
    capturing.holder.replace(
        change_runtime(capturing.holder.current(), generation=2, debug=DebugSection(capture="full"))
    )
    for number in range(5):
        await capturing.ask(f"This is what I say number {number}.")
    run_id = (await capturing.call("conversation.compact"))["run_id"]
    await capturing.call("run.wait", run_id=run_id)
    listed = await capturing.call("run.debug", run_id=run_id)
    assert [row["artifact_id"] for row in listed["artifacts"]] == [
        f"compaction-{STEM}-request.json",
        f"compaction-{STEM}-events.jsonl",
        f"compaction-{STEM}-answer.json",
    ]


async def test_run_debug_ok_by_scope(capturing: Household) -> None:
    """Listing artifacts requires ``read``, reading one ``operate``."""
    run_id = await send_captured(capturing)
    reader = await capturing.connect_limited(scopes=["read"])
    operator = await capturing.connect_limited(scopes=["read", "operate"])
    assert len((await reader.call("run.debug", run_id=run_id))["artifacts"]) == 3
    refusal = await refusal_of(reader, "run.debug", run_id=run_id, artifact=f"{STEM}-answer.json")
    assert (type(refusal), refusal.hint) == (ScopeMissing, "operate")
    assert (await operator.call("run.debug", run_id=run_id, artifact=f"{STEM}-answer.json"))["text"]


async def test_run_debug_run_not_found(capturing: Household) -> None:
    """An unknown run, and one that the token does not cover, are refused alike."""
    sent = await capturing.ask(agent="reviewer", sender="bob", debug="full")
    ann = await capturing.connect_limited(senders=["ann"])
    critic = await capturing.connect_limited(agents=["critic"])
    for client, run_id in ((capturing.client, "run_none"), (ann, sent["run_id"]), (critic, sent["run_id"])):
        refusal = await refusal_of(client, "run.debug", run_id=run_id)
        assert (type(refusal), refusal.field) == (RunNotFound, "$.params.run_id")


async def test_run_debug_debug_not_found(capturing: Household) -> None:
    """A run without captures is refused."""
    sent = await capturing.ask()
    for params in ({}, {"artifact": f"{STEM}-request.json"}):
        refusal = await capturing.refusal_of("run.debug", run_id=sent["run_id"], **params)
        assert (type(refusal), refusal.field) == (DebugNotFound, "$.params.run_id")


@pytest.mark.parametrize(
    "artifact", ["turn-0009-attempt-0001-request.json", "../state/data.mdb", "x\n", ".."]
)
async def test_run_debug_artifact_not_found(capturing: Household, artifact: str) -> None:
    """Unknown artifacts and paths are refused."""
    refusal = await capturing.refusal_of(
        "run.debug", run_id=await send_captured(capturing), artifact=artifact
    )
    assert (type(refusal), refusal.field) == (ArtifactNotFound, "$.params.artifact")


async def test_a_send_sets_the_debug_level(capturing: Household, tmp_path: Path) -> None:
    """The level is pinned in the run; ``off`` captures nothing."""
    for level in ("off", "redacted", "full"):
        sent = await capturing.ask(debug=level)
        pinned = (await capturing.call("run.get", run_id=sent["run_id"]))["pinned"]
        assert pinned.get("debug", "off") == level
        # Captures are written after the run has settled; run.debug waits for them.
        if level == "off":
            refusal = await capturing.refusal_of("run.debug", run_id=sent["run_id"])
            assert isinstance(refusal, DebugNotFound)
        else:
            assert (await capturing.call("run.debug", run_id=sent["run_id"]))["artifacts"]
        assert await trio.Path(tmp_path / "debug" / sent["run_id"]).exists() == (level != "off")
    refusal = await capturing.refusal_of("conversation.send", content="hello", debug="on")
    assert isinstance(refusal, InvalidParams)


@pytest.mark.parametrize("level", ["off", "redacted", "full"])
async def test_the_debug_level_requires_operate(capturing: Household, level: str) -> None:
    """A caller with ``converse`` only can neither start nor prevent captures."""
    speaker = await capturing.connect_limited(scopes=["converse"])
    refusal = await refusal_of(speaker, "conversation.send", content="hello", debug=level)
    assert (type(refusal), refusal.hint) == (ScopeMissing, "operate")
    await speaker.call("conversation.send", content="hello")
    session = await capturing.call("session.create")
    refusal = await refusal_of(
        speaker, "session.send", session_id=session["session_id"], content="hello", debug=level
    )
    assert isinstance(refusal, ScopeMissing)


async def test_the_configured_debug_level_is_pinned(capturing: Household, server: ModelServer) -> None:
    """A run keeps the level of its acceptance when the configuration changes."""
    runtime = capturing.holder.current()
    capturing.holder.replace(change_runtime(runtime, generation=2, debug=DebugSection(capture="full")))
    first, two = await capturing.send(route="slow"), await capturing.send(route="slow")
    await server.request()
    capturing.holder.replace(change_runtime(runtime, generation=3))
    await capturing.call("run.cancel", run_id=first["run_id"])
    await server.request(2)
    await capturing.call("run.cancel", run_id=two["run_id"])
    three = await capturing.ask()
    for sent in (first, two):
        assert (await capturing.call("run.debug", run_id=sent["run_id"]))["debug"] == "full"
    assert isinstance(await capturing.refusal_of("run.debug", run_id=three["run_id"]), DebugNotFound)
