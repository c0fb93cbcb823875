"""Definitions: the agents there are, from ``agents/*.md`` and built in."""

from kheishd.kernel.call import Call, query
from kheishd.objects.pages import page_of
from protocol.errors.definition import AgentNotFound
from protocol.objects import definition as rows
from protocol.objects.definition import Definition, DefinitionList, DefinitionListParams, DefinitionRef


@query(rows.LIST)
def list_definitions(call: Call, params: DefinitionListParams) -> DefinitionList:
    """The agents that the caller may speak with, by name."""
    known = call.runtime.definitions
    names = (name for name in sorted(known) if params.after is None or name > params.after)
    found = (((name,), known[name]) for name in names)
    agents = call.caller.agents
    chosen, following = page_of(found, params.limit, lambda agent: agents is None or agent.name in agents)
    return DefinitionList(chosen, following)


@query(rows.GET)
def get_definition(call: Call, params: DefinitionRef) -> Definition:
    """One agent. Errors: AgentNotFound, also for one that the caller's token does not cover."""
    agent = call.runtime.definitions.get(params.name)
    if agent is None or (call.caller.agents is not None and params.name not in call.caller.agents):
        raise AgentNotFound(
            f"there is no agent '{params.name}'; definition.list names those there are", field="$.params.name"
        )
    return agent


HANDLERS = (list_definitions, get_definition)
