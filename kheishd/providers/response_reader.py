"""The reader of answers of the Responses API: items in pieces, then whole, then all of them at the end.

Source: https://developers.openai.com/api/reference/resources/responses/streaming-events, and the extensions
of xAI, OpenRouter, vLLM, llama.cpp and LiteLLM. Every part of an answer may be missing or unknown without an
error. ``response.output_item.done`` has the final form of an item; deltas only show it earlier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct

from kheishd.providers.answer_reader import DraftReader
from kheishd.providers.draft import Block
from kheishd.providers.driver import encode, token_count
from kheishd.providers.error_report import is_error
from kheishd.providers.lenient import LenientDecoder, SideInformation, convert, load_json
from kheishd.providers.output_slots import OutputSlot, OutputSlots
from kheishd.providers.response_items import OUTPUT, pack_output
from protocol.transcript import Usage

if TYPE_CHECKING:
    from kheishd.kernel.runtime import ModelAnswer
    from kheishd.providers.failures import FailureFactory


class ResponseInputDetails(SideInformation):
    """Details of the request's tokens."""

    cached_tokens: float | None = None
    cache_write_tokens: float | None = None


class ResponseOutputDetails(SideInformation):
    """Details of the answer's tokens."""

    reasoning_tokens: float | None = None


class ResponseUsage(SideInformation):
    """The usage object; both counts include the tokens of their details."""

    input_tokens: float | None = None
    output_tokens: float | None = None
    input_tokens_details: ResponseInputDetails | None = None
    output_tokens_details: ResponseOutputDetails | None = None

    def to_usage(self) -> Usage:
        """Return the counts as the transcript has them."""
        sent = self.input_tokens_details or ResponseInputDetails()
        received = self.output_tokens_details or ResponseOutputDetails()
        return Usage(
            input_tokens=token_count(self.input_tokens),
            output_tokens=token_count(self.output_tokens),
            cached_input_tokens=token_count(sent.cached_tokens),
            cache_write_tokens=token_count(sent.cache_write_tokens),
            reasoning_tokens=token_count(received.reasoning_tokens),
        )


class IncompleteDetails(SideInformation):
    """The reason of an incomplete answer."""

    reason: str | None = None


class ResponseObject(Struct):
    """A ``response``: in events that begin and end an answer, or as the whole answer."""

    id: str | None = None
    status: str | None = None
    model: str | None = None
    output: list[Any] | None = None
    usage: ResponseUsage | None = None
    incomplete_details: IncompleteDetails | None = None
    error: Any = None


class ResponseEvent(Struct):
    """Any event; each type fills some of the fields. An unusable index counts as missing."""

    type: str = ""
    delta: str | dict[str, Any] | None = None
    output_index: float | None = None
    content_index: float | None = None
    summary_index: float | None = None
    item_id: str | None = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    item: Any = None
    response: ResponseObject | None = None
    error: Any = None


class OutputItem(SideInformation):
    """The known fields of an output item."""

    type: str = ""
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


ENCRYPTED: Final = "encrypted_content"
"""The field of a reasoning item that holds the reasoning for the server."""

BlockKind = Literal["text", "thinking", "call"]

_BLOCKS: dict[str, BlockKind] = {"message": "text", "reasoning": "thinking", "function_call": "call"}
"""The types of items that are part of the transcript, with the kind of their block."""

_DELTAS = {
    "response.output_text.delta": ("message", "output_text"),
    "response.refusal.delta": ("message", "refusal"),
    "response.reasoning_summary_text.delta": ("reasoning", "summary_text"),
    "response.reasoning_text.delta": ("reasoning", "reasoning_text"),
    "response.reasoning.delta": ("reasoning", "reasoning_text"),
    "response.function_call_arguments.delta": ("function_call", "arguments"),
}
"""The events with a piece of an item: the types of the item and of its part."""

_WHOLE_PARTS = {name.removesuffix("delta") + "done": part for name, part in _DELTAS.items()}

