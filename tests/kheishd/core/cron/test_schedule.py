"""Schedules: due times in several zones, over changes of the clocks, and bad schedules."""

from datetime import datetime

import pytest

from kheishd.core.cron.schedule import (
    QuietHours,
    ScheduleError,
    count_between,
    describe_firing,
    find_min_distance_ms,
    latest_until,
    next_after,
    parse_quiet,
    parse_schedule,
)
from protocol.limits.cron import MAX_COUNTED_MISSES

# The last days before a change of the clocks, in UTC, and the zone.
CHANGES = [
    ("Europe/Paris", "2026-03-28T12:00"),
    ("Europe/Paris", "2026-10-24T12:00"),
    ("America/New_York", "2026-03-07T12:00"),
    ("America/New_York", "2026-10-31T12:00"),
    ("Australia/Lord_Howe", "2026-04-04T01:00"),
    ("Australia/Lord_Howe", "2026-10-03T01:00"),
    ("America/Santiago", "2026-09-05T12:00"),
    ("Asia/Kathmandu", "2026-03-28T12:00"),
]
SCHEDULES = [
    "30 1 * * *",
    "30 2 * * *",
    "0 0 * * *",
    "*/15 * * * *",
    "15 30 2 * * *",
    "0,20 59 1 * * *",
    "@hourly",
]


def ms(text: str) -> int:
    """Return a time in UTC, or with its offset, in milliseconds."""
    moment = datetime.fromisoformat(text if "+" in text[10:] or text.count("-") == 3 else f"{text}+00:00")
    return int(moment.timestamp() * 1000)


def local(schedule: str, zone: str, after: str, count: int) -> list[str]:
    """Return the next due times as local times."""
    timetable, at_ms, due = parse_schedule(schedule, zone), ms(after), []
    for _ in range(count):
        following = next_after(timetable, at_ms)
        assert following is not None
        at_ms = following
        due.append(describe_firing(timetable, at_ms, None, "skip").local[5:])
    return due


@pytest.mark.parametrize(
    ("schedule", "zone", "after", "due"),
    [
        # 02:30 does not exist: right after the gap, once.
        ("30 2 * * *", "Europe/Paris", "2026-03-28T12:00", ["03-29T03:00:00+02:00", "03-30T02:30:00+02:00"]),
        (
            "15 30 2 * * *",
            "Europe/Paris",
            "2026-03-28T12:00",
            ["03-29T03:00:15+02:00", "03-30T02:30:15+02:00"],
        ),
        (
            "0,20 30 2 * * *",
            "Europe/Paris",
            "2026-03-28T12:00",
            ["03-30T02:30:00+02:00", "03-30T02:30:20+02:00"],
        ),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T01:00", ["10-04T02:30:00+11:00"]),
        (
            "30 2 * * *",
            "America/New_York",
            "2026-03-07T12:00",
            ["03-08T03:00:00-04:00", "03-09T02:30:00-04:00"],
        ),
        # Midnight does not exist in Santiago on that day.
        (
            "0 0 * * *",
            "America/Santiago",
            "2026-09-05T12:00",
            ["09-06T01:00:00-03:00", "09-07T00:00:00-03:00"],
        ),
        # 01:30 occurs twice: once, at the first.
        (
            "30 1 * * *",
            "America/New_York",
            "2026-10-31T12:00",
            ["11-01T01:30:00-04:00", "11-02T01:30:00-05:00"],
        ),
        ("30 1 * * *", "America/New_York", "2026-11-01T06:15", ["11-02T01:30:00-05:00"]),
        # Every quarter of an hour follows elapsed time: in both hours, and none in the gap.
        (
            "*/15 * * * *",
            "America/New_York",
            "2026-11-01T05:44",
            ["11-01T01:45:00-04:00", "11-01T01:00:00-05:00"],
        ),
        (
            "*/15 * * * *",
            "Europe/Paris",
            "2026-03-29T00:44",
            ["03-29T01:45:00+01:00", "03-29T03:00:00+02:00"],
        ),
        # Sunday is 0 and 7; names; leap days.
        ("0 9 * * 0", "UTC", "2026-12-01T00:00", ["12-06T09:00:00+00:00"]),
        ("0 9 * * 7", "UTC", "2026-12-01T00:00", ["12-06T09:00:00+00:00"]),
        ("0 9 * JAN mon-fri", "UTC", "2026-12-01T00:00", ["01-01T09:00:00+00:00", "01-04T09:00:00+00:00"]),
        ("0 0 29 2 *", "UTC", "2026-12-01T00:00", ["02-29T00:00:00+00:00", "02-29T00:00:00+00:00"]),
        ("@daily", "Asia/Kathmandu", "2026-12-01T00:00", ["12-02T00:00:00+05:45"]),
        ("at 2027-03-01T09:00", "Europe/Paris", "2026-12-01T00:00", ["03-01T09:00:00+01:00"]),
        ("at 2027-03-01T09:00:30+00:00", "Europe/Paris", "2026-12-01T00:00", ["03-01T10:00:30+01:00"]),
    ],
)
def test_due_times_follow_the_documented_rules(schedule: str, zone: str, after: str, due: list[str]) -> None:
    """A fixed time is due once a day, whatever the clocks do; other schedules follow elapsed time."""
    assert local(schedule, zone, after, len(due)) == due


