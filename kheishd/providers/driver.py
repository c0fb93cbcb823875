"""The interface of a driver, which builds a request and parses its answer without I/O."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import is_
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

import msgspec
from msgspec import Raw

from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelFailure, ModelRequest
from kheishd.providers.traits import TOKEN_LIMITS, USUAL_TRAITS, Traits
from protocol.limits.units import KIB
from protocol.structs import Value
from protocol.transcript import AssetReference, Item, Text

if TYPE_CHECKING:
    from kheishd.kernel.hook import Tool
    from kheishd.providers.failures import FailureFactory

encode = msgspec.json.Encoder().encode

MIN_BLOCK_BYTES: Final = 64 * KIB
"""The least size of encoded messages that are sent as one part of a body: less is copied at no cost."""

# No text has it, because nobody knows it.
_PLACEHOLDER: Final = encode(os.urandom(16).hex())


class HttpRequest(Value, frozen=True):
    """One HTTP request, ready to be sent. Its headers hold the credential, so ``repr`` omits them.

    ``parts`` are the body. ``situation`` is the one that a driver wants to keep with the answer. ``ca_file``
    holds the certificate authorities to trust; None for the usual ones.
    """

    url: str
    headers: dict[str, str]
    parts: Sequence[bytes | memoryview]
    situation: str = ""
    ca_file: str | None = None

    @property
    def body(self) -> bytes:
        """The whole body: a copy, which takes a while if it is long."""
        return b"".join(self.parts)

    def __repr__(self) -> str:
        return f"HttpRequest({self.url!r})"


def encode_body(body: dict[str, Any], messages: str) -> Sequence[bytes | memoryview]:
    """Return a body as JSON, in parts: its block of encoded messages, if it has one, is not copied.

    ``messages`` is the field of the messages; a block is the first of them, or the first after the system's.
    """
    sent = body[messages]
    for index, message in enumerate(sent[:2]):
        if isinstance(message, Raw) and len(block := memoryview(message)) >= MIN_BLOCK_BYTES:
            rest = [*sent[:index], Raw(_PLACEHOLDER), *sent[index + 1 :]]
            head, _, tail = encode({**body, messages: rest}).partition(_PLACEHOLDER)
            return head, block, tail
    return (encode(body),)


SendObserver = Callable[[str, Mapping[str, str], bytes], None]
"""A function called before a request is sent, with its URL, all of its headers and its body."""


class AnswerReader(Protocol):
    """The reader of one answer, as it arrives."""

    done: bool
    """Whether the answer is complete or at its size limit; further input is ignored."""

    failed: bool
    """Whether the provider reported an error, after which nothing is an answer."""

    situation: str
    """The situation of the request."""

    @property
    def settled(self) -> bool:
        """Whether the answer has its end, and only side information may follow."""
        ...

    def event(self, data: bytes) -> None:
        """Process the data of one event. Errors: ModelFailure."""
        ...

    def events(self, batch: list[bytes]) -> None:
        """Process the data of consecutive events until the answer is done. Errors: ModelFailure."""
        ...

    def fail_event(self, data: bytes) -> NoReturn:
        """Fail because of an event that reports an error. Errors: ModelFailure."""
        ...

    def whole(self, body: bytes) -> None:
        """Process an answer that came as one JSON object. Errors: ModelFailure."""
        ...

    def take(self) -> list[ModelEvent]:
        """Return the deltas since the last call."""
        ...

    def end(self) -> ModelAnswer | None:
        """Return the answer; None if it is incomplete. Errors: ModelFailure."""
        ...


class Driver(Protocol):
    """A module that speaks one provider's protocol."""

    BASE_URL: str
    """The provider's own URL, for routes without a ``base_url``."""

    def post(
        self, request: ModelRequest, base_url: str, secret: str | None, traits: Traits = USUAL_TRAITS
    ) -> HttpRequest:
        """Return the request to send to a server with these traits."""
        ...

    def reader(self, failures: FailureFactory, origin: str = "") -> AnswerReader:
        """Return a reader for the answer, which tags the provider's data with its origin."""
        ...


def malformed_answer(problem: str) -> ModelFailure:
    """Return the failure of an answer that violates the provider's protocol."""
    return ModelFailure("bad_response", f"the provider sent {problem}", retryable=True)


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Split a route's options into those for the body and the ``headers`` for the head."""
    body = {name: value for name, value in options.items() if name != "headers"}
    headers = options.get("headers")
    extra = headers if isinstance(headers, dict) else {}
    return body, {str(name).lower(): str(value) for name, value in extra.items()}


