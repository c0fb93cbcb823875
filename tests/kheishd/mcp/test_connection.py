"""Connections to servers, of both generations of the protocol."""

import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trio
from mcp import Client, MCPError
from mcp.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import InputRequiredResult

from kheishd.hooks.os.shell.process import NotStarted
from kheishd.kernel.mcp import RemoteResult, ServerFailure, ServerSpec
from kheishd.mcp.connection import ServerConnection, describe_failure, open_connection, silence_library
from kheishd.mcp.transport import ServerEnded
from protocol.limits.mcp import MAX_LIST_BYTES, MAX_LIST_PAGES, MAX_LISTED_SERVER_TOOLS
from protocol.objects.mcp import McpServerSettings
from tests.support.mcp_servers import spec_of


@asynccontextmanager
async def connected(*manners: str, **settings: Any) -> AsyncIterator[ServerConnection]:
    """Connect to a toy."""
    with trio.fail_after(30):
        async with open_connection(
            spec_of("toy", *manners, **settings), os.environ, lambda reference: reference, "test.mcp"
        ) as connection:
            yield connection


async def call(
    connection: ServerConnection, name: str, arguments: dict[str, Any], progress: Callable[[str], None]
) -> RemoteResult:
    """Call a tool, and return its result."""
    result = await connection.call_tool(name, arguments, progress)
    assert isinstance(result, RemoteResult)
    return result


async def test_a_server_of_the_older_generation() -> None:
    """A server that knows only the handshake is connected, lists its tools and runs them."""
    async with connected() as connection:
        assert (connection.protocol_version, connection.server) == ("2025-11-25", "toy 1")
        assert connection.pid is not None
        tools = {tool["name"]: tool for tool in (await connection.list_tools()).rows}
        assert tools["read"]["annotations"] == {"readOnlyHint": True}
        result = await call(connection, "echo", {"text": "hi"}, print)
        assert (result.content, result.is_error) == ([{"type": "text", "text": "hi"}], False)
        traced = await connection.call_tool("read", {"text": "meta"}, print, {"run_id": "run_1"})
        assert isinstance(traced, RemoteResult)
        assert '"kheish/run_id": "run_1"' in traced.content[0]["text"]


INVALID = {
    "tools/list": {
        "tools": [
            {"name": "good", "inputSchema": {"type": "object"}},
            {"name": "bad", "inputSchema": {"type": "object", "required": 5}},
            {"inputSchema": {"type": "object"}},
            "text",
        ]
    },
    "resources/list": {"resources": [{"name": "r", "uri": "a:1"}, {"name": "no address"}]},
    "resources/templates/list": {"resourceTemplates": [{"name": "t", "uriTemplate": "a:{n}"}, {"name": 5}]},
    "prompts/list": {"prompts": [{"name": "p"}, {"name": "q", "arguments": "x"}]},
}


async def test_invalid_rows_are_left_out() -> None:
    """One invalid tool, resource or prompt does not cost the others, and the reason is known."""
    async with connected(json.dumps(INVALID)) as connection:
        tools = await connection.list_tools()
        assert [row["name"] for row in tools.rows] == ["good"]
        assert tools.warnings[0].startswith("the tool 'bad' is left out: inputSchema.required: ")
        assert [text.split(" is ")[0] for text in tools.warnings[1:]] == ["the tool 3", "the tool 4"]
        resources = await connection.list_resources()
        assert [row["name"] for row in resources.rows] == ["r", "t"]
        assert [text.split(" is ")[0] for text in resources.warnings] == [
            *("the resource 'no address'", "the template 2")
        ]
        prompts = await connection.list_prompts()
        assert [row["name"] for row in prompts.rows] == ["p"]
        assert len(prompts.warnings) == 1


async def test_resources_without_templates() -> None:
    """A server that does not know templates of resources has none."""
    resources = {"resources/list": {"resources": [{"name": "r", "uri": "a:1"}]}}
    async with connected(json.dumps(resources)) as connection:
        assert [row["name"] for row in (await connection.list_resources()).rows] == ["r"]


async def test_lists_without_an_end() -> None:
    """Listing ends after a number of pages and of bytes, without rows that are too long."""
    async with connected("endless") as connection:
        assert len((await connection.list_tools()).rows) == MAX_LIST_PAGES
    async with connected("heavy") as connection:
        tools = await connection.list_tools()
        assert (
            MAX_LIST_BYTES - 60_000 * 2
            < sum(len(json.dumps(row)) for row in tools.rows)
            < MAX_LIST_BYTES * 1.1
        )
        assert "too-long" not in {row["name"] for row in tools.rows}
        assert tools.warnings[0].startswith("one of its tools has ")
        assert tools.warnings[-1] == f"its tools beyond {MAX_LIST_BYTES} bytes are left out"
    async with connected("many") as connection:
        assert len((await connection.list_tools()).rows) == MAX_LISTED_SERVER_TOOLS


async def test_progress_and_cancellation() -> None:
    """Progress is shown, and a call that is cancelled ends at the server; the connection stays."""
    async with connected() as connection:
        lines: list[str] = []
        with trio.CancelScope() as scope:

            def show(line: str) -> None:
                lines.append(line)
                scope.cancel()

            await call(connection, "slow", {"text": "half\x1b way"}, show)
        assert scope.cancelled_caught
        assert lines == ["1/2 half\u241b way\n"]
        assert (await call(connection, "echo", {"text": "on"}, print)).content[0]["text"] == "on"


