"""Published JSON-RPC clients hold a conversation with the real daemon."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import Daemon, short_home
from tests.support.programs import environment

NODE = Path(__file__).parent / "node"
LAMP = "The lamp is green."

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules").exists(),
    reason="node, or what 'npm ci' puts into tests/e2e/node, is missing",
)
needs_socat = pytest.mark.skipif(shutil.which("socat") is None, reason="socat is missing")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Provide a daemon that also listens for WebSockets; each client is a separate sender."""
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text('[listen.tcp]\naddress = "127.0.0.1:0"\n')
        with Daemon(home) as daemon:
            yield daemon


def run_client(program: list[str], stdin: str = "") -> str:
    """Return a program's output. Errors: AssertionError with its stderr if it fails."""
    done = subprocess.run(
        program, input=stdin, capture_output=True, text=True, timeout=60, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_remembers(second: dict[str, Any]) -> None:
    """Assert that the second turn belongs to the conversation of the first."""
    assert second["status"] == "completed"
    assert f"before it you said: “{LAMP}”" in second["output"]


@needs_node
def test_json_rpc_2_0_over_the_websocket_holds_a_conversation(daemon: Daemon) -> None:
    """Npm's json-rpc-2.0 over ws completes two turns, a refusal and a batch with a token."""
    token = daemon.call("token.create", name="stock", scopes=["read", "converse"])
    address = (daemon.home / "run" / "tcp").read_text().strip()
    url = f"ws://{address}/rpc"
    gave = json.loads(run_client(["node", str(NODE / "websocket.mjs"), url], token["secret"]))
    assert gave["first"]["session_id"] == gave["second"]["session_id"]
    assert_remembers(gave["second"])
    assert gave["refusal"] == {"code": 1404, "reason": "run_not_found"}
    by_id = {answer["id"]: answer for answer in gave["batch"]}
    assert by_id[101]["result"]["version"]
    assert by_id[102]["error"]["code"] == -32601


@needs_node
def test_vscode_jsonrpc_over_the_unix_socket_holds_a_conversation(daemon: Daemon) -> None:
    """Npm's vscode-jsonrpc, which frames by Content-Length, holds a conversation."""
    gave = json.loads(run_client(["node", str(NODE / "editor.mjs"), str(daemon.socket)]))
    assert gave["first"]["session_id"] == gave["second"]["session_id"]
    assert_remembers(gave["second"])
    assert gave["streamed"] == gave["second"]["output"]
    assert gave["end"] == "settled"
    assert gave["refusal"] == {"code": 1404, "reason": "run_not_found"}


@needs_socat
def test_socat_on_the_unix_socket_holds_a_conversation(daemon: Daemon) -> None:
    """Two socats that half-close at once get their answers in one conversation."""
    for number, content in enumerate((LAMP, "What did I say before?"), 1):
        params = {"sender": "socat", "content": content, "wait": "settled"}
        request = {"jsonrpc": "2.0", "id": number, "method": "conversation.send", "params": params}
        answer = json.loads(
            run_client(
                ["socat", "-t", "60", "-", f"UNIX-CONNECT:{daemon.socket}"], json.dumps(request) + "\n"
            )
        )
        assert answer["id"] == number
    assert_remembers(answer["result"])
