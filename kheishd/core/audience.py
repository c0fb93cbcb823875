"""Audiences: the people who may answer a request, the meeting of several audiences, and votes. Pure.

Several rules may ask about one call, each of its own audience: the people in all of them may answer, and the
highest number of votes counts. If nobody is in all of them, nobody may answer.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from protocol.audience import Audience, Vote

NOBODY: Final = Audience(people=[])


def narrow(audiences: Iterable[Audience], requester: Sequence[str] = ()) -> Audience | None:
    """Return the audience of the people who are in all of them; None: anyone.

    Args:   ``requester`` are the names of the person whose message began the run.
    """
    people: list[str] | None = None
    votes = 1
    for audience in audiences:
        named = audience.people
        if audience.requester:
            named = list(dict.fromkeys([*(named or []), *requester]))
        if named is not None:
            people = named if people is None else [person for person in people if person in named]
        votes = max(votes, audience.votes)
    if people is None:
        return None
    return Audience(people=people, votes=votes) if votes <= len(people) else NOBODY


def is_same_or_wider(audience: Audience | None, other: Audience | None) -> bool:
    """Whether everyone who may answer ``other`` may answer ``audience``, with no more votes."""
    if audience is None or audience.people is None:
        return True
    if other is None or other.people is None:
        return False
    return set(other.people) <= set(audience.people) and other.votes >= audience.votes


def format_audience(audience: Audience | None) -> str:
    """Format an audience for a sentence."""
    if audience is None or audience.people is None:
        return "anyone with the right to answer"
    if not audience.people:
        return "nobody"
    names = ", ".join(audience.people)
    return names if audience.votes == 1 else f"{audience.votes} of {names}"


def count_votes(
    audience: Audience, votes: Sequence[Vote], choices: Sequence[str] | None = None
) -> str | None:
    """Return the choice that has enough votes; an empty text if none can have them; None while it is open.

    Args:   ``choices`` are those that can win; by default every choice.
    """
    counts = Counter(vote.choice for vote in votes if choices is None or vote.choice in choices)
    choice, most = counts.most_common(1)[0] if counts else ("", 0)
    if most >= audience.votes:
        return choice
    pending = len(audience.people or []) - len(votes)
    return None if most + pending >= audience.votes else ""


def remember_together(votes: Sequence[Vote]) -> Vote:
    """Return the last vote, with what all votes for the same choice wish to be remembered.

    It is remembered only if each of them wishes it for as long, and as often as the least of them wishes.
    """
    last = votes[-1]
    agreeing = [vote for vote in votes if vote.choice == last.choice]
    if len({vote.remember for vote in agreeing}) > 1:
        return replace(last, remember="once", uses=None)
    return replace(last, uses=min((vote.uses for vote in agreeing if vote.uses is not None), default=None))