@pytest.mark.parametrize(("zone", "start"), CHANGES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_latest_due_time_is_one_of_the_due_times(schedule: str, zone: str, start: str) -> None:
    """Looking back finds the same due times as looking forward, minute by minute over each change."""
    timetable, at_ms = parse_schedule(schedule, zone), ms(start)
    due = [at_ms]
    while due[-1] < at_ms + 2 * 86_400_000:
        following = next_after(timetable, due[-1])
        assert following is not None
        assert following > due[-1]
        due.append(following)
    first = due[1]
    for until in range(first, due[-1], 13 * 60_000):
        assert latest_until(timetable, first, until) == max(time for time in due[1:] if time <= until)


def test_an_interval_counts_from_its_anchor() -> None:
    """It is due after one period, and keeps its phase however late it is looked at."""
    timetable = parse_schedule("every 15m", "Europe/Paris", 1_000)
    assert next_after(timetable, 1_000) == 901_000
    assert next_after(timetable, 901_000) == 1_801_000
    assert latest_until(timetable, 901_000, 10_000_000) == 9_901_000
    assert count_between(timetable, 901_000, 9_901_000) == 10
    assert count_between(parse_schedule("every 1s", "UTC"), 1000, 10**9) == MAX_COUNTED_MISSES
    assert find_min_distance_ms(parse_schedule("0,7 * * * * *", "UTC")) == 7000


@pytest.mark.parametrize(
    ("schedule", "zone", "field", "words"),
    [
        ("* * *", "UTC", "schedule", "3 fields"),
        ("0 * * * * * 2027", "UTC", "schedule", "7 fields"),
        ("61 * * * *", "UTC", "schedule", "the minute '61' is invalid: it is 0-59"),
        ("* * 31 2 *", "UTC", "schedule", "day-of-month"),
        ("@never", "UTC", "schedule", "@daily"),
        ("every 0m", "UTC", "schedule", "period"),
        ("every 400d", "UTC", "schedule", "period"),
        ("at noon", "UTC", "schedule", "no time"),
        ("at 9999-01-01T00:00", "UTC", "schedule", "out of range"),
        ("at 2026-03-29T02:30", "Europe/Paris", "schedule", "does not exist"),
        ("@daily", "Mars/Base", "timezone", "no time zone"),
        ("@daily", "../../etc/passwd", "timezone", "no time zone"),
        ("@daily", "Europe", "timezone", "no time zone"),
    ],
)
def test_bad_schedules_are_refused_with_a_remedy(schedule: str, zone: str, field: str, words: str) -> None:
    """The refusal names the field and what is wrong there."""
    with pytest.raises(ScheduleError) as raised:
        parse_schedule(schedule, zone)
    assert raised.value.field == field
    assert words in raised.value.message


def test_quiet_hours_may_include_midnight() -> None:
    """The start is quiet and the end is not; the end after midnight is the next morning's."""
    timetable = parse_schedule("@hourly", "Europe/Paris")
    night = parse_quiet("22:00", "7:00")
    assert night == QuietHours(22 * 60, 7 * 60)
    times = {"21:59": False, "22:00": True, "23:59": True, "00:00": True, "06:59": True, "07:00": False}
    for clock, is_quiet in times.items():
        assert night.contains(timetable, ms(f"2026-12-01T{clock}+01:00")) is is_quiet
    evening = ms("2026-12-01T23:30+01:00")
    assert night.end_after(timetable, evening) == ms("2026-12-02T07:00+01:00")
    # The end does not exist, or occurs twice: not before it is really over.
    gap = parse_quiet("01:00", "02:30")
    assert gap is not None
    end = gap.end_after(timetable, ms("2026-03-29T01:30+01:00"))
    assert ms("2026-03-29T03:00+02:00") <= end <= ms("2026-03-29T03:30+02:00")


@pytest.mark.parametrize(
    ("start", "end", "field"),
    [
        ("22:00", None, "quiet_end"),
        (None, "7:00", "quiet_start"),
        ("24:00", "7:00", "quiet_start"),
        ("22:00", "7", "quiet_end"),
        ("22:00", "22:00", "quiet_end"),
    ],
)
def test_bad_quiet_hours_are_refused(start: str | None, end: str | None, field: str) -> None:
    """Both ends are needed, and they differ."""
    with pytest.raises(ScheduleError) as raised:
        parse_quiet(start, end)
    assert raised.value.field == field


def test_a_preview_explains_changes_of_the_clocks_and_quiet_hours() -> None:
    """A person sees why a firing is at an odd time, or will not be."""
    daily, quarters = (
        parse_schedule("30 2 * * *", "Europe/Paris"),
        parse_schedule("*/15 * * * *", "Europe/Paris"),
    )
    assert "does not exist" in describe_firing(daily, ms("2026-03-29T03:00+02:00"), None, "skip").note
    assert "only at the first" in describe_firing(daily, ms("2026-10-25T02:30+02:00"), None, "skip").note
    assert "at both" in describe_firing(quarters, ms("2026-10-25T02:30+01:00"), None, "skip").note
    quiet = parse_quiet("02:00", "03:00")
    assert (
        describe_firing(daily, ms("2026-12-01T02:30+01:00"), quiet, "skip").note == "in quiet hours: skipped"
    )
    assert "deferred" in describe_firing(daily, ms("2026-12-01T02:30+01:00"), quiet, "defer").note
