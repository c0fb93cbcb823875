"""The messages of a session, as people read them: ``conversation.history`` and ``session.history``.

Their order is that in which the model reads them, which is not that of their events: an input enters the
transcript when its run starts, a steer with the next model call, and the results of one message's calls
together, in the order of the calls. Each rule looks back from the event with which messages enter, so that a
page can begin anywhere. At the end follow messages that have not entered yet: the tail.

A page token is a cursor, with one of these: ``.N`` after N messages of that event, ``+C`` (or ``-C``, read
from the end) after the message C of the tail, where the journal ended at the cursor.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.core.context.transcript import message_of
from kheishd.kernel.call import Call, query
from kheishd.objects.pages import not_a_token, page_of
from kheishd.objects.talk.address import find_addressed
from kheishd.objects.talk.lineage import entries_of, lineage
from kheishd.store.tables import RUNS
from protocol.events.call import ToolReturned
from protocol.events.run import InputReceived, MessageAppended, ModelAsked, RunEnded, RunStarted, Steered
from protocol.events.session import SessionCreated, TranscriptImported
from protocol.journal.line import decode_envelope, decode_event
from protocol.objects import conversation, session
from protocol.objects.session import History, HistoryMessage
from protocol.structs import Value
from protocol.transcript import Message, ToolCall, ToolResult, Usage, make_visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.environment import Snapshot
    from protocol.journal.envelope import Envelope
    from protocol.journal.line import JournalEvent, Unknown
    from protocol.objects.conversation import ConversationHistoryParams
    from protocol.objects.session import Session, SessionHistoryParams

_TOKEN = re.compile(r"([0-9]{1,19})(?:([.+-])([0-9]{1,19}))?")

# An input is journaled with the acceptance of its run.
_INPUT_DISTANCE = 4

# The events of one turn: 64 calls with their progress, approvals and results.
_MAX_TURN_EVENTS = 2_000


class _Position(Value, frozen=True):
    """The end of the previous page: a cursor, and a number with the meaning of ``kind``, see above."""

    cursor: int = 0
    kind: str = ""
    number: int = 0

    @classmethod
    def of(cls, token: str | None) -> _Position:
        """Return the position of a page token. Errors: InvalidParams for any other text."""
        if token is None:
            return cls()
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise not_a_token()
        return cls(int(match[1]), match[2] or "", int(match[3] or 0))


def history(call: Call, params: ConversationHistoryParams | SessionHistoryParams) -> History:
    """Return a page of a session's messages."""
    with call.state.read() as store:
        return read_history(store, find_addressed(store, call, params), params)


def read_history(
    store: Snapshot, record: Session, params: ConversationHistoryParams | SessionHistoryParams
) -> History:
    """Return a page of a session's messages, oldest or newest first.

    Errors: InvalidParams for an ``after`` that is no page token.
    Source: the session's journal and, before its fork point, its parents'.
    """
    read = _read_backward if params.order == "newest" else _read_forward
    messages, following = page_of(
        read(store, record, _Position.of(params.after)), params.limit, lambda message: True
    )
    return History(messages, following)


_Row = tuple[tuple[str], HistoryMessage | None]


def _read_forward(store: Snapshot, record: Session, position: _Position) -> Iterator[_Row]:
    """Yield the messages after a position with their page tokens, and None for events without one."""
    begin = position.cursor - 1 if position.kind == "." else position.cursor
    skips = position.kind == "+"
    last = position.cursor
    for session_id, cursor, line in entries_of(store, lineage(store, record), begin):
        last = cursor
        group = _messages_at(store, session_id, cursor, line)
        if not group:
            yield (str(cursor),), None
        for number, message in enumerate(group, 1):
            is_delivered = position.kind == "." and cursor == position.cursor and number <= position.number
            if skips and message.cursor <= position.cursor:
                # It was in the tail, and was delivered up to the message that the token names.
                is_delivered, skips = True, message.cursor != position.number
            if not is_delivered:
                yield (_group_token(cursor, number, len(group)),), message
    for message in _read_tail(store, record):
        if skips and message.cursor <= position.cursor:
            skips = message.cursor != position.number
        else:
            yield (f"{last}+{message.cursor}",), message


def _read_backward(store: Snapshot, record: Session, position: _Position) -> Iterator[_Row]:
    """Yield the messages before a position like ``_read_forward``, newest first."""
    end = position.cursor + 1 if position.kind in (".", "-") else position.cursor
    if position.kind == "-" or not position.cursor:
        last = position.cursor or store.last_cursor
        end = last + 1
        skips = position.kind == "-"
        for message in reversed(_read_tail(store, record)):
            if not skips:
                yield (f"{last}-{message.cursor}",), message
            skips = skips and message.cursor != position.number
    for session_id, cursor, line in entries_of(store, lineage(store, record), end, reverse=True):
        group = _messages_at(store, session_id, cursor, line)[::-1]
        if not group:
            yield (str(cursor),), None
        for number, message in enumerate(group, 1):
            if not (position.kind == "." and cursor == position.cursor and number <= position.number):
                yield (_group_token(cursor, number, len(group)),), message


def _group_token(cursor: int, number: int, size: int) -> str:
    return str(cursor) if number == size else f"{cursor}.{number}"


# Which messages enter the transcript, and when.