_KNOWN_EVENTS = {
    *_DELTAS,
    *_WHOLE_PARTS,
    *(f"response.{name}" for name in ("created", "completed", "incomplete", "failed", "cancelled")),
    *(f"response.output_item.{name}" for name in ("added", "done")),
}

# The items of one answer, most of which are calls of hosted tools: a hundred is a lot.
MAX_ITEMS = 1_000

# The events of whole items that are kept until the end: announced, whole, and in the output.
MAX_ITEM_BYTES = 4 * 1024 * 1024

_event = LenientDecoder(ResponseEvent)
_response = LenientDecoder(ResponseObject)


class ResponseReader(DraftReader):
    """Reader of one answer: its items, each in pieces and then whole, and the whole response at the end."""

    def __init__(self, failures: FailureFactory, origin: str = "") -> None:
        super().__init__(failures, origin)
        self._output = OutputSlots()
        self._has_begun = False
        self._response_id: str | None = None
        self._refused = False
        self._item_bytes = 0

    def event(self, data: bytes) -> None:
        """Process the data of one event. Errors: ModelFailure."""
        if data == b"[DONE]":
            # Some servers send it instead of the end of the response.
            if all(slot.item is not None for slot in self._output.slots):
                self._stop = self._stop or "end"
            self.done = True
            return
        try:
            event: ResponseEvent = _event.decode(data)
        except ValueError:
            event = self._decode_other(data)
        if event.type == "error" or (event.error is not None and is_error(event.error)):
            self.fail_event(data)
        part = _DELTAS.get(event.type)
        if part is not None:
            self._delta(event, part)
        else:
            self._other_event(event, data)
        if self._draft.full:
            self.done = True

    def whole(self, body: bytes) -> None:
        """Process an answer that came as one JSON object. Errors: ModelFailure."""
        try:
            response: ResponseObject = _response.decode(body)
        except ValueError:
            raise self._malformed("something that is no response", body) from None
        if response.output is None:
            self._check_unknown(body)
        self._end_response(response, response.status or "completed", body)

    def end(self) -> ModelAnswer | None:
        """Return the answer; None if it is incomplete. Errors: ModelFailure."""
        if self._refused and self._stop is not None:
            self._stop = "refusal"
        if not self.failed and self._stop is not None and self._origin:
            self._draft.complete_characters()
            output = self._pack_output()
            self._draft.attached.fields = {OUTPUT: output} if output else {}
        return super().end()

    def _decode_other(self, data: bytes) -> ResponseEvent:
        """Return an event whose fields have other types, which is right for unknown events only."""
        if not data.strip():
            return ResponseEvent("keepalive")
        try:
            decoded = load_json(data)
        except ValueError:
            decoded = None
        kind = decoded.get("type") if isinstance(decoded, dict) else None
        if not isinstance(kind, str) or kind in _KNOWN_EVENTS:
            raise self._malformed("something that is no event of the Responses API", data)
        return ResponseEvent(kind)

    def _other_event(self, event: ResponseEvent, data: bytes) -> None:
        match event.type:
            case "response.output_item.added":
                self._item_bytes += len(data)
                self._announce(event)
            case "response.output_item.done":
                self._item_bytes += len(data)
                if isinstance(event.item, dict):
                    self._finish(event.item, event.output_index)
            case "response.created":
                self._begin(event.response)
            case "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled":
                status = event.type.removeprefix("response.")
                self._end_response(event.response or ResponseObject(), status, data)
            case _ if event.type in _WHOLE_PARTS:
                self._whole_part(event, _WHOLE_PARTS[event.type])
            case _:
                if not event.type.startswith(("response.", "keepalive")):
                    self._check_unknown(data)

    def _begin(self, response: ResponseObject | None) -> None:
        """Begin the response; drop the first half of an answer that its server began again."""
        response_id = response.id if response is not None else None
        if self._has_begun and (response_id is None or response_id != self._response_id):
            self._restart_draft()
            self._output, self._refused = OutputSlots(), False
        self._understood = self._has_begun = True
        self._response_id = response_id

    # Items.

    def _open(
        self, kind: str, item_id: str | None, index: float | None, place: int | None = None
    ) -> OutputSlot:
        self._understood = True
        if len(self._output.slots) >= MAX_ITEMS:
            raise self._failures.broke(f"an answer of more than {MAX_ITEMS:,} items", "bad_response")
        slot = OutputSlot(kind)
        if kind in _BLOCKS:
            later = self._output.slots[place:] if place is not None else ()
            following = next((other.block for other in later if other.block is not None), None)
            slot.block = self._draft.open(Block(_BLOCKS[kind]), following)
            if kind == "function_call":
                slot.block.call_id = f"call_{len(self._output.slots)}"
        self._output.add(slot, item_id, index, place)
        return slot

    def _delta(self, event: ResponseEvent, kinds: tuple[str, str]) -> None:
        kind, part_kind = kinds
        slot = self._output.find(kind, event.item_id, event.output_index)
        if slot is None:
            slot = self._open(kind, event.item_id, event.output_index)
        piece = event.delta if isinstance(event.delta, str) else _find_text(event.delta)
        if slot.block is None or slot.item is not None or not piece:
            return
        part = part_kind, event.content_index if event.summary_index is None else event.summary_index
        if slot.part != part:
            slot.part = part
            if slot.block.parts:
                piece = _separator(part_kind) + piece
            self._refused = self._refused or part_kind == "refusal"
        self._draft.extend(slot.block, piece)

    def _whole_part(self, event: ResponseEvent, kinds: tuple[str, str]) -> None:
        """Process a part that is complete: servers that send no pieces of it may send it whole."""
        kind, part_kind = kinds
        slot = self._output.find(kind, event.item_id, event.output_index)
        present = slot.part if slot is not None else None
        number = event.content_index if event.summary_index is None else event.summary_index
        is_other = present is None or (None not in (number, present[1]) and present != (part_kind, number))
        content = next((text for text in (event.text, event.refusal, event.arguments) if text), None)
        if is_other and isinstance(content, str):
            event.delta = content
            self._delta(event, kinds)

    def _announce(self, event: ResponseEvent) -> None:
        if not isinstance(event.item, dict):
            return
        known = _read_item(event.item)
        slot = self._output.find_named(known.type, known.id, known.call_id)
        if slot is None or (slot.item is not None and slot.item_id != known.id):
            slot = self._output.find_unannounced(known.type, known.id, event.output_index)
        if slot is None:
            slot = self._open(known.type, known.id, event.output_index)
        self._output.name(slot, known.id, event.output_index)
        slot.begun = self._keep(event.item)
        _name_call(slot, known)

    def _finish(self, item: dict[str, Any], index: float | None) -> None:
        known = _read_item(item)
        slot = self._output.find_named(known.type, known.id, known.call_id)
        if slot is None:
            slot = self._output.find(known.type, known.id, index)
            if slot is None or (slot.call_id and known.call_id and slot.item_id != known.id):
                # Two calls with an index in common.
                slot = self._open(known.type, known.id, index)
        # It is known if it comes again.
        self._output.name(slot, known.id, None)
        self._complete(slot, item)

    def _complete(self, slot: OutputSlot, item: dict[str, Any]) -> None:
        """Give an item its final form. That of a text or call without any content is not final."""
        is_blank = slot.kind != "reasoning" and slot.block is not None and not slot.block.parts
        if slot.item is None or is_blank:
            slot.item = self._keep(item)
            self._fill(slot, item)
        elif not slot.item.get(ENCRYPTED) and item.get(ENCRYPTED):
            # LiteLLM has the encrypted reasoning only in the complete output.
            slot.item = {**slot.item, ENCRYPTED: item[ENCRYPTED]}

    def _keep(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return an item to store; an empty one if the items are too large to be sent back."""
        return item if self._item_bytes <= MAX_ITEM_BYTES else {}

    def _fill(self, slot: OutputSlot, item: dict[str, Any]) -> None:
        """Add to the transcript what the pieces of an item lacked."""
        known = _read_item(item)
        _name_call(slot, known)
        block = slot.block
        if block is None:
            return
        if slot.kind == "function_call":
            content = known.arguments or ""
            content = content if isinstance(content, str) else encode(content).decode()
        else:
            content = self._join_parts(item)
        present = block.content
        if not content or content == present:
            return
        if content.startswith(present) and not block.half:
            self._draft.extend(block, content[len(present) :])
        else:
            self._draft.rewrite(block, content)

    def _join_parts(self, item: dict[str, Any]) -> str:
        """Return the text of an item's parts as their pieces would have been joined."""
        joined = ""
        for name in ("summary", "content"):
            parts = item.get(name)
            for part in parts if isinstance(parts, list) else ():
                kind = str(part.get("type")) if isinstance(part, dict) else ""
                text = _find_text(part)
                self._refused = self._refused or (kind == "refusal" and bool(text))
                joined += (_separator(kind) if joined else "") + text if text else ""
        return joined

    # The end.

    def _end_response(self, response: ResponseObject, status: str, data: bytes) -> None:
        if status in ("failed", "cancelled") or (response.error is not None and is_error(response.error)):
            if is_error(response.error):
                self.fail(response.error)
            self.fail_event(data)
        self._model = response.model or self._model
        if response.usage is not None:
            self._usage = response.usage.to_usage()
        self._item_bytes += len(data)
        self._take_output([item for item in response.output or () if isinstance(item, dict)])
        reason = response.incomplete_details.reason if response.incomplete_details is not None else None
        if reason == "content_filter":
            self._stop = "refusal"
        elif reason or status == "incomplete":
            self._stop = "length"
        elif status == "completed":
            self._stop = "end"
        self.done = True

    def _take_output(self, output: list[dict[str, Any]]) -> None:
        """Take the items that did not come before from the complete output."""
        known = [_read_item(item) for item in output[: MAX_ITEMS + 1]]
        slots = self._output.match([(item.type, item.id, item.call_id) for item in known])
        place = 0
        for item, known_item, slot in zip(output, known, slots, strict=False):
            if slot is None:
                if self._output.find_named(known_item.type, known_item.id, known_item.call_id) is not None:
                    # The output repeats an item.
                    continue
                slot = self._open(known_item.type, known_item.id, None, place)
            place = self._output.slots.index(slot) + 1
            self._complete(slot, item)
        for slot in self._output.slots:
            if slot.begun is not None and slot.block is not None and not slot.block.parts:
                # Its end did not come, nor any piece.
                self._fill(slot, slot.begun)

    def _pack_output(self) -> list[dict[str, Any]]:
        """Return the stored form of the output; empty if an item is not whole, or not in the transcript."""
        output = [slot.item for slot in self._output.slots if slot.item is not None]
        has_calls = any(slot.kind == "function_call" for slot in self._output.slots)
        is_filtered = self._stop == "refusal" and (has_calls or not self._refused)
        is_too_large = self._draft.full or self._item_bytes > MAX_ITEM_BYTES
        if len(output) < len(self._output.slots) or is_filtered or is_too_large:
            return []
        return pack_output(output, self._draft.join_content("text"), self._draft.join_content("thinking"))


def _read_item(item: dict[str, Any]) -> OutputItem:
    known: OutputItem | None = convert(item, OutputItem | None)
    return known or OutputItem()


def _name_call(slot: OutputSlot, known: OutputItem) -> None:
    """Set the id and the name of a call."""
    if slot.block is None or slot.kind != "function_call":
        return
    call_id = known.call_id or known.id
    if call_id:
        slot.call_id = slot.block.call_id = slot.block.provider_id = call_id
    slot.block.name = known.name or slot.block.name


def _separator(part_kind: str) -> str:
    """Return the blank line before a further part; the parts of a text are one text."""
    return "\n\n" if part_kind in ("summary_text", "reasoning_text", "refusal") else ""


def _find_text(part: Any) -> str:
    """Return the text of a part; empty if it has none."""
    if not isinstance(part, dict):
        return ""
    return next((part[name] for name in ("text", "refusal") if isinstance(part.get(name), str)), "")
