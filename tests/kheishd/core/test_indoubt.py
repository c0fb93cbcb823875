"""In-doubt calls: the record, and the note that tells the model the outcome."""

from typing import Literal

import pytest

from kheishd.core.indoubt import MAX_INPUT_CHARACTERS, PROBE, evolve, format_resolution
from protocol.events.indoubt import IndoubtResolved
from protocol.journal.envelope import Envelope
from protocol.objects.indoubt import Indoubt
from tests.support.histories import NOW_MS, indoubt_opened


def envelope(cursor: int, actor: str = "daemon") -> Envelope:
    """Make the envelope of an event."""
    return Envelope(cursor=cursor, at_ms=cursor * 10, session_id="ses_1", run_id="run_1", actor=actor)


def open_doubt() -> Indoubt:
    """Return an open in-doubt call."""
    return evolve(None, envelope(1), indoubt_opened("dbt_1", sender="ann", evidence={"pid": 7}))


def resolution(outcome: Literal["done", "not_done"], note: str = "") -> IndoubtResolved:
    """Make a resolution."""
    return IndoubtResolved(
        indoubt_id="dbt_1", call_id="c2", tool="write", outcome=outcome, justification="saw it", note=note
    )


def test_an_opened_record() -> None:
    """An opened record keeps the call, its time and the evidence."""
    doubt = open_doubt()
    assert (doubt.status, doubt.created_cursor, doubt.found_at_ms, doubt.called_at_ms) == (
        "open",
        1,
        10,
        NOW_MS,
    )
    assert (doubt.session_id, doubt.run_id, doubt.sender) == ("ses_1", "run_1", "ann")
    assert (doubt.note, doubt.evidence) == ("its file is there", {"pid": 7})


@pytest.mark.parametrize("outcome", ["done", "not_done"])
def test_it_is_resolved_once(outcome: Literal["done", "not_done"]) -> None:
    """The first resolution names the operator and keeps the evidence; later ones change nothing."""
    doubt = evolve(open_doubt(), envelope(5, "uid:7"), resolution(outcome, "note"))
    assert (doubt.status, doubt.resolved_by, doubt.resolved_at_ms, doubt.justification) == (
        outcome,
        "uid:7",
        50,
        "saw it",
    )
    assert doubt.note == "its file is there"
    assert evolve(doubt, envelope(6, "uid:8"), resolution("done")) is doubt
    assert evolve(doubt, envelope(6), indoubt_opened("dbt_1")) is doubt


def test_a_probe_may_resolve_it() -> None:
    """A resolution by the tool's own probe is not attributed to a person."""
    assert evolve(open_doubt(), envelope(2), resolution("done")).resolved_by == PROBE


def test_a_resolution_without_an_opening_is_damage() -> None:
    """A journal with a resolution before the opening is damaged."""
    with pytest.raises(AssertionError, match="first event"):
        evolve(None, envelope(1), resolution("done"))


def test_format_resolution() -> None:
    """The note names the call, abbreviated, and whether it took effect."""
    done = format_resolution(open_doubt(), {"path": "bücher"}, "done")
    assert 'write {"path": "bücher"}' in done
    assert done.endswith("says that it did take effect.")
    long = format_resolution(open_doubt(), {"text": "x" * 10_000}, "not_done")
    assert len(long) < MAX_INPUT_CHARACTERS + 250
    assert long.endswith("says that it did not take effect.")
