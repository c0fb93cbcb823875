"""Permissions: the shapes of rules, verdicts and explanations."""

import re
from typing import get_args

import msgspec
import pytest

from protocol.limits.call import MAX_SUBJECT_BYTES, MAX_TOOL_BYTES
from protocol.limits.permission import MAX_RULES
from protocol.objects.permission import (
    PATTERN,
    ExplanationLine,
    Layer,
    LayerRules,
    PermissionAudit,
    PermissionUpdate,
    PermissionWhy,
    Rule,
    RuleRef,
    Verdict,
)
from tests.support.samples import refuse, take


@pytest.mark.parametrize("pattern", ["bash", "mcp__*", "*", "a", "Tool.name-2:x"])
def test_a_pattern_is_a_name_or_its_beginning(pattern: str) -> None:
    """An asterisk stands at the end of a pattern or alone."""
    assert take(PermissionUpdate, {"add": [{"tool": pattern, "decision": "ask"}]}).add[0].tool == pattern


@pytest.mark.parametrize(
    "pattern", ["", "**", "a*b", "*a", "two words", "a\n", "\n", "x" * (MAX_TOOL_BYTES + 1)]
)
def test_what_is_no_pattern(pattern: str) -> None:
    """Any other pattern is refused, and the refusal names its path."""
    rule = {"tool": pattern, "decision": "ask"}
    assert refuse(PermissionUpdate, {"add": [rule]}) == "$.params.add[0].tool"


def test_the_pattern_is_one_for_every_language() -> None:
    """The pattern in the contract uses no syntax that only Python has."""
    assert re.search(PATTERN, "bash") is not None
    assert "(?P" not in PATTERN
    assert r"\Z" not in PATTERN


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (PermissionUpdate, {"add": [{"tool": "a", "decision": "maybe"}]}, "$.params.add[0].decision"),
        (PermissionUpdate, {"add": [{"tool": "a"}]}, "$.params.add[0].decision"),
        (PermissionUpdate, {"add": [{"tool": "a", "decision": "ask", "x": 1}]}, "$.params.add[0].x"),
        (PermissionUpdate, {"remove": [{"tool": "a", "decision": "ask"}]}, "$.params.remove[0].decision"),
        (PermissionUpdate, {"revoke": ["two words"]}, "$.params.revoke[0]"),
        (PermissionUpdate, {"remove": [{"tool": "a"}] * (MAX_RULES + 1)}, "$.params.remove"),
        (PermissionWhy, {"tool": ""}, "$.params.tool"),
        (PermissionWhy, {"tool": "a", "subject": "x" * (MAX_SUBJECT_BYTES + 1)}, "$.params.subject"),
        (PermissionWhy, {"tool": "a", "mode": "yolo"}, "$.params.mode"),
        (PermissionAudit, {"order": "random"}, "$.params.order"),
    ],
)
def test_refused(kind: type, params: dict[str, object], field: str) -> None:
    """A value of the wrong shape is refused, and the refusal names its path."""
    assert refuse(kind, params) == field


def test_any_subject_is_not_an_empty_one() -> None:
    """A null subject, which matches any, and an empty one stay different."""
    for subject in (None, "", "*"):
        rule = Rule(tool="a", decision="ask", subject=subject)
        for codec in (msgspec.json, msgspec.msgpack):
            assert codec.decode(codec.encode(rule), type=Rule) == rule
        assert (
            msgspec.convert(msgspec.to_builtins(RuleRef(tool="a", subject=subject)), RuleRef).subject
            == subject
        )


def test_layers_are_in_order() -> None:
    """Layers are ordered from the broadest to the narrowest."""
    assert get_args(Layer) == ("managed", "daemon", "definition", "parent", "session", "skill", "run")
    assert msgspec.to_builtins(LayerRules(layer="run", rules=[])) == {"layer": "run", "rules": []}


def test_a_step_says_that_it_says_nothing() -> None:
    """A line without a decision has a null, so all lines have the same fields."""
    step = ExplanationLine(source="mode", says=None, text="default is in force")
    assert msgspec.to_builtins(step) == {"source": "mode", "says": None, "text": "default is in force"}


def test_verdicts_written_before_a_field_are_read() -> None:
    """A verdict with only its required fields is read."""
    line = b'{"call_id":"c","tool":"bash","decision":"ask","base":"ask","why":"default of bash"}'
    verdict = msgspec.json.decode(line, type=Verdict)
    assert (verdict.subject, verdict.mode, verdict.grant_id) == ("", "default", None)
    assert msgspec.json.encode(verdict) == line
