"""A server of the protocol's newer generation (2026-07-28), made with the official library.

Its arguments are a directory, where it keeps the tasks of its calls, and, for streamable HTTP, a port of the
loopback; without one it uses standard streams.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolRequestParams, RequestParams

DIRECTORY = Path(sys.argv[1])
STAMP = "2026-07-28T00:00:00Z"
POLL_MS = 20


class TaskParams(RequestParams):
    """The params of requests about a task."""

    task_id: str
    input_responses: dict[str, Any] | None = None


def read_task(params: TaskParams) -> dict[str, Any]:
    """Return a task."""
    try:
        task: dict[str, Any] = json.loads((DIRECTORY / params.task_id).read_text())
    except OSError:
        raise MCPError(INVALID_PARAMS, "Failed to retrieve task: Task not found") from None
    return task


def write_task(task: dict[str, Any]) -> dict[str, Any]:
    """Keep a task."""
    path = DIRECTORY / task["taskId"]
    path.with_suffix(".new").write_text(json.dumps(task))
    path.with_suffix(".new").rename(path)
    return task


class Tasks(Extension):
    """The tasks extension: a call of ``job`` becomes a task, which is a file of the directory.

    A test ends the task of a name by the file ``job-NAME.step``, which has the fields that it changes. The
    file ``job-NAME.polled`` exists once the client knows the task.
    """

    identifier = "io.modelcontextprotocol/tasks"

    def methods(self) -> list[MethodBinding]:
        """Return the methods."""
        return [
            MethodBinding("tasks/get", TaskParams, self.get),
            MethodBinding("tasks/update", TaskParams, self.update),
            MethodBinding("tasks/cancel", TaskParams, self.cancel),
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Make a task of some calls."""
        if params.name != "job":
            return await call_next(ctx)
        arguments = params.arguments or {}
        task: dict[str, Any] = {
            "taskId": f"job-{arguments['name']}",
            "status": "working",
            "statusMessage": "begun",
        }
        task |= {"createdAt": STAMP, "lastUpdatedAt": STAMP, "ttlMs": None, "pollIntervalMs": POLL_MS}
        return {**write_task(task), "resultType": "task"}

    async def get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        """Return a task as the test has set it."""
        task = read_task(params)
        (DIRECTORY / f"{params.task_id}.polled").touch()
        step = DIRECTORY / f"{params.task_id}.step"
        if task["status"] == "working" and step.exists():
            task |= json.loads(step.read_text())
        return {**task, "resultType": "complete"}

    async def update(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        """Keep the client's answers."""
        write_task({**read_task(params), "answers": params.input_responses})
        return {"resultType": "complete"}

    async def cancel(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        """Cancel a task."""
        write_task({**read_task(params), "status": "cancelled"})
        return {"resultType": "complete"}


server = MCPServer("modern", extensions=[Tasks()])


@server.tool()
async def count(n: int, ctx: Context) -> int:
    """Count to a number."""
    for number in range(1, n + 1):
        await ctx.report_progress(number, n, f"at {number}")
    return n


@server.tool()
async def wait(ctx: Context) -> str:
    """Wait until the call is cancelled."""
    await ctx.report_progress(1, 2, "waiting")
    (DIRECTORY / "waits").touch()
    try:
        await anyio.sleep_forever()
    finally:
        (DIRECTORY / "cancelled").touch()
    return "never"


@server.tool()
async def grow(name: str, ctx: Context) -> str:
    """Add a tool."""
    server.add_tool(shout, name)
    await ctx.notify_tools_changed()
    return "grown"


@server.tool()
def job(name: str) -> str:
    """Run as a task."""
    return name


def shout(text: str) -> str:
    """Return a text in capitals."""
    return text.upper()


@server.resource("note://{name}")
def note(name: str) -> str:
    """Return a note."""
    return f"a note about {name}"


@server.resource("fact://one")
def fact() -> str:
    """Return a fact."""
    return "one is odd"


@server.prompt()
def greet(who: str) -> str:
    """Greet."""
    return f"Say hello to {who}."


def main() -> None:
    """Serve."""
    logging.disable()
    if len(sys.argv) > 2:
        server.run("streamable-http", port=int(sys.argv[2]))
    else:
        server.run()


if __name__ == "__main__":
    main()
