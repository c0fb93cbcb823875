"""Notes on the wire."""

from typing import Any

import msgspec
import pytest

from protocol.limits.memory import MAX_HITS, MAX_NOTE_ALIASES, MAX_NOTE_BYTES
from protocol.objects.memory import MemoryImport, MemoryRecall, MemoryRemember


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (MemoryRemember, {"agent": "default", "name": "", "content": "x"}),
        (MemoryRemember, {"agent": "a/b", "name": "n", "content": "x"}),
        (MemoryRemember, {"agent": "a\x00b", "name": "n", "content": "x"}),
        (MemoryRemember, {"agent": "default", "name": "n" * 129, "content": "x"}),
        (MemoryRemember, {"agent": "default", "name": "n", "content": "x" * (MAX_NOTE_BYTES + 1)}),
        (
            MemoryRemember,
            {"agent": "default", "name": "n", "content": "", "aliases": ["a"] * (MAX_NOTE_ALIASES + 1)},
        ),
        (MemoryRecall, {"agent": "default", "query": ""}),
        (MemoryRecall, {"agent": "default", "query": "q", "limit": MAX_HITS + 1}),
        (MemoryRecall, {"agent": "default", "query": "q", "kind": "other"}),
        (MemoryImport, {"agent": "default", "content": "x", "filename": ""}),
    ],
)
def test_bad_params_are_refused(kind: type[Any], params: dict[str, Any]) -> None:
    """Names, agents and lengths are checked when params are decoded."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(params, kind)
