"""What a driver with a wire of its own is: it makes a request and reads the answer; it does no I/O."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelFailure, ModelRequest
from kheishd.providers.failures import Refusing
from protocol.transcript import AssetReference, Item, Text

encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Post:
    """One HTTP request, ready to be sent. Its headers hold the credential: it is never shown."""

    url: str
    headers: dict[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Post({self.url!r})"


SendObserver = Callable[[str, Mapping[str, str], bytes], None]
"""A function called before a request is sent, with its URL, all of its headers and its body."""


class Reader(Protocol):
    """The answer to one request, as it arrives."""

    done: bool
    """Whether the answer is whole, or as much of it as is kept; what still arrives is passed over."""

    def event(self, data: bytes) -> None:
        """Take in the data of one event. Errors: ModelFailure."""
        ...

    def whole(self, body: bytes) -> None:
        """Take in an answer that came as one JSON object. Errors: ModelFailure."""
        ...

    def take(self) -> list[ModelEvent]:
        """The deltas since the last time."""
        ...

    def end(self) -> ModelAnswer | None:
        """The answer; None if its end never came. Errors: ModelFailure."""
        ...


class Driver(Protocol):
    """A module that speaks one provider's wire."""

    BASE_URL: str
    """Where the provider itself is, for routes that name no other place."""

    def post(self, request: ModelRequest, base_url: str, secret: str | None) -> Post:
        """The request to send."""
        ...

    def reader(self, refusing: Refusing) -> Reader:
        """A reader for the answer."""
        ...


def malformed(what: str) -> ModelFailure:
    """The failure of an answer that is not what was published."""
    return ModelFailure("bad_response", f"the provider sent {what}", retryable=True)


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A route's options: what goes into the body, and what ``headers`` among them adds to the head."""
    body = {name: value for name, value in options.items() if name != "headers"}
    headers = options.get("headers")
    extra = headers if isinstance(headers, dict) else {}
    return body, {str(name).lower(): str(value) for name, value in extra.items()}


# What shapes an answer and has no place in a summary or a title: thinking costs tokens that are counted
# against the few that are asked for, tools are not offered, and nothing but text is wanted.
_OF_ANSWERS = frozenset(
    ("thinking", "tool_choice", "parallel_tool_calls", "response_format", "stop", "stop_sequences", "n")
)
_SAMPLING = frozenset(("temperature", "top_p", "top_k"))


def body_options(request: ModelRequest) -> tuple[dict[str, Any], dict[str, str]]:
    """The options of a request, for its body and its head.

    Where no answer is wanted but a summary or a title: without what shapes answers, and with a temperature of
    0 where the options show that the model takes one.
    """
    body, extra = split_options(request.pinned.options)
    if request.purpose != "answer":
        sampled = "temperature" in body
        body = {name: value for name, value in body.items() if name not in _OF_ANSWERS | _SAMPLING}
        body |= {"temperature": 0} if sampled else {}
    return body, extra


def at_most(value: Any, limit: int | None) -> Any:
    """A limit of an option, lowered to another one, if there is one."""
    if limit is None:
        return value
    return min(value, limit) if isinstance(value, int) else limit


# No context holds as many; a session's sum of them stays below 64 bits for 18 billion answers.
MAX_TOKENS = 10**9


def tokens(count: float | None) -> int:
    """A count as it may be kept: some servers leave it out, and some send -1, or nonsense, for unknown."""
    return int(min(max(count, 0), MAX_TOKENS)) if count is not None else 0


def shown(items: list[Item]) -> list[str]:
    """What a user said, as texts; an asset is named, so that the model knows there is one."""
    texts: list[str] = []
    for item in items:
        if isinstance(item, Text) and item.text:
            texts.append(item.text)
        elif isinstance(item, AssetReference):
            kind = f", {item.media_type}" if item.media_type else ""
            texts.append(f"[attached file {item.asset_id}{kind}: its content is not shown here]")
    return texts
