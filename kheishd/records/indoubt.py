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


def _is_final(record: Indoubt) -> bool:
    return record.status != "open"


def _rows(record: Indoubt) -> frozenset[IndexRow]:
    return pending_rows(INDOUBT, record.indoubt_id, record, None if _is_final(record) else INDOUBTS_OPEN)


INDOUBT_RECORDS: Final = Projection(
    kind=INDOUBT,
    table=INDOUBTS,
    begins=IndoubtOpened,
    events=(IndoubtOpened, IndoubtResolved),
    key=key_in("indoubt_id"),
    evolve=indoubt.evolve,
    source=source_in_session,
    final=_is_final,
    rows=_rows,
    indexes=(RECORDS_BY_SESSION, RECORDS_BY_RUN, INDOUBTS_OPEN),
)
