"""Audiences and votes on the wire."""

from typing import Any

import msgspec
import pytest

from protocol.audience import Audience, Vote, find_audience_problem
from protocol.limits.audience import MAX_PEOPLE, MAX_PEOPLE_BYTES


@pytest.mark.parametrize(
    ("decision", "audience", "problem"),
    [
        ("allow", Audience(requester=True), "only a rule that asks"),
        ("ask", Audience(people=[]), "names nobody"),
        ("ask", Audience(votes=2), "at least as many 'people'"),
        ("ask", Audience(people=["ada"], votes=2), "at least as many 'people'"),
        ("ask", Audience(people=["ada", "ada"], votes=2), "twice"),
        ("ask", Audience(people=["ada", "bea"], votes=2, requester=True), "'requester' cannot be combined"),
        ("ask", Audience(people=["x" * 120, "y" * 120, "z" * 120]), f"more than {MAX_PEOPLE_BYTES} bytes"),
        (
            "ask",
            Audience(requester=True, people=[f"p{number}" for number in range(MAX_PEOPLE - 1)]),
            "beside 'requester'",
        ),
        ("deny", None, None),
        ("ask", Audience(requester=True, people=["ada"]), None),
        ("ask", Audience(people=["ada", "bea"], votes=2), None),
    ],
)
def test_an_audience_that_cannot_answer_is_a_problem(
    decision: str, audience: Audience | None, problem: str | None
) -> None:
    """Only an ask has an audience, and it names its people once, and as many as must agree."""
    text = find_audience_problem(decision, audience)
    assert text is None if problem is None else problem in str(text)


@pytest.mark.parametrize(
    "audience",
    [
        {"votes": 0},
        {"people": [""]},
        {"people": ["x" * 129]},
        {"people": [f"p{number}" for number in range(MAX_PEOPLE + 1)]},
        {"who": "ada"},
    ],
)
def test_an_audience_with_invalid_fields_is_refused(audience: dict[str, Any]) -> None:
    """The names and their number have limits."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(audience, Audience)


def test_votes_omit_defaults() -> None:
    """A vote takes little room in the record of its request."""
    assert msgspec.json.encode(Vote(person="ada", choice="allow")) == b'{"person":"ada","choice":"allow"}'
