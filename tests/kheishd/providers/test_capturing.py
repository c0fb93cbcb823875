"""Model calls as they are captured, against a server that speaks as providers do."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.capture_files import CaptureFiles, Limits
from kheishd.kernel.captures import Captures
from kheishd.kernel.hook import Tool
from kheishd.kernel.runtime import ModelRequest
from kheishd.providers import capturing
from kheishd.providers.caller import ProviderCaller
from tests.support.model_asking import Heard, ask, asking, inline
from tests.support.model_server import ModelServer

SECRET = "sk-canary-0123456789"
LONG = "What a long sentence this is, to be sure."
DRIVERS = pytest.mark.parametrize("driver", ["openai", "anthropic"])
LEVELS = pytest.mark.parametrize("level", ["full", "redacted"])


class Desk:
    """A caller whose calls are captured, and the files that come of it."""

    def __init__(self, directory: Path, server: ModelServer, limits: Limits | None = None) -> None:
        self.directory = directory
        self.server = server
        self.captures = Captures(CaptureFiles(directory, limits))
        self.models = ProviderCaller(
            environ={"KEY": SECRET},
            in_thread=inline,
            learned=lambda secret: self.captures.scrub(Scrubber([secret])),
            captures=self.captures,
        )

    def request(self, model: str, *, driver: str = "openai", said: str = LONG, **pinned: Any) -> ModelRequest:
        """A request of a run that is captured."""
        fields = {"debug": "full", "base_url": self.server.base_url, "auth_ref": "env:KEY"} | pinned
        request = asking(said, driver=driver, model=model, **fields)
        return replace(request, run_id="run_1", turn=1, attempt=1)

    async def ask(self, model: str, **changes: Any) -> Heard:
        """Ask and hear all of it; when this returns, all is written."""
        heard = await ask(self.models, self.request(model, **changes))
        await self.captures.flushed()
        return heard

    def content(self, ending: str, stem: str = "turn-0001-attempt-0001") -> str:
        """The content of an artifact."""
        return (self.directory / "run_1" / f"{stem}-{ending}").read_text()

    def document(self, kind: str, stem: str = "turn-0001-attempt-0001") -> Any:
        """A request or an answer."""
        return json.loads(self.content(f"{kind}.json", stem))

    def events(self) -> list[Any]:
        """The lines of the events."""
        return [json.loads(line) for line in self.content("events.jsonl").splitlines()]

    def all(self) -> str:
        """Everything that was written, and how it is called."""
        found = sorted(self.directory.rglob("*"))
        return "\n".join(f"{path}\n{path.read_text() if path.is_file() else ''}" for path in found)


@pytest.fixture
async def desk(tmp_path: Path, server: ModelServer, nursery: trio.Nursery) -> AsyncIterator[Desk]:
    """A desk in an empty home."""
    async with desk_with(tmp_path, server, nursery) as desk:
        yield desk


@asynccontextmanager
async def desk_with(
    directory: Path, server: ModelServer, nursery: trio.Nursery, limits: Limits | None = None
) -> AsyncIterator[Desk]:
    """A desk with limits of its own."""
    desk = Desk(directory / "debug", server, limits)
    await nursery.start(desk.captures.serve)
    yield desk
    await desk.models.aclose()


# What is captured.


@DRIVERS
async def test_the_request_is_the_one_that_was_sent(desk: Desk, driver: str) -> None:
    """Its body to the letter, its URL, and all headers as they went out, but for the credential."""
    await desk.ask("echo", driver=driver, options={"headers": {"x-title": "kheish"}})
    sent = desk.server.requests[0]
    found = desk.document("request")
    assert f'"body":{sent.body.decode()}}}' in desk.content("request.json")
    assert found["url"] == f"http://127.0.0.1:{desk.server.port}{sent.path}"
    credential = "authorization" if driver == "openai" else "x-api-key"
    assert found["headers"] == sent.headers | {credential: "[redacted]"}
    assert (found["method"], found["body_bytes"]) == ("POST", len(sent.body))
    assert found["headers"]["x-title"] == "kheish"


@DRIVERS
async def test_the_events_are_those_that_came(desk: Desk, driver: str) -> None:
    """First the status and headers, then each event with its time; then what was made of them."""
    heard = await desk.ask("echo", driver=driver)
    head, *events = desk.events()
    assert (head["status"], head["headers"]["content-type"]) == (200, "text/event-stream; charset=utf-8")
    said = "".join(said_in(event.get("data", {})) for event in events)
    assert said == heard.text == f"echo: {LONG}"
    assert [event["ms"] for event in events] == sorted(event["ms"] for event in events)
    if driver == "openai":
        assert events[-1]["text"] == "[DONE]"
    found = desk.document("answer")
    assert (found["outcome"], found["answer"]["items"]) == (
        "answered",
        [{"kind": "text", "text": heard.text}],
    )


def said_in(data: dict[str, Any]) -> str:
    """The piece of the answer that an event brings, on either wire."""
    [choice] = data.get("choices") or [data]
    delta = choice.get("delta", {})
    piece: str = delta.get("content") or delta.get("text") or ""
    return piece


async def test_when_events_came(desk: Desk, mock_clock: MockClock) -> None:
    """The time of an event is counted from the request, in milliseconds."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, desk.models, desk.request("hang-mid"))
        recorded = await desk.server.request()
        await recorded.begun.wait()
        while "so far " not in desk.all():
            await trio.lowlevel.checkpoint()
        mock_clock.jump(121)
    await desk.captures.flushed()
    assert desk.events()[1]["ms"] < 1000
    found = desk.document("answer")
    assert (found["outcome"], found["failure"]["reason"]) == ("failed", "timed_out")
    assert 121_000 <= found["ms"] < 122_000