def _messages_at(store: Snapshot, session_id: str, cursor: int, line: bytes) -> list[HistoryMessage]:
    """Return the messages that enter the transcript with an event, in order."""
    envelope, event = decode_envelope(line), decode_event(line)
    match event:
        case RunStarted(starts=1):
            messages = _find_input(store, session_id, str(envelope.run_id), cursor)
            return messages + (_find_steers(store, session_id, cursor, envelope.run_id) if messages else [])
        case MessageAppended() | TranscriptImported():
            return [_make_message(envelope, event)]
        case ToolReturned():
            results, is_complete = _find_results(store, session_id, cursor + 1)
            return results if is_complete else []
        case ModelAsked():
            return _find_steers(store, session_id, cursor, envelope.run_id)
        case RunEnded():
            run = store.get(RUNS, str(envelope.run_id))
            if run is not None and not run.starts:
                messages = _find_input(store, session_id, run.run_id, cursor)
                return [_mark_unread(message) for message in messages]
            results, is_complete = _find_results(store, session_id, cursor)
            return ([] if is_complete else results) + _find_steers(store, session_id, cursor, envelope.run_id)
        case SessionCreated(fork_of=fork) if fork is not None:
            return _find_open(store, fork.session_id, fork.cursor + 1)
        case _:
            return []


def _read_tail(store: Snapshot, record: Session) -> list[HistoryMessage]:
    """Return the messages that have not entered yet: of the current run, then the queued inputs."""
    messages = _find_open(store, record.session_id, 0)
    for run_id in record.open_runs:
        run = store.get(RUNS, run_id)
        if run is not None and not run.starts:
            inputs = _find_input(store, record.session_id, run_id, 0)
            messages += [_mark_unread(message) for message in inputs]
    return messages


def _find_open(store: Snapshot, session_id: str, end: int) -> list[HistoryMessage]:
    """Return the results and steers that wait at the end of a session, before a cursor; 0: of all of it."""
    results, is_complete = _find_results(store, session_id, end)
    return ([] if is_complete else results) + _find_steers(store, session_id, end, None)


def _find_input(store: Snapshot, session_id: str, run_id: str, end: int) -> list[HistoryMessage]:
    """Return the input of a run, in a list; empty for a run without one."""
    run = store.get(RUNS, run_id)
    entries = store.entries(
        session_id, end if run is None else run.accepted_cursor + _INPUT_DISTANCE, reverse=True
    )
    for _, line in islice(entries, None if run is None else 2 * _INPUT_DISTANCE):
        envelope = decode_envelope(line)
        if envelope.run_id == run_id:
            event = decode_event(line)
            if isinstance(event, InputReceived):
                return [_make_message(envelope, event)]
    return []


def _find_steers(store: Snapshot, session_id: str, end: int, run_id: str | None) -> list[HistoryMessage]:
    """Return the steers of a run before a cursor that no model call before it has read; None: of any run."""
    steers: list[HistoryMessage] = []
    for _, line in islice(store.entries(session_id, end, reverse=True), _MAX_TURN_EVENTS):
        envelope = decode_envelope(line)
        event = decode_event(line)
        if isinstance(event, Steered) and run_id in (None, envelope.run_id):
            steers.append(_make_message(envelope, event))
        elif run_id in (None, envelope.run_id) and (
            isinstance(event, ModelAsked | RunEnded) or (isinstance(event, RunStarted) and event.starts == 1)
        ):
            break
        elif isinstance(event, InputReceived) and envelope.run_id == run_id:
            break
    return steers[::-1]


def _find_results(store: Snapshot, session_id: str, end: int) -> tuple[list[HistoryMessage], bool]:
    """Return the results of the newest message's calls, in the order of the calls, and whether none lacks."""
    results: dict[str, HistoryMessage] = {}
    for _, line in islice(store.entries(session_id, end, reverse=True), _MAX_TURN_EVENTS):
        event = decode_event(line)
        if isinstance(event, ToolReturned):
            results.setdefault(event.call_id, _make_message(decode_envelope(line), event))
        elif isinstance(event, MessageAppended) and event.message.role == "assistant":
            calls = [item.call_id for item in event.message.items if isinstance(item, ToolCall)]
            is_complete = all(call_id in results for call_id in calls)
            return [results[call_id] for call_id in calls if call_id in results], is_complete
        elif isinstance(event, RunEnded) or (isinstance(event, RunStarted) and event.starts == 1):
            break
    return list(results.values())[::-1], True


def _mark_unread(message: HistoryMessage) -> HistoryMessage:
    return replace(message, unread=True)


def _make_message(envelope: Envelope, event: JournalEvent | Unknown) -> HistoryMessage:
    """Return the message of an event that has one."""
    sender: str | None = None
    item_id: str | None = None
    stop_reason: str | None = None
    usage = Usage()
    match event:
        case InputReceived(sender=sender) | Steered(sender=sender):
            message = message_of(event)
        case ToolReturned(call_id=call_id, tool=tool, text=text, is_error=is_error):
            message = Message("tool", [ToolResult(call_id, tool, text, is_error)])
        case MessageAppended(message=message, item_id=item_id, stop_reason=stop_reason, usage=usage):
            pass
        case _:
            assert isinstance(event, TranscriptImported), "an event with a message"
            message = event.message
    return HistoryMessage(
        cursor=envelope.cursor,
        at_ms=envelope.at_ms,
        run_id=envelope.run_id,
        message=make_visible(message),
        sender=sender,
        item_id=item_id,
        stop_reason=stop_reason,
        usage=usage,
    )


HANDLERS = tuple(query(row)(history) for row in (conversation.HISTORY, session.HISTORY))
