"""Answers of the Responses API, read from every kind of stream."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.kernel.hook import Tool
from kheishd.kernel.runtime import ModelAnswer, ModelFailure
from kheishd.providers.exchange import AnswerBody
from kheishd.providers.failures import FailureFactory
from kheishd.providers.response_items import OUTPUT, input_items
from kheishd.providers.response_reader import MAX_ITEMS, ResponseReader
from protocol.limits.model import MAX_ANSWER_BYTES, MAX_PROVIDER_DATA_BYTES
from protocol.transcript import Item, Message, ProviderData, Text, Thinking, ToolCall, Usage, text_of
from tests.support.model_wire import Call, Move, Say, Stop, Think
from tests.support.responses_wire import Responses

STREAMS = Path(__file__).parent / "streams"
ORIGIN = "responses api.test gpt"
URL = "https://api.test/v1"
LOOK = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}}, "read")


def new() -> ResponseReader:
    """Return a new reader."""
    return ResponseReader(FailureFactory("api.test", "sk-secret"), ORIGIN)


def event(kind: str, **fields: Any) -> dict[str, Any]:
    """Return an event of the API."""
    return {"type": f"response.{kind}", **fields}


def added(item: dict[str, Any], index: int | None = 0) -> dict[str, Any]:
    """Return the announcement of an item."""
    return event("output_item.added", output_index=index, item=item)


def done(item: dict[str, Any], index: int | None = 0) -> dict[str, Any]:
    """Return the end of an item."""
    return event("output_item.done", output_index=index, item=item)


def text_delta(piece: str, index: int | None = 0, **fields: Any) -> dict[str, Any]:
    """Return a piece of a text."""
    return event("output_text.delta", output_index=index, content_index=0, delta=piece, **fields)


def completed(*output: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the end of the response."""
    return event("completed", response={"output": output, **fields})


def message(*texts: str, item_id: str = "msg_1", **fields: Any) -> dict[str, Any]:
    """Return a message item."""
    content = [{"type": "output_text", "text": text} for text in texts]
    return {"id": item_id, "type": "message", "role": "assistant", "content": content, **fields}


def function_call(number: int = 1, arguments: Any = "{}", **fields: Any) -> dict[str, Any]:
    """Return a call item."""
    ids = {"id": f"fc_{number}", "call_id": f"call_{number}"}
    return {"type": "function_call", **ids, "name": "look", "arguments": arguments, **fields}


def read(*events: dict[str, Any] | str) -> ResponseReader:
    """Return a reader that processed these events."""
    fresh = new()
    for data in events:
        fresh.event(data.encode() if isinstance(data, str) else msgspec.json.encode(data))
    return fresh


def read_answer(*events: dict[str, Any] | str) -> ModelAnswer:
    """Return the answer of these events."""
    answer = read(*events).end()
    assert answer is not None
    return answer


def read_failure(*events: dict[str, Any] | str) -> ModelFailure:
    """Return the failure of these events."""
    with pytest.raises(ModelFailure) as raised:
        read(*events).end()
    return raised.value


def shown(fresh: ResponseReader) -> str:
    """Return the text of all deltas so far."""
    return "".join(delta.text for delta in fresh.take() if hasattr(delta, "text"))


