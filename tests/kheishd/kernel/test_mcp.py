"""The specifications of MCP servers."""

import pytest
from msgspec.structs import replace

from kheishd.config.sections.mcp import McpSection
from kheishd.kernel.mcp import McpHolder, NoMcp, ServerSpec, servers_of
from protocol.errors.mcp import McpServerNotFound
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
    with pytest.raises(McpServerNotFound):
        await holder.current.restart("a")
