"""The model's answer in progress: collects its items, emits deltas, returns the final answer."""

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from kheishd.core.run.answers import describe_truncation
from kheishd.core.text.surrogates import join_surrogates, split_first_half
from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelFailure, TextDelta, ThinkingDelta
from kheishd.providers.attachments import Attachments, measure_fields
from kheishd.providers.lenient import clean_json, load_json
from protocol.limits.model import MAX_ANSWER_BYTES, MAX_PROVIDER_DATA_BYTES
from protocol.rpc.wire import find_storage_problem
from protocol.transcript import Item, ProviderData, Text, Thinking, ToolCall, Usage

MAX_INVALID_CHARACTERS = 200
"""The part of invalid arguments that is shown to the model."""

MAX_BLOCKS: Final = 1_024
"""The items of one answer, and its data without an item: four times the calls that are run at once."""

MAX_CHECKED_BYTES: Final = 4 * 1024 * 1024
"""The work of finding the end of one call: a server may repeat its name with each of many pieces."""

PLACED: Final = "placed"
"""The field of a message with the data that has a place among its items: a list.

Each element has the ``index`` of the item that it belongs to, or before which it stands.
"""


class Block(Struct):
    """One item in progress. ``signature`` is that of a thought, or the data of a redacted one.

    ``provider_id`` is the id of a call that the provider sent, if it sent one; ``attached`` is the provider's
    data. ``half`` is the first half of a character whose second half may come with the next piece. An
    ``opaque`` block is no item: only its data is kept, in its place.
    """

    kind: Literal["text", "thinking", "call", "opaque"]
    parts: list[str] = field(default_factory=list)
    signature: str = ""
    redacted: bool = False
    call_id: str = ""
    name: str = ""
    provider_id: str = ""
    attached: Attachments = field(default_factory=Attachments)
    half: str = ""
    checked_bytes: int = 0

    @property
    def content(self) -> str:
        """The content so far."""
        return "".join(self.parts)

    @property
    def has_whole_arguments(self) -> bool:
        """Whether the content so far is a JSON object, so that the call is complete.

        It is not determined any more after MAX_CHECKED_BYTES.
        """
        if self.checked_bytes > MAX_CHECKED_BYTES:
            return False
        content = self.content.strip()
        self.checked_bytes += len(content)
        return content.endswith("}") and decode_arguments(content) is not None


