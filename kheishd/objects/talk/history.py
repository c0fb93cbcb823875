"""The messages of a session, as people read them: ``conversation.history`` and ``session.history``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.kernel.call import Call, query
from kheishd.objects.pages import cursor_after, page_of
from kheishd.objects.talk.address import find_addressed
from kheishd.objects.talk.lineage import entries_of, lineage
from protocol.events.call import ToolReturned
from protocol.events.run import InputReceived, MessageAppended, Steered
from protocol.events.session import TranscriptImported
from protocol.journal.line import decode_envelope, decode_event
from protocol.objects import conversation, session
from protocol.objects.session import History, HistoryMessage
from protocol.transcript import Message, ToolResult, Usage, make_visible

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot
    from protocol.objects.conversation import ConversationHistoryParams
    from protocol.objects.session import Session, SessionHistoryParams


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
    entries = entries_of(
        store, lineage(store, record), cursor_after(params.after) or 0, reverse=params.order == "newest"
    )
    rows = (((cursor,), _read_message(line)) for _, cursor, line in entries)
    messages, following = page_of(rows, params.limit, lambda message: True)
    return History(messages, following)


def _read_message(line: bytes) -> HistoryMessage | None:
    """Return the message of a journal line; None for an event without one."""
    sender: str | None = None
    item_id: str | None = None
    stop_reason: str | None = None
    usage = Usage()
    match decode_event(line):
        case InputReceived(items=items, sender=sender) | Steered(items=items, sender=sender):
            message = Message("user", list(items))
        case MessageAppended(message=message, item_id=item_id, stop_reason=stop_reason, usage=usage):
            pass
        case ToolReturned(call_id=call_id, tool=tool, text=text, is_error=is_error):
            message = Message("tool", [ToolResult(call_id, tool, text, is_error)])
        case TranscriptImported(message=message):
            pass
        case _:
            return None
    envelope = decode_envelope(line)
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
