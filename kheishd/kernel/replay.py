"""One stream of the journal, replayed: its chain verified, and its records and indexes worked out anew.

What the events say and what the tables say must be the same. Where they are not, the journal is right: it
is the chained one, and the difference found here is also the instruction that mends it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from kheishd.core import session as session_rules
from kheishd.core import token as token_rules
from kheishd.core.permissions.grants import change_rules
from kheishd.core.run import machine as run_machine
from kheishd.kernel.projections import Replayed
from kheishd.store.journal import HASH_BYTES, NO_HASH, link
from kheishd.store.records import Binding, DaemonRules, TokenRecord
from kheishd.store.tables import (
    CHILDREN,
    CONVERSATIONS,
    CURSORS,
    PERMISSIONS,
    PINNED,
    RUNS,
    RUNS_BY_SESSION,
    RUNS_CANCELLED,
    RUNS_READY,
    SESSIONS,
    TOKENS,
    TOKENS_BY_DIGEST,
    Key,
    Table,
)
from protocol.events.conversation import ConversationBound, ConversationUnbound
from protocol.events.permission import PermissionsChanged
from protocol.events.run import RunAccepted
from protocol.events.session import SessionCreated
from protocol.events.token import TokenCreated, TokenRevoked
from protocol.journal.envelope import DAEMON_STREAM, Envelope
from protocol.journal.line import JournalEvent, Unknown, decode_envelope, decode_event
from protocol.objects.run import ENDED, SETTLED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.core.run.record import RunRecord
    from kheishd.store.environment import Snapshot
    from protocol.objects.session import Session


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not what was written, such as an entry of the journal; only a backup mends it."""

    message: str
    stream: str | None = None
    cursor: int | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what the journal says: ``expected`` is what to put, None: to delete it."""

    table: Table[Any]
    key: Key
    expected: Any
    stream: str

    def __str__(self) -> str:
        name = " ".join(str(part) for part in self.key)
        what = "has no reason in the journal" if self.expected is None else "differs from the journal"
        return f"{self.table.name} {name} {what}"


Complaint = Damage | Difference


@dataclass(slots=True)
class Replay:
    """A replay of one stream, entry by entry; ``at`` is the cursor it has come to.

    With ``chain_only`` the records are left alone: it began in the middle.
    """

    stream: str
    at: int = 0
    head: bytes = NO_HASH
    chain_only: bool = False
    damaged: bool = False
    session: Session | None = None
    runs: dict[str, RunRecord] = field(default_factory=dict)
    bound: tuple[str, str, int] | None = None
    unbound: tuple[str, str] | None = None
    tokens: dict[str, TokenRecord] = field(default_factory=dict)
    rules: DaemonRules | None = None
    records: Replayed = field(init=False)

    def __post_init__(self) -> None:
        self.records = Replayed(self.stream)

    def entry(self, store: Snapshot, cursor: int, stored: bytes) -> Iterator[Complaint]:
        """Take the next entry: its hash and line, as stored."""
        line = stored[HASH_BYTES:]
        digest = link(self.head, line)
        if digest != stored[:HASH_BYTES]:
            yield self._damage(cursor, "the hash chain is broken: this line or its hash was changed")
        # Go on from the hash as stored, so that one change is one finding.
        self.head, self.at = stored[:HASH_BYTES], cursor
        if store.get(CURSORS, cursor) != self.stream:
            yield Difference(CURSORS, (cursor,), self.stream, self.stream)
        try:
            envelope, event = decode_envelope(line), decode_event(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            yield self._damage(cursor, f"the line cannot be read: {error}")
            return
        if envelope.cursor != cursor:
            yield self._damage(cursor, f"the line says it is number {envelope.cursor}")
        if not self.chain_only and not self.damaged and not isinstance(event, Unknown):
            yield from self._fold(store, envelope, event)

    def finish(self, store: Snapshot) -> Iterator[Complaint]:
        """Compare what is left to compare, once ``at`` is the newest entry of this snapshot."""
        if self.chain_only or self.damaged:
            return
        for run in self.runs.values():
            yield from self._run_rows(store, run)
        for table, key, expected in self.records.rest():
            yield from _row(store, self.stream, table, key, expected)
        if self.session is not None:
            yield from _row(store, self.stream, SESSIONS, (self.stream,), self.session)
            yield from self._ready_row(store, self.session)
            yield from self._binding_row(store)
        if self.stream == DAEMON_STREAM:
            yield from self._token_rows(store)
            yield from _row(store, self.stream, PERMISSIONS, (DAEMON_STREAM,), self.rules)

    def _damage(self, cursor: int, message: str) -> Damage:
        self.damaged = True
        return Damage(message, self.stream, cursor)

    def _fold(self, store: Snapshot, envelope: Envelope, event: JournalEvent) -> Iterator[Complaint]:
        try:
            if self.stream == DAEMON_STREAM:
                self._fold_token(envelope, event)
                self._fold_rules(envelope, event)
                return
            self._fold_session(envelope, event)
            for table, key, expected in self.records.fold(store, envelope, event):
                yield from _row(store, self.stream, table, key, expected)
        except AssertionError as error:
            yield self._damage(envelope.cursor, f"the event does not follow from those before it: {error}")
            return
        if isinstance(event, SessionCreated) and event.parent_session_id is not None:
            yield from _row(store, self.stream, CHILDREN, (event.parent_session_id, self.stream), b"")
        if isinstance(event, RunAccepted):
            yield from _row(store, self.stream, PINNED, (envelope.run_id,), event.pinned)
        run = self.runs.get(envelope.run_id or "")
        if run is not None and run.status in ENDED:
            # An ended run never changes again, so a stream of a million runs needs no memory for them.
            yield from self._run_rows(store, run)
            del self.runs[run.run_id]

    def _fold_session(self, envelope: Envelope, event: JournalEvent) -> None:
        self.session = session_rules.evolve(self.session, envelope, event)
        before = self.runs.get(envelope.run_id or "")
        # The input that a run answers comes before its acceptance and names it already.
        if envelope.run_id is not None and (before is not None or isinstance(event, RunAccepted)):
            self.runs[envelope.run_id] = run_machine.evolve(before, envelope, event)
        match event:
            case ConversationBound(agent=agent, sender=sender):
                self.bound, self.unbound = (agent, sender, envelope.at_ms), None
            case ConversationUnbound(agent=agent, sender=sender):
                self.bound, self.unbound = None, (agent, sender)
            case _:
                pass

    def _fold_token(self, envelope: Envelope, event: JournalEvent) -> None:
        if not isinstance(event, TokenCreated | TokenRevoked):
            return
        before = self.tokens.get(event.token_id)
        token = token_rules.evolve(before.token if before else None, envelope, event)
        digest = event.digest if isinstance(event, TokenCreated) else before.digest if before else ""
        assert token is not None, "a token is created before it is revoked"
        self.tokens[event.token_id] = TokenRecord(token=token, digest=digest)

    def _fold_rules(self, envelope: Envelope, event: JournalEvent) -> None:
        if isinstance(event, PermissionsChanged):
            before = self.rules.rules if self.rules is not None else []
            self.rules = DaemonRules(rules=change_rules(before, event), updated_cursor=envelope.cursor)

    def _run_rows(self, store: Snapshot, run: RunRecord) -> Iterator[Difference]:
        yield from _row(store, self.stream, RUNS, (run.run_id,), run)
        yield from _row(store, self.stream, RUNS_BY_SESSION, (self.stream, run.accepted_cursor), run.run_id)
        stopping = run.cancel is not None and run.status not in ENDED
        expected = run.run_id if stopping else None
        yield from _row(store, self.stream, RUNS_CANCELLED, (run.accepted_cursor,), expected)
        if run.status in ENDED:
            yield from _row(store, self.stream, RUNS_READY, (run.accepted_cursor,), None)

    def _ready_row(self, store: Snapshot, session: Session) -> Iterator[Difference]:
        """The first open run is the worker's business, unless it waits for a person."""
        for place, run_id in enumerate(session.open_runs):
            run = self.runs.get(run_id)
            if run is not None:
                expected = run_id if place == 0 and run.status not in SETTLED else None
                yield from _row(store, self.stream, RUNS_READY, (run.accepted_cursor,), expected)

    def _binding_row(self, store: Snapshot) -> Iterator[Difference]:
        """The address means this session, unless a later session took it over."""
        if self.bound is not None:
            agent, sender, at_ms = self.bound
            found = store.get(CONVERSATIONS, agent, sender)
            if found is None or (found.session_id != self.stream and found.bound_at_ms < at_ms):
                expected = Binding(session_id=self.stream, bound_at_ms=at_ms)
                yield Difference(CONVERSATIONS, (agent, sender), expected, self.stream)
        if self.unbound is not None:
            found = store.get(CONVERSATIONS, *self.unbound)
            if found is not None and found.session_id == self.stream:
                yield Difference(CONVERSATIONS, self.unbound, None, self.stream)

    def _token_rows(self, store: Snapshot) -> Iterator[Difference]:
        for token_id, record in self.tokens.items():
            yield from _row(store, self.stream, TOKENS, (token_id,), record)
            # A revoked token opens nothing any more: its secret leads nowhere.
            opens = token_id if record.token.revoked_at_ms is None else None
            yield from _row(store, self.stream, TOKENS_BY_DIGEST, (record.digest,), opens)
        # A token that nobody made would open doors: look for one whenever there are too many.
        if store.count(TOKENS) != len(self.tokens):
            for key, _ in store.scan(TOKENS):
                if key[0] not in self.tokens:
                    yield Difference(TOKENS, key, None, self.stream)


def _row(store: Snapshot, stream: str, table: Table[Any], key: Key, expected: Any) -> Iterator[Difference]:
    try:
        found = store.get(table, *key)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = NotImplemented
    if found != expected:
        yield Difference(table, key, expected, stream)
