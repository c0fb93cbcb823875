"""MCP servers: other programs whose tools agents use, connected by the daemon and shared by all sessions."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from protocol.errors.mcp import (
    McpCallFailed,
    McpServerInvalid,
    McpServerLimit,
    McpServerNotFound,
    McpServerReadOnly,
    McpServerUnavailable,
    McpToolNotFound,
)
from protocol.errors.session import InputTooLarge
from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeWouldWiden
from protocol.ids import IDENTITY, shaped
from protocol.limits.mcp import MAX_SERVER_ENTRIES, MAX_SERVER_NAME_BYTES, MAX_SERVER_VALUE_BYTES
from protocol.limits.names import MAX_PATH_BYTES
from protocol.rpc.method import Method, Mutation, Page, Params

SERVER_NAME_PATTERN = r"^[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*$(?!\n)"
"""No two underscores in a row and none at the end: they separate the parts of a tool's name."""

ServerName = Annotated[
    str,
    shaped(
        SERVER_NAME_PATTERN,
        "1-32 characters of A-Z a-z 0-9 - and single underscores between them",
        max_length=MAX_SERVER_NAME_BYTES,
        description="1-32 characters of A-Z a-z 0-9 - and single underscores between them.",
    ),
]
ServerText = Annotated[str, Meta(max_length=MAX_SERVER_VALUE_BYTES, extra=IDENTITY)]
ServerTexts = Annotated[list[ServerText], Meta(max_length=MAX_SERVER_ENTRIES)]
ServerMap = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=256)], ServerText], Meta(max_length=MAX_SERVER_ENTRIES)
]
ServerTimeout = Annotated[float, Meta(gt=0, le=24 * 3600)]


