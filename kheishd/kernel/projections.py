"""Objects whose records are the fold of events in a session's stream: one row a type says all about it.

Which events are about such an object, which of them begins it, what its record becomes with each, and which
rows of indexes follow from a record. Whoever appends events writes the records and the difference of their
index rows (:class:`Changes`); the doctor works them out anew from the journal (:class:`Replayed`); and what
explains an index row is the function that put it there. So a new type of object is a row here, its tables and
a pure ``evolve``.

A record says which session it is in and at which cursor it began. It may change after its run has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from kheishd.core import approval, indoubt, question, task
from kheishd.store.tables import (
    APPROVALS,
    APPROVALS_WAITING,
    DEADLINES,
    INDOUBTS,
    INDOUBTS_OPEN,
    QUESTIONS,
    QUESTIONS_WAITING,
    RECORDS_BY_RUN,
    RECORDS_BY_SESSION,
    SHELLS_LIVE,
    SHELLS_STOPPING,
    TASKS,
    TASKS_OPEN,
    TASKS_WAITING,
    Key,
    Table,
)
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed, ApprovalRequested
from protocol.events.indoubt import IndoubtOpened, IndoubtResolved
from protocol.events.question import QuestionAnswered, QuestionAsked, QuestionLapsed
from protocol.events.task import TaskCreated, TaskEvent
from protocol.journal.line import JournalEvent, Unknown, decode_envelope, decode_event
from protocol.objects.task import OPEN, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kheishd.store.environment import Snapshot, Transaction
    from protocol.journal.envelope import Envelope, Event
    from protocol.objects.approval import Approval
    from protocol.objects.indoubt import Indoubt
    from protocol.objects.question import QuestionRequest


class Recorded(Protocol):
    """What every record says besides its own."""

    @property
    def session_id(self) -> str:
        """The session in whose stream its events are."""
        ...

    @property
    def created_cursor(self) -> int:
        """Where it began."""
        ...


R = TypeVar("R", bound=Recorded)


class IndexRow(NamedTuple):
    """A row of an index: it is there because of a record, and goes when the record gives no reason.

    The record's id is its value, or where it has none the last part of its key.
    """

    table: Table[Any]
    key: Key
    value: bytes | str = b""


@dataclass(frozen=True, slots=True)
class Projection(Generic[R]):
    """One type of object. ``name`` is the field that holds its id, in each of its events.

    ``begins`` is the first of ``events``. ``final``: no event changes the record any more. ``indexes`` are
    the tables that ``rows`` gives rows of.
    """

    kind: str
    table: Table[R]
    name: str
    begins: type[Event]
    events: tuple[type[Event], ...]
    evolve: Callable[[R | None, Envelope, Any], R]
    final: Callable[[R], bool]
    rows: Callable[[R], frozenset[IndexRow]]
    indexes: tuple[Table[Any], ...]

    def id_of(self, event: JournalEvent) -> str:
        """Which object an event is about."""
        return str(getattr(event, self.name))


# The types there are.

APPROVAL: Final = "approval"
QUESTION: Final = "question"
INDOUBT: Final = "indoubt"
TASK: Final = "task"


def _approval_rows(record: Approval) -> frozenset[IndexRow]:
    waits = record.status == "pending"
    expires_at_ms = record.expires_at_ms if waits else None
    return _rows(APPROVAL, record.approval_id, record, APPROVALS_WAITING if waits else None, expires_at_ms)


def _question_rows(record: QuestionRequest) -> frozenset[IndexRow]:
    waits = record.status == "pending"
    expires_at_ms = record.expires_at_ms if waits else None
    return _rows(QUESTION, record.question_id, record, QUESTIONS_WAITING if waits else None, expires_at_ms)


def _indoubt_rows(record: Indoubt) -> frozenset[IndexRow]:
    return _rows(INDOUBT, record.indoubt_id, record, INDOUBTS_OPEN if record.status == "open" else None)


def _rows(
    kind: str,
    record_id: str,
    record: Approval | QuestionRequest | Indoubt,
    waiting: Table[str] | None,
    expires_at_ms: int | None = None,
) -> frozenset[IndexRow]:
    rows = [
        IndexRow(RECORDS_BY_SESSION, (record.session_id, kind, record.created_cursor), record_id),
        IndexRow(RECORDS_BY_RUN, (record.run_id, kind, record.created_cursor), record_id),
    ]
    if waiting is not None:
        rows.append(IndexRow(waiting, (record.created_cursor,), record_id))
    if expires_at_ms is not None:
        rows.append(IndexRow(DEADLINES, (expires_at_ms, kind, record_id)))
    return frozenset(rows)


def _task_rows(record: Task) -> frozenset[IndexRow]:
    rows = [IndexRow(RECORDS_BY_SESSION, (record.session_id, TASK, record.created_cursor), record.task_id)]
    if record.status not in OPEN or record.deleted_at_ms is not None:
        return frozenset(rows)
    rows += [IndexRow(TASKS_WAITING, (each, record.task_id)) for each in record.blocked_by]
    if record.shell is None:
        digest = task.hash_title(record.title)
        rows.append(IndexRow(TASKS_OPEN, (record.session_id, digest, record.task_id)))
    else:
        rows.append(IndexRow(SHELLS_LIVE, (record.created_cursor,), record.task_id))
        if record.shell.stop_requested_at_ms is not None:
            rows.append(IndexRow(SHELLS_STOPPING, (record.created_cursor,), record.task_id))
    return frozenset(rows)


APPROVAL_RECORDS: Final = Projection(
    kind=APPROVAL,
    table=APPROVALS,
    name="approval_id",
    begins=ApprovalRequested,
    events=(ApprovalRequested, ApprovalAnswered, ApprovalLapsed),
    evolve=approval.evolve,
    final=lambda record: record.status != "pending",
    rows=_approval_rows,
    indexes=(RECORDS_BY_SESSION, RECORDS_BY_RUN, APPROVALS_WAITING, DEADLINES),
)
QUESTION_RECORDS: Final = Projection(
    kind=QUESTION,
    table=QUESTIONS,
    name="question_id",
    begins=QuestionAsked,
    events=(QuestionAsked, QuestionAnswered, QuestionLapsed),
    evolve=question.evolve,
    final=lambda record: record.status != "pending",
    rows=_question_rows,
    indexes=(RECORDS_BY_SESSION, RECORDS_BY_RUN, QUESTIONS_WAITING, DEADLINES),
)
INDOUBT_RECORDS: Final = Projection(
    kind=INDOUBT,
    table=INDOUBTS,
    name="indoubt_id",
    begins=IndoubtOpened,
    events=(IndoubtOpened, IndoubtResolved),
    evolve=indoubt.evolve,
    final=lambda record: record.status != "open",
    rows=_indoubt_rows,
    indexes=(RECORDS_BY_SESSION, RECORDS_BY_RUN, INDOUBTS_OPEN),
)

TASK_RECORDS: Final = Projection(
    kind=TASK,
    table=TASKS,
    name="task_id",
    begins=TaskCreated,
    events=TaskEvent.__args__,
    evolve=task.evolve,
    final=lambda record: record.deleted_at_ms is not None,
    rows=_task_rows,
    indexes=(RECORDS_BY_SESSION, TASKS_OPEN, TASKS_WAITING, SHELLS_LIVE, SHELLS_STOPPING),
)

PROJECTIONS: Final[tuple[Projection[Any], ...]] = (
    APPROVAL_RECORDS,
    QUESTION_RECORDS,
    INDOUBT_RECORDS,
    TASK_RECORDS,
)

_BY_EVENT: Final[dict[type[Any], tuple[Projection[Any], ...]]] = {
    event: tuple(projection for projection in PROJECTIONS if event in projection.events)
    for each in PROJECTIONS
    for event in each.events
}


def touched(event: JournalEvent) -> tuple[Projection[Any], ...]:
    """The types of objects that an event is about; most events are about none."""
    return _BY_EVENT.get(type(event), ())


# Writing.


class Changes:
    """The records that one transaction changes: fold events in, then write once."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._changed: dict[tuple[str, str], tuple[Projection[Any], Any, Any]] = {}

    def fold(self, envelope: Envelope, event: JournalEvent) -> None:
        """Take an event in, as it was stored. Errors: AssertionError if it does not follow: damage."""
        for projection in touched(event):
            record_id = projection.id_of(event)
            known = self._changed.get((projection.kind, record_id))
            before = known[1] if known is not None else self._tx.get(projection.table, record_id)
            latest = known[2] if known is not None else before
            after = projection.evolve(latest, envelope, event)
            self._changed[projection.kind, record_id] = (projection, before, after)

    def write(self) -> None:
        """Write the records that changed, and of their index rows the difference."""
        for (_, record_id), (projection, before, after) in self._changed.items():
            if after is before:
                continue
            self._tx.put(projection.table, record_id, value=after)
            were = projection.rows(before) if before is not None else frozenset()
            now = projection.rows(after)
            for row in were - now:
                self._tx.delete(row.table, *row.key)
            for row in now - were:
                self._tx.put(row.table, *row.key, value=row.value)
        self._changed.clear()


