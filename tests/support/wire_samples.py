"""Conversations of every kind for drivers: made from a seed, the same at each run.

They hold all that drivers treat specially: blank texts, attachments, foreign and repeated call ids, reasoning
of several origins, opaque blocks, signatures, paused turns, and situations.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from kheishd.core.contract import RESUME
from kheishd.kernel.hook import Tool
from kheishd.kernel.runtime import ModelRequest
from kheishd.providers.anthropic import read_messages
from kheishd.providers.attachments import origin_of
from kheishd.providers.caller import find_driver
from kheishd.providers.google_contents import ContentRules, read_contents
from kheishd.providers.traits import OUTPUT_ITEMS, USUAL_TRAITS, Traits
from protocol.objects.run import Pinned
from protocol.transcript import (
    AssetReference,
    Item,
    Message,
    ProviderData,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

T = TypeVar("T")

BASE_URL = "https://api.test/v1"
MODELS = {
    "openai": ("qwen3", "gemini-3-flash"),
    "responses": ("gpt-6",),
    "anthropic": ("claude-6",),
    "google": ("gemini-3-flash", "other"),
}
"""The models of each driver."""

TOOLS = (
    Tool("look", "Look at it.", {"type": "object", "properties": {"at": {"type": "string"}}}, "read"),
    Tool("write", "Écris.", {"type": "object", "properties": {"n": {"type": "integer"}}}, "edit"),
)
TEXTS = ("", " ", "hello", "Grüße 東京 😀", 'a "quoted" </situation>', "line\nline\u2028end", "word " * 40)
SITUATIONS = ("", "", "<situation>\ntwo todos\n</situation>", "<situation>\nnone left\n</situation>")

OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "openai": (
        {},
        {"temperature": 0.5, "tools": [{"type": "function", "function": {"name": "look"}}]},
        {"call_ids": "mistral", "reasoning_content": False},
        {"reasoning_content": True, "thought_signatures": True},
    ),
    "responses": ({}, {"reasoning_effort": "high", "include": ["x"], "max_tokens": 9}),
    "anthropic": (
        {},
        {"cache_control": False, "thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"cache_control": {"type": "ephemeral", "ttl": "1h"}, "tools": [{"type": "web_search", "name": "w"}]},
    ),
    "google": ({}, {"thought_signatures": True, "generationConfig": {"temperature": 1}}),
}
TRAITS: dict[str, tuple[Traits, ...]] = {
    "openai": (
        USUAL_TRAITS,
        Traits(bridges_results=True, reasoning_filler=" "),
        Traits(omitted=frozenset((OUTPUT_ITEMS, "stream_options"))),
    ),
    "responses": (USUAL_TRAITS, Traits(omitted=frozenset((OUTPUT_ITEMS, "store")))),
    "anthropic": (
        USUAL_TRAITS,
        Traits(drops_thinking=True),
        Traits(omitted=frozenset((OUTPUT_ITEMS, "thinking"))),
        Traits(omitted=frozenset(("cache_control",))),
    ),
    "google": (
        USUAL_TRAITS,
        Traits(needs_signatures=True),
        Traits(omitted=frozenset(("thoughtSignature", "call_ids"))),
    ),
}

PAUSED: dict[str, Any] = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
FOUND: dict[str, Any] = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}


class Conversation:
    """The messages of one conversation with a driver, and the requests that it makes."""

    def __init__(self, driver: str, seed: int) -> None:
        self._random = Random(f"{driver} {seed}")
        self._driver = driver
        self.pinned = Pinned(
            route="r",
            driver=driver,
            model=self._choose(*MODELS[driver]),
            options=dict(self._choose(*OPTIONS[driver])),
        )
        self.traits = self._choose(*TRAITS[driver])
        own = origin_of(self.pinned, BASE_URL)
        self._origins = (own, own, own, f"{driver} elsewhere.test other")
        self._ids: list[str] = []
        self.messages = list(self._make_messages(self._random.randrange(1, 24)))

    def requests(self) -> Iterator[ModelRequest]:
        """Yield the requests that the conversation makes as it grows."""
        for count, message in enumerate(self.messages, 1):
            if message.role == "assistant" and self._random.random() < 0.8:
                continue
            yield ModelRequest(
                self.pinned,
                self._choose("", "Be brief."),
                self.messages[:count],
                tools=self._choose(TOOLS, TOOLS[:1], ()),
                situation=self._choose(*SITUATIONS),
                withheld=self._random.random() < 0.1,
            )

    def _choose(self, *values: T) -> T:
        return self._random.choice(values)

    def _make_messages(self, turns: int) -> Iterator[Message]:
        for _ in range(turns):
            for _ in range(self._choose(1, 1, 1, 2)):
                yield self._make_user()
            message = self._make_answer()
            calls = [item for item in message.items if isinstance(item, ToolCall)]
            yield message
            if calls:
                yield Message("tool", [self._make_result(call) for call in calls])

    def _make_user(self) -> Message:
        items: list[Item] = [Text(self._choose(*TEXTS)) for _ in range(self._choose(1, 1, 2))]
        if self._random.random() < 0.2:
            items.append(self._choose(AssetReference("ast_1", "image/png"), AssetReference("ast_2")))
        if self._random.random() < 0.1:
            items = [Text(RESUME)]
        return Message("user", items)

    def _make_answer(self) -> Message:
        items: list[Item] = []
        origin = self._choose(*self._origins)
        for _ in range(self._choose(1, 1, 2, 3, 4)):
            match self._choose("text", "text", "thinking", "call"):
                case "text":
                    items.append(Text(self._choose(*TEXTS)))
                case "thinking":
                    signature = self._choose(None, "c2lnbmVk")
                    items.append(Thinking(self._choose(*TEXTS), signature, self._choose(False, False, True)))
                case _:
                    items.append(self._make_call(origin))
        data = None
        if self._random.random() < 0.7:
            data = ProviderData(origin, fields=self._make_fields(items))
        return Message("assistant", items, provider_data=data)

    def _make_call(self, origin: str) -> ToolCall:
        number = len(self._ids)
        call_id = self._choose(
            f"call_{number}", f"call.{number}/x", f"{'long' * 12}{number}", f"A{number:08}"
        )
        self._ids.append(call_id)
        arguments: dict[str, Any] = self._choose({}, {"at": "a/b"}, {"n": 1.0, "deep": [{"é": None}, True]})
        data = None
        if self._random.random() < 0.6:
            # Some provider's id is the one that kheish made for another call.
            own = self._choose(f"prov_{number}", None, self._choose(*self._ids), f"call_{number + 1}")
            data = ProviderData(origin, call_id=own, fields=self._make_call_fields())
        return ToolCall(call_id, self._choose("look", "write", "gone", "lost"), arguments, provider_data=data)

    def _make_result(self, call: ToolCall) -> ToolResult:
        return ToolResult(call.call_id, call.name, self._choose(*TEXTS), self._choose(False, False, True))

    def _make_call_fields(self) -> dict[str, Any]:
        match self._driver:
            case "openai":
                signed = {"google": {"thought_signature": "c2ln"}}
                return self._choose(
                    *(
                        {},
                        {"extra_content": signed},
                        {"function": {"x": 1}, "provider_specific_fields": {"y": 2}},
                    )
                )
            case "google":
                return self._choose({}, {"thoughtSignature": "c2ln"})
            case "anthropic":
                return self._choose({}, {}, {"caller": {"type": "code_execution", "tool_id": "srvtoolu_1"}})
            case _:
                return {}

    def _make_fields(self, items: list[Item]) -> dict[str, Any]:
        index = self._random.randrange(len(items) + 1)
        match self._driver:
            case "openai":
                return self._choose(
                    {},
                    {},
                    {"thinking_name": "reasoning"},
                    {"thinking_name": "reasoning", "reasoning_details": [{"type": "reasoning.text"}]},
                    {"thinking_name": self._choose("content.thinking", "content.thinking[]")},
                    {"thinking_name": "reasoning_content"} if self._random.random() < 0.3 else {},
                )
            case "google":
                placed = [{"index": index, "part": {"executableCode": {"code": "1"}}}]
                signed = [{"index": index, "thoughtSignature": "c2ln"}]
                return self._choose({}, {"placed": placed}, {"placed": signed})
            case "responses":
                return self._choose({}, {"output": self._make_output(items)})
            case _:
                if self._random.random() < 0.7:
                    return self._choose({}, {}, {"situation": SITUATIONS[2]}, {"container": "cont_1"})
                cited = [{"index": index, "text": {"citations": [{"url": "u"}]}}]
                paused = [{"index": len(items), "block": PAUSED}]
                found = [{"index": 0, "block": FOUND}, {"index": index, "block": PAUSED}]
                return self._choose({"placed": cited}, {"placed": paused}, {"placed": found})

    def _make_output(self, items: list[Item]) -> list[dict[str, Any]]:
        output: list[dict[str, Any]] = [{"type": "reasoning", "id": "rs_1", "encrypted_content": "e"}]
        for item in items:
            match item:
                case Text(text):
                    part = {"type": "output_text", "text": [0, len(text)]}
                    output.append({"type": "message", "id": "msg_1", "role": "assistant", "content": [part]})
                case ToolCall():
                    caller = self._choose({}, {"caller": {"type": "program", "caller_id": "p"}})
                    output.append({"type": "function_call", "id": "fc_1", **caller})
                case _:
                    pass
        return output[: self._choose(None, None, 1)]


def contents(transcript: list[Message], origin: str = "", *, situation: str = "", **rules: bool) -> list[Any]:
    """Return a transcript as Google's contents."""
    return read_contents(transcript, ContentRules(origin, **rules), None).finish(situation)


def messages(transcript: list[Message], origin: str = "") -> list[Any]:
    """Return a transcript as Anthropic's messages."""
    return read_messages(transcript, origin, None, sends_thoughts=True).finish()


def check_kept_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Require of every request of providers that its kept messages change no byte of it."""

    def find_checked(name: str) -> Any:
        driver = find_driver(name)
        return None if driver is None else _CheckedDriver(driver)

    monkeypatch.setattr("kheishd.providers.caller.find_driver", find_checked)


class _CheckedDriver:
    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def post(self, request: ModelRequest, *arguments: Any) -> Any:
        sent = self._driver.post(request, *arguments)
        fresh = self._driver.post(replace(request, encodings=None), *arguments)
        assert (sent.body, sent.situation) == (fresh.body, fresh.situation)
        return sent
