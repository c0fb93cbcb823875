"""Writers: after any changes, the records and index rows are those that the journal gives."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import data, integers, sampled_from

from kheishd.core import session as session_rules
from kheishd.core.run import machine as run_machine
from kheishd.core.run.commands import Command, RequestCancel, Start
from kheishd.core.run.record import RunRecord
from kheishd.records.doctor import examine_whole
from kheishd.records.projection import SESSION_STREAMS, IndexRow
from kheishd.records.registry import PROJECTIONS, REGISTRY
from kheishd.records.writer import BY_DAEMON, Changes, Origin, SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.table import Key, Table
from kheishd.store.tables import (
    APPROVALS,
    APPROVALS_WAITING,
    CHECKPOINTS,
    CHILDREN,
    DEADLINES,
    INDOUBTS,
    RECORDS_BY_RUN,
    RECORDS_BY_SESSION,
    RUNS,
    RUNS_BY_SESSION,
    RUNS_CANCELLED,
    RUNS_READY,
    SESSIONS,
)
from kheishd.store.writer import Store
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed
from protocol.events.indoubt import IndoubtResolved
from protocol.events.question import QuestionAnswered, QuestionLapsed
from protocol.events.run import InputReceived, RunAccepted, RunEnded
from protocol.events.session import SessionCreated, SessionRenamed
from protocol.events.task import TaskDeleted, TaskStalled, TaskStarted, TaskStopRequested, TaskUpdated
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent, Unknown, decode_envelope, decode_event
from protocol.limits.store import MAX_BEGIN_BYTES, MAX_UPDATE_BYTES
from protocol.objects.run import ENDED, SETTLED
from protocol.objects.session import Session
from protocol.transcript import Text
from tests.support.histories import (
    approval_requested,
    indoubt_opened,
    question_asked,
    task_created,
    task_ended,
)
from tests.support.machine import acceptance, possible_commands
from tests.support.stores import NOW_MS, open_inline, update


def begin(tx: Transaction, session_id: str, parent: str | None = None) -> None:
    """Create a session."""
    writer = SessionWriter(tx, session_id, session=None)
    writer.append(SessionCreated(agent="default", parent_session_id=parent))
    writer.write()


def accept(tx: Transaction, session_id: str, run_id: str, origin: Origin = BY_DAEMON) -> RunRecord:
    """Append an input and its run."""
    writer = SessionWriter(tx, session_id, session=tx.get(SESSIONS, session_id), origin=origin)
    writer.append(InputReceived(input_id="inp_1", items=[Text("x")]), run_id=run_id)
    writer.append(acceptance(), run_id=run_id)
    writer.write()
    return writer.run


def perform(tx: Transaction, run_id: str, command: Command) -> None:
    """Carry out a command on a run."""
    run = tx.need(RUNS, run_id)
    writer = SessionWriter(tx, run.session_id, session=tx.get(SESSIONS, run.session_id), run=run)
    writer.carry_out(command)
    writer.write()


def test_an_event_says_who_caused_it(store: Store) -> None:
    """A writer's origin is in every envelope, and the run's id in those of its run."""
    origin = Origin("token:tok_1", "ann", "req-7")
    update(store, lambda tx: begin(tx, "s"))
    update(store, lambda tx: accept(tx, "s", "r", origin))
    with store.read() as snapshot:
        envelopes = [decode_envelope(line) for _, line in snapshot.entries("s")]
    assert envelopes[0] == Envelope(cursor=1, at_ms=NOW_MS, session_id="s")
    assert [(e.actor, e.on_behalf_of, e.request_id, e.run_id) for e in envelopes[1:]] == [
        ("token:tok_1", "ann", "req-7", "r")
    ] * 2


def test_a_record_is_folded_from_what_was_stored(store: Store) -> None:
    """A secret that is redacted in an event is not in the record either."""
    store.set_scrub(lambda line: line.replace(b"hunter2", b"[...]"))

    def rename(tx: Transaction) -> Session:
        writer = SessionWriter(tx, "s", session=tx.get(SESSIONS, "s"))
        writer.append(SessionRenamed(title="my hunter2"))
        writer.write()
        return writer.session

    update(store, lambda tx: begin(tx, "s"))
    assert update(store, rename).title == "my [...]"
    with store.read() as snapshot:
        session = snapshot.need(SESSIONS, "s")
    assert session.title == "my [...]"


@pytest.mark.parametrize(
    ("commands", "filled", "begins"),
    [
        ([Start()], 0, True),
        ([Start()], MAX_UPDATE_BYTES - MAX_BEGIN_BYTES, False),
        ([Start(), RequestCancel("cancelled")], 0, False),
    ],
)
def test_a_model_call_begins_if_it_is_due_and_fits(
    store: Store, commands: list[Command], filled: int, begins: bool
) -> None:
    """A started run asks the model unless a stop is requested, or the transaction is too full."""
    update(store, lambda tx: begin(tx, "ses_1"))
    update(store, lambda tx: accept(tx, "ses_1", "run_1"))

    def start(tx: Transaction) -> bool:
        tx.put(CHECKPOINTS, "ses_1", 1, value=bytes(filled))
        session = tx.get(SESSIONS, "ses_1")
        writer = SessionWriter(tx, "ses_1", session=session, run=tx.need(RUNS, "run_1"))
        for command in commands:
            writer.carry_out(command)
        has_begun = writer.begin_model_call("itm_1")
        writer.write()
        return has_begun

    assert update(store, start) is begins
    with store.read() as snapshot:
        assert (snapshot.need(RUNS, "run_1").item_id == "itm_1") is begins


def test_nothing_changed_is_nothing_written(store: Store) -> None:
    """A writer without events touches no table."""
    update(store, lambda tx: begin(tx, "s"))

    def nothing(tx: Transaction) -> frozenset[str]:
        previous = frozenset(tx.rung)
        SessionWriter(tx, "s", session=tx.get(SESSIONS, "s")).write()
        return frozenset(tx.rung) - previous

    assert update(store, nothing) == frozenset()


def write_events(tx: Transaction, *events: JournalEvent) -> None:
    """Append events of a run to session ``s`` and write what comes of them."""
    session = tx.get(SESSIONS, "s")
    writer = SessionWriter(tx, "s", session=session)
    if session is None:
        writer.append(SessionCreated(agent="default"))
    for event in events:
        writer.append(event, run_id="r")
    writer.write()


def test_index_rows_are_the_difference(store: Store) -> None:
    """Only the differences of index rows are written."""
    update(store, lambda tx: write_events(tx, approval_requested("apr_1", expires_at_ms=5)))
    with store.read() as snapshot:
        assert list(snapshot.scan(APPROVALS_WAITING)) == [((2,), "apr_1")]
        assert [key for key, _ in snapshot.scan(DEADLINES)] == [(5, "approval", "apr_1")]

    def answer(tx: Transaction) -> frozenset[str]:
        previous = frozenset(tx.rung)
        write_events(tx, ApprovalAnswered(approval_id="apr_1", call_id="c0", decision="allow"))
        return frozenset(tx.rung) - previous

    rung = update(store, answer)
    assert {APPROVALS.name, APPROVALS_WAITING.name, DEADLINES.name} <= rung
    assert {RECORDS_BY_SESSION.name, RECORDS_BY_RUN.name}.isdisjoint(rung)
    with store.read() as snapshot:
        assert (snapshot.count(APPROVALS_WAITING), snapshot.count(DEADLINES)) == (0, 0)
        assert snapshot.get(RECORDS_BY_RUN, "r", "approval", 2) == "apr_1"


def test_one_that_comes_and_goes_in_one_transaction(store: Store) -> None:
    """A record that is opened and resolved in one transaction leaves no row among the open ones."""
    events = (
        indoubt_opened("dbt_1"),
        IndoubtResolved(indoubt_id="dbt_1", call_id="c", tool="t", outcome="done"),
    )
    update(store, lambda tx: write_events(tx, *events))
    with store.read() as snapshot:
        record = snapshot.need(INDOUBTS, "dbt_1")
    assert record.status == "done"
    assert examine_whole(store.read, deep=True).findings == []


def test_an_event_about_nothing_is_refused(store: Store) -> None:
    """An event of a record that never began rolls its transaction back."""
    lapsed = ApprovalLapsed(approval_id="apr_9", call_id="c", how="expired")
    with pytest.raises(AssertionError, match="first event"):
        update(store, lambda tx: write_events(tx, lapsed))
    with store.read() as snapshot:
        assert snapshot.last_cursor == 0


def test_what_changes_nothing_writes_nothing(store: Store) -> None:
    """A second answer writes no row."""
    answered = ApprovalAnswered(approval_id="apr_1", call_id="c0", decision="allow")
    update(store, lambda tx: write_events(tx, approval_requested("apr_1"), answered))

    def again(tx: Transaction) -> frozenset[str]:
        previous = frozenset(tx.rung)
        changes = Changes(tx)
        projections = REGISTRY.find("s", answered)
        changes.fold(projections, Envelope(cursor=9, at_ms=9, session_id="s", run_id="r"), answered)
        changes.write()
        return frozenset(tx.rung) - previous

    assert update(store, again) == frozenset()


class Sessions(RuleBasedStateMachine):
    """Sessions and runs changed in any order; after each step every table is what the journal gives."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.store = open_inline(Path(self.directory.name) / "state")
        self.sessions: list[str] = []
        self.runs: list[str] = []

    def teardown(self) -> None:
        """Remove the store."""
        self.store.close()
        self.directory.cleanup()

    @initialize()
    def first(self) -> None:
        """Create a session to begin with."""
        self.create(0)

    @rule(parent=integers(0, 5))
    def create(self, parent: int) -> None:
        """Create a session, perhaps a child."""
        session_id = f"s{len(self.sessions)}"
        above = self.sessions[parent] if parent < len(self.sessions) else None
        update(self.store, lambda tx: begin(tx, session_id, above))
        self.sessions.append(session_id)

    @rule(draw=data())
    def send(self, draw: Any) -> None:
        """Send an input to any session."""
        session_id = draw.draw(sampled_from(self.sessions))
        run_id = f"r{len(self.runs)}"
        update(self.store, lambda tx: accept(tx, session_id, run_id))
        self.runs.append(run_id)

    @precondition(lambda self: self.open_runs())
    @rule(draw=data())
    def act(self, draw: Any) -> None:
        """Carry out any command that any run accepts."""
        run = draw.draw(sampled_from(self.open_runs()))
        command = draw.draw(sampled_from(possible_commands(run)))
        update(self.store, lambda tx: perform(tx, run.run_id, command))

    def open_runs(self) -> list[RunRecord]:
        """Return the runs that have not ended."""
        return [run for run in self.read(RUNS).values() if run.status not in ENDED]

    def read(self, table: Any) -> dict[Any, Any]:
        """Return all rows of a table."""
        with self.store.read() as snapshot:
            return dict(snapshot.scan(table))

    @invariant()
    def tables_are_what_the_journal_says(self) -> None:
        """Compare the tables with the fold of the journal and the rows that follow from it."""
        sessions, runs = self.folded()
        assert self.read(SESSIONS) == {(key,): value for key, value in sessions.items()}
        assert self.read(RUNS) == {(key,): value for key, value in runs.items()}
        assert self.read(CHILDREN) == {
            (session.parent_session_id, session.session_id): b""
            for session in sessions.values()
            if session.parent_session_id is not None
        }
        assert self.read(RUNS_BY_SESSION) == {
            (run.session_id, run.accepted_cursor): run.run_id for run in runs.values()
        }
        first = [runs[session.open_runs[0]] for session in sessions.values() if session.open_runs]
        assert self.read(RUNS_READY) == {
            (run.accepted_cursor,): run.run_id for run in first if run.status not in SETTLED
        }
        assert self.read(RUNS_CANCELLED) == {
            (run.accepted_cursor,): run.run_id
            for run in runs.values()
            if run.cancel is not None and run.status not in ENDED
        }

    @invariant()
    def lines_are_in_order(self) -> None:
        """Require the open runs of a session to be those that have not ended, by acceptance."""
        runs = self.read(RUNS)
        for (session_id,), session in self.read(SESSIONS).items():
            mine = [run for run in runs.values() if run.session_id == session_id and run.status not in ENDED]
            ordered = sorted(mine, key=lambda run: int(run.accepted_cursor))
            assert session.open_runs == [run.run_id for run in ordered]

    def folded(self) -> tuple[dict[str, Session], dict[str, RunRecord]]:
        """Return every record, from the journal alone."""
        sessions: dict[str, Session] = {}
        runs: dict[str, RunRecord] = {}
        with self.store.read() as snapshot:
            for session_id in self.sessions:
                for _, line in snapshot.entries(session_id):
                    envelope, event = decode_envelope(line), decode_event(line)
                    assert not isinstance(event, Unknown)
                    sessions[session_id] = session_rules.evolve(sessions.get(session_id), envelope, event)
                    run_id = envelope.run_id
                    if run_id is not None and (run_id in runs or isinstance(event, RunAccepted)):
                        runs[run_id] = run_machine.evolve(runs.get(run_id), envelope, event)
        return sessions, runs


