"""Permission judging: a table of cases, and the laws that no layer, mode or grant breaks."""

import re
from collections.abc import Sequence
from itertools import product
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from msgspec.structs import replace as changed

from kheishd.core.permissions.claims import destination, matches_subject
from kheishd.core.permissions.judge import (
    DENIED,
    DENIED_UNASKED,
    STRICTNESS,
    HookOpinion,
    Layers,
    Ruling,
    ToolFacts,
    closed_patterns,
    effective_mode,
    explain,
    is_path_closed,
    judge,
    judge_claim,
    matches_tool,
    use_grants,
)
from kheishd.kernel.hook import ToolKind
from protocol.objects.permission import (
    MODES,
    CallFacts,
    Decision,
    Explanation,
    Grant,
    Layer,
    LayerRules,
    PermissionMode,
    Rule,
)

BASH = ToolFacts("bash", "execute", "ask")
EDIT = ToolFacts("edit_file", "edit", "ask")
READ = ToolFacts("read_file", "read", "allow", in_plan=True)
SPAWN = ToolFacts("spawn_agent", "coordinate", "ask", in_plan=True)


def rule(decision: Decision, tool: str = "*", subject: str | None = None, note: str = "") -> Rule:
    """Make a rule."""
    return Rule(tool=tool, decision=decision, subject=subject, note=note)


def layer(source: Layer, *rules: Rule, **fields: Any) -> LayerRules:
    """Make a layer."""
    return LayerRules(layer=source, rules=list(rules), **fields)


def layers_of(*layers: LayerRules, mode: PermissionMode = "default") -> Layers:
    """Make layers with an effective mode."""
    return Layers(layers, mode)


def grant(grant_id: str = "grt_1", uses: int | None = None, subject: str | None = "ls") -> Grant:
    """Make a remembered approval of bash."""
    return Grant(grant_id=grant_id, tool="bash", granted_by="uid:0", subject=subject, remaining_uses=uses)


def decide(
    tool: ToolFacts, layers: Layers, subject: str = "ls", opinion: HookOpinion | None = None
) -> Decision:
    """Return the decision about a call without circumstances."""
    return judge(tool, subject, layers, opinion, facts=CallFacts()).decision


# Rules.


def test_without_rules_the_default_applies() -> None:
    """Without rules, the tool's default applies; a denial always has a note for the model."""
    for default in STRICTNESS:
        ruling = judge(replace(BASH, default=default), "ls", layers_of(layer("managed"), layer("session")))
        assert ruling == Ruling(default, default, "bash's default", DENIED if default == "deny" else "")


def test_within_one_layer_deny_beats_ask_beats_allow() -> None:
    """The order of rules does not matter, nor how exactly each names the tool."""
    rules = [rule("allow", "bash", "ls"), rule("ask", "ba*"), rule("deny")]
    for order in (rules, rules[::-1]):
        assert decide(BASH, layers_of(layer("session", *order))) == "deny"
        assert (
            decide(BASH, layers_of(layer("session", *(kept for kept in order if kept != rules[2])))) == "ask"
        )


def test_across_layers_the_strictest_counts() -> None:
    """A session's ask does not override a definition's deny, nor its allow the daemon's ask."""
    denied = layers_of(
        layer("definition", rule("deny", note="not here"), name="a"), layer("session", rule("ask"))
    )
    assert judge(BASH, "ls", denied) == Ruling("deny", "deny", "definition a rule * deny", "not here")
    asked = layers_of(
        layer("daemon", rule("ask", "bash", "l*")), layer("run", rule("allow", "bash"), name="r")
    )
    assert judge(BASH, "ls", asked) == Ruling("ask", "ask", "daemon rule bash 'l*' ask")


def test_an_allow_replaces_the_default() -> None:
    """Any layer's allow replaces the tool's default, except that of a child agent's definition."""
    for source in ("managed", "daemon", "definition", "parent", "session", "run"):
        assert decide(BASH, layers_of(layer(source, rule("allow")))) == "allow"
    root, child = layer("definition", name="root"), layer("definition", rule("allow"), name="child")
    below = layers_of(layer("managed"), root, layer("parent"), child, layer("session"))
    assert judge(BASH, "ls", below) == Ruling("ask", "ask", "bash's default")
    assert decide(READ, below) == "allow"
    allowed = layers_of(layer("managed", rule("allow")), root, child)
    assert decide(BASH, allowed) == "allow"
    stricter = layers_of(root, layer("definition", rule("deny"), name="child"))
    assert decide(READ, stricter) == "deny"


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
def test_tool_patterns(pattern: str, tool: str, matches: bool) -> None:
    """A tool pattern matches by name, by prefix, or every tool."""
    assert matches_tool(pattern, tool) is matches


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
def test_subject_patterns(pattern: str | None, subject: str, matches: bool) -> None:
    """In a subject pattern, only the asterisk has a meaning of its own."""
    assert matches_subject(pattern, subject) is matches


