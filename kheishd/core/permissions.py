"""How a call is judged, as one walk that both decides and explains. Pure.

The rules come first. Each layer says deny, ask, allow or nothing: of its rules that match, the strictest.
Of what the layers say, the strictest counts, whichever layer says it: nothing narrower loosens anything
broader. Where none says anything the tool's default stands. Of the definitions only the first, that of the
root session's agent, can stand in for the default: one further down belongs to an agent that another one may
have called upon. It can only be stricter; else an agent could have done by another what it may not do itself.

Then, in this order: an opinion of a hook, the mode, a grant. Each acts on what the one before left. A deny
stays a deny whatever follows. An ask that the managed layer or a hook insists on is *firm*: no mode turns it
into an allow.

A rule's subject is compared with the call's as text, ``*`` standing for any text, which is all that can be
done for whatever a tool calls a subject. It is little where the subject is a program: so an allow with a
``*`` does not hold for a command line that chains, substitutes or redirects, nor for a path with ``..`` in
it. A deny or an ask holds for those, too.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, assert_never

from msgspec.structs import replace as _replaced

from protocol.objects.permission import (
    MODES,
    Decision,
    Explanation,
    ExplanationLine,
    Grant,
    Layered,
    ModeEffect,
    PermissionMode,
    Rule,
)

STRICTNESS: Final[tuple[Decision, ...]] = ("allow", "ask", "deny")
"""From the loosest to the strictest."""

# What makes a command line more than the one command it begins with. "${" can hide a substitution.
_CHAINED: Final = re.compile(r"[;&|<>`\r\n\0]|\$[({]")
_UPWARD: Final = re.compile(r"(^|/)\.\.(/|$)")

# What decided a call stands in its verdict, and 32 of those in one transaction: the rule is found by so much.
SUBJECT_SHOWN: Final = 64

# What the model reads of a denial that nobody gave a reason for.
DENIED: Final = "the permission rules deny this"
DENIED_IN_PLAN: Final = "plan mode only reads and asks: say what you would do instead of doing it"
NOBODY_ASKED: Final = "this needs a person's approval, and in this mode nobody is asked"


@dataclass(frozen=True, slots=True)
class ToolFacts:
    """What must be known of a tool to judge a call of it; the fields are those of ``kernel.hook.Tool``."""

    name: str
    kind: Literal["read", "edit", "execute", "fetch", "coordinate"]
    default: Decision = "allow"
    in_plan: bool = False


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a hook says about one call: no, or that a person is to be asked whatever the rules allow."""

    decision: Literal["ask", "deny"]
    reason: str


@dataclass(frozen=True, slots=True)
class Layers:
    """Everything that counts in one place: the layers, broadest first, and the mode in force there."""

    layers: tuple[Layered, ...]
    mode: PermissionMode


@dataclass(frozen=True, slots=True)
class Judged:
    """A call judged: ``base`` by the rules alone, ``decision`` in the end; ``why`` names what decided it.

    ``reason`` is for whoever is asked or denied. ``grant_id`` is the grant that was used: it is to be counted
    down with the verdict.
    """

    decision: Decision
    base: Decision
    why: str
    reason: str = ""
    mode: PermissionMode = "default"
    mode_effect: ModeEffect | None = None
    grant_id: str | None = None


def judge(tool: ToolFacts, subject: str, layers: Layers, opinion: Opinion | None = None) -> Judged:
    """How a call of a tool on a subject is judged. ``subject`` is whole, as the tool's part gives it."""
    return _Walk(tool, subject, layers, opinion).judged


def explain(tool: ToolFacts, subject: str, layers: Layers, opinion: Opinion | None = None) -> Explanation:
    """The same walk, with every line that it came by."""
    walk = _Walk(tool, subject, layers, opinion)
    judged = walk.judged
    return Explanation(
        decision=judged.decision,
        base=judged.base,
        why=judged.why,
        note=judged.reason,
        mode=judged.mode,
        mode_effect=judged.mode_effect,
        grant_id=judged.grant_id,
        lines=walk.steps,
    )


def used(layers: Layers, grant_ids: Sequence[str]) -> Layers:
    """The layers once some grants were used: for the next call of a batch, before any verdict is kept.

    Shape:  a grant is named as often as it was used.
    """
    if not grant_ids:
        return layers
    return Layers(tuple(_after_uses(each, grant_ids) for each in layers.layers), layers.mode)


