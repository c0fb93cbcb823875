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

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

Role = Literal["user", "assistant", "tool"]


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
    """One message of a transcript. ``agent`` names a guest agent that wrote it."""

    role: Role
    items: list[Item]
    agent: str | None = None
    provider_data: ProviderData | None = None


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
    """One message, as people read it. ``agent`` names a guest agent that wrote it."""

    role: Role
    items: list[Text | VisibleThinking | VisibleCall | ToolResult | AssetReference]
    agent: str | None = None


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
    return VisibleMessage(message.role, items, message.agent)
