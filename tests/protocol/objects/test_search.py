"""The search in sessions on the wire."""

from typing import Any

import msgspec
import pytest

from protocol.objects.search import SessionSearch


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"query": ""},
        {"query": "x" * 5_000},
        {"query": "x", "limit": 0},
        {"query": "x", "agent": "a\x00b"},
        {"query": "x", "since_ms": -1},
        {"query": "x", "timeout_s": 0},
        {"query": "x", "timeout_s": 1e9},
    ],
)
def test_bad_params_are_refused(params: dict[str, Any]) -> None:
    """Lengths, names and times are checked when params are decoded."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(params, SessionSearch)
