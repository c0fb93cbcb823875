"""Bearer tokens: create, narrow, list and revoke them.

A token is valid only while every token that it was narrowed from is valid. So revoking a token revokes all
its descendants, in one small transaction and without a search for them. A token that a token creates is its
child: nobody can keep with a second token the rights that are revoked with the first.
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

# How deep tokens narrow: every connection walks up the whole chain.
MAX_NARROWED = 32

# When the store holds as many tokens as it may: how many are examined, and how many dead ones of those are
# removed. That takes a millisecond.
MAX_EXAMINED_TOKENS = 64
MAX_REMOVED_TOKENS = 16


def lineage(store: Snapshot, token: Token) -> list[Token]:
    """Return a token, the token that it was narrowed from, and so on."""
    tokens = [token]
    while tokens[-1].parent_token_id is not None:
        tokens.append(store.need(TOKENS, tokens[-1].parent_token_id).token)
    return tokens


def is_valid(store: Snapshot, token: Token, now_ms: int) -> bool:
    """Whether a token and every token that it was narrowed from is alive."""
    return all(is_alive(ancestor, now_ms) for ancestor in lineage(store, token))


def view_of(store: Snapshot, token: Token) -> Token:
    """Return a token as shown: with the time at which it or an ancestor was revoked."""
    times = [token.revoked_at_ms for token in lineage(store, token) if token.revoked_at_ms is not None]
    return replace(token, revoked_at_ms=min(times)) if times else token


class _New:
    """The values of a new token that a transaction cannot make: an id and a secret."""

    def __init__(self, call: Call) -> None:
        self.token_id = call.state.new_id(TOKEN)
        self.secret = make_secret(os.urandom(SECRET_BYTES))


@mutation(rows.CREATE, prepare=lambda call, params: (params, _New(call)))
def create(tx: Transaction, call: Call, plan: tuple[TokenCreate, _New]) -> NewToken:
    """Create a token with no more rights than the caller has.

    Errors: ScopeWouldWiden, TokenLimit.
    """
    params, new = plan
    held = _rights_of(tx, call.caller)
    grant = TokenGrant(
        scopes=params.scopes,
        agents=params.agents,
        senders=params.senders,
        expires_at_ms=_expiry(tx, held, params.expires_in_s),
        origin=params.origin or held.origin,
    )
    return _create(tx, call, new, narrow_grant(held, grant), params.name, call.caller.token_id)


def prepare_narrow(call: Call, params: TokenNarrow) -> tuple[TokenNarrow, _New]:
    """Choose the id and the secret of a new token. Errors: InvalidParams, ScopeMissing."""
    if params.token_id is None and call.caller.token_id is None:
        raise InvalidParams(
            "the caller has no token of its own; name the token to narrow", field="$.params.token_id"
        )
    if params.token_id not in (None, call.caller.token_id):
        call.caller.require_scope("admin")
    return params, _New(call)


@mutation(rows.NARROW, prepare=prepare_narrow)
def narrow(tx: Transaction, call: Call, plan: tuple[TokenNarrow, _New]) -> NewToken:
    """Create a weaker token from another one. Rights that the params leave out are the other's.

    Errors: TokenNotFound, ScopeWouldWiden, TokenLimit.
    """
    params, new = plan
    parent = _find(tx, params.token_id or call.caller.token_id or "")
    if not is_valid(tx, parent, tx.now_ms):
        raise TokenNotFound(
            f"the token '{parent.token_id}' was revoked or has expired", field="$.params.token_id"
        )
    _require_descendant(tx, call.caller, parent)
    held = parent.grant
    grant = TokenGrant(
        scopes=held.scopes if params.scopes is None else params.scopes,
        agents=held.agents if params.agents is None else params.agents,
        senders=held.senders if params.senders is None else params.senders,
        expires_at_ms=_expiry(tx, held, params.expires_in_s),
        origin=params.origin or held.origin,
    )
    narrow_grant(_rights_of(tx, call.caller), grant)
    return _create(tx, call, new, narrow_grant(held, grant), params.name, parent.token_id)


@query(rows.LIST)
def list_(call: Call, params: TokenListParams) -> TokenList:
    """List tokens, oldest first."""
    last_id = id_after(params.after)
    with call.state.read() as store:
        records = store.scan(TOKENS, after=None if last_id is None else (last_id,))
        tokens = ((key, view_of(store, record.token)) for key, record in records)
        page, following = page_of(
            tokens, params.limit, lambda token: params.revoked or is_alive(token, call.now_ms)
        )
    return TokenList(page, following)


@mutation(rows.REVOKE)
def revoke(tx: Transaction, call: Call, params: TokenRevoke) -> Token:
    """Revoke a token. Revoking it again changes nothing. Errors: TokenNotFound."""
    token = _find(tx, params.token_id)
    if token.revoked_at_ms is not None:
        return token
    event = TokenRevoked(token_id=token.token_id, note=params.note)
    return _append(tx, event, token.token_id, origin_of(call))


def _create(
    tx: Transaction, call: Call, new: _New, grant: TokenGrant, name: str, parent_token_id: str | None
) -> NewToken:
    """Append the creation of a token. Errors: TokenLimit."""
    digest = hash_secret(new.secret)
    if tx.count(TOKENS_BY_DIGEST) >= MAX_TOKENS and not _remove_dead(tx, digest):
        raise TokenLimit()
    if parent_token_id is not None and len(lineage(tx, _find(tx, parent_token_id))) > MAX_NARROWED:
        raise TokenLimit(f"a token can be narrowed at most {MAX_NARROWED} times in a row")
    event = TokenCreated(
        token_id=new.token_id, digest=digest, grant=grant, name=name, parent_token_id=parent_token_id
    )
    return NewToken(token=_append(tx, event, new.token_id, origin_of(call)), secret=new.secret)


def _remove_dead(tx: Transaction, start: str) -> bool:
    """Revoke a few tokens that have expired or whose ancestor was revoked. Returns whether there were any.

    Otherwise the holder of the weakest token could narrow it until the store has room for no other, and
    revoking it would not help.
    Source: the digests after a random one, so that each attempt examines others.
    """
    digests = chain(tx.scan(TOKENS_BY_DIGEST, after=(start,)), tx.scan(TOKENS_BY_DIGEST))
    tokens = {token_id: _find(tx, token_id) for _, token_id in islice(digests, MAX_EXAMINED_TOKENS)}
    dead = [token for token in tokens.values() if not is_valid(tx, token, tx.now_ms)]
    for token in dead[:MAX_REMOVED_TOKENS]:
        event = TokenRevoked(token_id=token.token_id, note="it was no longer valid")
        _append(tx, event, token.token_id, BY_DAEMON)
    return bool(dead)


def _require_descendant(store: Snapshot, caller: Caller, parent: Token) -> None:
    """Reject a parent whose child would outlive the caller's own token. Errors: ScopeWouldWiden."""
    if caller.token_id is not None and all(
        caller.token_id != token.token_id for token in lineage(store, parent)
    ):
        raise ScopeWouldWiden(
            "a token narrows only itself and its descendants: a child of another token would outlive it",
            field="$.params.token_id",
        )


def _append(tx: Transaction, event: JournalEvent, token_id: str, origin: Origin) -> Token:
    """Append an event of a token and return the token after it."""
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


def _rights_of(store: Snapshot, caller: Caller) -> TokenGrant:
    """Return the rights of a caller as a grant, with the expiry of its token. Errors: TokenInvalid."""
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
        origin=caller.origin,
    )


def _expiry(tx: Transaction, held: TokenGrant, expires_in_s: int | None) -> int | None:
    """Return when a new token expires: as requested, else together with the rights it comes from."""
    return held.expires_at_ms if expires_in_s is None else tx.now_ms + 1000 * expires_in_s


HANDLERS = (create, narrow, list_, revoke)
