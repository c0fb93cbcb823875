"""Permissions: the rules in force, changes of them, and explanations of verdicts.

The run worker judges by ``layers_of``. It reads the store and the configuration, so a change is effective
from the next tool call. The transaction that stores the verdicts calls it, which admits no change in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never, cast

from msgspec.structs import replace

from kheishd.core.permissions.claims import Claim
from kheishd.core.permissions.grants import change_rules, find_rules_problem
from kheishd.core.permissions.judge import (
    HookOpinion,
    Layers,
    ToolFacts,
    closed_patterns,
    effective_mode,
    explain,
    explain_origins,
    judge_claim,
)
from kheishd.core.scope import includes
from kheishd.core.skill import limiting_skills, skill_layers
from kheishd.core.trust import join_origins, rule_applies
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.kernel.hook import Deny, NeedsAnswer, NeedsApproval, SubjectReading, Tool, ToolError
from kheishd.objects.agents.skill import catalogue_of
from kheishd.objects.pages import cursor_after, page_of
from kheishd.objects.people.audience import requester_of
from kheishd.objects.talk.address import find_definition, find_run, find_session
from kheishd.objects.talk.bounds import ancestors, bounds_of, mode_of
from kheishd.records.run import read_pinned
from kheishd.records.writer import SessionWriter, StreamWriter
from kheishd.store.tables import PERMISSIONS, RUNS, SESSIONS
from protocol.audience import find_audience_problem
from protocol.errors.permission import GrantNotFound
from protocol.errors.rpc import InvalidParams
from protocol.errors.run import RunAlreadyEnded, RunNotFound
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded
from protocol.errors.token import ScopeWouldWiden
from protocol.events.permission import PermissionsChanged
from protocol.events.run import AgentsFilesLoaded
from protocol.journal.envelope import DAEMON_STREAM
from protocol.journal.line import decode_event
from protocol.objects import permission as rows
from protocol.objects.permission import (
    CallFacts,
    Explanation,
    ExplanationLine,
    Grant,
    LayerRules,
    PermissionList,
    PermissionListParams,
    PermissionMode,
    PermissionUpdate,
    PermissionWhy,
    Rule,
)
from protocol.objects.run import ENDED
from protocol.objects.session import Session

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from kheishd.core.run.record import RunRecord
    from kheishd.core.scope import Bounds
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.task import Task
    from protocol.transcript import InputOrigin

# Layers.


def layers_of(
    store: Snapshot,
    runtime: Runtime,
    session: Session,
    run: RunRecord | None = None,
    origins: Sequence[InputOrigin] = (),
) -> Layers:
    """Return the layers of rules that apply to calls in a session, or in one of its runs.

    Args:   ``origins`` are those of further inputs that the run is supposed to have read.
    """
    layers = _all_layers(store, runtime, session, run)
    own: list[InputOrigin] = run.origins if run is not None else []
    joined = join_origins(own or ["person"], session.origins, origins)
    if any(rule.origin is not None for layered in layers for rule in layered.rules):
        layers = [
            replace(layered, rules=[rule for rule in layered.rules if rule_applies(rule, joined)])
            for layered in layers
        ]
    asks_requester = any(
        rule.audience and rule.audience.requester for layer in layers for rule in layer.rules
    )
    return Layers(
        tuple(layers),
        effective_mode(layers),
        tuple(runtime.config.permissions.protected),
        tuple(joined),
        requester_of(store, session, run) if asks_requester and run is not None else (),
    )


def _all_layers(
    store: Snapshot, runtime: Runtime, session: Session, run: RunRecord | None = None
) -> list[LayerRules]:
    """Return the layers with the rules of all origins.

    Shape:  broadest first: managed, daemon, definitions, sessions and active skills from the root down, run.
    Source: the records of the session, of those above it and of the run, and the configuration.
    """
    managed = runtime.config.permissions
    layers = [
        LayerRules(layer="managed", rules=list(managed.rules), mode=managed.max_mode),
        LayerRules(layer="daemon", rules=_daemon_rules(store)),
    ]
    for parent in reversed(ancestors(store, session)):
        layers += _definition_layer(runtime, parent.agent, layers)
        # The grants of a parent are not inherited.
        mode = mode_of(runtime, parent)
        layers.append(LayerRules(layer="parent", name=parent.session_id, rules=parent.rules, mode=mode))
        layers += skill_layers(limiting_skills(parent))
    layers += _definition_layer(runtime, session.agent, layers)
    layers.append(_session_layer(runtime, session, run))
    layers += skill_layers(limiting_skills(session))
    if run is not None:
        if run.guest is not None:
            layers += _definition_layer(runtime, run.guest, layers)
        # The pinned text is a mode, because ``bounds_of`` returned it.
        mode = cast("PermissionMode", read_pinned(store, run).permission_mode)
        layers.append(LayerRules(layer="run", name=run.run_id, rules=run.rules, mode=mode, grants=run.grants))
    return layers


def closed_patterns_of(store: Snapshot, runtime: Runtime, task: Task) -> tuple[str, ...]:
    """Return the patterns of the paths that the rules keep from tools that read, for a task's command."""
    session = store.need(SESSIONS, task.moved_from or task.session_id)
    run = None if task.created_by_run_id is None else store.get(RUNS, task.created_by_run_id)
    readers = [tool.name for tool in runtime.hooks.tools() if tool.kind == "read"]
    return closed_patterns(readers, layers_of(store, runtime, session, run))