def calls_of(answer: ModelAnswer) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the id, the name and the arguments of each call."""
    calls = (item for item in answer.items if isinstance(item, ToolCall))
    return [(call.call_id, call.name, call.arguments) for call in calls]


def send_back(answer: ModelAnswer) -> list[dict[str, Any]]:
    """Return the items of the next request to the same origin."""
    return input_items([Message("assistant", answer.items, provider_data=answer.provider_data)], ORIGIN)


LOOKS = [
    ToolCall(f"call_{n}", "look", {"at": path}, provider_data=ProviderData(ORIGIN, f"call_{n}"))
    for n, path in ((1, "/a"), (2, "/b"))
]


@pytest.mark.parametrize(
    ("name", "items", "usage", "stop"),
    [
        ("responses-text", [Text("Grüße!")], Usage(36, 5, cached_input_tokens=12), "end"),
        (
            "responses-tools",
            [Thinking("**Plan**\n\nLook twice."), Text("I look."), *LOOKS],
            Usage(80, 90, cached_input_tokens=64, reasoning_tokens=60),
            "tool_calls",
        ),
        ("responses-llamacpp", [Thinking("Hm."), Text("It is 42.")], Usage(9, 11), "end"),
        ("responses-gateway", [Thinking("So be it."), Text("Yes.")], Usage(3, 4), "end"),
        ("responses-search", [Text("Here.")], Usage(300, 20), "end"),
        ("responses-refusal", [Text("I cannot help.")], Usage(9, 5), "refusal"),
    ],
)
def test_published_streams(name: str, items: list[Item], usage: Usage, stop: str) -> None:
    """Streams of every kind of server produce their answer, wherever the network cuts them."""
    stream = (STREAMS / f"{name}.sse").read_bytes()
    for cut in range(len(stream)):
        fresh = new()
        body = AnswerBody(fresh)
        body.feed(stream[:cut])
        body.feed(stream[cut:])
        pieces = "".join(delta.text for delta in fresh.take() if hasattr(delta, "text"))
        answer = fresh.end()
        assert fresh.done
        assert answer is not None, f"cut at {cut}"
        assert (answer.items, answer.usage, answer.stop_reason) == (items, usage, stop), f"cut at {cut}"
        assert pieces == "".join(item.text for item in items if isinstance(item, Text | Thinking))


@pytest.mark.parametrize("name", ["text", "tools", "llamacpp", "gateway", "search", "refusal"])
def test_output_goes_back_as_it_came(name: str) -> None:
    """Every item of ``response.output_item.done`` goes back unchanged and in order."""
    fresh = new()
    body = AnswerBody(fresh)
    stream = (STREAMS / f"responses-{name}.sse").read_bytes()
    body.feed(stream)
    answer = fresh.end()
    assert answer is not None
    items: dict[int, Any] = {}
    for line in stream.splitlines():
        if line.startswith(b"data: {"):
            sent = msgspec.json.decode(line.removeprefix(b"data: "))
            if sent["type"] == "response.output_item.done":
                items[sent.get("output_index", len(items))] = sent["item"]
            if sent["type"] == "response.completed" and name == "gateway":
                items = {0: sent["response"]["output"][0], 1: items[0]}
    assert send_back(answer) == [items[index] for index in sorted(items)]


_PIECES = st.sampled_from(["", "a", "I look.", "\n\n", "😀"])
_MOVES = st.lists(
    st.one_of(
        st.builds(Think, _PIECES),
        st.builds(Say, _PIECES),
        st.builds(
            Call,
            st.uuids().map(str),
            st.just("look"),
            st.sampled_from(['{"a":1}', '{"a": 1}', "{}", '{"a', ""]),
        ),
    ),
    max_size=8,
)


@given(moves=_MOVES, size=st.integers(1, 300))
def test_the_output_of_any_answer_goes_back(moves: list[Move], size: int) -> None:
    """Whatever an answer consists of, its items go back as they came, with valid arguments."""
    wire = Responses()
    stream = wire.start("gpt") + b"".join(wire.move("gpt", move) for move in [*moves, Say("end"), Stop()])
    fresh = new()
    body = AnswerBody(fresh)
    for start in range(0, len(stream), size):
        body.feed(stream[start : start + size])
    answer = fresh.end()
    assert answer is not None
    ended = msgspec.json.decode(stream.rpartition(b"data: ")[2])
    items = ended["response"]["output"]
    for item in items:
        if item.get("arguments") in ('{"a', ""):
            item["arguments"] = "{}"
    assert send_back(answer) == items
    assert text_of(answer.items) == "".join(move.text for move in moves if isinstance(move, Say)) + "end"


@pytest.mark.parametrize("size", [1, 10_000])
def test_an_error_before_the_failed_response(size: int) -> None:
    """The error is reported with its message and its delay; the failed response after it changes nothing."""
    stream = (STREAMS / "responses-rate-limit.sse").read_bytes()
    fresh = new()
    body = AnswerBody(fresh)
    with pytest.raises(ModelFailure) as raised:  # noqa: PT012 - any read may be the one that fails.
        for start in range(0, len(stream), size):
            body.feed(stream[start : start + size])
    failure = raised.value
    assert (failure.reason, failure.retry_after_s, failure.retryable) == ("rate_limited", 1.5, True)
    assert "Rate limit reached for gpt-5" in failure.message
    assert fresh.end() is None


@pytest.mark.parametrize(
    ("code", "message", "reason", "retryable"),
    [
        ("rate_limit_exceeded", "Please try again in 20ms.", "rate_limited", True),
        ("context_length_exceeded", "Your input exceeds the context window.", "context_too_long", False),
        ("insufficient_quota", "You exceeded your current quota.", "quota_exhausted", False),
        ("server_error", "The server had an error.", "server_error", True),
        ("invalid_prompt", "Your prompt was flagged.", "bad_request", False),
        ("misalignment_policy_violation", "This was blocked.", "bad_request", False),
        (None, "Something happened.", "server_error", True),
    ],
)
def test_failures(code: str | None, message: str, reason: str, retryable: bool) -> None:
    """A failure inside the stream, or in place of it, is classified by its code and has its message."""
    error = {"code": code, "message": message}
    begun = text_delta("I")
    for failure in (
        read_failure(begun, event("failed", response={"status": "failed", "error": error})),
        read_failure(begun, event("failed", error=error)),
        read_failure(begun, {"type": "error", **error, "param": None}),
        read_failure({"type": "error", "error": error}),
        read_failure(event("completed", response={"status": "failed", "error": error, "output": []})),
    ):
        assert message.rstrip(".") in failure.message
        if code is not None:
            assert failure.reason == reason
            assert failure.retryable == retryable
    with pytest.raises(ModelFailure, match=message[:10]):
        new().whole(msgspec.json.encode({"status": "failed", "error": error, "output": []}))


@pytest.mark.parametrize("kind", ["failed", "cancelled"])
def test_a_failure_without_an_error(kind: str) -> None:
    """A failed response without an error is a failure with what it has."""
    failure = read_failure(text_delta("I"), event(kind, response={"id": "resp_1", "error": None}))
    assert failure.retryable
    assert "resp_1" in failure.message


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("max_output_tokens", "length"),
        ("content_filter", "refusal"),
        ("something new", "length"),
        (None, "length"),
    ],
)
def test_incomplete_responses(reason: str | None, stop: str) -> None:
    """An incomplete response ends for its reason."""
    ended = event("incomplete", response={"incomplete_details": reason and {"reason": reason}})
    answer = read_answer(text_delta("I"), ended)
    assert (answer.items, answer.stop_reason) == ([Text("I")], stop)


def test_a_filtered_answer_goes_back_as_text() -> None:
    """Items of an answer that was filtered do not go back: a part of them is missing."""
    ended = event("incomplete", response={"incomplete_details": {"reason": "content_filter"}})
    answer = read_answer(done(message("I would"), 0), ended)
    assert send_back(answer) == [{"type": "message", "role": "assistant", "content": "I would"}]


def test_a_refused_answer_calls_nothing() -> None:
    """A refusal beside a call has no call, and no items go back."""
    refusal = {"id": "msg_1", "type": "message", "content": [{"type": "refusal", "refusal": "No."}]}
    answer = read_answer(done(function_call(), 0), done(refusal, 1), completed())
    assert (answer.items, answer.stop_reason) == ([Text("No.")], "refusal")
    assert [item["type"] for item in send_back(answer)] == ["message"]


def test_a_refusal_after_text() -> None:
    """A refusal after text is a paragraph of its own, shown as it comes."""
    content = [{"type": "output_text", "text": "I would"}, {"type": "refusal", "refusal": "No."}]
    item = {"id": "msg_1", "type": "message", "role": "assistant", "content": content}
    streamed = [
        text_delta("I would"),
        event("refusal.delta", output_index=0, content_index=1, delta="No"),
        event("refusal.delta", output_index=0, content_index=1, delta="."),
    ]
    for events in ([*streamed, done(item)], [done(item)], streamed):
        fresh = read(*events, completed())
        answer = fresh.end()
        assert answer is not None
        assert (answer.items, answer.stop_reason) == ([Text("I would\n\nNo.")], "refusal")
        assert shown(fresh) == "I would\n\nNo."


# Where an item appears.


WHOLE = message("I ", "see.")
ITEMS = [Text("I see.")]
PIECES = [text_delta("I ", item_id="msg_1"), text_delta("see.", item_id="msg_1")]


@pytest.mark.parametrize(
    "events",
    [
        [added(message()), *PIECES, done(WHOLE), completed(WHOLE)],
        [added(message()), *PIECES, done(WHOLE), completed()],
        [added(message()), *PIECES, done(WHOLE), "[DONE]"],
        [added(message()), *PIECES, completed(WHOLE)],
        [added(message()), *PIECES, completed()],
        [*PIECES, added(message()), done(WHOLE), completed(WHOLE)],
        [*PIECES, completed(message("I ", "see.", item_id="another"))],
        [*PIECES, done(message("I ", "see.", item_id="another")), completed()],
        [PIECES[0], done(WHOLE), PIECES[1], completed(WHOLE)],
        [PIECES[0], completed(WHOLE)],
        [done(WHOLE), completed(WHOLE)],
        [done(WHOLE, None), completed(WHOLE)],
        [done(WHOLE), done(WHOLE), completed(WHOLE)],
        [completed(WHOLE)],
        [text_delta("I ", error={}), text_delta("see.", error=None), completed(error={})],
        [event("output_text.delta", delta="I "), done(WHOLE), completed()],
        [event("completed", response={"output": [None, WHOLE, "?"]})],
        [added(WHOLE), completed()],
        [
            event("output_text.done", output_index=0, content_index=0, text="I "),
            event("output_text.done", output_index=0, content_index=1, text="see."),
            completed(),
        ],
        [*PIECES, event("output_text.done", output_index=0, content_index=0, text="I see."), completed()],
        [*PIECES, event("output_text.done", output_index=0, text="I see."), completed()],
        [text_delta("wrong"), done(WHOLE), completed()],
    ],
)
def test_a_text_appears_once(events: list[dict[str, Any] | str]) -> None:
    """An item may come in pieces, whole, in the complete output, or all of these, and is taken once."""
    assert read_answer(*events).items == ITEMS


def test_what_the_pieces_lacked_is_shown() -> None:
    """The rest of a text is shown when its item is complete; another text replaces the stored one only."""
    fresh = read(PIECES[0], done(WHOLE), completed())
    assert shown(fresh) == "I see."
    fresh = read(text_delta("wrong"), done(WHOLE), completed())
    assert shown(fresh) == "wrong"


@pytest.mark.parametrize(
    "events",
    [
        [
            added(function_call(1, ""), 0),
            event("function_call_arguments.delta", output_index=0, item_id="fc_1", delta='{"a"'),
            event("function_call_arguments.delta", output_index=0, item_id="fc_1", delta=":1}"),
            event("function_call_arguments.done", output_index=0, item_id="fc_1", arguments='{"a":1}'),
            done(function_call(1, '{"a":1}'), 0),
            completed(),
        ],
        [
            added(function_call(1, ""), 0),
            event("function_call_arguments.delta", output_index=0, item_id="fc_1", delta='{"a":1}'),
            completed(),
        ],
        [added(function_call(1, '{"a":1}'), 0), completed()],
        [
            added(function_call(1, ""), 0),
            event("function_call_arguments.done", output_index=0, item_id="fc_1", arguments='{"a":1}'),
            completed(),
        ],
        [done(function_call(1, '{"a":1}'), None), completed()],
        [done(function_call(1, {"a": 1}), None), completed()],
        [completed(function_call(1, '{"a":1}'))],
        [completed(function_call(1, '{"a":1}'), function_call(1, '{"a":1}'))],
        [done(function_call(1, "")), completed(function_call(1, '{"a":1}'))],
        [
            added(function_call(1, ""), 0),
            added(function_call(1, ""), 0),
            done(function_call(1, '{"a":1}'), 0),
            done(function_call(1, '{"a":1}'), 1),
            done(function_call(1, '{"a":1}', id="another"), 0),
            completed(function_call(1, '{"a":1}')),
        ],
        [
            event("function_call_arguments.delta", output_index=0, item_id="fc_1", delta='{"a":1}'),
            completed(function_call(1, '{"a":1}')),
        ],
        [
            event("function_call_arguments.delta", output_index=0, item_id="fc_1", delta='{"a":'),
            done(function_call(1, '{"a":1}'), 0),
            completed(),
        ],
    ],
)
def test_a_call_appears_once(events: list[dict[str, Any]]) -> None:
    """A call has its arguments once, wherever they appear."""
    answer = read_answer(*events)
    assert calls_of(answer) == [("call_1", "look", {"a": 1})]
    assert answer.stop_reason == "tool_calls"


def test_calls_that_take_turns() -> None:
    """Pieces of several calls are joined by their index or their id, also if all have one index."""
    for indexes in ((0, 1), (0, 0), (None, None)):
        first, second = indexes
        pieces = [
            event("function_call_arguments.delta", output_index=index, item_id=f"fc_{n}", delta=piece)
            for n, index, piece in (
                (1, first, '{"a"'),
                (2, second, '{"b"'),
                (1, first, ":1}"),
                (2, second, ":2}"),
            )
        ]
        begun = [added(function_call(1, ""), first), added(function_call(2, ""), second)]
        answer = read_answer(*begun, *pieces, completed())
        assert [arguments for _, _, arguments in calls_of(answer)] == [{"a": 1}, {"b": 2}]


def test_items_that_are_only_in_the_complete_output_have_their_place() -> None:
    """An item that came neither in pieces nor whole goes back in its place."""
    reasoning = {"id": "rs_1", "type": "reasoning", "encrypted_content": "g", "summary": []}
    answer = read_answer(done(function_call(2)), completed(reasoning, function_call(1), function_call(2)))
    assert send_back(answer) == [reasoning, function_call(1), function_call(2)]


def test_the_final_form_of_an_item_goes_back() -> None:
    """Of an item that was announced and is complete in two places, the end of the item counts."""

    def reasoning(sealed: str) -> dict[str, Any]:
        return {"id": "rs_1", "type": "reasoning", "encrypted_content": sealed, "summary": []}

    answer = read_answer(
        added(reasoning("incomplete"), 0),
        done(reasoning("final"), 0),
        done(message("a"), 1),
        completed(reasoning("another"), message("a")),
    )
    assert send_back(answer)[0]["encrypted_content"] == "final"


def test_encrypted_reasoning_that_is_only_in_the_complete_output_goes_back() -> None:
    """Reasoning whose item was complete without its encrypted form gets that from the complete output."""
    shown_item = {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    sealed = {"id": "rs_1", "type": "reasoning", "encrypted_content": "sealed", "content": []}
    answer = read_answer(done(shown_item, 0), done(message("a"), 1), completed(sealed, message("a")))
    assert send_back(answer)[0] == {**shown_item, "encrypted_content": "sealed"}


def test_without_the_end_of_an_item_nothing_goes_back() -> None:
    """An answer of which an item never was complete goes back as text and calls."""
    begun = {"id": "rs_1", "type": "reasoning", "encrypted_content": "incomplete", "summary": []}
    answer = read_answer(added(begun, 0), done(message("a"), 1), completed())
    assert send_back(answer) == [{"type": "message", "role": "assistant", "content": "a"}]


def test_too_much_output_goes_back_as_text() -> None:
    """Items beyond the limit of a provider's data are dropped whole, and the conversation continues."""
    sealed = {"id": "rs_1", "type": "reasoning", "encrypted_content": "g" * MAX_PROVIDER_DATA_BYTES}
    answer = read_answer(done(sealed, 0), done(function_call(), 1), completed())
    (sent,) = send_back(answer)
    assert (sent["call_id"], "id" in sent) == ("call_1", False)


