"""MCP servers of a real daemon: the public reference servers, and servers with bad manners."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kheishd.hooks.os.shell.keeper import start_ticks_of
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, RpcError, short_home, until
from tests.support.mcp_servers import MODERN_COMMAND, TOY_COMMAND
from tests.support.waiting_runs import order

SERVERS = Path(__file__).parent / "node" / "node_modules" / ".bin"

needs_servers = pytest.mark.skipif(
    not (SERVERS / "mcp-server-everything").exists(),
    reason="what 'npm ci' puts into tests/e2e/node is missing",
)


OUTPUT_SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
INVALID = {
    "tools/list": {
        "tools": [
            {"name": "good", "inputSchema": {"type": "object"}, "outputSchema": OUTPUT_SCHEMA},
            {"name": "bad", "inputSchema": {"type": "object", "required": 5}},
        ]
    },
    "tools/call": {"content": [], "structuredContent": {"n": "x"}},
}
"""The answers of a server with one invalid tool, and one whose results break its own schema."""


def server(name: str, command: list[str], **keys: Any) -> str:
    """Return the section of a server."""
    keys = {"command": command, **keys}
    return "\n".join([f"[mcp.{name}]", *(f"{key} = {toml_of(value)}" for key, value in keys.items()), ""])


def toml_of(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {json.dumps(entry)}" for key, entry in value.items()) + "}"
    return json.dumps(value)


def write_config(home: Path, *servers: str) -> None:
    """Write a configuration in which no call asks."""
    config = '[permissions]\nmode = "bypassPermissions"\n[workspace]\nsandbox = "off"\n'
    (home / "config.toml").write_text("\n".join([config, *servers]))


def states(daemon: Daemon) -> dict[str, str]:
    """Return the state of each server."""
    return {row["name"]: row["state"] for row in daemon.call("mcp.list")["servers"]}


def ask(daemon: Daemon, tool: str, **arguments: Any) -> str:
    """Let an agent call a tool; return the output of the run."""
    return str(daemon.say(order(tool, **arguments))["output"])


def row_of(daemon: Daemon, name: str) -> dict[str, Any]:
    """Return a server as shown."""
    return next(row for row in daemon.call("mcp.list")["servers"] if row["name"] == name)


def tools_of(daemon: Daemon, server: str) -> set[str]:
    """Return the server's own names of its tools."""
    return {row["tool"] for row in daemon.call("mcp.tools", server=server)["tools"]}


def pid_of(daemon: Daemon, name: str) -> int:
    """Return the process of a server."""
    return int(row_of(daemon, name)["pid"])


