"""One connection to a server, on the official MCP library, which speaks both generations of the protocol.

Importing this imports the library, which takes half a second: a thread does it, when it is first needed.

The library's own validation of results by the tools' output schemas is not used: a schema of a stranger may
hold an expression that takes hours to match (see ``output``). Requests of a server to the client are refused
by the library.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import mcp_types as types
import msgspec
import trio
from mcp import Client, MCPError
from mcp.client.extension import advertise
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp_types import CONNECTION_CLOSED, METHOD_NOT_FOUND, REQUEST_TIMEOUT
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from kheishd.hooks.os.shell.process import NotStarted
from kheishd.kernel.mcp import Listing, RemoteResult, RemoteTask, ServerFailure
from kheishd.mcp.listing import WARNINGS_KEY, ListScreen
from kheishd.mcp.oauth import LoginAuth, Logins, OAuthFailed
from kheishd.mcp.task import (
    EXTENSION,
    RawResult,
    TaskCancel,
    TaskGet,
    TaskParams,
    quote,
    read_result,
    read_task,
)
from kheishd.mcp.transport import BearerToken, ServerEnded, http_transport, open_process, stdio_transport
from protocol import __version__
from protocol.limits.mcp import (
    MAX_LIST_BYTES,
    MAX_LIST_PAGES,
    MAX_LIST_ROW_BYTES,
    MAX_LISTED_SERVER_TOOLS,
)
from protocol.text import sanitize, truncate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from mcp.client._transport import TransportStreams

    from kheishd.kernel.mcp import ServerSpec
    from kheishd.mcp.error_output import ErrorOutput

__all__ = ["Logins", "ServerConnection", "describe_failure", "open_connection", "silence_library"]

log = logging.getLogger("kheishd.mcp")

# The time between two attempts to follow the changes of a server of the newer generation.
LISTEN_AGAIN_SECONDS: Final = 30.0


ASKS_INPUT: Final = "it asks for input, which is not supported"

# The beginnings of the library's messages about a connection that ended before an answer.
_LOST: Final = ("Connection closed", "SSE stream")


class ServerConnection:
    """An open connection. ``changed`` is set when the server has announced another list of tools."""

    def __init__(self, client: Client, pid: int | None) -> None:
        self.pid = pid
        self.changed = trio.Event()
        self._client = client

    @property
    def protocol_version(self) -> str:
        """The version of the protocol that is spoken."""
        return self._client.protocol_version

    @property
    def server(self) -> str | None:
        """The name and the version that the server gives itself."""
        info = self._client.server_info
        return None if info is None else truncate(sanitize(f"{info.name} {info.version}"), 128)

    async def list_tools(self) -> Listing:
        """Return the tools, at most the limit. Errors: ServerFailure."""
        if self._client.server_capabilities.tools is None:
            return Listing(())
        return await _list_all(self._client.session.list_tools, "tools")

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        progress: Callable[[str], None],
        origin: Mapping[str, Any] | None = None,
    ) -> RemoteResult | RemoteTask:
        """Call a tool. Cancellation is passed on to the server. Errors: ServerFailure."""

        async def show(done: float, total: float | None, message: str | None) -> None:
            share = f"{done:g}" if total is None else f"{done:g}/{total:g}"
            text = quote(message) if message else ""
            progress(f"{share} {text}".rstrip() + "\n")

        metadata: Any = {f"kheish/{field}": value for field, value in (origin or {}).items()}
        params = types.CallToolRequestParams(name=name, arguments=dict(arguments), _meta=metadata or None)
        raw = await self._send(types.CallToolRequest(params=params), progress_callback=show)
        match raw.get("resultType"):
            case "task":
                return read_task(raw)
            case "input_required":
                raise ServerFailure("refused", ASKS_INPUT)
            case _:
                return read_result(raw)

    async def get_task(self, task_id: str) -> RemoteTask:
        """Return the state of a task. Errors: ServerFailure."""
        raw = await self._send(TaskGet(params=TaskParams(task_id=task_id)))
        return read_task(raw)

    async def cancel_task(self, task_id: str) -> None:
        """Ask the server to cancel a task. Errors: ServerFailure."""
        await self._send(TaskCancel(params=TaskParams(task_id=task_id)))

    async def _send(self, request: types.Request[Any, Any], **options: Any) -> dict[str, Any]:
        """Make a request, and return the result with all of its fields. Errors: ServerFailure."""
        answer = await _translate(self._client.session.send_request, request, RawResult, **options)
        raw: dict[str, Any] = answer.model_dump(by_alias=True, exclude_none=True, mode="json")
        return raw

    @property
    def has_resources(self) -> bool:
        """Whether the server has resources."""
        return self._client.server_capabilities.resources is not None

    async def list_resources(self) -> Listing:
        """Return the resources, then the templates of resources, if there are any. Errors: ServerFailure."""
        if not self.has_resources:
            return Listing(())
        session = self._client.session
        resources = await _list_all(session.list_resources, "resources")
        try:
            templates = await _list_all(session.list_resource_templates, "resource_templates")
        except ServerFailure as failure:
            # Many servers have resources, and not the method for templates.
            if not str(failure).endswith(f"(code {METHOD_NOT_FOUND})"):
                raise
            templates = Listing(())
        return Listing((*resources.rows, *templates.rows), (*resources.warnings, *templates.warnings))

    async def read_resource(self, uri: str) -> RemoteResult:
        """Read a resource. Errors: ServerFailure."""
        result = await _translate(self._client.session.read_resource, uri, allow_input_required=True)
        if isinstance(result, types.InputRequiredResult):
            raise ServerFailure("refused", ASKS_INPUT)
        contents = [
            part.model_dump(by_alias=True, exclude_none=True, mode="json") for part in result.contents
        ]
        return RemoteResult([{"type": "resource", "resource": content} for content in contents])

    async def list_prompts(self) -> Listing:
        """Return the prompts. Errors: ServerFailure."""
        if self._client.server_capabilities.prompts is None:
            return Listing(())
        return await _list_all(self._client.session.list_prompts, "prompts")

    async def receive(self, message: Any) -> None:
        """Take a notification of the server."""
        if isinstance(message, types.ToolListChangedNotification):
            self.changed.set()

    async def listen(self) -> None:
        """Follow the changes of a server of the newer generation, which sends them to subscribers only."""
        while self.protocol_version in MODERN_PROTOCOL_VERSIONS:
            try:
                async with self._client.listen(tools_list_changed=True) as subscription:
                    async for _ in subscription:
                        self.changed.set()
            except ListenNotSupportedError:
                return
            except (MCPError, SubscriptionLost, TimeoutError) as error:
                log.debug("the changes of an MCP server cannot be followed: %s", error)
            await trio.sleep(LISTEN_AGAIN_SECONDS)


def silence_library() -> None:
    """Keep the library's own log out of the daemon's: it tells of each request, and quotes servers."""
    for name in ("mcp", "client", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@asynccontextmanager
async def open_connection(
    spec: ServerSpec,
    environ: Mapping[str, str],
    resolve: Callable[[str], str],
    mark: str,
    logins: Logins | None = None,
    errors: ErrorOutput | None = None,
) -> AsyncIterator[ServerConnection]:
    """Connect to a server while the block runs; ``environ`` is that of a program, ``errors`` its output.

    ``resolve`` returns the credential of a reference.
    Errors: KeeperKilled, LoginNeeded, OAuthFailed, NotStarted, OSError, ServerEnded, ServerFailure, and
    others of the library, in groups; also when the connection ends while the block runs.
    """
    settings = spec.settings
    async with AsyncExitStack() as stack:
        pid: int | None = None
        login: LoginAuth | None = None
        if settings.url is not None:
            reference = settings.auth_ref
            auth = None if reference is None else BearerToken(lambda: resolve(reference))
            if settings.oauth and logins is not None:
                await logins.get_token(spec)
                login = LoginAuth(logins, spec)
            transport: Any = http_transport(settings.url, settings.headers, login or auth)
        else:
            program, *arguments = settings.argv
            path = shutil.which(program, path=environ.get("PATH"))
            if path is None:
                raise NotStarted(f"there is no program '{program}' in the PATH")
            process = await stack.enter_async_context(
                open_process([path, *arguments], environ, spec.cwd, mark, errors)
            )
            pid, transport = process.command.pid, stdio_transport(process)
        connections: list[ServerConnection] = []

        async def receive(message: Any) -> None:
            for connection in connections:
                await connection.receive(message)

        screen = ListScreen()

        @asynccontextmanager
        async def screened() -> AsyncIterator[TransportStreams]:
            async with transport as streams:
                yield screen.wrap(streams)

        client = Client(
            screened(),
            cache=None,
            message_handler=receive,
            extensions=[advertise(EXTENSION)],
            client_info=types.Implementation(name="kheish", version=__version__),
        )
        try:
            await stack.enter_async_context(client)
        except Exception:
            if login is not None and login.problem is not None:
                raise login.problem from None
            raise
        screen.version = client.protocol_version
        connection = ServerConnection(client, pid)
        connections.append(connection)
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(connection.listen)
        if login is not None:
            nursery.start_soon(login.watch)
        yield connection
        nursery.cancel_scope.cancel()


async def _list_all(request: Callable[..., Any], field: str) -> Listing:
    """Return the elements of all pages of a list, at most the limit. Errors: ServerFailure."""
    elements: list[dict[str, Any]] = []
    warnings: list[str] = []
    cursor: str | None = None
    room = MAX_LIST_BYTES
    for _ in range(MAX_LIST_PAGES):
        params = None if cursor is None else types.PaginatedRequestParams(cursor=cursor)
        page = await _translate(request, params=params)
        warnings += (page.meta or {}).get(WARNINGS_KEY, ())
        for row in getattr(page, field):
            element = row.model_dump(by_alias=True, exclude_none=True, mode="json")
            size = len(msgspec.json.encode(element))
            room -= size
            if size <= MAX_LIST_ROW_BYTES:
                elements.append(element)
            else:
                warnings.append(f"one of its {field} has {size} bytes and is left out")
            if room < 0:
                warnings.append(f"its {field} beyond {MAX_LIST_BYTES} bytes are left out")
                return Listing(elements, warnings)
        cursor = page.next_cursor
        if cursor is None or len(elements) >= MAX_LISTED_SERVER_TOOLS:
            break
        await trio.lowlevel.checkpoint()
    return Listing(elements[:MAX_LISTED_SERVER_TOOLS], warnings)


async def _translate(request: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Make a request of the library. Errors: ServerFailure."""
    try:
        return await request(*args, **kwargs)
    except MCPError as error:
        # A server may use this code for errors of its own.
        if error.code == CONNECTION_CLOSED and error.message.startswith(_LOST):
            raise ServerFailure("lost", "the connection ended before the answer") from None
        if error.code == REQUEST_TIMEOUT:
            raise ServerFailure("timed_out", "there was no answer in time") from None
        raise ServerFailure("refused", f"{quote(error.message)} (code {error.code})") from None
    except ValueError as error:
        # Of pydantic: it does not have the type that its method says.
        raise ServerFailure("refused", f"the answer is invalid: {quote(str(error))}") from None
    except (anyio.ClosedResourceError, anyio.BrokenResourceError, RuntimeError):
        # The library raises RuntimeError for a request after the end of the connection.
        raise ServerFailure("lost", "the connection ended before the answer") from None


def describe_failure(error: BaseException) -> str:
    """Return why a connection failed or ended: the message of the most telling error of a group."""
    leaves: list[BaseException] = []
    pending = [error]
    while pending:
        current = pending.pop()
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions
        else:
            leaves.append(current)

    def rank(leaf: BaseException) -> int:
        kinds: tuple[type[BaseException], ...] = (
            OAuthFailed,
            ServerEnded,
            NotStarted,
            ServerFailure,
            OSError,
        )
        return next((index for index, kind in enumerate(kinds) if isinstance(leaf, kind)), len(kinds))

    cause = min(leaves, key=rank)
    if isinstance(cause, MCPError):
        return f"it refused the connection: {quote(cause.message)}"
    if isinstance(cause, OSError) and cause.strerror:
        place = f" ({cause.filename})" if cause.filename else ""
        return f"{cause.strerror}{place}"
    return quote(str(cause)) or type(cause).__name__
