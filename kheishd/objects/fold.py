"""The one way a session, its runs and what they are about change: append events, fold them, write records.

Because nothing else writes these records, a record is always what folding its events gives, and the
doctor can prove it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from kheishd.core import session as session_rules
from kheishd.core.run import machine as run_machine
from kheishd.kernel.projections import Changes
from kheishd.store.tables import (
    CHILDREN,
    PINNED,
    RUNS,
    RUNS_BY_SESSION,
    RUNS_CANCELLED,
    RUNS_READY,
    SESSIONS,
)
from protocol.events.run import RunAccepted
from protocol.objects.run import ENDED, SETTLED

if TYPE_CHECKING:
    from kheishd.core.run.commands import Command
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.call import Call
    from kheishd.store.environment import Transaction
    from protocol.journal.envelope import Envelope
    from protocol.journal.line import JournalEvent
    from protocol.objects.run import Pinned
    from protocol.objects.session import Session


@dataclass(frozen=True, slots=True)
class Origin:
    """Who causes an event: the daemon itself, or a caller with a request."""

    actor: str = "daemon"
    on_behalf_of: str | None = None
    request_id: str | int | None = None


def origin_of(call: Call, on_behalf_of: str | None = None) -> Origin:
    """The origin of what a call causes."""
    return Origin(call.caller.principal, on_behalf_of, call.request_id)


BY_DAEMON = Origin()


class _Ready(NamedTuple):
    """A row of the list of runs that a worker may take up."""

    run_id: str
    accepted_cursor: int


class SessionWriter:
    """A session, perhaps one of its runs, and the transaction in which they change.

    Records of other types that an event is about are changed along with them.

    ``append`` as often as needed, then ``write`` once; in between, ``session`` and ``run`` are as the
    events so far leave them.
    """

    def __init__(
        self,
        tx: Transaction,
        session_id: str,
        *,
        session: Session | None,
        run: RunRecord | None = None,
        pinned: Pinned | None = None,
        origin: Origin = BY_DAEMON,
    ) -> None:
        self.tx = tx
        self.session_id = session_id
        self.origin = origin
        self._session_before = session
        self._session = session
        self._run_before = run
        self._run = run
        self._pinned = pinned
        self._changes = Changes(tx)

    @property
    def session(self) -> Session:
        """The session as it is now. Errors: AssertionError before its first event."""
        assert self._session is not None
        return self._session

    @property
    def run(self) -> RunRecord:
        """The run as it is now. Errors: AssertionError where there is none."""
        assert self._run is not None
        return self._run

    @property
    def pinned(self) -> Pinned:
        """The values that the run pinned when it was accepted."""
        if self._pinned is None:
            self._pinned = self.tx.need(PINNED, self.run.run_id)
        return self._pinned

    def carry_out(self, command: Command) -> None:
        """Append the events by which the run carries out a command.

        Errors: RunAlreadyEnded; AssertionError for a command that the run's state does not accept.
        """
        self.append_all(run_machine.decide(self.run, self.pinned, command))

    def append(self, event: JournalEvent, *, run_id: str | None = None) -> Envelope:
        """Append one event and fold it into the session and, if it is a run's, into the run."""
        run_id = run_id if run_id is not None else (self._run.run_id if self._run is not None else None)
        envelope, stored = self.tx.append(
            self.session_id,
            event,
            session_id=self.session_id,
            run_id=run_id,
            actor=self.origin.actor,
            on_behalf_of=self.origin.on_behalf_of,
            request_id=self.origin.request_id,
        )
        self._session = session_rules.evolve(self._session, envelope, stored)
        if self._run is not None or isinstance(stored, RunAccepted):
            self._run = run_machine.evolve(self._run, envelope, stored)
        if isinstance(stored, RunAccepted):
            self._pinned = stored.pinned
        self._changes.fold(envelope, stored)
        return envelope

    def append_all(self, events: list[JournalEvent]) -> None:
        """Append events in order."""
        for event in events:
            self.append(event)

    def write(self) -> None:
        """Write the records that changed and the indexes that follow from them."""
        if self._session is not self._session_before:
            self._write_session(self.session)
        if self._run is not self._run_before:
            self._write_run(self.run)
        self._write_ready()
        self._changes.write()

    def _write_session(self, session: Session) -> None:
        self.tx.put(SESSIONS, session.session_id, value=session)
        if self._session_before is None and session.parent_session_id is not None:
            self.tx.put(CHILDREN, session.parent_session_id, session.session_id, value=b"")

    def _write_run(self, run: RunRecord) -> None:
        self.tx.put(RUNS, run.run_id, value=run)
        if self._run_before is None:
            self.tx.put(PINNED, run.run_id, value=self.pinned)
            self.tx.put(RUNS_BY_SESSION, run.session_id, run.accepted_cursor, value=run.run_id)
        cancelled_before = self._run_before is not None and self._run_before.cancel is not None
        if run.cancel is not None and run.status not in ENDED and not cancelled_before:
            self.tx.put(RUNS_CANCELLED, run.accepted_cursor, value=run.run_id)
        if cancelled_before and run.status in ENDED:
            self.tx.delete(RUNS_CANCELLED, run.accepted_cursor)

    def _write_ready(self) -> None:
        """The first open run of the session is the worker's business, unless it waits for a person."""
        was, first = _first(self._session_before), _first(self._session)
        if was == first and (self._run is None or self._run.run_id != first):
            # Another run than this fold's, if any at all, and still the same.
            return
        before, now = self._ready(was, self._run_before), self._ready(first, self._run)
        if before == now:
            return
        if before is not None:
            self.tx.delete(RUNS_READY, before.accepted_cursor)
        if now is not None:
            self.tx.put(RUNS_READY, now.accepted_cursor, value=now.run_id)

    def _ready(self, first: str | None, known: RunRecord | None) -> _Ready | None:
        """The row of a session's first open run, if it is to have one; ``known`` may be its record."""
        if first is None:
            return None
        run = known if known is not None and known.run_id == first else self.tx.get(RUNS, first)
        assert run is not None, "an open run has its record"
        return None if run.status in SETTLED else _Ready(run.run_id, run.accepted_cursor)


def _first(session: Session | None) -> str | None:
    return session.open_runs[0] if session is not None and session.open_runs else None
