"""Export a session as a file, and import one: journal lines with their hash chain."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kheishd.core.context.transcript import MISSING_RESULT, join_messages, message_of
from kheishd.core.trust import RANKS, join_origins
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.objects.pages import not_a_token, page_of
from kheishd.objects.storable import require_storable
from kheishd.objects.talk.address import find_definition, find_session
from kheishd.objects.talk.bounds import scope_of
from kheishd.objects.talk.lineage import Segment, entries_of, lineage
from kheishd.objects.talk.persona import bind_at_creation
from kheishd.records.writer import SessionWriter
from kheishd.store.journal import HASH_BYTES
from kheishd.store.tables import JOURNAL, SESSIONS
from protocol import ids
from protocol.errors.refusal import Refusal
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import ImportInvalid, InputTooLarge
from protocol.events.call import ToolReturned
from protocol.events.indoubt import IndoubtResolved
from protocol.events.run import InputReceived, MessageAppended, ModelAsked, RunEnded, RunStarted, Steered
from protocol.events.session import PendingMessage, SessionCreated, SessionImported, TranscriptImported
from protocol.events.task import TaskAdopted, TaskEnded, TaskStalled
from protocol.export import ExportEnd, ExportProblem, ExportReader, encode_end
from protocol.journal.line import decode_event
from protocol.limits.names import MAX_METADATA_BYTES, MAX_TITLE_BYTES
from protocol.limits.rpc import MAX_NESTING
from protocol.limits.session import MAX_IMPORT_BYTES, MAX_IMPORT_LINE_BYTES, MAX_IMPORTED_BYTES
from protocol.objects import session as rows
from protocol.objects.transfer import (
    ExportKey,
    SessionExport,
    SessionExportParams,
    SessionImport,
    SessionImportResult,
)
from protocol.rpc.wire import find_storage_problem, is_nested_too_deep
from protocol.structs import Value
from protocol.transcript import Message, Text, ToolResult, TranscriptChecker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.export import Entry
    from protocol.objects.session import Session
    from protocol.rpc.method import NoParams

_TOKEN = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,12}))?")


# Export.


@query(rows.EXPORT)
def export(call: Call, params: SessionExportParams) -> SessionExport:
    """Return a page of a session's journal, as lines of a JSONL file; the last page has the end.

    The lines before its fork point come first: its own first line names the hash of the last of them.
    """
    cursor, before = _read_token(params.after)
    with call.state.read() as store:
        session = find_session(store, call, params.session_id)
        segments = lineage(store, session)
        if before is None:
            before = sum(passed <= cursor for _, passed, _ in entries_of(store, segments))
        lines, following = page_of(_scan(store, segments, cursor), params.limit, lambda line: True)
        count = before + len(lines)
        if following is None:
            if params.sign:
                # A client may forge the number in a token, but not what is signed.
                count = sum(1 for _ in entries_of(store, segments))
            end = _make_end(store, segments, count, call.state)
            lines.append(encode_end(call.control.sign_export(end) if params.sign else end))
    following = None if following is None else f"{following}-{count}"
    return SessionExport(session_id=session.session_id, lines=lines, next=following)


def _read_token(token: str | None) -> tuple[int, int | None]:
    """Return the cursor of a page token, and the number of lines before it if the token has it.

    A client may forge the number: then the end of its export contradicts the lines, and nothing else.
    Errors: InvalidParams.
    """
    match = _TOKEN.fullmatch(token or "0-0")
    if match is None:
        raise not_a_token()
    return int(match[1]), None if match[2] is None else int(match[2])


def _scan(store: Snapshot, segments: list[Segment], cursor: int) -> Iterator[tuple[tuple[str, int], str]]:
    for session_id, last_cursor in segments:
        for key, stored in store.scan(JOURNAL, session_id, after=(session_id, cursor)):
            if last_cursor is not None and key[1] > last_cursor:
                break
            try:
                digest, event = stored[:HASH_BYTES].hex(), stored[HASH_BYTES:].decode()
            except UnicodeDecodeError as error:
                raise store.explain(error, f"the event at cursor {key[1]}") from None
            yield (session_id, key[1]), f'{{"hash":"{digest}","event":{event}}}'


def _make_end(store: Snapshot, segments: list[Segment], count: int, state: State) -> ExportEnd:
    # The session's own journal is the last segment; it has at least the event of its creation.
    session_id = segments[-1].session_id
    cursor, digest = store.head(session_id)
    return ExportEnd(
        session_id=session_id,
        lines=count,
        cursor=cursor,
        hash=digest.hex(),
        epoch=state.epoch,
        exported_at_ms=state.now_ms(),
    )


@query(rows.KEY)
def key(call: Call, params: NoParams) -> ExportKey:
    """Return the public key of the home; the first call makes the key."""
    return ExportKey(call.control.export_key())


# Import.


class _Part(Value, frozen=True):
    """A verified part of an export, its messages with their cursors, and the id of a new session.

    ``previous`` is the event of the part before. ``refusal`` is set instead if this part does not continue
    it: a repeated request is answered from its receipt, so the transaction decides.
    """

    params: SessionImport
    new_session_id: str
    entries: list[Entry]
    reader: ExportReader
    messages: list[tuple[int, Message]]
    pending: list[PendingMessage]
    previous: SessionImported | None = None
    refusal: Refusal | None = None


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
    try:
        bytes.fromhex(params.last_hash or "")
    except ValueError as error:
        raise InvalidParams("'last_hash' is not a hash in hex", field="$.params.last_hash") from error
    for number, text in enumerate(params.lines, 1):
        # A stored value nests no deeper than the limit, and lies a few levels down in its event.
        if is_nested_too_deep(text.encode(), 2 * MAX_NESTING):
            raise _invalid(number, f"line {number} is nested deeper than {2 * MAX_NESTING} levels")
    new_session_id = call.state.new_id(ids.SESSION)
    previous: SessionImported | None = None
    checker = TranscriptChecker()
    try:
        if params.session_id is not None:
            with call.state.read() as store:
                session, previous = _find_previous(store, call, params)
                checker = _resume_checker(store, session.session_id)
        entries, reader = _verify(params, previous)
        if reader.end is not None and reader.end.epoch == call.state.epoch:
            with call.state.read() as store:
                _require_own_lines(store, call, entries, reader.lines - len(entries))
        messages, pending = _check_messages(
            entries,
            previous.pending if previous is not None else [],
            checker,
            reader.lines - len(entries),
            is_last=not params.more,
        )
    except Refusal as refusal:
        if params.session_id is None:
            raise
        return _Part(params, new_session_id, [], ExportReader(), [], [], refusal=refusal)
    return _Part(params, new_session_id, entries, reader, messages, pending, previous)


def _invalid(number: int, message: str) -> ImportInvalid:
    return ImportInvalid(message, field=f"$.params.lines[{number - 1}]")


def _verify(params: SessionImport, previous: SessionImported | None) -> tuple[list[Entry], ExportReader]:
    """Verify the lines of a part, after the previous part. Errors: ImportInvalid."""
    reader = ExportReader()
    if previous is not None:
        reader = ExportReader(
            last_hash=bytes.fromhex(previous.source_head),
            cursor=previous.source_cursor,
            lines=previous.source_lines,
        )
    before = reader.lines
    try:
        entries = reader.read(params.lines)
        if not params.more and not params.without_end:
            reader.require_end()
    except ExportProblem as problem:
        # The line's index in the request; a missing line is after all of them.
        index = min(problem.line - before, len(params.lines))
        raise _invalid(max(index, 1), str(problem)) from problem
    for number, entry in enumerate(entries, 1):
        wrong = find_storage_problem(entry.event, 2 * MAX_NESTING)
        if wrong is not None:
            raise _invalid(number, f"line {before + number} cannot be stored: its values {wrong}")
    signature = reader.end.signature if reader.end is not None else None
    if params.signed_by is not None and not params.more:
        signer = None if signature is None else signature.key
        if signer != params.signed_by:
            by = f"signed by the key {signer}, not by the key {params.signed_by}"
            message = f"the export is {'not signed' if signer is None else by}"
            raise ImportInvalid(message, field="$.params.signed_by")
    return entries, reader


def _require_own_lines(store: Snapshot, call: Call, entries: list[Entry], before: int) -> None:
    """Require that lines of this line of history are those of the journal here, if the session is here.

    So an export that was rechained together with its end is found without a signature, too.
    Errors: ImportInvalid.
    """
    for number, entry in enumerate(entries, 1):
        session = store.get(SESSIONS, entry.envelope.session_id or "-")
        if session is None or not call.caller.may_read(session.agent, session.sender):
            continue
        stored = store.entry(session.session_id, entry.envelope.cursor)
        if stored is None or stored[0] != entry.digest:
            line = before + number
            raise _invalid(
                number, f"the export was rechained: line {line} is not the line that this daemon exported"
            )


@mutation(rows.IMPORT, prepare=_prepare)
def import_(tx: Transaction, call: Call, part: _Part) -> SessionImportResult:
    """Append the messages of a part to a new session, or to the one of the previous part.

    Errors: ImportInvalid, AgentNotFound, AgentForbidden, SenderForbidden, SessionNotFound, InputTooLarge.
    """
    if part.refusal is not None:
        raise part.refusal
    entries, reader = part.entries, part.reader
    if part.params.session_id is None:
        writer = _begin(tx, call, part, entries)
    else:
        session, previous = _find_previous(tx, call, part.params)
        assert previous == part.previous, "the hash of the previous part is the same"
        writer = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))
    messages = [_distrust(call, message) for _, message in part.messages]
    for (cursor, _), message in zip(part.messages, messages, strict=True):
        writer.append(TranscriptImported(message=message, source_cursor=cursor))
    signature = reader.end.signature if reader.end is not None else None
    last_hash = reader.last_hash.hex()
    signed_by = None if signature is None else signature.key
    writer.append(
        SessionImported(
            source_session_id=(entries[0].envelope.session_id or "") if entries else "",
            source_head=last_hash,
            source_events=len(entries),
            source_lines=reader.lines,
            source_cursor=reader.cursor,
            pending=part.pending,
            signed_by=signed_by,
            origins=join_origins(
                "tool_output" if message.role == "tool" else message.origin
                for message in messages
                if message.role != "assistant"
            ),
        )
    )
    writer.write()
    return SessionImportResult(
        session_id=writer.session_id, messages=len(part.messages), last_hash=last_hash, signed_by=signed_by
    )


def _distrust(call: Call, message: Message) -> Message:
    """Return an imported message, of the origin that the caller's token fixes if it claims a better one."""
    fixed = call.caller.origin
    if fixed is None or message.role != "user" or RANKS[message.origin] > RANKS[fixed]:
        return message
    return msgspec.structs.replace(message, origin=fixed)


