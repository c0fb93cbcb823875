"""The Google driver: requests, and answers read from streams of the documented shapes."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from kheishd.kernel.hook import Tool
from kheishd.kernel.runtime import ModelAnswer, ModelFailure, ModelRequest
from kheishd.providers.attachments import origin_of
from kheishd.providers.chat_messages import PLACEHOLDER_SIGNATURE, SIGNS_CALLS
from kheishd.providers.exchange import AnswerBody
from kheishd.providers.failures import FailureFactory
from kheishd.providers.google import BASE_URL, FAILURES, STOP_REASONS, GoogleReader, make_url, post, reader
from kheishd.providers.traits import USUAL_TRAITS, Traits
from protocol.limits.model import MAX_ANSWER_BYTES, MAX_PROVIDER_DATA_BYTES
from protocol.transcript import Item, Message, ProviderData, Text, Thinking, ToolCall, Usage, text_of
from tests.support.model_calls import make_request
from tests.support.wire_samples import contents

STREAMS = Path(__file__).parent / "streams"
ORIGIN = "google api.test gemini-3-pro"
LOOK = Tool("look", "Look.", {"type": "object", "properties": {"at": {"type": "string"}}}, kind="read")


def new(origin: str = "") -> GoogleReader:
    """Return a new reader."""
    return reader(FailureFactory("api.test", "sk-secret"), origin)


def chunk(*parts: dict[str, Any], **candidate: Any) -> dict[str, Any]:
    """Return a chunk with these parts."""
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, "index": 0, **candidate}]}


STOP = {"candidates": [{"finishReason": "STOP", "index": 0}], "usageMetadata": {"promptTokenCount": 1}}


def read(*chunks: dict[str, Any], origin: str = "") -> GoogleReader:
    """Return a reader that processed these chunks."""
    fresh = new(origin)
    for data in chunks:
        fresh.event(msgspec.json.encode(data))
    return fresh


def read_answer(*chunks: dict[str, Any], origin: str = "") -> ModelAnswer:
    """Return the answer of these chunks."""
    answer = read(*chunks, origin=origin).end()
    assert answer is not None
    return answer


def read_failure(*chunks: dict[str, Any]) -> ModelFailure:
    """Return the failure of these chunks."""
    with pytest.raises(ModelFailure) as raised:
        read(*chunks).end()
    return raised.value


# The request.


def ask(request: ModelRequest | None = None, traits: Traits = USUAL_TRAITS, **pinned: Any) -> dict[str, Any]:
    """Return the body of a request."""
    request = request or make_request("hello", **{"driver": "google", "model": "gemini-3-pro", **pinned})
    body: dict[str, Any] = msgspec.json.decode(post(request, BASE_URL, None, traits).body)
    return body


def test_the_request() -> None:
    """URL, head and body are as documented; options are added but replace no field of the driver."""
    options = {"safetySettings": [], "contents": "no", "headers": {"x-trace": "1"}}
    request = make_request(
        "hello", driver="google", model="gemini-3-pro", instructions="be brief", options=options
    )
    sent = post(request, BASE_URL, "key")
    assert sent.url == (
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-3-pro:streamGenerateContent?alt=sse"
    )
    assert sent.headers == {"x-trace": "1", "x-goog-api-key": "key"}
    assert msgspec.json.decode(sent.body) == {
        "safetySettings": [],
        "contents": [{"role": "user", "parts": [{"text": "hello"}]}],
        "systemInstruction": {"parts": [{"text": "be brief"}]},
        "generationConfig": {"thinkingConfig": {"includeThoughts": True}},
    }
    assert post(request, BASE_URL, None).headers == {"x-trace": "1"}


VERTEX = "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/google"


@pytest.mark.parametrize(
    ("base", "model", "url"),
    [
        ("https://x", "m", "https://x/v1beta/models/m"),
        ("https://x/", "m", "https://x/v1beta/models/m"),
        ("https://x/v1beta/models/", "m", "https://x/v1beta/models/m"),
        ("https://x/gemini/v1", "models/m", "https://x/gemini/v1/models/m"),
        (VERTEX, "gemini-2.5-pro@001", f"{VERTEX}/models/gemini-2.5-pro@001"),
        (
            "https://x/v1/projects/p/locations/l",
            "endpoints/7",
            "https://x/v1/projects/p/locations/l/endpoints/7",
        ),
        ("https://x/v1", "a b?", "https://x/v1/models/a%20b%3F"),
    ],
)
def test_urls(base: str, model: str, url: str) -> None:
    """A model may be named with its collection; a base URL without a path gets the version."""
    assert make_url(base, model) == f"{url}:streamGenerateContent?alt=sse"


@pytest.mark.parametrize("model", ["..", ".", "../../../x", "models/..", "models/./x", "/../x"])
def test_a_model_outside_of_its_collection_is_refused(model: str) -> None:
    """A client that chooses the model cannot choose another path for the route's credential."""
    with pytest.raises(ModelFailure, match="model's name") as raised:
        post(make_request(model=model), BASE_URL, "k")
    assert (raised.value.reason, raised.value.retryable) == ("bad_request", False)


