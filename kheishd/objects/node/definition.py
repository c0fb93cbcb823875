"""Definitions: the agents from ``agents/*.md`` and from the store, and the built-in one.

A stored definition takes effect when its transaction is committed: the runtime's definitions are replaced,
and nothing else of it (``kheishd/reload.py``). A file of the same name comes first.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.config.validation import Problem
from kheishd.core.definition import (
    DefinitionError,
    InvalidSettings,
    locate_settings,
    make_definition,
    parse,
)
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.objects.node.mcp import require_unrestricted
from kheishd.objects.node.names import find_unknown_names
from kheishd.objects.pages import page_of
from kheishd.objects.storable import require_storable
from kheishd.objects.talk.workspace import resolve
from kheishd.records.writer import StreamWriter
from kheishd.store.tables import DEFINITIONS
from protocol.errors.definition import AgentNotFound, DefinitionInvalid, DefinitionLimit, DefinitionReadOnly
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import WorkspaceForbidden
from protocol.events.definition import DefinitionDeleted, DefinitionStored
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.definition import MAX_DEFINITION_BYTES, MAX_STORED_DEFINITIONS
from protocol.objects import definition as rows
from protocol.objects.definition import (
    Definition,
    DefinitionDelete,
    DefinitionList,
    DefinitionListParams,
    DefinitionPut,
    DefinitionRef,
    DefinitionSettings,
    DeletedDefinition,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kheishd.core.workspace import Workspaces
    from kheishd.kernel.runtime import RouteSpec
    from kheishd.store.environment import Snapshot, Transaction


@query(rows.LIST)
def list_definitions(call: Call, params: DefinitionListParams) -> DefinitionList:
    """List the agents that the caller may use, by name."""
    definitions = call.runtime.definitions
    names = (name for name in sorted(definitions) if params.after is None or name > params.after)
    agents = (((name,), definitions[name]) for name in names)
    page, following = page_of(agents, params.limit, lambda agent: call.caller.may_read_agent(agent.name))
    with call.state.read() as store:
        warnings = dict(find_unknown_names(store, call.runtime, page))
    page = [replace(agent, warnings=warnings.get(agent.name, [])) for agent in page]
    return DefinitionList(page, following)


@query(rows.GET)
def get_definition(call: Call, params: DefinitionRef) -> Definition:
    """Show an agent. Errors: AgentNotFound, also for one that the caller's token does not cover."""
    agent = call.runtime.definitions.get(params.name)
    if agent is None or not call.caller.may_read_agent(params.name):
        raise _not_found(call, params.name)
    with call.state.read() as store:
        return _with_warnings(store, call, agent)


def _with_warnings(store: Snapshot, call: Call, agent: Definition) -> Definition:
    """Return a definition as shown, with the names that it mentions and that do not exist."""
    warnings = dict(find_unknown_names(store, call.runtime, [agent]))
    return replace(agent, warnings=warnings.get(agent.name, []))


def _not_found(call: Call, name: str) -> AgentNotFound:
    names = ", ".join(sorted(filter(call.caller.may_read_agent, call.runtime.definitions))[:8]) or "none"
    return AgentNotFound(f"there is no agent '{name}'; the agents are: {names}", field="$.params.name")


# Change.


