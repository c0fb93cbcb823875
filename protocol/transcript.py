"""The transcript: messages, each a role and a list of items.

All kinds of items exist from the start, so that every later version reads a transcript of today. The items of
each role:

=========== =======================================================
role        items
=========== =======================================================
user        ``text``, ``asset``
assistant   ``text``, ``thinking``, ``tool_call``
tool        ``tool_result``
=========== =======================================================
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct

from protocol.ids import ID_PATTERN
from protocol.limits.call import MAX_CALL_ID_BYTES, MAX_TOOL_BYTES
from protocol.limits.names import MAX_SOURCE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

Role = Literal["user", "assistant", "tool"]

InputOrigin = Literal[
    "person", "program", "agent", "mailbox", "schedule", "event", "connector", "tool_output"
]
"""The kind of the author of an input: a person, or a program, that instructs the agent; another agent that
delegates a task; or the channel of an input that is only data."""

DeclaredOrigin = Literal["person", "program", "schedule", "event", "connector"]
"""The origins that a client can declare; the daemon alone writes inputs of the others."""

Authority = Literal["operator", "agent"]
"""The author of the task of a schedule or a trigger, which is the first item of its input: an operator, whose
task is an instruction, or an agent, whose task is delegated. The other items are as the input's origin."""


class ProviderData(Struct, frozen=True, omit_defaults=True):
    """Data that a provider attached to a message or a call, to be sent back unchanged, and only to it.

    ``origin`` names the provider: driver, host and model. ``call_id`` is the provider's own id of a call, if
    it sent one. ``fields`` are opaque: only the driver that stored them reads them. ``marks`` name what the
    driver learned about the origin from this message; they outlive the message when it is compacted. Views
    for people leave all of it out; the journal and exports keep it.
    """

    origin: str
    call_id: str | None = None
    fields: dict[str, Any] = {}
    marks: list[str] = []


class Text(Struct, frozen=True, tag_field="kind", tag="text"):
    """Plain text, UTF-8."""

    text: str


class Thinking(Struct, frozen=True, tag_field="kind", tag="thinking", omit_defaults=True):
    """A model's reasoning. ``signature`` is the provider's proof, sent back unchanged.

    The provider is the origin of the message's data. Messages of earlier versions name none.
    """

    text: str
    signature: str | None = None
    redacted: bool = False


class ToolCall(Struct, frozen=True, tag_field="kind", tag="tool_call", omit_defaults=True):
    """A model's request for a tool. ``arguments`` is the JSON object of the model.

    ``invalid`` says why the model's arguments are unusable (``they are no JSON object; ...``); then
    ``arguments`` is empty and the call fails. ``call_id`` is kheish's own id; ``provider_data`` holds the
    provider's.
    """

    call_id: str
    name: str
    arguments: dict[str, Any]
    invalid: str | None = None
    provider_data: ProviderData | None = None


class ToolResult(Struct, frozen=True, tag_field="kind", tag="tool_result", omit_defaults=True):
    """The result of a tool call. Every call has exactly one before the next model call."""

    call_id: str
    name: str
    text: str
    is_error: bool = False


class AssetReference(Struct, frozen=True, tag_field="kind", tag="asset", omit_defaults=True):
    """A file that the daemon keeps, by its id."""

    asset_id: str
    media_type: str | None = None


Item = Text | Thinking | ToolCall | ToolResult | AssetReference
InputItem = Text | AssetReference


class Message(Struct, frozen=True, omit_defaults=True):
    """One message of a transcript. ``agent`` names a guest agent that wrote it.

    ``origin`` and ``source`` are those of a user's message: the kind of its author, and which one;
    ``authority`` is that of its first item, if it differs from its origin's.
    """

    role: Role
    items: list[Item]
    agent: str | None = None
    provider_data: ProviderData | None = None
    origin: InputOrigin = "person"
    source: str = ""
    authority: Authority | None = None


class Usage(Struct, frozen=True, omit_defaults=True):
    """Token counts of the provider. ``input_tokens`` includes the cached ones."""

    input_tokens: Annotated[int, Meta(ge=0)] = 0
    output_tokens: Annotated[int, Meta(ge=0)] = 0
    cached_input_tokens: Annotated[int, Meta(ge=0)] = 0
    cache_write_tokens: Annotated[int, Meta(ge=0)] = 0
    reasoning_tokens: Annotated[int, Meta(ge=0)] = 0

    def __add__(self, other: Usage) -> Usage:
        """Return the sum, field by field."""
        return Usage(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))


def text_of(items: Sequence[Struct]) -> str:
    """Return the joined text of the text items; other items are skipped."""
    return "".join(item.text for item in items if isinstance(item, Text))


# Messages for people, without the data and the signatures of providers.


class VisibleThinking(Struct, frozen=True, tag_field="kind", tag="thinking", omit_defaults=True):
    """A model's reasoning, as people read it."""

    text: str
    redacted: bool = False


class VisibleCall(Struct, frozen=True, tag_field="kind", tag="tool_call", omit_defaults=True):
    """A model's request for a tool, as people read it. ``invalid``: why its arguments are unusable."""

    call_id: str
    name: str
    arguments: dict[str, Any]
    invalid: str | None = None


