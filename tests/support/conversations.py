"""Conversations with many servers, and requests that continue them: strategies for property tests.

Each answer of a conversation is the stream of a server in its own dialect, read by the driver's reader. So
each message holds what that server attaches, and a request holds what its driver sends back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.config.presets import PRESETS
from kheishd.config.sections.config import Config
from kheishd.core.run.calls import normalize_calls
from kheishd.home import Home
from kheishd.hooks.os.shell.health import SandboxHealth
from kheishd.hooks.os.shell.log import ShellFiles
from kheishd.kernel.runtime import ModelAnswer, ModelRequest
from kheishd.providers.attachments import origin_of
from kheishd.providers.caller import find_driver
from kheishd.providers.exchange import AnswerBody
from kheishd.providers.failures import FailureFactory
from kheishd.providers.traits import OUTPUT_ITEMS, LearnedTraits, Traits
from kheishd.toolbox import Toolbox
from protocol.objects.run import Pinned
from protocol.transcript import AssetReference, Item, Message, Text, ToolCall, ToolResult
from tests.support.google_wire import Google
from tests.support.model_wire import Anthropic, Call, Move, OpenAI, Say, Stop, Think, Wire, named_event
from tests.support.responses_wire import Responses

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kheishd.kernel.hook import Tool
    from kheishd.providers.driver import Driver

WIRES: dict[str, Callable[[], Wire]] = {
    "openai": OpenAI,
    "responses": Responses,
    "anthropic": Anthropic,
    "google": Google,
}
"""The wire of each driver."""


@dataclass(frozen=True, slots=True)
class Server:
    """A model server: its driver, and the preset of its dialect."""

    driver: str
    preset: str = ""

    @property
    def name(self) -> str:
        """The name of the server in test ids."""
        return (
            f"{self.preset}-{self.driver}"
            if self.preset and self.driver != "openai"
            else self.preset or self.driver
        )

    def pin(self, options: dict[str, Any] | None = None) -> Pinned:
        """Return the values of a run with a route to the server."""
        preset = self.preset or None
        base_url = "https://model.test/v1" if self.preset == "azure" else None
        return Pinned(
            route=self.name,
            driver=self.driver,
            model=f"{self.name}-1",
            base_url=base_url,
            preset=preset,
            options=options or {},
        )

    def find_driver(self) -> Driver:
        """Return the driver's module."""
        driver = find_driver(self.driver)
        assert driver is not None
        return driver

    def find_url(self) -> str:
        """Return the URL of the server's API."""
        preset = PRESETS.get(self.preset)
        return (preset.base_url if preset is not None else None) or self.find_driver().BASE_URL


SERVERS = (
    *(Server(driver) for driver in WIRES if driver != "openai"),
    *(Server("openai", preset) for preset in PRESETS),
    *(Server("responses", preset) for preset in ("azure", "openrouter", "vllm")),
)
"""The servers of all drivers and presets."""


# Answers.


def write_answer(server: Server, moves: Sequence[Move], first: bytes = b"") -> bytes:
    """Return the stream of an answer in a server's dialect, with ``first`` behind its start."""
    wire, model = WIRES[server.driver](), f"{server.name}-1"
    stream = wire.start(model) + first + b"".join(wire.move(model, move) for move in moves)
    attach = ATTACHMENTS.get(server.preset)
    if attach is None or server.driver != "openai":
        return stream
    events = []
    for event in stream.split(b"\n\n"):
        data = event.removeprefix(b"data: ")
        if data.startswith(b"{"):
            chunk = msgspec.json.decode(data)
            for choice in chunk["choices"]:
                attach(choice["delta"])
            event = b"data: " + msgspec.json.encode(chunk)
        events.append(event)
    return b"\n\n".join(events)


def _rename_reasoning(delta: dict[str, Any]) -> None:
    if "reasoning_content" in delta:
        delta["reasoning"] = delta.pop("reasoning_content")


def _drop_reasoning(delta: dict[str, Any]) -> None:
    delta.pop("reasoning_content", None)


def _add_details(delta: dict[str, Any]) -> None:
    _rename_reasoning(delta)
    if text := delta.get("reasoning"):
        detail = {"type": "reasoning.text", "text": text, "index": 0, "format": "unknown"}
        delta["reasoning_details"] = [detail]


def _add_blocks(delta: dict[str, Any]) -> None:
    if text := delta.get("reasoning_content"):
        block = {"type": "thinking", "thinking": text, "signature": "c2ln"}
        delta["thinking_blocks"] = [block]
        delta["provider_specific_fields"] = {"thinking_blocks": [block]}
    for call in delta.get("tool_calls", ()):
        if "id" in call:
            call["provider_specific_fields"] = {"thought_signature": "c2ln"}
            call["function"]["provider_specific_fields"] = {"thought_signature": "c2ln"}


