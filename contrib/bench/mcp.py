"""MCP servers: a call beside that of the bare library, the memory that the first server costs, and the start.

All use one server on standard streams, which does next to nothing.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import trio

from contrib.bench.client import Client
from contrib.bench.memory import idle_mib
from contrib.bench.proc import memory_kib
from contrib.bench.processes import Broken, daemon, home, on_core
from contrib.bench.scale import Scale
from contrib.bench.start import first_reply
from contrib.bench.table import Round, Row, at_most

SERVER = Path(__file__).with_name("yardsticks") / "mcp_server.py"
ARGUMENTS = ["-I", "-S", str(SERVER)]
CONFIG = f"[mcp.bench]\ncommand = {json.dumps([sys.executable, *ARGUMENTS])}\n"
TEXT = "a text of some words"
MAX_WAIT_SECONDS = 60.0


def measure(scale: Scale) -> Iterator[Row]:
    """Measure three rows."""
    calls, times = scale.pick(500, 5), scale.pick(3, 1)
    overheads, sizes, starts = [], [], []
    for _ in scale.rounds:
        with on_core(), daemon(CONFIG) as server, Client(server.socket) as client:
            wait_until_ready(client)
            bare = trio.run(bare_call_ms, calls)
            overheads.append(Round(call_ms(client, calls), bare))
            sizes.append(Round(memory_kib(server.pid) / 1024, idle_mib()))
        pairs = [(start_ms(CONFIG), start_ms("")) for _ in range(times)]
        starts.append(Round(*(median(column) for column in zip(*pairs, strict=True))))
    name = "a call of an MCP server's tool (mcp.call)"
    yield Row(name, "ms", overheads, at_most(2), "ratio", "the library's own client, same server")
    name = "idle daemon with its first MCP server"
    note = "the library brings its own servers and models of both generations: 40 MiB of it"
    yield Row(name, "MiB", sizes, at_most(45), "difference", "without a server", note=note)
    name = "daemon start to first reply with an MCP server"
    yield Row(name, "ms", starts, at_most(1.1), "ratio", "without a server")


def wait_until_ready(client: Client) -> None:
    """Wait until the server is connected. Errors: Broken."""
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    while time.monotonic() < deadline:
        (view,) = client.call("mcp.list")["servers"]
        if view["state"] == "ready":
            return
        time.sleep(0.02)
    raise Broken(f"the MCP server is not ready: {view}")


def call_ms(client: Client, calls: int) -> float:
    """Measure a call through the daemon, in milliseconds."""
    params = {"server": "bench", "tool": "echo", "input": {"text": TEXT}}
    durations = []
    for _ in range(calls):
        began = time.perf_counter()
        result = client.call("mcp.call", **params)
        durations.append((time.perf_counter() - began) * 1000)
        if TEXT not in result["text"]:
            raise Broken(f"the tool returned {result}")
    return median(durations)


async def bare_call_ms(calls: int) -> float:
    """Measure a call by the library's client and transport, in milliseconds."""
    # Imported here: it takes half a second, and other figures do not need it.
    from mcp import Client as LibraryClient
    from mcp import StdioServerParameters, stdio_client

    durations = []
    parameters = StdioServerParameters(command=sys.executable, args=ARGUMENTS)
    async with LibraryClient(stdio_client(parameters)) as client:
        for _ in range(calls):
            began = time.perf_counter()
            await client.call_tool("echo", {"text": TEXT})
            durations.append((time.perf_counter() - began) * 1000)
    return median(durations)


def start_ms(config: str) -> float:
    """Measure the start of the daemon in a new home, in milliseconds."""
    with home(config) as server:
        return first_reply(server)
