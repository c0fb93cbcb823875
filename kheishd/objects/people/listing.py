"""What approvals, questions and calls in doubt have in common: who may read them, lists, a call's input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from kheishd.kernel.call import origin_of
from kheishd.objects.pages import PageTokens, cursor_after, page_of
from kheishd.objects.talk.address import find_run, find_session, may_read_run
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import RECORDS_BY_RUN, RECORDS_BY_SESSION, RUNS, SESSIONS, Table
from protocol.errors.run import RunNotFound
from protocol.events.run import MessageAppended
from protocol.journal.line import JournalEvent, Unknown, decode_event
from protocol.transcript import ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.call import Call
    from kheishd.records.projection import Projection
    from kheishd.store.environment import Snapshot, Transaction


class OfRun(Protocol):
    """A record that a run gave rise to."""

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
        """Where it began."""
        ...

    @property
    def status(self) -> str:
        """How it stands."""
        ...


class Listing(Protocol):
    """The params of a list of such records."""

    @property
    def session_id(self) -> str | None:
        """Only those of this session."""
        ...

    @property
    def run_id(self) -> str | None:
        """Only those of this run."""
        ...

    @property
    def status(self) -> str:
        """Only those that stand so, or ``any``."""
        ...

    @property
    def limit(self) -> int:
        """Rows at most."""
        ...

    @property
    def after(self) -> str | None:
        """The ``next`` of the page before."""
        ...


class Waiting(NamedTuple):
    """How those of a type that wait for a person are found: their status, and the list of them.

    ``in_slot``: they wait only while their run holds its session's slot.
    """

    status: str
    table: Table[str]
    in_slot: bool


R = TypeVar("R", bound=OfRun)
V = TypeVar("V")


def find(store: Snapshot, call: Call, projection: Projection[R], record_id: str) -> R | None:
    """A record that the caller may read; None also for one whose run the caller's token does not cover."""
    record = store.get(projection.table, record_id)
    return record if record is not None and _readable(store, call, record) else None


def _readable(store: Snapshot, call: Call, record: OfRun) -> bool:
    if call.caller.unlimited:
        return True
    run = store.get(RUNS, record.run_id)
    return run is not None and may_read_run(store, call, run)


def page(
    store: Snapshot,
    call: Call,
    projection: Projection[R],
    params: Listing,
    *,
    waiting: Waiting,
    show: Callable[[R], V],
) -> tuple[list[V], str | None]:
    """A page of records as ``show`` gives them, oldest first, and where the next one starts.

    Errors: SessionNotFound, RunNotFound, InvalidParams for an ``after`` that no page gave.
    """

    def wanted(record: R | None) -> V | None:
        if record is None or params.status not in ("any", record.status):
            return None
        return show(record) if _readable(store, call, record) else None

    index, prefix = _where(store, call, projection, params, waiting)
    if index is None:
        tokens = PageTokens(call)
        mark = tokens.id_of(params.after)
        rows = store.scan(projection.table, after=(mark,) if mark is not None else None)
        found = ((key, wanted(record)) for key, record in rows)
        return page_of(found, params.limit, lambda view: True, tokens.token_of)
    cursor = cursor_after(params.after)
    indexed = store.scan(index, *prefix, after=(*prefix, cursor) if cursor is not None else None)
    found = ((key, wanted(store.get(projection.table, record_id))) for key, record_id in indexed)
    return page_of(found, params.limit, lambda view: True)


def _where(
    store: Snapshot,
    call: Call,
    projection: Projection[Any],
    params: Listing,
    waiting: Waiting,
) -> tuple[Table[str] | None, tuple[str, ...]]:
    """Which index to look through: the shortest that holds what is asked for; None: all records, by id."""
    if params.run_id is not None:
        run = find_run(store, call, params.run_id)
        if params.session_id not in (None, run.session_id):
            raise RunNotFound(f"there is no run '{params.run_id}'", field="$.params.run_id")
        return RECORDS_BY_RUN, (run.run_id, projection.kind)
    if params.session_id is not None:
        session = find_session(store, call, params.session_id)
        if params.status == waiting.status and waiting.in_slot:
            # No run has an empty id: where none is open, nothing waits.
            return RECORDS_BY_RUN, ("".join(session.open_runs[:1]), projection.kind)
        return RECORDS_BY_SESSION, (session.session_id, projection.kind)
    return (waiting.table if params.status == waiting.status else None), ()


def fold_of(tx: Transaction, call: Call, run: RunRecord) -> SessionWriter:
    """A run and its session, to be changed by a caller."""
    session = tx.get(SESSIONS, run.session_id)
    return SessionWriter(tx, run.session_id, session=session, run=run, origin=origin_of(call))


class Reader:
    """Reads events that records point at. It keeps the last message: its calls are asked for one by one."""

    def __init__(self, store: Snapshot) -> None:
        self._store = store
        self._message: tuple[str, int] | None = None
        self._calls: list[ToolCall] = []

    def event(self, session_id: str, cursor: int) -> JournalEvent | Unknown | None:
        """The event at a cursor of a session; None where there is none."""
        found = self._store.entry(session_id, cursor)
        return decode_event(found[1]) if found is not None else None

    def arguments(self, session_id: str, cursor: int, number: int) -> dict[str, Any]:
        """What a model wrote as the input of the call of that number in a message."""
        if self._message != (session_id, cursor):
            event = self.event(session_id, cursor)
            items = event.message.items if isinstance(event, MessageAppended) else []
            self._calls = [item for item in items if isinstance(item, ToolCall)]
            self._message = (session_id, cursor)
        return self._calls[number].arguments if number < len(self._calls) else {}