def _begin(tx: Transaction, call: Call, part: _Part, entries: list[Entry]) -> SessionWriter:
    """Return the writer of a new session for the first part of an export."""
    field = "$.params.lines[0]"
    created = entries[0].event if entries else None
    if not isinstance(created, SessionCreated):
        text = "an export begins with 'session_created'; its first lines are missing or reordered"
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
            persona=bind_at_creation(tx, definition, tx.now_ms),
            metadata=created.metadata,
        )
    )
    return writer


def _find_previous(tx: Snapshot, call: Call, params: SessionImport) -> tuple[Session, SessionImported]:
    """Return the session that the previous part was imported into, and the event of that part."""
    session = find_session(tx, call, params.session_id or "")
    newest = tx.entry(session.session_id, tx.head(session.session_id)[0])
    event = decode_event(newest[1]) if newest is not None else None
    if not isinstance(event, SessionImported) or event.source_head != params.last_hash:
        raise ImportInvalid(
            "this part does not continue the previous one; start the import again",
            field="$.params.last_hash",
        )
    return session, event


def _resume_checker(store: Snapshot, session_id: str) -> TranscriptChecker:
    """Return the checker of a session's transcript after the parts so far.

    Source: its journal. Messages with calls are decoded, and those after the newest of them.
    """
    checker = TranscriptChecker()
    for _, line in store.entries(session_id):
        if b'"type":"transcript_imported"' not in line:
            continue
        if not checker.open_calls and b'"tool_call"' not in line:
            # Without open calls only the role matters.
            checker.last_role = "assistant" if b'"role":"assistant"' in line else "user"
            continue
        event = decode_event(line)
        assert isinstance(event, TranscriptImported)
        checker.add(event.message)
    return checker