@given(st.text("ab*", max_size=6), st.text("ab*\n", max_size=8))
def test_subject_patterns_match_like_regular_expressions(pattern: str, subject: str) -> None:
    """An asterisk matches like ``.*`` in a regular expression."""
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), subject, re.DOTALL)
    assert matches_subject(pattern, subject) is (expected is not None)


def test_matching_takes_linear_time() -> None:
    """A pattern that makes a backtracking matcher hang is matched quickly."""
    assert not matches_subject("a*" * 500 + "b", "a" * 1000)


# The limits of patterns.


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
def test_an_allow_does_not_hold_for_chained_commands(command: str) -> None:
    """An allow of one command does not hold for a chained one; a deny and an ask do."""
    allowed = layers_of(layer("session", rule("allow", "bash", "git *")))
    assert decide(BASH, allowed, "git status") == "allow"
    assert decide(BASH, allowed, command) == "ask"
    assert decide(BASH, layers_of(layer("session", rule("deny", "bash", "git *"))), command) == "deny"
    assert (
        decide(replace(BASH, default="allow"), layers_of(layer("run", rule("ask", "*", "*"))), command)
        == "ask"
    )
    explanation = explain(BASH, command, allowed)
    claims = [(claim.says, claim.words) for claim in explanation.claims]
    assert any("not understood" in line.text for line in explanation.lines) or claims == [
        ("allow", ["git", "status"]),
        ("ask", ["sh"] if "| sh" in command else ["rm", "-rf", "/"]),
    ]


@pytest.mark.parametrize(
    ("subjects", "command", "decision"),
    [
        # Each simple command needs its allow.
        (["git *"], "git  status", "allow"),
        (["git *", "wc *"], "git log | wc -l", "allow"),
        (["git *"], "git log | wc -l", "ask"),
        (["git *", "cd *"], "cd sub && git status 2>/dev/null; (git diff)", "allow"),
        (["git *"], "timeout 5 nice git status", "allow"),
        (["git *"], "LC_ALL=C git status", "allow"),
        (["git *"], "FOO=1 git status", "ask"),
        (["FOO=1 git *"], "FOO=1 git status", "allow"),
        # What is not understood asks.
        (["git *"], "git $'x'", "ask"),
        (["git *"], "git log > x", "ask"),
        (["git *"], "git log <<< x", "ask"),
        (["cat *"], "cat notes\u3164", "ask"),
        (["ls *"], "ls *", "ask"),
        (["ls *"], "ls src/*.py", "allow"),
        # Builtins that evaluate their words.
        (["printf *"], "printf '%s' x", "allow"),
        (["printf *"], "printf -v 'a[0]' x", "ask"),
        (["printf *"], "printf -v 'a[$'$'\\x28''touch x)]' %s x", "ask"),
        (["test *", "[ *"], "test -f x && [ -d y ]", "allow"),
        (["test *"], "test -v x", "ask"),
        (["[ *"], "[ 'a[0]' -eq 1 ]", "ask"),
        (["export *"], "export PATH=x", "ask"),
        (["*"], "eval ls", "ask"),
        # Programs that run others must be named.
        (["*"], "ls -l", "allow"),
        (["*"], "python3 -c x", "ask"),
        (["py*"], "python3 -c x", "ask"),
        (["python3 *"], "python3 -c x", "allow"),
        (["python3*"], "python3 -c x", "allow"),
        (["find *"], "find . -name x", "allow"),
        (["find *"], "find . -exec sh {} +", "ask"),
        (["find . -exec cat *"], "find . -exec cat {} +", "allow"),
        (["find . -exec cat *"], "find . -exec cat {} + -exec sh {} +", "ask"),
        (["git *"], "git -c core.pager=x log", "ask"),
        (["xargs *"], "ls src | xargs cat", "ask"),
        (["xargs cat*", "ls *"], "ls src | xargs cat", "allow"),
        # A rule without a star holds for exactly its text.
        (["printf -v x y"], "printf -v x y", "allow"),
        (["for f in *; do rm $f; done"], "for f in *; do rm $f; done", "ask"),
        (["make && make install"], "make && make install", "allow"),
        (["echo $x"], "echo $x", "allow"),
        (["git status"], "git   status", "allow"),
    ],
)
def test_an_allow_is_for_simple_commands(subjects: list[str], command: str, decision: Decision) -> None:
    """A command line is allowed if each of its simple commands is, and all of it is understood."""
    layers = layers_of(layer("session", *(rule("allow", "bash", subject) for subject in subjects)))
    assert decide(BASH, layers, command) == decision


@pytest.mark.parametrize(
    "command",
    [
        "rm  -rf x",
        "/bin/rm -rf x",
        "ls && rm -rf x",
        "echo $(rm -rf x)",
        "for f in a; do rm -rf x; done",
        "sudo rm -rf x",
        "sh -c 'rm -rf x'",
        "timeout 5 rm -rf x",
        "find . -exec rm -rf x ';'",
        "'r'm -rf x",
        "rm -rf x > y",
    ],
)
def test_a_deny_is_for_any_command_of_a_line(command: str) -> None:
    """A deny or an ask matches every command that can be found, also in a line that is not understood."""
    denied = layers_of(layer("session", rule("allow", "bash"), rule("deny", "bash", "rm *")))
    assert decide(BASH, denied, command) == "deny"
    asked = layers_of(layer("session", rule("allow", "bash"), rule("ask", "bash", "rm *")))
    assert decide(BASH, asked, command) == "ask"


