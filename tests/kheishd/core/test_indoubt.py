"""A call in doubt: its record, and the sentence by which the model learns what became of it."""

from typing import Literal

import pytest

from kheishd.core.indoubt import MAX_INPUT_CHARACTERS, PROBE, evolve, told
from protocol.events.indoubt import IndoubtResolved
from protocol.journal.envelope import Envelope
from protocol.objects.indoubt import Indoubt
from tests.support.histories import NOW_MS, indoubt_opened


def envelope(cursor: int, actor: str = "daemon") -> Envelope:
    """Where an event stands."""
    return Envelope(cursor=cursor, at_ms=cursor * 10, session_id="ses_1", run_id="run_1", actor=actor)


def doubted() -> Indoubt:
    """One that is open."""
    return evolve(None, envelope(1), indoubt_opened("dbt_1", sender="ann", evidence={"pid": 7}))


def settled(outcome: Literal["done", "not_done"], note: str = "") -> IndoubtResolved:
    """What became of it."""
    return IndoubtResolved(
        indoubt_id="dbt_1", call_id="c2", tool="write", outcome=outcome, justification="saw it", note=note
    )


def test_a_doubt() -> None:
    """What was called, when, and what is known."""
    doubt = doubted()
    assert (doubt.status, doubt.created_cursor, doubt.found_at_ms, doubt.called_at_ms) == (
        "open",
        1,
        10,
        NOW_MS,
    )
    assert (doubt.session_id, doubt.run_id, doubt.sender) == ("ses_1", "run_1", "ann")
    assert (doubt.note, doubt.evidence) == ("its file is there", {"pid": 7})


@pytest.mark.parametrize("outcome", ["done", "not_done"])
def test_it_is_settled_once(outcome: Literal["done", "not_done"]) -> None:
    """By an operator, who is named; what was known before stays; a second word changes nothing."""
    doubt = evolve(doubted(), envelope(5, "uid:7"), settled(outcome, "told"))
    assert (doubt.status, doubt.resolved_by, doubt.resolved_at_ms, doubt.justification) == (
        outcome,
        "uid:7",
        50,
        "saw it",
    )
    assert doubt.note == "its file is there"
    assert evolve(doubt, envelope(6, "uid:8"), settled("done")) is doubt
    assert evolve(doubt, envelope(6), indoubt_opened("dbt_1")) is doubt


def test_the_tool_itself_may_have_found_out() -> None:
    """Then it is not a person who settled it."""
    assert evolve(doubted(), envelope(2), settled("done")).resolved_by == PROBE


def test_nothing_is_settled_that_was_not_in_doubt() -> None:
    """A journal that says so is damaged."""
    with pytest.raises(AssertionError, match="first event"):
        evolve(None, envelope(1), settled("done"))


def test_what_the_model_is_told() -> None:
    """Which call, briefly, and whether it took effect."""
    done = told(doubted(), {"path": "bücher"}, "done")
    assert 'write {"path": "bücher"}' in done
    assert done.endswith("says that it did take effect.")
    long = told(doubted(), {"text": "x" * 10_000}, "not_done")
    assert len(long) < MAX_INPUT_CHARACTERS + 250
    assert long.endswith("says that it did not take effect.")
