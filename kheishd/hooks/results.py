"""The tool ``read_result``: reads earlier tool results of which the model sees only a part, or nothing.

Results are found by the ids of their calls in the session's own journal, and in those of the sessions it was
forked from, up to the fork: no session can read another one's results. A result that was too long for the
model is a blob; only the requested chunks of it are read.
"""

from __future__ import annotations

import codecs
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import trio
from msgspec import Meta
from msgspec.structs import replace

from kheishd.kernel.hook import Arguments, Invocation, Outcome, RunContext, SubHook, ToolError, tool
from kheishd.objects.talk.lineage import Segment, entries_of, lineage
from kheishd.store.blobs import CHUNK_BYTES
from kheishd.store.tables import BLOBS
from protocol.events.call import ToolReturned
from protocol.events.run import MessageAppended
from protocol.events.session import TranscriptImported
from protocol.journal.line import decode_event
from protocol.limits.call import MAX_CALL_ID_BYTES, MAX_TOOL_TEXT_BYTES
from protocol.limits.units import KIB, MIB
from protocol.structs import Value
from protocol.transcript import ToolResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kheishd.store.environment import Snapshot

# With its header and footer, a portion stays below the limit of one result.
MAX_PORTION_BYTES: Final = 24 * KIB

# Events scanned before other tasks run, and bytes of them: a millisecond of the loop.
EVENTS_AT_ONCE: Final = 1_024
BYTES_AT_ONCE: Final = MIB


class ReadResult(Arguments, frozen=True):
    """Arguments of ``read_result``."""

    call_id: Annotated[
        str, Meta(min_length=1, max_length=MAX_CALL_ID_BYTES, description="The id of the call.")
    ]
    offset: Annotated[int, Meta(ge=0, description="The first byte to return.")] = 0
    limit: Annotated[
        int, Meta(ge=1, le=MAX_PORTION_BYTES, description="Maximum number of bytes to return.")
    ] = MAX_PORTION_BYTES


class _StoredResult(Value, frozen=True):
    """A stored result: its text, or the name and size of the blob with the full output."""

    tool: str
    text: str
    blob: str | None = None
    size: int = 0


class Results(SubHook):
    """The tool ``read_result``, and the note in each shortened result that tells how to read the rest."""

    name = "results"

    def call_subject(self, call: Invocation, arguments: ReadResult) -> str:
        """Return the id of the call whose result is read."""
        return arguments.call_id

    @tool(
        "read_result",
        description="Read the result of an earlier tool call, or a part of it. Use it if a result was "
        "shortened or left out and names the id under which it is stored.",
        kind="read",
        repeatable=True,
        parallel=True,
        in_plan=True,
        droppable=True,
        subject=call_subject,
    )
    async def read_result(self, call: Invocation, arguments: ReadResult) -> Outcome:
        """Read a portion of a result. Errors: ToolError."""
        call_id = arguments.call_id
        result = await _find_result(call.context, call_id)
        if result is None:
            raise ToolError(
                f"no call with the id {call_id} has a result in this session; a result that was shortened or "
                "left out names the id under which it is stored"
            )
        return Outcome(_portion(call.context, result, arguments))

    async def after_call(self, call: Invocation, outcome: Outcome) -> Outcome:
        """Note in a shortened result the id under which it is stored, if the run may read it."""
        name = self.read_result.name
        if call.tool.name == name or not call.context.allows(name):
            return outcome
        full = outcome.full_output
        if full is None:
            encoded, as_json = outcome.text.encode(), msgspec.json.encode(outcome.text)
            if len(encoded) > MAX_TOOL_TEXT_BYTES or len(as_json) > 2 * MAX_TOOL_TEXT_BYTES:
                # The worker will shorten it.
                full = encoded
        if full is None:
            return outcome
        note = f'\n[All {len(full)} bytes are stored: {name} with the call_id "{call.call_id}" reads them.]'
        return replace(outcome, text=outcome.text + note, full_output=full)


async def _find_result(context: RunContext, call_id: str) -> _StoredResult | None:
    """Return the newest result of a call; None if it has none."""
    with context.state.read() as store:
        segments = lineage(store, context.session)
    needle = b'"call_id":' + msgspec.json.encode(call_id)
    cursor = 0
    while True:
        with context.state.read() as store:
            result, cursor = _scan(store, segments, needle, call_id, cursor)
        if result is not None or cursor == 0:
            return result
        await trio.lowlevel.checkpoint()


def _scan(
    store: Snapshot, segments: Sequence[Segment], needle: bytes, call_id: str, below: int
) -> tuple[_StoredResult | None, int]:
    """Scan the next events below a cursor; returns the cursor to continue below, 0 at the end."""
    events = size = cursor = 0
    for _, cursor, line in islice(entries_of(store, segments, below, reverse=True), EVENTS_AT_ONCE):
        # Most lines are not decoded: that takes a hundredth of the time.
        result = _result_in(line, call_id) if needle in line else None
        events += 1
        size += len(line)
        if result is not None or size >= BYTES_AT_ONCE:
            return result, cursor
    return None, cursor if events == EVENTS_AT_ONCE else 0


def _result_in(line: bytes, call_id: str) -> _StoredResult | None:
    match decode_event(line):
        case ToolReturned(call_id=returned, tool=name, text=text, blob=blob, bytes=size) if (
            returned == call_id
        ):
            return _StoredResult(name, text, blob, size or 0)
        case MessageAppended(message=message) | TranscriptImported(message=message):
            for item in message.items:
                if isinstance(item, ToolResult) and item.call_id == call_id:
                    return _StoredResult(item.name, item.text)
        case _:
            pass
    return None


def _portion(context: RunContext, result: _StoredResult, arguments: ReadResult) -> str:
    """Return some bytes of a result as text. Errors: ToolError."""
    call_id, offset, limit = arguments.call_id, arguments.offset, arguments.limit
    stored = result.text.encode() if result.blob is None else None
    size = len(stored) if stored is not None else result.size
    if offset and offset >= size:
        raise ToolError(f"the result of {call_id} has {size} bytes; there is nothing at offset {offset}")
    if stored is not None:
        data = stored[offset : offset + limit]
    else:
        data = _read_blob(context, result.blob or "", offset, limit)
    text, begin, end = _decode(data, offset, size)
    header = f"[Bytes {begin} to {end} of {size} of the result of {result.tool}, {call_id}.]"
    footer = f"\n[There is more: offset {end}.]" if end < size else ""
    return f"{header}\n{text}{footer}"


def _read_blob(context: RunContext, blob: str, offset: int, limit: int) -> bytes:
    """Return some bytes of a blob. Errors: ToolError if it does not exist."""
    chunks: list[bytes] = []
    with context.state.read() as store:
        for index in range(offset // CHUNK_BYTES, (offset + limit - 1) // CHUNK_BYTES + 1):
            chunk = store.get(BLOBS, blob, index)
            if chunk is None and not chunks:
                raise ToolError("the full result is no longer stored; only the shortened one remains")
            chunks.append(chunk or b"")
    begin = offset % CHUNK_BYTES
    return b"".join(chunks)[begin : begin + limit]


def _decode(data: bytes, offset: int, size: int) -> tuple[str, int, int]:
    """Return bytes as text, with the offsets of its begin and end: no character is cut."""
    begin = 0
    while offset and begin < min(3, len(data)) and data[begin] & 0xC0 == 0x80:
        begin += 1
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text = decoder.decode(data[begin:], final=offset + len(data) >= size)
    undecoded = len(decoder.getstate()[0])
    return text, offset + begin, offset + len(data) - undecoded
