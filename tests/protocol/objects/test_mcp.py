"""MCP servers on the wire."""

import msgspec
import pytest

from protocol.objects.mcp import McpServerRef, McpServerSettings


@pytest.mark.parametrize("name", ["a", "my-server", "a_b", "A1", "x" * 32])
def test_server_names(name: str) -> None:
    """A name is a part of its tools' names."""
    assert msgspec.convert({"server": name}, McpServerRef).server == name


@pytest.mark.parametrize("name", ["", "a__b", "a_", "_a", "a.b", "a b", "x" * 33, "a\n"])
def test_names_that_would_be_ambiguous(name: str) -> None:
    """Two underscores separate the server from the tool, so no name has or completes them."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"server": name}, McpServerRef)


def test_a_command_is_one_word_or_a_list() -> None:
    """The command is a program, or a list of it and its arguments; further arguments follow."""
    assert McpServerSettings(command="npx", args=["-y"]).argv == ["npx", "-y"]
    assert McpServerSettings(command=["npx", "-y"], args=["server"]).argv == ["npx", "-y", "server"]
    assert McpServerSettings(url="http://localhost/mcp").argv == []
