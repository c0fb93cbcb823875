"""The common part of the readers: empty answers, refusals, and errors in every shape, and damaged streams."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.run.answers import fit_message
from kheishd.core.run.calls import normalize_calls
from kheishd.kernel.runtime import ModelFailure
from kheishd.providers import anthropic, chat_messages, google, openai, responses
from kheishd.providers.answer_reader import MAX_MODEL_CHARACTERS, REFUSAL, DraftReader, is_error_data
from kheishd.providers.driver import Driver
from kheishd.providers.exchange import AnswerBody
from kheishd.providers.failures import FailureFactory
from kheishd.providers.response_items import input_items
from protocol.transcript import Item, Message, Text, Thinking, ToolCall, ToolResult, Usage, text_of
from tests.support.reference_parser import Answer, parse_chat, parse_google, parse_messages, parse_responses
from tests.support.wire_samples import contents, messages

TOO_LONG = "This model's maximum context length is 4096 tokens."


def read_stream(driver: Driver, *lines: str) -> DraftReader:
    """Return a reader that processed a stream of lines, to its end."""
    reader = driver.reader(FailureFactory("api.test", "sk-secret"))
    assert isinstance(reader, DraftReader)
    body = AnswerBody(reader)
    body.feed("\n".join(lines).encode())
    body.finish()
    return reader


def read_failure(driver: Driver, *lines: str) -> ModelFailure:
    """Return the failure of a stream."""
    with pytest.raises(ModelFailure) as raised:
        read_stream(driver, *lines).end()
    return raised.value


def chat(*, finish: str | None = None, **delta: Any) -> str:
    """Return the line of a chunk."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {msgspec.json.encode({'choices': [choice]}).decode()}\n"


def named(**event: Any) -> str:
    """Return the line of an event of the messages API."""
    return f"data: {msgspec.json.encode(event).decode()}\n"


def block(kind: str, **fields: Any) -> str:
    """Return the line that starts a content block."""
    return named(type="content_block_start", index=0, content_block={"type": kind, **fields})


def part(finish: str | None = None, **fields: Any) -> str:
    """Return the line of a chunk of generateContent with one part."""
    candidate: dict[str, Any] = {"content": {"parts": [fields]}, "index": 0}
    return named(candidates=[{**candidate, **({"finishReason": finish} if finish else {})}])


def stopped(reason: str, **details: Any) -> str:
    """Return the lines of the end of a message."""
    return (
        named(type="message_delta", delta={"stop_reason": reason, **details})
        + "\n"
        + named(type="message_stop")
    )


def item(kind: str, **fields: Any) -> str:
    """Return the line of a whole item of the Responses API."""
    return named(type="response.output_item.done", item={"type": kind, **fields})


def ended(reason: str) -> str:
    """Return the line of the end of an incomplete response."""
    return named(type="response.incomplete", response={"incomplete_details": {"reason": reason}})


TEXTS: dict[Driver, str] = {
    openai: chat(content="x"),
    anthropic: block("text", text="x"),
    google: part(text="x"),
    responses: item("message", content=[{"type": "output_text", "text": "x"}]),
}
SETTLED: dict[Driver, str] = {
    openai: chat(finish="stop"),
    anthropic: named(type="message_delta", delta={"stop_reason": "end_turn"}),
    google: named(candidates=[{"finishReason": "STOP"}]),
    responses: item("message", content=[{"type": "output_text", "text": "y"}]),
}
ENDS: dict[Driver, str] = {
    openai: "data: [DONE]\n",
    anthropic: named(type="message_stop"),
    google: "data: [DONE]\n",
    responses: named(type="response.completed", response={}),
}

HM = item("reasoning", summary=[{"type": "summary_text", "text": "hm"}])

# Empty answers.


