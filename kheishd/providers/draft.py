"""An answer while it is being written: pieces in, deltas and at last the items out."""

from typing import Literal

import msgspec
from msgspec import Struct, field

from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelFailure, TextDelta, ThinkingDelta
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.rpc.wire import storage_problem_of
from protocol.transcript import Item, Text, Thinking, ToolCall, Usage

MAX_INVALID_CHARACTERS = 200
"""How much of arguments that are no JSON object is shown to the model that wrote them."""


class Block(Struct):
    """One item in the making. ``signature`` is the proof of a thought, or a redacted one's data."""

    kind: Literal["text", "thinking", "call"]
    parts: list[str] = field(default_factory=list)
    signature: str = ""
    redacted: bool = False
    call_id: str = ""
    name: str = ""

    @property
    def content(self) -> str:
        """What has arrived of it."""
        return "".join(self.parts)


class Draft:
    """The answer so far, within ``max_bytes``: once ``full``, what comes after is passed over."""

    def __init__(self, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        self.full = False
        self._room = max_bytes
        self._blocks: list[Block] = []
        self._fresh: list[Block] = []

    @property
    def empty(self) -> bool:
        """Whether nothing has arrived."""
        return not self._blocks

    def write(self, kind: Literal["text", "thinking"], piece: str) -> None:
        """Add to the newest block if it is of this kind, else begin another."""
        if not self._blocks or self._blocks[-1].kind != kind or self._blocks[-1].redacted:
            self.open(Block(kind))
        self.extend(self._blocks[-1], piece)

    def open(self, block: Block) -> Block:
        """Begin a block."""
        if not self.full:
            self._blocks.append(block)
        return block

    def extend(self, block: Block, piece: str) -> None:
        """Add a piece to a block, as much as there is room for."""
        piece = self._fitting(piece)
        if not piece:
            return
        block.parts.append(piece)
        if block.kind == "call":
            return
        if self._fresh and self._fresh[-1].kind == block.kind:
            self._fresh[-1].parts.append(piece)
        else:
            self._fresh.append(Block(block.kind, [piece]))

    def sign(self, block: Block, signature: str) -> None:
        """Add to a thought's signature. One that would not fit whole makes the draft full."""
        if self._fitting(signature) == signature:
            block.signature += signature

    def take(self) -> list[ModelEvent]:
        """The deltas since the last time, those of one kind that follow each other as one."""
        fresh, self._fresh = self._fresh, []
        return [
            TextDelta(block.content) if block.kind == "text" else ThinkingDelta(block.content)
            for block in fresh
        ]

    def finish(self, stop_reason: str, usage: Usage, model: str | None) -> ModelAnswer:
        """The answer as it goes into the transcript.

        A call whose arguments are no JSON object says so; in an answer that was cut short it is left out.

        Errors: ModelFailure ``bad_response`` for a call without a name.
        """
        if self.full:
            stop_reason = "length"
        items: list[Item] = []
        for block in self._blocks:
            item = _item(block, cut=stop_reason == "length")
            if item is not None:
                items.append(item)
        called = any(isinstance(item, ToolCall) for item in items)
        if called and stop_reason == "end":
            stop_reason = "tool_calls"
        return ModelAnswer(items, usage, stop_reason, model)

    def _fitting(self, piece: str) -> str:
        if self.full:
            return ""
        size = len(piece) if piece.isascii() else len(piece.encode())
        if size > self._room:
            self.full = True
            return piece.encode()[: self._room].decode(errors="ignore")
        self._room -= size
        return piece


def _item(block: Block, *, cut: bool) -> Item | None:
    content = block.content
    match block.kind:
        case "text":
            return Text(content) if content else None
        case "thinking":
            if not content and not block.signature:
                return None
            return Thinking(content, block.signature or None, block.redacted)
        case "call":
            return _call(block, content, cut=cut)


def _call(block: Block, arguments: str, *, cut: bool) -> ToolCall | None:
    problem: str | None = "are no JSON object"
    try:
        decoded = msgspec.json.decode(arguments.strip() or "{}")
        if decoded is None:
            decoded = {}
        if isinstance(decoded, dict) and block.name:
            problem = storage_problem_of(decoded)
            if problem is None:
                return ToolCall(block.call_id, block.name, decoded)
    except (msgspec.DecodeError, RecursionError):
        pass
    if cut:
        return None
    if not block.name:
        raise ModelFailure("bad_response", "the model called a tool without a name", retryable=True)
    # The model is told, as the result of this call: it knows best what it meant.
    began = arguments[:MAX_INVALID_CHARACTERS]
    return ToolCall(block.call_id, block.name, {}, invalid=f"they {problem}; they began {began!r}")
