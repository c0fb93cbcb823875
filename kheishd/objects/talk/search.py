"""``session.search``: the messages of people and agents in all sessions, by an index of the journal.

The index is a cache. A search extends it, step by step, up to the newest event, so that turns pay nothing for
it, and a daemon whose sessions are never searched has none. Each step is a short transaction of its own: a
search that is cut short, or a crash, leaves an index that the next search extends.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from struct import Struct as Layout
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec
import trio
from msgspec import Struct
from msgspec.structs import replace

from kheishd.core.memory.messages import MESSAGE_TYPES, read_message
from kheishd.core.memory.ranking import Collection, rank
from kheishd.core.memory.terms import choose_query_terms, find_terms, make_snippet
from kheishd.kernel.call import Call, control
from kheishd.objects.talk.address import find_session
from kheishd.records.projection import SESSION_STREAMS, stream_kind
from kheishd.store.postings import pack_posting
from kheishd.store.records import SearchTotals
from kheishd.store.tables import CURSORS, MESSAGE_POSTINGS, SEARCH_TOTALS, SESSIONS, WHOLE_INDEX
from protocol.errors.store import StorageFull, StoreDamaged
from protocol.journal.line import decode_envelope, decode_event
from protocol.lazy import LazyDecoder
from protocol.limits.memory import MAX_QUERY_TERMS, MAX_SEARCHED_CHARACTERS
from protocol.limits.search import (
    MAX_MESSAGE_INDEX_BYTES,
    MAX_POSTINGS_SCANNED,
    MAX_SEARCHED_AGENTS,
    MAX_STEP_EVENTS,
    MAX_STEP_MESSAGES,
)
from protocol.objects import search as rows
from protocol.objects.search import MessageHit, SearchResult, SessionSearch
from protocol.structs import Value

if TYPE_CHECKING:
    from kheishd.core.memory.messages import SearchedMessage
    from kheishd.core.memory.ranking import Posting
    from kheishd.kernel.call import Caller
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.session import Session

_DIGESTS: Final = Layout(">II")
_POSTING: Final = Layout(">QBH")

# A row of the index: the cursor, the value, the separators, and LMDB's head of the row.
_ROW_BYTES: Final = 40


class _Typed(Struct, frozen=True, gc=False):
    type: str


_typed: LazyDecoder[_Typed] = LazyDecoder(_Typed)


def _digest(text: str | None) -> int:
    """Return a number by which rows of other sessions and senders are skipped; hits are compared exactly."""
    return crc32((text or "").encode())


# The index.


def index_step(tx: Transaction) -> int:
    """Index the next messages of the journal; return the number of events that are not indexed yet."""
    whole = tx.get(SEARCH_TOTALS, WHOLE_INDEX) or SearchTotals()
    totals: dict[str, SearchTotals] = {}
    cursor, messages, room = whole.indexed_cursor, 0, MAX_SEARCHED_CHARACTERS
    for cursor, stream in islice(tx.feed(whole.indexed_cursor), MAX_STEP_EVENTS):
        entry = tx.entry(stream, cursor) if stream_kind(stream) == SESSION_STREAMS else None
        message = _find_message(entry[1]) if entry is not None else None
        session = tx.get(SESSIONS, stream) if message is not None else None
        if message is None or session is None:
            continue
        current = totals.get(session.agent) or tx.get(SEARCH_TOTALS, session.agent)
        current = current or SearchTotals(first_cursor=cursor)
        length = _index_message(tx, session, cursor, message.text)
        totals[session.agent] = replace(current, messages=current.messages + 1, terms=current.terms + length)
        messages += 1
        room -= len(message.text)
        if messages == MAX_STEP_MESSAGES or room <= 0 or tx.free_bytes < 2 * MAX_MESSAGE_INDEX_BYTES:
            break
    if cursor != whole.indexed_cursor:
        tx.put(SEARCH_TOTALS, WHOLE_INDEX, value=replace(whole, indexed_cursor=cursor))
    for agent, current in totals.items():
        tx.put(SEARCH_TOTALS, agent, value=current)
    return tx.last_cursor - cursor


def _find_message(line: bytes) -> SearchedMessage | None:
    """Return the message of a line; None if it has none, or is damaged, which the doctor reports."""
    try:
        is_message = _typed.decode(line).type in MESSAGE_TYPES
        return read_message(decode_event(line)) if is_message else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _index_message(tx: Transaction, session: Session, cursor: int, text: str) -> int:
    """Write the rows of a message, as many as fit; return the number of its terms."""
    counts = Counter(find_terms(text, MAX_SEARCHED_CHARACTERS))
    length, room = counts.total(), MAX_MESSAGE_INDEX_BYTES
    overhead = _ROW_BYTES + len(session.agent.encode())
    digests = _DIGESTS.pack(_digest(session.session_id), _digest(session.sender))
    for term, count in counts.items():
        room -= overhead + len(term.encode())
        if room < 0:
            break
        value = pack_posting(count, length) + digests
        tx.put(MESSAGE_POSTINGS, session.agent, term, cursor, value=value)
    return length


# The search.


class Wanted(Value, frozen=True):
    """The messages that a search may return: of a caller's sessions, and of those that the params name."""

    caller: Caller
    params: SessionSearch
    since: int = 0
    until: int = 2**63 - 1

    def covers(self, session: Session) -> bool:
        """Whether messages of a session may be returned."""
        params = self.params
        return (
            self.caller.may_read(session.agent, session.sender)
            and params.session_id in (None, session.session_id)
            and params.sender in (None, session.sender)
        )

    def digests(self) -> tuple[int | None, frozenset[int] | None]:
        """Return the digests of the session and of the senders; None: of all."""
        params, senders = self.params, self.caller.senders
        if params.sender is not None:
            senders = frozenset((params.sender,))
        session = None if params.session_id is None else _digest(params.session_id)
        return session, None if senders is None else frozenset(map(_digest, senders))


