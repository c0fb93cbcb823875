"""How a call is judged: the table of cases, and the laws that no layer, mode or grant breaks."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from kheishd.core.permissions import (
    DENIED,
    NOBODY_ASKED,
    STRICTNESS,
    Judged,
    Layers,
    Opinion,
    ToolFacts,
    covers,
    explain,
    fits,
    in_force,
    judge,
    used,
)
from kheishd.kernel.hook import ToolKind
from protocol.objects.permission import (
    MODES,
    Decision,
    Explanation,
    Grant,
    Layer,
    Layered,
    PermissionMode,
    Rule,
)

BASH = ToolFacts("bash", "execute", "ask")
EDIT = ToolFacts("edit_file", "edit", "ask")
READ = ToolFacts("read_file", "read", "allow", in_plan=True)
SPAWN = ToolFacts("spawn_agent", "coordinate", "ask", in_plan=True)


def rule(decision: Decision, tool: str = "*", subject: str | None = None, reason: str = "") -> Rule:
    """A rule."""
    return Rule(tool=tool, decision=decision, subject=subject, note=reason)


def layer(of: Layer, *rules: Rule, **fields: Any) -> Layered:
    """A layer."""
    return Layered(layer=of, rules=list(rules), **fields)


def place(*layers: Layered, mode: PermissionMode = "default") -> Layers:
    """Layers with a mode in force."""
    return Layers(layers, mode)


def grant(grant_id: str = "grt_1", left: int | None = None, subject: str | None = "ls") -> Grant:
    """A remembered approval of bash."""
    return Grant(grant_id=grant_id, tool="bash", granted_by="uid:0", subject=subject, remaining_uses=left)


def decided(tool: ToolFacts, layers: Layers, subject: str = "ls", opinion: Opinion | None = None) -> Decision:
    """What becomes of a call."""
    return judge(tool, subject, layers, opinion).decision


# Rules.


def test_without_any_rule_the_tools_default_stands() -> None:
    """Whatever it is; the reason of a denial is for the model, so there is always one."""
    for default in STRICTNESS:
        judged = judge(replace(BASH, default=default), "ls", place(layer("managed"), layer("session")))
        assert judged == Judged(default, default, "default of bash", DENIED if default == "deny" else "")


def test_within_one_layer_deny_beats_ask_beats_allow() -> None:
    """In whatever order they stand, and however exactly each names the tool."""
    rules = [rule("allow", "bash", "ls"), rule("ask", "ba*"), rule("deny")]
    for order in (rules, rules[::-1]):
        assert decided(BASH, place(layer("session", *order))) == "deny"
        assert decided(BASH, place(layer("session", *(each for each in order if each != rules[2])))) == "ask"


def test_across_layers_the_strictest_counts() -> None:
    """A session's ask does not override a definition's deny, nor its allow the daemon's ask."""
    denied = place(
        layer("definition", rule("deny", reason="not here"), name="a"), layer("session", rule("ask"))
    )
    assert judge(BASH, "ls", denied) == Judged("deny", "deny", "definition a rule * deny", "not here")
    asked = place(layer("daemon", rule("ask", "bash", "l*")), layer("run", rule("allow", "bash"), name="r"))
    assert judge(BASH, "ls", asked) == Judged("ask", "ask", "daemon rule bash 'l*' ask")


def test_an_allow_stands_in_for_the_default() -> None:
    """Of the daemon, the root's definition, any session and the run; not of an agent further down."""
    for of in ("managed", "daemon", "definition", "parent", "session", "run"):
        assert decided(BASH, place(layer(of, rule("allow")))) == "allow"
    root, child = layer("definition", name="root"), layer("definition", rule("allow"), name="child")
    below = place(layer("managed"), root, layer("parent"), child, layer("session"))
    assert judge(BASH, "ls", below) == Judged("ask", "ask", "default of bash")
    assert decided(READ, below) == "allow"
    allowed = place(layer("managed", rule("allow")), root, child)
    assert decided(BASH, allowed) == "allow"
    stricter = place(root, layer("definition", rule("deny"), name="child"))
    assert decided(READ, stricter) == "deny"