class McpServerSettings(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The properties of a server: a ``command`` that is started, or the ``url`` of one that runs.

    ``required``: a run that may use the server fails if it is not connected. ``env_refs`` are variables whose
    values are credentials, and ``auth_ref`` is the bearer token of a URL, all by reference (``env:NAME``).
    ``inherit_env`` names further variables of the daemon that the command gets. Of the server's tools,
    those in ``enabled_tools`` are offered (null: all), without ``disabled_tools``.
    ``oauth``: a person logs in at the URL's server, by ``mcp.login``; ``oauth_hosts`` are hosts of its
    authorization server that may have private addresses. ``oauth_client_id`` is the client of a server where
    none can register, and ``oauth_client_secret_ref`` its secret, by reference.
    """

    enabled: bool = True
    required: bool = False
    command: ServerText | ServerTexts | None = None
    args: ServerTexts = []
    env: ServerMap = {}
    env_refs: ServerMap = {}
    inherit_env: ServerTexts = []
    cwd: Annotated[str, Meta(max_length=MAX_PATH_BYTES, extra=IDENTITY)] | None = None
    url: ServerText | None = None
    headers: ServerMap = {}
    auth_ref: ServerText | None = None
    enabled_tools: ServerTexts | None = None
    disabled_tools: ServerTexts = []
    oauth: bool = False
    oauth_hosts: ServerTexts = []
    oauth_client_id: ServerText | None = None
    oauth_client_secret_ref: ServerText | None = None
    start_timeout_s: ServerTimeout = 30.0
    tool_timeout_s: ServerTimeout = 120.0

    @property
    def argv(self) -> list[str]:
        """The command and its arguments; empty for a server with a URL."""
        if self.command is None:
            return []
        return [*([self.command] if isinstance(self.command, str) else self.command), *self.args]


McpServerState = Literal["disabled", "starting", "ready", "failed", "needs_login", "closing"]
"""``needs_login``: a person has to log in, by ``mcp.login``. ``closing``: removed from the configuration, and
its last calls still run.
"""


class McpServer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A server as shown: its origin and its state.

    ``agents`` are those whose definitions have the server; empty: it is for all. ``tools`` is the number of
    tools that are offered; of a server that is not connected, those that it had last. ``problem`` says why it
    is not ready, or was not at the last attempt, ``warnings`` what is left out of it. ``retry_at_ms`` is the
    time of the next attempt. ``restarts`` counts the connections after the first one. ``error_output`` has
    the first and the last lines that the program wrote to its standard error since its last start; lists
    leave it out.
    """

    name: str
    source: Literal["file", "stored", "agent"]
    transport: Literal["stdio", "http"]
    state: McpServerState
    agents: list[str] = []
    required: bool = False
    command: list[str] = []
    url: str | None = None
    auth_ref: str | None = None
    oauth: bool = False
    tools: int = 0
    problem: str | None = None
    warnings: list[str] = []
    retry_at_ms: int | None = None
    pid: int | None = None
    protocol_version: str | None = None
    server: str | None = None
    restarts: int = 0
    error_output: list[str] = []


class McpServerList(Struct, frozen=True):
    """A page of servers, by name."""

    servers: list[McpServer]
    next: str | None


class McpListParams(Page, frozen=True, kw_only=True):
    """Params of ``mcp.list``."""


class McpTool(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool that a server offers: ``name`` is the tool's for agents, ``tool`` the server's own.

    ``read_only`` and ``idempotent`` are what the server claims. The description is the server's text.
    """

    name: str
    server: str
    tool: str
    description: str = ""
    input_schema: dict[str, Any] = {}
    read_only: bool = False
    idempotent: bool = False


class McpToolList(Struct, frozen=True):
    """A page of tools, by name."""

    tools: list[McpTool]
    next: str | None


class McpToolsParams(Page, frozen=True, kw_only=True):
    """Params of ``mcp.tools``: those of one server, or of all."""

    server: ServerName | None = None


class McpCallParams(Params, frozen=True, kw_only=True):
    """Params of ``mcp.call``: ``tool`` is the server's own name of the tool."""

    server: ServerName
    tool: Annotated[str, Meta(min_length=1, max_length=256)]
    input: dict[str, Any] = {}


class McpCallResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of a call as an agent would see it: ``text`` is JSON, and data of a stranger."""

    server: str
    tool: str
    text: str
    is_error: bool = False
    duration_ms: int = 0


class McpServerRef(Params, frozen=True, kw_only=True):
    """Params of ``mcp.get`` and ``mcp.restart``."""

    server: ServerName


class McpServerPut(Mutation, frozen=True, kw_only=True):
    """Params of ``mcp.put``."""

    server: ServerName
    settings: McpServerSettings


class McpServerDelete(Mutation, frozen=True, kw_only=True):
    """Params of ``mcp.delete``."""

    server: ServerName


class DeletedMcpServer(Struct, frozen=True):
    """The name of a server that was deleted from the store."""

    server: str


class McpResourcesParams(Params, frozen=True, kw_only=True):
    """Params of ``mcp.resources``."""

    server: ServerName


class McpResource(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A resource of a server, or with ``is_template`` a template of addresses. All texts are the server's."""

    uri: str
    name: str = ""
    description: str = ""
    mime_type: str | None = None
    is_template: bool = False


class McpResourceList(Struct, frozen=True, omit_defaults=True):
    """The first resources of a server, and warnings about those that are left out."""

    resources: list[McpResource]
    warnings: list[str] = []


class McpPromptsParams(Params, frozen=True, kw_only=True):
    """Params of ``mcp.prompts``."""

    server: ServerName


class McpPrompt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A prompt of a server, with the names of its arguments. All texts are the server's."""

    name: str
    description: str = ""
    arguments: list[str] = []


class McpPromptList(Struct, frozen=True, omit_defaults=True):
    """The first prompts of a server, and warnings about those that are left out."""

    prompts: list[McpPrompt]
    warnings: list[str] = []


LIST = Method(
    "mcp.list",
    "query",
    McpListParams,
    McpServerList,
    "List the MCP servers and their states, by name.",
)
GET = Method(
    "mcp.get",
    "query",
    McpServerRef,
    McpServer,
    "Read the state of an MCP server, with the error output of its program.",
    errors=(McpServerNotFound,),
)
TOOLS = Method(
    "mcp.tools",
    "query",
    McpToolsParams,
    McpToolList,
    "List the tools of MCP servers, by name.",
    errors=(McpServerNotFound,),
)
CALL = Method(
    "mcp.call",
    "control",
    McpCallParams,
    McpCallResult,
    "Call a tool of an MCP server without an agent, and without permission rules.",
    scope="operate",
    errors=(McpCallFailed, McpServerNotFound, McpServerUnavailable, McpToolNotFound, ScopeWouldWiden),
)
RESTART = Method(
    "mcp.restart",
    "control",
    McpServerRef,
    McpServer,
    "Close the connection to an MCP server, and connect anew.",
    scope="operate",
    errors=(McpServerNotFound, McpServerUnavailable, ScopeWouldWiden),
)

PUT = Method(
    "mcp.put",
    "mutation",
    McpServerPut,
    McpServer,
    "Store an MCP server, or replace the stored one; it is connected at once.",
    scope="admin",
    errors=(
        InputTooLarge,
        McpServerInvalid,
        McpServerLimit,
        McpServerReadOnly,
        ScopeWouldWiden,
        StorageFull,
    ),
)
DELETE = Method(
    "mcp.delete",
    "mutation",
    McpServerDelete,
    DeletedMcpServer,
    "Delete an MCP server from the store, with the tokens of its login; it is closed after its last call.",
    scope="admin",
    errors=(McpServerNotFound, McpServerReadOnly, ScopeWouldWiden, StorageFull),
)

RESOURCES = Method(
    "mcp.resources",
    "control",
    McpResourcesParams,
    McpResourceList,
    "Ask an MCP server for its resources and their templates.",
    scope="operate",
    errors=(McpCallFailed, McpServerNotFound, McpServerUnavailable, ScopeWouldWiden),
)
PROMPTS = Method(
    "mcp.prompts",
    "control",
    McpPromptsParams,
    McpPromptList,
    "Ask an MCP server for its prompts.",
    scope="operate",
    errors=(McpCallFailed, McpServerNotFound, McpServerUnavailable, ScopeWouldWiden),
)

METHODS = (LIST, GET, TOOLS, CALL, RESOURCES, PROMPTS, RESTART, PUT, DELETE)
