"""The artifacts of captured calls, against a server that speaks as providers do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kheishd.debug.files import CaptureLimits
from tests.support.captured import LONG, SECRET, CapturedModels, captured_models
from tests.support.model_calls import ask
from tests.support.model_server import ModelServer

DRIVERS = pytest.mark.parametrize("driver", ["openai", "responses", "anthropic", "google"])
LEVELS = pytest.mark.parametrize("level", ["full", "redacted"])


# Content.


@DRIVERS
async def test_request(captured: CapturedModels, driver: str) -> None:
    """The request has the URL, the exact body, and all headers as sent, except for the credential."""
    await captured.ask("echo", driver=driver, options={"headers": {"x-title": "kheish"}})
    sent = captured.server.requests[0]
    request = captured.document("request")
    assert f'"body":{sent.body.decode()}}}' in captured.read("request.json")
    assert request["url"] == f"http://127.0.0.1:{captured.server.port}{sent.path}"
    credentials = {"anthropic": "x-api-key", "google": "x-goog-api-key"}
    assert request["headers"] == sent.headers | {credentials.get(driver, "authorization"): "[redacted]"}
    assert (request["method"], request["body_bytes"]) == ("POST", len(sent.body))
    assert request["headers"]["x-title"] == "kheish"


@DRIVERS
async def test_events(captured: CapturedModels, driver: str) -> None:
    """The status and headers come first, then each event with its time; the answer is the decoded one."""
    heard = await captured.ask("echo", driver=driver)
    head, *events = captured.events()
    assert (head["status"], head["headers"]["content-type"]) == (200, "text/event-stream; charset=utf-8")
    text = "".join(text_of_event(event.get("data", {})) for event in events)
    assert text == heard.text == f"echo: {LONG}"
    assert [event["ms"] for event in events] == sorted(event["ms"] for event in events)
    if driver == "openai":
        assert events[-1]["text"] == "[DONE]"
    answer = captured.document("answer")
    assert (answer["outcome"], answer["answer"]["items"]) == (
        "answered",
        [{"kind": "text", "text": heard.text}],
    )


def text_of_event(data: dict[str, Any]) -> str:
    """Return the piece of the answer in an event, on any wire."""
    if candidates := data.get("candidates"):
        return "".join(part["text"] for part in candidates[0]["content"]["parts"])
    [choice] = data.get("choices") or [data]
    delta = choice.get("delta", {})
    if isinstance(delta, str):
        return delta
    piece: str = delta.get("content") or delta.get("text") or ""
    return piece


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
async def test_failures(
    captured: CapturedModels, driver: str, model: str, status: int, last: set[str], reason: str
) -> None:
    """A reply that is not an answer is captured, with the resulting failure."""
    heard = await captured.ask(model, driver=driver)
    events = captured.events()
    assert events[0]["status"] == status
    assert set(events[-1]) == {"ms", *last}
    answer = captured.document("answer")
    assert (answer["outcome"], answer["failure"]["reason"]) == ("failed", reason)
    assert answer["failure"]["message"] == heard.require_failure().message


async def test_incomplete_event(captured: CapturedModels) -> None:
    """An event that is cut off is captured as a text."""
    recorder = captured.captures.make_recorder(captured.request("echo"))
    for data in (b'data: {"n":1}\n\n', b'data: {"n"'):
        recorder.perform(recorder.record_body, 5, data)
    recorder.perform(recorder.finish, 7, None, None, False)
    assert captured.events() == [{"ms": 5, "data": {"n": 1}}, {"ms": 7, "text": '{"n"'}]
    assert captured.document("answer") == {"ms": 7, "outcome": "left", "answer": None}


@DRIVERS
async def test_answer_that_does_not_stream(captured: CapturedModels, driver: str) -> None:
    """An answer in one object is one line."""
    await captured.ask("nonstream", driver=driver)
    assert [set(event) for event in captured.events()] == [{"ms", "status", "headers"}, {"ms", "body"}]
    assert LONG in str(captured.events()[1]["body"])


@pytest.mark.parametrize(("purpose", "prefix"), [("summary", "compaction-"), ("title", "title-")])
async def test_names_of_other_calls(captured: CapturedModels, purpose: Any, prefix: str) -> None:
    """The name of an artifact tells calls for summaries and titles from those for answers."""
    await ask(captured.models, replace(captured.request("echo"), purpose=purpose, turn=3, attempt=2))
    await captured.captures.queue.flush()
    assert captured.document("answer", f"{prefix}turn-0003-attempt-0002")["outcome"] == "answered"


async def test_deeply_nested_body(captured: CapturedModels) -> None:
    """A body nested too deeply to decode is captured as a text."""
    deep = b"[" * 50_000
    for level in ("full", "redacted"):
        request = replace(captured.request("echo", debug=level), attempt=1 if level == "full" else 2)
        recorder = captured.captures.make_recorder(request)
        recorder.perform(recorder.record_body, 5, b"data: " + deep + b"\n\n")
        nested = b'data: {"a":' + b"[" * 400 + b"]" * 400 + b"}\n\n"
        recorder.perform(recorder.record_body, 5, nested)
        recorder.perform(recorder.finish, 7, None, None, False)
    assert captured.events()[0] == {"ms": 5, "text": deep.decode()}


# Secrets.


@DRIVERS
@LEVELS
@pytest.mark.parametrize(
    "model", ["echo", "repeat:1", "repeat:3", "repeat:200", "status:401", "error-event", "nonstream"]
)
async def test_no_credential_is_written(
    captured: CapturedModels, driver: str, level: str, model: str
) -> None:
    """No file contains the credential, whether sent or received, whole or split into single letters."""
    headers = {"x-other": f"again {SECRET}"}
    await captured.ask(
        model, driver=driver, debug=level, content=f"my key is {SECRET}", options={"headers": headers}
    )
    written = captured.read_all()
    assert SECRET not in written
    assert "canary" not in written
    joined = "".join(text for event in captured.events() for text in short_texts(event))
    assert "canary" not in joined
    if level == "full":
        assert captured.document("request")["headers"]["x-other"] == "again [scrubbed]"
        assert "my key is [scrubbed]" in str(captured.document("request")["body"])


def short_texts(value: Any) -> Iterator[str]:
    """Yield every text of up to three characters in a value: the pieces of a stream."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from short_texts(inner)
    elif isinstance(value, str) and len(value) <= 3:
        yield value