# Replaying.

# What a replay keeps of records that may still change. Of more than these the oldest are put aside; where one
# of those changes later, it is folded alone, from the beginning of the stream.
MAX_KEPT: Final = 1_000

Expected = tuple[Table[Any], Key, Any]
"""A row as it must be."""


class Replayed:
    """The records of one stream while it is read again: those that may still change, and no others."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._kept: dict[tuple[str, str], tuple[Projection[Any], Any]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def fold(self, store: Snapshot, envelope: Envelope, event: JournalEvent) -> Iterator[Expected]:
        """Take an event in; gives the rows that no later event changes, or that are put aside.

        Errors: AssertionError if it does not follow from those before it.
        """
        for projection in touched(event):
            record_id = projection.id_of(event)
            kept = self._kept.pop((projection.kind, record_id), None)
            if kept is None and not isinstance(event, projection.begins):
                yield from self._alone(store, projection, record_id)
                continue
            record = projection.evolve(kept[1] if kept is not None else None, envelope, event)
            if projection.final(record):
                yield from _expected(projection, record_id, record)
                continue
            self._kept[projection.kind, record_id] = (projection, record)
            if len(self._kept) > MAX_KEPT:
                kind, oldest = next(iter(self._kept))
                aside, _ = self._kept.pop((kind, oldest))
                yield from self._alone(store, aside, oldest)

    def rest(self) -> Iterator[Expected]:
        """The rows of what is kept, once the newest event was folded."""
        for (_, record_id), (projection, record) in self._kept.items():
            yield from _expected(projection, record_id, record)

    def _alone(self, store: Snapshot, projection: Projection[Any], record_id: str) -> Iterator[Expected]:
        """One record by itself: all its events, read from the beginning of the stream to its end."""
        record, needle = None, record_id.encode()
        for _, line in store.entries(self._stream):
            event = _read(line) if needle in line else None
            if isinstance(event, projection.events) and projection.id_of(event) == record_id:
                record = projection.evolve(record, decode_envelope(line), event)
        assert record is not None, f"nothing began the {projection.kind} {record_id}"
        yield from _expected(projection, record_id, record)


def _read(line: bytes) -> JournalEvent | Unknown:
    try:
        return decode_event(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AssertionError(f"a later line about it cannot be read: {error}") from error


def _expected(projection: Projection[Any], record_id: str, record: Any) -> Iterator[Expected]:
    yield projection.table, (record_id,), record
    for row in projection.rows(record):
        yield row.table, row.key, row.value
