"""The supervisor of one server: one task that owns the connection, and makes another one when it ends.

Calls use the connection from tasks of their own. While there is none they fail at once, and the tools stay
those of the last connection, because a prompt that loses and regains tools is not in the provider's cache.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import trio
from msgspec.structs import replace

from kheishd.kernel.mcp import KeeperKilled, LoginNeeded, RemoteResult, ServerFailure, view_of
from kheishd.mcp.error_output import ErrorOutput
from kheishd.mcp.rows import limit_warnings, make_rows
from protocol.limits.mcp import MAX_KEEPER_KILLS, MAX_RECONNECT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from kheishd.kernel.mcp import RemoteTask, RemoteTool, ServerSpec
    from kheishd.mcp.connection import ServerConnection
    from protocol.objects.mcp import McpServer, McpServerState

T = TypeVar("T")

log = logging.getLogger("kheishd.mcp")

# The time before the second attempt to reach a server; it is doubled up to the limit.
FIRST_PAUSE_SECONDS: Final = 1.0

# A connection that has held this long was a good one: the next attempt after its end comes soon.
STABLE_SECONDS: Final = 60.0

# The time for telling a server that a task is cancelled: a part of that of a call (``rows``).
CANCEL_TASK_SECONDS: Final = 5.0

# A server that announces changes again and again is asked for its list once in this time, which is doubled
# for each change that follows soon, up to the limit.
RELIST_SECONDS: Final = 1.0
MAX_RELIST_SECONDS: Final = 64.0


# A longer list of tools is judged in a thread: hostile schemas take 10 ms each.
MAX_INLINE_LIST_BYTES: Final = 16 * 1024


class Supervisor:
    """The supervisor of one server. ``on_change`` is called when its tools have changed.

    ``settled`` is set once the first attempt to connect has ended.
    """

    def __init__(
        self,
        spec: ServerSpec,
        connect: Callable[[ServerSpec, ErrorOutput], AbstractAsyncContextManager[ServerConnection]],
        describe: Callable[[BaseException], str],
        on_change: Callable[[], None],
        now_ms: Callable[[], int],
        scrub_cut: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self.spec = spec
        self.tools: Sequence[RemoteTool] = ()
        self.has_resources = False
        self.settled = trio.Event()
        self._connect = connect
        self._describe = describe
        self._on_change = on_change
        self._now_ms = now_ms
        self._state: McpServerState = "starting"
        self._problem: str | None = None
        self._last_problem: str | None = None
        self._warnings: list[str] = []
        self._retry_at_ms: int | None = None
        self._connection: ServerConnection | None = None
        self._identity: tuple[str | None, str | None] = (None, None)
        self._scope = trio.CancelScope()
        self._wake = trio.Event()
        self._calls = 0
        self._connections = 0
        self._ready_at = 0.0
        self._is_closing = False
        self._cause: Exception | None = None
        self._errors = ErrorOutput(scrub_cut)

    async def serve(self) -> None:
        """Keep the server connected, until it is closed."""
        failures = kills = 0
        while not self._is_closing:
            self._state, self._wake = "starting", trio.Event()
            self._ready_at = float("inf")
            await self._hold_connection()
            if self._is_closing:
                break
            if self._wake.is_set():
                failures = kills = 0
                continue
            is_stable = trio.current_time() - self._ready_at > STABLE_SECONDS
            kills = kills + 1 if isinstance(self._cause, KeeperKilled) and not is_stable else 0
            needs_login = isinstance(self._cause, LoginNeeded)
            if needs_login or kills >= MAX_KEEPER_KILLS:
                # Only a person can help: another attempt begins with the login, or with the restart.
                if not needs_login:
                    self._problem = f"{self._problem}, {kills} times in a row; restart it once it is repaired"
                self._state, failures, kills = "needs_login" if needs_login else "failed", 0, 0
                self.settled.set()
                log.warning(
                    "the MCP server waits for a person: %s", self._problem, extra={"server": self.spec.name}
                )
                await self._wake.wait()
                continue
            failures = 1 if is_stable else failures + 1
            delay_s = min(FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 20), MAX_RECONNECT_SECONDS)
            self._state, self._retry_at_ms = "failed", self._now_ms() + round(delay_s * 1000)
            self._last_problem = self._problem
            self.settled.set()
            if self._problem is not None:
                log.warning(
                    "the MCP server is not connected: %s", self._problem, extra={"server": self.spec.name}
                )
            with trio.move_on_after(delay_s):
                await self._wake.wait()
                failures = kills = 0
            self._retry_at_ms = None
        self.settled.set()

    async def _hold_connection(self) -> None:
        """Connect and list the tools, in time, and hold the connection until it ends. Set the problem."""
        self._scope = trio.CancelScope(deadline=trio.current_time() + self.spec.settings.start_timeout_s)
        self._cause = None
        self._errors.clear()
        late = f"it was not ready within {self.spec.settings.start_timeout_s:g} s"
        self._problem = late
        try:
            with self._scope:
                async with self._connect(self.spec, self._errors) as connection:
                    await self._list_tools(connection)
                    self._scope.deadline = float("inf")
                    try:
                        self._set_ready(connection)
                        await self._follow_changes(connection)
                    finally:
                        # Closing it may take seconds.
                        self._connection, self._state = None, "closing" if self._is_closing else "starting"
        except BaseExceptionGroup as group:
            # Cancellation by the daemon goes on, without the errors that it caused.
            _, fatal = group.split(Exception)
            if fatal is not None:
                raise fatal from None
            error: BaseException | None = group.split((LoginNeeded, KeeperKilled))[0]
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            self._note_failure(error or group)
        except Exception as error:
            self._note_failure(error)
        wrote = self._errors.find_cause()
        if self._problem == late and wrote is not None:
            self._problem = self._describe(ServerFailure("timed_out", f"{late}; it wrote: {wrote}"))

    def _note_failure(self, error: BaseException) -> None:
        self._cause = error if isinstance(error, (LoginNeeded, KeeperKilled)) else None
        self._problem = self._describe(error) if self._cause is None else str(error)

    async def _follow_changes(self, connection: ServerConnection) -> None:
        """List the tools again whenever the server announces a change."""
        pause_s, listed_at = RELIST_SECONDS, float("-inf")
        while True:
            await connection.changed.wait()
            is_soon = trio.current_time() - listed_at < STABLE_SECONDS
            pause_s = min(pause_s * 2, MAX_RELIST_SECONDS) if is_soon else RELIST_SECONDS
            await trio.sleep(pause_s)
            listed_at = trio.current_time()
            connection.changed = trio.Event()
            with trio.fail_after(self.spec.settings.start_timeout_s):
                await self._list_tools(connection)

    async def _list_tools(self, connection: ServerConnection) -> None:
        listing = await connection.list_tools()
        if len(msgspec.json.encode(listing.rows)) <= MAX_INLINE_LIST_BYTES:
            tools, warnings = make_rows(self.spec, listing.rows)
        else:
            tools, warnings = await trio.to_thread.run_sync(make_rows, self.spec, listing.rows)
        warnings = self._warnings = limit_warnings([*listing.warnings, *warnings])
        for warning in warnings:
            log.warning("an MCP server: %s", warning, extra={"server": self.spec.name})
        if [replace(tool, spec=self.spec) for tool in tools] != [*self.tools]:
            self.tools = tuple(tools)
            self._on_change()

    def _set_ready(self, connection: ServerConnection) -> None:
        self._connection, self._ready_at = connection, trio.current_time()
        self._connections += 1
        self._identity = (connection.protocol_version, connection.server)
        if self.has_resources != connection.has_resources:
            self.has_resources = connection.has_resources
            self._on_change()
        self._state, self._problem, self._last_problem = "ready", None, None
        self.settled.set()
        fields = {"server": self.spec.name, "tools": len(self.tools), "pid": connection.pid}
        log.info("an MCP server is ready", extra=fields)

    # Requests of others.

    def find_problem(self) -> str | None:
        """Return why the server cannot be called; None if it can."""
        if self._state == "ready":
            return None
        if self._state == "needs_login":
            return f"it needs a login by a person ({self._problem})"
        if self._state == "failed" and self._retry_at_ms is None:
            return f"it is not connected ({self._problem})"
        if self._state == "failed":
            seconds = max(0, (self._retry_at_ms or 0) - self._now_ms()) / 1000
            return f"it is not connected ({self._problem}); the next attempt is in {seconds:.0f} s"
        return "it is being connected" if self._state == "starting" else "it was removed"

    async def request(self, send: Callable[[ServerConnection], Awaitable[T]]) -> T:
        """Make a request of the server, within its time limit. Errors: ServerFailure."""
        connection, problem = self._connection, self.find_problem()
        if connection is None or problem is not None:
            raise ServerFailure("unavailable", problem or "it is not connected")
        self._calls += 1
        seconds = self.spec.settings.tool_timeout_s
        try:
            with trio.move_on_after(seconds):
                return await send(connection)
            text = f"there was no answer within {seconds:g} s, and the call was cancelled"
            raise ServerFailure("timed_out", text)
        except ServerFailure:
            self._suspect(connection)
            raise
        finally:
            self._end_call()

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        progress: Callable[[str], None],
        origin: Mapping[str, Any] | None = None,
    ) -> RemoteResult:
        """Call a tool; if the server makes a task of the call, wait for its result. Errors: ServerFailure."""
        deadline = trio.current_time() + self.spec.settings.tool_timeout_s
        self._calls += 1
        try:
            answer = await self.request(
                lambda connection: connection.call_tool(tool, arguments, progress, origin)
            )
            if isinstance(answer, RemoteResult):
                return answer
            with trio.move_on_at(deadline):
                return await self._follow_task(answer, progress)
            seconds = f"{self.spec.settings.tool_timeout_s:g} s"
            raise ServerFailure("timed_out", f"its task did not end within {seconds}, and was cancelled")
        finally:
            self._end_call()

    async def _follow_task(self, task: RemoteTask, progress: Callable[[str], None]) -> RemoteResult:
        """Poll a task until it ends. Cancellation is passed on to the server. Errors: ServerFailure.

        A server may keep a task while it restarts: another connection asks for it.
        """
        message = ""
        try:
            while task.state == "working":
                if task.message not in ("", message):
                    message = task.message
                    progress(f"{message}\n")
                await trio.sleep(task.poll_s)
                connection = self._connection
                if connection is None:
                    continue
                try:
                    task = await connection.get_task(task.task_id)
                except ServerFailure as failure:
                    self._suspect(connection)
                    if failure.reason != "lost":
                        text = f"the state of its task cannot be read: {failure}"
                        raise ServerFailure("lost", text) from None
        except trio.Cancelled:
            await self._cancel_task(task)
            raise
        if task.result is not None:
            return task.result
        if task.state == "input_required":
            await self._cancel_task(task)
            raise ServerFailure(
                "refused", "its task asks for input, which is not supported; it was cancelled"
            )
        raise ServerFailure("refused", f"its task is {task.state}: {task.message or 'without a reason'}")

    async def _cancel_task(self, task: RemoteTask) -> None:
        """Ask the server to cancel a task, for a short time, also when this is cancelled itself."""
        with trio.move_on_after(CANCEL_TASK_SECONDS) as scope, suppress(ServerFailure):
            scope.shield = True
            if self._connection is not None:
                await self._connection.cancel_task(task.task_id)

    def _suspect(self, connection: ServerConnection) -> None:
        """Examine a connection on which a request failed: its session may be gone.

        So it is after a restart of the server. If it lists no tools, another connection is made.
        """
        if self.spec.settings.url is not None:
            connection.changed.set()

    def _end_call(self) -> None:
        self._calls -= 1
        if self._is_closing and not self._calls:
            self._scope.cancel()

    def adopt(self, spec: ServerSpec) -> None:
        """Take the same configuration from another runtime; it may be for other agents."""
        if spec != self.spec:
            self.spec = spec
            self.tools = tuple(replace(tool, spec=spec) for tool in self.tools)

    def restart(self) -> None:
        """End the connection, or the wait for the next attempt; another connection is made at once."""
        # Those who wait for the attempt that this ends wait for the next one (see McpPool.settle).
        self.settled.set()
        self.settled = trio.Event()
        self._problem = self._last_problem = None
        self._wake.set()
        self._scope.cancel()

    def close(self) -> None:
        """End the server after its last call."""
        self._is_closing = True
        self._state = "closing"
        self._wake.set()
        if not self._calls:
            self._scope.cancel()

    def view(self) -> McpServer:
        """Return the server and its state, as shown."""
        spec, connection = self.spec, self._connection
        return view_of(
            spec,
            self._state,
            tools=len(self.tools),
            # While it is tried again, the problem of the previous attempt is the news.
            problem=self._problem if self._state in ("failed", "needs_login") else self._last_problem,
            warnings=self._warnings,
            error_output=self._errors.lines,
            retry_at_ms=self._retry_at_ms,
            pid=None if connection is None else connection.pid,
            protocol_version=self._identity[0],
            server=self._identity[1],
            restarts=max(self._connections - 1, 0),
        )