@DRIVERS
async def test_redacted_texts(captured: CapturedModels, driver: str) -> None:
    """Texts are replaced by their lengths and digests; the structure of the exchange remains."""
    instructions = "These are the instructions, to be kept."
    heard = await captured.ask("thinking", driver=driver, debug="redacted", instructions=instructions)
    written = captured.read_all()
    for text in (LONG, instructions, "Let me ", "It is ", "42"):
        assert f'"{text}' not in written
    redactor = captured.captures.redactor
    body = captured.document("request")["body"]
    if driver == "google":
        assert captured.document("request")["url"].endswith("/thinking:streamGenerateContent?alt=sse")
    else:
        assert body["model"] == "thinking"
    assert f'"{redactor.redact_text(LONG)}"' in written
    assert redactor.redact_text(instructions) in str(body)
    assert captured.document("answer")["answer"]["items"][1]["text"] == redactor.redact_text(heard.text)
    assert captured.document("answer")["answer"]["stop_reason"] == "end"
    assert captured.events()[0]["headers"]["content-type"] == "text/event-stream; charset=utf-8"


@LEVELS
async def test_page_that_is_not_json(captured: CapturedModels, level: str) -> None:
    """A page is captured as a text, or as the length of one."""
    await captured.ask("html", debug=level)
    text = captured.events()[-1]["text"]
    assert ("Welcome to the portal" in text) == (level == "full")
    assert text.startswith("<html>" if level == "full" else "[47 characters, ")


# Limits.


async def test_long_request(tmp_path: Path, server: ModelServer) -> None:
    """A long request is truncated, marked as such, and still a JSON document."""
    async with captured_models(tmp_path, server, CaptureLimits(artifact_bytes=2_000)) as captured:
        await captured.ask("echo", content='"' * 5_000)
        request = captured.document("request")
        assert request["truncated"] is True
        assert request["body_bytes"] > 5_000
        assert isinstance(request["body"], str)
        assert len(captured.read("request.json")) <= 2_000
        artifacts = await captured.captures.list_artifacts("run_1")
        truncated = {artifact.kind: artifact.truncated for artifact in artifacts}
        assert truncated == {"request": True, "events": True, "answer": True}


async def test_many_events(tmp_path: Path, server: ModelServer) -> None:
    """The first events are kept, and the last line marks the truncation."""
    async with captured_models(tmp_path, server, CaptureLimits(artifact_bytes=4_000)) as captured:
        await captured.ask("chunks:100")
        assert captured.events()[-1] == {"truncated": True}
        assert captured.events()[1]["data"]
        assert captured.document("answer")["outcome"] == "answered"


@pytest.mark.parametrize(
    ("reads", "keys"),
    [
        ((b'{"a":"' + b"x" * 3_000, b'"}'), {"text", "ms"}),
        ((b"data: {}\n\n", b"data: " + b"x" * 2_000_000, b"more"), {"data", "ms"}),
        ((b"x" * 2_000_000, b"more"), {"text", "ms"}),
    ],
)
async def test_endless_bodies(
    tmp_path: Path, server: ModelServer, reads: tuple[bytes, ...], keys: set[str]
) -> None:
    """An object, an event or a page that is too long is truncated and marked as such."""
    async with captured_models(tmp_path, server, CaptureLimits(artifact_bytes=4_000)) as captured:
        recorder = captured.captures.make_recorder(captured.request("echo"))
        for read in reads:
            recorder.perform(recorder.record_body, 5, read)
        recorder.perform(recorder.finish, 7, None, None, False)
        first, last = captured.events()
        assert set(first) == keys
        assert last == {"truncated": True}


async def test_long_headers(tmp_path: Path, server: ModelServer) -> None:
    """A request whose headers exceed the limit is only the mark of truncation."""
    async with captured_models(tmp_path, server, CaptureLimits(artifact_bytes=400)) as captured:
        await captured.ask("echo", options={"headers": {"x-long": "x" * 1_000}})
        assert captured.document("request") == {"truncated": True}
