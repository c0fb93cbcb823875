"""The file of cron entries, ``cron/crons.toml``: a table ``[[cron]]`` for each. Pure.

A row has the properties of an entry and the fields of its target side by side, and an ``id``, by which the
state of the entry survives every change of the file: pauses, the history, and what is due next.
"""

import json
import tomllib
from collections.abc import Mapping
from typing import Any, Self

import msgspec
from msgspec import NODEFAULT
from msgspec.structs import fields

from kheishd.config.toml import find_key_lines, find_line
from kheishd.config.validation import find_problems, format_path
from kheishd.core.cron.schedule import ScheduleError, parse_quiet, parse_schedule
from protocol.ids import Id
from protocol.limits.cron import DEFAULT_GRACE_S
from protocol.objects.cron import (
    Clock,
    Cron,
    CronName,
    CronProperties,
    Executions,
    Grace,
    Misfire,
    Overlap,
    Quiet,
    Schedule,
    Zone,
)
from protocol.objects.wake import WakeTarget
from protocol.structs import Value, fields_of


class CronRow(WakeTarget, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the file."""

    id: Id
    schedule: Schedule
    name: CronName = ""
    timezone: Zone = "UTC"
    quiet_start: Clock | None = None
    quiet_end: Clock | None = None
    quiet: Quiet = "skip"
    once: bool = False
    misfire: Misfire = "run_once"
    grace_s: Grace = DEFAULT_GRACE_S
    overlap: Overlap = "skip"
    max_executions: Executions | None = None


class CronFile(Value, frozen=True):
    """The valid rows of the file by id, the ids of the others, and a warning about each of those.

    An entry whose row is invalid stays as it is. If the file is not ``is_readable``, so do all.
    """

    rows: Mapping[str, CronProperties]
    invalid: frozenset[str]
    warnings: tuple[str, ...]
    is_readable: bool = True

    @classmethod
    def unreadable(cls, path: object, problem: str) -> Self:
        """Return a file that cannot be read, with the problem."""
        warning = f"the cron entries stay as they are: {path}: {problem}"
        return cls({}, frozenset(), (warning,), is_readable=False)


def parse_file(text: str, path: str) -> CronFile:
    """Return the rows of a file. A row with a problem is skipped, with a warning that names its line."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return CronFile.unreadable(path, str(error))
    lines = find_key_lines(text)
    warnings = [
        f"{path}:{find_line(lines, (key,)) or 1}: {key}: unknown key" for key in table if key != "cron"
    ]
    rows: dict[str, CronProperties] = {}
    invalid: set[str] = set()
    listed = table.get("cron", [])
    for index, row in enumerate(listed if isinstance(listed, list) else [listed]):
        problem, field = _find_problem(row), ""
        cron_id = row.get("id") if isinstance(row, dict) else None
        if problem is None:
            properties = _properties_of(msgspec.convert(row, CronRow))
            problem = _find_contradiction(properties)
        if problem is None and cron_id in rows:
            problem = ("id", f"the id '{cron_id}' is there twice")
        if problem is None:
            rows[str(cron_id)] = properties
            continue
        field, text_of_problem = problem
        line = find_line(lines, ("cron", index, field)) or find_line(lines, ("cron", index)) or 1
        warnings.append(f"skipped the cron entry in {path}:{line}: {field}: {text_of_problem}")
        if isinstance(cron_id, str):
            invalid.add(cron_id)
    return CronFile(rows, frozenset(invalid) - rows.keys(), tuple(warnings))


def _find_problem(row: Any) -> tuple[str, str] | None:
    """Return the first field of a row with a problem of its shape, and the problem."""
    problem = next(find_problems(CronRow, row), None)
    return None if problem is None else (format_path(problem.path) or "cron", problem.message)


def _find_contradiction(properties: CronProperties) -> tuple[str, str] | None:
    """Return the field that makes a row unusable, and why."""
    target = properties.target
    if (target.agent is None) == (target.session_id is None):
        return "agent", "give either 'agent' (with 'sender') or 'session_id'"
    if target.session_id is not None and target.sender is not None:
        return "sender", "a session has its own sender; leave 'sender' out"
    if (target.prompt is None) == (target.skill is None):
        return "prompt", "give either 'prompt' or 'skill' (with 'arguments')"
    try:
        parse_schedule(properties.schedule, properties.timezone)
        parse_quiet(properties.quiet_start, properties.quiet_end)
    except ScheduleError as error:
        return error.field, error.message
    return None


def _properties_of(row: CronRow) -> CronProperties:
    target = WakeTarget(**fields_of(WakeTarget, row))
    if target.agent is not None and target.sender is None:
        target = msgspec.structs.replace(target, sender="user")
    names = (name for name in CronProperties.__struct_fields__ if name != "target")
    return CronProperties(target=target, **{name: getattr(row, name) for name in names})


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
