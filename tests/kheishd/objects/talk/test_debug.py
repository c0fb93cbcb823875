"""What is captured of a run: who may say so, see that it is there, and read it."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.capture_files import CaptureFiles
from kheishd.kernel.captures import Captures
from kheishd.kernel.runtime import Debugging, RouteSpec, RunLimits
from kheishd.providers.caller import Models
from protocol.errors.rpc import InvalidParams
from protocol.errors.run import ArtifactNotFound, DebugNotFound, RunNotFound
from protocol.errors.token import ScopeMissing
from tests.support.household import Household, household, refused
from tests.support.model_server import ModelServer, running_model_server

SECRET = "sk-canary-0123456789"
STEM = "turn-0001-attempt-0001"


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """A model server in this process."""
    async with running_model_server() as server:
        yield server


@pytest.fixture
async def house(tmp_path: Path, server: ModelServer) -> AsyncIterator[Household]:
    """A daemon whose routes are models of the server; what is captured is said by each send."""
    captures = Captures(CaptureFiles(tmp_path / "debug"))
    limits = RunLimits(backoff_s=0.0, max_backoff_s=0.0)
    models = Models(
        limits,
        environ={"KEY": SECRET},
        learned=lambda secret: captures.scrub(Scrubber([secret])),
        captures=captures,
    )
    names = {"echo": "echo", "failing": "n-failures-then-ok:2:500", "slow": "hang-mid", "cut": "cut:2"}
    routes = {
        name: RouteSpec(name, "openai", model, server.base_url, "env:KEY") for name, model in names.items()
    }
    runtime: dict[str, Any] = {"models": models, "routes": routes, "default_route": "echo", "limits": limits}
    async with household(tmp_path, tcp=True, captures=captures, **runtime) as house:
        yield house
        await models.aclose()


async def captured(house: Household, level: str = "full", **params: Any) -> str:
    """Send and wait; the run, which was captured."""
    run_id: str = (await house.ask(debug=level, **params))["run_id"]
    return run_id


# run.debug


async def test_run_debug_ok(house: Household) -> None:
    """What there is, in the order of the call; and each of it."""
    run_id = await captured(house, content="Grüße")
    listed = await house.call("run.debug", run_id=run_id)
    assert (listed["run_id"], listed["debug"]) == (run_id, "full")
    assert [row["artifact_id"] for row in listed["artifacts"]] == [
        f"{STEM}-request.json",
        f"{STEM}-events.jsonl",
        f"{STEM}-answer.json",
    ]
    assert not any(row["truncated"] for row in listed["artifacts"])
    assert "text" not in listed
    read = await house.call("run.debug", run_id=run_id, artifact=f"{STEM}-request.json")
    assert read["artifacts"] == [listed["artifacts"][0]]
    assert json.loads(read["text"])["body"]["messages"][-1] == {"role": "user", "content": "Grüße"}
    assert "next" not in read


async def test_run_debug_ok_in_parts(house: Household) -> None:
    """A long artifact is read part by part; all of them together are its text."""
    run_id = await captured(house, content="Grüße aus 東京 " * 20)
    whole = (await house.call("run.debug", run_id=run_id, artifact=f"{STEM}-events.jsonl"))["text"]
    offset: int | None = 0
    parts = []
    while offset is not None:
        part = await house.call(
            "run.debug", run_id=run_id, artifact=f"{STEM}-events.jsonl", offset=offset, limit=101
        )
        parts.append(part["text"])
        offset = part.get("next")
    assert "".join(parts) == whole
    assert max(len(part.encode()) for part in parts) <= 101


async def test_run_debug_ok_of_a_retried_call(house: Household) -> None:
    """Each attempt has artifacts of its own: two that failed, one that was answered; no key in any."""
    run_id = await captured(house, route="failing")
    listed = (await house.call("run.debug", run_id=run_id))["artifacts"]
    outcomes = []
    for attempt in (1, 2, 3):
        stem = f"turn-0001-attempt-{attempt:04d}"
        read = await house.call("run.debug", run_id=run_id, artifact=f"{stem}-answer.json")
        outcomes.append(json.loads(read["text"])["outcome"])
    assert outcomes == ["failed", "failed", "answered"]
    assert len(listed) == 9
    read = await house.call("run.debug", run_id=run_id, artifact=f"{STEM}-events.jsonl")
    assert "The credential was: [scrubbed]" in read["text"]


async def test_run_debug_ok_of_a_cut_stream(house: Household) -> None:
    """What had come by then is there, and why it was not enough."""
    run_id = await captured(house, route="cut")
    read = await house.call("run.debug", run_id=run_id, artifact=f"{STEM}-events.jsonl")
    assert "piece2" in read["text"].splitlines()[-1]
    read = await house.call("run.debug", run_id=run_id, artifact=f"{STEM}-answer.json")
    assert json.loads(read["text"])["failure"]["reason"] == "connection_failed"


async def test_run_debug_ok_of_a_run_in_flight(house: Household, server: ModelServer) -> None:
    """What is being answered can be looked at while it is; once it is stopped, that is said."""
    sent = await house.send(route="slow", debug="full")
    await (await server.request()).begun.wait()
    with trio.fail_after(10):
        while True:
            listed = await house.call("run.debug", run_id=sent["run_id"])
            if "events" in [row["kind"] for row in listed["artifacts"]]:
                break
    await house.call("run.cancel", run_id=sent["run_id"])
    read = await house.call("run.debug", run_id=sent["run_id"], artifact=f"{STEM}-answer.json")
    assert json.loads(read["text"])["outcome"] == "left"


async def test_run_debug_ok_of_a_summary(house: Household) -> None:
    """A call that sums up is captured under a name of its own."""
    house.holder.replace(replace(house.holder.current(), generation=2, debug=Debugging("full")))
    for number in range(5):
        await house.ask(f"This is what I say number {number}.")
    run_id = (await house.call("conversation.compact"))["run_id"]
    await house.call("run.wait", run_id=run_id)
    listed = await house.call("run.debug", run_id=run_id)
    assert [row["artifact_id"] for row in listed["artifacts"]] == [
        f"compaction-{STEM}-request.json",
        f"compaction-{STEM}-events.jsonl",
        f"compaction-{STEM}-answer.json",
    ]


async def test_run_debug_ok_for_who_may_only_read(house: Household) -> None:
    """That something was captured may be seen with the scope read; what it is, with operate."""
    run_id = await captured(house)
    reader = await house.limited(scopes=["read"])
    operator = await house.limited(scopes=["read", "operate"])
    assert len((await reader.call("run.debug", run_id=run_id))["artifacts"]) == 3
    refusal = await refused(reader, "run.debug", run_id=run_id, artifact=f"{STEM}-answer.json")
    assert (type(refusal), refusal.hint) == (ScopeMissing, "operate")
    assert (await operator.call("run.debug", run_id=run_id, artifact=f"{STEM}-answer.json"))["text"]


async def test_run_debug_run_not_found(house: Household) -> None:
    """Nor for a token that does not cover it."""
    sent = await house.ask(agent="reviewer", sender="bob", debug="full")
    ann = await house.limited(senders=["ann"])
    critic = await house.limited(agents=["critic"])
    for client, run_id in ((house.client, "run_none"), (ann, sent["run_id"]), (critic, sent["run_id"])):
        refusal = await refused(client, "run.debug", run_id=run_id)
        assert (type(refusal), refusal.field) == (RunNotFound, "$.params.run_id")


async def test_run_debug_debug_not_found(house: Household) -> None:
    """A run that was not captured has nothing to show."""
    sent = await house.ask()
    for params in ({}, {"artifact": f"{STEM}-request.json"}):
        refusal = await house.refused("run.debug", run_id=sent["run_id"], **params)
        assert (type(refusal), refusal.field) == (DebugNotFound, "$.params.run_id")


@pytest.mark.parametrize(
    "artifact", ["turn-0009-attempt-0001-request.json", "../state/data.mdb", "x\n", ".."]
)
async def test_run_debug_artifact_not_found(house: Household, artifact: str) -> None:
    """What there is not, and whatever is no name of one: a path leads nowhere."""
    refusal = await house.refused("run.debug", run_id=await captured(house), artifact=artifact)
    assert (type(refusal), refusal.field) == (ArtifactNotFound, "$.params.artifact")


# What is captured.


async def test_a_send_says_what_is_captured(house: Household, tmp_path: Path) -> None:
    """It is pinned in the run; nothing is captured of a run that says off."""
    for level in ("off", "redacted", "full"):
        sent = await house.ask(debug=level)
        pinned = (await house.call("run.get", run_id=sent["run_id"]))["pinned"]
        assert pinned.get("debug", "off") == level
        assert await trio.Path(tmp_path / "debug" / sent["run_id"]).exists() == (level != "off")
    refusal = await house.refused("conversation.send", content="hello", debug="on")
    assert isinstance(refusal, InvalidParams)


@pytest.mark.parametrize("level", ["off", "redacted", "full"])
async def test_only_an_operator_says_what_is_captured(house: Household, level: str) -> None:
    """Whoever may only converse captures nothing, and hides nothing either."""
    speaker = await house.limited(scopes=["converse"])
    refusal = await refused(speaker, "conversation.send", content="hello", debug=level)
    assert (type(refusal), refusal.hint) == (ScopeMissing, "operate")
    await speaker.call("conversation.send", content="hello")
    session = await house.call("session.create")
    refusal = await refused(
        speaker, "session.send", session_id=session["session_id"], content="hello", debug=level
    )
    assert isinstance(refusal, ScopeMissing)


async def test_what_is_configured_is_pinned_at_acceptance(house: Household, server: ModelServer) -> None:
    """A configuration that says full captures what is accepted under it, and off later does not end that."""
    first = house.holder.current()
    house.holder.replace(replace(first, generation=2, debug=Debugging("full")))
    one, two = await house.send(route="slow"), await house.send(route="slow")
    await server.request()
    house.holder.replace(replace(first, generation=3))
    await house.call("run.cancel", run_id=one["run_id"])
    await server.request(2)
    await house.call("run.cancel", run_id=two["run_id"])
    three = await house.ask()
    for sent in (one, two):
        assert (await house.call("run.debug", run_id=sent["run_id"]))["debug"] == "full"
    assert isinstance(await house.refused("run.debug", run_id=three["run_id"]), DebugNotFound)