@pytest.mark.parametrize(
    ("pattern", "tool", "matches"),
    [
        ("bash", "bash", True),
        ("bash", "bash2", False),
        ("bash*", "bash", True),
        ("mcp__*", "mcp__git__push", True),
        ("mcp__*", "mcp_", False),
        ("*", "anything", True),
    ],
)
def test_a_rule_is_about_tools(pattern: str, tool: str, matches: bool) -> None:
    """By name, by the beginning of a name, or about all."""
    assert covers(pattern, tool) is matches


@pytest.mark.parametrize(
    ("pattern", "subject", "matches"),
    [
        (None, "", True),
        ("", "", True),
        ("", "x", False),
        ("*", "", True),
        ("src/*", "src/a/b.py", True),
        ("src/*", "src", False),
        ("*.example.org", "example.org", False),
        ("a*b*c", "a1b2b3c", True),
        ("a*bb*b", "abb", False),
        ("ab*ba", "aba", False),
        ("git [a]?", "git a", False),
    ],
)
def test_a_rule_is_about_subjects(pattern: str | None, subject: str, matches: bool) -> None:
    """Only the asterisk means anything but itself."""
    assert fits(pattern, subject) is matches


@given(st.text("ab*", max_size=6), st.text("ab*\n", max_size=8))
def test_an_asterisk_is_any_text(pattern: str, subject: str) -> None:
    """The same as a regular expression that says so."""
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), subject, re.DOTALL)
    assert fits(pattern, subject) is (expected is not None)


def test_a_pattern_takes_no_longer_than_its_length() -> None:
    """What makes a backtracking matcher hang is nothing here."""
    assert not fits("a*" * 500 + "b", "a" * 1000)


# What a pattern cannot promise.


@pytest.mark.parametrize(
    "command",
    [
        "git status; rm -rf /",
        "git status && rm -rf /",
        "git status | sh",
        "git status\nrm -rf /",
        "git status\rrm -rf /",
        "git `rm -rf /`",
        "git $(rm -rf /)",
        "git ${x@P}",
        "git log > /etc/passwd",
        "git apply < x",
    ],
)
def test_an_allow_is_never_widened(command: str) -> None:
    """A command that is more than it begins with is not what was allowed; a deny and an ask hold."""
    allowed = place(layer("session", rule("allow", "bash", "git *")))
    assert decided(BASH, allowed, "git status") == "allow"
    assert decided(BASH, allowed, command) == "ask"
    assert decided(BASH, place(layer("session", rule("deny", "bash", "git *"))), command) == "deny"
    assert (
        decided(replace(BASH, default="allow"), place(layer("run", rule("ask", "*", "*"))), command) == "ask"
    )
    steps = explain(BASH, command, allowed).lines
    assert any(step.says is None and "does not hold" in step.text for step in steps)


def test_an_allow_to_the_letter_is_taken_at_its_word() -> None:
    """Who wrote the whole command, or meant any, meant that."""
    command = "make && make install"
    for subject in (command, None):
        assert decided(BASH, place(layer("session", rule("allow", "bash", subject))), command) == "allow"


def test_an_allowed_directory_is_not_left() -> None:
    """A path that goes up is not within what was allowed, a name with dots in it is."""
    allowed = place(layer("session", rule("allow", "edit_file", "src/*")))
    assert decided(EDIT, allowed, "src/a..b") == "allow"
    for path in ("src/../etc/passwd", "src/.."):
        assert decided(EDIT, allowed, path) == "ask"


