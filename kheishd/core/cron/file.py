"""Rows of the file of cron entries, ``cron/crons.toml``. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from msgspec import NODEFAULT
from msgspec.structs import fields

from protocol.objects.cron import CronProperties
from protocol.objects.wake import WakeTarget

if TYPE_CHECKING:
    from protocol.objects.cron import Cron


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