@pytest.mark.parametrize(
    ("driver", "lines", "words"),
    [
        (openai, ["data: [DONE]\n"], "it ended without any text"),
        (openai, [chat(content=""), chat(finish="stop"), "data: [DONE]\n"], "it ended without any text"),
        (openai, [chat(content=" \n"), chat(finish="stop"), "data: [DONE]\n"], "it has reasoning only"),
        (openai, [chat(reasoning="hm"), chat(finish="stop")], "it has reasoning only"),
        (openai, [chat(reasoning="hm"), chat(finish="length")], "its whole output limit"),
        (openai, [named(usage={"prompt_tokens": 1}), "data: [DONE]\n"], "it ended without any text"),
        (anthropic, [named(type="message_stop")], "it ended without any text"),
        (anthropic, [named(type="message_start", message={}), stopped("end_turn")], "without any text"),
        (anthropic, [block("thinking", thinking="hm"), stopped("end_turn")], "it has reasoning only"),
        (anthropic, [block("thinking", thinking="hm"), stopped("max_tokens")], "its whole output limit"),
        (google, [part(finish="STOP")], "it ended without any text"),
        (google, [named(candidates=[{"finishReason": "STOP"}])], "it ended without any text"),
        (google, [part(text=""), part(text=" ", finish="STOP")], "it has reasoning only"),
        (google, [part(text="hm", thought=True, finish="STOP")], "it has reasoning only"),
        (google, [part(text="", thoughtSignature="s", finish="STOP")], "it ended without any text"),
        (google, [part(text="hm", thought=True, finish="MAX_TOKENS")], "its whole output limit"),
        (responses, [named(type="response.created"), ENDS[responses]], "it ended without any text"),
        (responses, ["data: [DONE]\n"], "it ended without any text"),
        (responses, [item("message", content=[]), ENDS[responses]], "it ended without any text"),
        (responses, [item("web_search_call"), ENDS[responses]], "it ended without any text"),
        (responses, [HM, ENDS[responses]], "it has reasoning only"),
        (responses, [HM, ended("max_output_tokens")], "its whole output limit"),
    ],
)
def test_an_empty_answer_is_a_failure(driver: Driver, lines: list[str], words: str) -> None:
    """An end without text and without calls is a failure of its own, and never an answer."""
    failure = read_failure(driver, *lines)
    assert (failure.reason, failure.retryable) == ("empty_answer", True)
    assert words in failure.message


@pytest.mark.parametrize(
    ("driver", "line"),
    [
        (openai, named(model="m" * 500, choices=[{"delta": {"content": "x"}, "finish_reason": "stop"}])),
        (anthropic, named(type="message_start", message={"model": "m" * 500}) + "\n" + TEXTS[anthropic]),
        (google, TEXTS[google] + "\n" + named(modelVersion="m" * 500, candidates=[{"finishReason": "STOP"}])),
        (responses, named(type="response.completed", response={"model": "m" * 500})),
    ],
)
def test_the_name_of_the_model_is_truncated(driver: Driver, line: str) -> None:
    """The name of the model that answered is stored up to a limit."""
    lines = [TEXTS[driver], line] if driver is responses else [line]
    answer = read_stream(driver, *lines, ENDS[driver]).end()
    assert answer is not None
    assert answer.model == "m" * MAX_MODEL_CHARACTERS


def test_an_empty_answer_has_its_usage() -> None:
    """The tokens of an empty answer, or of an unusable one, are paid, and therefore counted."""
    usage = {"prompt_tokens": 10, "completion_tokens": 20}
    failure = read_failure(openai, chat(finish="stop"), named(choices=[], usage=usage))
    assert failure.usage == Usage(10, 20)
    nameless = chat(tool_calls=[{"index": 0, "id": "c", "function": {"arguments": "{}"}}])
    failure = read_failure(openai, nameless, named(choices=[], usage=usage), "data: [DONE]\n")
    assert (failure.reason, failure.usage) == ("bad_response", Usage(10, 20))


@pytest.mark.parametrize("driver", [openai, anthropic, google, responses])
def test_an_end_after_unknown_data_is_a_failure(driver: Driver) -> None:
    """An end counts only if there is something understood before it; the unknown data is in the message."""
    failure = read_failure(driver, named(base_resp={"status_msg": "rate limit reached"}), ENDS[driver])
    assert "rate limit reached" in failure.message
    assert failure.reason != "empty_answer"


# Refusals.