def test_a_patch_is_about_each_of_its_files() -> None:
    """Allowed if all of them are, denied if one of them is; a command of several lines is one command."""
    rules = place(layer("session", rule("allow", "edit_file", "src/*"), rule("deny", "*", "keys/*")))
    assert decided(EDIT, rules, "src/a\nsrc/b") == "allow"
    assert decided(EDIT, rules, "src/a\nzoo") == "ask"
    assert decided(EDIT, rules, "a\nkeys/b\nsrc/c") == "deny"
    assert decided(BASH, rules, "true\nkeys/b") == "ask"
    exact = place(layer("session", rule("allow", "edit_file", "a")))
    assert decided(EDIT, exact, "a\nb") == "ask"


# Modes.

MODE_TABLE = {
    # tool, what the rules say -> default, acceptEdits, bypassPermissions, dontAsk, plan
    ("edit", "ask"): ("ask", "allow", "allow", "deny", "deny"),
    ("execute", "ask"): ("ask", "ask", "allow", "deny", "deny"),
    ("execute", "allow"): ("allow", "allow", "allow", "allow", "deny"),
    ("execute", "deny"): ("deny", "deny", "deny", "deny", "deny"),
    ("planned", "ask"): ("ask", "ask", "allow", "deny", "ask"),
    ("planned", "allow"): ("allow", "allow", "allow", "allow", "allow"),
    ("planned", "deny"): ("deny", "deny", "deny", "deny", "deny"),
}
MODES_OF_TABLE: tuple[PermissionMode, ...] = (
    "default",
    "acceptEdits",
    "bypassPermissions",
    "dontAsk",
    "plan",
)
TOOLS = {"edit": EDIT, "execute": BASH, "planned": SPAWN}


@pytest.mark.parametrize("row", MODE_TABLE, ids=" ".join)
def test_what_a_mode_makes_of_it(row: tuple[str, Decision]) -> None:
    """The whole table; what it changed, it says."""
    tool, base = TOOLS[row[0]], row[1]
    for mode, expected in zip(MODES_OF_TABLE, MODE_TABLE[row], strict=True):
        judged = judge(tool, "x", place(layer("session", rule(base)), mode=mode))
        assert (judged.base, judged.decision) == (base, expected), mode
        assert (judged.mode_effect is not None) is (base != expected)
        assert judged.reason or expected != "deny"


def test_each_mode_has_its_effect() -> None:
    """By name, for the audit."""
    effects = [judge(EDIT, "x", place(mode=mode)).mode_effect for mode in MODES_OF_TABLE]
    assert effects == [None, "edit_allowed", "ask_allowed", "ask_denied", "denied_in_plan"]


def test_a_managed_ask_survives_every_mode_that_allows() -> None:
    """Also where another layer asks as well; where nobody is asked, it is a deny."""
    for layers in (
        [layer("managed", rule("ask"))],
        [layer("managed", rule("ask")), layer("run", rule("ask"))],
    ):
        for mode in ("acceptEdits", "bypassPermissions"):
            judged = judge(EDIT, "x", place(*layers, mode=mode))
            assert (judged.decision, judged.mode_effect) == ("ask", None)
        assert decided(EDIT, place(*layers, mode="dontAsk")) == "deny"


def test_where_nobody_is_asked_the_model_is_told() -> None:
    """And why a person would have been."""
    assert judge(BASH, "x", place(mode="dontAsk")).reason == NOBODY_ASKED
    asked = place(layer("daemon", rule("ask", reason="it deploys")), mode="dontAsk")
    assert judge(BASH, "x", asked).reason == f"{NOBODY_ASKED}: it deploys"


# Opinions of hooks.


def test_a_hook_denies_whatever_is_allowed() -> None:
    """The rules' own verdict stays readable."""
    judged = judge(READ, "x", place(mode="bypassPermissions"), Opinion("deny", "no secrets"))
    assert (judged.decision, judged.base, judged.why, judged.reason) == (
        "deny",
        "allow",
        "hook",
        "no secrets",
    )


