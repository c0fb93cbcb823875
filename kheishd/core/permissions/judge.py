"""Permission judging: one walk both decides a call and explains the decision. Pure.

Rules come first. Each layer says deny, ask, allow or nothing: the strictest of its matching rules. Across
layers, the strictest counts as well: a narrower layer never loosens a broader one. If no layer has a matching
rule, the tool's default applies. Of the definitions, only the first (the agent of the root session) may
replace the default by something looser. A definition further down belongs to an agent that another agent may
have called, so it can only be stricter; else an agent could do through another what it may not do itself.

An ask may name the people who answer it, its audience. Such an ask is firm, and those of several rules meet
(``core/audience.py``). A grant answers it only if it came from the same audience or a narrower one.

Then follow, in this order: a hook's opinion, the permission mode and the grants. Each acts on the result so
far. A deny is final. An ask by the managed layer or by a hook is *firm*, too: no mode turns it into an allow.

A rule's subject is compared with the call's as text, and ``*`` matches any text. A command line is read, and
each of its simple commands is judged as a claim of its own (``claims.py``): an allow with a ``*`` holds for a
command that is understood, and an allow of a path with ``..`` in it does not hold. A deny or an ask holds for
those, too.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, Literal, assert_never

from msgspec.structs import replace

from kheishd.core.audience import format_audience, is_same_or_wider, narrow
from kheishd.core.permissions.claims import (
    NETWORK,
    Claim,
    claims_of_command,
    host_of,
    matches_destination,
    matches_subject,
    may_both_match,
)
from kheishd.core.permissions.protected import is_protected
from kheishd.core.trust import rule_applies
from protocol.audience import Audience
from protocol.lazy import lazy_pattern
from protocol.objects.permission import (
    MODES,
    CallFacts,
    ClaimExplanation,
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
from protocol.text import truncate
from protocol.transcript import InputOrigin

STRICTNESS: Final[tuple[Decision, ...]] = ("allow", "ask", "deny")
"""From the loosest to the strictest."""

_UPWARD: Final = lazy_pattern(r"(^|/)\.\.(/|$)")

# A verdict names the deciding rule, and one transaction holds 32 verdicts: long subjects are truncated.
MAX_SUBJECT_CHARACTERS: Final = 64

# Denials without a note of their own, as the model reads them.
SOURCE_TOOLS: Final = ("subscribe_event", "wait_for_event")
"""The tools whose subject is a pattern of the sources of events."""

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
    """A hook's opinion about one call: deny it, or ask a person even if the rules allow it.

    An ask that is not ``is_firm`` changes nothing but the mode acceptEdits, which does not allow the edit.
    """

    decision: Literal["ask", "deny"]
    note: str
    is_firm: bool = True


class Layers(Value, frozen=True):
    """The permission layers of a run or session, broadest first, and its effective mode.

    ``protected`` are more paths, as patterns, that a person is asked about even in the mode ``acceptEdits``.
    ``origins`` are those of everything that the run has read; rules for other origins are left out.
    ``requester`` are the names of the person whose message began the run, if a rule's audience needs them.
    """

    layers: tuple[LayerRules, ...]
    mode: PermissionMode
    protected: tuple[str, ...] = ()
    origins: tuple[InputOrigin, ...] = ("person",)
    requester: tuple[str, ...] = ()


class Ruling(Value, frozen=True):
    """The decision about a call; ``base`` is that of the rules alone, ``why`` names the deciding part.

    ``note`` is for the person who is asked or the model that is denied. ``grant_id`` is the grant that was
    used: the event with the verdict counts it down. ``exact``: a rule without a ``*`` names the destination.
    ``audience`` are the people who may answer an ask; None: anyone. ``approval_id`` is the approval that
    created the grant.
    """

    decision: Decision
    base: Decision
    why: str
    note: str = ""
    mode: PermissionMode = "default"
    mode_effect: ModeEffect | None = None
    grant_id: str | None = None
    exact: bool = False
    audience: Audience | None = None
    approval_id: str | None = None


def judge(
    tool: ToolFacts,
    subject: str,
    layers: Layers,
    opinion: HookOpinion | None = None,
    *,
    claims: Sequence[Claim] = (),
    facts: CallFacts | None = None,
) -> Ruling:
    """Decide about a call of a tool.

    Args:   ``subject`` is the whole subject, as the tool's sub-hook names it, and ``claims`` are the call's
            further claims. ``facts`` are the circumstances that a person would be shown; None: they are not
            known, and no grant answers for them.
    """
    return _Walk(tool, [*_claims_of_call(tool, subject), *claims], layers, opinion, facts).ruling


def judge_claim(tool: ToolFacts, claim: Claim, layers: Layers) -> Ruling:
    """Decide about a claim of a call that runs already, such as a connection; grants do not count."""
    ruling = _Walk(tool, _claims_alone(tool, claim), layers).ruling
    return replace(ruling, exact=ruling.decision != "deny" and _is_named(tool, claim, layers))


def _is_named(tool: ToolFacts, claim: Claim, layers: Layers) -> bool:
    """Whether a rule names a claim without a ``*``, to allow it or to ask. The root's definition counts."""
    definitions = [layered for layered in layers.layers if layered.layer == "definition"]
    return any(
        rule.decision != "deny"
        and "*" not in (rule.subject or "*")
        and find_match(rule, tool, claim) == (True, None)
        for layered in layers.layers
        if layered not in definitions[1:]
        for rule in layered.rules
    )


