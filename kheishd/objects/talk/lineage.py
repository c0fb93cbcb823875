"""What was said in a session, over the sessions that it branched off: a branch refers, it copies nothing.

Cursors are one rising number for the whole daemon, and a session begins after the place that it branched off
at. So the stretches of a lineage follow one another, and one cursor says where one stands in all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kheishd.store.tables import SESSIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kheishd.store.environment import Snapshot
    from protocol.objects.session import Session


class Stretch(NamedTuple):
    """A session's journal up to a cursor; None: all of it."""

    session_id: str
    upto: int | None


def lineage(store: Snapshot, session: Session) -> list[Stretch]:
    """The stretches of journals that make up a session, the oldest first, its own last.

    Shape: MAX_FORKS and one at most.
    """
    stretches = [Stretch(session.session_id, None)]
    found: Session | None = session
    while found is not None and found.fork_of is not None:
        stretches.append(Stretch(found.fork_of.session_id, found.fork_of.cursor))
        found = store.get(SESSIONS, found.fork_of.session_id)
    return stretches[::-1]


def entries_of(
    store: Snapshot, stretches: Sequence[Stretch], after: int = 0, *, reverse: bool = False
) -> Iterator[tuple[str, int, bytes]]:
    """Entries of a lineage, (session id, cursor, line): oldest first, beyond ``after``.

    With ``reverse`` newest first, before ``after``, where 0 means from the newest.
    """
    for stretch in reversed(stretches) if reverse else stretches:
        if reverse:
            yield from _before(store, stretch, after)
        elif stretch.upto is None or stretch.upto > after:
            yield from _beyond(store, stretch, after)


def _beyond(store: Snapshot, stretch: Stretch, after: int) -> Iterator[tuple[str, int, bytes]]:
    for cursor, line in store.entries(stretch.session_id, after):
        if stretch.upto is not None and cursor > stretch.upto:
            return
        yield stretch.session_id, cursor, line


def _before(store: Snapshot, stretch: Stretch, after: int) -> Iterator[tuple[str, int, bytes]]:
    # Where a stretch ends, its entry at that place is the first one from there on backwards.
    end = min(filter(None, (after, stretch.upto + 1 if stretch.upto is not None else 0)), default=0)
    for cursor, line in store.entries(stretch.session_id, end, reverse=True):
        yield stretch.session_id, cursor, line
