"""A session's messages as people read them: in the order they came, with what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.objects.pages import cursor_after, page_of
from kheishd.objects.talk.lineage import Stretch, entries_of, lineage
from kheishd.store.tables import SESSIONS
from protocol.events.call import ToolReturned
from protocol.events.run import InputReceived, MessageAppended, Steered
from protocol.events.session import TranscriptImported
from protocol.journal.line import decode_envelope, decode_event
from protocol.objects.session import History, HistoryMessage, Order
from protocol.transcript import Message, ToolResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.environment import Snapshot


def history_of(store: Snapshot, session_id: str, after: str | None, limit: int, order: Order) -> History:
    """One page of a session's messages.

    Shape:  oldest or newest first, as ``order`` says; ``after`` is the ``next`` of the page before.
    Errors: InvalidParams for an ``after`` that no page gave.
    Source: the session's journal, and of those it branched off what came before.
    """
    session = store.get(SESSIONS, session_id)
    stretches = lineage(store, session) if session is not None else [Stretch(session_id, None)]
    found = _messages(store, stretches, cursor_after(after) or 0, reverse=order == "newest")
    chosen, following = page_of(found, limit, lambda message: True)
    return History(chosen, following)


def _messages(
    store: Snapshot, stretches: list[Stretch], after: int, *, reverse: bool
) -> Iterator[tuple[tuple[int], HistoryMessage | None]]:
    for _, cursor, line in entries_of(store, stretches, after, reverse=reverse):
        yield (cursor,), _message(line)


def _message(line: bytes) -> HistoryMessage | None:
    """The message that a journal line holds, or None for one that holds none."""
    event = decode_event(line)
    match event:
        case InputReceived(items=items, sender=sender) | Steered(items=items, sender=sender):
            shown = HistoryMessage(cursor=0, at_ms=0, message=Message("user", list(items)), sender=sender)
        case MessageAppended():
            shown = HistoryMessage(
                cursor=0,
                at_ms=0,
                message=event.message,
                item_id=event.item_id,
                stop_reason=event.stop_reason,
                usage=event.usage,
            )
        case ToolReturned(call_id=call_id, tool=tool, text=text, is_error=is_error):
            result = ToolResult(call_id, tool, text, is_error)
            shown = HistoryMessage(cursor=0, at_ms=0, message=Message("tool", [result]))
        case TranscriptImported(message=message):
            shown = HistoryMessage(cursor=0, at_ms=0, message=message)
        case _:
            return None
    return _placed(shown, line)


def _placed(shown: HistoryMessage, line: bytes) -> HistoryMessage:
    envelope = decode_envelope(line)
    return replace(shown, cursor=envelope.cursor, at_ms=envelope.at_ms, run_id=envelope.run_id)
