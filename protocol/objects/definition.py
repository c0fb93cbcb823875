"""An agent definition: a named agent, from ``agents/<name>.md`` or built in."""

from typing import Literal

from msgspec import Struct

from protocol.budget import Budget
from protocol.errors.definition import AgentNotFound
from protocol.objects.conversation import Agent
from protocol.objects.permission import PermissionMode, Rule
from protocol.objects.run import Busy
from protocol.objects.session import Allowlist
from protocol.rpc.method import Method, Page, Params


class Definition(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A named agent. For lists, ``null`` means everything and an empty list nothing."""

    name: str
    instructions: str
    source: Literal["built_in", "file"]
    digest: str
    description: str = ""
    route: str | None = None
    model: str | None = None
    max_turns: int | None = None
    budget: Budget | None = None
    permission_mode: PermissionMode | None = None
    permissions: list[Rule] = []
    workspace: str | None = None
    persona: str | None = None
    tools: Allowlist = None
    skills: Allowlist = None
    mcp: Allowlist = None
    members: Allowlist = None
    busy: Busy | None = None
    path: str | None = None


class DefinitionList(Struct, frozen=True):
    """A page of definitions, by name."""

    definitions: list[Definition]
    next: str | None


class DefinitionRef(Params, frozen=True, kw_only=True):
    """Params of ``definition.get``."""

    name: Agent


class DefinitionListParams(Page, frozen=True, kw_only=True):
    """Params of ``definition.list``."""


LIST = Method("definition.list", "query", DefinitionListParams, DefinitionList, "List the agents, by name.")
GET = Method(
    "definition.get",
    "query",
    DefinitionRef,
    Definition,
    "Show one agent's definition.",
    errors=(AgentNotFound,),
)

METHODS = (LIST, GET)