def test_a_hook_has_a_person_asked_in_whatever_mode() -> None:
    """But where nobody is asked, or only plans are made: there it is a deny. It never undoes one."""
    opinion = Opinion("ask", "look at it")
    for mode, expected in zip(MODES_OF_TABLE, ("ask", "ask", "ask", "deny", "deny"), strict=True):
        assert decided(READ, place(mode=mode), "x", opinion) == expected
        assert decided(EDIT, place(mode=mode), "x", opinion) == expected
        assert decided(READ, place(layer("run", rule("deny")), mode=mode), "x", opinion) == "deny"


# Grants.


def test_a_grant_answers_an_ask_to_the_letter() -> None:
    """Its tool and its subject, where an asterisk is one; none is the grant of a call without a subject."""
    granted = place(layer("session", grants=[grant()]))
    assert judge(BASH, "ls", granted) == Judged("allow", "ask", "grant grt_1", grant_id="grt_1")
    assert decided(BASH, granted, "ls -l") == "ask"
    assert decided(replace(BASH, name="bash2"), granted) == "ask"
    assert decided(BASH, place(layer("session", grants=[grant(subject="*")]))) == "ask"
    for subject, expected in (("", "allow"), ("ls", "ask")):
        assert decided(BASH, place(layer("session", grants=[grant(subject=None)])), subject) == expected


def test_the_runs_grants_are_used_before_the_sessions() -> None:
    """One that has no use left answers nothing; what was granted further up, too."""
    own, its = layer("session", grants=[grant("own")]), layer("run", grants=[grant("its", left=1)])
    first = place(own, its)
    judged = judge(BASH, "ls", first)
    assert judged.grant_id == "its"
    second = used(first, ["its"])
    assert judge(BASH, "ls", second).grant_id == "own"
    assert used(second, ["own"]) == second
    assert used(second, []) is second
    assert decided(BASH, place(layer("parent", grants=[grant()]), layer("session"))) == "ask"


def test_a_grant_answers_no_deny_and_in_no_mode_that_denies() -> None:
    """Nor is it used where the mode allows anyhow."""
    granted = layer("run", grants=[grant()])
    assert decided(BASH, place(layer("session", rule("deny")), granted)) == "deny"
    assert decided(BASH, place(granted, mode="dontAsk")) == "deny"
    planned = replace(BASH, in_plan=True)
    assert decided(planned, place(granted, mode="plan")) == "ask"
    assert judge(BASH, "ls", place(granted, mode="bypassPermissions")).grant_id is None


def test_a_grant_answers_a_hook_and_a_managed_ask() -> None:
    """A person was asked, and this is what was answered."""
    granted = layer("run", grants=[grant()])
    assert decided(BASH, place(layer("managed", rule("ask")), granted, mode="bypassPermissions")) == "allow"
    assert decided(BASH, place(granted), "ls", Opinion("ask", "look")) == "allow"


# Explaining.


def test_an_explanation_has_a_line_for_whatever_has_a_say() -> None:
    """In the order in which it is looked at."""
    layers = place(
        layer("managed", rule("deny", "web*"), mode="bypassPermissions"),
        layer("daemon", rule("allow", "bash", "l*", reason="harmless")),
        layer("session", grants=[grant(left=2)], name="s", mode="acceptEdits"),
        layer("run", rule("ask", "bash"), name="r"),
        mode="acceptEdits",
    )
    explained = explain(BASH, "ls", layers, Opinion("ask", "look"))
    assert [(step.source, step.says, step.text) for step in explained.lines] == [
        ("tool", "ask", "its default, where no rule says anything: ask"),
        ("managed", None, "none of its rules holds"),
        ("daemon", "allow", "rule bash 'l*' allow: harmless"),
        ("session s", None, "no rules"),
        ("run r", "ask", "rule bash ask"),
        ("hook", "ask", "look"),
        ("mode", None, "acceptEdits is in force, of managed bypassPermissions, session s acceptEdits"),
        ("mode", None, "it does not change this ask: somebody insists on it"),
        ("grant", "allow", "grt_1 answers it, given by uid:0, 2 left"),
    ]
    assert (explained.decision, explained.why, explained.mode) == ("allow", "grant grt_1", "acceptEdits")