def _check_messages(
    entries: list[Entry],
    earlier: list[PendingMessage],
    checker: TranscriptChecker,
    before: int,
    *,
    is_last: bool,
) -> tuple[list[tuple[int, Message]], list[PendingMessage]]:
    """Return the messages of a part with their cursors, and those that wait for a later part.

    A call without a result gets one at a fork point, and at the end of the export.

    Args:   ``before`` is the number of lines before the part, ``earlier`` are pending messages of those.
    Errors: ImportInvalid if the session's transcript would not be valid for every provider; InputTooLarge.
    """
    messages, pending = _place_messages(entries, earlier)
    if is_last:
        messages += [_Placed(0, waiting.source_cursor, waiting.message) for waiting in pending]
        pending = []
    checked: list[tuple[int, Message]] = []
    for index, cursor, message in messages:
        if message is None:
            checked += _close_calls(checker, cursor)
            continue
        if index == 0 and checker.open_calls:
            # It has no place, and the export ended during the calls of a run: no results follow.
            checked += _close_calls(checker, cursor)
        problem = checker.add(message)
        if problem is not None:
            line = f"line {before + index}" if index else "a message of an earlier part"
            raise _invalid(max(index, 1), f"{line} makes a transcript that is not valid: {problem}")
        checked.append((cursor, message))
    if is_last:
        checked += _close_calls(checker, entries[-1].envelope.cursor if entries else 0)
    size = len(msgspec.json.encode([message for _, message in checked])) + len(msgspec.json.encode(pending))
    if size > MAX_IMPORTED_BYTES:
        text = f"{len(pending)} inputs wait for the next part, too many for one; send smaller parts"
        raise InputTooLarge(text, field="$.params.lines")
    return checked, pending


