"""Permission judging: one walk both decides a call and explains the decision. Pure.

Rules come first. Each layer says deny, ask, allow or nothing: the strictest of its matching rules. Across
layers, the strictest counts as well: a narrower layer never loosens a broader one. If no layer has a matching
rule, the tool's default applies. Of the definitions, only the first (the agent of the root session) may
replace the default by something looser. A definition further down belongs to an agent that another agent may
have called, so it can only be stricter; else an agent could do through another what it may not do itself.

Then follow, in this order: a hook's opinion, the permission mode and the grants. Each acts on the result so
far. A deny is final. An ask by the managed layer or by a hook is *firm*: no mode turns it into an allow.

A rule's subject is compared with the call's as text, and ``*`` matches any text: the meaning of a subject is
known to its tool only. For programs a text match promises little, so an allow with a ``*`` does not hold for
a command line that chains, substitutes or redirects, nor for a path with ``..`` in it. A deny or an ask holds
for those, too.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final, Literal, assert_never

from msgspec.structs import replace

from kheishd.core.permissions.protected import is_protected
from protocol.objects.permission import (
    MODES,
    Decision,
    Explanation,
    ExplanationLine,
    Grant,
    LayerRules,
    ModeEffect,
    PermissionMode,
    Rule,
)
from protocol.structs import Value

STRICTNESS: Final[tuple[Decision, ...]] = ("allow", "ask", "deny")
"""From the loosest to the strictest."""

# Makes a command line more than its first command. "${" can hide a substitution.
_CHAINED: Final = re.compile(r"[;&|<>`\r\n\0]|\$[({]")
_UPWARD: Final = re.compile(r"(^|/)\.\.(/|$)")

# A verdict names the deciding rule, and one transaction holds 32 verdicts: long subjects are truncated.
MAX_SUBJECT_CHARACTERS: Final = 64

# Denials without a note of their own, as the model reads them.
DENIED: Final = "the permission rules deny this"
DENIED_IN_PLAN: Final = "plan mode only reads and asks: describe the change instead of making it"
DENIED_FETCH_IN_PLAN: Final = "plan mode fetches only from hosts that a rule allows"
DENIED_UNASKED: Final = "this needs a person's approval, and the mode dontAsk denies instead of asking"


class ToolFacts(Value, frozen=True):
    """The properties of a tool that judging needs; the fields are those of ``kernel.hook.Tool``."""

    name: str
    kind: Literal["read", "edit", "execute", "fetch", "coordinate"]
    default: Decision = "allow"
    in_plan: bool = False


class HookOpinion(Value, frozen=True):
    """A hook's opinion about one call: deny it, or ask a person even if the rules allow it."""

    decision: Literal["ask", "deny"]
    note: str


class Layers(Value, frozen=True):
    """The permission layers of a run or session, broadest first, and its effective mode.

    ``protected`` are more paths, as patterns, that a person is asked about even in the mode ``acceptEdits``.
    """

    layers: tuple[LayerRules, ...]
    mode: PermissionMode
    protected: tuple[str, ...] = ()


class Ruling(Value, frozen=True):
    """The decision about a call; ``base`` is that of the rules alone, ``why`` names the deciding part.

    ``note`` is for the person who is asked or the model that is denied. ``grant_id`` is the grant that was
    used: the event with the verdict counts it down.
    """

    decision: Decision
    base: Decision
    why: str
    note: str = ""
    mode: PermissionMode = "default"
    mode_effect: ModeEffect | None = None
    grant_id: str | None = None


def judge(tool: ToolFacts, subject: str, layers: Layers, opinion: HookOpinion | None = None) -> Ruling:
    """Decide about a call of a tool. ``subject`` is the whole subject, as the tool's sub-hook names it."""
    return _Walk(tool, subject, layers, opinion).ruling


def explain(tool: ToolFacts, subject: str, layers: Layers, opinion: HookOpinion | None = None) -> Explanation:
    """Decide about a call like :func:`judge`, and return a line for every part that was considered."""
    walk = _Walk(tool, subject, layers, opinion)
    ruling = walk.ruling
    return Explanation(
        decision=ruling.decision,
        base=ruling.base,
        why=ruling.why,
        note=ruling.note,
        mode=ruling.mode,
        mode_effect=ruling.mode_effect,
        grant_id=ruling.grant_id,
        lines=walk.lines,
    )


def is_path_closed(path: str, tools: Collection[str], layers: Layers) -> bool:
    """Whether a rule keeps a path from one of the tools that read: by a deny, or because it asks first.

    A search must not show the content of such a file. Rules without a subject are about tools, not paths.
    """
    return any(
        rule.decision != "allow"
        and rule.subject is not None
        and matches_subject(rule.subject, path)
        and any(matches_tool(rule.tool, tool) for tool in tools)
        for layer in layers.layers
        for rule in layer.rules
    )


