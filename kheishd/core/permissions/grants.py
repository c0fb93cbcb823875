"""The rules and grants that a record keeps, as the fold of events: a session's, a run's, the daemon's. Pure.

An event that both a session and its run see is each one's own business: the run keeps what was granted to it,
and of the grants that verdicts used, each counts down those it holds. Folding is total, so what finds no room
is decided here: the oldest grant is forgotten, and the next such call asks a person again.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from kheishd.core.run.record import RunRecord
from protocol.events.approval import ApprovalAnswered
from protocol.events.call import CallsJudged
from protocol.events.permission import PermissionsChanged
from protocol.journal.line import JournalEvent
from protocol.limits.permission import MAX_GRANTS_BYTES, MAX_RULES, MAX_RULES_BYTES
from protocol.objects.permission import Grant, Rule, RuleRef, Verdict
from protocol.objects.session import Session

Holder = TypeVar("Holder", RunRecord, Session)


def kept_by_run(run: RunRecord, event: JournalEvent) -> RunRecord:
    """The run with the rules and grants it has after one of its own events."""
    if isinstance(event, ApprovalAnswered) and event.remember != "run":
        return run
    return _kept(run, event)


def kept_by_session(session: Session, event: JournalEvent, run_id: str | None) -> Session:
    """The session with the rules and grants it has after an event of its stream; itself if nothing changed.

    ``run_id`` is that of the event: what was changed for one run only changes nothing here.
    """
    if isinstance(event, PermissionsChanged) and run_id is not None:
        return session
    if isinstance(event, ApprovalAnswered) and event.remember != "session":
        return session
    return _kept(session, event)


def _kept(holder: Holder, event: JournalEvent) -> Holder:
    match event:
        case PermissionsChanged(revoke=revoke):
            grants = [grant for grant in holder.grants if grant.grant_id not in revoke]
            return replace(holder, rules=changed(holder.rules, event), grants=grants)
        case ApprovalAnswered(grant=Grant() as grant):
            return replace(holder, grants=granted(holder.grants, grant))
        case CallsJudged(verdicts=verdicts) if _used(holder.grants, verdicts):
            return replace(holder, grants=spent(holder.grants, verdicts))
        case _:
            return holder


def changed(rules: Sequence[Rule], event: PermissionsChanged) -> list[Rule]:
    """The rules after a change, in the order in which they were made: at most one about the same."""
    new = {about(rule): rule for rule in event.add}
    gone = new.keys() | {about(rule) for rule in event.remove}
    return [*(rule for rule in rules if about(rule) not in gone), *new.values()]


def about(rule: Rule | RuleRef) -> tuple[str, str | None]:
    """What a rule is about: two rules of one layer about the same would contradict each other."""
    return rule.tool, rule.subject


def granted(grants: Sequence[Grant], grant: Grant) -> list[Grant]:
    """The grants with one more, if there is any room for it; then the oldest are forgotten that fill it."""
    if _size([grant]) > MAX_GRANTS_BYTES:
        return list(grants)
    kept = [*grants, grant][-MAX_RULES:]
    while _size(kept) > MAX_GRANTS_BYTES:
        del kept[0]
    return kept


def spent(grants: Sequence[Grant], verdicts: Iterable[Verdict]) -> list[Grant]:
    """The grants after verdicts that used some of them: counted down, and gone when there is no use left."""
    uses = Counter(verdict.grant_id for verdict in verdicts)
    counted = (
        grant
        if grant.remaining_uses is None
        else replace(grant, remaining_uses=grant.remaining_uses - uses[grant.grant_id])
        for grant in grants
    )
    return [grant for grant in counted if grant.remaining_uses is None or grant.remaining_uses > 0]


def _used(grants: Sequence[Grant], verdicts: Iterable[Verdict]) -> bool:
    """Whether any of these verdicts counts one of the grants down."""
    counted = {grant.grant_id for grant in grants if grant.remaining_uses is not None}
    return any(verdict.grant_id in counted for verdict in verdicts)


def too_many(rules: Sequence[Rule]) -> str | None:
    """Why so many rules cannot be kept in one layer, or None if they can."""
    if len(rules) > MAX_RULES:
        return f"a layer has {MAX_RULES} rules at most, and these would be {len(rules)}"
    size = _size(rules)
    if size > MAX_RULES_BYTES:
        return f"the rules of a layer take {MAX_RULES_BYTES} bytes at most, and these would take {size}"
    return None


def _size(kept: Sequence[Grant] | Sequence[Rule]) -> int:
    return len(msgspec.json.encode(kept))
