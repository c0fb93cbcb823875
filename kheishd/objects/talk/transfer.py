"""Taking a session out as a file and reading it back: journal lines with their hash chain."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw, Struct

from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.objects.pages import cursor_after, page_of
from kheishd.objects.talk.lineage import Stretch, lineage
from kheishd.objects.talk.send import find_definition, require_storable
from kheishd.objects.talk.session import find_session, scope_of
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
from protocol.journal.line import JournalEvent, Unknown, decode_envelope, decode_event
from protocol.limits.names import MAX_METADATA_BYTES, MAX_TITLE_BYTES
from protocol.limits.rpc import MAX_NESTING
from protocol.limits.session import MAX_IMPORT_BYTES, MAX_IMPORT_LINE_BYTES
from protocol.objects import session as rows
from protocol.objects.transfer import SessionExport, SessionExportParams, SessionImport, SessionImportResult
from protocol.rpc.wire import is_nested_too_deep, storage_problem_of
from protocol.transcript import Message, Text, ToolResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.environment import Snapshot, Transaction
    from protocol.journal.envelope import Envelope

HASH_BYTES = 32
NO_HASH = bytes(HASH_BYTES)


class _Line(Struct):
    """One line of an export: the journal line as stored, and the chain's hash at it."""

    hash: str
    event: Raw


_line = msgspec.json.Decoder(_Line)


@query(rows.EXPORT)
def export(call: Call, params: SessionExportParams) -> SessionExport:
    """One page of a session's journal, as lines of a JSONL file.

    Before it come the lines that it branched off after: its first line names the hash of the last of them.
    """
    cursor = cursor_after(params.after) or 0
    with call.state.read() as store:
        session = find_session(store, call, params.session_id)
        found = _stored(store, lineage(store, session), cursor)
        lines, following = page_of(found, params.limit, lambda line: True)
    return SessionExport(session_id=session.session_id, lines=lines, next=following)


def _stored(store: Snapshot, stretches: list[Stretch], after: int) -> Iterator[tuple[tuple[str, int], str]]:
    for session_id, upto in stretches:
        for key, stored in store.scan(JOURNAL, session_id, after=(session_id, after)):
            if upto is not None and key[1] > upto:
                break
            yield (session_id, key[1]), _exported(stored)


