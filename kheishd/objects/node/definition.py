"""Definitions: the agents from ``agents/*.md``, and the built-in one."""

from kheishd.kernel.call import Call, query
from kheishd.objects.pages import page_of
from protocol.errors.definition import AgentNotFound
from protocol.objects import definition as rows
from protocol.objects.definition import Definition, DefinitionList, DefinitionListParams, DefinitionRef


@query(rows.LIST)
def list_definitions(call: Call, params: DefinitionListParams) -> DefinitionList:
    """List the agents that the caller may use, by name."""
    definitions = call.runtime.definitions
    names = (name for name in sorted(definitions) if params.after is None or name > params.after)
    agents = (((name,), definitions[name]) for name in names)
    page, following = page_of(agents, params.limit, lambda agent: call.caller.may_read_agent(agent.name))
    return DefinitionList(page, following)


@query(rows.GET)
def get_definition(call: Call, params: DefinitionRef) -> Definition:
    """Show an agent. Errors: AgentNotFound, also for one that the caller's token does not cover."""
    agent = call.runtime.definitions.get(params.name)
    if agent is None or not call.caller.may_read_agent(params.name):
        raise AgentNotFound(
            f"there is no agent '{params.name}'; definition.list names the agents", field="$.params.name"
        )
    return agent


HANDLERS = (list_definitions, get_definition)