def test_the_query_of_a_base_url_is_kept() -> None:
    """The query of a base URL precedes the driver's own."""
    sent = post(make_request(model="m"), "https://x/v1?api-version=1", None)
    assert sent.url == "https://x/v1/models/m:streamGenerateContent?api-version=1&alt=sse"


def test_the_header_of_the_credential() -> None:
    """Keys have a header of their own, tokens of a Vertex project are bearer tokens; the route may choose."""
    request = make_request(model="m")
    assert post(request, BASE_URL, "k").headers == {"x-goog-api-key": "k"}
    assert post(request, VERTEX, "k").headers == {"authorization": "Bearer k"}
    assert post(request, VERTEX, "k", Traits(auth_header="x-goog-api-key")).headers == {"x-goog-api-key": "k"}
    assert post(request, BASE_URL, "k", Traits(auth_header="Authorization")).headers == {
        "authorization": "Bearer k"
    }


def test_options_of_answers() -> None:
    """A summary has no tools and no settings of tools; an answer has both, and its merged configuration."""
    options = {
        "generation_config": {"max_output_tokens": 7},
        "tools": [{"googleSearch": {}}],
        "toolConfig": {"x": 1},
    }
    request = make_request("hello", model="gemini-3-pro", options=options)
    body = ask(request)
    assert (body["tools"], body["toolConfig"]) == (options["tools"], {"x": 1})
    assert body["generationConfig"] == {"thinkingConfig": {"includeThoughts": True}, "maxOutputTokens": 7}
    summary = ask(msgspec.structs.replace(request, purpose="summary", max_answer_tokens=100))
    assert not {"tools", "toolConfig"} & summary.keys()
    assert summary["generationConfig"] == {"thinkingConfig": {"thinkingLevel": "LOW"}, "maxOutputTokens": 7}


def test_withheld_tools() -> None:
    """Tools that must not be called now stay declared, in the mode NONE; the route's other settings stay."""
    options = {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}, "retrievalConfig": {}}}
    request = msgspec.structs.replace(make_request(options=options), tools=(LOOK,))
    assert ask(request)["toolConfig"] == options["toolConfig"]
    assert ask(msgspec.structs.replace(request, withheld=True))["toolConfig"] == {
        "functionCallingConfig": {"mode": "NONE"},
        "retrievalConfig": {},
    }


@pytest.mark.parametrize(
    ("model", "options", "traits", "signed"),
    [
        ("gemini-3-pro", {}, Traits(), True),
        ("gemini-2.5-pro", {}, Traits(), False),
        ("gemini-2.5-pro", {}, Traits(needs_signatures=True), True),
        ("endpoints/7", {}, Traits(), False),
        ("endpoints/7", {"thought_signatures": True}, Traits(), True),
        ("gemini-3-pro", {"thought_signatures": False}, Traits(), False),
    ],
)
def test_foreign_calls(model: str, options: dict[str, Any], traits: Traits, signed: bool) -> None:
    """A call of another model gets a placeholder if the model needs a signature."""
    earlier = (Message("user", [Text("a")]), Message("assistant", [ToolCall("c", "look", {})]))
    request = make_request("b", earlier=earlier, driver="google", model=model, options=options)
    call = ask(request, traits)["contents"][1]["parts"][0]
    assert ("thoughtSignature" in call) is signed


