"""Records of calls in doubt and their index rows."""

from kheishd.records.indoubt import INDOUBT_RECORDS
from protocol.events.indoubt import IndoubtResolved
from tests.support.histories import indoubt_opened
from tests.support.records import fold_record, index_rows

OPENED = indoubt_opened("dbt_1")
RESOLVED = IndoubtResolved(indoubt_id="dbt_1", call_id="c2", tool="write", outcome="done")


def test_it_is_open_until_it_is_resolved() -> None:
    """A resolved call is final: only the lists of its session and run keep it."""
    lasting = {"records_by_run": [("r", "indoubt", 1)], "records_by_session": [("s", "indoubt", 1)]}
    assert index_rows(INDOUBT_RECORDS, OPENED) == lasting | {"indoubts_open": [(1,)]}
    assert index_rows(INDOUBT_RECORDS, OPENED, RESOLVED) == lasting
    assert INDOUBT_RECORDS.final(fold_record(INDOUBT_RECORDS, OPENED, RESOLVED))
    assert not INDOUBT_RECORDS.final(fold_record(INDOUBT_RECORDS, OPENED))