def test_without_an_origin_nothing_is_stored() -> None:
    """A reader without an origin keeps no data of the provider."""
    fresh = ResponseReader(FailureFactory("api.test", None))
    fresh.event(msgspec.json.encode(completed(message("a"))))
    answer = fresh.end()
    assert answer is not None
    assert answer.provider_data is None


def test_a_response_that_begins_again() -> None:
    """The first half of an answer that its server began again is dropped."""
    first, second = (event("created", response={"id": f"resp_{n}"}) for n in (1, 2))
    assert read_answer(first, text_delta("a"), second, text_delta("b"), completed()).items == [Text("b")]
    assert read_answer(first, text_delta("a"), first, completed()).items == [Text("a")]


# The end.


def test_a_stream_without_its_end_is_no_answer() -> None:
    """Without its end, an answer is incomplete, also behind ``[DONE]`` in the middle of an item."""
    assert read(added(message()), text_delta("a")).end() is None
    assert read(added(message()), text_delta("a"), "[DONE]").end() is None
    assert not read(text_delta("a")).settled


def test_an_answer_is_complete_at_once() -> None:
    """After the end of the response, nothing is waited for."""
    fresh = read(text_delta("a"), completed(message("a")))
    assert (fresh.done, fresh.settled) == (True, True)


def test_too_long_an_answer() -> None:
    """Text beyond the size limit is dropped, and nothing more is read."""
    fresh = read(text_delta("x" * MAX_ANSWER_BYTES), text_delta("y"))
    assert fresh.done
    answer = fresh.end()
    assert answer is not None
    assert (len(text_of(answer.items)), answer.stop_reason) == (MAX_ANSWER_BYTES, "length")