def test_a_pattern_of_files_does_not_evade_a_deny() -> None:
    """A command whose files a deny may match is asked about."""
    layers = layers_of(layer("session", rule("allow", "bash", "cat *"), rule("deny", "bash", "cat *.env")))
    assert decide(BASH, layers, "cat src/*.py") == "allow"
    assert decide(BASH, layers, "cat src/x*") == "ask"
    assert decide(BASH, layers, "cat src/.e?v") == "ask"
    assert decide(BASH, layers, "cat src/.env") == "deny"


def test_an_explanation_shows_how_a_line_was_read() -> None:
    """Each command is listed with its words, its rule and what is not understood."""
    layers = layers_of(layer("session", rule("allow", "bash", "git *"), rule("allow", "bash", "printf *")))
    explanation = explain(BASH, "git 'log'; printf -v x y", layers)
    assert [(claim.kind, claim.subject, claim.says, claim.words) for claim in explanation.claims] == [
        ("command", "git log", "allow", ["git", "log"]),
        ("command", "printf -v x y", "ask", ["printf", "-v", "x", "y"]),
    ]
    assert explanation.claims[1].problem == "printf -v evaluates its variable"
    assert explanation.why == "bash's default, for 'printf -v x y'"
    explanation = explain(BASH, "git $x", layers)
    assert explanation.claims[0].problem == "not understood: an expansion at column 5"
    text = "rule bash 'git *' allow does not hold: not understood: an expansion at column 5"
    assert ("session", None, text) in [(line.source, line.says, line.text) for line in explanation.lines]


def test_an_exact_allow_holds_for_chained_commands() -> None:
    """An allow of the whole command, or of any subject, holds for a chained command."""
    command = "make && make install"
    for subject in (command, None):
        assert decide(BASH, layers_of(layer("session", rule("allow", "bash", subject))), command) == "allow"


def test_an_allow_does_not_hold_for_upward_paths() -> None:
    """A path with '..' in it is not within an allowed directory; a name with dots is."""
    allowed = layers_of(layer("session", rule("allow", "edit_file", "src/*")))
    assert decide(EDIT, allowed, "src/a..b") == "allow"
    for path in ("src/../etc/passwd", "src/.."):
        assert decide(EDIT, allowed, path) == "ask"


def test_a_patch_is_judged_by_each_of_its_files() -> None:
    """A patch is allowed if all its paths are, and denied if one is; so is a command line by its commands."""
    rules = layers_of(layer("session", rule("allow", "edit_file", "src/*"), rule("deny", "*", "keys/*")))
    assert decide(EDIT, rules, "src/a\nsrc/b") == "allow"
    assert decide(EDIT, rules, "src/a\nzoo") == "ask"
    assert decide(EDIT, rules, "a\nkeys/b\nsrc/c") == "deny"
    assert decide(BASH, rules, "true\nkeys/b") == "deny"
    exact = layers_of(layer("session", rule("allow", "edit_file", "a")))
    assert decide(EDIT, exact, "a\nb") == "ask"


# Modes.

