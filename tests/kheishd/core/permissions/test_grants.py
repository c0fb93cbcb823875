"""The rules and grants of a session and a run, as the fold of events."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json
from msgspec.structs import replace

from kheishd.core.permissions.grants import (
    about,
    changed,
    granted,
    kept_by_run,
    kept_by_session,
    spent,
    too_many,
)
from kheishd.core.run.record import RunRecord
from protocol.events.approval import ApprovalAnswered
from protocol.events.call import CallsJudged
from protocol.events.permission import PermissionsChanged
from protocol.events.run import RunReleased
from protocol.limits.call import MAX_SUBJECT_BYTES
from protocol.limits.permission import MAX_GRANTS_BYTES, MAX_RULES, MAX_RULES_BYTES
from protocol.objects.permission import Grant, Rule, RuleRef, Verdict
from protocol.objects.session import Session

SESSION = Session(session_id="ses_1", agent="default", status="open", created_at_ms=0, updated_at_ms=0)
RUN = RunRecord(
    run_id="run_1",
    session_id="ses_1",
    agent="default",
    input_id="inp_1",
    status="running",
    accepted_at_ms=0,
    updated_at_ms=0,
    accepted_cursor=1,
    updated_cursor=1,
)
LS = Rule(tool="bash", subject="ls", decision="allow")
WEB = Rule(tool="web*", decision="deny")


def grant(grant_id: str, left: int | None = None, subject: str = "ls") -> Grant:
    """A remembered approval."""
    return Grant(grant_id=grant_id, tool="bash", granted_by="uid:0", subject=subject, remaining_uses=left)


def answered(remember: Any, grant_: Grant | None) -> ApprovalAnswered:
    """A person's answer, and what is remembered of it."""
    return ApprovalAnswered(
        approval_id="apr_1", call_id="c", decision="allow", remember=remember, grant=grant_
    )


def judged(*grant_ids: str | None) -> CallsJudged:
    """Verdicts on calls, each by a grant or by none."""
    verdicts = [
        Verdict(call_id="c", tool="bash", decision="allow", base="ask", why="x", grant_id=grant_id)
        for grant_id in grant_ids
    ]
    return CallsJudged(item_id="itm_1", verdicts=verdicts)


def test_a_rule_replaces_the_one_about_the_same() -> None:
    """So a layer never contradicts itself; what is removed is named by what it is about."""
    deny = replace(LS, decision="deny")
    rules = changed([LS, WEB], PermissionsChanged(add=[deny]))
    assert rules == [WEB, deny]
    assert changed(rules, PermissionsChanged(remove=[RuleRef(tool="bash", subject="ls")])) == [WEB]
    assert changed(rules, PermissionsChanged(remove=[RuleRef(tool="bash")])) == rules
    assert changed([], PermissionsChanged(add=[LS, deny], remove=[RuleRef(tool="bash", subject="ls")])) == [
        deny
    ]


def test_rules_are_the_sessions_or_the_runs() -> None:
    """An event of a run is the run's alone, though its session sees it, too."""
    event = PermissionsChanged(add=[LS])
    assert kept_by_session(SESSION, event, None).rules == [LS]
    assert kept_by_session(SESSION, event, "run_1") is SESSION
    assert kept_by_run(RUN, event).rules == [LS]


def test_grants_are_kept_where_they_are_remembered() -> None:
    """Both see each answer."""
    for remember in ("once", "run", "session"):
        event = answered(remember, grant("g"))
        assert [each.grant_id for each in kept_by_run(RUN, event).grants] == ["g"] * (remember == "run")
        session = kept_by_session(SESSION, event, "run_1")
        assert [each.grant_id for each in session.grants] == ["g"] * (remember == "session")
        assert kept_by_session(SESSION, answered(remember, None), "run_1") is SESSION


def test_a_grant_is_revoked_by_its_id() -> None:
    """The others stay."""
    session = replace(SESSION, grants=[grant("a"), grant("b")])
    assert kept_by_session(session, PermissionsChanged(revoke=["a"]), None).grants == [grant("b")]


