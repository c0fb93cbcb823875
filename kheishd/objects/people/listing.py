"""Look up and list the requests to people: approvals, questions and in-doubt calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from kheishd.kernel.call import origin_of
from kheishd.objects.pages import PageTokens, cursor_after, page_of
from kheishd.objects.talk.address import find_run, find_session, may_read_run
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import RECORDS_BY_RUN, RECORDS_BY_SESSION, RUNS, SESSIONS
from protocol.errors.run import RunNotFound
from protocol.events.run import MessageAppended
from protocol.journal.line import JournalEvent, Unknown, decode_event
from protocol.objects.approval import Approval
from protocol.objects.question import QuestionRequest
from protocol.transcript import ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.call import Call
    from kheishd.records.projection import Projection
    from kheishd.store.environment import Snapshot, Transaction
    from kheishd.store.table import Table


class RunScoped(Protocol):
    """A record that belongs to a run."""

    @property
    def session_id(self) -> str:
        """The run's session."""
        ...

    @property
    def run_id(self) -> str:
        """The run."""
        ...

    @property
    def created_cursor(self) -> int:
        """The cursor of the event that created it."""
        ...

    @property
    def status(self) -> str:
        """The state of the record."""
        ...


class RunScopedListParams(Protocol):
    """The params of a list of such records."""

    @property
    def session_id(self) -> str | None:
        """Filter: the session."""
        ...

    @property
    def run_id(self) -> str | None:
        """Filter: the run."""
        ...

    @property
    def status(self) -> str:
        """Filter: the status, or ``any``."""
        ...

    @property
    def limit(self) -> int:
        """Maximum rows per page."""
        ...

    @property
    def after(self) -> str | None:
        """The ``next`` of the previous page."""
        ...


class PendingIndex(NamedTuple):
    """The index of a type's pending records, and the status of those.

    ``in_slot``: a record is pending only while its run holds its session's slot.
    """

    status: str
    table: Table[str]
    in_slot: bool


R = TypeVar("R", bound=RunScoped)
V = TypeVar("V")


def find_record(store: Snapshot, call: Call, projection: Projection[R], record_id: str) -> R | None:
    """Return a record that the caller may read; None also for one that its token does not cover."""
    record = store.get(projection.table, record_id)
    return record if record is not None and _may_read(store, call, record) else None


def _may_read(store: Snapshot, call: Call, record: RunScoped) -> bool:
    """Whether the caller may read a record of a run, or is named in its audience and covers the agent."""
    if call.caller.is_unrestricted:
        return True
    run = store.get(RUNS, record.run_id)
    if run is None:
        return False
    if isinstance(record, Approval | QuestionRequest) and record.audience is not None:
        named = set(record.audience.people or []) & (call.caller.senders or frozenset())
        if named and call.caller.may_read_agent(run.agent):
            return True
    return may_read_run(store, call, run)


def list_records(
    store: Snapshot,
    call: Call,
    projection: Projection[R],
    params: RunScopedListParams,
    *,
    pending: PendingIndex,
    view_of: Callable[[R], V],
) -> tuple[list[V], str | None]:
    """Return a page of views, oldest first, and the token of the next page.

    Errors: SessionNotFound, RunNotFound, InvalidParams for an ``after`` that is no page token.
    """

    def select(record: R | None) -> V | None:
        if record is None or params.status not in ("any", record.status):
            return None
        return view_of(record) if _may_read(store, call, record) else None

    index, prefix = _choose_index(store, call, projection, params, pending)
    if index is None:
        tokens = PageTokens(call)
        last_id = tokens.id_of(params.after)
        records = store.scan(projection.table, after=(last_id,) if last_id is not None else None)
        views = ((key, select(record)) for key, record in records)
        return page_of(views, params.limit, lambda view: True, tokens.token_of)
    cursor = cursor_after(params.after)
    indexed = store.scan(index, *prefix, after=(*prefix, cursor) if cursor is not None else None)
    views = ((key, select(store.get(projection.table, record_id))) for key, record_id in indexed)
    return page_of(views, params.limit, lambda view: True)


def _choose_index(
    store: Snapshot,
    call: Call,
    projection: Projection[Any],
    params: RunScopedListParams,
    pending: PendingIndex,
) -> tuple[Table[str] | None, tuple[str, ...]]:
    """Return the shortest index that holds every matching row, and its prefix; None: all records, by id."""
    is_pending = params.status == pending.status
    if params.run_id is not None:
        run = find_run(store, call, params.run_id)
        if params.session_id not in (None, run.session_id):
            raise RunNotFound(f"there is no run '{params.run_id}'", field="$.params.run_id")
        return RECORDS_BY_RUN, (run.run_id, projection.kind)
    if params.session_id is not None:
        session = find_session(store, call, params.session_id)
        if is_pending and pending.in_slot:
            # Without an open run nothing is pending: no run has an empty id.
            return RECORDS_BY_RUN, ("".join(session.open_runs[:1]), projection.kind)
        return RECORDS_BY_SESSION, (session.session_id, projection.kind)
    return (pending.table if is_pending else None), ()


def writer_of(tx: Transaction, call: Call, run: RunRecord, on_behalf_of: str | None = None) -> SessionWriter:
    """Return a writer of a run and its session, for changes by a caller, perhaps for a sender."""
    session = tx.need(SESSIONS, run.session_id)
    return SessionWriter(tx, run.session_id, session=session, run=run, origin=origin_of(call, on_behalf_of))


class EventReader:
    """A reader of the events that records refer to.

    It keeps the last message, because the calls of one message are read one by one.
    """

    def __init__(self, store: Snapshot) -> None:
        self._store = store
        self._message: tuple[str, int] | None = None
        self._calls: list[ToolCall] = []

    def event(self, session_id: str, cursor: int) -> JournalEvent | Unknown | None:
        """Return the event at a cursor of a session; None where there is none."""
        entry = self._store.entry(session_id, cursor)
        return decode_event(entry[1]) if entry is not None else None

    def arguments(self, session_id: str, cursor: int, index: int) -> dict[str, Any]:
        """Return the arguments of a tool call, by its index in the message; empty where there is none."""
        if self._message != (session_id, cursor):
            event = self.event(session_id, cursor)
            items = event.message.items if isinstance(event, MessageAppended) else []
            self._calls = [item for item in items if isinstance(item, ToolCall)]
            self._message = (session_id, cursor)
        return self._calls[index].arguments if index < len(self._calls) else {}
