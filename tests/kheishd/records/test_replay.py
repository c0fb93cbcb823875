"""The replay of one stream: it agrees with the records, and finds each kind of damage."""

from collections.abc import Callable, Iterator

import pytest

from kheishd.records import replay as room
from kheishd.records.doctor import examine_whole
from kheishd.records.replay import Complaint, Damage, Difference, ExpectedRow, RecordReplay, Replay
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Snapshot, Transaction
from kheishd.store.tables import APPROVALS, CURSORS, INDOUBTS, JOURNAL, QUESTIONS, RUNS
from kheishd.store.writer import Store
from protocol.events.indoubt import IndoubtResolved
from protocol.events.session import SessionCreated, SessionRenamed
from protocol.journal.envelope import DAEMON_STREAM
from protocol.journal.line import Unknown, decode_envelope, decode_event
from tests.support.histories import indoubt_opened, rich_history, session_with_runs, spoil_line, token, update


def replay(store: Store, stream: str, start: Replay | None = None) -> list[Complaint]:
    """Return the complaints about one stream."""
    complaints: list[Complaint] = []
    replay = start or Replay(stream)
    with store.read() as snapshot:
        for (_, cursor), stored in snapshot.scan(JOURNAL, stream, after=(stream, replay.cursor)):
            complaints += replay.entry(snapshot, cursor, stored)
        complaints += replay.finish(snapshot)
    return complaints


@pytest.mark.parametrize("stream", ["ses_a", "ses_b", "ses_c", "ses_d", "ses_e", "ses_f", DAEMON_STREAM])
def test_a_healthy_stream(store: Store, stream: str) -> None:
    """A stream with runs in every status, children, bindings or tokens has no complaints."""
    rich_history(store)
    assert replay(store, stream) == []


def test_ended_runs_are_not_kept(store: Store) -> None:
    """A replay holds open runs only."""
    rich_history(store)
    kept = Replay("ses_a")
    replay(store, "ses_a", kept)
    assert kept.records.held_keys(RUNS) == [("run_ses_a_2",), ("run_ses_a_3",)]


def flip(place: int) -> Callable[[bytes], bytes]:
    """Return a change of one stored byte."""
    return lambda stored: stored[:place] + bytes((stored[place] ^ 1,)) + stored[place + 1 :]


@pytest.mark.parametrize("place", [0, 31, -2])
def test_one_changed_bit_is_one_finding(store: Store, place: int) -> None:
    """One changed bit, in the hash or in the line, breaks the chain there and nowhere else."""
    rich_history(store)
    cursor = spoil_line(store, "ses_a", 3, flip(place % 100 if place < 0 else place))
    complaints = [c for c in replay(store, "ses_a") if isinstance(c, Damage)]
    assert {damage.stream for damage in complaints} == {"ses_a"}
    assert complaints[0].cursor == cursor
    assert "chain is broken" in complaints[0].message
    assert all(damage.cursor in (cursor, cursor + 1) for damage in complaints)


def test_a_line_that_cannot_be_read(store: Store) -> None:
    """An unreadable line is damage, and the stream's records are left alone."""
    rich_history(store)
    spoil_line(store, "ses_a", 1, lambda stored: stored[:40])
    complaints = replay(store, "ses_a")
    assert all(isinstance(complaint, Damage) for complaint in complaints)
    assert any("cannot be read" in str(complaint) for complaint in complaints)


def test_a_line_in_the_wrong_place(store: Store) -> None:
    """A line whose own cursor differs from its key is damage."""
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
    """A stream that does not begin with its session's creation is damaged."""
    update(store, lambda tx: tx.append("ses_x", SessionRenamed(title="t"), session_id="ses_x"))
    (complaints,) = replay(store, "ses_x")
    assert isinstance(complaints, Damage)
    assert "does not follow" in complaints.message


def test_a_replay_from_the_middle_checks_the_chain_only(store: Store) -> None:
    """A replay that begins in the middle verifies the chain and leaves records alone."""
    rich_history(store)
    with store.read() as snapshot:
        entries = list(snapshot.scan(JOURNAL, "ses_a"))
    key, stored = entries[4]
    assert replay(store, "ses_a", Replay("ses_a", cursor=key[1], head=stored[:32], chain_only=True)) == []
    spoil_line(store, "ses_a", 6, flip(3))
    begun = Replay("ses_a", cursor=key[1], head=stored[:32], chain_only=True)
    assert [type(c) for c in replay(store, "ses_a", begun)] == [Damage, Damage]


def test_a_replay_can_be_continued_after_more_was_written(store: Store) -> None:
    """A replay continues over later snapshots of the growing journal."""
    token(store, "tok_1")
    begun = Replay(DAEMON_STREAM)
    with store.read() as snapshot:
        for (_, cursor), stored in snapshot.scan(JOURNAL, DAEMON_STREAM):
            assert list(begun.entry(snapshot, cursor, stored)) == []
    token(store, "tok_2", revoked=True)
    assert replay(store, DAEMON_STREAM, begun) == []


def rows_of(store: Store, replay: RecordReplay) -> list[ExpectedRow]:
    """Return the rows that a replay of a whole stream expects, compared with the stored ones."""
    with store.read() as snapshot:
        rows = [row for event in folded(snapshot, replay) for row in event]
        rows += replay.rest(snapshot)
        for row in rows:
            assert snapshot.get(row.table, *row.key) == row.value
    return rows


def folded(store: Snapshot, replay: RecordReplay) -> Iterator[list[ExpectedRow]]:
    """Replay the stream's events; yield the rows that each of them settles."""
    for _, line in store.entries(replay.stream):
        event = decode_event(line)
        assert not isinstance(event, Unknown)
        yield list(replay.fold(store, decode_envelope(line), event))


def test_a_replay_holds_only_records_that_may_still_change(store: Store) -> None:
    """A replay yields final records at once and the others at the end."""
    session_with_runs(store, "ses_f", "withdrawn", "doubted", "settled", "asking")
    replay = RecordReplay("ses_f")
    rows = rows_of(store, replay)
    assert replay.held_keys(APPROVALS) == [("apr_run_ses_f_3",)]
    assert replay.held_keys(QUESTIONS) == [("qst_run_ses_f_3",)]
    assert replay.held_keys(INDOUBTS) == [("dbt_run_ses_f_1",)]
    assert sorted(row.key for row in rows if row.table is APPROVALS) == [
        ("apr_run_ses_f_0",),
        ("apr_run_ses_f_3",),
    ]


def test_a_replay_puts_records_aside_beyond_its_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay never holds more records than its limit, and still works out all of them."""
    monkeypatch.setattr(room, "MAX_KEPT", 4)
    names = [f"dbt_{number:02}" for number in range(20)]

    def write(tx: Transaction) -> None:
        writer = SessionWriter(tx, "s", session=None)
        writer.append(SessionCreated(agent="default"))
        for name in names:
            writer.append(indoubt_opened(name), run_id="r")
        for name in names[::3]:
            resolved = IndoubtResolved(indoubt_id=name, call_id="c", tool="t", outcome="done")
            writer.append(resolved, run_id="r")
        writer.write()

    update(store, write)
    replay = RecordReplay("s")
    with store.read() as snapshot:
        assert max(len(replay.held_keys(INDOUBTS)) for _ in folded(snapshot, replay)) == 4
    rows = rows_of(store, RecordReplay("s"))
    assert {row.key[0] for row in rows if row.table is INDOUBTS} == set(names)
    assert examine_whole(store.read, deep=True).findings == []