def test_a_truncated_call() -> None:
    """A call that did not fit says so, and goes back without its arguments."""
    item = function_call(1, '{"path":"/a","content":"abc', status="incomplete")
    ended = event("incomplete", response={"incomplete_details": {"reason": "max_output_tokens"}})
    answer = read_answer(done(item), ended)
    (call,) = answer.items
    assert isinstance(call, ToolCall)
    assert "did not fit" in (call.invalid or "")
    assert send_back(answer) == [{**item, "arguments": "{}"}]


@pytest.mark.parametrize("status", ["completed", None])
def test_a_whole_response(status: str | None) -> None:
    """A server that does not stream sends the response as one object."""
    fresh = new()
    usage = {"input_tokens": 7, "output_tokens": 3}
    response = {"object": "response", "status": status, "model": "m", "usage": usage, "output": [WHOLE]}
    body = AnswerBody(fresh)
    body.feed(msgspec.json.encode(response))
    body.finish()
    answer = fresh.end()
    assert answer is not None
    assert (answer.items, answer.usage, answer.model) == (ITEMS, Usage(7, 3), "m")
    assert shown(fresh) == "I see."
    assert send_back(answer) == [WHOLE]


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_response_in_the_background_is_no_answer(status: str) -> None:
    """A response that is not complete yet is no answer."""
    fresh = new()
    fresh.whole(msgspec.json.encode({"object": "response", "status": status, "output": []}))
    assert fresh.end() is None


