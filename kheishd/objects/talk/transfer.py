"""Export a session as a file, and import one: journal lines with their hash chain."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw, Struct

from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.objects.pages import cursor_after, page_of
from kheishd.objects.storable import require_storable
from kheishd.objects.talk.address import find_definition, find_session
from kheishd.objects.talk.lineage import Segment, lineage
from kheishd.objects.talk.session import scope_of
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import JOURNAL
from protocol import ids
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import ImportInvalid, InputTooLarge
from protocol.events.call import ToolReturned
from protocol.events.indoubt import IndoubtResolved
from protocol.events.run import InputReceived, MessageAppended, ModelAsked, RunEnded, RunStarted, Steered
from protocol.events.session import SessionCreated, SessionImported, TranscriptImported
from protocol.events.task import TaskEnded, TaskStalled
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent, Unknown, decode_envelope, decode_event
from protocol.limits.names import MAX_METADATA_BYTES, MAX_TITLE_BYTES
from protocol.limits.rpc import MAX_NESTING
from protocol.limits.session import MAX_IMPORT_BYTES, MAX_IMPORT_LINE_BYTES
from protocol.objects import session as rows
from protocol.objects.transfer import SessionExport, SessionExportParams, SessionImport, SessionImportResult
from protocol.rpc.wire import find_storage_problem, is_nested_too_deep
from protocol.structs import Value
from protocol.transcript import Message, Text, ToolResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.environment import Snapshot, Transaction

HASH_BYTES = 32
NO_HASH = bytes(HASH_BYTES)


class _Line(Struct):
    """One line of an export: the journal line as stored, and the hash of the chain up to it."""

    hash: str
    event: Raw


_line = msgspec.json.Decoder(_Line)

_Entry = tuple[Envelope, JournalEvent | Unknown]


# Export.


@query(rows.EXPORT)
def export(call: Call, params: SessionExportParams) -> SessionExport:
    """Return a page of a session's journal, as lines of a JSONL file.

    The lines before its fork point come first: its own first line names the hash of the last of them.
    """
    cursor = cursor_after(params.after) or 0
    with call.state.read() as store:
        session = find_session(store, call, params.session_id)
        exported = _scan(store, lineage(store, session), cursor)
        lines, following = page_of(exported, params.limit, lambda line: True)
    return SessionExport(session_id=session.session_id, lines=lines, next=following)


def _scan(store: Snapshot, segments: list[Segment], cursor: int) -> Iterator[tuple[tuple[str, int], str]]:
    for session_id, last_cursor in segments:
        for key, stored in store.scan(JOURNAL, session_id, after=(session_id, cursor)):
            if last_cursor is not None and key[1] > last_cursor:
                break
            digest, event = stored[:HASH_BYTES].hex(), stored[HASH_BYTES:].decode()
            yield (session_id, key[1]), f'{{"hash":"{digest}","event":{event}}}'


# Import.


class _Part(Value, frozen=True):
    """A verified part of an export, the hash of its last line, and the id of a new session."""

    params: SessionImport
    entries: list[_Entry]
    last_hash: str
    new_session_id: str


def _prepare(call: Call, params: SessionImport) -> _Part:
    """Verify a part of an export. Errors: InputTooLarge, InvalidParams, ImportInvalid."""
    size = sum(len(line.encode()) for line in params.lines)
    if size > (MAX_IMPORT_BYTES if len(params.lines) > 1 else MAX_IMPORT_LINE_BYTES):
        raise InputTooLarge(
            f"this part takes {size} bytes; send at most {MAX_IMPORT_BYTES}, or one line, at a time",
            field="$.params.lines",
        )
    if (params.session_id is None) != (params.last_hash is None):
        raise InvalidParams("'session_id' and 'last_hash' go together", field="$.params.session_id")
    entries, last_hash = _verify(params)
    return _Part(params, entries, last_hash, call.state.new_id(ids.SESSION))


def _verify(params: SessionImport) -> tuple[list[_Entry], str]:
    """Decode lines and check their hash chain. Returns the entries and the last hash.

    Errors: InvalidParams, ImportInvalid.
    """
    try:
        previous = bytes.fromhex(params.last_hash) if params.last_hash is not None else NO_HASH
    except ValueError as error:
        raise InvalidParams("'last_hash' is not a hash in hex", field="$.params.last_hash") from error
    entries: list[_Entry] = []
    for number, text in enumerate(params.lines, 1):
        field = f"$.params.lines[{number - 1}]"
        try:
            # A byte order mark of a file is before its first line.
            line = _line.decode(text.removeprefix("\ufeff") if number == 1 else text)
            stored = bytes(line.event)
            envelope, event = decode_envelope(stored), decode_event(stored)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ImportInvalid(f"line {number} is not a line of an export: {error}", field=field) from error
        # A stored value nests no deeper than the limit, and lies a few levels down in its event.
        if is_nested_too_deep(stored, 2 * MAX_NESTING):
            text = f"line {number} is nested deeper than {2 * MAX_NESTING} levels"
            raise ImportInvalid(text, field=field)
        problem = find_storage_problem(event, 2 * MAX_NESTING)
        if problem is not None:
            raise ImportInvalid(f"line {number} cannot be stored: its values {problem}", field=field)
        entries.append((envelope, event))
        if isinstance(event, SessionCreated) and event.fork_of is not None:
            # A fork begins a hash chain of its own, and names the hash at its fork point.
            previous = NO_HASH if event.fork_of.hash == previous.hex() else previous
        previous = hashlib.sha256(previous + stored).digest()
        if previous.hex() != line.hash:
            text = f"the hash chain breaks at line {number}: the export was changed or a line is missing"
            raise ImportInvalid(text, field=field)
    return entries, previous.hex()


@mutation(rows.IMPORT, prepare=_prepare)
def import_(tx: Transaction, call: Call, part: _Part) -> SessionImportResult:
    """Append the messages of a part to a new session, or to the one of the previous part.

    Errors: ImportInvalid, AgentNotFound, AgentForbidden, SenderForbidden, SessionNotFound, InputTooLarge.
    """
    writer = _begin(tx, call, part) if part.params.session_id is None else _resume(tx, call, part)
    messages = _messages_of(part.entries)
    for cursor, message in messages:
        writer.append(TranscriptImported(message=message, source_cursor=cursor))
    writer.append(
        SessionImported(
            source_session_id=part.entries[0][0].session_id or "",
            source_head=part.last_hash,
            source_events=len(part.entries),
        )
    )
    writer.write()
    return SessionImportResult(session_id=writer.session_id, messages=len(messages), last_hash=part.last_hash)


def _begin(tx: Transaction, call: Call, part: _Part) -> SessionWriter:
    """Return the writer of a new session for the first part of an export."""
    field = "$.params.lines[0]"
    created = part.entries[0][1]
    if not isinstance(created, SessionCreated):
        text = "an export begins with the event 'session_created'; send its lines in order"
        raise ImportInvalid(text, field=field)
    if created.fork_of is not None:
        text = "this begins at a fork point; the lines before it are missing"
        raise ImportInvalid(text, field=field)
    definition = find_definition(
        call, part.params.agent or created.agent, "$.params.agent" if part.params.agent else field
    )
    call.caller.require_sender(None)
    require_storable(created.metadata, MAX_METADATA_BYTES, "metadata", field)
    if created.title is not None and len(created.title) > MAX_TITLE_BYTES:
        raise ImportInvalid(f"the title has more than {MAX_TITLE_BYTES} characters", field=field)
    writer = SessionWriter(tx, part.new_session_id, session=None, origin=origin_of(call))
    # Of the properties, only the labels are imported: the others would grant what the exporter had.
    writer.append(
        SessionCreated(
            agent=definition.name,
            title=created.title,
            scope=scope_of(definition),
            metadata=created.metadata,
        )
    )
    return writer


def _resume(tx: Transaction, call: Call, part: _Part) -> SessionWriter:
    """Return the writer of the session that the previous part was imported into."""
    session = find_session(tx, call, part.params.session_id or "")
    newest = tx.entry(session.session_id, tx.head(session.session_id)[0])
    event = decode_event(newest[1]) if newest is not None else None
    if not isinstance(event, SessionImported) or event.source_head != part.params.last_hash:
        raise ImportInvalid(
            "this part does not continue the previous one; start the import again",
            field="$.params.last_hash",
        )
    return SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))


def _messages_of(entries: list[_Entry]) -> list[tuple[int, Message]]:
    """Return the messages of a part with their cursors, in the order in which the model saw them.

    An input belongs where its run started, a steer or a note where the model was called again. Without such
    an event in this part they belong at its end. An input that was cancelled while it waited is left out.
    Each tool result is a message of its own: readers of the transcript join them.
    """
    messages: list[tuple[int, Message]] = []
    inputs: dict[str | None, tuple[int, Message]] = {}
    notes: list[tuple[int, Message]] = []
    for envelope, event in entries:
        match event:
            case InputReceived(items=items):
                inputs[envelope.run_id] = (envelope.cursor, Message("user", list(items)))
            case SessionCreated():
                # Fork point: pending inputs of the parent are not inherited.
                messages += notes
                notes, inputs = [], {}
            case RunStarted() if envelope.run_id in inputs:
                messages.append(inputs.pop(envelope.run_id))
            case Steered(items=items) if envelope.run_id in inputs:
                # The run had not started, so the message belongs to its input.
                cursor, received = inputs[envelope.run_id]
                inputs[envelope.run_id] = (cursor, Message("user", [*received.items, *items]))
            case Steered(items=items):
                notes.append((envelope.cursor, Message("user", list(items))))
            case IndoubtResolved(note=note) | TaskStalled(note=note) | TaskEnded(note=note) if note:
                notes.append((envelope.cursor, Message("user", [Text(note)])))
            case ModelAsked():
                messages += notes
                notes = []
            case RunEnded():
                messages += notes
                notes = []
                inputs.pop(envelope.run_id, None)
            case ToolReturned(call_id=call_id, tool=tool, text=text, is_error=is_error):
                result = ToolResult(call_id, tool, text, is_error)
                messages.append((envelope.cursor, Message("tool", [result])))
            case MessageAppended(message=message) | TranscriptImported(message=message):
                messages.append((envelope.cursor, message))
            case _:
                pass
    return [*messages, *notes, *inputs.values()]


HANDLERS = (export, import_)
