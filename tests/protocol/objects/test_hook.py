"""Lifecycle hooks on the wire."""

from typing import Any, get_args

import msgspec
import pytest

from protocol.objects.hook import POLICY_EVENTS, HookEvent, HookOutcome, HookRef


@pytest.mark.parametrize("name", ["", "Guard", "../guard", "a" * 65, "guard\n", ".guard"])
def test_names_are_checked(name: str) -> None:
    """A name is short, in lower case, and no path."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": name}, HookRef)


@pytest.mark.parametrize(
    "outcome",
    [
        {"decison": "block"},
        {"decision": "stop"},
        {"updated_input": []},
        {"contract_version": 2},
        {"reason": 1},
    ],
)
def test_a_mistyped_outcome_is_refused(outcome: dict[str, Any]) -> None:
    """A veto with a mistyped key must not pass for consent."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(outcome, HookOutcome)


def test_policy_events_are_events() -> None:
    """Every event that hooks may stop is an event."""
    assert set(get_args(HookEvent)) > POLICY_EVENTS