def explain(
    tool: ToolFacts,
    subject: str,
    layers: Layers,
    opinion: HookOpinion | None = None,
    *,
    claims: Sequence[Claim] = (),
    facts: CallFacts | None = None,
) -> Explanation:
    """Decide about a call like :func:`judge`, and return a line for every part that was considered.

    A ``subject`` that is a destination, ``net:HOST:PORT``, is judged like a connection of a running call.
    """
    if subject.startswith(NETWORK) and not claims:
        alone = _claims_alone(tool, Claim("network", subject))
        walk = _Walk(tool, alone, layers, opinion, facts)
    else:
        walk = _Walk(tool, [*_claims_of_call(tool, subject), *claims], layers, opinion, facts)
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
        claims=walk.explained,
        audience=ruling.audience,
    )


def _claims_of_call(tool: ToolFacts, subject: str) -> list[Claim]:
    return claims_of_command(subject) if tool.kind == "execute" and subject else [Claim("call", subject)]


def _claims_alone(tool: ToolFacts, claim: Claim) -> list[Claim]:
    """Return the claims by which a destination is judged alone. To fetch from a host is to connect to it."""
    return [Claim("call", host_of(claim)), claim] if tool.kind == "fetch" else [claim]


def explain_origins(
    tool: ToolFacts, layers: Iterable[LayerRules], origins: Sequence[InputOrigin]
) -> list[ExplanationLine]:
    """Return a line for every rule about a tool that does not apply to a run with these origins."""
    read = ", ".join(origins)
    return [
        ExplanationLine(
            source=_label(layered), says=None, text=f"{_format_rule(rule)} does not apply: read was {read}"
        )
        for layered in layers
        for rule in layered.rules
        if matches_tool(rule.tool, tool.name) and not rule_applies(rule, origins)
    ]


def has_grants(layers: Layers, tool: ToolFacts, subject: str) -> bool:
    """Whether a grant for a tool and a subject exists: whether it holds depends on the circumstances."""
    return any(_grants_of(layers, tool, subject))


def closed_patterns(tools: Collection[str], layers: Layers) -> tuple[str, ...]:
    """Return the patterns of paths that rules keep from one of the tools that read: by a deny, or an ask.

    Neither a search nor a command may show the content of such a file. Rules without a subject are about
    tools, not paths.
    """
    patterns = {
        rule.subject: None
        for layer in layers.layers
        for rule in layer.rules
        if rule.decision != "allow"
        and rule.subject is not None
        and any(matches_tool(rule.tool, tool) for tool in tools)
    }
    return tuple(patterns)


