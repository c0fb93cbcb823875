"""The rules and grants in the records of sessions and runs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json
from msgspec.structs import replace

from kheishd.core.permissions.grants import (
    add_grant,
    change_rules,
    count_down,
    evolve_run_grants,
    evolve_session_grants,
    find_rules_problem,
    rule_key,
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


def grant(grant_id: str, uses: int | None = None, subject: str = "ls") -> Grant:
    """Make a remembered approval."""
    return Grant(grant_id=grant_id, tool="bash", granted_by="uid:0", subject=subject, remaining_uses=uses)


def answer(remember: Any, created: Grant | None) -> ApprovalAnswered:
    """Make a person's answer, with the grant that it creates."""
    return ApprovalAnswered(
        approval_id="apr_1", call_id="c", decision="allow", remember=remember, grant=created
    )


def verdicts_with(*grant_ids: str | None) -> CallsJudged:
    """Make verdicts on calls, each by a grant or by none."""
    verdicts = [
        Verdict(call_id="c", tool="bash", decision="allow", base="ask", why="x", grant_id=grant_id)
        for grant_id in grant_ids
    ]
    return CallsJudged(item_id="itm_1", verdicts=verdicts)


def test_change_rules() -> None:
    """An added rule replaces one with the same key; a removed rule is named by its key."""
    deny = replace(LS, decision="deny")
    rules = change_rules([LS, WEB], PermissionsChanged(add=[deny]))
    assert rules == [WEB, deny]
    assert change_rules(rules, PermissionsChanged(remove=[RuleRef(tool="bash", subject="ls")])) == [WEB]
    assert change_rules(rules, PermissionsChanged(remove=[RuleRef(tool="bash")])) == rules
    assert change_rules(
        [], PermissionsChanged(add=[LS, deny], remove=[RuleRef(tool="bash", subject="ls")])
    ) == [deny]


def test_rules_are_the_sessions_or_the_runs() -> None:
    """A change for a run changes the run alone, though its session sees the event."""
    event = PermissionsChanged(add=[LS])
    assert evolve_session_grants(SESSION, event, None).rules == [LS]
    assert evolve_session_grants(SESSION, event, "run_1") is SESSION
    assert evolve_run_grants(RUN, event).rules == [LS]


def test_grants_are_kept_where_they_are_remembered() -> None:
    """A grant belongs to the session or the run that remembers the answer."""
    for remember in ("once", "run", "session"):
        event = answer(remember, grant("g"))
        assert [remembered.grant_id for remembered in evolve_run_grants(RUN, event).grants] == ["g"] * (
            remember == "run"
        )
        session = evolve_session_grants(SESSION, event, "run_1")
        assert [remembered.grant_id for remembered in session.grants] == ["g"] * (remember == "session")
        assert evolve_session_grants(SESSION, answer(remember, None), "run_1") is SESSION


def test_a_grant_is_revoked_by_its_id() -> None:
    """Revoking removes the named grant only."""
    session = replace(SESSION, grants=[grant("a"), grant("b")])
    assert evolve_session_grants(session, PermissionsChanged(revoke=["a"]), None).grants == [grant("b")]


def test_a_counted_grant_is_used_up() -> None:
    """Each verdict counts its grant down, and the last use removes it; an unlimited one stays."""
    session = replace(SESSION, grants=[grant("a", uses=3), grant("b")])
    session = evolve_session_grants(session, verdicts_with("a", None, "a", "b"), "run_1")
    assert session.grants == [grant("a", uses=1), grant("b")]
    assert evolve_session_grants(session, verdicts_with("a"), "run_1").grants == [grant("b")]
    run = replace(RUN, grants=[grant("c", uses=1)])
    assert evolve_run_grants(run, verdicts_with("a", "c")).grants == []


@pytest.mark.parametrize(
    "event", [verdicts_with(None), verdicts_with("b"), verdicts_with("other"), RunReleased()]
)
def test_an_event_without_effect_returns_the_same_record(event: Any) -> None:
    """The same object is returned, so the record is not written again."""
    session = replace(SESSION, grants=[grant("a", uses=3), grant("b")])
    assert evolve_session_grants(session, event, "run_1") is session


def test_the_oldest_grant_makes_room() -> None:
    """The oldest grants are dropped by number and size; one that is too large alone is not added."""
    numerous: list[Grant] = []
    for number in range(MAX_RULES + 2):
        numerous = add_grant(numerous, grant(f"g{number}", subject=""))
    assert numerous[-1].grant_id == f"g{MAX_RULES + 1}"
    long: list[Grant] = []
    for number in range(6):
        long = add_grant(long, grant(f"g{number}", subject="x" * MAX_SUBJECT_BYTES))
    assert [remembered.grant_id for remembered in long] == ["g3", "g4", "g5"]
    assert add_grant(long, grant("huge", subject="x" * MAX_GRANTS_BYTES)) == long


def test_find_rules_problem() -> None:
    """The exceeded limit is named."""
    rules = [Rule(tool=f"t{number}", decision="ask") for number in range(MAX_RULES + 1)]
    assert find_rules_problem(rules[:-1]) is None
    assert str(MAX_RULES) in (find_rules_problem(rules) or "")
    long = [Rule(tool=f"t{number}", decision="ask", note="x" * 1000) for number in range(5)]
    assert str(MAX_RULES_BYTES) in (find_rules_problem(long) or "")


RULE = st.builds(
    Rule,
    tool=st.sampled_from("ab*"),
    decision=st.sampled_from(("allow", "ask", "deny")),
    subject=st.sampled_from((None, "x")),
)
REF = st.builds(RuleRef, tool=st.sampled_from("ab*"), subject=st.sampled_from((None, "x")))
CHANGES = st.builds(PermissionsChanged, add=st.lists(RULE, max_size=4), remove=st.lists(REF, max_size=3))


@given(st.lists(CHANGES, max_size=5))
def test_rules_have_distinct_keys(changes: list[PermissionsChanged]) -> None:
    """After any changes, each key has the rule that was added last."""
    rules: list[Rule] = []
    expected: dict[Any, Rule] = {}
    for change in changes:
        rules = change_rules(rules, change)
        for ref in change.remove:
            expected.pop(rule_key(ref), None)
        for rule in change.add:
            expected[rule_key(rule)] = rule
    assert {rule_key(rule): rule for rule in rules} == expected
    assert len(rules) == len(expected)


@given(
    st.lists(st.builds(grant, st.text("ab", min_size=1, max_size=3), st.none() | st.integers(1, 3))),
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=6),
)
def test_counts_only_decrease(grants: list[Grant], grant_ids: list[str]) -> None:
    """No count increases or stays at zero, and all grants fit into the record."""
    counted = count_down(grants, verdicts_with(*grant_ids).verdicts)
    assert [remembered.grant_id for remembered in counted if remembered.remaining_uses is None] == [
        remembered.grant_id for remembered in grants if remembered.remaining_uses is None
    ]
    assert all(remembered.remaining_uses is None or remembered.remaining_uses > 0 for remembered in counted)
    assert sum(remembered.remaining_uses or 0 for remembered in counted) <= sum(
        remembered.remaining_uses or 0 for remembered in grants
    )
    extended: list[Grant] = []
    for remembered in grants:
        extended = add_grant(extended, remembered)
    assert len(json.encode(extended)) <= MAX_GRANTS_BYTES
