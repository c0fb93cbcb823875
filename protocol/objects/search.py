"""The search in the messages of sessions."""

from typing import Annotated

from msgspec import Meta, Struct

from protocol.errors.conversation import SenderForbidden
from protocol.errors.definition import AgentForbidden
from protocol.errors.session import SessionNotFound
from protocol.ids import Cursor, Id
from protocol.limits.memory import MAX_HITS, MAX_QUERY_BYTES
from protocol.limits.search import DEFAULT_INDEX_SECONDS, MAX_INDEX_SECONDS
from protocol.objects.conversation import Sender
from protocol.rpc.method import Method, Params
from protocol.transcript import InputOrigin

Time = Annotated[int, Meta(ge=0, le=2**62)]


class SessionSearch(Params, frozen=True, kw_only=True):
    """Params of ``session.search``: words in any order, and the messages to search.

    ``timeout_s`` limits the time in which new messages are indexed before the search.
    """

    query: Annotated[str, Meta(min_length=1, max_length=MAX_QUERY_BYTES)]
    agent: Id | None = None
    sender: Sender | None = None
    session_id: Id | None = None
    since_ms: Time | None = None
    until_ms: Time | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_HITS)] = 10
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_INDEX_SECONDS)] = float(DEFAULT_INDEX_SECONDS)


class MessageHit(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message that fits a query, with an excerpt around its words.

    ``cursor`` is that of its event, at which ``session.history`` can continue. ``author`` is the agent of an
    answer; of an input, ``origin`` is the kind of its author.
    """

    session_id: str
    agent: str
    cursor: Cursor
    at_ms: int
    score: float
    snippet: str
    sender: str | None = None
    run_id: str | None = None
    title: str | None = None
    author: str | None = None
    origin: InputOrigin | None = None


class SearchResult(Struct, frozen=True):
    """The messages that fit a query, the best first; and the events that are not indexed yet."""

    messages: list[MessageHit]
    unindexed_events: int


SEARCH = Method(
    "session.search",
    "control",
    SessionSearch,
    SearchResult,
    "Search the messages of people and agents in all sessions, the best first.",
    errors=(AgentForbidden, SenderForbidden, SessionNotFound),
)

METHODS = (SEARCH,)
"""The row of ``session.search``."""
