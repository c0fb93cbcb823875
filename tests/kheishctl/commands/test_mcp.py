"""``kheishctl mcp``."""

import json
import threading
import webbrowser
from collections.abc import Iterator
from urllib.parse import urlencode

import httpx2
import pytest

from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, until
from tests.support.mcp_servers import TOY_COMMAND
from tests.support.oauth_mcp_server import run_oauth_server


@pytest.fixture(scope="module")
def servers(daemon: Daemon) -> Iterator[Ctl]:
    """Configure servers in the shared daemon for a while."""
    ctl = Ctl(daemon.home)
    config = daemon.home / "config.toml"
    command = json.dumps(TOY_COMMAND)
    config.write_text(
        f"[mcp.toy]\ncommand = {command}\n[mcp.gone]\ncommand = 'no-such-program'\n"
        f"[mcp.broken]\ncommand = {command}\nargs = ['dies']\n"
    )
    assert ctl("daemon", "reload").code == 0
    until(
        lambda: [row["state"] for row in ctl.json("mcp", "list")["servers"]] == ["failed", "failed", "ready"],
        "the servers are connected",
    )
    yield ctl
    config.unlink()
    assert ctl("daemon", "reload").code == 0


def test_list(servers: Ctl) -> None:
    """Servers are listed with their state, the number of their tools, and the problem."""
    broken, gone, toy = servers("mcp", "list").rows
    assert broken[-1] == "it ended with code 1: cannot open its database"
    assert gone[:3] == ["gone", "failed", "0"]
    assert gone[-1] == "there is no program 'no-such-program' in the PATH"
    assert toy[:4] == ["toy", "ready", "14", "file"]


def test_show(servers: Ctl) -> None:
    """One server is shown with its problem, its warnings and its error output."""
    assert "no-such-program" in servers("mcp", "show", "gone").out
    assert servers.json("mcp", "get", "toy")["state"] == "ready"
    failed = servers("mcp", "show", "broken")
    assert "problem" in failed.out
    assert failed.out.endswith("Its error output:\n  cannot open its database\n")
    assert servers("mcp", "show", "none").code == 1


def test_put_without_dashes(ctl: Ctl) -> None:
    """The message about an option of the program shows how to write the command."""
    done = ctl("mcp", "put", "files", "npx", "-y", "some-package")
    assert done.code == 2
    assert "No such option '-y'." in done.err
    assert "kheishctl mcp put SERVER -- PROGRAM ARGUMENTS" in done.err
    text = ctl("mcp", "put", "Bad Name", "npx").err
    assert ("server: expected 1-32 characters" in text, "$.params" in text) == (True, False)
    text = ctl("mcp", "put", "files", "--settings", '{"command": "npx -y some-package"}').err
    assert '["npx", "-y", "some-package"]' in text


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


def test_put_names_the_next_step(servers: Ctl) -> None:
    """The server is not connected yet: a note names the list, and its command can be copied."""
    done = servers("mcp", "put", "away", "--", "no-such-program", "-y", "a b")
    assert ["command", "no-such-program -y 'a b'"] in done.rows
    assert f"its state: kheishctl --home {servers.home} mcp list" in done.err
    assert "no-such-program -y 'a b'" in servers("mcp", "show", "away").out
    assert servers("mcp", "delete", "away").code == 0


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


def test_login(servers: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person logs in by a browser here, by its last address, or in two steps, and logs out."""

    def browse(url: str) -> bool:
        threading.Thread(target=httpx2.get, args=(url,), kwargs={"follow_redirects": True}).start()
        return True

    monkeypatch.setattr(webbrowser, "open", browse)
    with run_oauth_server() as server:
        settings = ("--url", server.url, "--settings", '{"oauth": true}')
        assert servers("mcp", "put", "guarded", *settings).code == 0

        def state() -> str:
            rows = servers.json("mcp", "list")["servers"]
            return str(next((row["state"] for row in rows if row["name"] == "guarded"), ""))

        until(lambda: state() == "needs_login", "the server needs a login")
        warnings = servers.json("daemon", "status")["warnings"]
        assert any("'guarded' needs a login" in warning for warning in warnings)
        view = servers.json("mcp", "login", "guarded")
        assert (view["state"], view["tools"]) == ("ready", 1)
        assert servers("mcp", "call", "guarded", "echo", '{"text": "hi"}').code == 0
        (slot,) = servers.json("secret", "list")["secrets"]
        assert (slot["slot_id"], slot["kind"]) == ("mcp.oauth.guarded", "oauth")
        assert servers("secret", "delete", "mcp.oauth.guarded").code == 1
        assert servers.json("mcp", "logout", "guarded") == {"server": "guarded", "revoked": True}
        assert state() == "needs_login"
        begun = servers.json("mcp", "login", "guarded", "--begin")
        parameters = server.visit(begun["url"])
        address = f"http://127.0.0.1:1/callback?{urlencode(parameters)}"
        assert servers("mcp", "login-complete", begun["login_id"], stdin="nothing").code == 2
        assert servers.json("mcp", "login-complete", begun["login_id"], stdin=address)["state"] == "ready"
        refused = servers("mcp", "login-complete", begun["login_id"], stdin=address)
        assert (refused.code, "mcp login" in refused.err) == (1, True)
        assert servers("mcp", "login", "guarded", "--paste", stdin="x").code == 2
        refused = servers("mcp", "login", "guarded", "--device")
        assert (refused.code, "offers no login by a code" in refused.err) == (1, True)
        tokens = [*server.authority.access]
        log = (servers.home / "logs" / "kheishd.log").read_text() if (servers.home / "logs").exists() else ""
        assert not [token for token in tokens if token in log]
        assert servers("mcp", "logout", "guarded").code == 0
    assert servers("mcp", "delete", "guarded").code == 0
