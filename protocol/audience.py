"""Audiences: the people who may answer an approval or a question, and the votes of several people.

A person has one name. A caller whose rights name senders answers as one of them (``alice``); any other caller
answers as its principal (``uid:1000``, ``token:tok_1``). So one token is never two people.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from protocol.limits.audience import MAX_PEOPLE, MAX_PEOPLE_BYTES, MAX_REQUESTER_NAMES
from protocol.limits.names import MAX_SENDER_BYTES

Person = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_SENDER_BYTES, description="A sender, or a principal: uid:N, token:ID."),
]


class Audience(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The people who may answer a request; nobody else may allow, deny or vote.

    ``people`` null: anyone with the right to answer; an empty list: nobody. ``requester`` adds the person
    whose message began the run: its sender and the principal that sent it. With ``votes`` above 1, that many
    of the ``people`` must agree.
    """

    people: Annotated[list[Person], Meta(max_length=MAX_PEOPLE)] | None = None
    requester: bool = False
    votes: Annotated[int, Meta(ge=1, le=MAX_PEOPLE)] = 1


class Vote(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One person's vote; the first one counts. ``choice`` is ``allow``, ``deny``, or the digest of an answer.

    ``remember`` and ``uses`` are those of a resolution.
    """

    person: str
    choice: str
    remember: Literal["once", "run", "session"] = "once"
    uses: int | None = None


def find_audience_problem(decision: str, audience: Audience | None) -> str | None:
    """Return why a rule of this decision cannot have an audience; None if it can."""
    if audience is None:
        return None
    people = audience.people or []
    max_people = MAX_PEOPLE - MAX_REQUESTER_NAMES
    if decision != "ask":
        return "only a rule that asks has an audience; set 'decision' to 'ask'"
    if audience.people == [] and not audience.requester:
        return "it names nobody; name people, or set 'decision' to 'deny'"
    if len(set(people)) < len(people):
        return "'people' names somebody twice; name each person once"
    if audience.votes > 1 and audience.requester:
        return "'requester' cannot be combined with 'votes'; name the people instead"
    if audience.votes > 1 and audience.votes > len(people):
        return f"{audience.votes} votes need at least as many 'people'"
    if audience.requester and len(people) > max_people:
        return f"at most {max_people} 'people' beside 'requester'"
    if len(msgspec.json.encode(people)) > MAX_PEOPLE_BYTES:
        return f"the names of 'people' take more than {MAX_PEOPLE_BYTES} bytes; name fewer"
    return None