@pytest.mark.parametrize(
    ("driver", "lines", "items"),
    [
        (anthropic, [stopped("refusal")], [Text(REFUSAL)]),
        (anthropic, [stopped("refusal", stop_details={"explanation": "No."})], [Text("No.")]),
        (
            anthropic,
            [block("text", text="I would"), stopped("refusal", stop_details={"explanation": "No."})],
            [Text("I would\n\nNo.")],
        ),
        (anthropic, [block("text", text="I would"), stopped("refusal")], [Text("I would")]),
        (
            anthropic,
            [block("tool_use", id="t", name="look", input={"a": 1}), stopped("refusal", stop_details="?")],
            [Text(REFUSAL)],
        ),
        (
            google,
            [part(text="I would", finish="SAFETY")],
            [Text("I would\n\nThe model refused to answer (SAFETY).")],
        ),
        (
            google,
            [named(promptFeedback={"blockReason": "?"})],
            [Text("The provider blocked the prompt (?).")],
        ),
        (openai, [chat(finish="content_filter")], [Text(REFUSAL)]),
        (openai, [chat(refusal="I cannot."), "data: [DONE]\n"], [Text("I cannot.")]),
        (openai, [chat(reasoning="hm"), chat(finish="refusal")], [Thinking("hm"), Text(REFUSAL)]),
        (responses, [HM, ended("content_filter")], [Thinking("hm"), Text(REFUSAL)]),
        (responses, [TEXTS[responses], ended("content_filter")], [Text("x")]),
    ],
)
def test_a_refusal_has_a_text(driver: Driver, lines: list[str], items: list[Item]) -> None:
    """A refusal shows its explanation, streamed like any text, and leaves a message that can be sent back."""
    reader = read_stream(driver, *lines)
    answer = reader.end()
    assert answer is not None
    assert (answer.items, answer.stop_reason) == (items, "refusal")
    assert reader.end() == answer
    deltas = "".join(delta.text for delta in reader.take() if hasattr(delta, "text"))
    assert deltas == "".join(item.text for item in items if isinstance(item, Text | Thinking))


# Errors.


ERRORS = [
    named(error={"message": TOO_LONG}),
    named(error=TOO_LONG),
    named(error={"message": TOO_LONG, "type": "invalid_request_error"}, choices=[]),
    named(object="error", message=TOO_LONG, type="BadRequestError", code=400),
    named(object="error", message=TOO_LONG),
    named(type="error", error={"type": "invalid_request_error", "message": TOO_LONG}),
    named(type="error", message=TOO_LONG),
    named(detail=TOO_LONG),
    named(message=TOO_LONG),
    named(detail=[{"msg": TOO_LONG}]),
    f'data: [{{"error":{{"code":400,"message":"{TOO_LONG}"}}}}]\n',
    f"error: {TOO_LONG}\n",
    f'error: {{"message":"{TOO_LONG}"}}\n',
    f'{{"error": {{\n  "message": "{TOO_LONG}"\n}}}}\n',
    f"event: error\ndata: {TOO_LONG}\n",
    f'event: error\ndata: {{"message":"{TOO_LONG}"}}\n',
    f'event: error\ndata: {{"error":{{"message":"{TOO_LONG}"}}}}\n',
]
"""An error in every shape that is known."""


@pytest.mark.parametrize("driver", [openai, anthropic, google, responses])
@pytest.mark.parametrize("error", ERRORS)
def test_an_error_is_never_an_answer(driver: Driver, error: str) -> None:
    """An error in any shape and at any place before the end is that error, whole line or not."""
    text, settled, end = TEXTS[driver], SETTLED[driver], ENDS[driver]
    for lines in (
        [error, end],
        [error, settled, end],
        [text, error, settled, end],
        [text, settled, error, end],
        [text, settled, error.strip()],
        [error.strip()],
    ):
        failure = read_failure(driver, *lines)
        assert failure.reason == "context_too_long", lines
        assert TOO_LONG in failure.message


@pytest.mark.parametrize("driver", [openai, anthropic, google, responses])
@pytest.mark.parametrize("error", [line for line in ERRORS if line.startswith("data: ")])
def test_an_error_in_place_of_a_whole_answer(driver: Driver, error: str) -> None:
    """An error body with a status of success is that error, whatever follows it."""
    body = error.removeprefix("data: ")
    for lines in ([body], [body, "data: [DONE]\n"]):
        failure = read_failure(driver, *lines)
        assert failure.reason == "context_too_long"
        assert TOO_LONG in failure.message