def is_path_closed(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path matches one of the patterns of closed paths."""
    return any(matches_subject(pattern, path) for pattern in patterns)


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


def find_match(rule: Rule, tool: ToolFacts, claim: Claim) -> tuple[bool, str | None]:
    """Return whether a rule matches a claim and, if it does not hold all the same, the reason.

    A rule without a subject is about the call. The subject of an edit may be several paths, one per line: a
    deny or an ask matches if one of the paths does, an allow only if all of them do. Where the subject is a
    pattern of sources, a deny or an ask matches if the two patterns have a source in common.
    """
    pattern = rule.subject
    if not matches_tool(rule.tool, tool.name):
        return False, None
    if pattern is None:
        return claim.kind == "call", None
    if claim.kind == "network" or pattern.startswith(NETWORK):
        both = claim.kind == "network" and pattern.startswith(NETWORK)
        return both and matches_destination(pattern, claim.subject), None
    if tool.kind == "execute":
        return _find_command_match(rule, pattern, claim)
    if tool.name in SOURCE_TOOLS and rule.decision != "allow" and claim.subject.endswith("*"):
        literal, stem = pattern.partition("*")[0], claim.subject[:-1]
        return literal.startswith(stem) or ("*" in pattern and stem.startswith(literal)), None
    paths = claim.subject.split("\n") if tool.kind == "edit" else [claim.subject]
    quantifier = all if rule.decision == "allow" else any
    distrusted = rule.decision == "allow" and "*" in pattern and _UPWARD.search(claim.subject)
    matches = quantifier(matches_subject(pattern, path) for path in paths)
    return matches, "the path contains '..'" if distrusted else None


def _find_command_match(rule: Rule, pattern: str, claim: Claim) -> tuple[bool, str | None]:
    """Return whether a rule matches a command, or a command line, and why it does not hold.

    A deny or an ask matches any of the texts. An allow without a ``*`` is for the line or the command as it
    is; an allow with a ``*`` needs a command that is understood, and whose dangerous words the rule names.
    """
    texts = [claim.subject, *(reading.text for reading in claim.readings)]
    if rule.decision != "allow":
        return any(matches_subject(pattern, text) for text in (*texts, *claim.aliases)), None
    if not claim.is_complete:
        return False, None
    if "*" not in pattern:
        return pattern in texts, None
    literal = pattern.partition("*")[0]
    problem = None
    for reading in claim.readings:
        if matches_subject(pattern, reading.text):
            problem = reading.problem
            if problem is None and not literal.startswith(reading.named):
                problem = f"its text before the '*' must contain {_shorten(reading.named)!r}"
            if problem is None:
                return True, None
    if problem is None and claim.problem is not None and matches_subject(pattern, claim.subject):
        problem = claim.problem
    return problem is not None, problem


# The walk.


class _Walk:
    """One walk through everything that decides about a call; produces ``lines`` and a ``ruling``.

    Without a claim of the kind "call", the call runs already, and only its further claims are judged.
    """

    def __init__(
        self,
        tool: ToolFacts,
        claims: Sequence[Claim],
        layers: Layers,
        opinion: HookOpinion | None = None,
        facts: CallFacts | None = None,
    ) -> None:
        self.tool = tool
        self.claims = claims
        self.layers = layers
        self.facts = facts
        self.lines: list[ExplanationLine] = []
        self.explained: list[ClaimExplanation] = []
        self.firm = False
        self.asks_for_network = False
        self.caution: str | None = None
        self.audiences: list[Audience] = []
        self.ruling = self.judge_claims()
        self.ruling = replace(self.ruling, audience=narrow(self.audiences, layers.requester))
        if opinion is not None and not opinion.is_firm:
            self._explain("hook", None, opinion.note)
            self.caution, opinion = opinion.note, None
        if opinion is not None:
            self._explain("hook", opinion.decision, opinion.note)
            if STRICTNESS.index(opinion.decision) > STRICTNESS.index(self.ruling.decision):
                self._decide(opinion.decision, "hook", opinion.note)
            self.firm = self.firm or opinion.decision == "ask"
        self._apply_mode(asked_by_hook=opinion is not None and opinion.decision == "ask")
        if self.audiences and self.ruling.decision == "ask":
            self._explain("audience", None, f"may be answered by {format_audience(self.ruling.audience)}")
        self._apply_grants()

    @property
    def subject(self) -> str | None:
        """The subject of the call; None if the call runs already."""
        return next((claim.subject for claim in self.claims if claim.kind == "call"), None)

    def _explain(self, source: str, says: Decision | None, text: str) -> None:
        self.lines.append(ExplanationLine(source=source, says=says, text=text))

    def _decide(self, decision: Decision, why: str, note: str, effect: ModeEffect | None = None) -> None:
        self.ruling = replace(self.ruling, decision=decision, why=why, note=note, mode_effect=effect)

    # Rules.

    def judge_claims(self) -> Ruling:
        """Judge each claim by the rules, and return the first of the strictest rulings.

        A claim without a matching rule has the default, unless a rule about the call speaks for it: for the
        commands of a command line, and for the destination of a call that only fetches. In the same way, the
        rules about those speak for a call without a matching rule.
        """
        default = self.tool.default
        self._explain("tool", default, f"default without a matching rule: {default}")
        rulings = [(claim, self.apply_rules(claim)) for claim in self.claims]
        spoken_for = any(claim.kind == "call" and ruling is not None for claim, ruling in rulings)
        represented = any(claim.is_complete and self._represents_call(claim) for claim in self.claims)
        judged: list[Ruling] = []
        for claim, ruling in rulings:
            if ruling is None:
                if not claim.is_complete:
                    continue
                if represented if claim.kind == "call" else spoken_for and self._represents_call(claim):
                    continue
                ruling = self._default_of(claim)
            judged.append(ruling)
            self.asks_for_network |= claim.kind == "network" and ruling.decision == "ask"
            if len(self.claims) > 1 or claim.words:
                problem = claim.problem or next((reading.problem for reading in claim.readings), None)
                view = ClaimExplanation(
                    kind=claim.kind,
                    subject=claim.subject,
                    says=ruling.decision,
                    why=ruling.why,
                    words=list(claim.words),
                    problem=problem,
                )
                self.explained.append(view)
        return max(judged, key=lambda ruling: STRICTNESS.index(ruling.decision))

    def _represents_call(self, claim: Claim) -> bool:
        """Whether a claim and the call say the same, so that a rule about one speaks for the other."""
        return claim.kind == "command" or (claim.kind == "network" and self.tool.kind == "fetch")

    def _default_of(self, claim: Claim) -> Ruling:
        default, source = self.tool.default, f"{self.tool.name}'s default"
        if claim.kind == "network" and default != "deny":
            default, source = "ask", "the network's default"
        ruling = Ruling(default, default, source, _default_note(default), self.layers.mode)
        return _name_claim(ruling, claim)

    def apply_rules(self, claim: Claim) -> Ruling | None:
        """Return the ruling of the rules about a claim; None if they leave it to the default."""
        if claim.kind != "call":
            self._explain(claim.kind, None, claim.subject)
        elif claim.problem is not None:
            self._explain("command", None, claim.problem)
        rules = [
            (rule, layered)
            for layered in self.layers.layers
            if (rule := self.find_strictest(layered, claim)) is not None
        ]
        self.firm |= any(layered.layer == "managed" and rule.decision == "ask" for rule, layered in rules)
        if not rules:
            return None
        default = self._default_of(claim).decision
        rule, layered = max(rules, key=lambda pair: STRICTNESS.index(pair[0].decision))
        root = next((layer for layer in self.layers.layers if layer.layer == "definition"), None)
        # Only the root's definition, among definitions, may be looser than the tool's default.
        may_loosen = any(layer.layer != "definition" or layer is root for _, layer in rules)
        if STRICTNESS.index(rule.decision) < STRICTNESS.index(default) and not may_loosen:
            self._explain("tool", default, "an agent called by another agent can only be stricter than this")
            return None
        why = f"{_label(layered)} {_format_rule(rule, MAX_SUBJECT_CHARACTERS)}"
        note = rule.note or _default_note(rule.decision)
        return _name_claim(Ruling(rule.decision, rule.decision, why, note, self.layers.mode), claim)

    def find_strictest(self, layered: LayerRules, claim: Claim) -> Rule | None:
        """Return the first of the strictest rules of a layer that hold; explain every matching rule."""
        if layered.layer == "skill":
            limit = self.find_limit(layered, claim)
            layered = replace(layered, rules=[rule for rule in layered.rules if rule.decision != "allow"])
            if limit is not None:
                return limit
        holding: list[Rule] = []
        for rule in layered.rules:
            matches, distrust = find_match(rule, self.tool, claim)
            if not matches:
                continue
            if distrust is None and rule.decision == "allow" and claim.has_pattern:
                distrust = self.find_hidden(rule, claim)
            if distrust is None:
                holding.append(rule)
                if rule.audience is not None and rule.decision == "ask":
                    self.audiences.append(rule.audience)
                    self.firm = True
                note = f": {rule.note}" if rule.note else ""
                self._explain(_label(layered), rule.decision, f"{_format_rule(rule)}{note}")
            else:
                self._explain(_label(layered), None, f"{_format_rule(rule)} does not hold: {distrust}")
        if not holding and claim.kind == "call":
            self._explain(_label(layered), None, "no matching rule" if layered.rules else "no rules")
        return max(holding, key=lambda rule: STRICTNESS.index(rule.decision), default=None)

    def find_limit(self, layered: LayerRules, claim: Claim) -> Rule | None:
        """Return the deny by a skill that allows the tool for certain subjects only, none of which matches.

        The commands of a line are judged one by one if the line is understood, and the whole line if not.
        """
        rules = [rule for rule in layered.rules if matches_tool(rule.tool, self.tool.name)]
        rules = [rule for rule in rules if rule.decision == "allow"]
        if not rules or claim.kind == "network" or not claim.is_complete:
            return None
        if claim.kind == "call" and any(c.kind == "command" and c.is_complete for c in self.claims):
            return None
        for rule in rules:
            matches, distrust = find_match(rule, self.tool, claim)
            if matches and distrust is None and not (claim.has_pattern and self.find_hidden(rule, claim)):
                self._explain(_label(layered), None, f"{_format_rule(rule)}: the skill does not refuse this")
                return None
        subjects = ", ".join(_shorten(rule.subject or "*") for rule in rules)
        limit = Rule(
            tool=self.tool.name,
            decision="deny",
            note=f"the active {_label(layered)} allows {self.tool.name} only for: {truncate(subjects, 512)}",
        )
        self._explain(_label(layered), "deny", limit.note)
        return limit

    def find_hidden(self, allow: Rule, claim: Claim) -> str | None:
        """Return why an allow does not hold for a command with a pattern of files: a deny may match them."""
        if allow.subject is None or "*" not in allow.subject:
            return None
        for layered in self.layers.layers:
            for rule in layered.rules:
                is_stricter = rule.decision != "allow" and matches_tool(rule.tool, self.tool.name)
                if is_stricter and rule.subject is not None and may_both_match(rule.subject, claim.subject):
                    return f"the file names of the command may match {_format_rule(rule)}"
        return None

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
                if (self.subject is not None and not self.tool.in_plan) or asked_by_hook:
                    self._decide("deny", "mode plan", DENIED_IN_PLAN, "denied_in_plan")
                elif previous.decision == "ask" and (self.tool.kind == "fetch" or self.asks_for_network):
                    self._decide("deny", "mode plan", DENIED_FETCH_IN_PLAN, "denied_in_plan")
            case "dontAsk":
                if previous.decision == "ask":
                    note = f"{DENIED_UNASKED}: {previous.note}" if previous.note else DENIED_UNASKED
                    self._decide("deny", "mode dontAsk", note, "ask_denied")
            case "acceptEdits":
                if previous.decision == "ask" and not self.firm and self.tool.kind == "edit":
                    problem = self.caution or self._find_protected()
                    if problem is None:
                        self._decide("allow", "mode acceptEdits", "", "edit_allowed")
                    else:
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
            requiring = "an audience requires" if self.audiences else "the managed rules or a hook require"
            self._explain("mode", None, f"the mode does not change this ask: {requiring} it")

    def _find_protected(self) -> str | None:
        """Return why the mode does not allow an edit: its first path that is protected; None if none is."""
        return next(
            (
                f"other programs execute or obey {path}"
                for path in (self.subject or "").split("\n")
                if is_protected(path)
                or any(matches_subject(pattern, path) for pattern in self.layers.protected)
            ),
            None,
        )

    def _apply_grants(self) -> None:
        if self.ruling.decision != "ask" or self.subject is None:
            return
        grants = _grants_of(self.layers, self.tool, self.subject) if self.layers.mode != "plan" else ()
        for grant in grants:
            shown = grant.facts or CallFacts()
            if shown != self.facts:
                self._explain("grant", None, f"{grant.grant_id} holds only {format_facts(shown)}")
                continue
            if not is_same_or_wider(self.ruling.audience, grant.audience):
                granted_by = format_audience(grant.audience)
                self._explain("grant", None, f"{grant.grant_id} is of another audience: {granted_by}")
                continue
            uses = "" if grant.remaining_uses is None else f", {grant.remaining_uses} uses left"
            self._explain("grant", "allow", f"{grant.grant_id} of {grant.granted_by} matches{uses}")
            self._decide("allow", f"grant {grant.grant_id}", "")
            self.ruling = replace(self.ruling, grant_id=grant.grant_id, approval_id=grant.approval_id)
            return
        self._explain("grant", None, "no matching grant")


def _grants_of(layers: Layers, tool: ToolFacts, subject: str) -> Iterator[Grant]:
    """Yield the usable grants for exactly this tool and subject: the run's, then the session's own."""
    for source in ("run", "session"):
        for layered in layers.layers:
            for grant in layered.grants if layered.layer == source else ():
                usable = grant.remaining_uses is None or grant.remaining_uses > 0
                if usable and (grant.tool, grant.subject or "") == (tool.name, subject):
                    yield grant


def format_facts(facts: CallFacts) -> str:
    """Format the circumstances of a call for a person."""
    parts = [
        *([f"in {facts.workdir}"] if facts.workdir is not None else []),
        *(["in the background"] if facts.background else []),
        *([f"with the sandbox {facts.sandbox}"] if facts.sandbox is not None else []),
        *([f"with the network {', '.join(facts.network)}"] if facts.network else []),
        *(f"with {text}" for text in facts.other),
    ]
    return ", ".join(parts) or "for a call without further circumstances"


def _name_claim(ruling: Ruling, claim: Claim) -> Ruling:
    """Return a ruling whose ``why`` names the claim, if that is not the call itself."""
    if claim.kind == "call":
        return ruling
    return replace(ruling, why=f"{ruling.why}, for {_shorten(claim.subject)!r}")


def _shorten(subject: str) -> str:
    return f"{subject[:MAX_SUBJECT_CHARACTERS]}…" if len(subject) > MAX_SUBJECT_CHARACTERS else subject


def _default_note(decision: Decision) -> str:
    return DENIED if decision == "deny" else ""


def _label(layered: LayerRules) -> str:
    return layered.layer if layered.name is None else f"{layered.layer} {layered.name}"


def _format_rule(rule: Rule, max_characters: int | None = None) -> str:
    subject = rule.subject
    parts = ["rule", rule.tool, rule.decision]
    if subject is not None:
        if max_characters is not None and len(subject) > max_characters:
            subject = f"{subject[:max_characters]}…"
        parts.insert(2, repr(subject))
    return " ".join(parts) + (f" for the origin {rule.origin}" if rule.origin is not None else "")
