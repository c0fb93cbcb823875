"""The transaction of every mutation: the handler's changes, idempotency keys, dry runs and revoked tokens.

A receipt is kept for a week per principal, method and digest of the key, because a key may contain a
secret. It contains a digest of the params and the encoded result, and is written in the same transaction, so
neither exists without the other. Refusals leave no receipt.

A revoked token changes nothing: its connections are closed soon, but mutations queued behind the revocation
must be refused here.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from kheishd.objects.node.token import is_valid
from kheishd.store.records import Receipt
from kheishd.store.tables import RECEIPTS, RECEIPTS_BY_AGE, TOKENS
from protocol.errors.rpc import AlreadyShown, IdempotencyConflict, InvalidParams
from protocol.errors.token import TokenInvalid
from protocol.limits.names import MAX_IDEMPOTENCY_KEY_BYTES
from protocol.limits.rpc import IDEMPOTENCY_RETENTION_MS

if TYPE_CHECKING:
    from kheishd.kernel.call import Call, Mutate
    from kheishd.store.environment import Transaction
    from protocol.rpc.method import AnyMethod, Mutation

# Each new receipt deletes a few expired ones, so the table shrinks without a task of its own.
PURGED_PER_RECEIPT = 4
SECRET_PLACEHOLDER = "(shown when it is created)"
"""The value of a secret in the result of a ``check``."""

_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class DryRun(Exception):
    """Raised to roll back a dry run; carries its result."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


class RepeatedResult(Struct, frozen=True):
    """The result of an earlier request with the same key."""

    result: bytes


def receipt_exclusions(row: AnyMethod) -> dict[str, Any]:
    """Return the params that an idempotency key does not cover, each with its default."""
    names = ("idempotency_key", "check", *row.uncompared)
    return {field.name: field.default for field in msgspec.structs.fields(row.params) if field.name in names}


def digest_key(key: str) -> str:
    """Return an idempotency key as the store keeps it."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


class MutationCommit:
    """The transaction function of a mutation; it may run again."""

    __slots__ = ("_call", "_digest", "_handler", "_params", "_plan")

    def __init__(
        self, handler: Mutate, call: Call, params: Mutation, plan: Any, blank: dict[str, Any]
    ) -> None:
        self._handler = handler
        self._call = call
        self._params = params
        self._plan = plan
        self._digest = b"" if params.idempotency_key is None else _digest(params, blank)

    def __call__(self, tx: Transaction) -> Any:
        """Return the handler's result, or ``RepeatedResult``. Errors: DryRun; TokenInvalid; refusals."""
        _require_valid_token(tx, self._call.caller.token_id)
        key = self._params.idempotency_key
        if key is not None:
            repeated = self._look_up(tx, key)
            if repeated is not None:
                return repeated
        result = self._handler.apply(tx, self._call, self._plan)
        if self._params.check:
            secret = self._handler.row.secret
            if secret is not None:
                result = msgspec.structs.replace(result, **{secret: SECRET_PLACEHOLDER})
            raise DryRun(result)
        if key is not None:
            self._record(tx, key, result)
        return result

    def _look_up(self, tx: Transaction, key: str) -> RepeatedResult | None:
        row = self._handler.row
        name = (self._call.caller.principal, row.name)
        # Older versions stored the key itself.
        receipt = tx.get(RECEIPTS, *name, digest_key(key)) or tx.get(RECEIPTS, *name, key)
        if receipt is None or receipt.at_ms + IDEMPOTENCY_RETENTION_MS <= tx.now_ms:
            return None
        if receipt.params_digest != self._digest:
            raise IdempotencyConflict(field="$.params.idempotency_key")
        if row.secret is not None:
            raise AlreadyShown(field="$.params.idempotency_key")
        tx.require_json(receipt.result, "the result of an earlier request")
        return RepeatedResult(receipt.result)

    def _record(self, tx: Transaction, key: str, result: Any) -> None:
        row = self._handler.row
        name = (self._call.caller.principal, row.name, digest_key(key))
        expired = tx.get(RECEIPTS, *name)
        if expired is not None:
            tx.delete(RECEIPTS_BY_AGE, expired.at_ms, *name)
        encoded = b"null" if row.secret is not None else _encode(result)
        receipt = Receipt(params_digest=self._digest, result=encoded, at_ms=tx.now_ms)
        tx.put(RECEIPTS, *name, value=receipt)
        tx.put(RECEIPTS_BY_AGE, tx.now_ms, *name, value=b"")
        _purge(tx)


def _require_valid_token(tx: Transaction, token_id: str | None) -> None:
    """Reject a token that was revoked or expired after its request arrived. Errors: TokenInvalid."""
    if token_id is not None:
        record = tx.get(TOKENS, token_id)
        if record is None or not is_valid(tx, record.token, tx.now_ms):
            raise TokenInvalid


def _digest(params: Mutation, blank: dict[str, Any]) -> bytes:
    """Return the digest of the compared params, by value, with defaults.

    Errors: InvalidParams if the key is too long.
    """
    assert params.idempotency_key is not None
    if len(params.idempotency_key.encode()) > MAX_IDEMPOTENCY_KEY_BYTES:
        text = f"an idempotency key has {MAX_IDEMPOTENCY_KEY_BYTES} bytes of UTF-8 at most"
        raise InvalidParams(text, field="$.params.idempotency_key")
    return hashlib.sha256(_encode_sorted(msgspec.structs.replace(params, **blank))).digest()


def _purge(tx: Transaction) -> None:
    """Delete a few expired receipts."""
    expired: list[tuple[Any, ...]] = []
    for key, _ in tx.scan(RECEIPTS_BY_AGE):
        if key[0] + IDEMPOTENCY_RETENTION_MS > tx.now_ms or len(expired) == PURGED_PER_RECEIPT:
            break
        expired.append(key)
    for key in expired:
        tx.delete(RECEIPTS_BY_AGE, *key)
        tx.delete(RECEIPTS, *key[1:])
