"""Files and scripts that begin with a byte order mark are read like others."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ctl import Ctl
from tests.support.daemons import PATIENCE_S, Daemon, RpcError, run_kheishd, short_home

MARK = b"\xef\xbb\xbf"

AGENT = b"---\ndescription: d\n---\r\nHi.\r\n"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Provide a daemon whose configuration and agent's file begin with a byte order mark."""
    with short_home() as home:
        (home / "agents").mkdir(parents=True)
        (home / "config.toml").write_bytes(MARK + b'default_agent = "marked"\r\n')
        (home / "agents" / "marked.md").write_bytes(MARK + AGENT)
        with Daemon(home) as daemon:
            yield daemon


def test_configuration_and_agents(daemon: Daemon) -> None:
    """They are loaded, and a problem names its line."""
    assert daemon.call("daemon.status")["warnings"] == []
    assert daemon.say("hi")["status"] == "completed"
    config = daemon.home / "config.toml"
    content = config.read_bytes()
    for bad, where in (
        (b"defualt_agent = 1\n", "config.toml:1: "),
        (b"\n[listen.tcp]\naddress = 1\n", ":3: "),
    ):
        config.write_bytes(MARK + bad)
        with pytest.raises(RpcError, match=where):
            daemon.call("daemon.reload")
        assert where in run_kheishd(daemon.home.with_name("other"), "--config", str(config)).stderr
    config.write_bytes(content)
    daemon.call("daemon.reload")


def test_an_import(daemon: Daemon, tmp_path: Path) -> None:
    """An export that an editor has saved with a mark is imported, through kheishctl and by a program."""
    session_id = daemon.say("remember")["session_id"]
    ctl = Ctl(daemon.home)
    lines = ctl("session", "export", session_id).out.encode()
    (tmp_path / "export.jsonl").write_bytes(MARK + lines)
    imported = ctl.json("session", "import", str(tmp_path / "export.jsonl"))
    assert imported["messages"] >= 2
    piped = ctl("session", "import", "-", "--json", stdin=MARK + lines)
    assert piped.json["messages"] == imported["messages"]
    sent = (MARK + lines).decode().splitlines()
    assert daemon.call("session.import", lines=sent)["messages"] == imported["messages"]


def test_messages_and_params_that_are_piped_in(daemon: Daemon) -> None:
    """The mark is no part of a message, nor of the params of a call."""
    ctl = Ctl(daemon.home)
    sent = ctl("send", "marked", "--json", stdin=MARK + b"hello")
    history = daemon.call("session.history", session_id=sent.json["session_id"], order="newest", limit=2)
    assert history["messages"][1]["message"]["items"][0]["text"] == "hello"
    called = ctl("call", "run.get", "-", stdin=MARK + json.dumps({"run_id": sent.json["run_id"]}).encode())
    assert called.json["run_id"] == sent.json["run_id"]


def test_requests_that_are_piped_in(daemon: Daemon) -> None:
    """A file of requests that begins with a mark is answered."""
    with daemon.connect() as client:
        client.socket.settimeout(PATIENCE_S)
        client.socket.sendall(MARK + b'{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}\n')
        assert client.answer(1)["version"]
