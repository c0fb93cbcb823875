"""Schedules: when a cron entry is due, in its time zone. Pure.

Changes of the clocks follow Debian's cron. An expression of a fixed time (``30 2 * * *``) whose local time
does not exist on a day is due right after the gap, and one whose local time occurs twice is due once, at the
first. An expression with ``*`` in the minute or the hour (``*/15 * * * *``), and an interval, follow elapsed
time, so that they are due in both hours. Expressions with several seconds skip local times in a gap.

The library and the zones are imported at the first use: no start waits for them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

from protocol.limits.cron import MAX_COUNTED_MISSES, MAX_PERIOD_S
from protocol.objects.cron import Firing
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, tzinfo

NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_EVERY: Final = re.compile(r"every\s+([0-9]{1,9})\s*(s|m|h|d)", re.IGNORECASE)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_CLOCK: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_HINT: Final = "write five cron fields, six with seconds first, @daily, 'every 15m' or 'at 2027-03-01T09:00'"

# The last instant that is computed: the end of the year 9998. Arithmetic with zones fails in 9999.
_LAST_MS: Final = 253_370_764_800_000


class ScheduleError(Exception):
    """A schedule that cannot be followed: the field, and what is wrong with it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class Timetable(Value, frozen=True):
    """A parsed schedule.

    ``expression`` has five fields, or six with several seconds; ``second`` is the second of the five.
    """

    kind: Literal["cron", "every", "at"]
    zone: Any
    expression: str = ""
    second: int = 0
    period_ms: int = 0
    at_ms: int = 0
    anchor_ms: int = 0


@lru_cache(maxsize=256)
def zone_of(name: str) -> tzinfo:
    """Return a time zone. Errors: ScheduleError."""
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        text = f"there is no time zone '{name}'; write a name such as Europe/Paris, or UTC"
        raise ScheduleError("timezone", text) from None


@lru_cache(maxsize=1024)
def parse_schedule(text: str, timezone: str, anchor_ms: int = 0) -> Timetable:
    """Return the timetable of a schedule. Errors: ScheduleError."""
    zone = zone_of(timezone)
    words = text.split()
    every = _EVERY.fullmatch(text.strip())
    if every is not None:
        period_s = int(every[1]) * _SECONDS[every[2].lower()]
        if not 1 <= period_s <= MAX_PERIOD_S:
            raise ScheduleError("schedule", "a period is between 1 second and 366 days")
        return Timetable("every", zone, period_ms=period_s * 1000, anchor_ms=anchor_ms)
    if words and words[0].lower() == "at":
        return Timetable("at", zone, at_ms=_parse_time(" ".join(words[1:]), zone))
    expression = " ".join(words)
    if expression.startswith("@"):
        expression = NICKNAMES.get(expression.lower(), "")
        if not expression:
            names = ", ".join(NICKNAMES)
            raise ScheduleError("schedule", f"'{text}' is no schedule; the names are: {names}")
    fields = expression.split()
    if len(fields) not in (5, 6):
        raise ScheduleError("schedule", f"the schedule has {len(fields)} fields; {_HINT}")
    second = 0
    if len(fields) == 6 and fields[0].isdecimal() and int(fields[0]) < 60:
        # So it follows the changes of the clocks as one without seconds does.
        second, fields = int(fields[0]), fields[1:]
    timetable = Timetable("cron", zone, " ".join(fields), second)
    from cronsim import CronSimError

    try:
        is_possible = next_after(timetable, 0) is not None
    except CronSimError as error:
        raise ScheduleError("schedule", _describe(error, timetable.expression)) from None
    if not is_possible:
        raise ScheduleError("schedule", "no date matches the schedule; check its day and its month")
    return timetable


def _describe(error: Exception, expression: str) -> str:
    """Return the problem of an expression: its field, and the values that the field accepts."""
    name = str(error).removeprefix("Bad ")
    if name not in _FIELDS:
        return f"the schedule is invalid; {_HINT}"
    # An expression has the seconds, or not.
    word = expression.split()[[*_FIELDS].index(name) - len(_FIELDS)]
    return f"the {name} '{word}' is invalid: it is {_FIELDS[name]}, with '*', lists, ranges and '/'"