def test_a_counted_grant_is_used_up() -> None:
    """Each verdict that names it takes one, and at the last it is gone; one without a count stays."""
    session = replace(SESSION, grants=[grant("a", left=3), grant("b")])
    session = kept_by_session(session, judged("a", None, "a", "b"), "run_1")
    assert session.grants == [grant("a", left=1), grant("b")]
    assert kept_by_session(session, judged("a"), "run_1").grants == [grant("b")]
    run = replace(RUN, grants=[grant("c", left=1)])
    assert kept_by_run(run, judged("a", "c")).grants == []


@pytest.mark.parametrize("event", [judged(None), judged("b"), judged("other"), RunReleased()])
def test_what_changes_nothing_leaves_the_record_as_it_is(event: Any) -> None:
    """The very same one, so that it is not written again."""
    session = replace(SESSION, grants=[grant("a", left=3), grant("b")])
    assert kept_by_session(session, event, "run_1") is session


def test_the_oldest_grant_makes_room() -> None:
    """By number and by size; what would not fit alone is not kept, and pushes nothing out."""
    many: list[Grant] = []
    for number in range(MAX_RULES + 2):
        many = granted(many, grant(f"g{number}", subject=""))
    assert many[-1].grant_id == f"g{MAX_RULES + 1}"
    long: list[Grant] = []
    for number in range(6):
        long = granted(long, grant(f"g{number}", subject="x" * MAX_SUBJECT_BYTES))
    assert [each.grant_id for each in long] == ["g3", "g4", "g5"]
    assert granted(long, grant("huge", subject="x" * MAX_GRANTS_BYTES)) == long


def test_a_layer_has_only_so_many_rules() -> None:
    """Its limit is named."""
    many = [Rule(tool=f"t{number}", decision="ask") for number in range(MAX_RULES + 1)]
    assert too_many(many[:-1]) is None
    assert str(MAX_RULES) in (too_many(many) or "")
    long = [Rule(tool=f"t{number}", decision="ask", note="x" * 1000) for number in range(5)]
    assert str(MAX_RULES_BYTES) in (too_many(long) or "")


RULE = st.builds(
    Rule,
    tool=st.sampled_from("ab*"),
    decision=st.sampled_from(("allow", "ask", "deny")),
    subject=st.sampled_from((None, "x")),
)
REF = st.builds(RuleRef, tool=st.sampled_from("ab*"), subject=st.sampled_from((None, "x")))
CHANGES = st.builds(PermissionsChanged, add=st.lists(RULE, max_size=4), remove=st.lists(REF, max_size=3))


@given(st.lists(CHANGES, max_size=5))
def test_whatever_is_changed_there_is_one_rule_about_each(changes: list[PermissionsChanged]) -> None:
    """The last one that was added, if nobody removed it since."""
    rules: list[Rule] = []
    expected: dict[Any, Rule] = {}
    for change in changes:
        rules = changed(rules, change)
        for ref in change.remove:
            expected.pop(about(ref), None)
        for rule in change.add:
            expected[about(rule)] = rule
    assert {about(rule): rule for rule in rules} == expected
    assert len(rules) == len(expected)


@given(
    st.lists(st.builds(grant, st.text("ab", min_size=1, max_size=3), st.none() | st.integers(1, 3))),
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=6),
)
def test_what_is_spent_only_ever_becomes_less(grants: list[Grant], used: list[str]) -> None:
    """No count rises or falls to nothing and stays; and all of it fits into its record."""
    left = spent(grants, judged(*used).verdicts)
    assert [each.grant_id for each in left if each.remaining_uses is None] == [
        each.grant_id for each in grants if each.remaining_uses is None
    ]
    assert all(each.remaining_uses is None or each.remaining_uses > 0 for each in left)
    assert sum(each.remaining_uses or 0 for each in left) <= sum(each.remaining_uses or 0 for each in grants)
    kept: list[Grant] = []
    for each in grants:
        kept = granted(kept, each)
    assert len(json.encode(kept)) <= MAX_GRANTS_BYTES