@DRIVERS
@pytest.mark.parametrize(
    ("model", "status", "last", "reason"),
    [
        ("status:429:retry=7", 429, {"body"}, "rate_limited"),
        ("html", 200, {"text"}, "bad_response"),
        ("malformed", 200, {"text"}, "bad_response"),
        ("error-event", 200, {"data"}, "overloaded"),
        ("cut:3", 200, {"data"}, "connection_failed"),
        ("empty", 200, {"status", "headers"}, "connection_failed"),
        ("redirect", 302, {"status", "headers"}, "bad_request"),
    ],
)
async def test_what_went_wrong_is_seen(
    desk: Desk, driver: str, model: str, status: int, last: set[str], reason: str
) -> None:
    """Whatever a provider sends in the place of an answer is there, and what we took it for."""
    heard = await desk.ask(model, driver=driver)
    events = desk.events()
    assert events[0]["status"] == status
    assert set(events[-1]) == {"ms", *last}
    found = desk.document("answer")
    assert (found["outcome"], found["failure"]["reason"]) == ("failed", reason)
    assert found["failure"]["message"] == heard.failed().message


async def test_a_torso_is_kept(desk: Desk) -> None:
    """What came of an event that was cut is a text."""
    sheet = capturing.Sheet(desk.captures, desk.request("echo"))
    for data in (b'data: {"n":1}\n\n', b'data: {"n"'):
        sheet.do(sheet.received, 5, data)
    sheet.do(sheet.end, 7, None, None, False)
    assert desk.events() == [{"ms": 5, "data": {"n": 1}}, {"ms": 7, "text": '{"n"'}]
    assert desk.document("answer") == {"ms": 7, "outcome": "left", "answer": None}


async def test_nobody_there(desk: Desk) -> None:
    """A request that found nobody is there with why; so is one for which there is no credential."""
    await desk.ask("echo", base_url="http://127.0.0.1:1/v1")
    assert desk.document("request")["url"] == "http://127.0.0.1:1/v1/chat/completions"
    assert desk.document("answer")["failure"]["reason"] == "connection_failed"
    await desk.ask("echo", auth_ref="env:MISSING")
    again = "turn-0001-attempt-0001-again-0002"
    assert desk.document("answer", again)["failure"]["reason"] == "credential_missing"


async def test_who_left_early(desk: Desk) -> None:
    """An answer that nobody waited for is said to be that, with what had come by then."""
    async with desk.models.ask(desk.request("hang-mid")) as events:
        await anext(events)
    await desk.captures.flushed()
    assert desk.document("answer")["outcome"] == "left"
    assert "so far " in desk.content("events.jsonl")


@DRIVERS
async def test_an_answer_that_does_not_stream(desk: Desk, driver: str) -> None:
    """One object is one line."""
    await desk.ask("nonstream", driver=driver)
    assert [set(event) for event in desk.events()] == [{"ms", "status", "headers"}, {"ms", "body"}]
    assert LONG in str(desk.events()[1]["body"])


async def test_the_offline_stand_in(desk: Desk) -> None:
    """The conversation that it was given, and what it said."""
    request = desk.request("offline", driver="offline", said="/think hard\nhi", auth_ref=None)
    tool = Tool("look", "Look.", {"type": "object"}, lambda use: None)  # type: ignore[arg-type]
    await ask(desk.models, replace(request, tools=(tool,), instructions="Be brief."))
    await desk.captures.flushed()
    body = desk.document("request")["body"]
    assert body["instructions"] == "Be brief."
    assert body["messages"] == [{"role": "user", "items": [{"kind": "text", "text": "/think hard\nhi"}]}]
    assert body["tools"] == [
        {"name": "look", "description": "Look.", "input_schema": {"type": "object", "properties": {}}}
    ]
    assert desk.events()[0]["data"] == {"type": "thinking", "text": "hard"}
    assert "“hi”" in desk.document("answer")["answer"]["items"][1]["text"]


