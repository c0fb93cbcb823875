"""Cron entries as the fold of their events, and their decisions. The worker's tests have the whole course."""

import pytest

from kheishd.core.cron.entry import (
    LIVE,
    MAX_RANGES,
    cover,
    decide,
    evolve,
    format_span,
    judge_overlap,
    next_due,
    timetable_of,
    wake_ms,
)
from protocol.events.cron import CronCreated, CronOccurred, CronPaused
from protocol.journal.envelope import Envelope
from protocol.limits.cron import MAX_OCCURRENCES
from protocol.objects.cron import Cron, DueRange, Occurrence
from protocol.objects.wake import WakeTarget

MINUTE = 60_000


def make(**properties: object) -> Cron:
    """Return an entry that is due every minute, created at 0."""
    fields: dict[str, object] = {
        "cron_id": "c",
        "schedule": "every 1m",
        "target": WakeTarget(agent="default", prompt="x"),
        "next_due_ms": MINUTE,
    }
    cron = evolve(None, Envelope(cursor=1, at_ms=0), CronCreated(**(fields | properties)))  # type: ignore[arg-type]
    assert cron is not None
    return cron


def occur(cron: Cron, due_ms: int, outcome: str = LIVE, **fields: object) -> Cron:
    """Return the entry after a decision."""
    row = Occurrence(due_ms=due_ms, at_ms=due_ms, outcome=outcome, **fields)  # type: ignore[arg-type]
    event = CronOccurred(cron_id="c", occurrence=row, next_due_ms=due_ms + MINUTE)
    changed = evolve(cron, Envelope(cursor=2, at_ms=due_ms), event)
    assert changed is not None
    return changed


def test_the_history_is_bounded_and_keeps_runs_in_flight() -> None:
    """The oldest rows go first, but one whose run has not ended is not forgotten."""
    cron = occur(make(), MINUTE, run_id="run_1")
    for number in range(2, MAX_OCCURRENCES + 20):
        cron = occur(cron, number * MINUTE, "skipped")
    assert len(cron.recent) == MAX_OCCURRENCES
    assert (cron.recent[0].run_id, cron.recent[1].due_ms) == ("run_1", 21 * MINUTE)
    assert judge_overlap(cron, cron.recent[-1], 16) is not None


def test_ranges_of_decided_times_grow_and_are_bounded() -> None:
    """A decision extends the range before it; a gap begins another, and there are only a few."""
    ranges = cover(cover([], 10, is_contiguous=True), 20, is_contiguous=True)
    assert ranges == [DueRange(10, 20)]
    assert cover(ranges, 15, is_contiguous=True) == ranges
    far = cover(ranges, 1000, is_contiguous=False)
    assert far == [DueRange(10, 20), DueRange(1000, 1000)]
    assert cover(far, 30, is_contiguous=True) == [DueRange(10, 30), DueRange(1000, 1000)]
    for number in range(10):
        far = cover(far, 10_000 * (number + 1), is_contiguous=False)
    assert len(far) == MAX_RANGES


def test_a_decided_time_is_not_due_again() -> None:
    """The next due time after a time in the past is the first one that is not decided."""
    cron = make()
    for number in (1, 2, 3):
        cron = occur(cron, number * MINUTE, "skipped")
    assert next_due(cron, timetable_of(cron), 0) == 4 * MINUTE


@pytest.mark.parametrize(
    ("now_ms", "due"), [(MINUTE - 1, None), (MINUTE, MINUTE), (5 * MINUTE + 1, 5 * MINUTE)]
)
def test_the_latest_due_time_is_decided(now_ms: int, due: int | None) -> None:
    """Nothing is decided early; of several due times the others count as missed."""
    decision = decide(make(), now_ms)
    if due is None:
        assert decision is None
    else:
        assert decision is not None
        assert (decision.occurrence.due_ms, decision.occurrence.missed) == (due, due // MINUTE - 1)
        assert decision.next_due_ms == due + MINUTE


def test_pausing_drops_what_waits() -> None:
    """A queued occurrence of a paused entry is skipped, and the row says so."""
    cron = occur(make(overlap="queue_one"), MINUTE, "queued")
    assert cron.queued_due_ms == MINUTE
    paused = evolve(cron, Envelope(cursor=3, at_ms=MINUTE), CronPaused(cron_id="c"))
    assert paused is not None
    assert (paused.queued_due_ms, paused.recent[0].outcome, wake_ms(paused)) == (None, "skipped", None)


def test_spans_are_short() -> None:
    """People read a delay in one unit."""
    spans = [format_span(seconds * 1000) for seconds in (5, 119, 120, 7_200, 172_800)]
    assert spans == ["5 s", "119 s", "2 min", "2 h", "2 d"]
