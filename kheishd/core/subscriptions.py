"""The file ``events/subscriptions.toml``: a table ``[[subscription]]`` for each trigger. Pure."""

from typing import Final

import msgspec

from kheishd.core.wake_file import TARGET_HINTS, RowError, WakeFileFormat
from protocol.limits.event import MAX_SUBSCRIPTIONS_FILE_BYTES, MAX_TRIGGER_FILTER_BYTES
from protocol.objects.trigger import TriggerTerms


def _require_valid(terms: TriggerTerms) -> None:
    """Require a filter that can be stored. Errors: RowError."""
    if len(msgspec.json.encode(terms.filter)) > MAX_TRIGGER_FILTER_BYTES:
        raise RowError("filter", f"the filter takes more than {MAX_TRIGGER_FILTER_BYTES} bytes")


SUBSCRIPTION_FILE: Final = WakeFileFormat.of(
    TriggerTerms,
    _require_valid,
    hints=TARGET_HINTS
    | {
        "trigger_id": "write 'id'",
        "pattern": "write 'source'",
        "event": "write 'source'",
        "coalesce": "write 'coalesce_s', in seconds",
    },
    table="subscription",
    noun="subscription",
    plural="subscriptions",
    max_bytes=MAX_SUBSCRIPTIONS_FILE_BYTES,
)