def test_a_learned_need_of_signatures() -> None:
    """A model without a telling name that once signed a call needs signatures from then on."""
    call = {"functionCall": {"name": "look"}, "thoughtSignature": "s"}
    answer = read_answer(chunk(call), STOP, origin=ORIGIN)
    assert answer.provider_data == ProviderData(ORIGIN, marks=[SIGNS_CALLS])
    earlier = (Message("user", [Text("a")]), Message("assistant", [ToolCall("c", "look", {})]))
    request = make_request("b", earlier=earlier, driver="google", model="endpoints/7")
    marked = {origin_of(request.pinned, BASE_URL): [SIGNS_CALLS]}
    call = ask(msgspec.structs.replace(request, marks=marked))["contents"][1]["parts"][0]
    assert call["thoughtSignature"] == PLACEHOLDER_SIGNATURE


# The answer.


@pytest.mark.parametrize(
    ("name", "items", "usage", "stop_reason"),
    [
        (
            "google-text",
            [Text("Hello 東京!")],
            Usage(34, 17, cached_input_tokens=20, reasoning_tokens=12),
            "end",
        ),
        (
            "google-tools",
            [
                Thinking("**Planning**\n\nI need two tools."),
                Text("I look."),
                ToolCall("call_0", "get_weather", {"location": "Zürich", "days": 3}),
                ToolCall("call_1", "get_time", {}),
                ToolCall("fc-17", "get_weather", {"location": "Bern"}),
            ],
            Usage(88, 83, reasoning_tokens=41),
            "tool_calls",
        ),
        (
            "google-blocked",
            [Text("The provider blocked the prompt (PROHIBITED_CONTENT).")],
            Usage(14),
            "refusal",
        ),
    ],
)
def test_streams(name: str, items: list[Item], usage: Usage, stop_reason: str) -> None:
    """Streams of the documented shapes produce their answer, wherever the network cuts them."""
    stream = (STREAMS / f"{name}.sse").read_bytes()
    assert b"\r\n\r\n" in stream
    for cut in range(len(stream)):
        fresh = new()
        body = AnswerBody(fresh)
        body.feed(stream[:cut])
        body.feed(stream[cut:])
        body.finish()
        answer = fresh.end()
        assert answer is not None, f"cut at {cut}"
        assert (answer.items, answer.usage, answer.stop_reason) == (items, usage, stop_reason)


def test_a_stream_that_ends_with_an_error() -> None:
    """An error object on lines without a field name, in place of the next chunk, is that error."""
    stream = (STREAMS / "google-overloaded.sse").read_bytes()
    for cut in range(len(stream)):
        fresh = new()
        body = AnswerBody(fresh)
        with pytest.raises(ModelFailure) as raised:  # noqa: PT012
            body.feed(stream[:cut])
            body.feed(stream[cut:])
            body.finish()
        assert (raised.value.status, raised.value.retryable) == (503, True)
        assert "too many requests" in raised.value.message
        assert fresh.end() is None


def test_data_goes_back_as_it_came() -> None:
    """The parts of an answer go back with their ids and signatures, and thoughts without one do not."""
    fresh = new(ORIGIN)
    AnswerBody(fresh).feed((STREAMS / "google-tools.sse").read_bytes())
    answer = fresh.end()
    assert answer is not None
    calls = [item for item in answer.items if isinstance(item, ToolCall)]
    assert [call.provider_data and call.provider_data.call_id for call in calls] == [None, None, "fc-17"]
    [message] = contents([Message("assistant", answer.items, provider_data=answer.provider_data)], ORIGIN)
    assert message["parts"] == [
        {"text": "I look."},
        {
            "functionCall": {"name": "get_weather", "args": {"location": "Zürich", "days": 3}},
            "thoughtSignature": "CvwBAVSoXO7uQmFzZTY0+/8=",
        },
        {"functionCall": {"name": "get_time", "args": {}}},
        {"functionCall": {"id": "fc-17", "name": "get_weather", "args": {"location": "Bern"}}},
    ]


