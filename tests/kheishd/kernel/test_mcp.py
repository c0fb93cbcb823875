"""The specifications of MCP servers."""

import pytest
from msgspec.structs import replace

from kheishd.config.sections.mcp import McpSection
from kheishd.core.definition import built_in
from kheishd.kernel.mcp import McpHolder, NoMcp, ServerSpec, find_server_conflicts, servers_of
from protocol.errors.mcp import McpServerNotFound
from protocol.limits.mcp import MAX_MCP_SERVERS
from protocol.objects.definition import Definition
from protocol.objects.mcp import McpServerSettings
from tests.support.runtimes import WORKSPACES, make_runtime

SPEC = ServerSpec("files", McpServerSettings(command="files"))


def test_servers_of_a_runtime() -> None:
    """The configured servers are returned by name, each in the workspace unless it has a directory."""
    sections = {"b": McpSection(command="b"), "a": McpSection(command="a", cwd="/srv")}
    servers = servers_of(make_runtime(mcp=sections))
    assert [(spec.name, spec.cwd, spec.settings.argv) for spec in servers.values()] == [
        ("a", "/srv", ["a"]),
        ("b", WORKSPACES.root, ["b"]),
    ]


def agent(name: str, **servers: McpServerSettings) -> Definition:
    """Return an agent that brings servers."""
    return replace(built_in(), name=name, mcp_servers=servers, source="file")


def test_servers_of_the_store_and_of_agents() -> None:
    """The file comes first, then the store, then agents; a server without effect is a warning."""
    one, other = McpServerSettings(command="one"), McpServerSettings(command="other")
    runtime = make_runtime(
        mcp={"file": McpSection(command="file")},
        stored_servers={"file": one, "stored": one},
        definitions={
            "a": agent("a", own=one, shared=one, stored=other),
            "b": agent("b", own=other, shared=one),
        },
    )
    servers = servers_of(runtime)
    assert [(spec.name, spec.source, spec.agents, spec.settings.argv) for spec in servers.values()] == [
        ("file", "file", (), ["file"]),
        ("own", "agent", ("a",), ["one"]),
        ("shared", "agent", ("a", "b"), ["one"]),
        ("stored", "stored", (), ["one"]),
    ]
    assert find_server_conflicts(runtime) == [
        "the stored MCP server 'file' has no effect, because the configuration defines it, too",
        "the MCP server 'stored' of the agent 'a' has no effect: the daemon has another one",
        "the MCP server 'own' of the agent 'b' has no effect: the agent 'a' has another one",
    ]


def test_too_many_servers() -> None:
    """Servers beyond the limit are left out, with a warning."""
    stored = {f"s{number:03}": McpServerSettings(command="x") for number in range(MAX_MCP_SERVERS + 1)}
    runtime = make_runtime(stored_servers=stored)
    assert list(servers_of(runtime)) == list(stored)[:-1]
    assert "the limit is 64" in find_server_conflicts(runtime)[0]


def test_the_digest_is_that_of_the_configuration() -> None:
    """Equal configurations have one digest; the agents that have the server are no part of it."""
    assert SPEC.digest == replace(SPEC, agents=("reviewer",)).digest
    others = [replace(SPEC, name="other"), replace(SPEC, settings=McpServerSettings(command="x"))]
    assert SPEC.digest not in {other.digest for other in others}


def test_credentials() -> None:
    """A server with a reference needs a session's credential scope."""
    assert not SPEC.needs_credential
    assert ServerSpec("a", McpServerSettings(url="http://a/", auth_ref="env:A")).needs_credential
    assert ServerSpec("a", McpServerSettings(command="a", env_refs={"A": "env:A"})).needs_credential


async def test_without_servers() -> None:
    """Until a configuration has servers, there are none, and each name is refused."""
    holder = McpHolder()
    assert isinstance(holder.current, NoMcp)
    assert (holder.current.views(), list(holder.current.tools)) == ([], [])
    await holder.current.settle(["a"])
    with pytest.raises(McpServerNotFound):
        holder.current.find("a")
    with pytest.raises(McpServerNotFound):
        holder.current.find_problem("a")
    with pytest.raises(McpServerNotFound):
        await holder.current.call("a", "t", {}, print)
    assert list(holder.current.resource_servers) == []
    for request in (holder.current.restart, holder.current.list_resources, holder.current.list_prompts):
        with pytest.raises(McpServerNotFound):
            await request("a")
    with pytest.raises(McpServerNotFound):
        await holder.current.read_resource("a", "x:1")