@needs_servers
def test_the_reference_servers() -> None:
    """An agent uses the public servers over standard streams and over HTTP."""
    with short_home() as home, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        http = subprocess.Popen(
            [SERVERS / "mcp-server-everything", "streamableHttp"],
            env={**os.environ, "PORT": str(port)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        documents = home / "documents"
        documents.mkdir(parents=True)
        (documents / "note.txt").write_text("The key is under the mat.")
        memory = home / "memory.json"
        write_config(
            home,
            server("everything", [str(SERVERS / "mcp-server-everything")]),
            server("files", [str(SERVERS / "mcp-server-filesystem")], args=[str(documents)]),
            server("memory", [str(SERVERS / "mcp-server-memory")], env={"MEMORY_FILE_PATH": str(memory)}),
            f'[mcp.web]\nurl = "http://127.0.0.1:{port}/mcp"\n',
        )
        try:
            with Daemon(home) as daemon:
                assert "Echo: hello" in ask(daemon, "mcp__everything__echo", message="hello")
                path = str(documents / "note.txt")
                assert "under the mat" in ask(daemon, "mcp__files__read_text_file", path=path)
                outside = ask(daemon, "mcp__files__read_text_file", path="/etc/passwd")
                assert "outside allowed directories" in outside
                entity = {"name": "kheish", "entityType": "daemon", "observations": ["it remembers"]}
                assert "it remembers" in ask(daemon, "mcp__memory__create_entities", entities=[entity])
                assert "it remembers" in memory.read_text()
                until(lambda: states(daemon)["web"] == "ready", "the server on HTTP is connected")
                assert "Echo: web" in ask(daemon, "mcp__web__echo", message="web")
                assert set(states(daemon).values()) == {"ready"}
                listed = daemon.call("mcp.resources", server="everything")["resources"]
                static = next(row["uri"] for row in listed if not row.get("is_template"))
                assert static in ask(daemon, "read_mcp_resource", server="everything", uri=static)
                assert static in ask(daemon, "list_mcp_resources", server="everything")
                assert daemon.call("mcp.prompts", server="everything")["prompts"]
                http.kill()
                http.wait()
                with pytest.raises(RpcError):
                    daemon.call("mcp.call", server="web", tool="echo", input={"message": "x"})
                until(lambda: states(daemon)["web"] != "ready", "the end of the server is noticed")
        finally:
            http.kill()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """Provide a daemon with a toy server, and servers with bad manners."""
    with short_home() as home:
        home.mkdir()
        write_config(
            home,
            server("toy", TOY_COMMAND, env_refs={"SECRET": "env:TOY_SECRET"}),
            server("never", [*TOY_COMMAND, "silent"], start_timeout_s=0.5),
            server("many", [*TOY_COMMAND, "many", "prints"]),
            server("invalid", [*TOY_COMMAND, json.dumps(INVALID)]),
        )
        with Daemon(home, environ={"TOY_SECRET": "a-secret-of-the-toy"}) as daemon:
            yield daemon


def test_bad_manners(daemon: Daemon) -> None:
    """A server that is silent, huge, dying or chatty harms its own calls only, and secrets are redacted."""
    assert '"content":["hi"]' in ask(daemon, "mcp__toy__echo", text="hi")
    # Between two attempts: during one the state is "starting", without a problem.
    until(lambda: "problem" in row_of(daemon, "never"), "an attempt has failed")
    assert row_of(daemon, "many")["tools"] == 128
    assert row_of(daemon, "invalid")["tools"] == 1
    (warning,) = row_of(daemon, "invalid")["warnings"]
    assert warning.startswith("the tool 'bad' is left out: inputSchema.required: ")
    assert "the tool's own output schema: $.n: " in ask(daemon, "mcp__invalid__good")
    assert "a-secret" not in ask(daemon, "mcp__toy__env")
    assert "the answer has" in ask(daemon, "mcp__toy__huge", text="50000000")
    assert "Elicitation not supported" in ask(daemon, "mcp__toy__ask", text="elicitation/create")
    assert "no valid JSON-RPC message" in ask(daemon, "mcp__toy__garbage")
    ask(daemon, "mcp__toy__change", text="added")
    until(lambda: "added" in tools_of(daemon, "toy"), "the new tool is offered")
    assert "may have taken effect" in ask(daemon, "mcp__toy__die")
    until(lambda: states(daemon)["toy"] == "ready", "the server is connected again")
    assert '"content":["on"]' in ask(daemon, "mcp__toy__echo", text="on")
    assert "a-secret" not in daemon.read_log()


def test_one_request_id_from_a_person_to_a_server() -> None:
    """The id of a request is that of its run, of the agents spawned there, and of their calls to a server."""
    with short_home() as home:
        home.mkdir()
        write_config(home, server("toy", TOY_COMMAND))
        with Daemon(home) as daemon:
            child = order("mcp__toy__read", text="meta")
            prompt = order("spawn_agent", name="ape", prompt=child, wait=True)
            params = {"agent": "default", "sender": "user", "content": prompt, "wait": "settled"}
            with daemon.connect() as client:
                client.send(
                    {"jsonrpc": "2.0", "id": "deploy-7", "method": "conversation.send", "params": params}
                )
                sent = client.answer("deploy-7")
                client.call(
                    "conversation.send", agent="default", sender="other", content="hello", wait="settled"
                )
                events = client.call("journal.read", request_id="deploy-7", limit=200)["events"]
                assert client.call("run.get", run_id=sent["run_id"])["request_id"] == "deploy-7"
                assert client.call("journal.read", request_id="deploy-8")["events"] == []
            (returned,) = [
                event
                for event in events
                if event["type"] == "tool_returned" and event["tool"] == "mcp__toy__read"
            ]
            (metadata,) = json.loads(returned["text"])["content"]
            ids = {
                name.removeprefix("kheish/"): value
                for name, value in json.loads(metadata).items()
                if name.startswith("kheish/")
            }
            assert ids == {
                "run_id": returned["run_id"],
                "session_id": returned["session_id"],
                "call_id": returned["call_id"],
                "parent_run_id": sent["run_id"],
                "request_id": "deploy-7",
            }
            assert {event["run_id"] for event in events if event.get("run_id")} == {
                sent["run_id"],
                ids["run_id"],
            }
            shown = Ctl(daemon.home)("journal", "read", "--all", "--request", "deploy-7", "--json")
            assert [json.loads(line)["cursor"] for line in shown.out.splitlines()] == [
                event["cursor"] for event in events
            ]


def test_a_killed_daemon_leaves_no_server(daemon: Daemon) -> None:
    """Servers and all that they started end with a killed daemon; an interrupted call is in doubt."""
    until(lambda: set(states(daemon).values()) == {"failed", "ready"}, "the servers are connected")
    child = int(json.loads(call(daemon, "child", "4402.5")["text"])["content"][0])
    pids = [pid_of(daemon, "toy"), pid_of(daemon, "many"), child]
    assert None not in [start_ticks_of(pid) for pid in pids]
    sent = daemon.call("conversation.send", content=order("mcp__toy__slow", text="going"))
    events = {"session_id": sent["session_id"]}
    until(lambda: "tool_called" in [event["type"] for event in daemon.events(**events)], "the call runs")
    daemon.kill()
    until(lambda: [start_ticks_of(pid) for pid in pids] == [None] * 3, "nothing of the servers runs")
    daemon.restart()
    until(lambda: daemon.call("indoubt.list")["indoubts"] != [], "the call is in doubt")
    (doubt,) = daemon.call("indoubt.list")["indoubts"]
    assert doubt["tool"] == "mcp__toy__slow"
    assert daemon.call("daemon.doctor", deep=True)["findings"] == []


def test_a_restart_during_bad_manners(daemon: Daemon) -> None:
    """A crash of the daemon, while calls meet bad manners, leaves no process, no open run and no damage."""
    until(lambda: states(daemon)["toy"] == "ready", "the server is connected")
    hostile = {
        "hang": "",
        "garbage": "",
        "ask": "elicitation/create",
        "huge": "50000000",
        "log": "x",
        "change": "y",
    }
    for tool, text in hostile.items():
        daemon.call("conversation.send", content=order(f"mcp__toy__{tool}", text=text), sender=tool)
    until(lambda: len(called(daemon)) == len(hostile), "the calls have begun")
    old = pid_of(daemon, "toy")
    daemon.kill()
    until(lambda: start_ticks_of(old) is None, "the server has ended")
    daemon.restart()
    until(lambda: states(daemon)["toy"] == "ready", "the server is connected again")
    until(lambda: not daemon.call("run.list", status="running")["runs"], "no run goes on")
    doubts = {doubt["tool"] for doubt in daemon.call("indoubt.list")["indoubts"]}
    assert "mcp__toy__hang" in doubts <= {f"mcp__toy__{tool}" for tool in hostile}
    assert daemon.call("daemon.doctor", deep=True)["findings"] == []


def called(daemon: Daemon) -> list[dict[str, Any]]:
    """Return the events of calls that have begun."""
    return [event for event in daemon.events() if event["type"] == "tool_called"]


def call(daemon: Daemon, tool: str, text: str = "") -> Any:
    """Call a tool of the toy as an operator."""
    return daemon.call("mcp.call", server="toy", tool=tool, input={"text": text})


def test_reload_and_stop(daemon: Daemon) -> None:
    """A reload keeps unchanged servers and ends removed ones; the end of the daemon ends all."""
    until(lambda: set(states(daemon).values()) == {"failed", "ready"}, "the servers are connected")
    toy, many = pid_of(daemon, "toy"), pid_of(daemon, "many")
    write_config(daemon.home, server("toy", TOY_COMMAND, env_refs={"SECRET": "env:TOY_SECRET"}))
    daemon.call("daemon.reload")
    until(lambda: start_ticks_of(many) is None, "the removed server has ended")
    until(lambda: list(states(daemon)) == ["toy"], "the removed server is gone")
    assert pid_of(daemon, "toy") == toy
    os.kill(toy, signal.SIGKILL)
    until(lambda: states(daemon)["toy"] == "ready" and pid_of(daemon, "toy") != toy, "it runs again")
    toy = pid_of(daemon, "toy")
    daemon.stop()
    assert start_ticks_of(toy) is None


@contextmanager
def modern_web_server(directory: Path, port: int) -> Iterator[None]:
    """Run the server of the newer generation on a port."""
    process = subprocess.Popen([*MODERN_COMMAND, str(directory), str(port)], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a port of the loopback that nothing uses."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def modern() -> Iterator[tuple[Daemon, Path]]:
    """Provide a daemon with a server of the newer generation by both transports, and its directory."""
    with short_home() as home:
        directory, port = home / "tasks", free_port()
        directory.mkdir(parents=True)
        web = f'[mcp.web]\nurl = "http://127.0.0.1:{port}/mcp"\n'
        write_config(home, server("std", [*MODERN_COMMAND, str(directory)], tool_timeout_s=300), web)
        with modern_web_server(directory, port), Daemon(home) as daemon:
            yield daemon, directory


@pytest.fixture(params=["std", "web"])
def new_server(request: pytest.FixtureRequest, modern: tuple[Daemon, Path]) -> tuple[Daemon, str, Path]:
    """Provide the daemon, the name of a ready server, and the server's directory."""
    daemon, directory = modern
    name = str(request.param)
    until(lambda: states(daemon)[name] == "ready", "the server is connected")
    return daemon, name, directory


def test_the_newer_generation(new_server: tuple[Daemon, str, Path]) -> None:
    """A server of 2026-07-28 is used like one of the older generation: tools, resources, prompts, changes."""
    daemon, name, _ = new_server
    assert row_of(daemon, name)["protocol_version"] == "2026-07-28"
    with daemon.connect() as client:
        client.call("journal.subscribe", deltas=True)
        assert '"result":3' in ask(daemon, f"mcp__{name}__count", n=3)
        texts = ""
        while "3/3 at 3\n" not in texts:
            texts += client.note("journal.delta").get("text", "")
    listed = daemon.call("mcp.resources", server=name)["resources"]
    assert {(row["uri"], row.get("is_template", False)) for row in listed} == {
        *(("fact://one", False), ("note://{name}", True))
    }
    assert "one is odd" in ask(daemon, "read_mcp_resource", server=name, uri="fact://one")
    assert "about cats" in ask(daemon, "read_mcp_resource", server=name, uri="note://cats")
    (prompt,) = daemon.call("mcp.prompts", server=name)["prompts"]
    assert (prompt["name"], prompt["arguments"]) == ("greet", ["who"])
    ask(daemon, f"mcp__{name}__grow", name="shout")
    until(lambda: "shout" in tools_of(daemon, name), "the tool is offered")
    assert "HI" in ask(daemon, f"mcp__{name}__shout", text="hi")


def test_cancellation_reaches_the_newer_generation(new_server: tuple[Daemon, str, Path]) -> None:
    """A call that is stopped is cancelled at the server, and so is the task of one."""
    daemon, name, directory = new_server
    for mark in ("waits", "cancelled"):
        (directory / mark).unlink(missing_ok=True)
    sent = daemon.call("conversation.send", content=order(f"mcp__{name}__wait"))
    until((directory / "waits").exists, "the call runs")
    daemon.call("run.cancel", run_id=sent["run_id"])
    until((directory / "cancelled").exists, "the call is cancelled")
    task = directory / f"job-stopped-{name}"
    sent = daemon.call("conversation.send", content=order(f"mcp__{name}__job", name=f"stopped-{name}"))
    until(task.with_suffix(".polled").exists, "the client knows the task")
    daemon.call("run.cancel", run_id=sent["run_id"])
    until(lambda: json.loads(task.read_text())["status"] == "cancelled", "the task is cancelled")


def end_task(directory: Path, name: str) -> None:
    """Let a task end."""
    step = {"status": "completed", "result": {"content": [{"type": "text", "text": f"did {name}"}]}}
    (directory / "new").write_text(json.dumps(step))
    (directory / "new").rename(directory / f"job-{name}.step")


def output_of(daemon: Daemon, run_id: str) -> str:
    """Return the output of a run, once it has ended."""
    until(lambda: daemon.call("run.get", run_id=run_id)["status"] == "completed", "the run has ended")
    return str(daemon.call("run.get", run_id=run_id)["output"])


def test_a_task_survives_its_server(modern: tuple[Daemon, Path]) -> None:
    """The result of a call that became a task is polled, also from the next process of the server."""
    daemon, directory = modern
    until(lambda: states(daemon)["std"] == "ready", "the server is connected")
    sent = daemon.call("conversation.send", content=order("mcp__std__job", name="long"))
    until((directory / "job-long.polled").exists, "the client knows the task")
    old = pid_of(daemon, "std")
    os.kill(old, signal.SIGKILL)
    until(lambda: row_of(daemon, "std").get("pid") not in (None, old), "the server runs again")
    end_task(directory, "long")
    assert "did long" in output_of(daemon, sent["run_id"])


def test_a_killed_daemon_leaves_its_task_in_doubt(modern: tuple[Daemon, Path]) -> None:
    """A call with a task that a crash of the daemon interrupts is in doubt: the task may have an effect."""
    daemon, directory = modern
    until(lambda: states(daemon)["std"] == "ready", "the server is connected")
    daemon.call("conversation.send", content=order("mcp__std__job", name="doubt"))
    until((directory / "job-doubt").exists, "the task exists")
    daemon.kill()
    daemon.restart()
    until(lambda: daemon.call("indoubt.list")["indoubts"] != [], "the call is in doubt")
    (doubt,) = daemon.call("indoubt.list")["indoubts"]
    assert doubt["tool"] == "mcp__std__job"
