"""Bearer tokens: made, narrowed, listed, revoked.

A token is good only while every token it was narrowed from is. So revoking one takes back all that came
of it, in one small transaction and without looking for them. What a token caller makes is a child of its
own token, so nobody can keep with a second token what is taken back with the first.
"""

from __future__ import annotations

import os
from itertools import chain, islice
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.core.token import (
    EVERYTHING,
    SECRET_BYTES,
    hash_secret,
    is_alive,
    make_secret,
    narrow_grant,
)
from kheishd.kernel.call import Call, Caller, mutation, origin_of, query
from kheishd.objects.pages import id_after, page_of
from kheishd.records.writer import BY_DAEMON, Origin, StreamWriter
from kheishd.store.tables import TOKENS, TOKENS_BY_DIGEST
from protocol.errors.rpc import InvalidParams
from protocol.errors.token import ScopeWouldWiden, TokenInvalid, TokenLimit, TokenNotFound
from protocol.events.token import TokenCreated, TokenRevoked
from protocol.ids import TOKEN
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.token import MAX_TOKENS
from protocol.objects import token as rows
from protocol.objects.token import (
    NewToken,
    Token,
    TokenCreate,
    TokenGrant,
    TokenList,
    TokenListParams,
    TokenNarrow,
    TokenRevoke,
)

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.journal.line import JournalEvent

# How often in a row a token can be narrowed: every request to connect walks up this far at most.
MAX_NARROWED = 32

# How many tokens are looked at where there is no room for another, and how many of those that open nothing
# are taken away: a millisecond.
LOOKED_AT = 64
MADE_ROOM = 16


def lineage(store: Snapshot, token: Token) -> list[Token]:
    """A token, the one it was narrowed from, and so on."""
    found = [token]
    while found[-1].parent_token_id is not None:
        record = store.need(TOKENS, found[-1].parent_token_id)
        found.append(record.token)
    return found


def is_valid(store: Snapshot, token: Token, now_ms: int) -> bool:
    """Whether a token opens anything now: itself and all it was narrowed from."""
    return all(is_alive(each, now_ms) for each in lineage(store, token))


def as_shown(store: Snapshot, token: Token) -> Token:
    """A token as it is listed: one whose ancestor was revoked shows when."""
    revoked = [each.revoked_at_ms for each in lineage(store, token) if each.revoked_at_ms is not None]
    return replace(token, revoked_at_ms=min(revoked)) if revoked else token


class _New:
    """What a new token gets that a transaction cannot make: an id and a secret."""

    def __init__(self, call: Call) -> None:
        self.token_id = call.state.new_id(TOKEN)
        self.secret = make_secret(os.urandom(SECRET_BYTES))


def _prepare_create(call: Call, params: TokenCreate) -> tuple[TokenCreate, _New]:
    return params, _New(call)


def _prepare_narrow(call: Call, params: TokenNarrow) -> tuple[TokenNarrow, _New]:
    if params.token_id is None and call.caller.token_id is None:
        raise InvalidParams("the caller is no token: say which to narrow", field="$.params.token_id")
    if params.token_id not in (None, call.caller.token_id):
        call.caller.need("admin")
    return params, _New(call)


@mutation(rows.CREATE, prepare=_prepare_create)
def create(tx: Transaction, call: Call, plan: tuple[TokenCreate, _New]) -> NewToken:
    """Make a token that allows no more than the caller may.

    Errors: ScopeWouldWiden, TokenLimit.
    """
    params, new = plan
    held = _held_by(tx, call.caller)
    grant = TokenGrant(
        scopes=params.scopes,
        agents=params.agents,
        senders=params.senders,
        expires_at_ms=held.expires_at_ms if params.expires_in_s is None else _end(tx, params.expires_in_s),
    )
    return _make(tx, call, new, narrow_grant(held, grant), params.name, call.caller.token_id)


@mutation(rows.NARROW, prepare=_prepare_narrow)
def narrow(tx: Transaction, call: Call, plan: tuple[TokenNarrow, _New]) -> NewToken:
    """Make a weaker token; what is left out is as it was.

    Errors: TokenNotFound, ScopeWouldWiden, TokenLimit.
    """
    params, new = plan
    parent = _find(tx, params.token_id or call.caller.token_id or "")
    if not is_valid(tx, parent, tx.now_ms):
        raise TokenNotFound(f"the token '{parent.token_id}' was revoked or has expired")
    _see_that_it_came_of(tx, call.caller, parent)
    held = parent.grant
    grant = TokenGrant(
        scopes=held.scopes if params.scopes is None else params.scopes,
        agents=held.agents if params.agents is None else params.agents,
        senders=held.senders if params.senders is None else params.senders,
        expires_at_ms=held.expires_at_ms if params.expires_in_s is None else _end(tx, params.expires_in_s),
    )
    narrow_grant(_held_by(tx, call.caller), grant)
    return _make(tx, call, new, narrow_grant(held, grant), params.name, parent.token_id)