def test_a_verdict_names_a_long_rule_by_its_beginning() -> None:
    """It is written for each call; who asks why sees all of it."""
    layers = place(layer("session", rule("deny", "bash", "x" * 500 + "*")))
    subject = "x" * 500
    assert len(judge(BASH, subject, layers).why) < 100
    assert any("x" * 500 in step.text for step in explain(BASH, subject, layers).lines)


def test_the_narrowest_mode_is_in_force() -> None:
    """Of those that layers let be; without any, the default one."""
    assert in_force([layer("managed", mode="bypassPermissions"), layer("daemon")]) == "bypassPermissions"
    assert in_force([layer("parent", mode="plan"), layer("session", mode="acceptEdits")]) == "plan"
    assert in_force([layer("daemon")]) == "default"


def test_the_kinds_are_those_of_hooks() -> None:
    """A kind that is added there is to be thought of here."""
    assert get_args(ToolFacts.__annotations__["kind"]) == get_args(ToolKind)


# Laws.

NAMES, WORDS = ("bash", "edit_file", "read_file"), ("", "src/a", "git status", "git a; b")
DECISIONS = st.sampled_from(STRICTNESS)
RULES = st.builds(
    rule,
    DECISIONS,
    st.sampled_from((*NAMES, "*", "b*", "e*")),
    st.sampled_from((None, "*", "src/*", "git *", "git status")),
)
GRANTS = st.builds(
    Grant,
    grant_id=st.sampled_from(("g1", "g2")),
    tool=st.sampled_from(NAMES),
    by=st.just("uid:0"),
    subject=st.sampled_from((None, *WORDS)),
    left=st.sampled_from((None, 0, 1)),
)
ORDER: tuple[Layer, ...] = get_args(Layer)
LAYERED = st.builds(
    Layered,
    layer=st.sampled_from(ORDER),
    rules=st.lists(RULES, max_size=3),
    grants=st.lists(GRANTS, max_size=2),
    mode=st.none() | st.sampled_from(MODES),
)
CHAINS = st.lists(LAYERED, max_size=6).map(
    lambda found: sorted(found, key=lambda each: ORDER.index(each.layer))
)
TOOL = st.builds(
    ToolFacts,
    st.sampled_from(NAMES),
    st.sampled_from(get_args(ToolKind)),
    DECISIONS,
    st.booleans(),
)
SUBJECT = st.sampled_from(WORDS)
OPINION = st.none() | st.builds(Opinion, st.sampled_from(("ask", "deny")), st.just("because"))


def at_least(one: Decision, other: Decision) -> bool:
    """Whether a decision is as strict as another."""
    return STRICTNESS.index(one) >= STRICTNESS.index(other)


def without_grants(chain: Sequence[Layered]) -> list[Layered]:
    """Layers in which no approval is remembered."""
    return [changed(each, grants=[]) for each in chain]


@given(TOOL, SUBJECT, CHAINS, OPINION)
def test_what_is_explained_is_what_is_judged(
    tool: ToolFacts, subject: str, chain: list[Layered], opinion: Opinion | None
) -> None:
    """Field by field, and the last line that says anything says what is decided."""
    layers = Layers(tuple(chain), in_force(chain))
    judged, explained = judge(tool, subject, layers, opinion), explain(tool, subject, layers, opinion)
    assert isinstance(explained, Explanation)
    assert [getattr(explained, name) for name in Judged.__slots__] == [
        getattr(judged, name) for name in Judged.__slots__
    ]
    assert judged.mode == layers.mode
    assert judged.decision in [step.says for step in explained.lines]
    assert (judged.mode_effect is None) or judged.why.startswith("mode ")


