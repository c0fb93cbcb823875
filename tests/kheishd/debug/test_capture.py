"""Captures of model calls: no capture delays or fails a call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from kheishd.kernel.hook import Tool
from tests.support.captured import LONG, STEM, CapturedModels
from tests.support.desk import full_disk
from tests.support.model_calls import ask


async def test_times_of_events(captured: CapturedModels, mock_clock: MockClock) -> None:
    """The time of an event is in milliseconds since the request."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, captured.models, captured.request("hang-mid"))
        recorded = await captured.server.request()
        await recorded.streaming.wait()
        while "so far " not in captured.read_all():
            await trio.lowlevel.checkpoint()
        mock_clock.jump(121)
    await captured.captures.queue.flush()
    assert captured.events()[1]["ms"] < 1000
    answer = captured.document("answer")
    assert (answer["outcome"], answer["failure"]["reason"]) == ("failed", "timed_out")
    assert 121_000 <= answer["ms"] < 122_000


async def test_no_connection(captured: CapturedModels) -> None:
    """A request that reaches nobody is captured with the failure, and so is a call without a credential."""
    await captured.ask("echo", base_url="http://127.0.0.1:1/v1")
    assert captured.document("request")["url"] == "http://127.0.0.1:1/v1/chat/completions"
    assert captured.document("answer")["failure"]["reason"] == "connection_failed"
    await captured.ask("echo", auth_ref="env:MISSING")
    answer = captured.document("answer", f"{STEM}-again-0002")
    assert answer["failure"]["reason"] == "credential_missing"


async def test_refused_request_before_the_accepted_one(captured: CapturedModels) -> None:
    """A request that is refused for a field, and the adapted one, have artifacts of their own."""
    heard = await captured.ask("rejects:stream_options")
    assert heard.answer is not None
    assert "stream_options" in captured.document("request")["body"]
    assert "Unsupported parameter" in captured.read("events.jsonl")
    assert "stream_options" not in captured.document("request", f"{STEM}-again-0002")["body"]
    assert captured.document("answer", f"{STEM}-again-0002")["outcome"] == "answered"


async def test_caller_that_leaves_early(captured: CapturedModels) -> None:
    """The outcome of a call that is left before its end says so; the events received by then are kept."""
    async with captured.models.ask(captured.request("hang-mid")) as events:
        await anext(events)
    await captured.captures.queue.flush()
    assert captured.document("answer")["outcome"] == "left"
    assert "so far " in captured.read("events.jsonl")


async def test_offline_route(captured: CapturedModels) -> None:
    """The offline route's request is the conversation, and its events are the deltas."""
    request = captured.request("offline", driver="offline", content="/think hard\nhi", auth_ref=None)
    tool = Tool("look", "Look.", {"type": "object"}, lambda use: None)  # type: ignore[arg-type]
    await ask(captured.models, replace(request, tools=(tool,), instructions="Be brief."))
    await captured.captures.queue.flush()
    body = captured.document("request")["body"]
    assert body["instructions"] == "Be brief."
    assert body["messages"] == [{"role": "user", "items": [{"kind": "text", "text": "/think hard\nhi"}]}]
    schema = {"type": "object", "properties": {}}
    assert body["tools"] == [{"name": "look", "description": "Look.", "input_schema": schema}]
    assert captured.events()[0]["data"] == {"type": "thinking", "text": "hard"}
    assert "“hi”" in captured.document("answer")["answer"]["items"][1]["text"]


@pytest.mark.parametrize("level", ["off", "full"])
async def test_calls_that_are_not_captured(captured: CapturedModels, level: str) -> None:
    """A run without capture, and a call without a run, leave no files."""
    request = captured.request("echo", debug=level)
    await ask(captured.models, replace(request, run_id="run_1" if level == "off" else ""))
    await captured.captures.queue.flush()
    assert not captured.directory.exists()


async def test_overflow(captured: CapturedModels, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the queue refuses a write, events are dropped and marked as truncated; the answer is kept."""
    put = captured.captures.queue.put
    remaining = 3

    def put_some(run_id: str, size: int, write: Callable[[], None]) -> bool:
        nonlocal remaining
        remaining -= 1
        return put(run_id, size, write) if remaining >= 0 or not size else False

    monkeypatch.setattr(captured.captures.queue, "put", put_some)
    heard = await captured.ask("slow:1:5")
    assert heard.text == "piece1 piece2 piece3 piece4 piece5 "
    assert captured.events()[-1] == {"truncated": True}
    assert len(captured.events()) < 6
    assert captured.document("answer")["outcome"] == "answered"


@contextmanager
def obstructed(directory: Path) -> Iterator[None]:
    """Put a file in the place of the captures."""
    directory.write_text("not yours")
    yield
    assert directory.read_text() == "not yours"


async def test_failing_capture(captured: CapturedModels, caplog: pytest.LogCaptureFixture) -> None:
    """The answer does not change, and the failure is logged once per run."""
    with obstructed(captured.directory):
        for _ in range(2):
            assert (await captured.ask("echo")).text == f"echo: {LONG}"
    logged = [record for record in caplog.records if record.name == "kheishd.debug.queue"]
    assert ["is a link or not a directory" in record.getMessage() for record in logged] == [True]


async def test_full_disk(captured: CapturedModels, caplog: pytest.LogCaptureFixture) -> None:
    """Artifacts written before stay; the call continues, and its capture ends."""
    with full_disk():
        heard = await captured.ask("chunks:200", content="x" * 1_000)
    assert heard.text.split()[-1] == "word200"
    assert captured.document("request")["body_bytes"] > 1_000
    assert not (captured.directory / "run_1" / f"{STEM}-answer.json").exists()
    assert all(event["ms"] >= 0 for event in captured.events()), "whole lines only"
    assert len([record for record in caplog.records if "debug capture" in record.getMessage()]) == 1
