"""The model's answer in progress: collects its items, emits deltas, returns the final answer."""

from typing import Literal

import msgspec
from msgspec import Struct, field

from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelFailure, TextDelta, ThinkingDelta
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.rpc.wire import find_storage_problem
from protocol.transcript import Item, Text, Thinking, ToolCall, Usage

MAX_INVALID_CHARACTERS = 200
"""The part of invalid arguments that is shown to the model."""


class Block(Struct):
    """One item in progress. ``signature`` is that of a thought, or the data of a redacted one."""

    kind: Literal["text", "thinking", "call"]
    parts: list[str] = field(default_factory=list)
    signature: str = ""
    redacted: bool = False
    call_id: str = ""
    name: str = ""

    @property
    def content(self) -> str:
        """The content so far."""
        return "".join(self.parts)


class Draft:
    """The answer so far, within ``max_bytes``: once it is ``full``, further pieces are dropped."""

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
        """Append to the newest block if it is of this kind, else open another."""
        if not self._blocks or self._blocks[-1].kind != kind or self._blocks[-1].redacted:
            self.open(Block(kind))
        self.extend(self._blocks[-1], piece)

    def open(self, block: Block) -> Block:
        """Open a block."""
        if not self.full:
            self._blocks.append(block)
        return block

    def extend(self, block: Block, piece: str) -> None:
        """Append a piece to a block; the part beyond the size limit is dropped."""
        piece = self._fit(piece)
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
        """Append to a thought's signature. A signature that does not fit makes the draft full."""
        if self._fit(signature) == signature:
            block.signature += signature

    def take(self) -> list[ModelEvent]:
        """Return the deltas since the last call; consecutive deltas of one kind are merged."""
        fresh, self._fresh = self._fresh, []
        return [
            TextDelta(block.content) if block.kind == "text" else ThinkingDelta(block.content)
            for block in fresh
        ]

    def finish(self, stop_reason: str, usage: Usage, model: str | None) -> ModelAnswer:
        """Return the answer for the transcript.

        A call whose arguments are no JSON object says so; a truncated answer omits it.

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

    def _fit(self, piece: str) -> str:
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
            problem = find_storage_problem(decoded)
            if problem is None:
                return ToolCall(block.call_id, block.name, decoded)
    except (msgspec.DecodeError, RecursionError):
        pass
    if cut:
        return None
    if not block.name:
        raise ModelFailure("bad_response", "the model called a tool without a name", retryable=True)
    # The call's result tells the model, which can correct the call.
    beginning = arguments[:MAX_INVALID_CHARACTERS]
    return ToolCall(block.call_id, block.name, {}, invalid=f"they {problem}; they begin {beginning!r}")