_FIELDS: Final = {
    "second": "0-59",
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31 or L, the last day",
    "month": "1-12, or jan feb mar apr may jun jul aug sep oct nov dec",
    "day-of-week": "0-7, or sun mon tue wed thu fri sat",
}
"""The fields of an expression and their values, as the library names them."""


def _parse_time(text: str, zone: tzinfo) -> int:
    """Return a single time, local unless it states an offset. Errors: ScheduleError."""
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        hint = "write it as 2027-03-01T09:00, with an offset such as +01:00 if it is not local"
        raise ScheduleError("schedule", f"'{text}' is no time; {hint}") from None
    if not 1971 <= moment.year <= 9998:
        raise ScheduleError("schedule", "the year is out of range")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
        if moment.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != moment.replace(tzinfo=None):
            note = "does not exist in this zone, because the clocks are set forward; choose another"
            raise ScheduleError("schedule", f"the local time {text} {note}")
    return int(moment.timestamp() * 1000)


# Due times.


def local_time(timetable: Timetable, at_ms: int) -> datetime:
    """Return a time in the zone of a timetable."""
    from datetime import datetime

    return datetime.fromtimestamp(at_ms / 1000, timetable.zone)


def format_local(timetable: Timetable, at_ms: int) -> str:
    """Return a time in the zone of a timetable as people read it."""
    return local_time(timetable, at_ms).isoformat(sep=" ", timespec="seconds")


def _iterate(timetable: Timetable, from_ms: int, *, reverse: bool = False) -> Iterator[int]:
    """Yield the due times of an expression after, or before, a time."""
    from cronsim import CronSim

    offset_ms = timetable.second * 1000
    start_ms = min(max(from_ms - offset_ms, 0), _LAST_MS)
    for moment in CronSim(timetable.expression, local_time(timetable, start_ms), reverse=reverse):
        yield int(moment.timestamp()) * 1000 + offset_ms


def next_after(timetable: Timetable, after_ms: int) -> int | None:
    """Return the first due time after a time; None if there is none."""
    if timetable.kind == "at":
        return timetable.at_ms if timetable.at_ms > after_ms else None
    if timetable.kind == "every":
        periods = (after_ms - timetable.anchor_ms) // timetable.period_ms + 1
        return timetable.anchor_ms + max(periods, 1) * timetable.period_ms
    # In the second of two equal hours, the library begins with the first.
    return next((due for due in _iterate(timetable, after_ms) if due > after_ms), None)


def latest_until(timetable: Timetable, first_ms: int, until_ms: int) -> int:
    """Return the last due time up to a time; ``first_ms`` is one of them."""
    if timetable.kind == "at":
        return first_ms
    if timetable.kind == "every":
        return max(first_ms, until_ms - (until_ms - timetable.anchor_ms) % timetable.period_ms)
    newest = first_ms
    for due in _iterate(timetable, until_ms + 1000, reverse=True):
        if due <= until_ms:
            newest = max(newest, due)
            break
    # Backwards, the library may pass over a due time at a change of the clocks.
    following = next_after(timetable, newest)
    while following is not None and following <= until_ms:
        newest, following = following, next_after(timetable, following)
    return newest


def count_between(timetable: Timetable, first_ms: int, last_ms: int) -> int:
    """Return the number of due times from the first to before the last, at most MAX_COUNTED_MISSES."""
    count, due = 0, first_ms
    while due < last_ms and count < MAX_COUNTED_MISSES:
        count += 1
        following = next_after(timetable, due)
        if following is None:
            break
        due = following
    return count


def find_min_distance_ms(timetable: Timetable) -> int | None:
    """Return a lower bound of the distance of two due times; None for a single time."""
    if timetable.kind != "cron":
        return timetable.period_ms if timetable.kind == "every" else None
    fields = timetable.expression.split()
    if len(fields) == 5:
        return 60_000
    from cronsim import CronSim

    seconds = sorted(CronSim(timetable.expression, local_time(timetable, 0)).seconds)
    following = [*seconds[1:], seconds[0] + 60]
    return 1000 * min(second - first for first, second in zip(seconds, following, strict=True))


