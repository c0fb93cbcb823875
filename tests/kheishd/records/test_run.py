"""Records of runs, the values they pinned, and the index of ready runs."""

import pytest
from msgspec.structs import replace

from kheishd.records.run import RUN_RECORDS, read_pinned
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import RUNS, RUNS_READY, SESSIONS
from kheishd.store.writer import Store
from protocol.errors.store import StoreDamaged
from protocol.events.approval import ApprovalRequested
from protocol.events.call import CallsJudged
from protocol.events.run import CancelRequested, MessageAppended, RunAccepted, RunEnded, RunStarted
from protocol.events.session import SessionCreated
from protocol.journal.line import JournalEvent
from protocol.transcript import Message, ToolCall
from tests.support.histories import PINNED as OFFLINE
from tests.support.histories import approval_requested, verdict
from tests.support.records import fold_record, index_rows
from tests.support.stores import update

ACCEPTED = RunAccepted(input_id="inp_1", agent="default", pinned=OFFLINE)


def test_a_run_is_listed_by_session_and_while_it_is_to_be_stopped() -> None:
    """The worker stops the runs that are listed as cancelled."""
    lasting = {"runs_by_session": [("s", 1)]}
    cancelled = CancelRequested(outcome="cancelled")
    assert index_rows(RUN_RECORDS, ACCEPTED) == lasting
    assert index_rows(RUN_RECORDS, ACCEPTED, RunStarted(starts=1), cancelled) == lasting | {
        "runs_cancelled": [(1,)]
    }
    ended = RunEnded(outcome="cancelled")
    assert index_rows(RUN_RECORDS, ACCEPTED, RunStarted(starts=1), cancelled, ended) == lasting
    assert RUN_RECORDS.final(fold_record(RUN_RECORDS, ACCEPTED, ended))


def write(store: Store, run_id: str, *events: JournalEvent) -> frozenset[str]:
    """Append events of a run to session ``s``; return the names of the tables that were written."""

    def change(tx: Transaction) -> frozenset[str]:
        previous = frozenset(tx.rung)
        session = tx.get(SESSIONS, "s")
        writer = SessionWriter(tx, "s", session=session)
        if session is None:
            writer.append(SessionCreated(agent="default"))
        for event in events:
            writer.append(event, run_id=run_id)
        writer.write()
        return frozenset(tx.rung) - previous

    return update(store, change)


def ready(store: Store) -> list[str]:
    """Return the runs that a worker may take up."""
    with store.read() as snapshot:
        return [run_id for _, run_id in snapshot.scan(RUNS_READY)]


def test_the_first_open_run_of_a_session_is_ready(store: Store) -> None:
    """A session's first open run is ready unless it waits for a person; when it ends, the next one is."""
    write(store, "r1", ACCEPTED)
    write(store, "r2", ACCEPTED)
    assert ready(store) == ["r1"]
    message = Message("assistant", [ToolCall("c0", "write", {})])
    asking = (
        RunStarted(starts=1),
        MessageAppended(item_id="itm_1", message=message),
        CallsJudged(item_id="itm_1", verdicts=[verdict("c0")]),
        approval_requested("apr_1"),
    )
    write(store, "r1", *asking)
    assert isinstance(asking[-1], ApprovalRequested)
    assert ready(store) == []
    write(store, "r1", RunEnded(outcome="cancelled"))
    assert ready(store) == ["r2"]
    write(store, "r2", RunEnded(outcome="cancelled"))
    assert ready(store) == []


def test_pinned_values_are_those_of_the_acceptance(store: Store) -> None:
    """Pinned values are written once, with the acceptance, and stay the same when the run goes on."""
    write(store, "r1", ACCEPTED)
    with store.read() as snapshot:
        accepted = snapshot.need(RUNS, "r1")
        assert read_pinned(snapshot, accepted) == OFFLINE
    write(store, "r1", RunStarted(starts=1))
    with store.read() as snapshot:
        assert read_pinned(snapshot, snapshot.need(RUNS, "r1")) == OFFLINE


def test_pinned_values_of_a_damaged_journal_are_an_error(store: Store) -> None:
    """A run whose acceptance is missing has no pinned values, and the store counts as damaged."""
    write(store, "r1", ACCEPTED)
    with store.read() as snapshot:
        run = replace(snapshot.need(RUNS, "r1"), accepted_cursor=999)
        with pytest.raises(StoreDamaged, match="acceptance of run r1"):
            read_pinned(snapshot, run)
    assert store.damage is not None


@pytest.mark.parametrize("event", [CancelRequested(outcome="cancelled"), RunStarted(starts=2)])
def test_an_event_after_the_end_changes_nothing(store: Store, event: JournalEvent) -> None:
    """An event before the acceptance or after the end changes no run."""
    write(store, "r1", event)
    write(store, "r1", ACCEPTED, RunEnded(outcome="completed"))
    assert RUNS.name not in write(store, "r1", event)
