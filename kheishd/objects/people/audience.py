"""Audiences: the names of a run's requester, the person who answers, and requests that nobody can answer."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING

from kheishd.core.audience import format_audience
from kheishd.core.token import is_alive
from kheishd.objects.talk.bounds import ancestors
from kheishd.store.tables import APPROVALS, APPROVALS_WAITING, QUESTIONS, QUESTIONS_WAITING, TOKENS
from protocol.errors.approval import NotInAudience
from protocol.errors.conversation import SenderForbidden, SenderInvalid
from protocol.errors.rpc import InvalidParams
from protocol.journal.line import decode_envelope

if TYPE_CHECKING:
    from kheishd.config.sections.listen import SharedSection
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.call import Call
    from kheishd.store.environment import Snapshot
    from protocol.audience import Audience
    from protocol.objects.session import Session
    from protocol.objects.token import Token

MAX_CHECKED_REQUESTS = 200
MAX_WARNINGS = 5
"""A status examines this many of the oldest pending requests of each kind, and warns about the first few."""


def requester_of(store: Snapshot, session: Session, run: RunRecord) -> tuple[str, ...]:
    """Return the names of the person whose message began a run: its sender, and the principal that sent it.

    A run that the daemon or another agent began has the requester of its session, or of the nearest above it.
    """
    origins = [(run.sender, run.session_id, run.accepted_cursor)]
    above = [session, *ancestors(store, session)]
    origins += [(parent.sender, parent.session_id, parent.created_cursor) for parent in above]
    for sender, session_id, cursor in origins:
        entry = store.entry(session_id, cursor)
        actor = decode_envelope(entry[1]).actor if entry is not None else ""
        names = [sender] if sender is not None and not _is_principal(sender) else []
        names += [actor] if _is_principal(actor) else []
        if names:
            return tuple(names)
    return ()


def _is_principal(name: str) -> bool:
    return name.startswith(("uid:", "token:"))


# Answer.


def require_person(call: Call, audience: Audience | None, sender: str | None, field: str) -> str | None:
    """Return the name of the sender for whom a caller answers; None if it answers as its principal.

    Args:   ``field`` is that of the request, for a caller outside of its audience.
    Errors: NotInAudience, SenderForbidden, SenderInvalid, InvalidParams.
    """
    caller = call.caller
    if sender is not None and caller.senders is None:
        text = (
            f"the caller's rights name no senders, so it answers as '{caller.principal}'; leave 'sender' out"
        )
        raise SenderForbidden(text, field="$.params.sender")
    if sender is not None:
        caller.require_sender(sender)
    elif audience is None:
        return None
    senders = caller.senders
    if sender is None and senders is not None:
        if len(senders) != 1:
            text = "the caller's rights name several senders; 'sender' names the one for whom it answers"
            raise InvalidParams(text, field="$.params.sender")
        sender = next(iter(senders))
    if sender is not None and _is_principal(sender):
        raise SenderInvalid(
            "a sender that is named like a principal answers for nobody", field="$.params.sender"
        )
    name = sender if sender is not None else caller.principal
    if audience is not None and audience.people is not None and name not in audience.people:
        text = f"'{name}' may not answer this; its audience is: {format_audience(audience)}"
        raise NotInAudience(text, field=field)
    return sender


# Requests that nobody can answer.


def find_unanswerable(store: Snapshot, now_ms: int, shared: SharedSection | None) -> list[str]:
    """Return a warning about each pending request whose audience has too few people who can answer.

    Args:   ``shared`` is the socket that admits other users; all of them count, because a group may be one.
    Shape:  at most MAX_WARNINGS sentences about the first MAX_CHECKED_REQUESTS requests of each kind.
    """
    approvals = islice(store.scan(APPROVALS_WAITING), MAX_CHECKED_REQUESTS)
    questions = islice(store.scan(QUESTIONS_WAITING), MAX_CHECKED_REQUESTS)
    audiences = {name: store.need(APPROVALS, name).audience for _, name in approvals}
    audiences |= {name: store.need(QUESTIONS, name).audience for _, name in questions}
    narrowed = {name: audience for name, audience in audiences.items() if audience is not None}
    if not narrowed:
        return []
    alive = (record.token for _, record in store.scan(TOKENS) if is_alive(record.token, now_ms))
    people = {person for token in alive for person in _people_of(token)}
    people |= {f"uid:{os.geteuid()}", "uid:0"}
    people |= {name for grant in (shared.grants if shared else []) for name in grant.senders or []}
    warnings = []
    for name, audience in narrowed.items():
        if audience.people is None:
            continue
        able = [
            person
            for person in audience.people
            if person in people or (shared is not None and person.startswith("uid:"))
        ]
        if len(able) < audience.votes:
            warnings.append(
                f"too few people can answer {name}: its audience is {format_audience(audience)}, and "
                f"{len(able)} of them have a token or a socket; create tokens for them, or cancel the run"
            )
    return warnings[:MAX_WARNINGS]


def _people_of(token: Token) -> list[str]:
    """Return the names by which a token answers."""
    return [f"token:{token.token_id}"] if token.grant.senders is None else token.grant.senders