# Irregularities.


@pytest.mark.parametrize("whole", [True, False])
def test_too_many_items(whole: bool) -> None:
    """An answer with more items than any real one has is a failure."""
    items = [{"type": "web_search_call", "id": f"ws_{n}"} for n in range(MAX_ITEMS + 1)]
    events = [completed(*items)] if whole else [done(item, None) for item in items]
    failure = read_failure(*events)
    assert (failure.reason, "more than 1,000 items" in failure.message) == ("bad_response", True)
    assert read_answer(*(done(item, None) for item in items[2:]), completed(message("a"))).items == [
        Text("a")
    ]


@pytest.mark.parametrize(
    "noise",
    [
        "",
        " ",
        event("in_progress", response={"id": "resp_1"}),
        event("something.new", delta=[1], text={}, item=7, output_index={}),
        event("web_search_call.searching", output_index=7),
        event("output_text.delta", output_index=0, delta=None),
        event("output_text.delta", output_index=0, delta={"type": "output_text"}),
        event("output_item.added", output_index=0),
        event("output_item.done", output_index=0, item="?"),
        event("output_item.added", output_index=9, item={"type": "new_call", "id": {}}),
        event("content_part.added", output_index=0, part={"type": "output_text", "text": ""}),
        {"type": "keepalive", "sequence_number": 3},
        {"type": "ping"},
        {"object": "response.chunk"},
        {"type": "news", "message": "hello", "response": [1]},
        {"error": {}, "type": "response.queued"},
    ],
)
def test_other_events_cost_nothing(noise: Any) -> None:
    """Heartbeats, unknown events and strange fields do not change the answer."""
    events = [
        noise,
        added(message()),
        noise,
        text_delta("I "),
        noise,
        text_delta("see."),
        noise,
        completed(WHOLE),
    ]
    assert read_answer(*events).items == ITEMS


