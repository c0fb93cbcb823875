"""The journal for clients: select the entries that a caller may read, page through them, follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Raw, Struct

from kheishd.core.event import matches
from kheishd.kernel.call import Call, Caller, control, query
from kheishd.kernel.log_fields import iterate_chain
from kheishd.records.projection import SESSION_STREAMS, stream_kind
from kheishd.store.epoch import find_shared_cursor
from kheishd.store.tables import META, RUNS, SESSIONS
from protocol.errors.event import EventBusForbidden
from protocol.errors.journal import CursorPruned, CursorUnknown
from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.events.event import EventPublished
from protocol.journal.envelope import BUS_STREAM
from protocol.lazy import LazyDecoder
from protocol.limits.page import MAX_PAGE_BYTES, MAX_PAGE_EXAMINED_BYTES, MAX_PAGE_EXAMINED_ROWS
from protocol.objects import journal as rows
from protocol.objects.journal import (
    Filter,
    JournalPage,
    JournalRead,
    JournalSubscribe,
    JournalUnsubscribe,
    Subscribed,
    Unsubscribed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.environment import Snapshot
    from protocol.objects.event import EventListParams, EventSubscribe

# Cached verdicts on streams: 4,096 of 40 bytes with their keys take at most half a mebibyte.
MAX_CACHED_STREAMS = 4_096

PUBLISHED = str(EventPublished.__struct_config__.tag)

# The largest cursor of a key, less one bit. No entry is after it, whatever a client sends.
MAX_CURSOR = 2**63 - 1


class _Filtered(Struct, frozen=True, gc=False):
    """The fields of a line that a filter compares."""

    type: str
    run_id: str | None = None
    source: str = ""
    request_id: str | int | None = None


_filtered: LazyDecoder[_Filtered] = LazyDecoder(_Filtered)


class Selection:
    """A filter, resolved for a caller.

    ``stream`` is the only stream that can match; None if any stream can that the caller's token covers.
    ``whole_stream``: every entry of it matches. ``pattern``: only events on the bus with such a source match.
    Verdicts on streams are final, because a session's agent,
    sender and parent never change.
    """

    __slots__ = (
        "_admitted",
        "_caller",
        "_led_by",
        "_request_id",
        "_root",
        "_run_id",
        "_types",
        "pattern",
        "stream",
        "whole_stream",
    )

    def __init__(
        self, store: Snapshot, caller: Caller, filter_: Filter | EventSubscribe | EventListParams
    ) -> None:
        """Resolve a filter.

        Errors: SessionNotFound, RunNotFound, also if the token does not cover them; EventBusForbidden.
        """
        self._caller = caller
        self._admitted: dict[str, bool] = {}
        self.pattern: str | None = None
        self.stream: str | None = BUS_STREAM
        self._root: str | None = None
        self._run_id: str | None = None
        self._types: frozenset[str] | None = None
        self._request_id: str | None = None
        # Whether each run seen so far is one of the request's; a run's chain never changes.
        self._led_by: dict[str, bool] = {}
        self.whole_stream = False
        if not isinstance(filter_, Filter):
            if not caller.is_unrestricted:
                raise EventBusForbidden()
            self.pattern = filter_.source
            return
        session_id = filter_.session_id
        if filter_.run_id is not None:
            session_id = _find_session_of_run(store, caller, filter_.run_id, session_id)
        elif session_id is not None and not _may_read(store, caller, session_id):
            raise SessionNotFound(f"there is no session '{session_id}'", field="$.params.session_id")
        subtree = filter_.subtree and filter_.run_id is None
        self._root = session_id if subtree else None
        self._run_id = filter_.run_id
        if isinstance(filter_, JournalRead) and filter_.request_id is not None:
            self._request_id = str(filter_.request_id)
        self._types = None if filter_.types is None else frozenset(filter_.types)
        self.stream = None if subtree else session_id
        self.whole_stream = self.stream is not None and filter_.run_id is None and filter_.types is None

    def admits(self, store: Snapshot, stream: str) -> bool:
        """Whether entries of a stream can match."""
        if self.stream is not None:
            return stream == self.stream
        verdict = self._admitted.get(stream)
        if verdict is None:
            if len(self._admitted) >= MAX_CACHED_STREAMS:
                self._admitted.clear()
            verdict = self._admitted[stream] = self._admits_any(store, stream)
        return verdict

    def _admits_any(self, store: Snapshot, stream: str) -> bool:
        """Whether the token covers a stream, and it is in the subtree of the filter."""
        if stream_kind(stream) != SESSION_STREAMS:
            return self._root is None and self._caller.is_unrestricted
        session = store.get(SESSIONS, stream)
        if session is None or not self._caller.may_read(session.agent, session.sender):
            return False
        if self._root is None:
            return True
        while session is not None and session.session_id != self._root:
            parent = session.parent_session_id
            session = None if parent is None else store.get(SESSIONS, parent)
        return session is not None

    def matches(self, line: bytes) -> bool:
        """Whether an entry of an admitted stream matches."""
        if self._run_id is None and self._types is None and self.pattern is None:
            return True
        fields = _filtered.decode(line)
        if self.pattern is not None:
            return fields.type == PUBLISHED and matches(self.pattern, fields.source)
        return (self._run_id is None or fields.run_id == self._run_id) and (
            self._types is None or fields.type in self._types
        )

    def is_of_request(self, store: Snapshot, line: bytes) -> bool:
        """Whether an entry was caused by the request of the filter; true without one."""
        if self._request_id is None:
            return True
        fields = _filtered.decode(line)
        if fields.request_id is not None and str(fields.request_id) == self._request_id:
            return True
        if fields.run_id is None:
            return False
        is_led = self._led_by.get(fields.run_id)
        if is_led is None:
            if len(self._led_by) >= MAX_CACHED_STREAMS:
                self._led_by.clear()
            requests = [request_id for _, request_id in iterate_chain(store, fields.run_id)]
            is_led = any(str(request) == self._request_id for request in requests if request is not None)
            self._led_by[fields.run_id] = is_led
        return is_led

    def covers_run(self, run_id: str) -> bool:
        """Whether the filter includes a run of an admitted stream."""
        return self._run_id is None or self._run_id == run_id

    def examine(
        self, store: Snapshot, start: int, *, newest: bool = False
    ) -> Iterator[tuple[int, bytes | None, int]]:
        """Yield the entries after a cursor: cursor, line (None if it does not match), examined bytes.

        Errors: StoreDamaged for a line that is not JSON, because lines are sent as they are.
        """
        start = min(start, MAX_CURSOR)
        if self.stream is not None:
            for cursor, line in store.entries(self.stream, start, reverse=newest):
                is_match = self.matches(line) and self.is_of_request(store, line)
                yield cursor, line if is_match else None, len(line)
            return
        for cursor, stream in store.feed(start, reverse=newest):
            entry = store.entry(stream, cursor) if self.admits(store, stream) else None
            if entry is None:
                yield cursor, None, 0
            else:
                is_match = self.matches(entry[1]) and self.is_of_request(store, entry[1])
                yield cursor, entry[1] if is_match else None, len(entry[1])


def _find_session_of_run(store: Snapshot, caller: Caller, run_id: str, session_id: str | None) -> str:
    """Return the session of a run. Errors: RunNotFound, also if the token does not cover it."""
    run = store.get(RUNS, run_id)
    if (
        run is None
        or session_id not in (None, run.session_id)
        or not _may_read(store, caller, run.session_id)
    ):
        raise RunNotFound(f"there is no run '{run_id}'", field="$.params.run_id")
    return run.session_id


def _may_read(store: Snapshot, caller: Caller, session_id: str) -> bool:
    session = store.get(SESSIONS, session_id)
    return session is not None and caller.may_read(session.agent, session.sender)


EVERY_STREAM = "*"
PRUNED = "pruned:"


def pruned_until(store: Snapshot, stream: str | None) -> int:
    """Return the last pruned cursor of a stream, or with None of all streams; 0 if nothing was pruned.

    Source: the values of eight bytes that pruning stores in META under ``pruned:<stream>``, and the highest
    of all under ``pruned:*``.
    """
    mark = store.get(META, PRUNED + (EVERY_STREAM if stream is None else stream))
    return 0 if mark is None else int.from_bytes(mark, "big")


@query(rows.READ)
def read(call: Call, params: JournalRead) -> JournalPage:
    """Return a page of events, each as stored.

    Shape:  at most ``limit`` events; fewer, even none, with a ``next``, when a mebibyte or 5,000
            examined or 8 MiB of them are reached first.
    Errors: SessionNotFound, RunNotFound, CursorPruned, CursorUnknown.
    """
    newest = params.order == "newest"
    epoch = call.state.epoch
    if newest and params.after == 0:
        return JournalPage([], None, epoch)
    events: list[Raw] = []
    size = examined_bytes = 0
    with call.state.read() as store:
        selection = Selection(store, call.caller, params)
        _require_own_cursor(store, params, epoch)
        if not newest and params.after is not None:
            pruned = pruned_until(store, selection.stream)
            if params.after < pruned:
                raise CursorPruned(f"the history up to cursor {pruned} was pruned", field="$.params.after")
        entries = selection.examine(store, params.after or 0, newest=newest)
        for examined, (cursor, line, length) in enumerate(entries, 1):
            examined_bytes += length
            if line is not None:
                events.append(Raw(line))
                size += length
            if len(events) >= params.limit or size >= MAX_PAGE_BYTES:
                return JournalPage(events, cursor, epoch)
            if examined >= MAX_PAGE_EXAMINED_ROWS or examined_bytes >= MAX_PAGE_EXAMINED_BYTES:
                return JournalPage(events, cursor, epoch)
    return JournalPage(events, None, epoch)


def _require_own_cursor(store: Snapshot, params: JournalRead, epoch: str) -> None:
    """Require that the cursor of a page is of this line of history. Errors: CursorUnknown."""
    if params.after is None:
        return
    if params.epoch not in (None, epoch):
        shared = find_shared_cursor(store, params.epoch or "") or 0
        raise CursorUnknown(
            f"the cursor {params.after} is of another line of history than this one, whose epoch is {epoch}: "
            f"a backup was restored; both are the same up to cursor {min(shared, params.after)}, so continue "
            "there",
            field="$.params.epoch",
            hint=epoch,
        )
    if params.order == "oldest" and params.after > store.last_cursor:
        raise CursorUnknown(
            f"the journal ends at cursor {store.last_cursor}, so the cursor {params.after} is not of this "
            f"line of history, whose epoch is {epoch}",
            field="$.params.after",
            hint=epoch,
        )


@control(rows.SUBSCRIBE)
def subscribe(call: Call, params: JournalSubscribe) -> Subscribed:
    """Follow events on the caller's connection."""
    return call.connection.subscribe(
        params, params.after, epoch=params.epoch, deltas=params.deltas, subscription=params.subscription
    )


@control(rows.UNSUBSCRIBE)
def unsubscribe(call: Call, params: JournalUnsubscribe) -> Unsubscribed:
    """End a subscription."""
    call.connection.unsubscribe(params.subscription)
    return Unsubscribed(params.subscription)


HANDLERS = (read, subscribe, unsubscribe)