class VisibleMessage(Struct, frozen=True, omit_defaults=True):
    """One message, as people read it. ``agent`` names a guest agent that wrote it.

    ``origin`` and ``source`` are those of a user's message that no person wrote.
    """

    role: Role
    items: list[Text | VisibleThinking | VisibleCall | ToolResult | AssetReference]
    agent: str | None = None
    origin: InputOrigin = "person"
    source: str = ""


def make_visible(message: Message) -> VisibleMessage:
    """Return a message for people: without provider data and signatures."""
    items: list[Text | VisibleThinking | VisibleCall | ToolResult | AssetReference] = []
    for item in message.items:
        match item:
            case ToolCall(call_id, name, arguments, invalid):
                items.append(VisibleCall(call_id, name, arguments, invalid))
            case Thinking(text, _, redacted):
                items.append(VisibleThinking(text, redacted))
            case _:
                items.append(item)
    return VisibleMessage(message.role, items, message.agent, message.origin, message.source)


# Validity. Providers refuse a request whose transcript breaks one of these rules.


ITEMS_OF: dict[Role, tuple[type[Struct], ...]] = {
    "user": (Text, AssetReference),
    "assistant": (Text, Thinking, ToolCall),
    "tool": (ToolResult,),
}
"""The kinds of items that a message of each role may have."""

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]+")


def find_message_problem(message: Message) -> str | None:
    """Return why a message by itself is not valid; None for a valid one."""
    misplaced = [item for item in message.items if not isinstance(item, ITEMS_OF[message.role])]
    if misplaced:
        kind = misplaced[0].__struct_config__.tag
        return f"a message of the role '{message.role}' has an item of the kind '{kind}'"
    if not any(_has_content(item) for item in message.items):
        return f"a message of the role '{message.role}' has no content"
    if message.role == "user" and not all(_has_content(item) for item in message.items):
        return "a user's message has an empty text"
    if message.role != "assistant" and message.provider_data is not None:
        return f"a message of the role '{message.role}' has data of a provider"
    if message.role != "user" and (message.origin != "person" or message.source):
        return f"a message of the role '{message.role}' has the origin of an input"
    if len(message.source.encode()) > MAX_SOURCE_BYTES or not message.source.isprintable():
        return f"a message has a source that is not at most {MAX_SOURCE_BYTES} bytes of printable text"
    if message.agent is not None and not re.fullmatch(ID_PATTERN, message.agent):
        return "a message names an agent by a name that no agent can have"
    calls = [item for item in message.items if isinstance(item, ToolCall)]
    origins = {call.provider_data.origin for call in calls if call.provider_data is not None}
    if message.provider_data is not None:
        origins.add(message.provider_data.origin)
    if len(origins) > 1:
        return "a message has data of several providers"
    for call in calls:
        length = len(call.call_id.encode())
        if not 0 < length <= MAX_CALL_ID_BYTES or not call.call_id.isprintable():
            return "a call has an id that is empty, too long or not printable"
        if not _TOOL_NAME.fullmatch(call.name) or len(call.name) > MAX_TOOL_BYTES:
            return f"the call '{call.call_id}' has a name that no tool can have"
    return None


def _has_content(item: Struct) -> bool:
    match item:
        case Text(text):
            return bool(text)
        case Thinking(text, signature):
            return bool(text or signature)
        case _:
            return True


class TranscriptChecker:
    """A check that messages, one after another, form a valid transcript.

    It begins with a user's message. An assistant's message answers a user or reads results. Every call has a
    distinct id and exactly one result, before any other message. ``open_calls`` are the calls without a
    result: their tools by id.
    """

    def __init__(self) -> None:
        self.open_calls: dict[str, str] = {}
        self.call_ids: set[str] = set()
        self.last_role: Role | None = None

    def add(self, message: Message) -> str | None:
        """Add the next message; return why it is not valid (and was not added), or None."""
        problem = find_message_problem(message) or self._find_problem(message)
        if problem is not None:
            return problem
        for item in message.items:
            match item:
                case ToolCall(call_id, name):
                    self.open_calls[call_id] = name
                    self.call_ids.add(call_id)
                case ToolResult(call_id):
                    del self.open_calls[call_id]
                case _:
                    pass
        self.last_role = message.role
        return None

    def _find_problem(self, message: Message) -> str | None:
        if message.role == "tool":
            return self._find_result_problem([item for item in message.items if isinstance(item, ToolResult)])
        if self.open_calls:
            return f"the call '{next(iter(self.open_calls))}' has no result before the next message"
        if message.role == "user":
            return None
        if self.last_role is None:
            return "the transcript begins with a message of the assistant"
        if self.last_role == "assistant":
            return "a message of the assistant follows another one"
        ids = [item.call_id for item in message.items if isinstance(item, ToolCall)]
        repeated = next(
            (id_ for index, id_ in enumerate(ids) if id_ in self.call_ids or id_ in ids[:index]), None
        )
        return None if repeated is None else f"two calls have the id '{repeated}'"

    def _find_result_problem(self, results: list[ToolResult]) -> str | None:
        for index, result in enumerate(results):
            tool = self.open_calls.get(result.call_id)
            if tool is None or any(result.call_id == earlier.call_id for earlier in results[:index]):
                had = "already has a result" if result.call_id in self.call_ids else "does not exist"
                return f"a result is of the call '{result.call_id}', which {had}"
            if tool != result.name:
                return f"the result of the call '{result.call_id}' names another tool"
        return None
