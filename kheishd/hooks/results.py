"""Reading what tools gave before: all of a result of which a model was shown a part, or nothing any more.

Results are found by the ids of their calls in the session's own journal, and in those that it branched off,
up to there: nobody reads what another session was given. A result that was too long to be read at once is a
blob, of which only the chunks that are asked for are looked at.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from kheishd.kernel.hook import Invocation, Outcome, RunContext, SubHook, Tool, ToolError
from kheishd.objects.talk.lineage import Segment, entries_of, lineage
from kheishd.store.blobs import CHUNK_BYTES
from kheishd.store.tables import BLOBS
from protocol.events.call import ToolReturned
from protocol.events.run import MessageAppended
from protocol.events.session import TranscriptImported
from protocol.journal.line import decode_event
from protocol.limits.call import MAX_CALL_ID_BYTES, MAX_TOOL_TEXT_BYTES
from protocol.limits.units import KIB, MIB
from protocol.transcript import ToolResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kheishd.store.environment import Snapshot

NAME: Final = "read_result"

# With what is said around it, a portion stays below what a model is shown of one result.
MAX_PORTION_BYTES: Final = 24 * KIB

# Events looked through before others get their turn, and bytes of them: a millisecond of the loop.
EVENTS_AT_ONCE: Final = 1_024
BYTES_AT_ONCE: Final = MIB

TOOL: Final = Tool(
    name=NAME,
    description=(
        "Read the result of an earlier tool call, whole or in part. Use it where a result was shortened or "
        "left out and says under which id it is kept."
    ),
    schema={
        "type": "object",
        "properties": {
            "call_id": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_CALL_ID_BYTES,
                "description": "The id of the call.",
            },
            "offset": {"type": "integer", "minimum": 0, "description": "From which byte on; 0 if absent."},
            "limit": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_PORTION_BYTES,
                "description": f"How many bytes; {MAX_PORTION_BYTES} if absent.",
            },
        },
        "required": ["call_id"],
        "additionalProperties": False,
    },
    kind="read",
    repeatable=True,
    parallel=True,
    in_plan=True,
    droppable=True,
)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A result as it is kept: its text, or the name and size of the blob that holds all of it."""

    tool: str
    text: str
    blob: str | None = None
    size: int = 0


class Results(SubHook):
    """Offers ``read_result``, and says of each result that is not shown whole how the rest can be read."""

    name = "results"
    tools = (TOOL,)

    def subject(self, use: Invocation) -> str:
        """The call whose result is read."""
        return str(use.arguments.get("call_id", ""))

    async def dispatch(self, use: Invocation) -> Outcome:
        """Read a portion. Errors: ToolError."""
        call_id = str(use.arguments["call_id"])
        kept = await _find(use.context, call_id)
        if kept is None:
            raise ToolError(
                f"no call with the id {call_id} has a result in this session; where a result was shortened "
                "or left out, it says which id it is kept under"
            )
        offset = int(use.arguments.get("offset", 0))
        limit = int(use.arguments.get("limit", MAX_PORTION_BYTES))
        return Outcome(_portion(use.context, call_id, kept, offset, limit))

    async def after_call(self, use: Invocation, outcome: Outcome) -> Outcome:
        """A result that is not shown whole says under which id it is kept, to a run that may read it."""
        if use.tool.name == NAME or not use.context.allows(NAME):
            return outcome
        encoded = outcome.text.encode()
        whole = outcome.full_output
        if whole is None and _is_too_long(encoded, outcome.text):
            whole = encoded
        if whole is None:
            return outcome
        note = f'\n[All of it is kept, {len(whole)} bytes: {NAME} with the call_id "{use.call_id}" reads it.]'
        return replace(outcome, text=outcome.text + note, full_output=whole)


def _is_too_long(encoded: bytes, text: str) -> bool:
    """Whether a result is shortened before a model reads it."""
    return len(encoded) > MAX_TOOL_TEXT_BYTES or len(msgspec.json.encode(text)) > 2 * MAX_TOOL_TEXT_BYTES


async def _find(place: RunContext, call_id: str) -> _Kept | None:
    """The result of a call, the newest if there are several; None if there is none."""
    with place.state.read() as store:
        stretches = lineage(store, place.session)
    needle = b'"call_id":' + msgspec.json.encode(call_id)
    before = 0
    while True:
        with place.state.read() as store:
            kept, before = _look(store, stretches, needle, call_id, before)
        if kept is not None or before == 0:
            return kept
        await trio.lowlevel.checkpoint()


def _look(
    store: Snapshot, stretches: Sequence[Segment], needle: bytes, call_id: str, before: int
) -> tuple[_Kept | None, int]:
    """Look through the next events before a cursor; gives where to go on before, 0 at the end."""
    events = size = cursor = 0
    for _, cursor, line in islice(entries_of(store, stretches, before, reverse=True), EVENTS_AT_ONCE):
        # Most lines are passed over without being read: it takes a hundredth of the time.
        kept = _kept(line, call_id) if needle in line else None
        events += 1
        size += len(line)
        if kept is not None or size >= BYTES_AT_ONCE:
            return kept, cursor
    return None, cursor if events == EVENTS_AT_ONCE else 0


def _kept(line: bytes, call_id: str) -> _Kept | None:
    match decode_event(line):
        case ToolReturned(call_id=found, tool=tool, text=text, blob=blob, bytes=size) if found == call_id:
            return _Kept(tool, text, blob, size or 0)
        case MessageAppended(message=message) | TranscriptImported(message=message):
            for item in message.items:
                if isinstance(item, ToolResult) and item.call_id == call_id:
                    return _Kept(item.name, item.text)
        case _:
            pass
    return None


def _portion(place: RunContext, call_id: str, kept: _Kept, offset: int, limit: int) -> str:
    """Some bytes of a result as text. Errors: ToolError."""
    whole = kept.text.encode() if kept.blob is None else None
    size = len(whole) if whole is not None else kept.size
    if offset and offset >= size:
        raise ToolError(f"the result of {call_id} has {size} bytes; there is nothing at offset {offset}")
    if whole is not None:
        data = whole[offset : offset + limit]
    else:
        data = _chunks(place, kept.blob or "", offset, limit)
    text, begin, end = _decoded(data, offset, size)
    head = f"[Bytes {begin} to {end} of {size} of the result of {kept.tool}, {call_id}.]"
    more = f"\n[There is more: offset {end}.]" if end < size else ""
    return f"{head}\n{text}{more}"


def _chunks(place: RunContext, blob: str, offset: int, limit: int) -> bytes:
    """Some bytes of a blob. Errors: ToolError if it is not there."""
    parts: list[bytes] = []
    with place.state.read() as store:
        for number in range(offset // CHUNK_BYTES, (offset + limit - 1) // CHUNK_BYTES + 1):
            chunk = store.get(BLOBS, blob, number)
            if chunk is None and not parts:
                raise ToolError("all of this result is no longer kept; what was shown of it is all there is")
            parts.append(chunk or b"")
    begin = offset % CHUNK_BYTES
    return b"".join(parts)[begin : begin + limit]


def _decoded(data: bytes, offset: int, size: int) -> tuple[str, int, int]:
    """Bytes as text, from where and up to where: no character is cut in two."""
    begin = 0
    while offset and begin < min(3, len(data)) and data[begin] & 0xC0 == 0x80:
        begin += 1
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text = decoder.decode(data[begin:], final=offset + len(data) >= size)
    left_over = len(decoder.getstate()[0])
    return text, offset + begin, offset + len(data) - left_over