# Options that do not apply to a summary or a title: thinking uses up the few tokens of the limit, and there
# are no tools.
_OF_ANSWERS = frozenset(
    (
        "thinking",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "text",
        "max_tool_calls",
        "stop",
        "stop_sequences",
        "n",
    )
)
_HIGH_EFFORTS = ("medium", "high", "xhigh", "max")


def body_options(
    request: ModelRequest, traits: Traits = USUAL_TRAITS
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the options of a request, for its body and its head.

    A request for a summary or a title drops the options that shape answers, and reasons as little as the
    server allows. Its sampling is the route's own: some models accept no other temperature.
    """
    defaults, own = dict(traits.preset.options), request.pinned.options
    if any(name in own for name in TOKEN_LIMITS):
        # Whichever name it has, the route's own limit replaces the preset's.
        defaults = {name: value for name, value in defaults.items() if name not in TOKEN_LIMITS}
    body, extra = split_options({**defaults, **own})
    if request.purpose != "answer":
        body = {name: value for name, value in body.items() if name not in _OF_ANSWERS}
        if body.get("reasoning_effort") in _HIGH_EFFORTS:
            body["reasoning_effort"] = "low"
        # Anthropic's effort; the format beside it is that of answers.
        if isinstance(output_config := body.pop("output_config", None), dict) and "effort" in output_config:
            effort = output_config["effort"]
            body["output_config"] = {"effort": "low" if effort in _HIGH_EFFORTS else effort}
        low = traits.low_effort
        if isinstance(reasoning := body.get("reasoning"), dict):
            is_high = reasoning.get("effort") in _HIGH_EFFORTS
            body["reasoning"] = {
                **low.get("reasoning", {}),
                **reasoning,
                **({"effort": "low"} if is_high else {}),
            }
        body = {**low, **body}
    return body, extra


_last_tools: dict[str, tuple[tuple[Tool, ...], Raw]] = {}
"""The tools that were sent last in each form, and their JSON: the same rows are encoded once."""


def declare_tools(
    form: str, offered: Sequence[Tool], declare: Callable[[Tool], dict[str, Any]], options: dict[str, Any]
) -> Raw | list[dict[str, Any]]:
    """Return kheish's tools in a driver's form, then those of the route's options, as ``merge_tools``."""
    if options.get("tools") or not offered:
        return merge_tools([declare(tool) for tool in offered], options)
    options.pop("tools", None)
    rows = tuple(offered)
    previous, encoded = _last_tools.get(form, ((), Raw()))
    if len(previous) != len(rows) or not all(map(is_, previous, rows)):
        encoded = Raw(encode([declare(tool) for tool in rows]))
        _last_tools[form] = rows, encoded
    return encoded


def merge_tools(tools: Sequence[dict[str, Any]], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return kheish's tools, then those of the route's options, which are removed from these.

    A tool of the options does not replace one of the same name, which the daemon could not run.
    """
    extra = options.pop("tools", None)
    if not extra:
        return [*tools]
    names = {_tool_name(tool) for tool in tools}
    return [*tools, *(tool for tool in extra if _tool_name(tool) not in names)]


GONE: Final = "This tool is no longer available."
"""The description of a tool that only the transcript mentions."""


def find_gone_tools(offered: Sequence[Tool], called: Iterable[str]) -> list[str]:
    """Return the called tools that are not offered any more: some providers reject their calls."""
    names = {tool.name for tool in offered}
    return [name for name in called if name not in names]


def _tool_name(tool: Any) -> Any:
    """Return the name of a tool in any driver's form; the tool itself if it has none."""
    function = tool.get("function", tool) if isinstance(tool, dict) else {}
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else id(tool)


def lower_limit(value: Any, limit: int | None) -> Any:
    """Return the lower of an option's value and a limit; the value if the limit is None."""
    if limit is None:
        return value
    return min(value, limit) if isinstance(value, int) else limit


# More than any context window; the sum of a session fits into 64 bits for 18 billion answers.
MAX_TOKENS = 10**9


def token_count(count: float | None) -> int:
    """Return a storable count: some servers omit it, and some send -1 or nonsense for unknown."""
    return int(min(max(count, 0), MAX_TOKENS)) if count is not None and not math.isnan(count) else 0


BLANK = "[a blank message]"
"""The text in place of a message without any: providers reject blank texts and missing messages."""


def user_texts(items: list[Item]) -> list[str]:
    """Return a user's items as texts, at least one; an asset is named, so that the model knows of it."""
    texts: list[str] = []
    for item in items:
        if isinstance(item, Text) and item.text.strip():
            texts.append(item.text)
        elif isinstance(item, AssetReference):
            kind = f", {item.media_type}" if item.media_type else ""
            texts.append(f"[attached file {item.asset_id}{kind}: its content is not shown here]")
    return texts or [BLANK]
