"""The transcript of a session across the sessions that it was forked from. A fork copies nothing.

Cursors rise across the whole daemon, and a session begins after its fork point. So the segments of a lineage
follow one another, and one cursor is a position in all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kheishd.store.tables import AGENTS, SESSIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kheishd.store.environment import Snapshot
    from protocol.objects.agent import ManagedAgent
    from protocol.objects.session import Session


class Segment(NamedTuple):
    """A session's journal up to and including a cursor; None for all of it."""

    session_id: str
    last_cursor: int | None


def lineage(store: Snapshot, session: Session) -> list[Segment]:
    """Return the segments of a session's transcript, oldest first, its own journal last.

    Shape: at most MAX_FORKS + 1 segments.
    """
    segments = [Segment(session.session_id, None)]
    child: Session | None = session
    while child is not None and child.fork_of is not None:
        segments.append(Segment(child.fork_of.session_id, child.fork_of.cursor))
        child = store.get(SESSIONS, child.fork_of.session_id)
    return segments[::-1]


def agent_of(store: Snapshot, session: Session) -> ManagedAgent | None:
    """Return the record of a spawned agent by its session, or by a fork of that; None if there is none."""
    agents = (store.get(AGENTS, segment.session_id) for segment in reversed(lineage(store, session)))
    return next((agent for agent in agents if agent is not None), None)


def entries_of(
    store: Snapshot, segments: Sequence[Segment], position: int = 0, *, reverse: bool = False
) -> Iterator[tuple[str, int, bytes]]:
    """Yield the entries of a lineage as (session id, cursor, line): oldest first, after a position.

    With ``reverse`` newest first, before a position, where 0 stands for the end.
    """
    for session_id, last_cursor in reversed(segments) if reverse else segments:
        if reverse:
            # The exclusive upper end: ``position``, or the cursor behind the segment's last one.
            ends = (position, last_cursor + 1 if last_cursor is not None else 0)
            end = min(filter(None, ends), default=0)
            for cursor, line in store.entries(session_id, end, reverse=True):
                yield session_id, cursor, line
            continue
        if last_cursor is not None and last_cursor <= position:
            continue
        for cursor, line in store.entries(session_id, position):
            if last_cursor is not None and cursor > last_cursor:
                break
            yield session_id, cursor, line