MODE_TABLE = {
    # tool, decision of the rules -> default, acceptEdits, bypassPermissions, dontAsk, plan
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
def test_modes_act_on_the_base_decision(row: tuple[str, Decision]) -> None:
    """Each mode maps the base decision as in the table and reports a change."""
    tool, base = TOOLS[row[0]], row[1]
    for mode, expected in zip(MODES_OF_TABLE, MODE_TABLE[row], strict=True):
        ruling = judge(tool, "x", layers_of(layer("session", rule(base)), mode=mode))
        assert (ruling.base, ruling.decision) == (base, expected), mode
        assert (ruling.mode_effect is not None) is (base != expected)
        assert ruling.note or expected != "deny"


def test_mode_effects_have_names() -> None:
    """Each mode's effect has a name, for the audit."""
    effects = [judge(EDIT, "x", layers_of(mode=mode)).mode_effect for mode in MODES_OF_TABLE]
    assert effects == [None, "edit_allowed", "ask_allowed", "ask_denied", "denied_in_plan"]


def test_a_managed_ask_survives_every_mode_that_allows() -> None:
    """No allowing mode undoes a managed ask, even with other asks beside it; dontAsk denies it."""
    for layers in (
        [layer("managed", rule("ask"))],
        [layer("managed", rule("ask")), layer("run", rule("ask"))],
    ):
        for mode in ("acceptEdits", "bypassPermissions"):
            ruling = judge(EDIT, "x", layers_of(*layers, mode=mode))
            assert (ruling.decision, ruling.mode_effect) == ("ask", None)
        assert decide(EDIT, layers_of(*layers, mode="dontAsk")) == "deny"


def test_a_denied_ask_tells_the_model() -> None:
    """In dontAsk mode, the note names the mode and the rule's own note."""
    assert judge(BASH, "x", layers_of(mode="dontAsk")).note == DENIED_UNASKED
    ask = layers_of(layer("daemon", rule("ask", note="it deploys")), mode="dontAsk")
    assert judge(BASH, "x", ask).note == f"{DENIED_UNASKED}: it deploys"


# Opinions of hooks.


def test_a_hook_can_deny_an_allowed_call() -> None:
    """A hook can deny an allowed call; the decision of the rules stays readable as ``base``."""
    ruling = judge(READ, "x", layers_of(mode="bypassPermissions"), HookOpinion("deny", "no secrets"))
    assert (ruling.decision, ruling.base, ruling.why, ruling.note) == (
        "deny",
        "allow",
        "hook",
        "no secrets",
    )


def test_a_hook_can_require_approval() -> None:
    """A hook's ask holds in every mode that asks; it is a deny in dontAsk and plan, and undoes no deny."""
    opinion = HookOpinion("ask", "look at it")
    for mode, expected in zip(MODES_OF_TABLE, ("ask", "ask", "ask", "deny", "deny"), strict=True):
        assert decide(READ, layers_of(mode=mode), "x", opinion) == expected
        assert decide(EDIT, layers_of(mode=mode), "x", opinion) == expected
        assert decide(READ, layers_of(layer("run", rule("deny")), mode=mode), "x", opinion) == "deny"


def test_a_hook_can_keep_a_mode_from_allowing_an_edit() -> None:
    """An ask that is not firm only keeps acceptEdits from allowing an edit; rules and grants still can."""
    opinion = HookOpinion("ask", "git executes it", is_firm=False)
    for mode, expected in zip(MODES_OF_TABLE, ("ask", "ask", "allow", "deny", "deny"), strict=True):
        assert decide(EDIT, layers_of(mode=mode), "x", opinion) == expected
    edits = layers_of(mode="acceptEdits")
    ruling = judge(EDIT, "x", edits, opinion)
    assert (ruling.decision, ruling.why, ruling.note) == ("ask", "mode acceptEdits", "git executes it")
    assert decide(EDIT, layers_of(layer("run", rule("allow")), mode="acceptEdits"), "x", opinion) == "allow"
    assert "git executes it" in [line.text for line in explain(EDIT, "x", edits, opinion).lines]


# Grants.


def test_a_grant_matches_tool_and_subject_exactly() -> None:
    """A grant matches its tool and subject exactly; one without subject matches calls without one."""
    granted = layers_of(layer("session", grants=[grant()]))
    assert judge(BASH, "ls", granted, facts=CallFacts()) == Ruling(
        "allow", "ask", "grant grt_1", grant_id="grt_1"
    )
    assert decide(BASH, granted, "ls -l") == "ask"
    assert decide(replace(BASH, name="bash2"), granted) == "ask"
    assert decide(BASH, layers_of(layer("session", grants=[grant(subject="*")]))) == "ask"
    for subject, expected in (("", "allow"), ("ls", "ask")):
        assert decide(BASH, layers_of(layer("session", grants=[grant(subject=None)])), subject) == expected


def test_the_runs_grants_are_used_before_the_sessions() -> None:
    """The run's grants come before the session's; used-up grants and grants of parents match nothing."""
    own, runs = layer("session", grants=[grant("own")]), layer("run", grants=[grant("its", uses=1)])
    layers = layers_of(own, runs)
    ruling = judge(BASH, "ls", layers, facts=CallFacts())
    assert ruling.grant_id == "its"
    remaining = use_grants(layers, ["its"])
    assert judge(BASH, "ls", remaining, facts=CallFacts()).grant_id == "own"
    assert use_grants(remaining, ["own"]) == remaining
    assert use_grants(remaining, []) is remaining
    assert decide(BASH, layers_of(layer("parent", grants=[grant()]), layer("session"))) == "ask"


def test_a_grant_never_undoes_a_deny() -> None:
    """A grant undoes no deny of a rule or mode, and is not used if the mode allows already."""
    granted = layer("run", grants=[grant()])
    assert decide(BASH, layers_of(layer("session", rule("deny")), granted)) == "deny"
    assert decide(BASH, layers_of(granted, mode="dontAsk")) == "deny"
    planned = replace(BASH, in_plan=True)
    assert decide(planned, layers_of(granted, mode="plan")) == "ask"
    assert judge(BASH, "ls", layers_of(granted, mode="bypassPermissions"), facts=CallFacts()).grant_id is None


def test_a_grant_covers_firm_asks() -> None:
    """A grant also covers an ask of a hook or of the managed layer: a person answered it before."""
    granted = layer("run", grants=[grant()])
    assert (
        decide(BASH, layers_of(layer("managed", rule("ask")), granted, mode="bypassPermissions")) == "allow"
    )
    assert decide(BASH, layers_of(granted), "ls", HookOpinion("ask", "look")) == "allow"


SHOWN = CallFacts(workdir="/w", sandbox="bubblewrap")


@pytest.mark.parametrize(
    ("recorded", "current", "decision"),
    [
        (SHOWN, SHOWN, "allow"),
        (SHOWN, changed(SHOWN, workdir="/w/sub"), "ask"),
        (SHOWN, changed(SHOWN, background=True), "ask"),
        (SHOWN, changed(SHOWN, sandbox="none"), "ask"),
        (SHOWN, changed(SHOWN, network=["net:a.example:443"]), "ask"),
        (changed(SHOWN, network=["net:a.example:443"]), SHOWN, "ask"),
        (None, SHOWN, "ask"),
        (SHOWN, None, "ask"),
        (CallFacts(), CallFacts(), "allow"),
        (CallFacts(other=["server a"]), CallFacts(other=["server b"]), "ask"),
    ],
)
def test_a_grant_is_for_the_circumstances_that_were_shown(
    recorded: CallFacts | None, current: CallFacts | None, decision: Decision
) -> None:
    """A grant of another directory, confinement or network asks again; one of an old home, too."""
    layers = layers_of(layer("session", grants=[changed(grant(), facts=recorded)]))
    ruling = judge(BASH, "ls", layers, facts=current)
    assert (ruling.decision, ruling.grant_id) == (decision, "grt_1" if decision == "allow" else None)
    lines = explain(BASH, "ls", layers, facts=current).lines
    assert any(line.source == "grant" and line.text.startswith("grt_1") for line in lines)


# Destinations.

HOST = destination("pypi.org", 443)
ALLOWED_COMMAND = layer("session", rule("allow", "bash"))


@pytest.mark.parametrize(
    ("rules", "decision", "why"),
    [
        ([], "ask", "the network's default, for 'net:pypi.org:443'"),
        ([rule("allow", "*", "*")], "ask", "the network's default, for 'net:pypi.org:443'"),
        ([rule("allow", "bash", "net:pypi.org")], "allow", "session rule bash allow"),
        ([rule("allow", "*", "net:*.org:443")], "allow", "session rule bash allow"),
        ([rule("allow", "*", "net:pypi.org:80")], "ask", "the network's default, for 'net:pypi.org:443'"),
        (
            [rule("allow", "*", "net:*"), rule("deny", "bash", "net:pypi.org")],
            "deny",
            "session rule bash 'net:pypi.org' deny, for 'net:pypi.org:443'",
        ),
    ],
)
def test_a_destination_is_judged_besides_its_call(rules: list[Rule], decision: Decision, why: str) -> None:
    """A rule about the call opens no host; the strictest claim counts, and the verdict names it."""
    layers = layers_of(layer("session", rule("allow", "bash"), *rules))
    ruling = judge(BASH, "ls", layers, claims=[HOST])
    assert (ruling.decision, ruling.why) == (decision, why)
    explanation = explain(BASH, "ls", layers, claims=[HOST])
    assert (explanation.decision, explanation.why) == (decision, why)
    assert [(claim.kind, claim.says) for claim in explanation.claims][-1] == ("network", decision)


def test_a_rule_for_destinations_matches_no_command() -> None:
    """A command line that looks like a destination is none."""
    layers = layers_of(layer("session", rule("allow", "bash", "net:*")))
    assert decide(BASH, layers, "net:x") == "ask"


@pytest.mark.parametrize("mode", ["plan", "dontAsk"])
def test_the_network_is_closed_where_nobody_is_asked(mode: PermissionMode) -> None:
    """In plan and dontAsk, only a rule opens a host, for a new call and for a running one."""
    tool = replace(BASH, in_plan=True)
    for rules, expected in (([], "deny"), ([rule("allow", "*", "net:pypi.org")], "allow")):
        layers = layers_of(layer("session", rule("allow", "bash"), *rules), mode=mode)
        assert judge(tool, "ls", layers, claims=[HOST]).decision == expected
        assert judge_claim(BASH, HOST, layers).decision == expected


@pytest.mark.parametrize(
    ("rules", "exact"),
    [
        ([rule("allow", "*", "net:10.0.0.5")], True),
        ([rule("allow", "bash", "net:10.0.0.5:5432")], True),
        ([rule("ask", "bash", "net:10.0.0.5:5432")], True),
        ([rule("allow", "*", "net:*"), rule("allow", "*", "net:10.0.0.5:5432")], True),
        ([rule("allow", "*", "net:*")], False),
        ([rule("allow", "*", "net:10.0.0.*")], False),
        ([rule("allow", "*", "net:10.0.0.5:*")], False),
        ([rule("allow", "*", "net:10.0.0.5:5433"), rule("allow", "*", "net:*")], False),
        ([rule("allow", "web_fetch", "net:10.0.0.5")], False),
        ([rule("allow", "bash", None)], False),
        ([rule("allow", "*", "net:10.0.0.5"), rule("deny", "*", "net:*")], False),
    ],
)
def test_a_destination_that_a_rule_names(rules: list[Rule], exact: bool) -> None:
    """Only a rule without a star names a destination, in any layer but those of agents that were called."""
    claim = destination("10.0.0.5", 5432)
    sources: list[Layer] = ["managed", "daemon", "session", "run"]
    modes: list[PermissionMode] = ["default", "bypassPermissions"]
    for source, mode in product(sources, modes):
        layers = layers_of(layer(source, *rules), mode=mode)
        assert judge_claim(BASH, claim, layers).exact is exact
    called = layers_of(layer("definition", name="root"), layer("definition", *rules, name="called"))
    assert not judge_claim(BASH, claim, called).exact


def test_a_fetch_and_its_destination_are_one() -> None:
    """A rule about the host of a fetch speaks for its destination and the other way round."""
    fetch = ToolFacts("web_fetch", "fetch", "ask", in_plan=True)
    for rules in (
        [rule("allow", "web_fetch", "pypi.org")],
        [rule("allow", "web_fetch", "net:pypi.org")],
        [rule("allow", "web_fetch")],
    ):
        layers = layers_of(layer("session", *rules))
        assert judge(fetch, "pypi.org", layers, claims=[HOST]).decision == "allow"
        assert judge_claim(fetch, HOST, layers).decision == "allow"
    layers = layers_of(layer("session", rule("allow", "web_fetch", "pypi.org")))
    elsewhere = destination("evil.example", 443)
    assert judge_claim(fetch, elsewhere, layers).decision == "ask"
    denied = layers_of(layer("session", rule("allow", "web_fetch"), rule("deny", "*", "net:pypi.org")))
    assert judge(fetch, "pypi.org", denied, claims=[HOST]).decision == "deny"


def test_a_destination_can_be_explained_alone() -> None:
    """The subject of a destination is judged like a connection of a running call."""
    layers = layers_of(layer("session", rule("allow", "bash"), rule("allow", "*", "net:a.example")))
    assert explain(BASH, "net:a.example:443", layers).decision == "allow"
    assert explain(BASH, "net:b.example:443", layers).decision == "ask"


# Explaining.


def test_an_explanation_has_a_line_for_each_part() -> None:
    """An explanation has a line for each considered part, in order."""
    layers = layers_of(
        layer("managed", rule("deny", "web*"), mode="bypassPermissions"),
        layer("daemon", rule("allow", "bash", "l*", note="harmless")),
        layer("session", grants=[grant(uses=2)], name="s", mode="acceptEdits"),
        layer("run", rule("ask", "bash"), name="r"),
        mode="acceptEdits",
    )
    explanation = explain(BASH, "ls", layers, HookOpinion("ask", "look"), facts=CallFacts())
    assert [(line.source, line.says, line.text) for line in explanation.lines] == [
        ("tool", "ask", "default without a matching rule: ask"),
        ("managed", None, "no matching rule"),
        ("daemon", "allow", "rule bash 'l*' allow: harmless"),
        ("session s", None, "no rules"),
        ("run r", "ask", "rule bash ask"),
        ("hook", "ask", "look"),
        ("mode", None, "acceptEdits is effective (of managed bypassPermissions, session s acceptEdits)"),
        ("mode", None, "the mode does not change this ask: the managed rules or a hook require it"),
        ("grant", "allow", "grt_1 of uid:0 matches, 2 uses left"),
    ]
    assert (explanation.decision, explanation.why, explanation.mode) == (
        "allow",
        "grant grt_1",
        "acceptEdits",
    )


def test_a_verdict_truncates_long_rules() -> None:
    """A verdict truncates a long subject; the explanation shows all of it."""
    layers = layers_of(layer("session", rule("deny", "bash", "x" * 500 + "*")))
    subject = "x" * 500
    assert len(judge(BASH, subject, layers).why) < 100
    assert any("x" * 500 in line.text for line in explain(BASH, subject, layers).lines)


def test_the_narrowest_mode_is_effective() -> None:
    """The narrowest mode of all layers is effective; without any, the default mode."""
    assert (
        effective_mode([layer("managed", mode="bypassPermissions"), layer("daemon")]) == "bypassPermissions"
    )
    assert effective_mode([layer("parent", mode="plan"), layer("session", mode="acceptEdits")]) == "plan"
    assert effective_mode([layer("daemon")]) == "default"


def test_tool_kinds_match_the_kernels() -> None:
    """The tool kinds here are those of the kernel."""
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
    granted_by=st.just("uid:0"),
    subject=st.sampled_from((None, *WORDS)),
    remaining_uses=st.sampled_from((None, 0, 1)),
)
ORDER: tuple[Layer, ...] = get_args(Layer)
LAYERED = st.builds(
    LayerRules,
    layer=st.sampled_from(ORDER),
    rules=st.lists(RULES, max_size=3),
    grants=st.lists(GRANTS, max_size=2),
    mode=st.none() | st.sampled_from(MODES),
)
CHAINS = st.lists(LAYERED, max_size=6).map(
    lambda chain: sorted(chain, key=lambda layered: ORDER.index(layered.layer))
)
TOOL = st.builds(
    ToolFacts,
    st.sampled_from(NAMES),
    st.sampled_from(get_args(ToolKind)),
    DECISIONS,
    st.booleans(),
)
SUBJECT = st.sampled_from(WORDS)
OPINION = st.none() | st.builds(HookOpinion, st.sampled_from(("ask", "deny")), st.just("because"))