def test_a_part_with_a_signature_is_neither_merged_nor_dropped() -> None:
    """Signed texts, thoughts and empty parts stay parts of their own and go back at their places."""
    parts: list[dict[str, Any]] = [
        {"text": "hm", "thought": True, "thoughtSignature": "s0"},
        {"text": "more", "thought": True, "thoughtSignature": "s1"},
        {"text": "a"},
        {"text": "b", "thoughtSignature": "s2"},
        {"text": "c"},
        {"text": "", "thoughtSignature": "s3"},
        {"executableCode": {"language": "PYTHON", "code": "1"}, "thoughtSignature": "s4"},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
        {"text": "d"},
        {"toolCall": {"id": "x", "toolType": "GOOGLE_SEARCH_WEB"}},
        {"text": "", "thought": True, "thoughtSignature": "s5"},
        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}, "thoughtSignature": "s6"},
    ]
    answer = read_answer(*(chunk(part) for part in parts), STOP, origin=ORIGIN)
    texts = [item.text for item in answer.items if isinstance(item, Text)]
    assert texts == ["a", "b", "c", "d"]
    [message] = contents([Message("assistant", answer.items, provider_data=answer.provider_data)], ORIGIN)
    assert message["parts"] == parts


def test_the_place_of_a_signature_without_text() -> None:
    """A part that has only a signature goes back as an empty text, because a part needs a content."""
    answer = read_answer(chunk({"text": "a"}, {"thoughtSignature": "s"}), STOP, origin=ORIGIN)
    assert answer.provider_data == ProviderData(
        ORIGIN, fields={"placed": [{"index": 1, "part": {"text": "", "thoughtSignature": "s"}}]}
    )


def test_parts_of_other_kinds() -> None:
    """Parts of other kinds stay out of the answer; images and unknown kinds are not kept."""
    answer = read_answer(
        chunk(
            {"text": "a"},
            {"inlineData": {"data": "AAAA"}},
            {"news": {"x": 1}},
            {},
            {"text": ""},
            {"text": "b"},
        ),
        STOP,
        origin=ORIGIN,
    )
    assert (answer.items, answer.provider_data) == ([Text("ab")], None)


def test_too_much_data() -> None:
    """Data that exceeds its limit is dropped, and the answer stays."""
    big = {"toolResponse": {"output": "x" * MAX_PROVIDER_DATA_BYTES}}
    answer = read_answer(chunk({"text": "a", "thoughtSignature": "s"}, big), STOP, origin=ORIGIN)
    assert (answer.items, answer.provider_data) == ([Text("a")], None)


def test_the_last_usage_counts() -> None:
    """Every chunk carries the usage until then; an empty or missing one changes nothing."""
    answer = read_answer(
        {**chunk({"text": "a"}), "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 1}},
        {**chunk({"text": "b"}), "usageMetadata": {"promptTokenCount": "7", "candidatesTokenCount": "2"}},
        {**chunk(finishReason="STOP"), "usageMetadata": {}},
        {"usageMetadata": None, "candidates": []},
    )
    assert answer.usage == Usage(7, 2)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("STOP", "end"),
        ("stop", "end"),
        ("SOMETHING_NEW", "end"),
        ("MAX_TOKENS", "length"),
        ("TOO_MANY_TOOL_CALLS", "pause"),
        *((reason, "refusal") for reason, stop in STOP_REASONS.items() if stop == "refusal"),
    ],
)
def test_finish_reasons(reason: str, expected: str) -> None:
    """Every finish reason is mapped; an unknown one counts as an ordinary end."""
    assert read_answer(chunk({"text": "x"}, finishReason=reason)).stop_reason == expected


