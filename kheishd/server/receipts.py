"""One mutation as one transaction: idempotency keys, ``check`` and revocation, the same for every method.

A receipt, kept for a week per principal, method and key, says what was asked (a digest of the params)
and what was given (the result as it was encoded). It is written in the transaction that it vouches for,
so there is never one without the other. Refusals leave none.

A token that was revoked changes nothing any more: its connections are closed soon after, but what waits in
the queue behind its revocation would still be carried out.
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
from protocol.limits.rpc import IDEMPOTENCY_KEPT_MS

if TYPE_CHECKING:
    from kheishd.kernel.call import Call, Mutate
    from kheishd.store.environment import Transaction
    from protocol.rpc.method import AnyMethod, Mutation

# Each new receipt pays for forgetting a few old ones, so the table shrinks whenever it may.
PURGED_PER_RECEIPT = 4
PLACEHOLDER = "(shown when it is made)"
"""What a ``check`` gives in place of a secret."""

_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class TakenBack(Exception):
    """Raised out of a transaction that is only a check; holds what it would have given."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


class Repeated(Struct, frozen=True):
    """What an earlier request of the same key gave."""

    result: bytes


def uncompared(row: AnyMethod) -> dict[str, Any]:
    """The params that say how to ask, not what for, each with its default."""
    names = ("idempotency_key", "check", *row.uncompared)
    return {field.name: field.default for field in msgspec.structs.fields(row.params) if field.name in names}


class Change:
    """A mutation's transaction function; may be run again."""

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
        """The handler's result, or ``Repeated``. Errors: TakenBack for a check; TokenInvalid; refusals."""
        _see_that_it_is_good(tx, self._call.caller.token_id)
        key = self._params.idempotency_key
        if key is not None:
            repeated = self._look_up(tx, key)
            if repeated is not None:
                return repeated
        result = self._handler.apply(tx, self._call, self._plan)
        if self._params.check:
            raise TakenBack(_without_secret(result, self._handler.row.secret))
        if key is not None:
            self._record(tx, key, result)
        return result

    def _look_up(self, tx: Transaction, key: str) -> Repeated | None:
        row = self._handler.row
        receipt = tx.get(RECEIPTS, self._call.caller.principal, row.name, key)
        if receipt is None or receipt.at_ms + IDEMPOTENCY_KEPT_MS <= tx.now_ms:
            return None
        if receipt.params_digest != self._digest:
            raise IdempotencyConflict(field="$.params.idempotency_key")
        if row.secret is not None:
            raise AlreadyShown(field="$.params.idempotency_key")
        return Repeated(receipt.result)

    def _record(self, tx: Transaction, key: str, result: Any) -> None:
        row = self._handler.row
        name = (self._call.caller.principal, row.name, key)
        expired = tx.get(RECEIPTS, *name)
        if expired is not None:
            tx.delete(RECEIPTS_BY_AGE, expired.at_ms, *name)
        encoded = b"null" if row.secret is not None else _encode(result)
        receipt = Receipt(params_digest=self._digest, result=encoded, at_ms=tx.now_ms)
        tx.put(RECEIPTS, *name, value=receipt)
        tx.put(RECEIPTS_BY_AGE, tx.now_ms, *name, value=b"")
        _purge(tx)


def _see_that_it_is_good(tx: Transaction, token_id: str | None) -> None:
    """Errors: TokenInvalid for a token that was revoked or has expired since its request came."""
    if token_id is not None:
        record = tx.get(TOKENS, token_id)
        if record is None or not is_valid(tx, record.token, tx.now_ms):
            raise TokenInvalid


def _digest(params: Mutation, blank: dict[str, Any]) -> bytes:
    """What is compared: the params by value, defaults filled in, those aside that do not count.

    Errors: InvalidParams if the key is too long.
    """
    assert params.idempotency_key is not None
    if len(params.idempotency_key.encode()) > MAX_IDEMPOTENCY_KEY_BYTES:
        text = f"an idempotency key has {MAX_IDEMPOTENCY_KEY_BYTES} bytes of UTF-8 at most"
        raise InvalidParams(text, field="$.params.idempotency_key")
    return hashlib.sha256(_encode_sorted(msgspec.structs.replace(params, **blank))).digest()


def _without_secret(result: Any, secret: str | None) -> Any:
    return result if secret is None else msgspec.structs.replace(result, **{secret: PLACEHOLDER})


def _purge(tx: Transaction) -> None:
    """Forget a few receipts that are past their time."""
    expired: list[tuple[Any, ...]] = []
    for key, _ in tx.scan(RECEIPTS_BY_AGE):
        if key[0] + IDEMPOTENCY_KEPT_MS > tx.now_ms or len(expired) == PURGED_PER_RECEIPT:
            break
        expired.append(key)
    for key in expired:
        tx.delete(RECEIPTS_BY_AGE, *key)
        tx.delete(RECEIPTS, *key[1:])