def is_as_strict(decision: Decision, reference: Decision) -> bool:
    """Whether one decision is at least as strict as another."""
    return STRICTNESS.index(decision) >= STRICTNESS.index(reference)


def drop_grants(chain: Sequence[LayerRules]) -> list[LayerRules]:
    """Return the layers without their grants."""
    return [changed(layered, grants=[]) for layered in chain]


@given(TOOL, SUBJECT, CHAINS, OPINION)
def test_explain_agrees_with_judge(
    tool: ToolFacts, subject: str, chain: list[LayerRules], opinion: HookOpinion | None
) -> None:
    """The explanation has the ruling's fields, and one of its lines says the decision."""
    layers = Layers(tuple(chain), effective_mode(chain))
    ruling = judge(tool, subject, layers, opinion, facts=CallFacts())
    explanation = explain(tool, subject, layers, opinion, facts=CallFacts())
    assert isinstance(explanation, Explanation)
    fields = [name for name in Ruling.__struct_fields__ if name not in ("exact", "approval_id")]
    assert [getattr(explanation, name) for name in fields] == [getattr(ruling, name) for name in fields]
    assert ruling.mode == layers.mode
    assert ruling.decision in [line.says for line in explanation.lines]
    assert (ruling.mode_effect is None) or ruling.why.startswith("mode ")