class MessagePostings:
    """The postings of an agent's messages, of which only the wanted ones count."""

    def __init__(self, store: Snapshot, agent: str, wanted: Wanted) -> None:
        self._store = store
        self._agent = agent
        self._wanted = wanted
        self._session, self._senders = wanted.digests()

    def read(self, term: str, max_rows: int) -> list[Posting]:
        """Return the newest wanted postings of a term, the newest first."""
        end = (self._agent, term, self._wanted.until)
        scan = self._store.scan_packed(MESSAGE_POSTINGS, self._agent, term, after=end, reverse=True)
        packed = []
        for key, value in islice(scan, MAX_POSTINGS_SCANNED):
            number = key[-8:]
            if int.from_bytes(number, "big") <= self._wanted.since:
                break
            if self._is_wanted(value):
                packed.append(number + value[:3])
                if len(packed) == max_rows:
                    break
        return list(_POSTING.iter_unpack(b"".join(packed)))

    def find(self, term: str, number: int) -> Posting | None:
        """Return the posting of a term for a message; None if the message does not contain it."""
        value = self._store.get(MESSAGE_POSTINGS, self._agent, term, number)
        if value is None:
            return None
        _, count, length = _POSTING.unpack(number.to_bytes(8, "big") + value[:3])
        return number, count, length

    def _is_wanted(self, value: bytes) -> bool:
        if self._session is None and self._senders is None:
            return True
        session, sender = _DIGESTS.unpack(value[3:])
        return self._session in (None, session) and (self._senders is None or sender in self._senders)


@control(rows.SEARCH)
async def search(call: Call, params: SessionSearch) -> SearchResult:
    """Search the messages that the caller may read, after indexing the new ones.

    Errors: AgentForbidden, SenderForbidden, SessionNotFound.
    """
    if params.agent is not None:
        call.caller.require_agent(params.agent)
    if params.sender is not None:
        call.caller.require_sender(params.sender)
    if params.session_id is not None:
        with call.state.read() as store:
            session = find_session(store, call, params.session_id)
        if params.agent not in (None, session.agent):
            return SearchResult([], 0)
        params = replace(params, agent=session.agent)
    unindexed = await _extend_index(call, params.timeout_s)
    with call.state.read() as store:
        wanted = Wanted(
            call.caller,
            params,
            since=0 if params.since_ms is None else _cursor_before(store, params.since_ms),
            until=2**63 - 1 if params.until_ms is None else _cursor_before(store, params.until_ms) + 1,
        )
        agents = _searched_agents(store, call.caller, params.agent)
    terms = choose_query_terms(params.query, MAX_QUERY_TERMS)
    hits: list[tuple[MessageHit, str]] = []
    for agent in agents:
        with call.state.read() as store:
            hits += find_messages(store, wanted, agent, terms)
        hits.sort(key=lambda hit: (-hit[0].score, -hit[0].cursor))
        del hits[params.limit :]
        # Many agents with common words must not hold up the loop.
        await trio.lowlevel.checkpoint()
    messages: list[MessageHit] = []
    for hit, text in hits:
        messages.append(replace(hit, snippet=make_snippet(text, terms)))
        # Neither must long messages.
        await trio.lowlevel.checkpoint()
    return SearchResult(messages, unindexed)


