"""MCP servers, for the layers that use them: types, and the pool's interface.

The pool itself and the MCP library are imported when a configuration first has a server.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec
import trio
from msgspec.structs import replace

from protocol.errors.mcp import McpLoginNotFound, McpServerNotFound
from protocol.limits.mcp import MAX_MCP_SERVERS
from protocol.objects.mcp import McpServer
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kheishd.kernel.hook import Tool
    from kheishd.kernel.runtime import Runtime
    from protocol.objects.mcp import McpServerSettings, McpServerState

ServerSource = Literal["file", "stored", "agent"]


class ServerSpec(Value, frozen=True):
    """A configured server. ``agents`` are those whose definitions have it; empty: it is for all."""

    name: str
    settings: McpServerSettings
    source: ServerSource = "file"
    agents: tuple[str, ...] = ()
    cwd: str = "/"

    @property
    def references(self) -> list[str]:
        """The references to the server's credentials."""
        settings = self.settings
        login = [f"slot:{self.login_slot}"] if settings.oauth else []
        return [
            *login,
            *(
                reference
                for reference in (settings.auth_ref, settings.oauth_client_secret_ref)
                if reference is not None
            ),
            *settings.env_refs.values(),
        ]

    @property
    def login_slot(self) -> str:
        """The slot of the tokens of a login. Slots have no capital letters: ``A`` is written ``.a``."""
        name = "".join(f".{letter.lower()}" if letter.isupper() else letter for letter in self.name)
        return f"mcp.oauth.{name}"

    @property
    def needs_credential(self) -> bool:
        """Whether a session needs the server's name in its credential scope."""
        return bool(self.references)

    @property
    def digest(self) -> str:
        """The digest of the configuration: equal ones share a connection, also over a reload."""
        return sha256(msgspec.json.encode([self.name, self.cwd, self.settings])).hexdigest()


def servers_of(runtime: Runtime) -> dict[str, ServerSpec]:
    """Return the servers of a runtime, by name: of the file, then of the store, then of agents."""
    return _merge_servers(runtime)[0]


def find_server_conflicts(runtime: Runtime) -> list[str]:
    """Return warnings about servers that have no effect, because another one has their name."""
    return _merge_servers(runtime)[1]


def _merge_servers(runtime: Runtime) -> tuple[dict[str, ServerSpec], list[str]]:
    root = runtime.workspace_root
    servers = {
        name: ServerSpec(name, section.settings, cwd=section.cwd or root)
        for name, section in runtime.config.mcp.items()
    }
    warnings = [
        f"the stored MCP server '{name}' has no effect, because the configuration defines it, too"
        for name in runtime.stored_servers
        if name in servers
    ]
    for name, settings in runtime.stored_servers.items():
        servers.setdefault(name, ServerSpec(name, settings, "stored", cwd=settings.cwd or root))
    for agent, definition in runtime.definitions.items():
        for name, settings in definition.mcp_servers.items():
            own = ServerSpec(name, settings, "agent", (agent,), settings.cwd or definition.workspace or root)
            other = servers.setdefault(name, own)
            if other.source == "agent" and other.digest == own.digest:
                agents = tuple(dict.fromkeys((*other.agents, agent)))
                servers[name] = replace(other, agents=agents)
            else:
                owner = f"the agent '{other.agents[0]}'" if other.agents else "the daemon"
                warnings.append(
                    f"the MCP server '{name}' of the agent '{agent}' has no effect: {owner} has another one"
                )
    if len(servers) > MAX_MCP_SERVERS:
        warnings.append(f"{len(servers)} MCP servers; the limit is {MAX_MCP_SERVERS}: the last are left out")
    return dict(sorted(list(servers.items())[:MAX_MCP_SERVERS])), warnings