def falls_to_default(tool: ToolFacts, subject: str, chain: Sequence[LayerRules]) -> bool:
    """Whether the tool's default decides, for the call or for a part of it, and no rule does."""
    first = next((layered for layered in chain if layered.layer == "definition"), None)
    effective = [layered for layered in chain if layered.layer != "definition" or layered is first]
    return "'s default" in judge(tool, subject, Layers(tuple(effective), "default")).why


@given(TOOL, SUBJECT, CHAINS, RULES, st.integers(0, 5), OPINION)
def test_another_rule_never_loosens(
    tool: ToolFacts,
    subject: str,
    chain: list[LayerRules],
    new: Rule,
    position: int,
    opinion: HookOpinion | None,
) -> None:
    """Adding a rule never loosens a decision made by rules; it may loosen the bare default.

    The allows of a skill are a list: one more widens what the skill leaves to the other layers, no further.
    """
    chain, mode = drop_grants(chain), effective_mode(chain)
    reference = list(chain)
    if new.decision == "allow":
        reference = [
            changed(layered, rules=[rule for rule in layered.rules if rule.decision != "allow"])
            if layered.layer == "skill"
            else layered
            for layered in chain
        ]
    previous = judge(tool, subject, Layers(tuple(reference), mode), opinion)
    more = list(chain)
    if chain:
        target = position % len(chain)
        more[target] = changed(chain[target], rules=[*chain[target].rules, new])
    else:
        more = [layer(ORDER[position], new)]
    current = judge(tool, subject, Layers(tuple(more), mode), opinion)
    if is_as_strict(new.decision, tool.default) or not falls_to_default(tool, subject, reference):
        assert is_as_strict(current.base, previous.base)
        assert is_as_strict(current.decision, previous.decision)


