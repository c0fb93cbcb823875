"""``kheishctl mcp``."""

import json
from collections.abc import Iterator

import pytest

from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, until
from tests.support.mcp_servers import TOY_COMMAND


@pytest.fixture(scope="module")
def servers(daemon: Daemon) -> Iterator[Ctl]:
    """Configure servers in the shared daemon for a while."""
    ctl = Ctl(daemon.home)
    config = daemon.home / "config.toml"
    command = json.dumps(TOY_COMMAND)
    config.write_text(f"[mcp.toy]\ncommand = {command}\n[mcp.gone]\ncommand = 'no-such-program'\n")
    assert ctl("daemon", "reload").code == 0
    until(
        lambda: [row["state"] for row in ctl.json("mcp", "list")["servers"]] == ["failed", "ready"],
        "the servers are connected",
    )
    yield ctl
    config.unlink()
    assert ctl("daemon", "reload").code == 0


def test_list(servers: Ctl) -> None:
    """Servers are listed with their state, the number of their tools, and the problem."""
    gone, toy = servers("mcp", "list").rows
    assert gone[:3] == ["gone", "failed", "0"]
    assert gone[-1] == "there is no program 'no-such-program' in the PATH"
    assert toy[:4] == ["toy", "ready", "11", "file"]


def test_tools(servers: Ctl) -> None:
    """Tools are listed by their names for agents, of all servers or of one."""
    assert ["mcp__toy__read", "yes", "Does read."] in servers("mcp", "tools").rows
    assert servers.json("mcp", "tools", "gone")["tools"] == []
    refused = servers("mcp", "tools", "none")
    assert refused.code == 1
    assert "mcp list" in refused.err


def test_call(servers: Ctl) -> None:
    """A call shows the result; the exit code says whether it is an error."""
    done = servers("mcp", "call", "toy", "echo", '{"text": "hi"}')
    assert (done.code, json.loads(done.out)["content"]) == (0, ["hi"])
    assert servers.json("mcp", "call", "toy", "echo")["server"] == "toy"
    assert servers("mcp", "call", "toy", "fail", '{"text": "why"}').code == 1
    assert servers("mcp", "call", "toy", "none").code == 1
    assert servers("mcp", "call", "toy", "echo", "{").code == 2


def test_resources_and_prompts(servers: Ctl) -> None:
    """A server without resources and prompts has empty lists."""
    assert servers("mcp", "resources", "toy").rows == []
    assert servers.json("mcp", "prompts", "toy") == {"prompts": []}
    assert servers("mcp", "prompts", "gone").code == 1


def test_restart(servers: Ctl) -> None:
    """A restart shows the new state."""
    assert ["state", "ready"] in servers("mcp", "restart", "toy").rows


def test_put_and_delete(servers: Ctl) -> None:
    """A server is stored by its command, connected at once, and deleted."""
    settings = ("--settings", '{"tool_timeout_s": 5}', "--json")
    stored = servers("mcp", "put", "live", *settings, "--", *TOY_COMMAND).json
    assert (stored["source"], stored["command"]) == ("stored", TOY_COMMAND)

    def states() -> dict[str, str]:
        return {row["name"]: row["state"] for row in servers.json("mcp", "list")["servers"]}

    until(lambda: states().get("live") == "ready", "the server is connected")
    assert servers("mcp", "call", "live", "echo").code == 0
    assert servers("mcp", "put", "toy", "--url", "http://localhost/").code == 1
    assert servers("mcp", "put", "bad", "--url", "http://localhost/", "--auth-ref", "key").code == 1
    assert servers("mcp", "put", "bad", "--settings", "[]").code == 2
    assert servers("mcp", "delete", "live").code == 0
    until(lambda: "live" not in states(), "the server is closed")