def _add_signature(delta: dict[str, Any]) -> None:
    for call in delta.get("tool_calls", ()):
        if "id" in call and not call["index"]:
            call["extra_content"] = {"google": {"thought_signature": "c2ln"}}
    if delta.pop("reasoning_content", None):
        delta["extra_content"] = {"google": {"thought": True}}


def _add_parts(delta: dict[str, Any]) -> None:
    if text := delta.pop("reasoning_content", None):
        delta["content"] = [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]


ATTACHMENTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "azure": _drop_reasoning,
    "gemini": _add_signature,
    "groq": _rename_reasoning,
    "litellm": _add_blocks,
    "mistral": _add_parts,
    "ollama": _rename_reasoning,
    "openai": _drop_reasoning,
    "openrouter": _add_details,
    "vllm": _rename_reasoning,
} | {
    # These have no thoughts, or none that they want back.
    preset: _drop_reasoning
    for preset in ("fireworks", "lmstudio", "together", "xai")
}
"""The functions that put a server's own data into a delta."""


def write_search() -> bytes:
    """Return the blocks of a web search by Anthropic itself, and of a text that cites its result."""
    place = {"url": "http://a.test", "title": "A"}
    result = {"type": "web_search_result", **place, "encrypted_content": "c2VhbGVk", "page_age": None}
    cited = {"type": "web_search_result_location", **place, "cited_text": "a", "encrypted_index": "aW5kZXg="}
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
        (
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
            [{"type": "input_json_delta", "partial_json": '{"query": "a"}'}],
        ),
        ({"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [result]}, []),
        (
            {"type": "text", "text": "", "citations": []},
            [{"type": "citations_delta", "citation": cited}, {"type": "text_delta", "text": "It is a."}],
        ),
    ]
    events: list[dict[str, Any]] = []
    # The indexes are above those of the other blocks.
    for index, (block, deltas) in enumerate(blocks, 100):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    return b"".join(map(named_event, events))


def read_answer(server: Server, stream: bytes) -> ModelAnswer:
    """Return the answer that the driver reads from a stream."""
    origin = origin_of(server.pin(), server.find_url())
    reader = server.find_driver().reader(FailureFactory("api.test", None), origin)
    body = AnswerBody(reader)
    body.feed(stream)
    body.finish()
    answer = reader.end()
    assert answer is not None
    return answer


# Strategies.

_WORDS = st.sampled_from(["Hello.", "Zürich 😀", "a\n\nb", "</s> {}", "\u2028"])
_MAYBE_BLANK = st.sampled_from(["", " ", "\n"]) | _WORDS
_ARGUMENTS = st.sampled_from(['{"path": "/a"}', "{}", "", '{"path": {"a": [1, null]}}', '{"pa', "[1]"])
_IDS = st.sampled_from(
    [
        "call_1",
        "toolu_01T1x1fJ34qAmk2tNTrN7Up6",
        "functions.look:0",
        "mist00001",
        "call_1__thought__" + "c2ln" * 30,
        "ü",
        "",
    ]
)
_NAMES = st.sampled_from(["read_file", "bash", "tool_that_is_gone", "a name.of:another/form"])
_SERVERS = st.sampled_from(SERVERS)


@st.composite
def answers(draw: st.DrawFn, *, calls: bool = True) -> list[Move]:
    """Return the moves of an answer, which has a text or calls."""
    moves: list[Move] = []
    for _ in range(draw(st.integers(0, 3))):
        moves.append(draw(st.builds(Think, _WORDS) | st.builds(Say, _MAYBE_BLANK)))
    made = draw(st.lists(st.builds(Call, _IDS, _NAMES, _ARGUMENTS), max_size=3)) if calls else []
    if not made and not any(isinstance(move, Say) and move.text.strip() for move in moves):
        moves.append(Say("Yes."))
    return [*moves, *made, Stop("tool_calls" if made else "end")]


@st.composite
def conversations(draw: st.DrawFn, server: Server) -> list[Message]:
    """Return the transcript of a conversation with a server and with others, which the user continues."""
    transcript: list[Message] = []
    used: set[str] = set()
    for _ in range(draw(st.integers(0, 4))):
        transcript.append(draw(_inputs()))
        speaker = server if draw(st.booleans()) else draw(_SERVERS)
        search = write_search() if speaker.driver == "anthropic" and draw(st.booleans()) else b""
        answer = read_answer(speaker, write_answer(speaker, draw(answers()), search))
        items = normalize_calls(answer.items, used)
        transcript.append(Message("assistant", items, provider_data=answer.provider_data))
        calls = [item for item in items if isinstance(item, ToolCall)]
        used.update(call.call_id for call in calls)
        results: list[Item] = [
            ToolResult(call.call_id, call.name, draw(_MAYBE_BLANK), is_error=draw(st.booleans()))
            for call in calls
        ]
        if results:
            transcript.append(Message("tool", results))
    if not transcript or transcript[-1].role == "assistant" or draw(st.booleans()):
        transcript.append(draw(_inputs()))
    return transcript


def _inputs() -> st.SearchStrategy[Message]:
    """Return the user's messages: texts, which may be blank, and files."""
    texts: st.SearchStrategy[Item] = st.builds(Text, _MAYBE_BLANK)
    items = st.lists(texts | st.just(AssetReference("as_1", "image/png")), min_size=1, max_size=3)
    return items.map(lambda items: Message("user", items))


@cache
def _offered_tools() -> tuple[Tool, ...]:
    """Return the tools of a daemon."""
    home = Home(Path("/nonexistent"))
    return tuple(Toolbox(home, ShellFiles(home.shells), SandboxHealth(home.path)).hooks(Config()).tools())


OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "openai": (
        {"temperature": 0.5, "max_tokens": 100},
        {"max_completion_tokens": 100_000, "reasoning_effort": "high"},
        {"tools": [{"type": "function", "function": {"name": "of_the_route"}}], "parallel_tool_calls": False},
        {"headers": {"x-title": "kheish"}, "stop": ["\n"], "response_format": {"type": "json_object"}},
    ),
    "responses": (
        {"temperature": 0.5, "max_tokens": 100},
        {"max_output_tokens": 100_000, "reasoning": {"effort": "high", "summary": "auto"}},
        {"tools": [{"type": "web_search"}], "include": ["web_search_call.action.sources"], "store": True},
        {"reasoning_effort": "high", "text": {"verbosity": "low"}, "parallel_tool_calls": False},
    ),
    "anthropic": (
        {"max_tokens": 100, "stop_sequences": ["\n"], "output_config": {"effort": "high"}},
        {"thinking": {"type": "enabled", "budget_tokens": 2000}, "headers": {"anthropic-beta": "x"}},
        {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"cache_control": False},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    ),
    "google": (
        {"generationConfig": {"temperature": 0.5, "maxOutputTokens": 100}, "safetySettings": []},
        {"generation_config": {"thinking_config": {"thinking_level": "HIGH"}, "stop_sequences": ["\n"]}},
        {"generationConfig": {"thinkingConfig": {"thinkingBudget": 2000}}, "thought_signatures": True},
        {"tools": [{"googleSearch": {}}], "toolConfig": {"includeServerSideToolInvocations": True}},
        {"tools": [{"function_declarations": [{"name": "of_the_route"}]}], "headers": {"x-trace": "1"}},
    ),
}
"""The options of routes, by the driver."""


