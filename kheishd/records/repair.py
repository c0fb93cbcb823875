"""The repair of records and indexes from the journal, while nothing else uses the store.

Every difference that the doctor finds is also the change that mends it. The repair makes the changes in small
transactions, pass after pass, until a pass finds none: a power cut leaves a store that the next repair
finishes. It never changes the journal.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kheishd.records.doctor import Examination
from kheishd.records.replay import Difference

if TYPE_CHECKING:
    from kheishd.store.environment import Transaction
    from kheishd.store.writer import Store
    from protocol.objects.daemon import Diagnosis

# A record has at most some 48 KiB (a run with 256 open calls), so this many stay below what one transaction
# may write.
CHANGES_PER_TRANSACTION = 4

# One pass writes the rows that the journal requires, one deletes orphans, one finds nothing. Deleting a row
# can make another one an orphan, so there may be a few more passes. Differences that remain then would remain
# for ever.
MAX_PASSES = 8

STEP_ROWS = 4096


def repair(store: Store, now_ms: int) -> tuple[int, Diagnosis]:
    """Mend the store; return the number of changed rows and the findings of a last examination."""
    changed = 0
    for _ in range(MAX_PASSES):
        diagnosis, changes = _make_pass(store, now_ms)
        changed += changes
        if not changes:
            break
    return changed, diagnosis


def _make_pass(store: Store, now_ms: int) -> tuple[Diagnosis, int]:
    """Make the changes that the journal requires; only if there are none, delete orphan rows.

    While a row is missing, rows that it accounts for seem to be orphans.
    """
    examination = Examination(deep=True, step_rows=STEP_ROWS)
    changes = 0
    orphans: list[Difference] = []
    more = True
    while more:
        with store.read() as snapshot:
            more = examination.step(snapshot)
        differences = [complaint for complaint in examination.complaints if isinstance(complaint, Difference)]
        required = [difference for difference in differences if difference.stream]
        orphans += [difference for difference in differences if not difference.stream]
        _apply(store, now_ms, required)
        changes += len(required)
    if not changes:
        _apply(store, now_ms, orphans)
        changes = len(orphans)
    return examination.diagnosis(), changes


def _apply(store: Store, now_ms: int, differences: list[Difference]) -> None:
    def change(tx: Transaction, first: int) -> None:
        for difference in differences[first : first + CHANGES_PER_TRANSACTION]:
            if difference.expected is None:
                tx.delete(difference.table, *difference.key)
            else:
                tx.put(difference.table, *difference.key, value=difference.expected)

    for first in range(0, len(differences), CHANGES_PER_TRANSACTION):
        store.submit(partial(change, first=first), now_ms).unwrap()
