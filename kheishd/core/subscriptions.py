"""The file ``events/subscriptions.toml``: a table ``[[subscription]]`` for each trigger. Pure.

A row has the terms of a trigger and the fields of its target side by side, and an ``id``, by which the state
of the trigger survives every change of the file: a pause, its deliveries, and the events that it holds.
"""

import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from kheishd.config.toml import find_key_lines, find_line
from kheishd.config.validation import find_problems, format_path
from protocol.ids import Id
from protocol.limits.event import MAX_EVENT_HOPS, MAX_TRIGGER_FILTER_BYTES, MAX_TRIGGER_NAME_BYTES
from protocol.objects.conversation import DEFAULT_SENDER
from protocol.objects.event import SOURCE_SHAPE, EventPattern
from protocol.objects.trigger import CoalesceSeconds, Hops, PayloadFilter, TriggerTerms
from protocol.objects.wake import WakeTarget
from protocol.structs import Value, fields_of


class SubscriptionRow(WakeTarget, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the file."""

    id: Id
    source: EventPattern
    filter: PayloadFilter = {}
    once: bool = False
    coalesce_s: CoalesceSeconds = 0
    max_hops: Hops = MAX_EVENT_HOPS
    name: Annotated[str, Meta(max_length=MAX_TRIGGER_NAME_BYTES)] = ""


class SubscriptionFile(Value, frozen=True):
    """The valid rows of the file by id, the ids of the others, and a warning about each of those.

    A trigger whose row is invalid stays as it is. If the file is not ``is_readable``, so do all.
    """

    rows: Mapping[str, TriggerTerms]
    invalid: frozenset[str]
    warnings: tuple[str, ...]
    is_readable: bool = True

    @classmethod
    def unreadable(cls, path: object, problem: str) -> Self:
        """Return a file that cannot be read, with the problem."""
        warning = f"the subscriptions stay as they are: {path}: {problem}"
        return cls({}, frozenset(), (warning,), is_readable=False)


def parse_file(text: str, path: str) -> SubscriptionFile:
    """Return the rows of a file. A row with a problem is skipped, with a warning that names its line."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return SubscriptionFile.unreadable(path, str(error))
    lines = find_key_lines(text)
    unknown = [key for key in table if key != "subscription"]
    warnings = [f"{path}:{find_line(lines, (key,)) or 1}: {key}: unknown key" for key in unknown]
    rows: dict[str, TriggerTerms] = {}
    invalid: set[str] = set()
    listed = table.get("subscription", [])
    for index, row in enumerate(listed if isinstance(listed, list) else [listed]):
        trigger_id = row.get("id") if isinstance(row, dict) else None
        problem = find_problem(row)
        if problem is None and trigger_id in rows:
            problem = ("id", f"the id '{trigger_id}' is there twice")
        if problem is None:
            rows[str(trigger_id)] = _terms_of(msgspec.convert(row, SubscriptionRow))
            continue
        field, message = problem
        line = find_line(lines, ("subscription", index, field)) or find_line(lines, ("subscription", index))
        warnings.append(f"skipped the subscription in {path}:{line or 1}: {field}: {message}")
        if isinstance(trigger_id, str):
            invalid.add(trigger_id)
    return SubscriptionFile(rows, frozenset(invalid) - rows.keys(), tuple(warnings))


def find_problem(row: Any) -> tuple[str, str] | None:
    """Return the field that makes a row unusable, and why; None if it is valid."""
    shape = next(find_problems(SubscriptionRow, row), None)
    if shape is not None and shape.path == ("source",) and isinstance(row["source"], str):
        return "source", f"a source, or its beginning and '*', has {SOURCE_SHAPE}"
    if shape is not None:
        return format_path(shape.path) or "subscription", shape.message
    subscription = msgspec.convert(row, SubscriptionRow)
    if (subscription.agent is None) == (subscription.session_id is None):
        return "agent", "give either 'agent' (with 'sender') or 'session_id'"
    if subscription.session_id is not None and subscription.sender is not None:
        return "sender", "a session has its own sender; leave 'sender' out"
    if (subscription.prompt is None) == (subscription.skill is None):
        return "prompt", "give either 'prompt' or 'skill' (with 'arguments')"
    if subscription.prompt is not None and (subscription.arguments or not subscription.prompt.strip()):
        return "prompt", "the prompt is blank, or has 'arguments', which only a skill takes"
    if len(msgspec.json.encode(subscription.filter)) > MAX_TRIGGER_FILTER_BYTES:
        return "filter", f"the filter takes more than {MAX_TRIGGER_FILTER_BYTES} bytes"
    return None


def _terms_of(row: SubscriptionRow) -> TriggerTerms:
    target = WakeTarget(**fields_of(WakeTarget, row))
    if target.agent is not None and target.sender is None:
        target = replace(target, sender=DEFAULT_SENDER)
    names = (name for name in TriggerTerms.__struct_fields__ if name != "target")
    return TriggerTerms(target=target, **{name: getattr(row, name) for name in names})
