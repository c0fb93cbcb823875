"""Secret slots on the wire: ids and values."""

import msgspec
import pytest

from protocol.objects.secret import METHODS, SecretPut, SecretSlot


@pytest.mark.parametrize("slot_id", ["a", "openai", "mcp.github_2-token", "0" * 128])
def test_the_id_of_a_slot(slot_id: str) -> None:
    """An id has lower-case letters, digits, dots, underscores and hyphens."""
    assert msgspec.convert({"slot_id": slot_id, "value": "x"}, SecretPut).slot_id == slot_id


@pytest.mark.parametrize("slot_id", ["", ".a", "-a", "A", "a b", "a/b", "a\n", "ä", "0" * 129])
def test_no_id_of_a_slot(slot_id: str) -> None:
    """Anything else is refused: an id is part of a reference and of file-like names."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"slot_id": slot_id, "value": "x"}, SecretPut)


def test_no_result_has_a_value() -> None:
    """No answer has a field for a value."""
    assert "value" not in SecretSlot.__struct_fields__
    assert {method.scope for method in METHODS} == {"admin"}
