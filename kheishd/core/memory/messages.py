"""The messages of a journal that are searched: the texts of people, programs and agents. Pure.

Calls of tools, their arguments and their results are no messages: they may hold anything that a program
printed, and would hide the words of people.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.events.run import InputReceived, MessageAppended, Steered
from protocol.events.session import TranscriptImported
from protocol.structs import Value
from protocol.transcript import text_of

if TYPE_CHECKING:
    from protocol.journal.line import JournalEvent, Unknown
    from protocol.transcript import InputOrigin

MESSAGE_TYPES = frozenset(
    str(kind.__struct_config__.tag) for kind in (InputReceived, MessageAppended, Steered, TranscriptImported)
)
"""The types of events that may hold a message: no others are decoded."""


class SearchedMessage(Value, frozen=True):
    """The text of a message: ``is_answer`` of an agent, else of ``origin``. A guest's ``agent`` is named."""

    text: str
    is_answer: bool = False
    agent: str | None = None
    origin: InputOrigin | None = None


def read_message(event: JournalEvent | Unknown) -> SearchedMessage | None:
    """Return the message of an event; None if it has none, or no text."""
    message: SearchedMessage | None = None
    match event:
        case InputReceived(items=items, origin=origin) | Steered(items=items, origin=origin):
            message = SearchedMessage(text_of(items), origin=origin)
        case MessageAppended(message=appended) if appended.role == "assistant":
            message = SearchedMessage(text_of(appended.items), is_answer=True, agent=appended.agent)
        case TranscriptImported(message=imported) if imported.role == "user":
            message = SearchedMessage(text_of(imported.items), origin=imported.origin)
        case TranscriptImported(message=imported) if imported.role == "assistant":
            message = SearchedMessage(text_of(imported.items), is_answer=True, agent=imported.agent)
        case _:
            pass
    return message if message is not None and message.text.strip() else None