@pytest.mark.parametrize("index", ["0", 0.0, None, "x0", {}])
def test_strange_indexes(index: Any) -> None:
    """An index may be a string, a float, missing, or no number at all."""
    events = [added(message(), index), text_delta("I ", index), text_delta("see.", index)]
    assert read_answer(*events, completed()).items == ITEMS


def test_numeric_ids_and_counts_as_strings() -> None:
    """Ids may be numbers, and counts strings."""
    item = {"type": "function_call", "id": 7, "call_id": 8, "name": "look", "arguments": "{}"}
    details = {"cached_tokens": "4", "cache_write_tokens": 5.0}
    usage = {"input_tokens": "12", "output_tokens": "3", "input_tokens_details": details}
    answer = read_answer(done(item), completed(usage=usage))
    assert calls_of(answer) == [("8", "look", {})]
    assert answer.usage == Usage(12, 3, cached_input_tokens=4, cache_write_tokens=5)


@pytest.mark.parametrize("usage", [None, {}, "?", 7, {"input_tokens": {}}, {"input_tokens_details": 1}])
def test_unusable_counts_cost_nothing(usage: Any) -> None:
    """A usage that cannot be read counts as missing."""
    assert read_answer(text_delta("a"), completed(usage=usage)).usage == Usage()


def test_calls_without_ids() -> None:
    """A call without ids has an id of its own, and the item's id takes the place of a missing call id."""
    nameless = {"type": "function_call", "name": "look", "arguments": "{}"}
    answer = read_answer(done(nameless, 0), done({**nameless, "id": "fc_9", "call_id": None}, 1), completed())
    assert [call_id for call_id, _, _ in calls_of(answer)] == ["call_0", "fc_9"]