def _close_calls(checker: TranscriptChecker, cursor: int) -> list[tuple[int, Message]]:
    """Return a result for each call without one, such as those of an export of a running session."""
    results = [
        Message("tool", [ToolResult(call_id, tool, MISSING_RESULT, True)])
        for call_id, tool in checker.open_calls.items()
    ]
    for result in results:
        checker.add(result)
    return [(cursor, result) for result in results]


class _Placed(NamedTuple):
    """A message with the number of its line in the part and its cursor. None stands for a fork point."""

    line: int
    cursor: int
    message: Message | None


def _place_messages(
    entries: list[Entry], earlier: list[PendingMessage]
) -> tuple[list[_Placed], list[PendingMessage]]:
    """Return the messages of a part in the order in which the model saw them, and those without a place yet.

    An input belongs where its run started, a steer or a note where the model was called again. An input that
    was cancelled while it waited is left out. Each tool result is a message of its own: readers of the
    transcript join them.
    """
    placed: list[_Placed] = []
    inputs: dict[str, list[PendingMessage]] = {}
    for waiting in earlier:
        if waiting.run_id is not None:
            inputs.setdefault(waiting.run_id, []).append(waiting)
    notes = [waiting for waiting in earlier if waiting.run_id is None]
    for line, entry in enumerate(entries, 1):
        run_id, cursor = entry.envelope.run_id or "", entry.envelope.cursor
        match entry.event:
            case InputReceived():
                inputs[run_id] = [PendingMessage(message_of(entry.event), cursor, run_id)]
            case SessionCreated():
                # The fork point: calls and pending inputs of the parent end here, notes are inherited.
                placed += [_Placed(line, cursor, None), *(_place(line, note) for note in notes)]
                notes, inputs = [], {}
            case RunStarted() if run_id in inputs:
                placed += [_place(line, waiting) for waiting in inputs.pop(run_id)]
            case Steered() if run_id in inputs:
                # The run had not started, so the message belongs to its input.
                joined = join_messages(
                    [waiting.message for waiting in inputs[run_id]], message_of(entry.event)
                )
                first = inputs[run_id][0].source_cursor
                inputs[run_id] = [PendingMessage(message, first, run_id) for message in joined]
            case Steered():
                notes.append(PendingMessage(message_of(entry.event), cursor))
            case (
                IndoubtResolved(note=note)
                | TaskStalled(note=note)
                | TaskEnded(note=note)
                | TaskAdopted(note=note)
            ) if note:
                notes.append(PendingMessage(Message("user", [Text(note)]), cursor))
            case ModelAsked():
                placed += [_place(line, waiting) for waiting in notes]
                notes = []
            case RunEnded():
                placed += [_place(line, waiting) for waiting in notes]
                notes = []
                inputs.pop(run_id, None)
            case ToolReturned(call_id=call_id, tool=tool, text=text, is_error=is_error):
                result = ToolResult(call_id, tool, text, is_error)
                placed.append(_Placed(line, cursor, Message("tool", [result])))
            case MessageAppended(message=message) | TranscriptImported(message=message):
                placed.append(_Placed(line, cursor, message))
            case _:
                pass
    return placed, [*notes, *(waiting for group in inputs.values() for waiting in group)]


def _place(line: int, waiting: PendingMessage) -> _Placed:
    return _Placed(line, waiting.source_cursor, waiting.message)


HANDLERS = (export, key, import_)