Sessions.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestSessions = Sessions.TestCase


# Any history.

SESSION_PROJECTIONS = [projection for projection in PROJECTIONS if projection.stream == SESSION_STREAMS]
BEGINNINGS: tuple[tuple[str, Any], ...] = (
    ("apr", lambda number: approval_requested(f"apr_{number}", expires_at_ms=NOW_MS + number)),
    ("apr", lambda number: approval_requested(f"apr_{number}")),
    ("qst", lambda number: question_asked(f"qst_{number}", expires_at_ms=NOW_MS + number)),
    ("dbt", lambda number: indoubt_opened(f"dbt_{number}")),
    ("tsk", lambda number: task_created(f"tsk_{number}", f"tsk_{number - 1}")),
    ("shl", lambda number: task_created(f"shl_{number}", shell=True)),
)


def ends(record_id: str) -> list[JournalEvent]:
    """Return every event that may follow the beginning of an object."""
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
    """Objects that begin and change in any order; after each step every table is what the journal gives."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.store = open_inline(Path(self.directory.name) / "state")
        self.names: list[str] = []

    def teardown(self) -> None:
        """Remove the store."""
        self.store.close()
        self.directory.cleanup()

    @rule(beginning=sampled_from(BEGINNINGS))
    def begin(self, beginning: tuple[str, Any]) -> None:
        """Begin an object."""
        prefix, make = beginning
        number = len(self.names)
        update(self.store, lambda tx: write_events(tx, make(number)))
        self.names.append(f"{prefix}_{number}")

    @precondition(lambda self: self.names)
    @rule(draw=data())
    def answer(self, draw: Any) -> None:
        """Change an object, perhaps not for the first time, perhaps twice at once."""
        events = [
            draw.draw(sampled_from(ends(draw.draw(sampled_from(self.names)))))
            for _ in range(draw.draw(integers(1, 2)))
        ]
        update(self.store, lambda tx: write_events(tx, *events))

    @precondition(lambda self: self.names)
    @rule()
    def end(self) -> None:
        """End the run; its objects may still change."""
        update(self.store, lambda tx: write_events(tx, RunEnded(outcome="completed")))

    @invariant()
    def tables_are_what_the_journal_says(self) -> None:
        """Compare the tables with the fold of the journal and the rows that follow from it."""
        with self.store.read() as snapshot:
            records = self.folded(snapshot)
            rows: set[IndexRow] = set()
            for projection in SESSION_PROJECTIONS:
                mine = {key: value for (table, key), value in records.items() if table is projection.table}
                assert dict(snapshot.scan(projection.table)) == mine
                rows = rows.union(*(projection.rows(record) for record in mine.values()))
            for table in {index for projection in SESSION_PROJECTIONS for index in projection.indexes}:
                stored = {IndexRow(table, key, value) for key, value in snapshot.scan(table)}
                assert stored == {row for row in rows if row.table is table}
        assert examine_whole(self.store.read, deep=True).findings == []

    def folded(self, snapshot: Any) -> dict[tuple[Table[Any], Key], Any]:
        """Return every record, from the journal alone."""
        records: dict[tuple[Table[Any], Key], Any] = {}
        for _, line in snapshot.entries("s"):
            envelope, event = decode_envelope(line), decode_event(line)
            assert not isinstance(event, Unknown)
            for projection in REGISTRY.find("s", event):
                key = projection.key(envelope, event)
                if key is None:
                    continue
                record = records.get((projection.table, key))
                if record is not None or not projection.strays or isinstance(event, projection.begins):
                    records[projection.table, key] = projection.evolve(record, envelope, event)
        return records


Histories.TestCase.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
TestHistories = Histories.TestCase