def prepare_put(call: Call, params: DefinitionPut) -> tuple[Definition, Definition]:
    """Return the definition that params describe, as it is stored and with its workspace resolved.

    Errors: AgentForbidden, DefinitionReadOnly, DefinitionInvalid, InvalidParams, InputTooLarge,
    ScopeWouldWiden.
    """
    call.caller.require_agent(params.name, "$.params.name")
    _require_no_file(call, params.name, "choose another name, or edit the file and reload")
    if (params.text is None) == (params.settings is None and params.instructions is None):
        raise InvalidParams("give either 'text', or 'settings' and 'instructions'", field="$.params.text")
    field = "$.params.settings" if params.text is None else "$.params.text"
    try:
        if params.text is not None:
            agent = parse(params.name, params.text.encode(), None)
        else:
            settings = params.settings or DefinitionSettings()
            agent = make_definition(params.name, settings, params.instructions or "", None)
        completed = complete_definition(agent, call.runtime.routes, call.runtime.workspaces)
    except DefinitionError as error:
        raise DefinitionInvalid(str(error), field=field) from None
    except InvalidSettings as error:
        if params.text is not None:
            located = locate_settings(params.text.encode(), error)
            raise DefinitionInvalid(str(located), field=field) from None
        key = error.problems[0].path
        raise DefinitionInvalid(str(error), field=f"{field}.{key[0]}" if key else field) from None
    if agent.mcp_servers:
        require_unrestricted(call)
    require_storable(agent, MAX_DEFINITION_BYTES, "definition", field)
    return agent, completed


@mutation(rows.PUT, prepare=prepare_put)
def put_definition(tx: Transaction, call: Call, plan: tuple[Definition, Definition]) -> Definition:
    """Store a definition. Errors: DefinitionLimit."""
    agent, completed = plan
    stored = tx.get(DEFINITIONS, agent.name)
    if stored is None and tx.count(DEFINITIONS) >= MAX_STORED_DEFINITIONS:
        raise DefinitionLimit(
            f"the store has {MAX_STORED_DEFINITIONS} definitions, the maximum; delete some, or use files"
        )
    if stored is None or stored.definition != agent:
        writer = StreamWriter(tx, DAEMON_STREAM, origin=origin_of(call))
        writer.append(DefinitionStored(definition=agent))
        writer.write()
    return _with_warnings(tx, call, completed)


@mutation(rows.DELETE)
def delete_definition(tx: Transaction, call: Call, params: DefinitionDelete) -> DeletedDefinition:
    """Delete a stored definition, also one that a file hides.

    Errors: AgentForbidden, AgentNotFound, DefinitionReadOnly.
    """
    call.caller.require_agent(params.name, "$.params.name")
    if tx.get(DEFINITIONS, params.name) is None:
        _require_no_file(call, params.name, "remove the file and reload")
        agent = call.runtime.definitions.get(params.name)
        if agent is not None and agent.source == "built_in":
            text = f"the agent '{params.name}' is built in; a file or a stored definition replaces it"
            raise DefinitionReadOnly(text, field="$.params.name")
        raise _not_found(call, params.name)
    writer = StreamWriter(tx, DAEMON_STREAM, origin=origin_of(call))
    writer.append(DefinitionDeleted(name=params.name))
    writer.write()
    return DeletedDefinition(params.name)


def _require_no_file(call: Call, name: str, remedy: str) -> None:
    """Reject a name that a file defines. Errors: DefinitionReadOnly."""
    agent = call.runtime.definitions.get(name)
    if agent is not None and agent.source == "file":
        text = f"the file {agent.path} defines the agent '{name}'; {remedy}"
        raise DefinitionReadOnly(text, field="$.params.name")


def complete_definition(
    agent: Definition, routes: Mapping[str, RouteSpec], workspaces: Workspaces
) -> Definition:
    """Return an agent with its workspace resolved.

    Errors: InvalidSettings for a route that does not exist or a workspace that agents may not have.
    """
    if agent.route is not None and agent.route not in routes:
        known = ", ".join(sorted(routes))
        raise InvalidSettings([Problem(("route",), f"no route '{agent.route}'; configured routes: {known}")])
    if agent.workspace is None:
        return agent
    try:
        # A relative workspace begins at the root.
        workspace = resolve(os.path.expanduser(agent.workspace), workspaces.root)
        if workspace is None:
            raise WorkspaceForbidden("the path is too long or has unprintable characters")
        workspaces.require_allowed(workspace)
    except WorkspaceForbidden as refusal:
        raise InvalidSettings([Problem(("workspace",), refusal.message)]) from None
    return replace(agent, workspace=workspace)


HANDLERS = (list_definitions, get_definition, put_definition, delete_definition)
