"""An agent definition: a named agent, from ``agents/<name>.md``, from the store, or built in."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.budget import Budget
from protocol.errors.definition import (
    AgentForbidden,
    AgentNotFound,
    DefinitionInvalid,
    DefinitionLimit,
    DefinitionReadOnly,
)
from protocol.errors.session import InputTooLarge
from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeWouldWiden
from protocol.ids import IDENTITY, Id
from protocol.limits.budget import MAX_BUDGET_TOKENS, MAX_MICROS, MAX_WORK_SECONDS
from protocol.limits.mcp import MAX_AGENT_SERVERS
from protocol.limits.memory import MAX_NOTEBOOKS
from protocol.limits.names import MAX_PATH_BYTES
from protocol.limits.permission import MAX_RULES
from protocol.limits.session import MAX_AGENT_FILE_BYTES
from protocol.objects.conversation import Agent
from protocol.objects.mcp import McpServerSettings, ServerName
from protocol.objects.permission import PermissionMode, Rule
from protocol.objects.run import Busy, ModelName, Name
from protocol.objects.session import Allowlist
from protocol.rpc.method import Method, Mutation, Page, Params

OwnServers = Annotated[dict[ServerName, McpServerSettings], Meta(max_length=MAX_AGENT_SERVERS)]


class DefinitionSettings(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The properties of an agent, as the front matter of its file has them.

    For lists, ``null`` means everything and an empty list nothing.
    """

    description: Annotated[str, Meta(max_length=1024)] = ""
    route: Name | None = None
    model: ModelName | None = None
    max_turns: Annotated[int, Meta(ge=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_BUDGET_TOKENS)] | None = None
    max_work_s: Annotated[float, Meta(gt=0, le=MAX_WORK_SECONDS)] | None = None
    max_cost: Annotated[float, Meta(gt=0, le=MAX_MICROS // 1_000_000)] | None = None
    permission_mode: PermissionMode | None = None
    permissions: Annotated[list[Rule], Meta(max_length=MAX_RULES)] = []
    workspace: Annotated[str, Meta(max_length=MAX_PATH_BYTES, extra=IDENTITY)] | None = None
    persona: Name | None = None
    tools: Allowlist = None
    skills: Allowlist = None
    mcp: Allowlist = None
    mcp_servers: OwnServers = {}
    members: Allowlist = None
    memory: Annotated[list[Id], Meta(max_length=MAX_NOTEBOOKS)] | None = None
    busy: Busy | None = None


class Definition(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A named agent. For lists, ``null`` means everything and an empty list nothing.

    ``members`` are the agents to which it may delegate. ``memory`` are the agents whose notes it may read,
    its own among them if it may write notes; null: its own only. ``busy`` is the policy for a message that
    arrives while a run is in flight. ``digest`` is the SHA-256 of the instructions. ``warnings`` are about
    names that do not exist now.
    """

    name: str
    instructions: str
    source: Literal["built_in", "file", "stored"]
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
    mcp_servers: OwnServers = {}
    members: Allowlist = None
    memory: list[str] | None = None
    busy: Busy | None = None
    path: str | None = None
    warnings: list[str] = []


class DefinitionList(Struct, frozen=True):
    """A page of definitions, by name."""

    definitions: list[Definition]
    next: str | None


class DefinitionRef(Params, frozen=True, kw_only=True):
    """Params of ``definition.get``."""

    name: Agent


class DefinitionListParams(Page, frozen=True, kw_only=True):
    """Params of ``definition.list``."""


class DefinitionPut(Mutation, frozen=True, kw_only=True):
    """Params of ``definition.put``: the text of an agent's file, or its settings and its instructions."""

    name: Agent
    text: Annotated[str, Meta(max_length=MAX_AGENT_FILE_BYTES)] | None = None
    settings: DefinitionSettings | None = None
    instructions: Annotated[str, Meta(max_length=MAX_AGENT_FILE_BYTES)] | None = None


class DefinitionDelete(Mutation, frozen=True, kw_only=True):
    """Params of ``definition.delete``."""

    name: Agent


class DeletedDefinition(Struct, frozen=True):
    """The name of a definition that was deleted from the store."""

    name: str


LIST = Method("definition.list", "query", DefinitionListParams, DefinitionList, "List the agents, by name.")
GET = Method(
    "definition.get",
    "query",
    DefinitionRef,
    Definition,
    "Show one agent's definition.",
    errors=(AgentNotFound,),
)

PUT = Method(
    "definition.put",
    "mutation",
    DefinitionPut,
    Definition,
    "Store an agent's definition, or replace the stored one; new runs use it at once.",
    scope="admin",
    errors=(
        AgentForbidden,
        DefinitionInvalid,
        DefinitionLimit,
        DefinitionReadOnly,
        InputTooLarge,
        ScopeWouldWiden,
        StorageFull,
    ),
)
DELETE = Method(
    "definition.delete",
    "mutation",
    DefinitionDelete,
    DeletedDefinition,
    "Delete an agent's definition from the store; its sessions stay, and accepted runs continue.",
    scope="admin",
    errors=(AgentForbidden, AgentNotFound, DefinitionReadOnly, StorageFull),
)

METHODS = (LIST, GET, PUT, DELETE)
