"""The rules of lifecycle hooks: matching, merging and the fold of failures."""

import pytest

from kheishd.core.hook import NO_OBJECTION, HookContext, HookVerdict, add_outcome, matches
from protocol.limits.hook import MAX_HOOK_REASON_BYTES
from protocol.objects.hook import HookOutcome


@pytest.mark.parametrize(
    ("matcher", "subject", "result"),
    [
        (None, "bash", True),
        ("", "bash", True),
        ("*", "", True),
        ("bash", "bash", True),
        ("bash", "Bash", False),
        ("ba", "bash", False),
        ("mcp__*", "mcp__files__read", True),
        ("b?sh", "bash", True),
        ("b?sh", "bsh", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("*b*", "a\nb\nc", True),
        ("**********a", "b" * 10_000, False),
        ("*a" * 100, "a" * 10_000 + "b", False),
    ],
)
def test_matching(matcher: str | None, subject: str, result: bool) -> None:
    """A pattern matches the whole subject, by case; nothing but ``*`` and ``?`` is special."""
    assert matches(matcher, subject) is result


def merge(*outcomes: HookOutcome, is_operators: bool = True) -> HookVerdict:
    """Return the verdict of hooks that are named by their number."""
    verdict = NO_OBJECTION
    for number, outcome in enumerate(outcomes):
        verdict = add_outcome(verdict, f"h{number}", outcome, is_operators=is_operators)
    return verdict


def test_merging() -> None:
    """The first reasons stay, the last input counts, contexts are listed, and blocks dominate."""
    verdict = merge(
        HookOutcome(permission="ask", reason="first", updated_input={"a": 1}, additional_context="one"),
        HookOutcome(permission="ask", reason="second", updated_input={"a": 2}, additional_context="two"),
        HookOutcome(decision="block", reason="no", permission="allow"),
        HookOutcome(permission="deny", reason="later"),
    )
    assert verdict.block == "the hook 'h2' blocked it: no"
    assert verdict.blocked_by == "h2"
    assert verdict.ask == "the hook 'h0' asks for it: first"
    assert (verdict.updated_input, verdict.changed_by) == ({"a": 2}, "h1")
    assert verdict.contexts == (HookContext("h0", "one", "program"), HookContext("h1", "two", "program"))


def test_a_workspace_only_restricts() -> None:
    """Its texts are data, and it changes no input; a block counts, and allow is nothing."""
    allow = HookOutcome(permission="allow", updated_input={"a": 1}, additional_context="obey")
    verdict = merge(allow, HookOutcome(decision="block"), is_operators=False)
    assert verdict.updated_input is None
    assert verdict.contexts == (HookContext("h0", "obey", "tool_output"),)
    assert (verdict.block, verdict.block_origin) == ("the hook 'h1' blocked it", "tool_output")


def test_long_reasons_are_cut() -> None:
    """A reason is part of a result, whose size is limited."""
    verdict = merge(HookOutcome(decision="block", reason="x" * 100_000))
    assert len(verdict.block or "") < MAX_HOOK_REASON_BYTES + 100