@st.composite
def requests(draw: st.DrawFn, server: Server) -> ModelRequest:
    """Return a request to a server."""
    purpose = draw(st.sampled_from(["answer", "answer", "summary", "title"]))
    options = draw(st.sampled_from(({}, *OPTIONS.get(server.driver, ()))))
    tools = draw(st.lists(st.sampled_from(_offered_tools()), unique_by=lambda tool: tool.name, max_size=4))
    is_answer = purpose == "answer"
    transcript = draw(conversations(server))
    marks = {
        message.provider_data.origin: message.provider_data.marks
        for message in transcript
        if message.provider_data is not None and message.provider_data.marks
    }
    inputs = [index for index, message in enumerate(transcript) if message.role == "user"]
    if draw(st.booleans()):
        # After a compaction, only the marks of the earlier messages are left.
        transcript = [Message("user", [Text("They talked.")]), *transcript[draw(st.sampled_from(inputs)) :]]
    return ModelRequest(
        pinned=server.pin(options),
        instructions=draw(st.sampled_from(["", "Be brief."])),
        messages=transcript,
        situation=draw(st.sampled_from(["", "<situation>One todo is open.</situation>"]))
        if is_answer
        else "",
        marks=marks,
        tools=tools if is_answer else (),
        withheld=is_answer and draw(st.booleans()),
        purpose=purpose,  # type: ignore[arg-type]
        max_answer_tokens=None if is_answer else 4096,
    )


@st.composite
def learned_traits(draw: st.DrawFn, request: ModelRequest) -> Traits:
    """Return the traits of the request's server, as a preset states them or as the daemon learned them."""
    traits = LearnedTraits().find(request.pinned)
    google = ("includeThoughts", "thinkingConfig", "thoughtSignature", "call_ids")
    responses = ("include", "store", OUTPUT_ITEMS)
    names = ("stream_options", "cache_control", *google, *responses, *traits.preset.low_effort)
    return replace(
        traits,
        token_limit=draw(st.sampled_from([None, "max_tokens", "max_completion_tokens"])),
        omitted=frozenset(draw(st.lists(st.sampled_from(names)))),
        has_more_room=draw(st.booleans()),
        needs_signatures=draw(st.booleans()),
    )
