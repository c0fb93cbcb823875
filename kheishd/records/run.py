"""Records of runs, their pinned values, and the index of the runs that are ready for a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from kheishd.core.event import listener_key
from kheishd.core.run import machine
from kheishd.records.projection import DerivedIndex, IndexRow, Projection, key_of_run
from kheishd.records.session import SESSION_RECORDS
from kheishd.store.tables import (
    BUS_LISTENERS,
    RUNS,
    RUNS_BY_SESSION,
    RUNS_CANCELLED,
    RUNS_READY,
    RUNS_TO_CONCLUDE,
)
from protocol.events.run import RunAccepted
from protocol.journal.line import decode_event
from protocol.objects.run import ENDED, SETTLED

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.records.projection import RecordReader
    from kheishd.store.environment import Snapshot
    from protocol.objects.run import Pinned
    from protocol.objects.session import Session


def must_be_concluded(run: RunRecord) -> bool:
    """Whether the run has ended, and its mail or the report of its end is not settled."""
    return run.status in ENDED and (run.mail > 0 or run.reports)


def is_final(run: RunRecord) -> bool:
    """Whether no event changes the run any more."""
    return run.status in ENDED and not must_be_concluded(run)


def index_rows(run: RunRecord) -> frozenset[IndexRow]:
    """Return the index rows of a run: in its session, by the events that it awaits, and for its end."""
    by_session = IndexRow(RUNS_BY_SESSION, (run.session_id, run.accepted_cursor), run.run_id)
    if run.awaited:
        listens = (IndexRow(BUS_LISTENERS, (*listener_key(row.source), run.run_id)) for row in run.awaited)
        return frozenset((*listens, *index_rows(replace(run, awaited=[]))))
    if must_be_concluded(run):
        # No event after the end changes this cursor.
        return frozenset((by_session, IndexRow(RUNS_TO_CONCLUDE, (run.updated_cursor,), run.run_id)))
    if run.cancel is None or run.status in ENDED:
        return frozenset((by_session,))
    return frozenset((by_session, IndexRow(RUNS_CANCELLED, (run.accepted_cursor,), run.run_id)))


RUN_RECORDS: Final = Projection(
    kind="run",
    table=RUNS,
    begins=RunAccepted,
    events=None,
    key=key_of_run,
    evolve=machine.evolve,
    source=lambda store, key, run: (run.session_id, run.accepted_cursor),
    final=is_final,
    rows=index_rows,
    indexes=(RUNS_BY_SESSION, RUNS_CANCELLED, RUNS_TO_CONCLUDE, BUS_LISTENERS),
    # The session limits its queue. A run's input names the run before its acceptance, and an operator may
    # resolve a call in doubt after its end.
    bounded=True,
    strays=True,
)


def read_pinned(store: Snapshot, run: RunRecord) -> Pinned:
    """Return the values that a run pinned. Only the event of its acceptance contains them.

    Errors: StoreDamaged if the journal is damaged there; in maintenance AssertionError, msgspec.DecodeError.
    """
    try:
        entry = store.entry(run.session_id, run.accepted_cursor)
        event = decode_event(entry[1]) if entry is not None else None
        assert isinstance(event, RunAccepted), "it is not in the journal"
    except (AssertionError, msgspec.DecodeError) as error:
        raise store.explain(error, f"the acceptance of run {run.run_id}") from None
    return event.pinned


def ready_rows(records: RecordReader, session: Session) -> frozenset[IndexRow]:
    """Return the row of a session's first open run, unless that run waits for a person, or for a worktree."""
    if session.preparing or not session.open_runs:
        return frozenset()
    run = records.get(RUNS, session.open_runs[0])
    if run is None or run.status in SETTLED:
        return frozenset()
    return frozenset((IndexRow(RUNS_READY, (run.accepted_cursor,), run.run_id),))


READY_RUNS: Final = DerivedIndex(
    table=RUNS_READY,
    owner=SESSION_RECORDS,
    rows=ready_rows,
    source=RUN_RECORDS,
    owner_key=lambda run: (run.session_id,),
    decisive=lambda session: (session.open_runs[0],) if session.open_runs and not session.preparing else None,
)
