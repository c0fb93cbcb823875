"""Records of calls in doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core import indoubt
from kheishd.records.pending import pending_rows
from kheishd.records.projection import Projection, key_in, source_in_session
from kheishd.store.tables import INDOUBTS, INDOUBTS_OPEN, RECORDS_BY_RUN, RECORDS_BY_SESSION
from protocol.events.indoubt import IndoubtOpened, IndoubtResolved

if TYPE_CHECKING:
    from kheishd.records.projection import IndexRow
    from protocol.objects.indoubt import Indoubt

INDOUBT: Final = "indoubt"


def is_final(record: Indoubt) -> bool:
    """Whether no event changes the call in doubt any more."""
    return record.status != "open"


def index_rows(record: Indoubt) -> frozenset[IndexRow]:
    """Return the index rows of a call in doubt."""
    return pending_rows(INDOUBT, record.indoubt_id, record, None if is_final(record) else INDOUBTS_OPEN)


INDOUBT_RECORDS: Final = Projection(
    kind=INDOUBT,
    table=INDOUBTS,
    begins=IndoubtOpened,
    events=(IndoubtOpened, IndoubtResolved),
    key=key_in("indoubt_id"),
    evolve=indoubt.evolve,
    source=source_in_session,
    final=is_final,
    rows=index_rows,
    indexes=(RECORDS_BY_SESSION, RECORDS_BY_RUN, INDOUBTS_OPEN),
)
