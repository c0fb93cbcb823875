"""The journal for clients: which entries a caller may see and asked for, pages of them, following."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw, Struct

from kheishd.kernel.call import Call, Caller, control, query
from kheishd.store.tables import META, RUNS, SESSIONS
from protocol.errors.journal import CursorPruned
from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.journal.envelope import DAEMON_STREAM
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

# Verdicts about streams, remembered: 4,096 of 40 bytes and their keys are half a mebibyte at most.
MAX_REMEMBERED = 4_096

# What a key holds of a cursor, less one bit. Beyond it there is nothing, whatever a client says.
MAX_CURSOR = 2**63 - 1


class _Aspect(Struct, frozen=True, gc=False):
    """What a filter looks at inside a line."""

    type: str
    run_id: str | None = None


_aspect = msgspec.json.Decoder(_Aspect)


class Selection:
    """A filter made definite for a caller.

    ``stream`` is the one stream that can match; None where any can, of those that the caller's token
    covers. ``whole_stream`` says that all of it matches. Verdicts about streams are final, since a
    session's agent, sender and parent never change.
    """

    __slots__ = ("_caller", "_remembered", "_root", "_run_id", "_types", "stream", "whole_stream")

    def __init__(self, store: Snapshot, caller: Caller, filter_: Filter) -> None:
        """Errors: SessionNotFound, RunNotFound, also for what the caller's token does not cover."""
        session_id = filter_.session_id
        if filter_.run_id is not None:
            session_id = _session_of_run(store, caller, filter_.run_id, session_id)
        elif session_id is not None and not _covered(store, caller, session_id):
            raise SessionNotFound(f"there is no session '{session_id}'", field="$.params.session_id")
        subtree = filter_.subtree and filter_.run_id is None
        self._caller = caller
        self._root = session_id if subtree else None
        self._run_id = filter_.run_id
        self._types = None if filter_.types is None else frozenset(filter_.types)
        self._remembered: dict[str, bool] = {}
        self.stream = None if subtree else session_id
        self.whole_stream = self.stream is not None and filter_.run_id is None and filter_.types is None

    def admits(self, store: Snapshot, stream: str) -> bool:
        """Whether entries of this stream can match."""
        if self.stream is not None:
            return stream == self.stream
        verdict = self._remembered.get(stream)
        if verdict is None:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            verdict = self._remembered[stream] = self._judge(store, stream)
        return verdict

    def _judge(self, store: Snapshot, stream: str) -> bool:
        if stream == DAEMON_STREAM:
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

    def takes(self, line: bytes) -> bool:
        """Whether an entry of an admitted stream matches."""
        if self._run_id is None and self._types is None:
            return True
        aspect = _aspect.decode(line)
        return (self._run_id is None or aspect.run_id == self._run_id) and (
            self._types is None or aspect.type in self._types
        )

    def covers_run(self, run_id: str) -> bool:
        """Whether this run of an admitted stream is meant."""
        return self._run_id is None or self._run_id == run_id

    def examine(
        self, store: Snapshot, after: int, *, newest: bool = False
    ) -> Iterator[tuple[int, bytes | None, int]]:
        """Entries beyond ``after``: cursor, line (None where it does not match), bytes looked through."""
        after = min(after, MAX_CURSOR)
        if self.stream is not None:
            for cursor, line in store.entries(self.stream, after, reverse=newest):
                yield cursor, line if self.takes(line) else None, len(line)
            return
        for cursor, stream in store.feed(after, reverse=newest):
            found = store.entry(stream, cursor) if self.admits(store, stream) else None
            if found is None:
                yield cursor, None, 0
            else:
                yield cursor, found[1] if self.takes(found[1]) else None, len(found[1])


def _session_of_run(store: Snapshot, caller: Caller, run_id: str, session_id: str | None) -> str:
    """The session of a run. Errors: RunNotFound; what is not covered is not told from what is not there."""
    run = store.get(RUNS, run_id)
    if run is None or session_id not in (None, run.session_id) or not _covered(store, caller, run.session_id):
        raise RunNotFound(f"there is no run '{run_id}'", field="$.params.run_id")
    return run.session_id


def _covered(store: Snapshot, caller: Caller, session_id: str) -> bool:
    session = store.get(SESSIONS, session_id)
    return session is not None and caller.may_read(session.agent, session.sender)


EVERY_STREAM = "*"
PRUNED = "pruned:"


def pruned_until(store: Snapshot, stream: str | None) -> int:
    """The last cursor that was pruned of a stream, or with None of any; 0 if nothing was.

    Source: the marks that pruning leaves in META, eight bytes each, under ``pruned:<stream>`` and the
    highest of all under ``pruned:*``.
    """
    mark = store.get(META, PRUNED + (EVERY_STREAM if stream is None else stream))
    return 0 if mark is None else int.from_bytes(mark, "big")


@query(rows.READ)
def read(call: Call, params: JournalRead) -> JournalPage:
    """A page of events, each as it is stored.

    Shape:  at most ``limit`` events; fewer, even none, with a ``next``, when a mebibyte or 5,000
            examined or 8 MiB of them are reached first.
    Errors: SessionNotFound, RunNotFound, CursorPruned.
    """
    newest = params.order == "newest"
    if newest and params.after == 0:
        return JournalPage([], None)
    events: list[Raw] = []
    size = seen = 0
    with call.state.read() as store:
        selection = Selection(store, call.caller, params)
        if not newest and params.after is not None:
            pruned = pruned_until(store, selection.stream)
            if params.after < pruned:
                raise CursorPruned(f"the history up to cursor {pruned} was pruned", field="$.params.after")
        found = selection.examine(store, params.after or 0, newest=newest)
        for examined, (cursor, line, length) in enumerate(found, 1):
            seen += length
            if line is not None:
                events.append(Raw(line))
                size += length
            if len(events) >= params.limit or size >= MAX_PAGE_BYTES:
                return JournalPage(events, cursor)
            if examined >= MAX_PAGE_EXAMINED_ROWS or seen >= MAX_PAGE_EXAMINED_BYTES:
                return JournalPage(events, cursor)
    return JournalPage(events, None)


@control(rows.SUBSCRIBE)
def subscribe(call: Call, params: JournalSubscribe) -> Subscribed:
    """Follow events on the connection that this came by."""
    return call.connection.subscribe(
        params, params.after, deltas=params.deltas, subscription=params.subscription
    )


@control(rows.UNSUBSCRIBE)
def unsubscribe(call: Call, params: JournalUnsubscribe) -> Unsubscribed:
    """Stop following."""
    call.connection.unsubscribe(params.subscription)
    return Unsubscribed(params.subscription)


HANDLERS = (read, subscribe, unsubscribe)