def view_of(spec: ServerSpec, state: McpServerState, **fields: Any) -> McpServer:
    """Return a server as shown; credentials by reference only."""
    return McpServer(
        name=spec.name,
        source=spec.source,
        transport="stdio" if spec.settings.url is None else "http",
        state=state,
        agents=list(spec.agents),
        required=spec.settings.required,
        command=spec.settings.argv,
        url=spec.settings.url,
        auth_ref=spec.settings.auth_ref,
        oauth=spec.settings.oauth,
        **fields,
    )


class RemoteTool(Value, frozen=True):
    """A tool of a server: its row for agents, and the server's own name of it."""

    spec: ServerSpec
    remote_name: str
    row: Tool
    read_only: bool = False
    idempotent: bool = False
    output_schema: Mapping[str, Any] | None = None


class RemoteResult(Value, frozen=True):
    """The result of a call: blocks of content as the server sent them.

    ``problem`` is why its structured part is not used: it does not fit the tool's own output schema.
    """

    content: Sequence[Mapping[str, Any]]
    structured: Any = None
    is_error: bool = False
    problem: str = ""


TaskState = Literal["working", "input_required", "completed", "failed", "cancelled"]


class RemoteTask(Value, frozen=True):
    """A task that a server made of a call. ``message`` is the server's text about its state."""

    task_id: str
    state: TaskState
    message: str = ""
    poll_s: float = 1.0
    result: RemoteResult | None = None


class Listing(Value, frozen=True):
    """A list of a server: its valid rows as the server sent them, and warnings about the others."""

    rows: Sequence[Mapping[str, Any]]
    warnings: Sequence[str] = ()


class ServerFailure(Exception):
    """A request to a server without an answer.

    ``reason``: ``unavailable`` (it is not connected, and nothing was sent), ``lost`` (the connection ended
    meanwhile, so the effect is unknown), ``timed_out``, ``refused`` (the server's own error).
    """

    def __init__(self, reason: Literal["unavailable", "lost", "timed_out", "refused"], message: str) -> None:
        super().__init__(message)
        self.reason = reason


class LoginNeeded(Exception):
    """A server needs a login by a person; the message says why."""


class KeeperKilled(Exception):
    """A server killed the process that supervises it, or something else did."""

    def __init__(self) -> None:
        super().__init__("it killed the process that supervises it")


class BegunLogin(Value, frozen=True):
    """A login that has begun: its id, the URL for the person's browser, its end, and the code to type."""

    login_id: str
    url: str
    expires_at_ms: int
    user_code: str | None = None


class Mcp(Protocol):
    """All servers behind one interface."""

    @property
    def tools(self) -> Sequence[RemoteTool]:
        """The tools of all servers, by name; the same object until one changes."""
        ...

    def views(self) -> list[McpServer]:
        """Return all servers and their states, by name."""
        ...

    def find(self, name: str) -> ServerSpec:
        """Return a server. Errors: McpServerNotFound."""
        ...

    async def settle(self, names: Sequence[str]) -> None:
        """Wait until the first attempt to connect to each of these servers has ended."""
        ...

    def find_problem(self, name: str) -> str | None:
        """Return why a server is not ready; None if it is. Errors: McpServerNotFound."""
        ...

    async def call(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        progress: Callable[[str], None],
        origin: Mapping[str, Any] | None = None,
    ) -> RemoteResult:
        """Call a tool by the server's own name of it. Cancellation is passed on to the server.

        ``progress`` is called with each line about the progress. ``origin``, the ids of the run, the
        call and the first request, is metadata for the server. Errors: ServerFailure, McpServerNotFound.
        """
        ...

    @property
    def resource_servers(self) -> Sequence[ServerSpec]:
        """The servers that have resources."""
        ...

    async def list_resources(self, server: str) -> Listing:
        """Return a server's resources and templates. Errors: ServerFailure, McpServerNotFound."""
        ...

    async def read_resource(self, server: str, uri: str) -> RemoteResult:
        """Read a resource of a server. Errors: ServerFailure, McpServerNotFound."""
        ...

    async def list_prompts(self, server: str) -> Listing:
        """Return a server's prompts. Errors: ServerFailure, McpServerNotFound."""
        ...

    async def restart(self, name: str) -> None:
        """Connect anew; return when that attempt has ended. Errors: McpServerNotFound."""
        ...

    async def begin_login(self, name: str, redirect_uri: str | None) -> BegunLogin:
        """Begin a login at a server. Errors: McpLoginFailed, McpServerNotFound, McpServerUnavailable."""
        ...

    async def complete_login(
        self, login_id: str, code: str | None, state: str | None, iss: str | None
    ) -> str:
        """Store the tokens of a login, and connect; return the server.

        Errors: McpLoginFailed, McpLoginNotFound, McpServerNotFound, and those of storing a secret.
        """
        ...

    def hold_login(self, spec: ServerSpec) -> None:
        """Remember the tokens of a login that is about to be deleted, for ``revoke_login``."""
        ...

    async def revoke_login(self, name: str) -> bool:
        """Tell the authorization server that deleted tokens are not used; return whether it knows."""
        ...


