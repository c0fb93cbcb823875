"""A client for the public conformance suite: the daemon's part for MCP servers, without a daemon.

The suite runs a command for each scenario. Starting an interpreter with the MCP library takes seconds, so
that command only writes to a port of the test, and the client runs in the test.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import trio

from kheishd.kernel.mcp import ServerFailure, ServerSpec
from kheishd.mcp.pool import McpPool
from protocol.errors.refusal import Refusal
from protocol.objects.mcp import McpServerSettings
from tests.support.mcp_servers import open_pool

REDIRECT = "http://127.0.0.1:3000/callback"
SERVER = "server"

PATIENCE_S = 100.0

EXAMPLES = {"number": 1, "integer": 1, "boolean": True, "array": [], "object": {}}
"""Values by type; others are texts."""


def make_command(port: int) -> str:
    """Return the suite's command: it passes the scenario, its context and the URL to a port of the test."""
    script = f'exec 3<>/dev/tcp/127.0.0.1/{port}; printf "%s\\n%s\\n%s\\n" '
    script += (
        '"$MCP_CONFORMANCE_SCENARIO" "$MCP_CONFORMANCE_CONTEXT" "$1" >&3; read -r code <&3; exit "$code"'
    )
    return f"bash -c '{script}' client"


class ConformanceClients:
    """The clients of a run of the suite. ``excluded`` are scenarios in which none connects."""

    def __init__(self, excluded: Sequence[str]) -> None:
        self._excluded = excluded
        # Three hundred milliseconds of work for each of fifty clients at once would exceed their time limits.
        self._limiter = trio.CapacityLimiter(4)
        self.notes: list[str] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        """Run one client, and answer with its exit code."""
        received = b""
        while received.count(b"\n") < 3:
            received += await stream.receive_some()
        scenario, context, url = received.decode().splitlines()
        code = 1
        if scenario not in self._excluded:
            async with self._limiter:
                try:
                    with trio.fail_after(PATIENCE_S):
                        await use_server(url, scenario, json.loads(context or "{}"))
                    code = 0
                except* (Refusal, ServerFailure, trio.TooSlowError, KeyError) as group:
                    self.notes.append(f"{scenario}: {group.exceptions!r}")
        await stream.send_all(f"{code}\n".encode())


async def use_server(url: str, scenario: str, context: Mapping[str, Any]) -> None:
    """Connect to a server, logging in if it wants that, and use all that it has."""
    oauth: dict[str, Any] = (
        {"oauth": True, "oauth_hosts": ["localhost"]} if scenario.startswith("auth/") else {}
    )
    if "client_id" in context:
        oauth |= {"oauth_client_id": context["client_id"], "oauth_client_secret_ref": "env:SECRET"}
    secret = str(context.get("client_secret", ""))
    spec = ServerSpec(SERVER, McpServerSettings(url=url, tool_timeout_s=PATIENCE_S, **oauth))
    async with open_pool(spec, resolve=lambda reference: secret) as pool:
        if oauth:
            await log_in(pool)
        if (problem := pool.find_problem(SERVER)) is not None:
            raise ServerFailure("unavailable", problem)
        schemas = {tool.remote_name: tool.row.schema for tool in pool.tools}
        calls = [(call["name"], call["arguments"]) for call in context.get("toolCalls", ())]
        for name, arguments in calls or [(name, arguments_of(schemas, name)) for name in schemas]:
            if name in schemas:
                await pool.call(SERVER, name, arguments, lambda line: None)
        await pool.list_prompts(SERVER)
        if pool.resource_servers:
            await pool.list_resources(SERVER)


def arguments_of(schemas: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return arguments that fit a simple schema; a tool that echoes a schema gets that of another tool."""
    properties = schemas[name].get("properties", {})
    arguments = {key: EXAMPLES.get(str(inner.get("type")), "text") for key, inner in properties.items()}
    if "schema" in properties:
        arguments["schema"] = next(schema for other, schema in schemas.items() if other != name)
    return arguments


async def log_in(pool: McpPool) -> None:
    """Log in as a person whose browser agrees to everything."""
    begun = await pool.begin_login(SERVER, REDIRECT)
    async with httpx2.AsyncClient() as browser:
        answer = await browser.get(begun.url)
    query = dict(parse_qsl(urlsplit(answer.headers["location"]).query))
    await pool.complete_login(begun.login_id, query["code"], query["state"], query.get("iss"))