@given(TOOL, SUBJECT, CHAINS)
def test_narrower_layers_never_loosen_broader_ones(
    tool: ToolFacts, subject: str, chain: list[LayerRules]
) -> None:
    """The decision of broader layers alone is a lower bound for the whole."""
    whole = judge(tool, subject, Layers(tuple(drop_grants(chain)), effective_mode(chain)))
    for length in range(len(chain)):
        broader = chain[:length]
        if falls_to_default(tool, subject, broader):
            continue
        alone = judge(tool, subject, Layers(tuple(drop_grants(broader)), effective_mode(chain)))
        assert is_as_strict(whole.base, alone.base)
        assert is_as_strict(whole.decision, alone.decision)


@given(TOOL, SUBJECT, CHAINS, OPINION)
def test_a_wider_mode_is_never_stricter(
    tool: ToolFacts, subject: str, chain: list[LayerRules], opinion: HookOpinion | None
) -> None:
    """From default on, each mode allows more; plan and dontAsk are stricter than default."""
    decisions = {mode: judge(tool, subject, Layers(tuple(chain), mode), opinion).decision for mode in MODES}
    assert is_as_strict(decisions["default"], decisions["acceptEdits"])
    assert is_as_strict(decisions["acceptEdits"], decisions["bypassPermissions"])
    assert is_as_strict(decisions["plan"], decisions["default"])
    assert is_as_strict(decisions["dontAsk"], decisions["default"])