@pytest.mark.parametrize("reason", FAILURES)
def test_finish_reasons_that_are_failures(reason: str) -> None:
    """A malformed or unexpected call fails the answer with a retryable failure, which has its usage."""
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 1}
    failure = read_failure(
        {**chunk({"text": "x"}, finishReason=reason, finishMessage="call: print("), "usageMetadata": usage}
    )
    assert (failure.reason, failure.retryable) == (FAILURES[reason], FAILURES[reason] == "bad_response")
    assert f"{reason}: call: print(" in failure.message
    assert failure.usage == Usage(5, 1)


def test_refusals() -> None:
    """A refusal shows its explanation, calls nothing, and stays a refusal; so does a blocked prompt."""
    call = {"functionCall": {"name": "look"}}
    refused = chunk({"text": "I"}, call, finishReason="SAFETY", finishMessage="No.")
    assert text_of(read_answer(refused, STOP).items) == "I\n\nNo."
    assert read_answer(chunk(finishReason="SPII")).items == [Text("The model refused to answer (SPII).")]
    feedback = {"blockReason": "OTHER", "blockReasonMessage": "Not this.", "safetyRatings": []}
    answer = read_answer({"promptFeedback": feedback})
    assert (answer.items, answer.stop_reason) == ([Text("Not this.")], "refusal")


def test_no_end_is_no_answer() -> None:
    """An answer without a finish reason is incomplete, whatever else says that it ends."""
    unspecified = chunk({"text": "x"}, finishReason="FINISH_REASON_UNSPECIFIED")
    for chunks in ([chunk({"text": "x"})], [unspecified], [{"promptFeedback": {}}, chunk({"text": "x"})]):
        assert read(*chunks).end() is None
    fresh = read(chunk({"text": "x"}))
    fresh.event(b"[DONE]")
    assert fresh.done
    assert fresh.end() is None


def feed(fresh: GoogleReader, *chunks: dict[str, Any]) -> list[bool]:
    """Process chunks; return whether the reader is settled after each."""
    settled = []
    for data in chunks:
        fresh.event(msgspec.json.encode(data))
        settled.append(fresh.settled)
    return settled


def test_finish_reasons_before_the_end() -> None:
    """A finish reason with every chunk, before the answer, or between rounds of tools does not settle it."""
    repeated = [chunk({"text": text}, finishReason="STOP") for text in ("a", "", "b", "c")]
    leading = [chunk(finishReason="STOP"), chunk({"text": "a"}), chunk({"text": "bc"}, finishReason="STOP")]
    code = chunk({"text": "a"}, {"executableCode": {"code": "1"}}, {"codeExecutionResult": {"output": "1"}})
    rounds = [code, STOP, chunk({"text": "bc"}), STOP]
    for chunks, expected in (
        (repeated, [True, True, False, False]),
        (leading, [False, False, False]),
        (rounds, [False, False, False, False]),
        ([chunk({"text": "abc"}), STOP], [False, True]),
        (
            [chunk({"text": "abc"}), chunk({"text": "", "thoughtSignature": "s"}, finishReason="STOP")],
            [False, True],
        ),
    ):
        fresh = new()
        assert feed(fresh, *chunks) == expected
        answer = fresh.end()
        assert answer is not None
        assert (text_of(answer.items), answer.stop_reason) == ("abc", "end")


def test_an_answer_that_breaks_off_after_an_early_end() -> None:
    """A finish reason before the rest of the answer does not complete it."""
    code = chunk({"text": "a"}, {"executableCode": {"code": "1"}}, finishReason="STOP")
    for first in (code, chunk(finishReason="STOP"), chunk({"text": "a"}, finishReason="MAX_TOKENS")):
        assert read(first, chunk({"text": "b"})).end() is None


