"""The targets of schedules and triggers on the wire."""

import msgspec
import pytest

from protocol.limits.wake import MAX_WAKE_PROMPT_BYTES
from protocol.objects.wake import WakeTarget


def test_a_target_is_written_without_its_defaults() -> None:
    """Only the fields that are set are on the wire, and they are read back."""
    target = WakeTarget(agent="default", prompt="tidy up")
    encoded = msgspec.json.encode(target)
    assert encoded == b'{"agent":"default","prompt":"tidy up"}'
    assert msgspec.json.decode(encoded, type=WakeTarget) == target


@pytest.mark.parametrize(
    "fields", [{"prompt": "x" * (MAX_WAKE_PROMPT_BYTES + 1)}, {"prompt": ""}, {"session": "ses_1"}]
)
def test_a_target_rejects_long_empty_and_unknown_fields(fields: dict[str, str]) -> None:
    """A misspelt field is an error, because a target without it would wake something else."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, WakeTarget)