def _after_uses(layered: Layered, grant_ids: Sequence[str]) -> Layered:
    grants = [
        grant
        if grant.remaining_uses is None
        else _replaced(grant, remaining_uses=grant.remaining_uses - grant_ids.count(grant.grant_id))
        for grant in layered.grants
    ]
    return _replaced(layered, grants=grants)


def in_force(layers: Sequence[Layered]) -> PermissionMode:
    """The narrowest of the modes that layers let be."""
    return min((each.mode for each in layers if each.mode is not None), key=MODES.index, default="default")


def strictest(one: Decision, other: Decision) -> Decision:
    """The stricter of two decisions."""
    return max(one, other, key=STRICTNESS.index)


# Matching.


def covers(pattern: str, tool: str) -> bool:
    """Whether a rule about ``pattern`` is about a tool: its name, the beginning of it and ``*``, or ``*``."""
    return tool.startswith(pattern[:-1]) if pattern.endswith("*") else tool == pattern


def fits(pattern: str | None, subject: str) -> bool:
    """Whether a subject is what a pattern says: any for None; ``*`` stands for any text, also for none.

    Takes time in proportion to both, whatever they are: each piece is looked for once, from the left.
    """
    if pattern is None:
        return True
    first, *pieces = pattern.split("*")
    if not pieces:
        return subject == pattern
    last = pieces.pop()
    if len(subject) < len(first) + len(last) or not (subject.startswith(first) and subject.endswith(last)):
        return False
    at, end = len(first), len(subject) - len(last)
    for piece in pieces:
        found = subject.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def about(rule: Rule, tool: ToolFacts, subject: str) -> bool:
    """Whether a rule is about a call's subject, which of an edit may be several paths, a line each.

    A deny or an ask is about a call that has one such path; an allow only about one that has no other.
    """
    paths = subject.split("\n") if tool.kind == "edit" else [subject]
    every = all if rule.decision == "allow" else any
    return every(fits(rule.subject, path) for path in paths)


def distrusted(rule: Rule, tool: ToolFacts, subject: str) -> str | None:
    """Why an allow that fits is not taken at its word; None where it is."""
    if rule.decision != "allow" or rule.subject is None or "*" not in rule.subject:
        return None
    if tool.kind == "execute":
        found = _CHAINED.search(subject)
        return f"the command holds {found[0]!r}, so it may be more than it begins with" if found else None
    return "the path goes up by '..'" if _UPWARD.search(subject) else None


# The walk.