def test_a_call_without_a_name() -> None:
    """A call without a name is a failure that may be retried."""
    assert read_failure(done({"type": "function_call", "arguments": "{}"}), completed()).retryable


def test_halves_of_characters() -> None:
    """Halves of a character in two pieces are joined; a single half is replaced."""
    pieces = ['{"type":"response.output_text.delta","output_index":0,"delta":"a\\ud83d"}']
    pieces.append('{"type":"response.output_text.delta","output_index":0,"delta":"\\ude00b"}')
    assert read_answer(*pieces, completed()).items == [Text("a😀b")]
    whole = '{"type":"response.output_item.done","output_index":0,"item":{"type":"message","content":['
    whole += '{"type":"output_text","text":"a\\ud83d\\ude00b"}]}}'
    answer = read_answer(*pieces, whole, completed())
    assert answer.items == [Text("a😀b")]
    assert read_answer(pieces[0], completed()).items == [Text("a\ufffd")]


@pytest.mark.parametrize(
    "data",
    [
        "{",
        "[]",
        "7",
        "nonsense",
        '{"type":"response.output_text.delta","delta":[]}',
        b"\xff".decode("latin1"),
    ],
)
def test_malformed_data(data: str) -> None:
    """Data that is no event is a failure that may be retried, with the beginning of the data."""
    failure = read_failure(text_delta("a"), data)
    assert (failure.reason, failure.retryable) == ("bad_response", True)
    with pytest.raises(ModelFailure, match="no response"):
        new().whole(b'{"output":7}')


def test_a_whole_object_that_is_no_response() -> None:
    """An object without output is reported with what it says."""
    fresh = new()
    fresh.whole(b'{"base_resp":{"status_msg":"rate limit reached"}}')
    with pytest.raises(ModelFailure, match="rate limit reached"):
        fresh.end()


def test_reasoning_in_both_forms() -> None:
    """The summary and the text of reasoning are shown one after the other, and go back as they came."""
    item = {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "short"}],
        "content": [{"type": "reasoning_text", "text": "long"}],
    }
    answer = read_answer(
        event("reasoning_summary_text.delta", item_id="rs_1", output_index=0, summary_index=0, delta="short"),
        event("reasoning_text.delta", item_id="rs_1", output_index=0, content_index=0, delta="long"),
        done(item, 0),
        done(message("a"), 1),
        completed(),
    )
    assert answer.items == [Thinking("short\n\nlong"), Text("a")]
    assert send_back(answer) == [item, message("a")]
    assert answer.provider_data is not None
    assert "short" not in str(answer.provider_data.fields[OUTPUT])