def _exported(stored: bytes) -> str:
    return f'{{"hash":"{stored[:HASH_BYTES].hex()}","event":{stored[HASH_BYTES:].decode()}}}'


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of an export, verified: what it says, and where its chain stands at the end."""

    params: SessionImport
    events: list[tuple[Envelope, JournalEvent | Unknown]]
    last_hash: str
    new_session_id: str


def _prepare(call: Call, params: SessionImport) -> _Part:
    size = sum(len(line.encode()) for line in params.lines)
    if size > (MAX_IMPORT_BYTES if len(params.lines) > 1 else MAX_IMPORT_LINE_BYTES):
        raise InputTooLarge(
            f"this part takes {size} bytes; send at most {MAX_IMPORT_BYTES}, or one line, at a time",
            field="$.params.lines",
        )
    if (params.session_id is None) != (params.last_hash is None):
        raise InvalidParams("'session_id' and 'last_hash' go together", field="$.params.session_id")
    events, last_hash = _verified(params)
    return _Part(params, events, last_hash, call.state.new_id(ids.SESSION))


def _verified(params: SessionImport) -> tuple[list[tuple[Envelope, JournalEvent | Unknown]], str]:
    """The events of some lines, their hashes checked against each other."""
    previous = _hash(params.last_hash)
    events = []
    for number, text in enumerate(params.lines, 1):
        try:
            line = _line.decode(text)
            envelope, event = decode_envelope(line.event), decode_event(bytes(line.event))
        except (msgspec.DecodeError, RecursionError) as error:
            raise ImportInvalid(f"line {number} is not a line of an export: {error}") from error
        # What was taken nested no deeper than the limit, and stands a few levels down in its event.
        if is_nested_too_deep(bytes(line.event), 2 * MAX_NESTING):
            raise ImportInvalid(f"line {number} is nested deeper than {2 * MAX_NESTING} levels")
        problem = storage_problem_of(event, 2 * MAX_NESTING)
        if problem is not None:
            raise ImportInvalid(f"line {number} cannot be kept: its values {problem}")
        events.append((envelope, event))
        if isinstance(event, SessionCreated) and event.fork_of is not None:
            # A session that branched off begins a chain of its own, and says which one it goes on from.
            previous = NO_HASH if event.fork_of.hash == previous.hex() else previous
        previous = hashlib.sha256(previous + bytes(line.event)).digest()
        if previous.hex() != line.hash:
            raise ImportInvalid(
                f"the hash chain breaks at line {number}: the export was changed or a line is missing",
                field=f"$.params.lines[{number - 1}]",
            )
    return events, previous.hex()


def _hash(text: str | None) -> bytes:
    try:
        return bytes.fromhex(text) if text is not None else NO_HASH
    except ValueError as error:
        raise InvalidParams("'last_hash' is not a hash in hex", field="$.params.last_hash") from error


@mutation(rows.IMPORT, prepare=_prepare)
def import_(tx: Transaction, call: Call, part: _Part) -> SessionImportResult:
    """Read a part of an export into a session that it makes, or that the part before made."""
    fold = _begun(tx, call, part) if part.params.session_id is None else _continued(tx, call, part)
    messages = _messages_of(part.events)
    for cursor, message in messages:
        fold.append(TranscriptImported(message=message, source_cursor=cursor))
    fold.append(
        SessionImported(
            source_session_id=part.events[0][0].session_id or "",
            source_head=part.last_hash,
            source_events=len(part.events),
        )
    )
    fold.write()
    return SessionImportResult(session_id=fold.session_id, messages=len(messages), last_hash=part.last_hash)


def _messages_of(events: list[tuple[Envelope, JournalEvent | Unknown]]) -> list[tuple[int, Message]]:
    """The messages of a part and their cursors, in the order in which the model was shown them.

    An input stands where its run started, what was said to a run where its model was asked again. Where that
    is in no event of this part they stand at its end; an input that was cancelled in its queue was never
    said, and is not said now. Each result stands for itself: reading the transcript puts them together.
    """
    messages: list[tuple[int, Message]] = []
    waiting: dict[str | None, tuple[int, Message]] = {}
    said: list[tuple[int, Message]] = []
    for envelope, event in events:
        match event:
            case InputReceived(items=items):
                waiting[envelope.run_id] = (envelope.cursor, Message("user", list(items)))
            case SessionCreated():
                # Here a session branched off: what the other one was still to do is that one's affair.
                messages += said
                said, waiting = [], {}
            case RunStarted() if envelope.run_id in waiting:
                messages.append(waiting.pop(envelope.run_id))
            case Steered(items=items) if envelope.run_id in waiting:
                # It was said to a run that had not started, so it belongs to its input.
                cursor, asked = waiting[envelope.run_id]
                waiting[envelope.run_id] = (cursor, Message("user", [*asked.items, *items]))
            case Steered(items=items):
                said.append((envelope.cursor, Message("user", list(items))))
            case IndoubtResolved(note=note) | TaskStalled(note=note) | TaskEnded(note=note) if note:
                said.append((envelope.cursor, Message("user", [Text(note)])))
            case ModelAsked():
                messages += said
                said = []
            case RunEnded():
                messages += said
                said = []
                waiting.pop(envelope.run_id, None)
            case ToolReturned(call_id=call_id, tool=tool, text=text, is_error=is_error):
                result = ToolResult(call_id, tool, text, is_error)
                messages.append((envelope.cursor, Message("tool", [result])))
            case MessageAppended(message=message) | TranscriptImported(message=message):
                messages.append((envelope.cursor, message))
            case _:
                pass
    return [*messages, *said, *waiting.values()]


def _begun(tx: Transaction, call: Call, part: _Part) -> SessionWriter:
    created = part.events[0][1]
    if not isinstance(created, SessionCreated):
        raise ImportInvalid("an export begins with the event 'session_created'; send its lines in order")
    if created.fork_of is not None:
        raise ImportInvalid("this begins where a session branched off; the lines before that are missing")
    definition = find_definition(call, part.params.agent or created.agent)
    call.caller.need_sender(None)
    require_storable(created.metadata, MAX_METADATA_BYTES, "metadata", "$.params.lines[0]")
    if created.title is not None and len(created.title) > MAX_TITLE_BYTES:
        raise ImportInvalid(
            f"the title has more than {MAX_TITLE_BYTES} characters", field="$.params.lines[0]"
        )
    fold = SessionWriter(tx, part.new_session_id, session=None, origin=origin_of(call))
    fold.append(
        SessionCreated(
            agent=definition.name,
            title=created.title,
            scope=scope_of(definition),
            metadata=created.metadata,
        )
    )
    return fold


def _continued(tx: Transaction, call: Call, part: _Part) -> SessionWriter:
    session = find_session(tx, call, part.params.session_id or "")
    found = tx.entry(session.session_id, tx.head(session.session_id)[0])
    last = decode_event(found[1]) if found is not None else None
    if not isinstance(last, SessionImported) or last.source_head != part.params.last_hash:
        raise ImportInvalid(
            "this does not go on where the part before ended; start the import again",
            field="$.params.last_hash",
        )
    return SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))


HANDLERS = (export, import_)