def test_a_reader_that_failed_has_no_answer() -> None:
    """After an error, nothing that came before is an answer."""
    reader = openai.reader(FailureFactory("api.test", None))
    reader.event(b'{"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}')
    assert reader.settled
    with pytest.raises(ModelFailure):
        reader.event(b'{"error":"no"}')
    assert reader.failed
    assert reader.end() is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff",
        b'{"error":{}}',
        b'{"error":null}',
        b'{"message":{"role":"assistant"}}',
        b'{"type":"news","message":"hello"}',
        b"[" * 100_000,
    ],
)
def test_other_data_is_no_error(data: bytes) -> None:
    """An empty error, an event of an unknown type and nonsense report no error."""
    assert not is_error_data(data)


# Damaged streams.


STREAMS = Path(__file__).parent / "streams"
DRIVERS: dict[str, Driver] = {
    "anthropic": anthropic,
    "google": google,
    "openai": openai,
    "responses": responses,
}
REFERENCES: dict[Driver, Callable[[bytes], Answer | None]] = {
    anthropic: parse_messages,
    google: parse_google,
    openai: parse_chat,
    responses: parse_responses,
}
DAMAGED = [
    pytest.param(DRIVERS[path.stem.partition("-")[0]], path.read_bytes(), id=path.stem)
    for path in sorted(STREAMS.glob("*.sse"))
]


WHOLE_STREAMS: list[tuple[Driver, bytes]] = [
    (DRIVERS[path.stem.partition("-")[0]], path.read_bytes()) for path in sorted(STREAMS.glob("*.sse"))
]


def read_answer(driver: Driver, stream: bytes, size: int = 1_000_000) -> Answer | ModelFailure:
    """Return the answer of a stream that arrives in reads of a size, or its failure, as an exchange does."""
    reader = driver.reader(FailureFactory("api.test", None))
    body = AnswerBody(reader)
    failure = ModelFailure("connection_failed", "the connection ended before the answer", retryable=True)
    try:
        for start in range(0, len(stream), size):
            body.feed(stream[start : start + size])
        body.finish()
    except ModelFailure as error:
        failure = error
    try:
        answer = reader.end()
    except ModelFailure as error:
        return error
    if answer is None:
        return failure
    calls = [item for item in answer.items if isinstance(item, ToolCall)]
    pairs = [(call.name, None if call.invalid else call.arguments) for call in calls]
    return text_of(answer.items), pairs


def parse_reference(driver: Driver, stream: bytes) -> Answer | None:
    """Return the answer of the reference parser; None if it cannot read the stream."""
    try:
        return REFERENCES[driver](stream)
    except (AttributeError, TypeError):
        return None


def require_no_silent_success(driver: Driver, stream: bytes, damaged: bytes) -> None:
    """Require that a damaged stream has the answer of the reference parser, or a failure with a message.

    Data for which the drivers make up, such as a changed index, may also leave the original answer.
    """
    outcome = read_answer(driver, damaged)
    if isinstance(outcome, ModelFailure):
        assert outcome.message
    else:
        assert outcome in (parse_reference(driver, damaged), parse_reference(driver, stream))


@pytest.mark.parametrize(("driver", "stream"), DAMAGED)
def test_reads_of_one_byte(driver: Driver, stream: bytes) -> None:
    """A stream that arrives byte by byte has the same outcome as at once."""
    outcomes = [read_answer(driver, stream, size) for size in (1, 2, 3, 7, 1_000_000)]
    if not isinstance(outcomes[0], ModelFailure):
        assert outcomes == [outcomes[0]] * 5
        assert outcomes[0] == parse_reference(driver, stream)
    else:
        assert {getattr(outcome, "message", None) for outcome in outcomes} == {outcomes[0].message}


@pytest.mark.parametrize(("driver", "stream"), DAMAGED)
def test_a_truncated_stream_is_no_silent_success(driver: Driver, stream: bytes) -> None:
    """A stream that ends at any byte has its answer or a failure, and never a part of the answer."""
    for end in range(len(stream)):
        require_no_silent_success(driver, stream, stream[:end])


