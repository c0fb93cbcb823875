"""Records that are folds of events: written, indexed, replayed; at any point in any history."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import data, integers, sampled_from

from kheishd.kernel import projections
from kheishd.kernel.doctor import examine_whole
from kheishd.kernel.projections import PROJECTIONS, Changes, IndexRow, Projection, Replayed, touched
from kheishd.kernel.rows import CHECKS
from kheishd.objects.fold import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import (
    APPROVALS,
    APPROVALS_WAITING,
    DEADLINES,
    INDOUBTS,
    RECORDS_BY_RUN,
    RECORDS_BY_SESSION,
    SESSIONS,
)
from kheishd.store.writer import Store
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed
from protocol.events.indoubt import IndoubtResolved
from protocol.events.question import QuestionAnswered, QuestionLapsed
from protocol.events.run import RunEnded, RunStarted
from protocol.events.session import SessionCreated
from protocol.events.task import TaskDeleted, TaskStalled, TaskStarted, TaskStopRequested, TaskUpdated
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent, Unknown, decode_envelope, decode_event
from tests.support.histories import (
    NOW_MS,
    approval_requested,
    indoubt_opened,
    question_asked,
    session_with_runs,
    task_created,
    task_ended,
)
from tests.support.stores import opened, update


def test_each_row_is_whole() -> None:
    """The beginning is one of the events, each event names the object, and no index goes unchecked."""
    checked = {check.table for check in CHECKS}
    for projection in PROJECTIONS:
        assert projection.begins in projection.events
        assert {projection.table, *projection.indexes} <= checked
        for event in projection.events:
            assert projection.name in event.__struct_fields__
    assert len({projection.kind for projection in PROJECTIONS}) == len(PROJECTIONS)


def test_most_events_are_about_none() -> None:
    """What is about a run or session alone touches no such object."""
    assert touched(RunStarted(starts=1)) == ()
    assert [each.table for each in touched(approval_requested("apr_1"))] == [APPROVALS]


def fold(tx: Transaction, *events: JournalEvent) -> None:
    """Append events of a run to session ``s`` and write what comes of them."""
    session = tx.get(SESSIONS, "s")
    fold = SessionWriter(tx, "s", session=session)
    if session is None:
        fold.append(SessionCreated(agent="default"))
    for event in events:
        fold.append(event, run_id="r")
    fold.write()


def test_index_rows_are_the_difference(store: Store) -> None:
    """What no longer holds goes, what holds anew comes, what holds still is not touched."""
    update(store, lambda tx: fold(tx, approval_requested("apr_1", expires_at_ms=5)))
    with store.read() as snapshot:
        assert list(snapshot.scan(APPROVALS_WAITING)) == [((2,), "apr_1")]
        assert [key for key, _ in snapshot.scan(DEADLINES)] == [(5, "approval", "apr_1")]

    def answer(tx: Transaction) -> frozenset[str]:
        before = frozenset(tx.rung)
        fold(tx, ApprovalAnswered(approval_id="apr_1", call_id="c0", decision="allow"))
        return frozenset(tx.rung) - before

    rung = update(store, answer)
    assert {APPROVALS.name, APPROVALS_WAITING.name, DEADLINES.name} <= rung
    assert {RECORDS_BY_SESSION.name, RECORDS_BY_RUN.name}.isdisjoint(rung)
    with store.read() as snapshot:
        assert (snapshot.count(APPROVALS_WAITING), snapshot.count(DEADLINES)) == (0, 0)
        assert snapshot.get(RECORDS_BY_RUN, "r", "approval", 2) == "apr_1"


def test_one_that_comes_and_goes_in_one_transaction(store: Store) -> None:
    """Its record stays; of what it was in between there is no trace in the indexes."""
    events = (
        indoubt_opened("dbt_1"),
        IndoubtResolved(indoubt_id="dbt_1", call_id="c", tool="t", outcome="done"),
    )
    update(store, lambda tx: fold(tx, *events))
    with store.read() as snapshot:
        record = snapshot.get(INDOUBTS, "dbt_1")
    assert record is not None
    assert record.status == "done"
    assert examine_whole(store.read, deep=True).findings == []


def test_an_event_about_nothing_is_refused(store: Store) -> None:
    """It would leave the record without a beginning, so nothing of its transaction is kept."""
    with pytest.raises(AssertionError, match="first event"):
        update(store, lambda tx: fold(tx, ApprovalLapsed(approval_id="apr_9", call_id="c", how="expired")))
    with store.read() as snapshot:
        assert snapshot.last_cursor == 0


def test_what_changes_nothing_writes_nothing(store: Store) -> None:
    """A second answer leaves the record's row alone."""
    answered = ApprovalAnswered(approval_id="apr_1", call_id="c0", decision="allow")
    update(store, lambda tx: fold(tx, approval_requested("apr_1"), answered))

    def again(tx: Transaction) -> frozenset[str]:
        before = frozenset(tx.rung)
        changes = Changes(tx)
        changes.fold(Envelope(cursor=9, at_ms=9, session_id="s", run_id="r"), answered)
        changes.write()
        return frozenset(tx.rung) - before

    assert update(store, again) == frozenset()