def use_grants(layers: Layers, grant_ids: Sequence[str]) -> Layers:
    """Return the layers after some grants were used, for the next call of a batch that has no verdicts yet.

    Shape:  ``grant_ids`` names a grant once per use.
    """
    if not grant_ids:
        return layers
    used = []
    for layered in layers.layers:
        grants = [
            grant
            if grant.remaining_uses is None
            else replace(grant, remaining_uses=grant.remaining_uses - grant_ids.count(grant.grant_id))
            for grant in layered.grants
        ]
        used.append(replace(layered, grants=grants))
    return replace(layers, layers=tuple(used))


def effective_mode(layers: Sequence[LayerRules]) -> PermissionMode:
    """Return the narrowest mode of all layers that set one."""
    modes = (layered.mode for layered in layers if layered.mode is not None)
    return min(modes, key=MODES.index, default="default")


# Matching.


def matches_tool(pattern: str, tool: str) -> bool:
    """Whether a rule's tool pattern matches a tool: its name, a prefix of it and ``*``, or ``*``."""
    return tool.startswith(pattern[:-1]) if pattern.endswith("*") else tool == pattern


def matches_subject(pattern: str | None, subject: str) -> bool:
    """Whether a rule's subject pattern matches a subject; None matches any, ``*`` any text, even none.

    Linear in the length of both: each piece is searched once, from the left.
    """
    if pattern is None:
        return True
    first, *pieces = pattern.split("*")
    if not pieces:
        return subject == pattern
    last = pieces.pop()
    if len(subject) < len(first) + len(last) or not (subject.startswith(first) and subject.endswith(last)):
        return False
    start, end = len(first), len(subject) - len(last)
    for piece in pieces:
        position = subject.find(piece, start, end)
        if position < 0:
            return False
        start = position + len(piece)
    return True


def matches_call(rule: Rule, tool: ToolFacts, subject: str) -> bool:
    """Whether a rule matches a call. The subject of an edit may be several paths, one per line.

    A deny or an ask matches if one of the paths does, an allow only if all of them do.
    """
    if not matches_tool(rule.tool, tool.name):
        return False
    paths = subject.split("\n") if tool.kind == "edit" else [subject]
    quantifier = all if rule.decision == "allow" else any
    return quantifier(matches_subject(rule.subject, path) for path in paths)


def find_distrust(rule: Rule, tool: ToolFacts, subject: str) -> str | None:
    """Return why a matching allow does not hold for a subject; None if the rule holds."""
    if rule.decision != "allow" or rule.subject is None or "*" not in rule.subject:
        return None
    if tool.kind == "execute":
        chained = _CHAINED.search(subject)
        return (
            f"the command contains {chained[0]!r} and may run more than the pattern shows"
            if chained
            else None
        )
    return "the path contains '..'" if _UPWARD.search(subject) else None


# The walk.