class _Walk:
    """One walk through everything that has a say: its lines are ``steps``, its end is ``judged``."""

    def __init__(self, tool: ToolFacts, subject: str, layers: Layers, opinion: Opinion | None) -> None:
        self.tool = tool
        self.subject = subject
        self.layers = layers
        self.steps: list[ExplanationLine] = []
        self.firm = False
        self.judged = self._by_rules()
        if opinion is not None:
            self._by_opinion(opinion)
        self._by_mode(asked_by_hook=opinion is not None and opinion.decision == "ask")
        self._by_grants()

    def _say(self, source: str, says: Decision | None, text: str) -> None:
        self.steps.append(ExplanationLine(source=source, says=says, text=text))

    def _decide(self, decision: Decision, why: str, reason: str, effect: ModeEffect | None = None) -> None:
        self.judged = replace(self.judged, decision=decision, why=why, reason=reason, mode_effect=effect)

    # Rules.

    def _by_rules(self) -> Judged:
        default = self.tool.default
        self._say("tool", default, f"its default, where no rule says anything: {default}")
        said = [(rule, each) for each in self.layers.layers if (rule := self._strictest_of(each)) is not None]
        self.firm = any(each.layer == "managed" and rule.decision == "ask" for rule, each in said)
        mode = self.layers.mode
        by_default = Judged(default, default, f"default of {self.tool.name}", _reason(default), mode)
        if not said:
            return by_default
        rule, each = max(said, key=lambda pair: STRICTNESS.index(pair[0].decision))
        if strictest(default, rule.decision) != rule.decision and not any(map(self._stands_in, said)):
            self._say("tool", default, "an agent that another one called upon can only be stricter than this")
            return by_default
        decision, why = rule.decision, f"{_label(each)} {_shown(rule, SUBJECT_SHOWN)}"
        return Judged(decision, decision, why, rule.note or _reason(decision), mode)

    def _stands_in(self, said: tuple[Rule, Layered]) -> bool:
        """Whether what a layer says can stand in for the tool's default, and be looser."""
        definitions = (each for each in self.layers.layers if each.layer == "definition")
        return said[1].layer != "definition" or said[1] is next(definitions)

    def _strictest_of(self, layered: Layered) -> Rule | None:
        """The first of the strictest rules of a layer that hold, and a line for each that could."""
        held: list[Rule] = []
        for rule in layered.rules:
            if not covers(rule.tool, self.tool.name) or not about(rule, self.tool, self.subject):
                continue
            doubt = distrusted(rule, self.tool, self.subject)
            if doubt is None:
                held.append(rule)
                said = f": {rule.note}" if rule.note else ""
                self._say(_label(layered), rule.decision, f"{_shown(rule)}{said}")
            else:
                self._say(_label(layered), None, f"{_shown(rule)} does not hold: {doubt}")
        if not held:
            self._say(_label(layered), None, "none of its rules holds" if layered.rules else "no rules")
        return max(held, key=lambda rule: STRICTNESS.index(rule.decision), default=None)

    # What acts on what the rules say.

    def _by_opinion(self, opinion: Opinion) -> None:
        self._say("hook", opinion.decision, opinion.reason)
        if STRICTNESS.index(opinion.decision) > STRICTNESS.index(self.judged.decision):
            self._decide(opinion.decision, "hook", opinion.reason)
        self.firm = self.firm or opinion.decision == "ask"

    def _by_mode(self, *, asked_by_hook: bool) -> None:
        mode = self.layers.mode
        bounds = [f"{_label(each)} {each.mode}" for each in self.layers.layers if each.mode is not None]
        self._say("mode", None, f"{mode} is in force" + (f", of {', '.join(bounds)}" if bounds else ""))
        before = self.judged
        if before.decision == "deny":
            return
        match mode:
            case "default":
                return
            case "plan":
                if not self.tool.in_plan or asked_by_hook:
                    self._decide("deny", "mode plan", DENIED_IN_PLAN, "denied_in_plan")
            case "dontAsk":
                if before.decision == "ask":
                    reason = f"{NOBODY_ASKED}: {before.reason}" if before.reason else NOBODY_ASKED
                    self._decide("deny", "mode dontAsk", reason, "ask_denied")
            case "acceptEdits":
                if before.decision == "ask" and not self.firm and self.tool.kind == "edit":
                    self._decide("allow", "mode acceptEdits", "", "edit_allowed")
            case "bypassPermissions":
                if before.decision == "ask" and not self.firm:
                    self._decide("allow", "mode bypassPermissions", "", "ask_allowed")
            case _:
                assert_never(mode)
        self._tell_effect(before)

    def _tell_effect(self, before: Judged) -> None:
        now = self.judged
        if now.decision != before.decision:
            self._say("mode", now.decision, f"it makes of {before.decision}: {now.decision}")
        elif before.decision == "ask" and self.firm:
            self._say("mode", None, "it does not change this ask: somebody insists on it")

    def _by_grants(self) -> None:
        if self.judged.decision != "ask":
            return
        grant = next(self._answers(), None) if self.layers.mode != "plan" else None
        if grant is None:
            self._say("grant", None, "no grant answers it")
            return
        left = "" if grant.remaining_uses is None else f", {grant.remaining_uses} left"
        self._say("grant", "allow", f"{grant.grant_id} answers it, given by {grant.granted_by}{left}")
        self._decide("allow", f"grant {grant.grant_id}", "")
        self.judged = replace(self.judged, grant_id=grant.grant_id)

    def _answers(self) -> Iterator[Grant]:
        """The grants that answer this call: the run's, then the session's own."""
        for layer in ("run", "session"):
            for each in self.layers.layers:
                for grant in each.grants if each.layer == layer else ():
                    exact = (grant.tool, grant.subject or "") == (self.tool.name, self.subject)
                    if exact and (grant.remaining_uses is None or grant.remaining_uses > 0):
                        yield grant


def _reason(decision: Decision) -> str:
    return DENIED if decision == "deny" else ""


def _label(layered: Layered) -> str:
    return layered.layer if layered.name is None else f"{layered.layer} {layered.name}"


def _shown(rule: Rule, characters: int | None = None) -> str:
    """A rule in words; its subject at most so long."""
    subject = rule.subject
    if subject is not None and characters is not None and len(subject) > characters:
        subject = f"{subject[:characters]}…"
    about = rule.tool if subject is None else f"{rule.tool} {subject!r}"
    return f"rule {about} {rule.decision}"
