"""Receipts: written in the transaction that they record, and expired in time."""

from typing import Any, cast

import pytest

from kheishd.kernel.call import Call, Caller, Mutate
from kheishd.server.mutation import (
    PURGED_PER_RECEIPT,
    SECRET_PLACEHOLDER,
    DryRun,
    MutationCommit,
    RepeatedResult,
    digest_key,
    receipt_exclusions,
)
from kheishd.store.environment import Transaction
from kheishd.store.records import TokenRecord
from kheishd.store.tables import RECEIPTS, RECEIPTS_BY_AGE, TOKENS
from kheishd.store.writer import Store
from protocol.errors.rpc import AlreadyShown, InvalidParams
from protocol.errors.run import RunAlreadyEnded
from protocol.errors.token import TokenInvalid
from protocol.limits.rpc import IDEMPOTENCY_RETENTION_MS
from protocol.objects.token import Token, TokenGrant
from protocol.rpc.method import Method
from tests.support.toys import Keep, Kept, Shown

NOW_MS = 1_800_000_000_000
WEEK_MS = IDEMPOTENCY_RETENTION_MS


class Asked:
    """The part of a call that receipts use."""

    def __init__(self, token_id: str | None = None) -> None:
        self.caller = Caller(
            "uid:0" if token_id is None else f"token:{token_id}", frozenset(), token_id=token_id
        )


def mutation(secret: str | None = None) -> Mutate:
    """Return a mutation that returns its input."""
    row: Method[Any, Any] = Method(
        "toy.keep", "mutation", Keep, Kept, "A toy.", uncompared=("wait",), secret=secret
    )
    if secret is not None:
        return Mutate(row, lambda tx, call, plan: Shown(1, "hidden"))
    return Mutate(row, _kept)


def _kept(tx: Transaction, call: Call, plan: Keep) -> Kept:
    if plan.fail:
        raise RunAlreadyEnded()
    return Kept(plan.value, 1)


def run(
    store: Store, handler: Mutate, now_ms: int = NOW_MS, token_id: str | None = None, **params: Any
) -> Any:
    """Run a mutation and return its value. Errors: those of the mutation."""
    asked = Keep(**({"value": "a"} | params))
    change = MutationCommit(
        handler, cast("Call", Asked(token_id)), asked, asked, receipt_exclusions(handler.row)
    )
    return store.submit(change, now_ms).unwrap()


def receipts(store: Store) -> int:
    """How many there are, in the table and in its index."""
    with store.read() as snapshot:
        by_age = snapshot.count(RECEIPTS_BY_AGE)
        assert snapshot.count(RECEIPTS) == by_age
    return by_age


def test_what_does_not_count_has_its_default() -> None:
    """The key, ``check`` and the params that the row excludes have their defaults in the digest."""
    assert receipt_exclusions(mutation().row) == {"idempotency_key": None, "check": False, "wait": False}


def test_without_a_key_there_is_no_receipt(store: Store) -> None:
    """A request without a key leaves no receipt."""
    run(store, mutation())
    assert receipts(store) == 0


def test_a_receipt_holds_the_result_as_encoded(store: Store) -> None:
    """A repeated request gets the bytes of the first result."""
    assert run(store, mutation(), idempotency_key="k") == Kept("a", 1)
    assert run(store, mutation(), idempotency_key="k", wait=True) == RepeatedResult(
        b'{"value":"a","number":1,"waited":0}'
    )
    assert receipts(store) == 1


def test_a_receipt_of_an_older_version_answers(store: Store) -> None:
    """A key that was stored as it is answers the repeated request."""
    run(store, mutation(), idempotency_key="k")

    def age(tx: Transaction) -> None:
        receipt = tx.get(RECEIPTS, "uid:0", "toy.keep", digest_key("k"))
        assert receipt is not None
        tx.delete(RECEIPTS, "uid:0", "toy.keep", digest_key("k"))
        tx.put(RECEIPTS, "uid:0", "toy.keep", "k", value=receipt)

    store.submit(age, NOW_MS).unwrap()
    assert isinstance(run(store, mutation(), idempotency_key="k"), RepeatedResult)


