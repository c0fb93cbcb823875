"""Values that records can hold."""

from typing import Any

import pytest

from kheishd.objects.storable import require_storable
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge


def test_require_storable() -> None:
    """A value is limited in size, in depth and in its integers; the refusal names the field."""
    require_storable({"a": [1, "b"]}, 13, "metadata", "$.params.metadata")
    with pytest.raises(InputTooLarge) as refused:
        require_storable({"a": [1, "b"]}, 12, "metadata", "$.params.metadata")
    assert refused.value.field == "$.params.metadata"
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    for wrong in ({"a": 2**64}, {"a": deep}):
        with pytest.raises(InvalidParams):
            require_storable(wrong, 10_000, "metadata", "$.params.metadata")