# Replaying.


def replayed(store: Store, stream: str, kept: Replayed) -> list[tuple[Any, ...]]:
    """The rows that a replay of a stream expects, in order."""
    found: list[tuple[Any, ...]] = []
    with store.read() as snapshot:
        for _, line in snapshot.entries(stream):
            event = decode_event(line)
            assert not isinstance(event, Unknown)
            found += kept.fold(snapshot, decode_envelope(line), event)
        found += kept.rest()
        for table, key, expected in found:
            assert snapshot.get(table, *key) == expected
    return found


def test_a_replay_keeps_what_may_change(store: Store) -> None:
    """What was answered or settled is given at once and forgotten; the others are given at the end."""
    session_with_runs(store, "ses_f", "withdrawn", "doubted", "settled", "asking")
    kept = Replayed("ses_f")
    rows = replayed(store, "ses_f", kept)
    assert len(kept) == 3
    assert sorted(key[0] for table, key, _ in rows if table is APPROVALS) == [
        "apr_run_ses_f_0",
        "apr_run_ses_f_3",
    ]


def test_a_replay_puts_aside_what_is_too_much(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never holds more than so many records, and finds out all the same what each must be."""
    monkeypatch.setattr(projections, "MAX_KEPT", 4)
    names = [f"dbt_{number:02}" for number in range(20)]
    update(store, lambda tx: fold(tx, *map(indoubt_opened, names)))
    settled = [IndoubtResolved(indoubt_id=name, call_id="c", tool="t", outcome="done") for name in names[::3]]
    update(store, lambda tx: fold(tx, *settled))
    kept, most = Replayed("s"), 0
    with store.read() as snapshot:
        rows: list[tuple[Any, ...]] = []
        for _, line in snapshot.entries("s"):
            event = decode_event(line)
            assert not isinstance(event, Unknown)
            rows += kept.fold(snapshot, decode_envelope(line), event)
            most = max(most, len(kept))
        rows += kept.rest()
        assert most == 4
        assert all(snapshot.get(table, *key) == expected for table, key, expected in rows)
        assert {key[0] for table, key, _ in rows if table is INDOUBTS} == set(names)
    assert examine_whole(store.read, deep=True).findings == []


# Any history.

ASKED = (
    lambda name: approval_requested(f"apr_{name}", expires_at_ms=NOW_MS + name),
    lambda name: approval_requested(f"apr_{name}"),
    lambda name: question_asked(f"qst_{name}", expires_at_ms=NOW_MS + name),
    lambda name: indoubt_opened(f"dbt_{name}"),
    lambda name: task_created(f"tsk_{name}", f"tsk_{name - 1}"),
    lambda name: task_created(f"shl_{name}", shell=True),
)


def ends(record_id: str) -> list[JournalEvent]:
    """Every event that may follow the beginning of an object."""
    about: dict[str, list[JournalEvent]] = {
        "apr": [
            ApprovalAnswered(approval_id=record_id, call_id="c", decision="allow", updated_input={"a": 1}),
            ApprovalAnswered(approval_id=record_id, call_id="c", decision="deny", note="no"),
            ApprovalLapsed(approval_id=record_id, call_id="c", how="renewed"),
        ],
        "qst": [
            QuestionAnswered(question_id=record_id, call_id="c", declined=True),
            QuestionLapsed(question_id=record_id, call_id="c", how="expired"),
        ],
        "dbt": [
            IndoubtResolved(indoubt_id=record_id, call_id="c", tool="t", outcome="done"),
            IndoubtResolved(indoubt_id=record_id, call_id="c", tool="t", outcome="not_done"),
        ],
        "tsk": [
            TaskUpdated(task_id=record_id, title="another", blocked_by=["tsk_0", "tsk_1"]),
            TaskUpdated(task_id=record_id, status="completed", output="x"),
            TaskDeleted(task_id=record_id),
        ],
        "shl": [
            TaskStarted(task_id=record_id, pid=1, start_ticks=2),
            TaskStopRequested(task_id=record_id),
            TaskStalled(task_id=record_id),
            task_ended(record_id),
            TaskDeleted(task_id=record_id),
        ],
    }
    return about[record_id[:3]]


class Histories(RuleBasedStateMachine):
    """Objects asked for and answered in any order; after each step, which is a prefix of what follows, every
    table is what folding the journal gives, and the doctor finds nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.store = opened(Path(self.directory.name) / "state")
        self.names: list[str] = []

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.store.close()
        self.directory.cleanup()

    @rule(make=sampled_from(ASKED))
    def ask(self, make: Any) -> None:
        """Something waits for a person."""
        event = make(len(self.names))
        update(self.store, lambda tx: fold(tx, event))
        self.names += [each.id_of(event) for each in touched(event)]

    @precondition(lambda self: self.names)
    @rule(draw=data())
    def answer(self, draw: Any) -> None:
        """Somebody answers, perhaps not for the first time, perhaps twice at once."""
        events = [
            draw.draw(sampled_from(ends(draw.draw(sampled_from(self.names)))))
            for _ in range(draw.draw(integers(1, 2)))
        ]
        update(self.store, lambda tx: fold(tx, *events))

    @precondition(lambda self: self.names)
    @rule()
    def end(self) -> None:
        """The run is over; what is about its objects may go on."""
        update(self.store, lambda tx: fold(tx, RunEnded(outcome="completed")))

    @invariant()
    def tables_are_what_the_journal_says(self) -> None:
        """Records by folding, indexes by their definition, and nothing besides."""
        with self.store.read() as snapshot:
            records = self.folded(snapshot)
            rows: set[IndexRow] = set()
            for projection in PROJECTIONS:
                mine = {key: value for (kind, key), value in records.items() if kind == projection.kind}
                assert dict(snapshot.scan(projection.table)) == {(key,): value for key, value in mine.items()}
                rows = rows.union(*(projection.rows(record) for record in mine.values()))
            for table in {index for projection in PROJECTIONS for index in projection.indexes}:
                found = {IndexRow(table, key, value) for key, value in snapshot.scan(table)}
                assert found == {row for row in rows if row.table is table}
        assert examine_whole(self.store.read, deep=True).findings == []

    def folded(self, snapshot: Any) -> dict[tuple[str, str], Any]:
        """Every record, from the journal alone."""
        records: dict[tuple[str, str], Any] = {}
        for _, line in snapshot.entries("s"):
            envelope, event = decode_envelope(line), decode_event(line)
            assert not isinstance(event, Unknown)
            for projection in touched(event):
                name = (projection.kind, projection.id_of(event))
                records[name] = _evolved(projection, records.get(name), envelope, event)
        return records


def _evolved(projection: Projection[Any], record: Any, envelope: Envelope, event: Any) -> Any:
    return projection.evolve(record, envelope, event)


Histories.TestCase.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
TestHistories = Histories.TestCase