def _daemon_rules(store: Snapshot) -> list[Rule]:
    record = store.get(PERMISSIONS, DAEMON_STREAM)
    return record.rules if record is not None else []


def _session_layer(runtime: Runtime, session: Session, run: RunRecord | None = None) -> LayerRules:
    speaker = runtime.definitions.get(run.guest) if run is not None and run.guest is not None else None
    return LayerRules(
        layer="session",
        name=session.session_id or None,
        rules=session.rules,
        mode=mode_of(runtime, session, speaker),
        grants=session.grants,
    )


def _definition_layer(runtime: Runtime, agent: str, layers: Sequence[LayerRules]) -> list[LayerRules]:
    """Return the layer of an agent's definition, unless it is among the layers already.

    The deny rules of an agent that is no longer defined are unknown, so its calls ask a person in any mode.
    """
    if any(layer.name == agent and layer.layer in ("definition", "managed") for layer in layers):
        return []
    definition = runtime.definitions.get(agent)
    if definition is not None:
        return [LayerRules(layer="definition", name=agent, rules=definition.permissions)]
    note = f"the agent '{agent}' is no longer defined, so its deny rules are unknown"
    return [LayerRules(layer="managed", name=agent, rules=[Rule(tool="*", decision="ask", note=note)])]


def _find_subject(
    store: Snapshot, call: Call, session_id: str | None, run_id: str | None, agent: str | None
) -> tuple[Session, RunRecord | None]:
    """Return the session and the run that params name; without either, a session yet to be created.

    Errors: SessionNotFound, RunNotFound, AgentNotFound, AgentForbidden, InvalidParams.
    """
    if agent is not None and (session_id is not None or run_id is not None):
        raise InvalidParams("'agent' is for a new session; a session has its own", field="$.params.agent")
    if run_id is not None:
        run = find_run(store, call, run_id)
        if session_id not in (None, run.session_id):
            raise RunNotFound(f"the session has no run '{run_id}'", field="$.params.run_id")
        return store.need(SESSIONS, run.session_id), run
    if session_id is not None:
        return find_session(store, call, session_id), None
    name = find_definition(call, agent).name
    return Session(session_id="", agent=name, status="open", created_at_ms=0, updated_at_ms=0), None


@query(rows.LIST)
def list_(call: Call, params: PermissionListParams) -> PermissionList:
    """List the layers that apply to a session, a run or a new session, broadest first."""
    with call.state.read() as store:
        session, run = _find_subject(store, call, params.session_id, params.run_id, params.agent)
        layers = _all_layers(store, call.runtime, session, run)
    last = cursor_after(params.after) or 0
    numbered = (((number,), layer) for number, layer in enumerate(layers, 1) if number > last)
    page, following = page_of(numbered, params.limit, lambda layer: True)
    return PermissionList(page, following)


# Explain.


def facts_of(tool: Tool) -> ToolFacts:
    """Return the facts about a tool that verdicts on its calls depend on."""
    return ToolFacts(tool.name, tool.kind, tool.default, tool.in_plan)


def opinion_of(verdict: Deny | NeedsApproval | NeedsAnswer | None) -> HookOpinion | None:
    """Return a hook's verdict as an opinion. ``NeedsAnswer`` is none: the call is a question itself."""
    match verdict:
        case Deny(note):
            return HookOpinion("deny", note)
        case NeedsApproval(note, is_firm):
            return HookOpinion("ask", note, is_firm=is_firm)
        case NeedsAnswer() | None:
            return None
        case _:
            assert_never(verdict)


