"""Every answer that a driver reads is the answer that the provider's official SDK reads."""

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kheishd.kernel.runtime import ModelAnswer, ModelFailure
from protocol.transcript import Thinking, ToolCall, text_of
from tests.support.conversations import SERVERS, Server, answers, read_answer, write_answer
from tests.support.model_wire import Call
from tests.support.sdk_answers import read_with_sdk

STREAMS = Path(__file__).parents[1] / "kheishd" / "providers" / "streams"

# Streams that end in an error, which the SDKs raise.
FAILING = {"anthropic-overloaded", "google-overloaded", "responses-rate-limit"}

# A blocked prompt, which the SDK shows as an answer without candidates, and streams of the Responses API
# that leave out events without which the SDK stops.
UNREADABLE = {
    "google-blocked",
    "responses-gateway",
    "responses-llamacpp",
    "responses-search",
    "responses-tools",
}

FIXTURES = [
    pytest.param(Server(path.stem.partition("-")[0]), path, id=path.stem)
    for path in sorted(STREAMS.glob("*.sse"))
    if path.stem not in UNREADABLE
]

# OpenAI's SDK cannot read lists without an index: LiteLLM's thinking blocks, and Mistral's parts of content.
READABLE = [server for server in SERVERS if server.preset not in ("litellm", "mistral")]

REASONS = {
    "openai": {"stop": "end", "length": "length", "tool_calls": "tool_calls", "content_filter": "refusal"},
    "anthropic": {"end_turn": "end", "max_tokens": "length", "tool_use": "tool_calls", "refusal": "refusal"},
    "google": {"STOP": "end", "MAX_TOKENS": "length", "SAFETY": "refusal"},
    "responses": {"completed": "end", "max_output_tokens": "length", "refusal": "refusal"},
}
"""The meanings of the SDKs' stop reasons, by the driver."""


def require_same_answer(server: Server, stream: bytes, answer: ModelAnswer) -> None:
    """Require that the SDK reads the same answer from a stream."""
    expected = read_with_sdk(server.driver, stream)
    calls = [item for item in answer.items if isinstance(item, ToolCall)]
    assert text_of(answer.items) == expected.text
    assert "".join(item.text for item in answer.items if isinstance(item, Thinking)) == expected.thinking
    pairs = [(call.name, None if call.invalid else call.arguments) for call in calls]
    assert pairs == [(name, arguments) for _, name, arguments in expected.calls]
    ids = [call.provider_data.call_id for call in calls if call.provider_data is not None]
    assert ids == [call_id or None for call_id, _, _ in expected.calls]
    stop = REASONS[server.driver][expected.stop or ""]
    assert answer.stop_reason == ("tool_calls" if calls and stop == "end" else stop)
    assert answer.usage == expected.usage


@pytest.mark.parametrize(("server", "path"), FIXTURES)
def test_a_fixture_is_read_as_the_sdk_reads_it(server: Server, path: Path) -> None:
    """Text, thinking, calls, usage and stop reason of a fixture are those of the SDK."""
    stream = path.read_bytes()
    if path.stem in FAILING:
        with pytest.raises(ModelFailure):
            read_answer(server, stream)
        return
    require_same_answer(server, stream, read_answer(server, stream))


@pytest.mark.parametrize("server", READABLE, ids=lambda server: server.name)
@settings(max_examples=30)
@given(data=st.data())
def test_an_answer_is_read_as_the_sdk_reads_it(server: Server, data: st.DataObject) -> None:
    """Text, thinking, calls, usage and stop reason of any answer are those of the SDK."""
    moves = data.draw(answers())
    ids = [move.call_id for move in moves if isinstance(move, Call)]
    # The SDK rejects repeated ids of the Responses API.
    assume(server.driver != "responses" or len(ids) == len(set(ids)))
    stream = write_answer(server, moves)
    require_same_answer(server, stream, read_answer(server, stream))
