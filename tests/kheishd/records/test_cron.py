"""The index rows of cron entries."""

from kheishd.records.cron import index_rows, stream_of
from kheishd.records.projection import IndexRow, stream_kind
from kheishd.store.tables import CRONS_BY_AUTHOR, CRONS_DUE, CRONS_FAILING, CRONS_LIVE
from protocol.objects.cron import Cron, Occurrence
from protocol.objects.wake import WakeTarget


def test_an_entry_is_found_by_what_is_to_be_done_with_it() -> None:
    """By its next time, its runs in flight, its failures and its tree; a paused one has no time."""
    assert stream_kind(stream_of("c")) == "cron"
    row = Occurrence(due_ms=1, at_ms=1, outcome="running", run_id="run_1")
    cron = Cron(
        cron_id="c",
        status="active",
        schedule="@daily",
        target=WakeTarget(agent="default", prompt="x"),
        next_due_ms=9,
        deferred_due_ms=1,
        deferred_until_ms=7,
        failures=1,
        recent=[row],
        root_session_id="ses_0",
    )
    always = {
        IndexRow(CRONS_LIVE, ("run_1", "c")),
        IndexRow(CRONS_FAILING, ("c",)),
        IndexRow(CRONS_BY_AUTHOR, ("ses_0", "c")),
    }
    assert index_rows(cron) == always | {IndexRow(CRONS_DUE, (7, "c"))}