@pytest.mark.parametrize(("purpose", "prefix"), [("summary", "compaction-"), ("title", "title-")])
async def test_calls_for_something_else(desk: Desk, purpose: Any, prefix: str) -> None:
    """A call that is for no answer is told apart by its name."""
    await ask(desk.models, replace(desk.request("echo"), purpose=purpose, turn=3, attempt=2))
    await desk.captures.flushed()
    assert desk.document("answer", f"{prefix}turn-0003-attempt-0002")["outcome"] == "answered"


@pytest.mark.parametrize("change", [{"debug": "off"}, {"run_id": ""}])
async def test_what_is_not_captured(desk: Desk, change: dict[str, str]) -> None:
    """A run that is not captured, and a call for no run, leave nothing."""
    request = desk.request("echo", **{"debug": change.get("debug", "full")})
    await ask(desk.models, replace(request, run_id=change.get("run_id", "run_1")))
    await desk.captures.flushed()
    assert not desk.directory.exists()
    assert capturing.capture_of(None, desk.request("echo")) is None


# Secrets.


@DRIVERS
@LEVELS
@pytest.mark.parametrize(
    "model", ["echo", "repeat:1", "repeat:3", "repeat:200", "status:401", "error-event", "nonstream"]
)
async def test_no_credential_is_written(desk: Desk, driver: str, level: str, model: str) -> None:
    """Wherever it stands, sent or said back, whole or letter by letter, in no file is it, nor joined."""
    headers = {"x-other": f"again {SECRET}"}
    await desk.ask(
        model, driver=driver, debug=level, said=f"my key is {SECRET}", options={"headers": headers}
    )
    written = desk.all()
    assert SECRET not in written
    assert "canary" not in written
    joined = "".join(text for event in desk.events() for text in texts(event))
    assert "canary" not in joined
    if level == "full":
        assert desk.document("request")["headers"]["x-other"] == "again [scrubbed]"
        assert "my key is [scrubbed]" in str(desk.document("request")["body"])


