"""A replayed stream agrees with the records, and each kind of damage to it is seen."""

from collections.abc import Callable

import pytest

from kheishd.kernel.replay import Complaint, Damage, Difference, Replay
from kheishd.store.environment import Transaction
from kheishd.store.tables import CURSORS, JOURNAL, TOKENS
from kheishd.store.writer import Store
from protocol.events.session import SessionRenamed
from protocol.journal.envelope import DAEMON_STREAM
from tests.support.histories import rich_history, spoil_line, token, update


def replay(store: Store, stream: str, start: Replay | None = None) -> list[Complaint]:
    """Everything wrong with one stream."""
    found: list[Complaint] = []
    replay = start or Replay(stream)
    with store.read() as snapshot:
        for (_, cursor), stored in snapshot.scan(JOURNAL, stream, after=(stream, replay.at)):
            found += replay.entry(snapshot, cursor, stored)
        found += replay.finish(snapshot)
    return found


@pytest.mark.parametrize("stream", ["ses_a", "ses_b", "ses_c", "ses_d", "ses_e", "ses_f", DAEMON_STREAM])
def test_a_healthy_stream(store: Store, stream: str) -> None:
    """Runs ended, running, being stopped and queued; children; addresses bound and reset; tokens."""
    rich_history(store)
    assert replay(store, stream) == []


def test_ended_runs_are_not_kept(store: Store) -> None:
    """What a replay holds in memory is what is still open."""
    rich_history(store)
    kept = Replay("ses_a")
    replay(store, "ses_a", kept)
    assert sorted(kept.runs) == ["run_ses_a_2", "run_ses_a_3"]


def flip(place: int) -> Callable[[bytes], bytes]:
    """Change one byte of what is stored."""
    return lambda stored: stored[:place] + bytes((stored[place] ^ 1,)) + stored[place + 1 :]


@pytest.mark.parametrize("place", [0, 31, -2])
def test_one_changed_bit_is_one_finding(store: Store, place: int) -> None:
    """In the hash or in the line: the chain breaks there and is picked up after it."""
    rich_history(store)
    cursor = spoil_line(store, "ses_a", 3, flip(place % 100 if place < 0 else place))
    found = [c for c in replay(store, "ses_a") if isinstance(c, Damage)]
    assert {damage.stream for damage in found} == {"ses_a"}
    assert found[0].cursor == cursor
    assert "chain is broken" in found[0].message
    assert all(damage.cursor in (cursor, cursor + 1) for damage in found)


def test_a_line_that_cannot_be_read(store: Store) -> None:
    """It is damage; the records of the stream are left alone, as nothing can be said about them."""
    rich_history(store)
    spoil_line(store, "ses_a", 1, lambda stored: stored[:40])
    found = replay(store, "ses_a")
    assert all(isinstance(complaint, Damage) for complaint in found)
    assert any("cannot be read" in str(complaint) for complaint in found)


def test_a_line_in_the_wrong_place(store: Store) -> None:
    """A line says its cursor itself."""
    rich_history(store)
    cursor = spoil_line(store, "ses_a", 2, lambda stored: stored.replace(b'"cursor":', b'"cursor":9', 1))
    assert any(
        isinstance(c, Damage) and c.cursor == cursor and "number 9" in c.message
        for c in replay(store, "ses_a")
    )


def test_a_cursor_that_leads_nowhere(store: Store) -> None:
    """The daemon-wide feed must name the stream of every entry."""
    rich_history(store)
    with store.read() as snapshot:
        cursor, _ = next(snapshot.entries("ses_b"))
    update(store, lambda tx: tx.delete(CURSORS, cursor))
    assert replay(store, "ses_b") == [Difference(CURSORS, (cursor,), "ses_b", "ses_b")]


def test_events_that_do_not_follow(store: Store) -> None:
    """A stream that does not begin with its session's creation is damaged, not a crash."""
    update(store, lambda tx: tx.append("ses_x", SessionRenamed(title="t"), session_id="ses_x"))
    (found,) = replay(store, "ses_x")
    assert isinstance(found, Damage)
    assert "does not follow" in found.message


def test_a_token_that_nobody_made(store: Store) -> None:
    """It would open doors; it is found and told to go."""
    rich_history(store)

    def forge(tx: Transaction) -> None:
        record = tx.get(TOKENS, "tok_a")
        assert record is not None
        tx.put(TOKENS, "tok_forged", value=record)

    update(store, forge)
    assert replay(store, DAEMON_STREAM) == [Difference(TOKENS, ("tok_forged",), None, DAEMON_STREAM)]


def test_a_replay_from_the_middle_checks_the_chain_only(store: Store) -> None:
    """Begun behind the first entries, it knows nothing of records and says nothing about them."""
    rich_history(store)
    with store.read() as snapshot:
        entries = list(snapshot.scan(JOURNAL, "ses_a"))
    key, stored = entries[4]
    assert replay(store, "ses_a", Replay("ses_a", at=key[1], head=stored[:32], chain_only=True)) == []
    spoil_line(store, "ses_a", 6, flip(3))
    begun = Replay("ses_a", at=key[1], head=stored[:32], chain_only=True)
    assert [type(c) for c in replay(store, "ses_a", begun)] == [Damage, Damage]


def test_a_replay_can_be_continued_after_more_was_written(store: Store) -> None:
    """Steps of an examination see later and later snapshots of the growing journal."""
    token(store, "tok_1")
    begun = Replay(DAEMON_STREAM)
    with store.read() as snapshot:
        for (_, cursor), stored in snapshot.scan(JOURNAL, DAEMON_STREAM):
            assert list(begun.entry(snapshot, cursor, stored)) == []
    token(store, "tok_2", revoked=True)
    assert replay(store, DAEMON_STREAM, begun) == []