def by_default(tool: ToolFacts, subject: str, chain: Sequence[Layered]) -> bool:
    """Whether no layer says anything that could stand in for the default."""
    first = next((each for each in chain if each.layer == "definition"), None)
    able = [each for each in chain if each.layer != "definition" or each is first]
    steps = explain(tool, subject, Layers(tuple(able), "default")).lines
    return all(step.says is None or step.source in ("tool", "grant") for step in steps)


@given(TOOL, SUBJECT, CHAINS, RULES, st.integers(0, 5), OPINION)
def test_once_anything_is_said_a_rule_more_never_loosens(
    tool: ToolFacts, subject: str, chain: list[Layered], new: Rule, where: int, opinion: Opinion | None
) -> None:
    """Whatever it says, wherever it is put. Where nothing was said yet, it may be looser than the default."""
    chain, mode = without_grants(chain), in_force(chain)
    before = judge(tool, subject, Layers(tuple(chain), mode), opinion)
    more = list(chain)
    if chain:
        into = where % len(chain)
        more[into] = changed(chain[into], rules=[*chain[into].rules, new])
    else:
        more = [layer(ORDER[where], new)]
    after = judge(tool, subject, Layers(tuple(more), mode), opinion)
    if at_least(new.decision, tool.default) or not by_default(tool, subject, chain):
        assert at_least(after.base, before.base)
        assert at_least(after.decision, before.decision)


@given(TOOL, SUBJECT, CHAINS)
def test_nothing_narrower_loosens_anything_broader(
    tool: ToolFacts, subject: str, chain: list[Layered]
) -> None:
    """What broader layers say by themselves is what any call is judged by at least."""
    whole = judge(tool, subject, Layers(tuple(without_grants(chain)), in_force(chain)))
    for length in range(len(chain)):
        broader = chain[:length]
        if by_default(tool, subject, broader):
            continue
        alone = judge(tool, subject, Layers(tuple(without_grants(broader)), in_force(chain)))
        assert at_least(whole.base, alone.base)
        assert at_least(whole.decision, alone.decision)


@given(TOOL, SUBJECT, CHAINS, OPINION)
def test_a_wider_mode_is_never_stricter(
    tool: ToolFacts, subject: str, chain: list[Layered], opinion: Opinion | None
) -> None:
    """From default on, each allows what the one before allows; plan and dontAsk are stricter than default."""
    found = {mode: judge(tool, subject, Layers(tuple(chain), mode), opinion).decision for mode in MODES}
    assert at_least(found["default"], found["acceptEdits"])
    assert at_least(found["acceptEdits"], found["bypassPermissions"])
    assert at_least(found["plan"], found["default"])
    assert at_least(found["dontAsk"], found["default"])


@given(TOOL, SUBJECT, CHAINS, st.sampled_from(MODES), OPINION)
def test_a_deny_survives_everything(
    tool: ToolFacts, subject: str, chain: list[Layered], mode: PermissionMode, opinion: Opinion | None
) -> None:
    """No mode, no grant, no opinion undoes what a rule denies."""
    denied = [*chain, layer("managed", rule("deny"))]
    assert decided(tool, Layers(tuple(denied), mode), subject, opinion) == "deny"


@given(TOOL, SUBJECT, CHAINS, st.lists(RULES, max_size=3))
def test_an_agent_that_another_calls_upon_gives_it_no_right(
    tool: ToolFacts, subject: str, chain: list[Layered], rules: list[Rule]
) -> None:
    """Whatever its definition says: a session below has no call allowed that is not allowed above."""
    mine = [layer("managed"), layer("definition", name="root"), *without_grants(chain)]
    ordered = sorted(mine, key=lambda each: ORDER.index(each.layer))
    above = judge(tool, subject, Layers(tuple(ordered), "default"))
    below = judge(tool, subject, Layers((*ordered, layer("definition", *rules, name="child")), "default"))
    assert at_least(below.decision, above.decision)
