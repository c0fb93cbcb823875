"""The transcript of a fork, read across its parents from either end."""

import pytest

from kheishd.objects.talk.lineage import Segment, entries_of, lineage
from kheishd.store.environment import Transaction
from kheishd.store.tables import SESSIONS
from kheishd.store.writer import Store
from protocol.events.session import SessionRenamed
from protocol.objects.session import ForkOf, Session
from tests.support.stores import update


def session(session_id: str, fork_of: ForkOf | None = None) -> Session:
    """Return a session's record."""
    return Session(
        session_id=session_id,
        agent="default",
        status="open",
        created_at_ms=1,
        updated_at_ms=1,
        fork_of=fork_of,
    )


@pytest.fixture
def family(store: Store) -> Store:
    """Fill a store with three sessions, each a fork of the previous one; their events alternate."""
    records = (
        session("one"),
        session("two", ForkOf("one", 2)),
        session("three", ForkOf("two", 7)),
    )

    def tell(tx: Transaction) -> None:
        for record in records:
            tx.put(SESSIONS, record.session_id, value=record)
        for name in "one one two one two one two three one two three three".split():
            tx.append(name, SessionRenamed(title=name), session_id=name)

    update(store, tell)
    return store


THREE = [Segment("one", 2), Segment("two", 7), Segment("three", None)]
SEEN = [
    ("one", 1),
    ("one", 2),
    ("two", 3),
    ("two", 5),
    ("two", 7),
    ("three", 8),
    ("three", 11),
    ("three", 12),
]


def read_positions(
    store: Store, segments: list[Segment], cursor: int = 0, *, reverse: bool = False
) -> list[tuple[str, int]]:
    """Return the positions of a lineage's entries."""
    with store.read() as snapshot:
        entries = entries_of(snapshot, segments, cursor, reverse=reverse)
        return [(name, cursor) for name, cursor, _ in entries]


def test_a_lineage_begins_with_the_oldest(family: Store) -> None:
    """Each segment ends at the fork point of the next session."""
    with family.read() as snapshot:
        assert lineage(snapshot, session("three", ForkOf("two", 7))) == THREE
        assert lineage(snapshot, session("one")) == [Segment("one", None)]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_lineage_ends_at_fork_points(family: Store, reverse: bool) -> None:
    """Events of a parent after the fork point are not in the lineage."""
    assert read_positions(family, THREE, reverse=reverse) == (SEEN[::-1] if reverse else SEEN)


@pytest.mark.parametrize("cursor", range(14))
def test_one_cursor_is_a_position_in_all_segments(family: Store, cursor: int) -> None:
    """Entries after or before one cursor are selected in every segment."""
    assert read_positions(family, THREE, cursor) == [entry for entry in SEEN if entry[1] > cursor]
    earlier = [entry for entry in SEEN[::-1] if not cursor or entry[1] < cursor]
    assert read_positions(family, THREE, cursor, reverse=True) == earlier