@given(TOOL, SUBJECT, CHAINS, st.sampled_from(MODES), OPINION)
def test_a_deny_survives_everything(
    tool: ToolFacts, subject: str, chain: list[LayerRules], mode: PermissionMode, opinion: HookOpinion | None
) -> None:
    """No mode, grant or opinion undoes a rule's deny."""
    denied = [*chain, layer("managed", rule("deny"))]
    assert decide(tool, Layers(tuple(denied), mode), subject, opinion) == "deny"


@given(TOOL, SUBJECT, CHAINS, st.lists(RULES, max_size=3))
def test_a_called_agent_grants_no_rights(
    tool: ToolFacts, subject: str, chain: list[LayerRules], rules: list[Rule]
) -> None:
    """A child session allows no call that its parent does not, whatever its definition says."""
    mine = [layer("managed"), layer("definition", name="root"), *drop_grants(chain)]
    ordered = sorted(mine, key=lambda layered: ORDER.index(layered.layer))
    above = judge(tool, subject, Layers(tuple(ordered), "default"))
    below = judge(tool, subject, Layers((*ordered, layer("definition", *rules, name="child")), "default"))
    assert is_as_strict(below.decision, above.decision)


@pytest.mark.parametrize(
    ("rule", "path", "closed"),
    [
        (Rule(tool="*", decision="deny", subject="*.env"), "a/.env", True),
        (Rule(tool="read_*", decision="deny", subject=".env"), ".env", True),
        (Rule(tool="read_file", decision="ask", subject="keys/*"), "keys/a", True),
        (Rule(tool="read_file", decision="allow", subject="keys/*"), "keys/a", False),
        (Rule(tool="write_file", decision="deny", subject="*"), "a", False),
        (Rule(tool="read_file", decision="deny"), "a", False),
    ],
)
def test_a_path_is_closed_to_tools_that_read(rule: Rule, path: str, closed: bool) -> None:
    """A deny or an ask of a path, for a tool that reads, closes the path; a rule without a path does not."""
    layers = Layers((LayerRules(layer="session", name="s", rules=[rule]),), "default")
    assert is_path_closed(path, closed_patterns(["read_file", "grep_search"], layers)) is closed


@pytest.mark.parametrize(
    ("subject", "protected", "decision"),
    [
        ("a.py", (), "allow"),
        (".git/config", (), "ask"),
        ("a.py\nsub/.envrc", (), "ask"),
        ("deploy/run.sh", (), "allow"),
        ("deploy/run.sh", ("deploy/*",), "ask"),
    ],
)
def test_protected_files_are_asked_about_in_accept_edits(
    subject: str, protected: tuple[str, ...], decision: str
) -> None:
    """The mode acceptEdits does not allow edits of files that other programs obey; the note says so."""
    tool = ToolFacts("write_file", "edit", "ask")
    layers = Layers(
        (LayerRules(layer="session", name="s", rules=[], mode="acceptEdits"),), "acceptEdits", protected
    )
    ruling = judge(tool, subject, layers)
    assert ruling.decision == decision
    assert ("other programs execute or obey" in ruling.note) is (decision == "ask")
    explanation = explain(tool, subject, layers)
    assert (explanation.decision, explanation.note) == (ruling.decision, ruling.note)


@pytest.mark.parametrize(
    ("mode", "rules", "decision"),
    [
        ("default", [], "ask"),
        ("plan", [], "deny"),
        ("dontAsk", [], "deny"),
        ("plan", [Rule(tool="web_fetch", subject="docs.example", decision="allow")], "allow"),
        ("dontAsk", [Rule(tool="web_fetch", subject="docs.example", decision="allow")], "allow"),
    ],
)
def test_a_host_is_fetched_from_if_a_person_or_a_rule_allows_it(
    mode: PermissionMode, rules: list[Rule], decision: str
) -> None:
    """A URL carries data out, so plan mode, too, fetches only from hosts that a rule allows."""
    tool = ToolFacts("web_fetch", "fetch", "ask", in_plan=True)
    layers = Layers((LayerRules(layer="session", name="s", rules=rules, mode=mode),), mode)
    assert judge(tool, "docs.example", layers).decision == decision


@pytest.mark.parametrize(
    ("pattern", "source", "decision"),
    [
        ("hr.*", "*", "deny"),
        ("hr.*", "h*", "deny"),
        ("hr.*", "hr.pay*", "deny"),
        ("hr.pay", "hr*", "deny"),
        ("hr.*", "ci.*", "allow"),
        ("hr.pay", "hr.payment*", "allow"),
        ("hr.*", "hr.pay", "deny"),
    ],
)
def test_a_deny_of_sources_holds_for_every_pattern_with_one_of_them(
    pattern: str, source: str, decision: Decision
) -> None:
    """A shorter pattern does not evade it; an allow is for the patterns that it contains."""
    tool = ToolFacts("wait_for_event", "coordinate", "allow")
    assert decide(tool, layers_of(layer("session", rule("deny", subject=pattern))), source) == decision
    asking = ToolFacts("wait_for_event", "coordinate", "ask")
    allows = layers_of(layer("session", rule("allow", subject="hr.*")))
    assert decide(asking, allows, source) == ("allow" if source.startswith("hr.") else "ask")