@query(rows.LIST)
def list_(call: Call, params: TokenListParams) -> TokenList:
    """List tokens, oldest first."""
    mark = id_after(params.after)
    after = None if mark is None else (mark,)
    with call.state.read() as store:
        found = ((key, as_shown(store, record.token)) for key, record in store.scan(TOKENS, after=after))
        chosen, following = page_of(
            found, params.limit, lambda token: params.revoked or is_alive(token, call.now_ms)
        )
    return TokenList(chosen, following)


@mutation(rows.REVOKE)
def revoke(tx: Transaction, call: Call, params: TokenRevoke) -> Token:
    """Revoke a token; revoking it again changes nothing. Errors: TokenNotFound."""
    token = _find(tx, params.token_id)
    if token.revoked_at_ms is not None:
        return token
    event = TokenRevoked(token_id=token.token_id, note=params.note)
    return _append(tx, event, token.token_id, origin_of(call))


def _make_room(tx: Transaction, beyond: str) -> bool:
    """Take away a few tokens that open nothing any more; whether there were some.

    They have expired, or what they came of was revoked. Otherwise whoever holds the weakest of tokens could
    narrow it until there is room for no other, and not even revoking it would help.
    Source: the digests ``beyond`` a random one, so that each attempt looks elsewhere.
    """
    rows = chain(tx.scan(TOKENS_BY_DIGEST, after=(beyond,)), tx.scan(TOKENS_BY_DIGEST))
    looked_at = [(key[0], _find(tx, token_id)) for key, token_id in islice(rows, LOOKED_AT)]
    dead = [(digest, token) for digest, token in looked_at if not is_valid(tx, token, tx.now_ms)]
    for token in dict(dead[:MADE_ROOM]).values():
        event = TokenRevoked(token_id=token.token_id, note="it opened nothing any more")
        _append(tx, event, token.token_id, BY_DAEMON)
    return bool(dead)


def _make(
    tx: Transaction, call: Call, new: _New, grant: TokenGrant, name: str, parent_token_id: str | None
) -> NewToken:
    digest = hash_secret(new.secret)
    if tx.count(TOKENS_BY_DIGEST) >= MAX_TOKENS and not _make_room(tx, digest):
        raise TokenLimit()
    if parent_token_id is not None and len(lineage(tx, _find(tx, parent_token_id))) > MAX_NARROWED:
        raise TokenLimit(f"a token can be narrowed {MAX_NARROWED} times in a row at most")
    event = TokenCreated(
        token_id=new.token_id, digest=digest, grant=grant, name=name, parent_token_id=parent_token_id
    )
    return NewToken(token=_append(tx, event, new.token_id, origin_of(call)), secret=new.secret)


def _see_that_it_came_of(store: Snapshot, caller: Caller, parent: Token) -> None:
    """Errors: ScopeWouldWiden for a token whose child would live on when the caller's own is revoked."""
    own = caller.token_id
    if own is not None and all(own != each.token_id for each in lineage(store, parent)):
        raise ScopeWouldWiden(
            "a token narrows itself and what came of it: what it made of another would outlive it",
            field="$.params.token_id",
        )


def _append(tx: Transaction, event: JournalEvent, token_id: str, origin: Origin) -> Token:
    """Append an event of a token; return the token as it leaves it."""
    writer = StreamWriter(tx, DAEMON_STREAM, origin=origin)
    writer.append(event)
    record = writer.need(TOKENS, token_id)
    writer.write()
    return record.token


def _find(store: Snapshot, token_id: str) -> Token:
    record = store.get(TOKENS, token_id)
    if record is None:
        raise TokenNotFound(f"there is no token '{token_id}'", field="$.params.token_id")
    return record.token


def _held_by(store: Snapshot, caller: Caller) -> TokenGrant:
    """What a caller may do, as a grant; what its token allows now, if it comes with one."""
    expires_at_ms = None
    if caller.token_id is not None:
        record = store.get(TOKENS, caller.token_id)
        if record is None:
            raise TokenInvalid()
        expires_at_ms = record.token.grant.expires_at_ms
    return TokenGrant(
        scopes=[scope for scope in EVERYTHING.scopes if scope in caller.scopes],
        agents=None if caller.agents is None else sorted(caller.agents),
        senders=None if caller.senders is None else sorted(caller.senders),
        expires_at_ms=expires_at_ms,
    )


def _end(tx: Transaction, expires_in_s: int) -> int:
    return tx.now_ms + 1000 * expires_in_s


HANDLERS = (create, narrow, list_, revoke)
