"""The pool of MCP servers: one supervisor for each distinct configuration, shared by all sessions.

A reload hands over the servers of the new configuration. Those that have not changed keep their connection
and their process; those that are gone are closed after their last call.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import trio
from msgspec.structs import replace

from kheishd.core.text.scrub import cut_text
from kheishd.hooks.os.shell.command import DEFAULT_PATH
from kheishd.hooks.os.shell.process import home_id
from kheishd.kernel.mcp import RemoteTool, ServerFailure, server_not_found, view_of
from kheishd.mcp.output import check_result
from kheishd.mcp.supervisor import Supervisor, T
from protocol.errors.mcp import McpLoginFailed, McpServerUnavailable
from protocol.limits.mcp import MAX_SERVER_ERROR_BYTES, MAX_SHOWN_ERROR_LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from kheishd.kernel.mcp import BegunLogin, Listing, RemoteResult, ServerSpec
    from kheishd.kernel.secrets import SlotReader
    from kheishd.mcp.connection import ServerConnection
    from kheishd.mcp.error_output import ErrorOutput
    from kheishd.mcp.oauth import Logins
    from protocol.objects.mcp import McpServer

# Besides locale and time zone, a server gets these variables of the daemon: npm and the like keep their
# caches at home. Credentials have variables of any name, so nothing else passes without being named.
PASSED: Final = frozenset(
    (
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "XDG_CACHE_HOME",
        "XDG_RUNTIME_DIR",
    )
)


class McpPool:
    """All servers (``kernel.mcp.Mcp``).

    ``resolve`` returns the credential of a reference, or raises. The tokens of logins are in ``slots``, and
    ``save`` stores them. ``scrub_cut`` removes what a cut made of a secret from the end of a server's text.
    """

    def __init__(
        self,
        home: Path,
        environ: Mapping[str, str],
        resolve: Callable[[str], str],
        now_ms: Callable[[], int],
        slots: SlotReader,
        save: Callable[[str, str], Awaitable[None]],
        scrub_cut: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self._mark = f"{home_id(home)}.mcp"
        self._environ = environ
        self._resolve = resolve
        self._now_ms = now_ms
        self._slots = slots
        self._save = save
        self._scrub_cut = scrub_cut
        self._specs: dict[str, ServerSpec] = {}
        self._supervisors: dict[str, Supervisor] = {}
        self._closing: set[Supervisor] = set()
        self._tools: tuple[RemoteTool, ...] | None = None
        self._nursery: trio.Nursery
        self._logins: Logins

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise the servers until cancelled; all of their processes have ended then."""
        # In a thread: the library takes half a second, during which no connection would be served.
        library = await trio.to_thread.run_sync(import_module, "kheishd.mcp.connection")
        library.silence_library()
        self._connect = library.open_connection
        self._describe = lambda error: self._cut(library.describe_failure(error))
        self._logins = library.Logins(
            self._slots.read, self._save, self._now_ms, self._resolve, self._scrub_cut
        )
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def adopt(self, specs: Mapping[str, ServerSpec]) -> None:
        """Supervise these servers, and no others; the unchanged ones are left alone."""
        self._specs = dict(specs)
        enabled = {name: spec for name, spec in specs.items() if spec.settings.enabled}
        for name, supervisor in list(self._supervisors.items()):
            spec = enabled.get(name)
            if spec is None or spec.digest != supervisor.spec.digest:
                del self._supervisors[name]
                self._closing.add(supervisor)
                supervisor.close()
        for name, spec in enabled.items():
            existing = self._supervisors.get(name)
            if existing is not None:
                existing.adopt(spec)
                continue
            supervisor = self._supervisors[name] = Supervisor(
                spec, self._open, self._describe, self._forget_tools, self._now_ms, self._scrub_cut
            )
            self._nursery.start_soon(self._supervise, supervisor, name=f"MCP server {name}")
        self._forget_tools()

    async def _supervise(self, supervisor: Supervisor) -> None:
        try:
            await supervisor.serve()
        finally:
            self._closing.discard(supervisor)

    def _open(self, spec: ServerSpec, errors: ErrorOutput) -> Any:
        """Return a new connection, for an ``async with`` block. Errors: the resolver's."""
        settings = spec.settings
        named = {*PASSED, *settings.inherit_env}
        environ = {
            "PATH": DEFAULT_PATH,
            "LANG": "C.UTF-8",
            **{n: v for n, v in self._environ.items() if n in named or n.startswith("LC_")},
            **settings.env,
            **{name: self._resolve(reference) for name, reference in settings.env_refs.items()},
        }
        if settings.auth_ref is not None:
            # A missing credential is a problem of the server now, not of its first request.
            self._resolve(settings.auth_ref)
        # A former configuration of the server may still be closing.
        mark = f"{self._mark}.{spec.name}.{spec.digest[:8]}"
        return self._connect(spec, environ, self._resolve, mark, self._logins, errors)

    def _forget_tools(self) -> None:
        self._tools = None

    @property
    def tools(self) -> Sequence[RemoteTool]:
        """The tools of all servers, by name; the same object until one changes."""
        if self._tools is None:
            self._tools = tuple(
                tool for name in sorted(self._supervisors) for tool in self._supervisors[name].tools
            )
        return self._tools

    def views(self) -> list[McpServer]:
        """Return all servers and their states, by name; those that are being closed last."""
        views = [
            self._supervisors[name].view() if name in self._supervisors else view_of(spec, "disabled")
            for name, spec in sorted(self._specs.items())
        ]
        views += sorted((closing.view() for closing in self._closing), key=lambda view: view.name)
        return [
            replace(
                view,
                error_output=[
                    cut_text(line, MAX_SHOWN_ERROR_LINE_BYTES, self._scrub_cut) for line in view.error_output
                ],
            )
            for view in views
        ]

    def find(self, name: str) -> ServerSpec:
        """Return a server. Errors: McpServerNotFound."""
        if name not in self._specs:
            raise server_not_found(name)
        return self._specs[name]

    async def settle(self, names: Sequence[str]) -> None:
        """Wait until the first attempt to connect to each of these servers has ended."""
        for name in names:
            while (supervisor := self._supervisors.get(name)) and not supervisor.settled.is_set():
                await supervisor.settled.wait()

    def find_problem(self, name: str) -> str | None:
        """Return why a server is not ready; None if it is. Errors: McpServerNotFound."""
        self.find(name)
        supervisor = self._supervisors.get(name)
        return "it is disabled in the configuration" if supervisor is None else supervisor.find_problem()

    async def call(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        progress: Callable[[str], None],
        origin: Mapping[str, Any] | None = None,
    ) -> RemoteResult:
        """Call a tool by the server's own name of it. Errors: ServerFailure, McpServerNotFound."""

        def show(line: str) -> None:
            progress(self._cut(line.rstrip("\n")) + "\n")

        supervisor = self._need(server)
        schema = next((row.output_schema for row in supervisor.tools if row.remote_name == tool), None)
        with self._cutting_failures():
            result = await supervisor.call(tool, arguments, show, origin)
        return result if schema is None else await check_result(schema, result)

    @property
    def resource_servers(self) -> Sequence[ServerSpec]:
        """The servers that have resources."""
        return [
            supervisor.spec for _, supervisor in sorted(self._supervisors.items()) if supervisor.has_resources
        ]

    async def list_resources(self, server: str) -> Listing:
        """Return a server's resources and templates. Errors: ServerFailure, McpServerNotFound."""
        return await self._request(server, lambda connection: connection.list_resources())

    async def read_resource(self, server: str, uri: str) -> RemoteResult:
        """Read a resource of a server. Errors: ServerFailure, McpServerNotFound."""
        return await self._request(server, lambda connection: connection.read_resource(uri))

    async def list_prompts(self, server: str) -> Listing:
        """Return a server's prompts. Errors: ServerFailure, McpServerNotFound."""
        return await self._request(server, lambda connection: connection.list_prompts())

    async def _request(self, server: str, send: Callable[[ServerConnection], Awaitable[T]]) -> T:
        """Make a request of a server. Errors: ServerFailure, without a part of a secret in its text."""
        supervisor = self._need(server)
        with self._cutting_failures():
            return await supervisor.request(send)

    @contextmanager
    def _cutting_failures(self) -> Iterator[None]:
        try:
            yield
        except ServerFailure as failure:
            raise ServerFailure(failure.reason, self._cut(str(failure))) from None

    def _cut(self, text: str) -> str:
        return cut_text(text, MAX_SERVER_ERROR_BYTES, self._scrub_cut)

    async def restart(self, name: str) -> None:
        """Connect anew; return when that attempt has ended.

        Errors: McpServerNotFound, McpServerUnavailable.
        """
        self._need(name).restart()
        await self.settle([name])

    async def begin_login(self, name: str, redirect_uri: str | None) -> BegunLogin:
        """Begin a login at a server. Errors: McpLoginFailed, McpServerNotFound, McpServerUnavailable."""
        spec = self._need(name).spec
        if not spec.settings.oauth:
            text = f"the MCP server '{name}' has no 'oauth' in its settings; set it, and log in then"
            raise McpLoginFailed(text, field="$.params.server")
        return await self._logins.begin(spec, redirect_uri)

    async def complete_login(
        self, login_id: str, code: str | None, state: str | None, iss: str | None
    ) -> str:
        """Store the tokens of a login, and connect; return the server.

        Errors: McpLoginFailed, McpLoginNotFound, McpServerNotFound, and those of storing a secret.
        """
        name = await self._logins.complete(login_id, code, state, iss, self.find)
        await self.restart(name)
        return name

    def hold_login(self, spec: ServerSpec) -> None:
        """Remember the tokens of a login that is about to be deleted, for ``revoke_login``."""
        self._logins.hold(spec)

    async def revoke_login(self, name: str) -> bool:
        """Tell the authorization server that deleted tokens are not used; return whether it knows."""
        return await self._logins.revoke(name)

    def _need(self, name: str) -> Supervisor:
        self.find(name)
        if name not in self._supervisors:
            raise McpServerUnavailable(
                f"the MCP server '{name}' is disabled in the configuration", field="$.params.server"
            )
        return self._supervisors[name]
