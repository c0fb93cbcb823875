"""Cron entries: the record as the fold of its events, and the decision about a due time. Pure.

Each due time is decided once. ``covered`` has the ranges of decided ones: where the clock is set back, the
entry goes on after them, and where it had been wrong by years, the times before that are still due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from kheishd.core.cron.schedule import (
    QuietHours,
    Timetable,
    count_between,
    format_local,
    latest_until,
    next_after,
    parse_quiet,
    parse_schedule,
)
from protocol.events.cron import (
    CronCreated,
    CronDeleted,
    CronEvent,
    CronOccurred,
    CronPaused,
    CronPlanned,
    CronResumed,
    CronSettled,
    CronUpdated,
)
from protocol.limits.cron import MAX_COUNTED_MISSES, MAX_CRON_FAILURES, MAX_OCCURRENCES, RETRY_MS
from protocol.objects.cron import Cron, CronProperties, CronStatus, DueRange, Occurrence
from protocol.structs import Value, fields_of

if TYPE_CHECKING:
    from protocol.journal.envelope import Envelope

MAX_RANGES: Final = 4
"""How many ranges of decided due times an entry keeps: one for each time the clock was wrong by far."""

LIVE: Final = "running"
"""The outcome of an occurrence whose run has not ended."""

OVER: Final = ("completed", "disabled")
"""The statuses in which nothing waits."""


# The record.


def evolve(cron: Cron | None, envelope: Envelope, event: CronEvent) -> Cron | None:
    """Return the entry after an event; None once it is deleted.

    Errors: AssertionError for a change of one that does not exist: the journal is damaged.
    """
    at_ms, cursor = envelope.at_ms, envelope.cursor
    if isinstance(event, CronCreated):
        return Cron(
            **fields_of(CronCreated, event),
            status="active",
            anchor_ms=at_ms,
            planned_at_ms=at_ms,
            created_at_ms=at_ms,
            updated_at_ms=at_ms,
            created_cursor=cursor,
            updated_cursor=cursor,
        )
    assert cron is not None, "a cron entry is created before it is changed"
    cron = replace(cron, updated_at_ms=at_ms, updated_cursor=cursor)
    match event:
        case CronDeleted():
            return None
        case CronUpdated():
            is_same = (event.schedule, event.timezone) == (cron.schedule, cron.timezone)
            return replace(
                cron,
                **fields_of(CronProperties, event),
                next_due_ms=event.next_due_ms,
                authority=event.authority,
                origins=event.origins,
                anchor_ms=cron.anchor_ms if is_same else at_ms,
                planned_at_ms=at_ms,
                revision=cron.revision + 1,
            )
        case CronPaused(note=note):
            return replace(
                _drop_pending(cron),
                status="paused",
                note=note,
                next_due_ms=None,
                revision=cron.revision + 1,
            )
        case CronResumed(note=note):
            return replace(
                cron,
                status="active",
                note=note,
                failures=0,
                executions=0 if cron.status == "completed" else cron.executions,
                next_due_ms=event.next_due_ms,
                anchor_ms=at_ms,
                planned_at_ms=at_ms,
                revision=cron.revision + 1,
            )
        case CronPlanned():
            return replace(
                _drop_pending(cron) if event.drops else cron,
                next_due_ms=event.next_due_ms,
                deferred_until_ms=event.deferred_until_ms,
                anchor_ms=cron.anchor_ms if event.anchor_ms is None else event.anchor_ms,
                planned_at_ms=at_ms,
            )
        case CronSettled():
            return _settle(cron, event)
        case CronOccurred():
            return _occur(cron, event, at_ms)


def _drop_pending(cron: Cron) -> Cron:
    """Return an entry without the occurrences that wait: their rows say that they were skipped."""
    waiting = (cron.deferred_due_ms, cron.queued_due_ms)
    recent = [
        replace(row, outcome="skipped", note="the entry no longer waits for it")
        if row.outcome in ("queued", "deferred") and row.due_ms in waiting
        else row
        for row in cron.recent
    ]
    return replace(cron, recent=recent, deferred_due_ms=None, deferred_until_ms=None, queued_due_ms=None)


def _occur(cron: Cron, event: CronOccurred, at_ms: int) -> Cron:
    row = event.occurrence
    if row.manual or row.reason == "manual":
        # It is beside the schedule, also at the time of an occurrence that waits.
        return replace(cron, recent=_bound([*cron.recent, row]), planned_at_ms=at_ms)
    due, deferred_due = row.due_ms, cron.deferred_due_ms
    recent = [
        replace(previous, outcome="missed", note="a later firing took its place")
        if previous.due_ms == deferred_due and _supersedes(row, deferred_due)
        else previous
        for previous in cron.recent
        # An occurrence that waited has one row, which now has its outcome.
        if previous.due_ms != due or previous.run_id is not None
    ]
    deferred: tuple[int | None, int | None] = (deferred_due, cron.deferred_until_ms)
    if event.deferred_until_ms is not None:
        deferred = (due, event.deferred_until_ms)
    elif due == deferred_due or _supersedes(row, deferred_due):
        deferred = (None, None)
    queued = None if cron.queued_due_ms == due else cron.queued_due_ms
    status = event.status or cron.status
    changed = replace(
        cron,
        recent=_bound([*recent, row]),
        executions=cron.executions + (row.outcome == LIVE),
        failures=cron.failures + (row.outcome == "refused"),
        next_due_ms=event.next_due_ms,
        deferred_due_ms=deferred[0],
        deferred_until_ms=deferred[1],
        queued_due_ms=due if row.outcome == "queued" else queued,
        planned_at_ms=at_ms,
        status=status,
        note=event.note or cron.note,
        covered=cover(cron.covered, due, is_contiguous=not row.missed),
    )
    return _drop_pending(replace(changed, next_due_ms=None)) if status in OVER else changed


def _supersedes(row: Occurrence, deferred_due: int | None) -> bool:
    """Whether an occurrence takes the place of the deferred one."""
    return deferred_due is not None and row.since_ms is not None and row.since_ms <= deferred_due < row.due_ms


def _bound(rows: list[Occurrence]) -> list[Occurrence]:
    """Return the newest rows; one whose run has not ended stays."""
    excess = len(rows) - MAX_OCCURRENCES
    if excess <= 0:
        return rows
    oldest = next((index for index, row in enumerate(rows) if row.outcome not in (LIVE, "queued")), 0)
    return _bound([*rows[:oldest], *rows[oldest + 1 :]])


def _settle(cron: Cron, event: CronSettled) -> Cron:
    recent = [
        replace(row, outcome=event.outcome)
        if row.run_id == event.ended_run_id and row.outcome == LIVE
        else row
        for row in cron.recent
    ]
    counted = cron.failures + (not event.manual)
    failures = {"completed": 0, "failed": counted}.get(event.outcome, cron.failures)
    settled = replace(cron, recent=recent, failures=failures)
    if event.status is None:
        return settled
    return replace(_drop_pending(settled), status=event.status, note=event.note, next_due_ms=None)


def cover(ranges: list[DueRange], due_ms: int, *, is_contiguous: bool) -> list[DueRange]:
    """Return the ranges of decided due times with one more; a contiguous one follows the range before it."""
    if any(known.start_ms <= due_ms <= known.end_ms for known in ranges):
        return ranges
    earlier = [known for known in ranges if known.end_ms < due_ms]
    if is_contiguous and earlier:
        grown = DueRange(earlier[-1].start_ms, due_ms)
        return [grown if known is earlier[-1] else known for known in ranges]
    return sorted([*ranges, DueRange(due_ms, due_ms)])[-MAX_RANGES:]


def live_rows(cron: Cron) -> list[Occurrence]:
    """Return the occurrences whose runs have not ended."""
    return [row for row in cron.recent if row.outcome == LIVE]


def wake_ms(cron: Cron) -> int | None:
    """Return the time at which the entry is to be looked at; None: never."""
    times = [at_ms for at_ms in (cron.next_due_ms, cron.deferred_until_ms) if at_ms is not None]
    return min(times) if times and cron.status == "active" else None


# Due times.


def timetable_of(cron: Cron) -> Timetable:
    """Return the timetable of an entry. Errors: ScheduleError if its zone no longer exists."""
    return parse_schedule(cron.schedule, cron.timezone, cron.anchor_ms)


def quiet_of(cron: CronProperties) -> QuietHours | None:
    """Return the quiet hours of an entry."""
    return parse_quiet(cron.quiet_start, cron.quiet_end)


def next_due(cron: Cron, timetable: Timetable, after_ms: int) -> int | None:
    """Return the first due time after a time that is not decided yet."""
    due = next_after(timetable, after_ms)
    for decided in cron.covered:
        if due is not None and decided.start_ms <= due <= decided.end_ms:
            due = next_after(timetable, decided.end_ms)
    return due


class CronDecision(Value, frozen=True):
    """The decision about a due time: fire (``occurrence`` is then without its run), or the outcome."""

    occurrence: Occurrence
    fires: bool
    next_due_ms: int | None
    deferred_until_ms: int | None = None


def decide(cron: Cron, now_ms: int) -> CronDecision | None:
    """Return the decision about an entry's due time; None if nothing is due.

    Of several due times, the latest is decided, and the others count as missed. Errors: ScheduleError.
    """
    due, missed, since = cron.next_due_ms, 0, None
    timetable = timetable_of(cron)
    if due is not None and due <= now_ms:
        latest = latest_until(timetable, due, now_ms)
        if latest > due:
            missed, since = count_between(timetable, due, latest), due
        if cron.deferred_due_ms is not None:
            missed, since = min(missed + 1, MAX_COUNTED_MISSES), cron.deferred_due_ms
        is_late = now_ms - latest > cron.grace_s * 1000
        due, following = latest, next_due(cron, timetable, now_ms)
    elif cron.deferred_until_ms is not None and cron.deferred_until_ms <= now_ms:
        assert cron.deferred_due_ms is not None
        due, following = cron.deferred_due_ms, cron.next_due_ms
        is_late = now_ms - cron.deferred_until_ms > cron.grace_s * 1000
    else:
        return None
    row = Occurrence(due_ms=due, at_ms=now_ms, outcome=LIVE, missed=missed, since_ms=since)
    if is_late:
        if cron.misfire == "skip":
            note = f"the daemon could act only {format_span(now_ms - due)} later, beyond the grace"
            return CronDecision(
                replace(row, outcome="missed", reason="late", note=note), fires=False, next_due_ms=following
            )
        row = replace(row, reason="late")
    quiet = quiet_of(cron)
    if quiet is not None:
        # A single time is never dropped.
        defers = cron.quiet == "defer" or timetable.kind == "at"
        is_quiet_now = quiet.contains(timetable, now_ms)
        if defers and is_quiet_now:
            until_ms = quiet.end_after(timetable, now_ms)
            note = f"it fires after the quiet hours, at {format_local(timetable, until_ms)}"
            row = replace(row, outcome="deferred", reason="quiet_hours", note=note)
            return CronDecision(row, fires=False, next_due_ms=following, deferred_until_ms=until_ms)
        if not defers and (is_quiet_now or quiet.contains(timetable, due)):
            note = f"it was in quiet hours ({cron.quiet_start} to {cron.quiet_end})"
            row = replace(row, outcome="skipped", reason="quiet_hours", note=note)
            return CronDecision(row, fires=False, next_due_ms=following)
    return CronDecision(row, fires=True, next_due_ms=following)


def judge_overlap(cron: Cron, row: Occurrence, max_parallel: int) -> Occurrence | None:
    """Return the outcome of an occurrence that may not fire beside the runs in flight; None if it may."""
    live = live_rows(cron)
    if not live or (cron.overlap == "parallel" and len(live) < max_parallel):
        return None
    if row.manual:
        # It takes no place from the schedule.
        return replace(row, outcome="skipped", note=f"{live[-1].run_id} has not ended")
    if cron.overlap == "queue_one" and cron.queued_due_ms is None:
        note = f"it fires once {live[-1].run_id} has ended"
        return replace(row, outcome="queued", reason="overlap", note=note)
    note = f"{live[-1].run_id} has not ended"
    if cron.overlap == "queue_one":
        note += ", and an earlier firing waits for it"
    elif cron.overlap == "parallel":
        note = f"{len(live)} runs have not ended, the maximum"
    return replace(row, outcome="skipped", reason="overlap", note=note)


def retry_ms(cron: Cron, now_ms: int) -> int | None:
    """Return when a refused firing of a single time is tried again; None for a recurring entry."""
    if timetable_of(cron).kind != "at":
        return None
    return now_ms + (RETRY_MS << min(cron.failures, 10))


def format_span(span_ms: int) -> str:
    """Return a span of time as people read it."""
    seconds = max(span_ms, 0) // 1000
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def is_failing(cron: Cron) -> bool:
    """Whether people must look at an entry."""
    return cron.status == "disabled" or cron.failures > 0


def status_after_failure(cron: Cron, failures: int) -> tuple[CronStatus | None, str]:
    """Return the status and the note of an entry after its failures in a row; None: it stays as it is."""
    if failures < MAX_CRON_FAILURES or cron.status != "active":
        return None, ""
    return "disabled", f"{failures} firings in a row failed"


# Sentences.


def describe_entry(cron: Cron) -> str:
    """Return the status and the schedule of an entry as a sentence."""
    note = f": {cron.note}" if cron.note else ""
    return f"the entry is {cron.status}{note}; it is due by '{cron.schedule}' in {cron.timezone}"


def describe_occurrence(row: Occurrence) -> str:
    """Return an occurrence as a sentence without its time."""
    match row.outcome:
        case "running" | "completed" | "failed" | "cancelled" | "interrupted":
            text = f"it fired as {row.run_id}, which "
            text += "has not ended" if row.outcome == LIVE else f"is {row.outcome}"
            text += f" ({row.note})" if row.outcome == "failed" and row.note else ""
            if row.reason == "late":
                text += f"; it was {format_span(row.at_ms - row.due_ms)} late"
            elif row.reason == "manual":
                text += "; a client fired it"
        case "refused":
            text = f"it could not fire ({row.reason}): {row.note}"
            text += "; a client fired it" if row.manual else ""
        case _:
            text = f"it was {row.outcome}" + (f", because {row.note}" if row.note else "")
    if row.missed:
        more = "at least " if row.missed == MAX_COUNTED_MISSES else ""
        times = "due time was" if row.missed == 1 else "due times were"
        text += f"; {more}{row.missed} earlier {times} missed"
    return text