def texts(value: Any) -> Iterator[str]:
    """Every text of one character or so in a value: the pieces of a stream."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)
    elif isinstance(value, str) and len(value) <= 3:
        yield value


@DRIVERS
async def test_redacted(desk: Desk, driver: str) -> None:
    """Of texts there are lengths and digests; what the exchange was like can still be seen."""
    instructions = "These are the instructions, to be kept."
    heard = await desk.ask("thinking", driver=driver, debug="redacted", instructions=instructions)
    written = desk.all()
    for text in (LONG, instructions, "Let me ", "It is ", "42"):
        assert f'"{text}' not in written
    veil = desk.captures.veil
    body = desk.document("request")["body"]
    assert body["model"] == "thinking"
    assert f'"{veil.redact_text(LONG)}"' in written
    assert veil.redact_text(instructions) in str(body)
    assert desk.document("answer")["answer"]["items"][1]["text"] == veil.redact_text(heard.text)
    assert desk.document("answer")["answer"]["stop_reason"] == "end"
    assert desk.events()[0]["headers"]["content-type"] == "text/event-stream; charset=utf-8"


@LEVELS
async def test_a_page_is_a_text(desk: Desk, level: str) -> None:
    """What is no JSON is a text: whole, or its length."""
    await desk.ask("html", debug=level)
    told = desk.events()[-1]["text"]
    assert ("Welcome to the portal" in told) == (level == "full")
    assert told.startswith("<html>" if level == "full" else "[47 characters, ")


# Limits.


async def test_a_long_request_is_cut(tmp_path: Path, server: ModelServer, nursery: trio.Nursery) -> None:
    """It is a document all the same, and says that it is not whole."""
    limits = Limits(artifact_bytes=2_000)
    async with desk_with(tmp_path, server, nursery, limits) as desk:
        await desk.ask("echo", said='"' * 5_000)
        found = desk.document("request")
        assert found["truncated"] is True
        assert found["body_bytes"] > 5_000
        assert isinstance(found["body"], str)
        assert len(desk.content("request.json")) <= 2_000
        truncated = {a.kind: a.truncated for a in await desk.captures.artifacts("run_1")}
        assert truncated == {"request": True, "events": True, "answer": True}


async def test_many_events_are_cut(tmp_path: Path, server: ModelServer, nursery: trio.Nursery) -> None:
    """The first events are there, and the last line says that there were more."""
    async with desk_with(tmp_path, server, nursery, Limits(artifact_bytes=4_000)) as desk:
        await desk.ask("chunks:100")
        assert desk.events()[-1] == {"truncated": True}
        assert desk.events()[1]["data"]
        assert desk.document("answer")["outcome"] == "answered"


@pytest.mark.parametrize(
    ("reads", "kept"),
    [
        ((b'{"a":"' + b"x" * 3_000, b'"}'), {"text", "ms"}),
        ((b"data: {}\n\n", b"data: " + b"x" * 2_000_000, b"more"), {"data", "ms"}),
        ((b"x" * 2_000_000, b"more"), {"text", "ms"}),
    ],
)
async def test_what_has_no_end(
    tmp_path: Path, server: ModelServer, nursery: trio.Nursery, reads: tuple[bytes, ...], kept: set[str]
) -> None:
    """An object, an event or a page without end: as much as there is room for, and that there was more."""
    async with desk_with(tmp_path, server, nursery, Limits(artifact_bytes=4_000)) as desk:
        sheet = capturing.Sheet(desk.captures, desk.request("echo"))
        for read in reads:
            sheet.do(sheet.received, 5, read)
        sheet.do(sheet.end, 7, None, None, False)
        first, last = desk.events()
        assert set(first) == kept
        assert last == {"truncated": True}


async def test_headers_over_the_limit(tmp_path: Path, server: ModelServer, nursery: trio.Nursery) -> None:
    """Where not even the head has room, that is all that is said."""
    async with desk_with(tmp_path, server, nursery, Limits(artifact_bytes=400)) as desk:
        await desk.ask("echo", options={"headers": {"x-long": "x" * 1_000}})
        assert desk.document("request") == {"truncated": True}


async def test_what_was_not_taken_is_said(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """While more waits to be written than may, events are left out from then on; the answer is there."""
    taken = desk.captures.put
    left = 3

    def put(run_id: str, size: int, job: Callable[[], None]) -> bool:
        nonlocal left
        left -= 1
        return taken(run_id, size, job) if left >= 0 or not size else False

    monkeypatch.setattr(desk.captures, "put", put)
    heard = await desk.ask("slow:1:5")
    assert heard.text == "piece1 piece2 piece3 piece4 piece5 "
    assert desk.events()[-1] == {"truncated": True}
    assert len(desk.events()) < 6
    assert desk.document("answer")["outcome"] == "answered"


# Failing.


@contextmanager
def blocked(directory: Path) -> Iterator[None]:
    """Something else stands where captures go."""
    directory.write_text("not yours")
    yield
    assert directory.read_text() == "not yours"


async def test_a_capture_that_fails_harms_nobody(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """The answer is what it would be; that nothing is captured of the run is logged once."""
    with blocked(desk.directory):
        for _ in range(2):
            assert (await desk.ask("echo")).text == f"echo: {LONG}"
    told = [record for record in caplog.records if record.name == "kheishd.kernel.captures"]
    assert ["is a link, or no directory" in record.getMessage() for record in told] == [True]


async def test_a_disk_that_becomes_full(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """What was written before stays; the call goes on, and nothing more of it is tried."""
    from tests.support.desk import full_disk

    with full_disk():
        heard = await desk.ask("chunks:200", said="x" * 1_000)
    assert heard.text.split()[-1] == "word200"
    assert desk.document("request")["body_bytes"] > 1_000
    assert not (desk.directory / "run_1" / "turn-0001-attempt-0001-answer.json").exists()
    assert all(event["ms"] >= 0 for event in desk.events()), "whole lines only"
    assert len([record for record in caplog.records if "debug capture" in record.getMessage()]) == 1


async def test_what_nests_too_deep_is_a_text(desk: Desk) -> None:
    """A body that no reader takes is captured all the same."""
    deep = b"[" * 50_000
    for level in ("full", "redacted"):
        request = replace(desk.request("echo", debug=level), attempt=1 if level == "full" else 2)
        sheet = capturing.Sheet(desk.captures, request)
        sheet.do(sheet.received, 5, b"data: " + deep + b"\n\n")
        sheet.do(sheet.received, 5, b'data: {"a":' + b"[" * 400 + b"]" * 400 + b"}\n\n")
        sheet.do(sheet.end, 7, None, None, False)
    assert desk.events()[0] == {"ms": 5, "text": deep.decode()}