def test_a_secret_is_in_no_receipt(store: Store) -> None:
    """A receipt holds no secret; a repeated request is refused as already shown."""
    run(store, mutation("secret"), idempotency_key="k")
    with store.read() as snapshot:
        stored = snapshot.get(RECEIPTS, "uid:0", "toy.keep", digest_key("k"))
    assert stored is not None
    assert b"hidden" not in stored.result
    with pytest.raises(AlreadyShown):
        run(store, mutation("secret"), idempotency_key="k")


def test_a_refusal_leaves_no_receipt(store: Store) -> None:
    """The key of a refused request can be used again."""
    with pytest.raises(RunAlreadyEnded):
        run(store, mutation(), fail=True, idempotency_key="k")
    assert receipts(store) == 0
    assert run(store, mutation(), idempotency_key="k") == Kept("a", 1)


def test_a_check_is_taken_back(store: Store) -> None:
    """A check is rolled back and returns its result with a placeholder for the secret."""
    with pytest.raises(DryRun) as caught:
        run(store, mutation(), check=True, idempotency_key="k")
    assert caught.value.result == Kept("a", 1)
    with pytest.raises(DryRun) as caught:
        run(store, mutation("secret"), check=True)
    assert caught.value.result == Shown(1, SECRET_PLACEHOLDER)
    assert receipts(store) == 0


def put_token(store: Store, token_id: str, **fields: Any) -> None:
    """Store a token's record."""
    grant = TokenGrant(scopes=[], expires_at_ms=fields.pop("expires_at_ms", None))
    token = Token(token_id=token_id, name="", grant=grant, created_at_ms=1, created_by="uid:0", **fields)
    record = TokenRecord(token=token, digest="", created_cursor=1)
    store.submit(lambda tx: tx.put(TOKENS, token_id, value=record), NOW_MS).unwrap()


def test_a_token_that_is_good_no_more_changes_nothing(store: Store) -> None:
    """A mutation queued behind the revocation of its token, or of a parent token, is refused."""
    put_token(store, "revoked", revoked_at_ms=2)
    put_token(store, "child", parent_token_id="revoked")
    put_token(store, "expired", expires_at_ms=NOW_MS)
    put_token(store, "good", expires_at_ms=NOW_MS + 1)
    for token_id in ("revoked", "child", "expired", "unknown"):
        for params in ({}, {"check": True}, {"idempotency_key": "k"}):
            with pytest.raises(TokenInvalid):
                run(store, mutation(), token_id=token_id, **params)
    assert receipts(store) == 0
    assert run(store, mutation(), token_id="good") == Kept("a", 1)


def test_a_key_is_measured_in_bytes(store: Store) -> None:
    """A key has at most 256 bytes of UTF-8."""
    with pytest.raises(InvalidParams):
        run(store, mutation(), idempotency_key="é" * 129)


def test_each_new_receipt_forgets_a_few_old_ones(store: Store) -> None:
    """Each new receipt deletes a few expired ones."""
    for number in range(10):
        run(store, mutation(), NOW_MS + number, idempotency_key=f"old {number}")
    later = NOW_MS + WEEK_MS + 8
    run(store, mutation(), later, idempotency_key="new 1")
    assert receipts(store) == 10 + 1 - PURGED_PER_RECEIPT
    for number in (2, 3, 4):
        run(store, mutation(), later, idempotency_key=f"new {number}")
    # The tenth is a millisecond too young.
    assert receipts(store) == 1 + 4


def test_a_key_used_again_after_its_time_has_one_receipt(store: Store) -> None:
    """A new receipt replaces the expired one, in the index too."""
    run(store, mutation(), idempotency_key="k")
    run(store, mutation(), NOW_MS + WEEK_MS, value="b", idempotency_key="k")
    assert receipts(store) == 1
    with store.read() as snapshot:
        ((age, *_),) = [key for key, _ in snapshot.scan(RECEIPTS_BY_AGE)]
    assert age == NOW_MS + WEEK_MS