async def _extend_index(call: Call, seconds: float) -> int:
    """Index new messages; return the number of events that remain when the time is over.

    Nothing is written while the disk is full, or the store is damaged.
    """
    with call.state.read() as store:
        whole = store.get(SEARCH_TOTALS, WHOLE_INDEX) or SearchTotals()
        remaining = store.last_cursor - whole.indexed_cursor
    deadline = trio.current_time() + seconds
    while remaining > 0 and trio.current_time() < deadline:
        try:
            remaining = await call.state.update(index_step)
        except (StorageFull, StoreDamaged):
            # What is indexed is searched all the same.
            break
    return remaining


def find_messages(
    store: Snapshot, wanted: Wanted, agent: str, terms: list[str]
) -> list[tuple[MessageHit, str]]:
    """Return the wanted messages of an agent's sessions without snippets, and their texts, the best first."""
    totals = store.get(SEARCH_TOTALS, agent)
    if totals is None:
        return []
    collection = Collection(totals.messages, totals.terms, totals.first_cursor)
    hits: list[tuple[MessageHit, str]] = []
    for cursor, score in rank(MessagePostings(store, agent, wanted), terms, collection):
        hit = _hit_of(store, wanted, cursor, score)
        if hit is not None:
            hits.append(hit)
        if len(hits) == wanted.params.limit:
            break
    return hits


def _searched_agents(store: Snapshot, caller: Caller, agent: str | None) -> list[str]:
    """Return the agents to search."""
    if agent is not None:
        return [agent]
    agents = (key[0] for key, _ in store.scan(SEARCH_TOTALS))
    readable = (name for name in agents if name != WHOLE_INDEX and caller.may_read_agent(name))
    return list(islice(readable, MAX_SEARCHED_AGENTS))


def _hit_of(store: Snapshot, wanted: Wanted, cursor: int, score: float) -> tuple[MessageHit, str] | None:
    """Return a message as a result, and its text; None if it is not wanted, or no longer in the journal."""
    stream = store.get(CURSORS, cursor)
    entry = store.entry(stream, cursor) if stream is not None else None
    session = store.get(SESSIONS, stream) if stream is not None else None
    message = _find_message(entry[1]) if entry is not None else None
    if entry is None or session is None or message is None or not wanted.covers(session):
        return None
    envelope = decode_envelope(entry[1])
    params = wanted.params
    if params.since_ms is not None and envelope.at_ms < params.since_ms:
        return None
    if params.until_ms is not None and envelope.at_ms >= params.until_ms:
        return None
    hit = MessageHit(
        session_id=session.session_id,
        agent=session.agent,
        sender=session.sender,
        title=session.title,
        cursor=cursor,
        at_ms=envelope.at_ms,
        run_id=envelope.run_id,
        score=round(score, 4),
        snippet="",
        author=(message.agent or session.agent) if message.is_answer else None,
        origin=message.origin,
    )
    return hit, message.text


def _cursor_before(store: Snapshot, at_ms: int) -> int:
    """Return the last cursor before a time, as if no clock had been set back."""
    low, high = 0, store.last_cursor
    while low < high:
        middle = (low + high + 1) // 2
        time_ms = None
        for cursor, stream in store.feed(middle - 1):
            entry = store.entry(stream, cursor)
            time_ms = decode_envelope(entry[1]).at_ms if entry is not None else None
            break
        if time_ms is not None and time_ms < at_ms:
            low = middle
        else:
            high = middle - 1
    return low


HANDLERS = (search,)
