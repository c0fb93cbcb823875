"""The file of cron entries, ``cron/crons.toml``: a table ``[[cron]]`` for each. Pure."""

import json
from typing import Final

from msgspec import NODEFAULT
from msgspec.structs import fields

from kheishd.core.cron.schedule import ScheduleError, parse_quiet, parse_schedule
from kheishd.core.wake_file import TARGET_HINTS, RowError, WakeFileFormat
from protocol.limits.cron import MAX_CRON_FILE_BYTES
from protocol.objects.cron import Cron, CronProperties
from protocol.objects.wake import WakeTarget


def _require_valid(properties: CronProperties) -> None:
    """Require a schedule and quiet hours that can be followed. Errors: RowError."""
    try:
        parse_schedule(properties.schedule, properties.timezone)
        parse_quiet(properties.quiet_start, properties.quiet_end)
    except ScheduleError as error:
        raise RowError(error.field, error.message) from None


CRON_FILE: Final = WakeFileFormat.of(
    CronProperties,
    _require_valid,
    hints=TARGET_HINTS
    | {
        "cron_id": "write 'id'",
        "zone": "write 'timezone'",
        "tz": "write 'timezone'",
        "time_zone": "write 'timezone'",
        "cron": "write 'schedule'",
        "when": "write 'schedule'",
        "quiet_from": "write 'quiet_start'",
        "quiet_until": "write 'quiet_end'",
        "grace": "write 'grace_s', in seconds",
    },
    table="cron",
    noun="cron entry",
    plural="cron entries",
    max_bytes=MAX_CRON_FILE_BYTES,
)


def format_row(cron: Cron) -> str:
    """Return an entry as a row of the file, without the values that are defaults."""
    values: dict[str, object] = {"id": cron.cron_id}
    for kind, value in ((CronProperties, cron), (WakeTarget, cron.target)):
        for field in fields(kind):
            current = getattr(value, field.name)
            default = None if field.default is NODEFAULT else field.default
            if field.name != "target" and current != default:
                values[field.name] = current
    return "".join(("[[cron]]\n", *(f"{name} = {_format_value(value)}\n" for name, value in values.items())))


def _format_value(value: object) -> str:
    # The escapes of JSON are those of TOML, but for the delete character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
