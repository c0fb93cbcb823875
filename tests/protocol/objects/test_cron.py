"""Cron entries on the wire."""

import msgspec
import pytest

from protocol.objects.cron import Cron, CronCreate, CronUpdate
from protocol.objects.wake import WakeTarget


def test_an_entry_is_written_without_its_defaults() -> None:
    """A new entry takes little room, in the store and on the wire."""
    cron = Cron(
        cron_id="c", status="active", schedule="@daily", target=WakeTarget(agent="default", prompt="x")
    )
    assert msgspec.json.decode(msgspec.json.encode(cron)) == {
        "cron_id": "c",
        "status": "active",
        "schedule": "@daily",
        "target": {"agent": "default", "prompt": "x"},
    }


def test_an_update_tells_absent_from_null() -> None:
    """Null removes the quiet hours; what is absent stays."""
    update = msgspec.convert({"cron_id": "c", "quiet_start": None}, CronUpdate)
    assert update.quiet_start is None
    assert update.quiet_end is msgspec.UNSET


@pytest.mark.parametrize(
    "fields", [{"grace_s": -1}, {"max_executions": 0}, {"overlap": "x"}, {"schedule": ""}]
)
def test_values_out_of_range_are_refused(fields: dict[str, object]) -> None:
    """The shape of the params limits each value."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"schedule": "@daily", "target": {}} | fields, CronCreate)
