"""The rules and grants in the records of sessions, runs and the daemon. Pure.

An event that a session and its run both see is applied by each on its own: the run keeps its own grants, and
each record counts down its grants when verdicts use them. Because ``evolve`` is total, overflow is handled
here: the oldest grant is forgotten, and the next such call asks a person again.
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


def evolve_run_grants(run: RunRecord, event: JournalEvent) -> RunRecord:
    """Return the run with its rules and grants after one of its own events."""
    if isinstance(event, ApprovalAnswered) and event.remember != "run":
        return run
    return _evolve(run, event)


def evolve_session_grants(session: Session, event: JournalEvent, run_id: str | None) -> Session:
    """Return the session with its rules and grants after an event; the same object if they do not change.

    Args:   ``run_id`` is the event's run: a change for one run does not change the session.
    """
    if isinstance(event, PermissionsChanged) and run_id is not None:
        return session
    if isinstance(event, ApprovalAnswered) and event.remember != "session":
        return session
    return _evolve(session, event)


def _evolve(holder: Holder, event: JournalEvent) -> Holder:
    match event:
        case PermissionsChanged(revoke=revoke):
            grants = [grant for grant in holder.grants if grant.grant_id not in revoke]
            return replace(holder, rules=change_rules(holder.rules, event), grants=grants)
        case ApprovalAnswered(grant=Grant() as grant):
            return replace(holder, grants=add_grant(holder.grants, grant))
        case CallsJudged(verdicts=verdicts):
            counted = {grant.grant_id for grant in holder.grants if grant.remaining_uses is not None}
            if any(verdict.grant_id in counted for verdict in verdicts):
                return replace(holder, grants=count_down(holder.grants, verdicts))
            return holder
        case _:
            return holder


def change_rules(rules: Sequence[Rule], event: PermissionsChanged) -> list[Rule]:
    """Return the rules after a change, oldest first, at most one per key."""
    added = {rule_key(rule): rule for rule in event.add}
    replaced = added.keys() | {rule_key(rule) for rule in event.remove}
    return [*(rule for rule in rules if rule_key(rule) not in replaced), *added.values()]


def rule_key(rule: Rule | RuleRef) -> tuple[str, str | None, str | None]:
    """Return the key of a rule: two rules of one layer with the same key would contradict each other."""
    return rule.tool, rule.subject, rule.origin


def add_grant(grants: Sequence[Grant], grant: Grant) -> list[Grant]:
    """Return the grants with one more, without the oldest if there is no room; a huge grant is dropped."""
    if _size([grant]) > MAX_GRANTS_BYTES:
        return list(grants)
    extended = [*grants, grant][-MAX_RULES:]
    while _size(extended) > MAX_GRANTS_BYTES:
        del extended[0]
    return extended


def count_down(grants: Sequence[Grant], verdicts: Iterable[Verdict]) -> list[Grant]:
    """Return the grants after verdicts that used some of them, without those that are used up."""
    uses = Counter(verdict.grant_id for verdict in verdicts)
    counted = (
        grant
        if grant.remaining_uses is None
        else replace(grant, remaining_uses=grant.remaining_uses - uses[grant.grant_id])
        for grant in grants
    )
    return [grant for grant in counted if grant.remaining_uses is None or grant.remaining_uses > 0]


def find_rules_problem(rules: Sequence[Rule]) -> str | None:
    """Return why rules exceed the limits of a layer; None if they do not."""
    if len(rules) > MAX_RULES:
        return f"the layer would have {len(rules)} rules; the limit is {MAX_RULES}"
    size = _size(rules)
    if size > MAX_RULES_BYTES:
        return f"the rules of the layer would take {size} bytes; the limit is {MAX_RULES_BYTES}"
    return None


def _size(values: Sequence[Grant] | Sequence[Rule]) -> int:
    return len(msgspec.json.encode(values))