def test_several_candidates() -> None:
    """Only the first candidate is used, by its index."""
    second = {"content": {"parts": [{"text": "no"}]}, "index": 1, "finishReason": "SAFETY"}
    first = {"content": {"parts": [{"text": "yes"}]}, "finishReason": "STOP"}
    answer = read_answer({"candidates": [second, first]}, {"candidates": [second]})
    assert (answer.items, answer.stop_reason) == ([Text("yes")], "end")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{}",
        b'{"candidates":null,"usageMetadata":"?"}',
        b'{"candidates":[{"content":{"parts":null}}]}',
        b'{"candidates":[{"content":null,"index":"0","citationMetadata":{}}]}',
        b'{"candidates":[{"groundingMetadata":{"webSearchQueries":["q"]}}]}',
        b'{"promptFeedback":{"safetyRatings":[]},"error":{}}',
        b'{"news":[1,2]}',
    ],
)
def test_missing_and_unknown(data: bytes) -> None:
    """Missing, null and unknown fields, and heartbeats, are ignored."""
    fresh = read(chunk({"text": "a"}))
    fresh.event(data)
    fresh.event(msgspec.json.encode(chunk({"text": "b"}, finishReason="STOP")))
    answer = fresh.end()
    assert answer is not None
    assert answer.items == [Text("ab")]


def test_names_of_protocol_buffers() -> None:
    """Fields with underscores in their names are read like the others; arguments keep theirs."""
    call = {"function_call": {"name": "look", "args": {"file_path": "a"}}, "thought_signature": "s"}
    usage = {"prompt_token_count": 3, "candidates_token_count": "4", "thoughts_token_count": 2}
    answer = read_answer(
        {"candidates": [{"content": {"parts": [{"text": "a"}]}}]},
        {"candidates": [{"content": {"parts": [call]}}], "usage_metadata": usage},
        {"candidates": [{"finish_reason": "STOP"}], "model_version": "m"},
        origin=ORIGIN,
    )
    data = ProviderData(ORIGIN, fields={"thoughtSignature": "s"})
    assert answer.items == [Text("a"), ToolCall("call_0", "look", {"file_path": "a"}, provider_data=data)]
    assert (answer.usage, answer.model) == (Usage(3, 6, reasoning_tokens=2), "m")
    feedback = {"prompt_feedback": {"block_reason": "OTHER"}}
    assert read_answer(feedback).stop_reason == "refusal"
    whole = {"candidates": [{"content": {"parts": [call]}, "finish_reason": "STOP"}], "usage_metadata": usage}
    for body in (whole, [whole]):
        fresh = new(ORIGIN)
        fresh.whole(msgspec.json.encode(body))
        same = fresh.end()
        assert same is not None
        assert (same.items, same.usage) == (answer.items[1:], answer.usage)


def test_irregular_calls() -> None:
    """Ids may be numbers or empty, and arguments null or a text; the model is told of invalid arguments."""
    calls = [
        {"id": 7, "name": "a", "args": None},
        {"id": "", "name": "b", "args": '{"x": 1}'},
        {"name": "c", "args": [1]},
    ]
    answer = read_answer(chunk(*({"functionCall": call} for call in calls)), STOP)
    first, second, third = answer.items
    assert (first, second) == (ToolCall("7", "a", {}), ToolCall("call_1", "b", {"x": 1}))
    assert isinstance(third, ToolCall)
    assert third.invalid is not None
    assert "no JSON object" in third.invalid


def test_halves_of_characters() -> None:
    """Halves in texts, ids, signatures, explanations and models cost nothing."""
    fresh = new(ORIGIN)
    fresh.event(b'{"candidates":[{"content":{"parts":[{"text":"a\\ud83d"}]}}],"modelVersion":"m\\ud83d"}')
    fresh.event(
        b'{"candidates":[{"content":{"parts":[{"text":"\\ude00"},{"functionCall":{"id":"i\\ud83d",'
        b'"name":"look","args":{"x":"\\ud83d"}},"thoughtSignature":"s\\ud83d"},'
        b'{"text":"","thoughtSignature":"\\ud83d"}]},"finishReason":"STOP"}]}'
    )
    answer = fresh.end()
    assert answer is not None
    data = ProviderData(ORIGIN, "i\ufffd", {"thoughtSignature": "s\ufffd"})
    assert answer.items == [Text("a😀"), ToolCall("i\ufffd", "look", {"x": "\ufffd"}, provider_data=data)]
    assert answer.model == "m\ufffd"
    assert msgspec.json.encode(answer)
    fresh = new()
    fresh.event(b'{"candidates":[{"finishReason":"SAFETY","finishMessage":"no\\ud83d"}]}')
    refused = fresh.end()
    assert refused is not None
    assert refused.items == [Text("no\ufffd")]


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b'{"candidates":7}', b'{"candidates":[{"content":[]}]}', b'{"x":"\xff"}', b"[" * 5000],
)
def test_malformed_data(data: bytes) -> None:
    """Data that is no response fails the answer with a retryable failure."""
    with pytest.raises(ModelFailure) as raised:
        new().event(data)
    assert (raised.value.reason, raised.value.retryable) == ("bad_response", True)