# Quiet hours.


def parse_clock(text: str, field: str) -> int:
    """Return the minute of the day of a local time. Errors: ScheduleError."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise ScheduleError(field, f"'{text}' is no time of day; write HH:MM")
    return int(match[1]) * 60 + int(match[2])


class QuietHours(Value, frozen=True):
    """A part of each day, in minutes of the local time; it may include midnight."""

    start: int
    end: int

    def contains(self, timetable: Timetable, at_ms: int) -> bool:
        """Whether a time is in the quiet hours."""
        local = local_time(timetable, at_ms)
        return self.has_minute(local.hour * 60 + local.minute)

    def has_minute(self, minute: int) -> bool:
        """Whether a minute of the day is in the quiet hours."""
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    def end_after(self, timetable: Timetable, at_ms: int) -> int:
        """Return the end of the quiet hours that contain a time."""
        from datetime import timedelta

        local = local_time(timetable, at_ms)
        end = local.replace(hour=self.end // 60, minute=self.end % 60, second=0, microsecond=0, fold=0)
        if end.replace(tzinfo=None) <= local.replace(tzinfo=None):
            end += timedelta(days=1)
        end_ms = int(end.timestamp()) * 1000
        # Around a change of the clocks, the end may be before, or be in the repeated hour.
        while end_ms <= at_ms or self.contains(timetable, end_ms):
            end_ms += 60_000
        return end_ms


def parse_quiet(start: str | None, end: str | None) -> QuietHours | None:
    """Return quiet hours; None without. Errors: ScheduleError."""
    if start is None and end is None:
        return None
    if start is None or end is None:
        name = "quiet_start" if start is None else "quiet_end"
        raise ScheduleError(name, f"quiet hours have both a start and an end; '{name}' is missing")
    hours = QuietHours(parse_clock(start, "quiet_start"), parse_clock(end, "quiet_end"))
    if hours.start == hours.end:
        raise ScheduleError("quiet_end", "quiet hours that start and end at the same time are empty")
    return hours


def require_audible(timetable: Timetable, quiet: QuietHours | None, policy: str) -> None:
    """Reject an expression that is due only in quiet hours, if these skip it. Errors: ScheduleError."""
    if quiet is None or policy != "skip" or timetable.kind != "cron":
        return
    from cronsim import CronSim

    rules = CronSim(timetable.expression, local_time(timetable, 0))
    if all(quiet.has_minute(hour * 60 + minute) for hour in rules.hours for minute in rules.minutes):
        text = "the schedule is due only in the quiet hours, so that it would never fire"
        raise ScheduleError("quiet_start", f"{text}; change one of them, or let quiet hours defer it")


# Preview.


def describe_firing(timetable: Timetable, due_ms: int, quiet: QuietHours | None, policy: str) -> Firing:
    """Return a due time as people read it, with a note on a change of the clocks and on quiet hours."""
    local = local_time(timetable, due_ms)
    notes = []
    if timetable.kind == "cron":
        from cronsim import CronSim

        fields = timetable.expression.split()
        is_fixed = len(fields) == 5 and not (fields[0].startswith("*") or fields[1].startswith("*"))
        rules = CronSim(timetable.expression, local)
        if local.minute not in rules.minutes or local.hour not in rules.hours:
            notes.append("the local time does not exist on this day: right after the clocks are set forward")
        elif local.utcoffset() != local.replace(fold=1 - local.fold).utcoffset():
            times = "only at the first" if is_fixed else "at both"
            notes.append(f"the clocks are set back: this local time occurs twice, due {times}")
    if quiet is not None and quiet.contains(timetable, due_ms):
        notes.append("in quiet hours: " + ("skipped" if policy == "skip" else "deferred to their end"))
    return Firing(due_ms=due_ms, local=local.isoformat(timespec="seconds"), note="; ".join(notes))
