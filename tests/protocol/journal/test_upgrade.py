"""Upgrades of journal lines: every renamed field is read, at any depth."""

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.journal.upgrade import FIELDS, TAGS, upgrade

CORPUS = Path(__file__).parents[1] / "corpus"
OLD = [json.loads(line) for line in (CORPUS / "format-1.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("kind", FIELDS)
def test_every_old_name_is_in_the_corpus(kind: str) -> None:
    """The corpus of format 1 has each renamed field, so that reading it is tested."""
    text = " ".join(json.dumps(line) for line in OLD if line["type"] == kind)
    for _, names in FIELDS[kind]:
        for old, _ in names:
            assert f'"{old}":' in text, (kind, old)


def test_types_are_renamed() -> None:
    """A renamed type is read under its present name."""
    for old, new in TAGS.items():
        assert upgrade({"type": old})["type"] == new


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"type": "run_ended", "reason": "x"}, {"type": "run_ended", "note": "x"}),
        ({"type": "run_ended"}, {"type": "run_ended"}),
        (
            {"type": "calls_judged", "verdicts": [{"reason": "a"}, {"why": "b"}]},
            {"type": "calls_judged", "verdicts": [{"note": "a"}, {"why": "b"}]},
        ),
        (
            {"type": "run_accepted", "pinned": {"budget": {"cost_max": 5}}},
            {"type": "run_accepted", "pinned": {"budget": {"max_cost_micros": 5}}},
        ),
        (
            {"type": "run_accepted", "pinned": {"budget": None}},
            {"type": "run_accepted", "pinned": {"budget": None}},
        ),
        ({"type": "run_accepted", "pinned": 5}, {"type": "run_accepted", "pinned": 5}),
        ({"type": "never_heard_of", "reason": "x"}, {"type": "never_heard_of", "reason": "x"}),
    ],
)
def test_fields_are_renamed(line: dict[str, Any], expected: dict[str, Any]) -> None:
    """Renamed fields are read, and nothing else changes."""
    assert upgrade(line) == expected
