"""Estimates of token counts without the model's own tokenizer. Pure.

Ordinary text takes 0.285 tokens per byte; a third is added, because an underestimate is the worse mistake.
Estimates are used only for content that no provider has counted: see ``core/context/compaction.py``.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

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

PER_THOUSAND_BYTES: Final = 285
PADDING: Final = (4, 3)

MESSAGE_BYTES: Final = 16
"""The overhead of a message: its role and its delimiters."""

ASSET_TOKENS: Final = 1_600
"""The tokens of a picture of usual size."""


def estimate_bytes(count: int) -> int:
    """Estimate the tokens of ``count`` bytes of UTF-8."""
    raw = -(-count * PER_THOUSAND_BYTES // 1000)
    return -(-raw * PADDING[0] // PADDING[1])


def estimate_text(text: str) -> int:
    """Estimate the tokens of a text."""
    return estimate_bytes(len(text.encode()))


def estimate_message(message: Message) -> int:
    """Estimate the tokens of a message."""
    size = MESSAGE_BYTES + sum(map(_count_bytes, message.items)) + _count_data_bytes(message.provider_data)
    assets = sum(isinstance(item, AssetReference) for item in message.items)
    return estimate_bytes(size) + assets * ASSET_TOKENS


def estimate_messages(messages: Iterable[Message]) -> int:
    """Estimate the tokens of several messages."""
    return sum(map(estimate_message, messages))


def _count_bytes(item: Item) -> int:
    match item:
        case Text(text):
            return len(text.encode())
        case Thinking(text, signature):
            return len(text.encode()) + len(signature or "")
        case ToolCall(call_id, name, arguments):
            data = _count_data_bytes(item.provider_data)
            return len(call_id) + len(name) + len(msgspec.json.encode(arguments)) + data
        case ToolResult(call_id, _, text):
            return len(call_id) + len(text.encode())
        case AssetReference():
            return 0


def _count_data_bytes(data: ProviderData | None) -> int:
    """Return the bytes of opaque fields: the provider reads them as part of the prompt."""
    return len(msgspec.json.encode(data.fields)) if data is not None and data.fields else 0