@query(rows.WHY)
def why(call: Call, params: PermissionWhy) -> Explanation:
    """Judge a hypothetical call exactly as a real one.

    Errors: SessionNotFound, RunNotFound, AgentNotFound, AgentForbidden, InvalidParams.
    """
    with call.state.read() as store:
        session, run = _find_subject(store, call, params.session_id, params.run_id, params.agent)
        layers = layers_of(store, call.runtime, session, run, params.origins)
        all_layers = _all_layers(store, call.runtime, session, run)
        lines = _explain_links(bounds_of(store, call.runtime, session), session, params)
        skills: Collection[str] = ()
        if params.item_kind == "skill":
            skills = catalogue_of(store, call.runtime, session, fresh=True)
        if run is not None and run.agents_files_cursor is not None:
            lines += _explain_agents_files(store, run)
        if run is not None and not includes(read_pinned(store, run).tools, params.tool):
            text = f"it did not have '{params.tool}' when it was accepted"
            lines.append(ExplanationLine(source=f"run {run.run_id}", says="deny", text=text))
    if params.item_kind != "tool":
        return _explain_item(call, params, lines, layers.mode, skills)
    if params.mode is not None:
        layers = _with_mode(layers, params.mode)
    tool = call.runtime.hooks.find_tool(params.tool)
    # An unknown tool is judged by the strictest facts.
    facts = facts_of(tool) if tool is not None else ToolFacts(params.tool, "execute", "ask")
    if tool is None:
        text = f"there is no tool '{params.tool}' now; it is judged as one that asks"
        lines.insert(0, ExplanationLine(source="tool", says=None, text=text))
    lines += explain_origins(facts, all_layers, layers.origins)
    # A command always has circumstances; another tool has none unless the caller names some.
    shown = params.facts or (None if facts.kind == "execute" else CallFacts())
    reading = _read_subject(tool, params.subject)
    claims = dict.fromkeys(Claim("network", subject) for subject in (shown.network if shown else ()))
    claims |= dict.fromkeys(reading.claims)
    if shown is not None:
        shown = replace(shown, network=[claim.subject for claim in claims])
    opinion = None if reading.problem is None else HookOpinion("deny", reading.problem)
    if reading.is_openable and judge_claim(facts, Claim("network", reading.subject), layers).exact:
        opinion = None
    explanation = explain(facts, reading.subject, layers, opinion, claims=list(claims), facts=shown)
    explanation = replace(explanation, lines=[*lines, *explanation.lines])
    hidden = next((line for line in lines if line.says == "deny"), None)
    if hidden is not None:
        explanation = replace(explanation, decision="deny", why=hidden.source, note=hidden.text)
    return explanation


def _explain_links(bounds: Bounds, session: Session, params: PermissionWhy) -> list[ExplanationLine]:
    """Return a line for each link that hides an item; for one that is no tool, a line for each link."""
    lines = []
    for link in bounds.links:
        if link.session_id == session.session_id:
            source = f"{link.kind} {link.name}".rstrip()
        else:
            owner = "" if link.kind == "session" else f" {link.kind} {link.name}"
            source = f"parent {link.session_id}{owner}"
        problem = link.find_problem(params.item_kind, params.tool)
        if params.item_kind == "member" and params.tool == session.agent:
            # An agent may always divide its own work.
            problem = None
        if problem is not None:
            lines.append(ExplanationLine(source=source, says="deny", text=problem))
        elif params.item_kind != "tool":
            lines.append(ExplanationLine(source=source, says="allow", text="it does not exclude it"))
    return lines


def _explain_item(
    call: Call,
    params: PermissionWhy,
    lines: list[ExplanationLine],
    mode: PermissionMode,
    skills: Collection[str],
) -> Explanation:
    """Return the explanation of an item that is no tool: the scopes alone decide. Errors: InvalidParams."""
    for field in ("subject", "mode", "facts"):
        if getattr(params, field):
            raise InvalidParams(f"'{field}' is for the call of a tool", field=f"$.params.{field}")
    existing: dict[str, Collection[str]] = {
        "route": call.runtime.routes,
        "member": call.runtime.definitions,
        "skill": skills,
    }
    if params.tool not in existing.get(params.item_kind, (params.tool,)):
        text = f"there is no {params.item_kind} '{params.tool}' now"
        lines = [ExplanationLine(source=params.item_kind, says="deny", text=text), *lines]
    deciding = next((line for line in lines if line.says == "deny"), lines[-1])
    decision = deciding.says or "allow"
    return Explanation(
        decision=decision,
        base=decision,
        why=deciding.source,
        note=deciding.text if decision == "deny" else "",
        mode=mode,
        mode_effect=None,
        grant_id=None,
        lines=lines,
    )