class NoMcp:
    """No servers (``Mcp``)."""

    tools: Sequence[RemoteTool] = ()
    resource_servers: Sequence[ServerSpec] = ()

    def views(self) -> list[McpServer]:
        """Return nothing."""
        return []

    def find(self, name: str) -> ServerSpec:
        """Refuse: there is no server. Errors: McpServerNotFound."""
        raise server_not_found(name)

    async def settle(self, names: Sequence[str]) -> None:
        """Wait for nothing."""

    def find_problem(self, name: str) -> str | None:
        """Refuse: there is no server. Errors: McpServerNotFound."""
        raise server_not_found(name)

    async def call(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        progress: Callable[[str], None],
        origin: Mapping[str, Any] | None = None,
    ) -> RemoteResult:
        """Refuse: there is no server. Errors: McpServerNotFound."""
        raise server_not_found(server)

    async def list_resources(self, server: str) -> Listing:
        """Refuse: there is no server. Errors: McpServerNotFound."""
        raise server_not_found(server)

    async def read_resource(self, server: str, uri: str) -> RemoteResult:
        """Refuse: there is no server. Errors: McpServerNotFound."""
        raise server_not_found(server)

    async def list_prompts(self, server: str) -> Listing:
        """Refuse: there is no server. Errors: McpServerNotFound."""
        raise server_not_found(server)

    async def restart(self, name: str) -> None:
        """Refuse: there is no server. Errors: McpServerNotFound."""
        raise server_not_found(name)

    async def begin_login(self, name: str, redirect_uri: str | None) -> BegunLogin:
        """Refuse: there is no server. Errors: McpServerNotFound."""
        raise server_not_found(name)

    async def complete_login(
        self, login_id: str, code: str | None, state: str | None, iss: str | None
    ) -> str:
        """Refuse: there is no login. Errors: McpLoginNotFound."""
        raise McpLoginNotFound("there is no such login: begin another one", field="$.params.login_id")

    def hold_login(self, spec: ServerSpec) -> None:
        """Remember nothing."""

    async def revoke_login(self, name: str) -> bool:
        """Tell nobody."""
        return False


class McpHolder:
    """The holder of the pool: without any servers until the daemon has made one.

    ``adopted`` is set unless a daemon starts, and does not know the servers of its first runtime yet.
    """

    def __init__(self) -> None:
        self.current: Mcp = NoMcp()
        self.adopted = trio.Event()
        self.adopted.set()

    def expect(self) -> None:
        """Let runs wait for the servers of the first runtime."""
        self.adopted = trio.Event()


def server_not_found(name: str) -> McpServerNotFound:
    """Return the refusal of a server that does not exist."""
    return McpServerNotFound(
        f"there is no MCP server '{name}'; mcp.list names the servers", field="$.params.server"
    )
