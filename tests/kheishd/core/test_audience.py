"""Audiences: several at once, and votes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.audience import (
    NOBODY,
    count_votes,
    format_audience,
    is_same_or_wider,
    narrow,
    remember_together,
)
from protocol.audience import Audience, Vote

ADA, TWO = Audience(people=["ada"]), Audience(people=["ada", "bea", "carl"], votes=2)
PEOPLE = ["ada", "bea", "carl", "uid:0"]


@st.composite
def audiences(draw: st.DrawFn) -> Audience:
    """Make an audience as a rule may name it."""
    people = draw(st.none() | st.lists(st.sampled_from(PEOPLE), unique=True, min_size=1))
    if people is None:
        return Audience(requester=draw(st.booleans()))
    return Audience(people=people, votes=draw(st.integers(1, len(people))))


def test_several_audiences_meet() -> None:
    """The people in all audiences may answer; if they are too few, nobody may."""
    assert narrow([]) is None
    assert narrow([Audience()]) is None
    assert narrow([TWO]) == TWO
    assert narrow([Audience(people=["bea", "ada"]), Audience(people=["ada", "carl"])]) == ADA
    assert narrow([TWO, ADA]) == NOBODY
    assert narrow([Audience(requester=True)], ["ada", "uid:0"]) == Audience(people=["ada", "uid:0"])
    assert narrow([Audience(requester=True)]) == NOBODY
    assert narrow([Audience(requester=True, people=["bea"])], ["ada"]) == Audience(people=["bea", "ada"])


@given(st.lists(audiences(), max_size=3), audiences(), st.lists(st.sampled_from(PEOPLE), max_size=2))
def test_no_further_audience_widens(several: list[Audience], another: Audience, requester: list[str]) -> None:
    """One more rule never lets another person answer, and never needs fewer votes."""
    previous, current = narrow(several, requester), narrow([*several, another], requester)
    assert current == NOBODY or is_same_or_wider(previous, current)


def test_a_grant_answers_asks_of_the_same_audience_or_a_wider_one() -> None:
    """A grant of everybody answers no ask of named people, and one vote none of several."""
    assert is_same_or_wider(None, ADA)
    assert is_same_or_wider(None, None)
    assert is_same_or_wider(TWO, TWO)
    assert not is_same_or_wider(ADA, None)
    assert not is_same_or_wider(TWO, ADA)
    assert not is_same_or_wider(ADA, TWO)
    assert not is_same_or_wider(NOBODY, ADA)


def test_an_audience_is_formatted() -> None:
    """A sentence names the people and the number of votes."""
    assert format_audience(None) == "anyone with the right to answer"
    assert format_audience(NOBODY) == "nobody"
    assert format_audience(ADA) == "ada"
    assert format_audience(TWO) == "2 of ada, bea, carl"


@pytest.mark.parametrize(
    ("choices", "allowed", "agreed"),
    [
        ([], None, None),
        (["allow"], None, None),
        (["deny"], None, None),
        (["allow", "allow"], "allow", "allow"),
        (["allow", "deny"], None, None),
        (["deny", "deny"], "", "deny"),
        (["allow", "deny", "other"], "", ""),
        (["deny", "allow", "allow"], "allow", "allow"),
    ],
)
def test_votes_are_counted(choices: list[str], allowed: str | None, agreed: str | None) -> None:
    """Two of three decide; once two of them cannot agree, that is decided, too."""
    votes = [Vote(person=person, choice=choice) for person, choice in zip(PEOPLE, choices, strict=False)]
    assert count_votes(TWO, votes, ["allow"]) == allowed
    assert count_votes(TWO, votes) == agreed


def test_only_a_common_wish_is_remembered() -> None:
    """An answer is remembered as long as all who allow wish, as often as the least of them wishes."""
    session, run = (
        Vote(person="a", choice="allow", remember="session", uses=3),
        Vote(person="b", choice="allow", remember="run"),
    )
    denial = Vote(person="c", choice="deny")
    often = Vote(person="d", choice="allow", remember="session")
    assert remember_together([session, run]) == Vote(person="b", choice="allow")
    assert remember_together([session, denial, often]).remember == "session"
    assert remember_together([session, denial, often]).uses == 3
    assert remember_together([often]) == often
