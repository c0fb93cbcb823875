"""What a conversation is made of: messages, each a role and a list of items.

All kinds of items exist from the start, so that a transcript written today is read by every later
version. Which items may stand in which role:

=========== =======================================================
role        items
=========== =======================================================
user        ``text``, ``asset``
assistant   ``text``, ``thinking``, ``tool_call``
tool        ``tool_result``
=========== =======================================================
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Role = Literal["user", "assistant", "tool"]


class Text(Struct, frozen=True, tag_field="kind", tag="text"):
    """Plain text, UTF-8."""

    text: str


class Thinking(Struct, frozen=True, tag_field="kind", tag="thinking", omit_defaults=True):
    """A model's reasoning. ``signature`` is the provider's proof of it, given back unchanged."""

    text: str
    signature: str | None = None
    redacted: bool = False


class ToolCall(Struct, frozen=True, tag_field="kind", tag="tool_call", omit_defaults=True):
    """A model asks for a tool. ``arguments`` is the JSON object as the model gave it.

    ``invalid``: why what it gave cannot be used (``they are no JSON object; ...``); then there are no
    arguments, and the call fails.
    """

    call_id: str
    name: str
    arguments: dict[str, Any]
    invalid: str | None = None


class ToolResult(Struct, frozen=True, tag_field="kind", tag="tool_result", omit_defaults=True):
    """What a tool gave back. Every call has exactly one before the model is asked again."""

    call_id: str
    name: str
    text: str
    is_error: bool = False


class AssetReference(Struct, frozen=True, tag_field="kind", tag="asset", omit_defaults=True):
    """A file the daemon keeps, by its id."""

    asset_id: str
    media_type: str | None = None


Item = Text | Thinking | ToolCall | ToolResult | AssetReference
InputItem = Text | AssetReference


class Message(Struct, frozen=True, omit_defaults=True):
    """One message of a transcript. ``agent`` names a guest who spoke in another's conversation."""

    role: Role
    items: list[Item]
    agent: str | None = None


class Usage(Struct, frozen=True, omit_defaults=True):
    """Tokens, as the provider counted them. ``input_tokens`` includes the cached ones."""

    input_tokens: Annotated[int, Meta(ge=0)] = 0
    output_tokens: Annotated[int, Meta(ge=0)] = 0
    cached_input_tokens: Annotated[int, Meta(ge=0)] = 0
    cache_write_tokens: Annotated[int, Meta(ge=0)] = 0
    reasoning_tokens: Annotated[int, Meta(ge=0)] = 0

    def __add__(self, other: Usage) -> Usage:
        """The sum, field by field."""
        return Usage(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))


def text_of(items: list[Item] | list[InputItem]) -> str:
    """The text of some items, joined; everything that is not text is passed over."""
    return "".join(item.text for item in items if isinstance(item, Text))
