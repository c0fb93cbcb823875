"""definition.list and definition.get, over a socket."""

from pathlib import Path

import pytest

from kheishd.core.definition import built_in, parse
from kheishd.kernel.runtime import Runtime
from kheishd.objects.node.definition import HANDLERS
from kheishd.server.listeners import TcpListen
from protocol.errors.definition import AgentNotFound
from tests.support.rpc_server import rpc_server
from tests.support.runtimes import make_runtime


def runtime() -> Runtime:
    """Serve the built-in agent and two agents from files."""
    reviewer = parse("reviewer", b"---\ntools: []\n---\nReview.", "/home/agents/reviewer.md")
    writer = parse("writer", b"Write.", "/home/agents/writer.md")
    return make_runtime(definitions={a.name: a for a in (writer, built_in(), reviewer)})


async def test_definition_list_ok(tmp_path: Path) -> None:
    """Agents are listed by name without gaps between pages; null lists are left out, empty ones are shown."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        first = await client.call("definition.list", limit=2)
        second = await client.call("definition.list", limit=2, after=first["next"])
    names = [d["name"] for d in first["definitions"] + second["definitions"]]
    assert names == ["default", "reviewer", "writer"]
    assert second["next"] is None
    assert first["definitions"][1]["tools"] == []
    assert "tools" not in first["definitions"][0]


async def test_definition_get_ok(tmp_path: Path) -> None:
    """An agent is shown with its source and the digest of its instructions."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        agent = await (await server.connect()).call("definition.get", name="reviewer")
    assert (agent["instructions"], agent["source"], agent["path"]) == (
        "Review.",
        "file",
        "/home/agents/reviewer.md",
    )
    assert len(agent["digest"]) == 64


async def test_definition_get_agent_not_found(tmp_path: Path) -> None:
    """The refusal names the agent and the field."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        with pytest.raises(AgentNotFound, match="'nobody'") as refused:
            await client.call("definition.get", name="nobody")
    assert refused.value.field == "$.params.name"


async def test_a_token_sees_only_its_agents(tmp_path: Path) -> None:
    """A token that covers one agent neither lists nor shows others."""
    tcp = TcpListen("127.0.0.1", 0)
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime(), tcp=tcp) as server:
        _, secret = await server.token(agents=["writer"])
        client = await server.connect_websocket(secret)
        listed = await client.call("definition.list")
        with pytest.raises(AgentNotFound):
            await client.call("definition.get", name="reviewer")
    assert [d["name"] for d in listed["definitions"]] == ["writer"]
