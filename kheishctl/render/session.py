"""Sessions as lines to choose from. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishctl.render.messages import format_message
from kheishctl.render.units import format_age
from protocol.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kheishctl.contract import Json

MAX_TEXT_CHARACTERS = 60

LAST_MESSAGES = 6
"""The messages of which the last one of a person is shown."""


def is_resumable(session: Json) -> bool:
    """Whether a conversation can continue a session: it has a sender, is open, and is below no other."""
    is_root = bool(session.get("sender")) and not session.get("parent_session_id")
    return is_root and session["status"] == "open"


def describe_session(session: Json, messages: Sequence[Json], now_ms: int, *, current: bool = False) -> str:
    """Describe a session on one line: title, last message of a person, age, state and workspace.

    ``messages`` are the last ones, newest first.
    """
    inputs = [row for row in messages if row["message"]["role"] == "user" and not row.get("item_id")]
    last = format_message((inputs or messages)[0]["message"]) if messages else ""
    texts = [shorten(str(text)) for text in (session.get("title"), last) if text]
    at_ms = messages[0]["at_ms"] if messages else session["updated_at_ms"]
    state = "current" if current else session["status"]
    state = "running" if session.get("open_runs") else state
    place = session.get("effective_workspace")
    facts = [format_age(at_ms, now_ms), state, *([one_line(str(place))] if place else [])]
    return f"{' · '.join(texts) or 'no messages'} ({', '.join(facts)})"


def describe_hit(hit: Json, now_ms: int) -> str:
    """Describe a message that a search found, on one line."""
    title = f"{shorten(str(hit['title']))} · " if hit.get("title") else ""
    return f"{title}{shorten(str(hit['snippet']))} ({format_age(hit['at_ms'], now_ms)})"


def shorten(text: str) -> str:
    """Return the beginning of a text on one line."""
    line = one_line(" ".join(text.split()))
    return line if len(line) <= MAX_TEXT_CHARACTERS else f"{line[: MAX_TEXT_CHARACTERS - 1]}…"
