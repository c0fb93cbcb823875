"""Making records and indexes say again what the journal says. Offline: nobody else may use the store.

Every difference that the doctor finds is also the change that mends it. They are made in small
transactions, pass after pass, until a pass finds nothing: a power cut in between leaves a store that the
next repair finishes. The journal itself is never changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.kernel.doctor import Examination
from kheishd.kernel.replay import Difference

if TYPE_CHECKING:
    from kheishd.store.environment import Transaction
    from kheishd.store.writer import Store
    from protocol.objects.daemon import Diagnosis

# A record has at most some 48 KiB (a run with 256 open calls), so this many stay below what one transaction
# may write.
CHANGES_PER_TRANSACTION = 4

# One pass puts what the journal says, one deletes what it does not, one finds nothing. Deleting can take
# the reason of another row away, so there may be a few more; what is left then, going on does not mend.
MAX_PASSES = 8

STEP_ROWS = 4096


def repair(store: Store, now_ms: int) -> tuple[int, Diagnosis]:
    """Mend what can be mended; how many rows were changed, and what a last look at everything found."""
    changed = 0
    for _ in range(MAX_PASSES):
        diagnosis, changes = _one_pass(store, now_ms)
        changed += changes
        if not changes:
            break
    return changed, diagnosis


def _one_pass(store: Store, now_ms: int) -> tuple[Diagnosis, int]:
    """Put and delete what the journal says; only where it had nothing to say, delete what has no reason.

    While a row is missing, others that it explains seem to have no reason.
    """
    examination = Examination(deep=True, step_rows=STEP_ROWS)
    changes = 0
    without_reason: list[Difference] = []
    more = True
    while more:
        with store.read() as snapshot:
            more = examination.step(snapshot)
        found = [complaint for complaint in examination.complaints if isinstance(complaint, Difference)]
        by_journal = [difference for difference in found if difference.stream]
        without_reason += [difference for difference in found if not difference.stream]
        _apply_all(store, now_ms, by_journal)
        changes += len(by_journal)
    if not changes:
        _apply_all(store, now_ms, without_reason)
        changes = len(without_reason)
    return examination.diagnosis(), changes


def _apply_all(store: Store, now_ms: int, differences: list[Difference]) -> None:
    for start in range(0, len(differences), CHANGES_PER_TRANSACTION):
        _apply(store, now_ms, differences[start : start + CHANGES_PER_TRANSACTION])


def _apply(store: Store, now_ms: int, differences: list[Difference]) -> None:
    def change(tx: Transaction) -> None:
        for difference in differences:
            if difference.expected is None:
                tx.delete(difference.table, *difference.key)
            else:
                tx.put(difference.table, *difference.key, value=difference.expected)

    store.submit(change, now_ms).unwrap()