@pytest.mark.parametrize(("driver", "stream"), DAMAGED)
def test_a_missing_byte_is_no_silent_success(driver: Driver, stream: bytes) -> None:
    """A stream that lost any one byte has the answer of the reference parser, or a failure."""
    for place in range(len(stream)):
        require_no_silent_success(driver, stream, stream[:place] + stream[place + 1 :])


WRONG: list[Any] = [
    *(None, True, 0, -1, 1e300, 2**64, "", "x", "\x00", "\ud800", "nan", "9" * 5_000, "y" * 5_000),
    *([], {}, [[]], [{}], ["x"], {"type": "x"}, {"error": {}}, {"id": ["x"]}, {"text": 1}),
]
"""Values in the place of others."""


def list_places(value: Any) -> list[tuple[Any, Any]]:
    """Return all places in a JSON value, each as its container and key."""
    places: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            places += [(value, key), *list_places(inner)]
    return places


def damage_values(driver: Driver, data: st.DataObject) -> bytes:
    """Return a stream whose events have wrong values, and come twice or in another order."""
    stream = data.draw(st.sampled_from([stream for other, stream in WHOLE_STREAMS if other is driver]))
    events = [json.loads(line[5:]) for line in stream.splitlines() if line.startswith(b"data: {")]
    for _ in range(data.draw(st.integers(0, 2), "moved")):
        event = data.draw(st.sampled_from(events))
        events.insert(data.draw(st.integers(0, len(events))), copy.deepcopy(event))
    for _ in range(data.draw(st.integers(1, 3), "wrong")):
        places = [place for event in events for place in list_places(event)]
        container, key = data.draw(st.sampled_from(places))
        container[key] = copy.deepcopy(data.draw(st.sampled_from(WRONG)))
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)


@pytest.mark.parametrize("driver", REFERENCES)
@given(data=st.data())
def test_wrong_values_leave_a_conversation_that_continues(driver: Driver, data: st.DataObject) -> None:
    """An answer with wrong values is a failure, or it can be stored, and every driver can send it back."""
    origin = "a test"
    reader = driver.reader(FailureFactory("api.test", None), origin)
    body = AnswerBody(reader)
    try:
        body.feed(damage_values(driver, data))
        body.finish()
        answer = reader.end()
    except ModelFailure:
        return
    if answer is None:
        return
    items, provider_data, _ = fit_message(normalize_calls(answer.items, ()), answer.provider_data, 10**6)
    message = Message("assistant", items, provider_data=provider_data)
    stored = msgspec.json.encode([message, answer.usage, answer.model])
    assert len(stored) < 100_000
    message, _, _ = msgspec.json.decode(stored, type=tuple[Message, Usage, str | None])
    results = [ToolResult(call.call_id, call.name, "seen") for call in items if isinstance(call, ToolCall)]
    transcript = [message, Message("tool", [*results])] if results else [message]
    for other in REFERENCES:
        send_back(other, origin, transcript)


def send_back(driver: Driver, origin: str, transcript: list[Message]) -> None:
    """Build the part of a request that has the transcript."""
    if driver is openai:
        chat_messages.messages("", transcript, chat_messages.ChatRules(origin), "Now.")
    elif driver is anthropic:
        messages(transcript, origin)
    elif driver is google:
        contents(transcript, origin, situation="Now.")
    else:
        input_items(transcript, origin, "Now.")


@pytest.mark.parametrize(("driver", "stream"), DAMAGED)
@given(data=st.data())
def test_a_damaged_stream_is_no_silent_success(driver: Driver, stream: bytes, data: st.DataObject) -> None:
    """A stream with any replaced, lost, repeated or inserted bytes has that answer, or a failure."""
    start = data.draw(st.integers(0, len(stream) - 1), "start")
    end = data.draw(st.integers(start, min(start + 400, len(stream))), "end")
    part = stream[start:end]
    inserted = data.draw(
        st.sampled_from([b"", part + part, b"\n", b"\n\n", b"\x00"]) | st.binary(max_size=4), "in"
    )
    require_no_silent_success(driver, stream, stream[:start] + inserted + stream[end:])