def test_too_long_an_answer() -> None:
    """Text beyond the limit is dropped, and the reader reports that it needs no more."""
    fresh = read(*(chunk({"text": "x" * 1024}) for _ in range(MAX_ANSWER_BYTES // 1024 + 1)))
    assert fresh.done
    answer = fresh.end()
    assert answer is not None
    assert (answer.items, answer.stop_reason) == ([Text("x" * MAX_ANSWER_BYTES)], "length")


# Whole answers.

CHUNKS = [chunk({"text": "a"}), {**chunk({"text": "b"}), "usageMetadata": {"promptTokenCount": 3}}, STOP]


def test_a_whole_answer() -> None:
    """A server that does not stream, or sends its chunks as one list, produces the same answer."""
    whole = {**chunk({"text": "ab"}, finishReason="STOP"), "usageMetadata": {"promptTokenCount": 1}}
    for body in (whole, CHUNKS):
        fresh = new()
        answer_body = AnswerBody(fresh)
        answer_body.feed(msgspec.json.encode(body))
        answer_body.finish()
        answer = fresh.end()
        assert answer is not None
        assert (answer.items, answer.usage, answer.stop_reason) == ([Text("ab")], Usage(1), "end")


def test_a_truncated_body_is_no_answer() -> None:
    """A list of chunks that ends at any byte is a failure with a message."""
    body = msgspec.json.encode(CHUNKS)
    for end in range(1, len(body)):
        fresh = new()
        with pytest.raises(ModelFailure, match="no response of generateContent"):
            fresh.whole(body[:end])
        assert fresh.end() is None


def test_a_whole_answer_without_an_end() -> None:
    """A complete body is an answer even without a finish reason; an empty one is not."""
    fresh = new()
    fresh.whole(msgspec.json.encode(chunk({"text": "a"})))
    assert fresh.end() is not None
    for body in (b"{}", b"[]"):
        empty = new()
        empty.whole(body)
        assert empty.end() is None


QUOTA = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}],
            },
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "20.1s"},
        ],
    }
}
TOO_LONG = {
    "error": {
        "code": 400,
        "message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "status": "INVALID_ARGUMENT",
    }
}


@pytest.mark.parametrize(
    "body", [QUOTA, [QUOTA], [chunk({"text": "a"}), QUOTA]], ids=["object", "list", "late"]
)
def test_errors_as_bodies(body: Any) -> None:
    """An error as an object or in a list is a rate limit with its delay, with any status."""
    encoded = msgspec.json.encode(body)
    fresh = new()
    with pytest.raises(ModelFailure) as raised:
        fresh.whole(encoded)
    failures = [raised.value, FailureFactory("api.test", None).by_status(429, {}, encoded, 0.0)]
    for failure in failures[: 1 if body == [chunk({"text": "a"}), QUOTA] else 2]:
        assert (failure.reason, failure.retryable, failure.retry_after_s) == ("rate_limited", True, 20.1)
        assert "exceeded your current quota" in failure.message
    assert fresh.end() is None


def test_errors_in_streams() -> None:
    """An error in a stream, even after the end of the text, is that error."""
    for error, reason in ((QUOTA, "rate_limited"), (TOO_LONG, "context_too_long")):
        for chunks in (
            [error],
            [[error]],
            [chunk({"text": "a"}), error],
            [chunk({"text": "a"}), STOP, error],
        ):
            assert read_failure(*chunks).reason == reason