class Draft:
    """The answer so far, within ``max_bytes`` and MAX_BLOCKS: once it is ``full``, the rest is dropped.

    ``origin`` is that of the provider's data; without it, none is kept. ``attached`` is the message's data,
    and ``marks`` those of its origin.
    """

    def __init__(self, max_bytes: int = MAX_ANSWER_BYTES, origin: str = "") -> None:
        self.full = False
        self.attached = Attachments()
        self.marks: set[str] = set()
        self._origin = origin
        self._max_bytes = max_bytes
        self._room = max_bytes
        self._blocks: list[Block] = []
        # Not blocks, because there is one for each piece that arrives alone.
        self._fresh: list[tuple[str, list[str]]] = []
        self._placed_bytes = 0

    @property
    def empty(self) -> bool:
        """Whether nothing has arrived."""
        return not self._blocks

    @property
    def has_text(self) -> bool:
        """Whether there is text that is not blank."""
        return any(block.kind == "text" and block.content.strip() for block in self._blocks)

    @property
    def has_thoughts(self) -> bool:
        """Whether there is a signed thought."""
        return any(block.kind == "thinking" and block.signature for block in self._blocks)

    def join_content(self, kind: Literal["text", "thinking"]) -> str:
        """Return the content of all blocks of a kind."""
        return "".join(block.content for block in self._blocks if block.kind == kind)

    def write(self, kind: Literal["text", "thinking"], piece: str) -> None:
        """Append to the newest block if it is of this kind, else open another.

        A block with a signature or data is complete: these belong to its content.
        """
        last = self._blocks[-1] if self._blocks else None
        if last is None or last.kind != kind or last.redacted or last.signature or last.attached.fields:
            last = self.open(Block(kind))
        self.extend(last, piece)

    def open(self, block: Block, following: Block | None = None) -> Block:
        """Open a block, after the others or before the ``following`` one."""
        if len(self._blocks) >= MAX_BLOCKS:
            self.full = True
        if self.full:
            return block
        places = (index for index, other in enumerate(self._blocks) if other is following)
        end = len(self._blocks)
        self._blocks.insert(end if following is None else next(places, end), block)
        return block

    def extend(self, block: Block, piece: str) -> None:
        """Append a piece to a block; the part beyond the size limit is dropped."""
        if block.half:
            piece, block.half = block.half + piece, ""
        try:
            piece = self._fit(piece)
        except UnicodeEncodeError:
            # It has a half of a character. A first half at its end waits for the next piece.
            piece, block.half = split_first_half(piece)
            piece = self._fit(join_surrogates(piece))
        if not piece:
            return
        block.parts.append(piece)
        if block.kind in ("call", "opaque"):
            return
        if self._fresh and self._fresh[-1][0] == block.kind:
            self._fresh[-1][1].append(piece)
        else:
            self._fresh.append((block.kind, [piece]))

    def rewrite(self, block: Block, content: str) -> None:
        """Replace the content of a block; what was shown of it stays as it is."""
        block.half = ""
        self._room += sum(len(part.encode()) for part in block.parts)
        block.parts = [self._fit(join_surrogates(content))]

    def sign(self, block: Block, signature: str) -> None:
        """Append to a thought's signature. A signature that does not fit makes the draft full."""
        signature = signature if signature.isascii() else join_surrogates(signature)
        if self._fit(signature) == signature:
            block.signature += signature

    def place(self, block: Block, name: str, value: Any) -> None:
        """Attach data to a block that is no call. Data of a message that is too large is dropped whole."""
        if self._placed_bytes > MAX_PROVIDER_DATA_BYTES:
            return
        size = block.attached.size
        block.attached.add(name, value)
        self._placed_bytes += block.attached.size - size
        if self._placed_bytes > MAX_PROVIDER_DATA_BYTES:
            self.drop_placed()

    def drop_placed(self) -> None:
        """Drop all data that has a place: a part of it is unusable, and the provider needs all of it."""
        self._placed_bytes = MAX_PROVIDER_DATA_BYTES + 1
        for block in self._blocks:
            if block.kind != "call":
                block.attached = Attachments()

    def take(self) -> list[ModelEvent]:
        """Return the deltas since the last call; consecutive deltas of one kind are merged."""
        fresh, self._fresh = self._fresh, []
        return [
            TextDelta("".join(parts)) if kind == "text" else ThinkingDelta("".join(parts))
            for kind, parts in fresh
        ]

    def complete_characters(self) -> None:
        """Replace the half of a character at the end of a block: its other half never came."""
        for block in self._blocks:
            if block.half:
                block.half = ""
                self.extend(block, "\ufffd")

    def finish(self, stop_reason: str, usage: Usage, model: str | None) -> ModelAnswer:
        """Return the answer for the transcript.

        A call whose arguments are no JSON object, or were cut off, says so. A refused answer calls nothing.

        Errors: ModelFailure ``bad_response`` for a call without a name.
        """
        limit: str | None = None
        if self.full:
            accepted = (
                f"{self._max_bytes:,} bytes" if len(self._blocks) < MAX_BLOCKS else f"{MAX_BLOCKS:,} parts"
            )
            limit = f"the answer exceeds the {accepted} that are accepted"
            stop_reason = "length"
        elif stop_reason == "length":
            limit = "the answer reached the model's output limit"
        items: list[Item] = []
        placed: list[dict[str, Any]] = []
        # Data of calls comes first: some providers refuse a call without it.
        room = MAX_PROVIDER_DATA_BYTES
        for block in self._blocks:
            item = _item(block, limit, is_last=block is self._blocks[-1])
            if isinstance(item, ToolCall):
                if stop_reason == "refusal":
                    continue
                if self._origin:
                    call_id = join_surrogates(block.provider_id) if len(block.provider_id) <= room else ""
                    fields = block.attached.take(room - len(call_id))
                    room -= measure_fields(fields) + len(call_id)
                    item = replace(item, provider_data=ProviderData(self._origin, call_id or None, fields))
            elif block.attached.fields:
                placed.append({"index": len(items), **block.attached.fields})
            if item is not None:
                items.append(item)
        called = any(isinstance(item, ToolCall) for item in items)
        if called and stop_reason == "end":
            stop_reason = "tool_calls"
        if placed:
            self.attached.fields[PLACED] = placed
        return ModelAnswer(items, usage, stop_reason, model, self._message_data(items, room))

    def _message_data(self, items: list[Item], room: int) -> ProviderData | None:
        """Return the data of the message; signatures of thoughts need its origin."""
        fields = self.attached.take(room)
        if self._origin and (fields or self.marks or any(isinstance(item, Thinking) for item in items)):
            return ProviderData(self._origin, fields=fields, marks=sorted(self.marks))
        return None

    def _fit(self, piece: str) -> str:
        if self.full:
            return ""
        size = len(piece) if piece.isascii() else len(piece.encode())
        if size > self._room:
            self.full = True
            return piece.encode()[: self._room].decode(errors="ignore")
        self._room -= size
        return piece


def _item(block: Block, limit: str | None, *, is_last: bool) -> Item | None:
    content = block.content
    match block.kind:
        case "text":
            return Text(content) if content else None
        case "thinking":
            if not content and not block.signature:
                return None
            return Thinking(content, block.signature or None, block.redacted)
        case "call":
            return _make_call(block, content, limit, is_last=is_last)
        case "opaque":
            return None


def _make_call(block: Block, arguments: str, limit: str | None, *, is_last: bool) -> ToolCall | None:
    """Return a call. ``limit``: the answer was cut off because of this limit."""
    call_id, name = join_surrogates(block.call_id), join_surrogates(block.name)
    problem: str | None = "are no JSON object"
    # The arguments of the last call of a truncated answer may not even have begun.
    is_missing = limit is not None and is_last and not arguments.strip()
    decoded = None if is_missing else decode_arguments(arguments)
    if decoded is not None and name:
        problem = find_storage_problem(decoded)
        if problem is None:
            return ToolCall(call_id, name, decoded)
    if limit is not None and (decoded is None or not name):
        return ToolCall(call_id, name, {}, invalid=describe_truncation(limit, arguments)) if name else None
    if not name:
        raise ModelFailure("bad_response", "the model called a tool without a name", retryable=True)
    # The call's result tells the model, which can correct the call.
    beginning = arguments[:MAX_INVALID_CHARACTERS]
    return ToolCall(call_id, name, {}, invalid=f"they {problem}; they begin {beginning!r}")


def decode_arguments(arguments: str) -> dict[str, Any] | None:
    """Return the arguments of a call; None if they are no JSON object. No arguments are an empty object."""
    try:
        decoded = msgspec.json.decode(arguments.strip() or "{}")
    except (msgspec.DecodeError, RecursionError):
        try:
            decoded = clean_json(load_json(arguments, accept_nan=False))
        except ValueError:
            return None
    if decoded is None:
        return {}
    return decoded if isinstance(decoded, dict) else None
