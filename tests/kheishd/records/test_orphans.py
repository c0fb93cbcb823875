"""Orphan rows: every row has its reason, and one without is found."""

from typing import Any

import pytest
from msgspec.structs import replace

from kheishd.objects.talk.search import index_step
from kheishd.records.orphans import CHECKS, OrphanCheck
from kheishd.store.environment import Transaction
from kheishd.store.tables import APPROVALS_WAITING, BLOBS, JOURNAL, META, TABLES, TOKENS, TOKENS_BY_DIGEST
from kheishd.store.writer import Store
from tests.support.histories import rich_history, update

NO_REASON_NEEDED = {JOURNAL, BLOBS, META}


def complaints(store: Store, check: OrphanCheck) -> list[str]:
    """Return the complaints about the rows of one table."""
    with store.read() as snapshot:
        results = [check.examine(snapshot, key, value) for key, value in snapshot.scan(check.table)]
    return [str(complaint) for complaint in results if complaint is not None]


def test_every_table_is_looked_at() -> None:
    """A new table comes with its check, or is listed as needing none."""
    assert {check.table for check in CHECKS} | NO_REASON_NEEDED == set(TABLES)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.table.name)
def test_a_healthy_table(store: Store, check: OrphanCheck) -> None:
    """A healthy table has no orphan rows."""
    rich_history(store)
    assert complaints(store, check) == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.table.name)
def test_a_row_out_of_nowhere(store: Store, check: OrphanCheck) -> None:
    """A row with a good value under a wrong key is an orphan."""
    rich_history(store)
    update(store, index_step)
    with store.read() as snapshot:
        rows = list(snapshot.scan(check.table))
    key, value = rows[0] if rows else (("ses_a", 1), b"")
    strange = tuple(10**15 if isinstance(part, int) else f"{part}x" for part in key)

    def put(tx: Any) -> None:
        tx.put(check.table, *strange, value=value)

    update(store, put)
    assert len(complaints(store, check)) == 1


def test_an_index_row_that_names_nothing(store: Store) -> None:
    """An index row without a record id is an orphan, and the check continues."""
    rich_history(store)
    (check,) = [check for check in CHECKS if check.table is APPROVALS_WAITING]
    update(store, lambda tx: tx.put(APPROVALS_WAITING, 10**15, value=""))
    assert len(complaints(store, check)) == 1


def test_a_forged_token_is_an_orphan(store: Store) -> None:
    """A copy of a real token under another id, with an index row for its secret, opens nothing for long."""
    rich_history(store)

    def forge(tx: Transaction) -> None:
        record = tx.need(TOKENS, "tok_a")
        forged = replace(record, token=replace(record.token, token_id="tok_forged"), digest="forged")
        tx.put(TOKENS, "tok_forged", value=forged)
        tx.put(TOKENS_BY_DIGEST, "forged", value="tok_forged")

    update(store, forge)
    (check,) = [check for check in CHECKS if check.table is TOKENS]
    assert complaints(store, check) == ["tokens tok_forged has no reason in the journal"]