async def test_errors_of_a_server() -> None:
    """An error of a server is quoted without characters that act, whatever its code is."""
    async with connected() as connection:
        with pytest.raises(ServerFailure, match=r"^no \u241b\[31mreason \(code -32000\)$") as caught:
            await call(connection, "fail", {"text": "reason"}, print)
        assert caught.value.reason == "refused"


async def test_a_server_that_dies_in_a_call() -> None:
    """A call whose server dies fails at once, and the connection ends with the reason."""
    with pytest.RaisesGroup(
        pytest.RaisesExc(ServerEnded, match="^it ended with code 3$"), flatten_subgroups=True
    ):
        async with connected() as connection:
            with pytest.raises(ServerFailure) as caught:
                await call(connection, "die", {}, print)
            assert caught.value.reason == "lost"
            await trio.sleep_forever()


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("ping", {}),
        ("roots/list", {"code": -32600, "message": "List roots not supported"}),
        ("sampling/createMessage", {"code": -32600, "message": "Sampling not supported"}),
        ("elicitation/create", {"code": -32600, "message": "Elicitation not supported"}),
        ("no/such/method", {"code": -32601, "message": "Method not found", "data": "no/such/method"}),
    ],
)
async def test_requests_of_a_server(method: str, answer: dict[str, Any]) -> None:
    """A server cannot use the model, ask a person or see roots: it gets an error, and its call goes on."""
    async with connected() as connection:
        result = await call(connection, "ask", {"text": method}, print)
        assert json.loads(result.content[0]["text"]) == answer


async def test_a_flood_of_log_messages(caplog: pytest.LogCaptureFixture) -> None:
    """The log messages of a server are dropped."""
    caplog.set_level(logging.DEBUG, "kheishd")
    async with connected() as connection:
        result = await call(connection, "log", {"text": "noise"}, print)
        assert result.content[0]["text"] == "noise"
    assert "noise" not in caplog.text


async def test_an_answer_of_another_type() -> None:
    """An answer that is no result of a call is refused at once."""
    async with connected() as connection:
        with pytest.raises(ServerFailure, match="no valid JSON-RPC message") as caught:
            await call(connection, "garbage", {}, print)
        assert caught.value.reason == "refused"


async def test_changes_are_announced() -> None:
    """A server that announces another list of tools is noticed."""
    async with connected() as connection:
        assert not connection.changed.is_set()
        await call(connection, "change", {"text": "more"}, print)
        await connection.changed.wait()
        assert "more" in {tool["name"] for tool in (await connection.list_tools()).rows}


async def test_a_program_that_is_not_there() -> None:
    """A program is searched for in the PATH that the server gets."""
    spec = ServerSpec("s", McpServerSettings(command="no-such-program"))
    with pytest.raises(NotStarted, match="there is no program 'no-such-program' in the PATH"):
        async with open_connection(spec, {"PATH": "/nowhere"}, lambda reference: reference, "test.mcp"):
            pass


NEW = MCPServer("new")


@NEW.tool()
async def count(n: int, ctx: Context) -> int:
    """Count to a number."""
    for number in range(1, n + 1):
        await ctx.report_progress(number, n, f"at {number}")
        await anyio.lowlevel.checkpoint()
    return n


async def test_a_server_of_the_newer_generation() -> None:
    """A stateless server is called in the same way; what is no result of a call is refused."""
    async with Client(NEW, cache=None) as client:
        connection = ServerConnection(client, None)
        assert connection.protocol_version == "2026-07-28"
        assert [tool["name"] for tool in (await connection.list_tools()).rows] == ["count"]
        lines: list[str] = []
        result = await call(connection, "count", {"n": 2}, lines.append)
        assert result.structured == {"result": 2}
        assert lines == ["1/2 at 1\n", "2/2 at 2\n"]
        result = await call(connection, "count", {"n": "many"}, lines.append)
        assert result.is_error


async def ask_input(context: Any, params: Any) -> InputRequiredResult:
    """Ask for input instead of an answer."""
    return InputRequiredResult(request_state="state")


async def test_a_server_that_asks_for_input() -> None:
    """A call, or the read of a resource, that the server answers by a request for input is refused."""
    asking = Server("asking", on_call_tool=ask_input, on_read_resource=ask_input)
    async with Client(asking, cache=None) as client:
        connection = ServerConnection(client, None)
        for request in (connection.call_tool("a", {}, print), connection.read_resource("a:1")):
            with pytest.raises(ServerFailure, match="it asks for input") as caught:
                await request
            assert caught.value.reason == "refused"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ExceptionGroup("", [ValueError("x"), ServerEnded("it ended")]), "it ended"),
        (FileNotFoundError(2, "No such file", "/x"), "No such file (/x)"),
        (
            ExceptionGroup("", [ExceptionGroup("", [MCPError(1, "no\nway")])]),
            "it refused the connection: no way",
        ),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_descriptions_of_failures(error: Exception, text: str) -> None:
    """Of several errors, the one that tells the cause is described."""
    assert describe_failure(error) == text


def test_the_library_is_silent() -> None:
    """The log of the library, which quotes servers, is not the daemon's."""
    silence_library()
    assert not logging.getLogger("mcp.client.streamable_http").isEnabledFor(logging.ERROR)
    for name in ("mcp", "client", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.NOTSET)
