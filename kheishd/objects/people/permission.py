"""Permissions: what counts in a place and why, changing it, and reading back how calls were judged.

``layers_of`` is what the run worker judges by. It reads what is in the store and in the configuration now, so
whatever is changed counts from the next judgement on; called inside the transaction that keeps the verdicts,
nothing can be changed in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never, cast

from msgspec.structs import replace

from kheishd.core.permissions.grants import change_rules, find_rules_problem
from kheishd.core.permissions.judge import HookOpinion, Layers, ToolFacts, effective_mode, explain
from kheishd.core.session import intersect_names
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.kernel.hook import Deny, NeedsAnswer, NeedsApproval, Tool
from kheishd.objects.pages import cursor_after, page_of
from kheishd.objects.talk.address import find_definition, find_run, find_session
from kheishd.objects.talk.bounds import ancestors, bounds_of, mode_of
from kheishd.records.writer import SessionWriter, StreamWriter
from kheishd.store.tables import PERMISSIONS, PINNED, SESSIONS
from protocol.errors.permission import GrantNotFound
from protocol.errors.rpc import InvalidParams
from protocol.errors.run import RunAlreadyEnded, RunNotFound
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded
from protocol.errors.token import ScopeWouldWiden
from protocol.events.permission import PermissionsChanged
from protocol.journal.envelope import DAEMON_STREAM
from protocol.objects import permission as rows
from protocol.objects.permission import (
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
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot, Transaction

# What counts in a place.


def layers_of(store: Snapshot, runtime: Runtime, session: Session, run: RunRecord | None = None) -> Layers:
    """Everything that a call in a session, or in one of its runs, is judged by now.

    Shape:  broadest first: managed, daemon, definitions and sessions from the root down, run.
    Source: the records of the session and those above it, the run's, and the configuration.
    """
    managed = runtime.config.permissions
    found = [
        LayerRules(layer="managed", rules=list(managed.rules), mode=managed.max_mode),
        LayerRules(layer="daemon", rules=_daemon_rules(store)),
    ]
    for each in (*reversed(ancestors(store, session)), session):
        found += _definition(runtime, each.agent, found)
        found.append(_parent(runtime, each) if each is not session else _own(runtime, session, run))
    if run is not None:
        if run.guest is not None:
            found += _definition(runtime, run.guest, found)
        # What it pinned is a mode: the text is what bounds_of gave.
        pinned = cast("PermissionMode", store.need(PINNED, run.run_id).permission_mode)
        found.append(
            LayerRules(layer="run", name=run.run_id, rules=run.rules, mode=pinned, grants=run.grants)
        )
    return Layers(tuple(found), effective_mode(found))


def _daemon_rules(store: Snapshot) -> list[Rule]:
    record = store.get(PERMISSIONS, DAEMON_STREAM)
    return record.rules if record is not None else []


def _parent(runtime: Runtime, session: Session) -> LayerRules:
    """A session further up: what was granted in it was not granted to its children."""
    mode = mode_of(runtime, session)
    return LayerRules(layer="parent", name=session.session_id, rules=session.rules, mode=mode)


def _own(runtime: Runtime, session: Session, run: RunRecord | None = None) -> LayerRules:
    speaker = runtime.definitions.get(run.guest) if run is not None and run.guest is not None else None
    return LayerRules(
        layer="session",
        name=session.session_id or None,
        rules=session.rules,
        mode=mode_of(runtime, session, speaker),
        grants=session.grants,
    )


def _definition(runtime: Runtime, agent: str, found: list[LayerRules]) -> list[LayerRules]:
    """The layer of an agent's definition, unless it is there already.

    Of an agent that is no longer defined nobody knows what it was denied: a person is asked, in any mode.
    """
    if any(each.name == agent and each.layer in ("definition", "managed") for each in found):
        return []
    definition = runtime.definitions.get(agent)
    if definition is not None:
        return [LayerRules(layer="definition", name=agent, rules=definition.permissions)]
    reason = f"the agent '{agent}' is no longer defined, so what it was denied is not known"
    return [LayerRules(layer="managed", name=agent, rules=[Rule(tool="*", decision="ask", note=reason)])]


def _find_place(
    store: Snapshot, call: Call, session_id: str | None, run_id: str | None, agent: str | None
) -> tuple[Session, RunRecord | None]:
    """The session and run that are meant; without either a session that is still to be made.

    Errors: SessionNotFound, RunNotFound, AgentNotFound, AgentForbidden, InvalidParams.
    """
    if agent is not None and (session_id is not None or run_id is not None):
        raise InvalidParams("'agent' is for a new session; a session has its own", field="$.params.agent")
    if run_id is not None:
        run = find_run(store, call, run_id)
        if session_id not in (None, run.session_id):
            raise RunNotFound(f"the session has no run '{run_id}'", field="$.params.run_id")
        session = store.need(SESSIONS, run.session_id)
        return session, run
    if session_id is not None:
        return find_session(store, call, session_id), None
    name = find_definition(call, agent).name
    return Session(session_id="", agent=name, status="open", created_at_ms=0, updated_at_ms=0), None


# What the walk must be told of a tool and of what a hook says.


def facts_of(tool: Tool) -> ToolFacts:
    """What must be known of a tool to judge a call of it."""
    return ToolFacts(tool.name, tool.kind, tool.default, tool.in_plan)


def opinion_of(said: Deny | NeedsApproval | NeedsAnswer | None) -> HookOpinion | None:
    """What a hook says, as the walk takes it. That a call is itself a question is no opinion about it."""
    match said:
        case Deny(reason):
            return HookOpinion("deny", reason)
        case NeedsApproval(reason):
            return HookOpinion("ask", reason)
        case NeedsAnswer() | None:
            return None
        case _:
            assert_never(said)


# Explaining.


@query(rows.WHY)
def why(call: Call, params: PermissionWhy) -> Explanation:
    """Judge a call that nobody makes, by the walk that judges those that are made."""
    with call.state.read() as store:
        session, run = _find_place(store, call, params.session_id, params.run_id, params.agent)
        layers = layers_of(store, call.runtime, session, run)
        tools = bounds_of(store, call.runtime, session).scope.tools
        if run is not None:
            tools = intersect_names(tools, store.need(PINNED, run.run_id).tools)
    if params.mode is not None:
        layers = _with_mode(layers, params.mode)
    tool = call.runtime.hooks.find_tool(params.tool)
    facts = facts_of(tool) if tool is not None else _unknown(params.tool)
    explanation = explain(facts, params.subject, layers)
    notes = []
    if tool is None:
        text = "no part of this daemon offers a tool of this name now; it is judged as one that asks"
        notes.append(ExplanationLine(source="tool", says=None, text=text))
    if tools is not None and params.tool not in tools:
        notes.append(
            ExplanationLine(
                source="scope", says=None, text="the tools in scope there do not include this one"
            )
        )
    return replace(explanation, lines=[*notes, *explanation.lines])


def _unknown(name: str) -> ToolFacts:
    """What is supposed of a tool that nobody offers: nothing good."""
    return ToolFacts(name, "execute", "ask")


def _with_mode(layers: Layers, mode: PermissionMode) -> Layers:
    """The layers as they were if the session had a mode of its own, within what bounds it."""
    changed_to = tuple(
        replace(each, mode=mode if each.layer == "session" else None)
        if each.layer in ("session", "run")
        else each
        for each in layers.layers
    )
    return Layers(changed_to, effective_mode(changed_to))


@query(rows.LIST)
def list_(call: Call, params: PermissionListParams) -> PermissionList:
    """The layers of a place, broadest first."""
    with call.state.read() as store:
        session, run = _find_place(store, call, params.session_id, params.run_id, params.agent)
        layers = layers_of(store, call.runtime, session, run).layers
    after = cursor_after(params.after) or 0
    found = (((number,), layered) for number, layered in enumerate(layers, 1) if number > after)
    chosen, following = page_of(found, params.limit, lambda layered: True)
    return PermissionList(chosen, following)


# Changing.


@mutation(rows.UPDATE)
def update(tx: Transaction, call: Call, params: PermissionUpdate) -> LayerRules:
    """Change the rules and grants of one layer; gives it as it is then.

    Errors: SessionNotFound, RunNotFound, SessionAlreadyEnded, RunAlreadyEnded, GrantNotFound,
    ScopeWouldWiden, InputTooLarge.
    """
    event = PermissionsChanged(add=params.add, remove=params.remove, revoke=params.revoke)
    if params.session_id is None and params.run_id is None:
        return _update_daemon(tx, call, event)
    session, run = _find_place(tx, call, params.session_id, params.run_id, None)
    if run is not None and run.status in ENDED:
        raise RunAlreadyEnded(f"the run {run.run_id} has ended: nothing of it will be judged any more")
    if session.status == "ended":
        raise SessionAlreadyEnded(f"the session {session.session_id} was ended and can no longer be changed")
    held = run or session
    _see_that_it_can_be(event, held.rules, held.grants)
    fold = SessionWriter(tx, session.session_id, session=session, run=run, origin=origin_of(call))
    if event.revoke or change_rules(held.rules, event) != held.rules:
        fold.append(event)
        fold.write()
    if run is None:
        return _own(call.runtime, fold.session)
    return layers_of(tx, call.runtime, fold.session, fold.run).layers[-1]


def _update_daemon(tx: Transaction, call: Call, event: PermissionsChanged) -> LayerRules:
    if not call.caller.unlimited:
        raise ScopeWouldWiden(
            "rules for the whole daemon concern every agent and sender, and the token covers only some; "
            "name a session or a run"
        )
    before = _daemon_rules(tx)
    _see_that_it_can_be(event, before, [])
    after = change_rules(before, event)
    if after != before:
        writer = StreamWriter(tx, DAEMON_STREAM, origin=origin_of(call))
        writer.append(event)
        after = writer.need(PERMISSIONS, DAEMON_STREAM).rules
        writer.write()
    return LayerRules(layer="daemon", rules=after)


def _see_that_it_can_be(event: PermissionsChanged, rules: list[Rule], grants: list[Grant]) -> None:
    """Errors: GrantNotFound, InputTooLarge."""
    there = {grant.grant_id for grant in grants}
    for number, grant_id in enumerate(event.revoke):
        if grant_id not in there:
            raise GrantNotFound(
                f"there is no grant '{grant_id}' there; 'kheishctl permission list' shows those there are",
                field=f"$.params.revoke[{number}]",
            )
    problem = find_rules_problem(change_rules(rules, event))
    if problem is not None and event.add:
        raise InputTooLarge(problem, field="$.params.add")


HANDLERS = (why, list_, update)