class _Walk:
    """One walk through everything that decides about a call; produces ``lines`` and a ``ruling``."""

    def __init__(self, tool: ToolFacts, subject: str, layers: Layers, opinion: HookOpinion | None) -> None:
        self.tool = tool
        self.subject = subject
        self.layers = layers
        self.lines: list[ExplanationLine] = []
        self.firm = False
        self.ruling = self._apply_rules()
        if opinion is not None:
            self._explain("hook", opinion.decision, opinion.note)
            if STRICTNESS.index(opinion.decision) > STRICTNESS.index(self.ruling.decision):
                self._decide(opinion.decision, "hook", opinion.note)
            self.firm = self.firm or opinion.decision == "ask"
        self._apply_mode(asked_by_hook=opinion is not None and opinion.decision == "ask")
        self._apply_grants()

    def _explain(self, source: str, says: Decision | None, text: str) -> None:
        self.lines.append(ExplanationLine(source=source, says=says, text=text))

    def _decide(self, decision: Decision, why: str, note: str, effect: ModeEffect | None = None) -> None:
        self.ruling = replace(self.ruling, decision=decision, why=why, note=note, mode_effect=effect)

    # Rules.

    def _apply_rules(self) -> Ruling:
        default = self.tool.default
        self._explain("tool", default, f"default without a matching rule: {default}")
        rules = [
            (rule, layered)
            for layered in self.layers.layers
            if (rule := self._find_strictest(layered)) is not None
        ]
        self.firm = any(layered.layer == "managed" and rule.decision == "ask" for rule, layered in rules)
        mode = self.layers.mode
        by_default = Ruling(default, default, f"{self.tool.name}'s default", _default_note(default), mode)
        if not rules:
            return by_default
        rule, layered = max(rules, key=lambda pair: STRICTNESS.index(pair[0].decision))
        root = next((layer for layer in self.layers.layers if layer.layer == "definition"), None)
        # Only the root's definition, among definitions, may be looser than the tool's default.
        may_loosen = any(layer.layer != "definition" or layer is root for _, layer in rules)
        if STRICTNESS.index(rule.decision) < STRICTNESS.index(default) and not may_loosen:
            self._explain("tool", default, "an agent called by another agent can only be stricter than this")
            return by_default
        why = f"{_label(layered)} {_format_rule(rule, MAX_SUBJECT_CHARACTERS)}"
        return Ruling(rule.decision, rule.decision, why, rule.note or _default_note(rule.decision), mode)

    def _find_strictest(self, layered: LayerRules) -> Rule | None:
        """Return the first of the strictest rules of a layer that hold; explain every matching rule."""
        holding: list[Rule] = []
        for rule in layered.rules:
            if not matches_call(rule, self.tool, self.subject):
                continue
            distrust = find_distrust(rule, self.tool, self.subject)
            if distrust is None:
                holding.append(rule)
                note = f": {rule.note}" if rule.note else ""
                self._explain(_label(layered), rule.decision, f"{_format_rule(rule)}{note}")
            else:
                self._explain(_label(layered), None, f"{_format_rule(rule)} does not hold: {distrust}")
        if not holding:
            self._explain(_label(layered), None, "no matching rule" if layered.rules else "no rules")
        return max(holding, key=lambda rule: STRICTNESS.index(rule.decision), default=None)

    # Opinions, modes and grants act on the decision of the rules.

    def _apply_mode(self, *, asked_by_hook: bool) -> None:
        mode = self.layers.mode
        bounds = [f"{_label(layer)} {layer.mode}" for layer in self.layers.layers if layer.mode is not None]
        self._explain("mode", None, f"{mode} is effective" + (f" (of {', '.join(bounds)})" if bounds else ""))
        previous = self.ruling
        if previous.decision == "deny":
            return
        match mode:
            case "default":
                return
            case "plan":
                if not self.tool.in_plan or asked_by_hook:
                    self._decide("deny", "mode plan", DENIED_IN_PLAN, "denied_in_plan")
                elif self.tool.kind == "fetch" and previous.decision == "ask":
                    self._decide("deny", "mode plan", DENIED_FETCH_IN_PLAN, "denied_in_plan")
            case "dontAsk":
                if previous.decision == "ask":
                    note = f"{DENIED_UNASKED}: {previous.note}" if previous.note else DENIED_UNASKED
                    self._decide("deny", "mode dontAsk", note, "ask_denied")
            case "acceptEdits":
                if previous.decision == "ask" and not self.firm and self.tool.kind == "edit":
                    protected = self._find_protected()
                    if protected is None:
                        self._decide("allow", "mode acceptEdits", "", "edit_allowed")
                    else:
                        problem = f"other programs execute or obey {protected}"
                        note = f"{previous.note}; {problem}" if previous.note else problem
                        self._decide("ask", "mode acceptEdits", note)
                        self._explain("mode", None, f"the mode does not allow this edit: {problem}")
            case "bypassPermissions":
                if previous.decision == "ask" and not self.firm:
                    self._decide("allow", "mode bypassPermissions", "", "ask_allowed")
            case _:
                assert_never(mode)
        if self.ruling.decision != previous.decision:
            current = self.ruling.decision
            self._explain("mode", current, f"the mode turns {previous.decision} into {current}")
        elif previous.decision == "ask" and self.firm:
            self._explain(
                "mode", None, "the mode does not change this ask: the managed rules or a hook require it"
            )

    def _find_protected(self) -> str | None:
        """Return the first path of an edit that is protected; None if none is."""
        return next(
            (
                path
                for path in self.subject.split("\n")
                if is_protected(path)
                or any(matches_subject(pattern, path) for pattern in self.layers.protected)
            ),
            None,
        )

    def _apply_grants(self) -> None:
        if self.ruling.decision != "ask":
            return
        grant = next(self._matching_grants(), None) if self.layers.mode != "plan" else None
        if grant is None:
            self._explain("grant", None, "no matching grant")
            return
        uses = "" if grant.remaining_uses is None else f", {grant.remaining_uses} uses left"
        self._explain("grant", "allow", f"{grant.grant_id} of {grant.granted_by} matches{uses}")
        self._decide("allow", f"grant {grant.grant_id}", "")
        self.ruling = replace(self.ruling, grant_id=grant.grant_id)

    def _matching_grants(self) -> Iterator[Grant]:
        """Yield the grants for exactly this call: the run's, then the session's own."""
        call = (self.tool.name, self.subject)
        for source in ("run", "session"):
            for layered in self.layers.layers:
                for grant in layered.grants if layered.layer == source else ():
                    usable = grant.remaining_uses is None or grant.remaining_uses > 0
                    if usable and (grant.tool, grant.subject or "") == call:
                        yield grant


def _default_note(decision: Decision) -> str:
    return DENIED if decision == "deny" else ""


def _label(layered: LayerRules) -> str:
    return layered.layer if layered.name is None else f"{layered.layer} {layered.name}"


def _format_rule(rule: Rule, max_characters: int | None = None) -> str:
    subject = rule.subject
    if subject is None:
        return f"rule {rule.tool} {rule.decision}"
    if max_characters is not None and len(subject) > max_characters:
        subject = f"{subject[:max_characters]}…"
    return f"rule {rule.tool} {subject!r} {rule.decision}"
