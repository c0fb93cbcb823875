"""Projections: records that are the fold of events in the journal.

A projection states everything about one type of record: the events that change it, the pure function that
folds them, its table, and the index rows that follow from a record. The writer, the replay, the doctor and
the rebuild know records only through projections. A new type of object is therefore its projection (a file of
this package, listed in ``registry.py``), its tables and its handlers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, TypeVar

from protocol.journal.envelope import DAEMON_STREAM
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kheishd.store.environment import Snapshot
    from kheishd.store.table import Key, KeyPart, Table
    from protocol.journal.envelope import Envelope, Event

R = TypeVar("R")
V = TypeVar("V")

SESSION_STREAMS: Final = "session"
"""The kind of the streams that are named by a session id."""


def stream_kind(stream: str) -> str:
    """Return the kind of a stream: ``daemon``, ``session``, or the part before the slash of its name.

    No session id contains a slash, so objects with streams of their own name them ``kind/id``.
    """
    if stream == DAEMON_STREAM:
        return DAEMON_STREAM
    kind, slash, _ = stream.partition("/")
    return kind if slash else SESSION_STREAMS


class IndexRow(NamedTuple):
    """A row of an index. It exists because of a record and is removed when the record no longer gives it.

    The record's id is the row's value; in a table without values, the last part of the row's key.
    """

    table: Table[Any]
    key: Key
    value: bytes | str | int = b""


class RecordReader(Protocol):
    """A view of the records: a snapshot, or the records as a transaction will leave them."""

    def get(self, table: Table[V], *key: KeyPart) -> V | None:
        """Return the record at a key, or None."""
        ...


class Projection(Value, Generic[R], frozen=True):
    """One type of record.

    ``kind`` names the type. ``stream`` is the kind of the streams in which its events stand. ``begins`` is
    the type of a record's first event, or the types; ``events`` are the types of all of them (None: every
    event of the stream). ``key`` returns the key of the record that an event changes; None if there is none.
    Where events change several records, ``keys`` returns the keys of all, and ``key`` that of a first event.
    ``evolve`` returns the record after an event; None deletes it. ``source`` returns the stream and cursor of
    the event that began a record. No event changes a record that is ``final``. ``rows`` returns a record's
    index rows, all of them in tables of ``indexes``.

    ``constant_rows``: a record's index rows follow from its first event alone, so later ones change none.
    ``bounded``: the daemon limits how many records of the type are open in one stream, so that a replay can
    hold all of them. ``strays``: events may name a record before its first event and after it is final; they
    change nothing. ``superseded`` permits differences where events of several streams change one record: it
    returns whether a stored record may differ from the one that a single stream gives.
    """

    kind: str
    table: Table[R]
    begins: type[Event] | tuple[type[Event], ...]
    events: tuple[type[Event], ...] | None
    key: Callable[[Envelope, Any], Key | None]
    evolve: Callable[[R | None, Envelope, Any], R | None]
    source: Callable[[Snapshot, Key, R], tuple[str, int] | None]
    stream: str = SESSION_STREAMS
    keys: Callable[[Envelope, Any], Sequence[Key]] | None = None
    final: Callable[[R], bool] = lambda record: False
    rows: Callable[[R], frozenset[IndexRow]] = lambda record: frozenset()
    indexes: tuple[Table[Any], ...] = ()
    constant_rows: bool = False
    bounded: bool = False
    strays: bool = False
    superseded: Callable[[Snapshot, str, R | None, R | None], bool] | None = None

    def keys_of(self, envelope: Envelope, event: Event) -> Sequence[Key]:
        """Return the keys of the records that an event changes."""
        if self.keys is not None:
            return self.keys(envelope, event)
        key = self.key(envelope, event)
        return () if key is None else (key,)


def key_in(field: str) -> Callable[[Envelope, Any], Key | None]:
    """Return a ``Projection.key`` that reads the record's id from a field of the event."""
    return lambda envelope, event: (getattr(event, field),)


def key_of_run(envelope: Envelope, event: Any) -> Key | None:
    """Return the key of the run that an event belongs to."""
    return None if envelope.run_id is None else (envelope.run_id,)


class OfSession(Protocol):
    """A record whose events stand in the stream of its session."""

    @property
    def session_id(self) -> str:
        """The session."""
        ...

    @property
    def created_cursor(self) -> int:
        """The cursor of the event that began the record."""
        ...


def source_in_session(store: Snapshot, key: Key, record: OfSession) -> tuple[str, int]:
    """Return the stream and cursor of the event that began a record of a session."""
    return record.session_id, record.created_cursor


class DerivedIndex(Value, Generic[R], frozen=True):
    """An index whose rows follow from two records: from an owner and from a source record that it names.

    ``rows`` returns the rows of one owner. ``owner_key`` returns the key of the owner of a source record. A
    row's value, or the last part of its key, is the id of a source record. ``decisive`` returns the key of
    the source record that decides together with the owner, or None; while it and that record are the same, so
    are the rows.
    """

    table: Table[Any]
    owner: Projection[R]
    rows: Callable[[RecordReader, R], frozenset[IndexRow]]
    source: Projection[Any]
    owner_key: Callable[[Any], Key]
    decisive: Callable[[R], Key | None]