def _explain_agents_files(store: Snapshot, run: RunRecord) -> list[ExplanationLine]:
    """Return a line for every AGENTS.md that instructs a run. They allow nothing."""
    entry = store.entry(run.session_id, run.agents_files_cursor or 0)
    event = decode_event(entry[1]) if entry is not None else None
    files = event.files if isinstance(event, AgentsFilesLoaded) else []
    return [
        ExplanationLine(
            source="instructions",
            says=None,
            text=f"{file.path}: {file.problem or f'{file.read_bytes} bytes'}",
        )
        for file in files
    ]


def _read_subject(tool: Tool | None, subject: str) -> SubjectReading:
    """Return a call by its subject, as its tool reads it. Errors: InvalidParams."""
    methods = None if tool is None else tool.methods
    if not subject or methods is None or methods.read_subject is None:
        return SubjectReading(subject)
    try:
        return methods.read_subject(subject)
    except ToolError as error:
        raise InvalidParams(str(error), field="$.params.subject") from None


def _with_mode(layers: Layers, mode: PermissionMode) -> Layers:
    """Return the layers as if the session had this mode, within its bounds."""
    modes = {"session": mode, "run": None}
    changed = tuple(
        replace(layer, mode=modes[layer.layer]) if layer.layer in modes else layer for layer in layers.layers
    )
    return replace(layers, layers=changed, mode=effective_mode(changed))


# Change.


@mutation(rows.UPDATE)
def update(tx: Transaction, call: Call, params: PermissionUpdate) -> LayerRules:
    """Change the rules and grants of one layer, and return the layer.

    Errors: SessionNotFound, RunNotFound, SessionAlreadyEnded, RunAlreadyEnded, GrantNotFound,
    ScopeWouldWiden, InputTooLarge.
    """
    event = PermissionsChanged(add=params.add, remove=params.remove, revoke=params.revoke)
    if params.session_id is None and params.run_id is None:
        return _update_daemon(tx, call, event)
    session, run = _find_subject(tx, call, params.session_id, params.run_id, None)
    if run is not None and run.status in ENDED:
        text = f"the run {run.run_id} has ended; no more calls of it are judged"
        raise RunAlreadyEnded(text, field="$.params.run_id")
    if session.status == "ended":
        text = f"the session {session.session_id} was ended and can no longer be changed"
        raise SessionAlreadyEnded(
            text, field="$.params.session_id" if params.session_id else "$.params.run_id"
        )
    owner = run or session
    _require_applicable(event, owner.rules, owner.grants)
    writer = SessionWriter(tx, session.session_id, session=session, run=run, origin=origin_of(call))
    if event.revoke or change_rules(owner.rules, event) != owner.rules:
        writer.append(event)
        writer.write()
    if run is None:
        return _session_layer(call.runtime, writer.session)
    return _all_layers(tx, call.runtime, writer.session, writer.run)[-1]


def _update_daemon(tx: Transaction, call: Call, event: PermissionsChanged) -> LayerRules:
    """Change the rules of the daemon's layer. Errors: ScopeWouldWiden, GrantNotFound, InputTooLarge."""
    if not call.caller.is_unrestricted:
        raise ScopeWouldWiden(
            "rules of the daemon apply to every agent and sender, and the token covers only some; "
            "name a session or a run"
        )
    rules = _daemon_rules(tx)
    _require_applicable(event, rules, [])
    if change_rules(rules, event) != rules:
        writer = StreamWriter(tx, DAEMON_STREAM, origin=origin_of(call))
        writer.append(event)
        rules = writer.need(PERMISSIONS, DAEMON_STREAM).rules
        writer.write()
    return LayerRules(layer="daemon", rules=rules)


def _require_applicable(event: PermissionsChanged, rules: list[Rule], grants: list[Grant]) -> None:
    """Reject a change that revokes an unknown grant, or adds too many rules or an unusable audience.

    Errors: GrantNotFound, InputTooLarge, InvalidParams.
    """
    for index, rule in enumerate(event.add):
        problem = find_audience_problem(rule.decision, rule.audience)
        if problem is not None:
            raise InvalidParams(problem, field=f"$.params.add[{index}].audience")
    grant_ids = {grant.grant_id for grant in grants}
    for index, grant_id in enumerate(event.revoke):
        if grant_id not in grant_ids:
            text = f"the layer has no grant '{grant_id}'; permission.list names its grants"
            raise GrantNotFound(text, field=f"$.params.revoke[{index}]")
    problem = find_rules_problem(change_rules(rules, event))
    if problem is not None and event.add:
        raise InputTooLarge(problem, field="$.params.add")


HANDLERS = (why, list_, update)
