"""Conversations with the real daemon through a real LiteLLM proxy, whose backends are strict servers.

``.ci/run`` installs the proxy into an environment of its own. Each backend rejects a request without the data
that it attached to an earlier answer (see ``strict_providers``), so a completed conversation proves that the
data went through the proxy and back. The daemon has no tool of the name that the backends call: both results
of a batch are errors.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.daemons import Daemon, short_home, until
from tests.support.programs import ROOT, environment
from tests.support.strict_google import provider_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

LITELLM = ROOT / ".ci" / "litellm" / ".venv" / "bin" / "python"

pytestmark = pytest.mark.skipif(
    not LITELLM.exists(), reason="needs LiteLLM, which .ci/run installs into .ci/litellm/.venv"
)

KEY = "sk-litellm-0123456789abcdef0123456789abcdef"
MAX_START_S = 90.0
PROXY = """
from litellm.proxy import proxy_cli

proxy_cli.ProxyInitializationHelpers.get_loop_type = staticmethod(lambda: "asyncio")
proxy_cli.run_server()
"""
"""The proxy on asyncio's own event loop: on uvloop it was seen to crash."""

QUESTION = "Look at both. " + "word " * 300

BACKENDS = {
    "anthropic": ("anthropic/strict-anthropic", ""),
    "deepseek": ("deepseek/strict-deepseek", "/v1"),
    "gemini": ("gemini/strict-proxied", ""),
    "openai": ("openai/strict-openai", "/v1"),
    "responses": ("openai/strict-responses", "/v1"),
}
"""The models behind the proxy, with the paths of their APIs. The part before the slash is the dialect."""

ROUTES = {
    "anthropic": ("openai", "anthropic"),
    "deepseek": ("openai", "deepseek"),
    "gemini": ("openai", "gemini"),
    "openai": ("openai", "openai"),
    "anthropic-responses": ("responses", "anthropic"),
    "gemini-responses": ("responses", "gemini"),
    "openai-responses": ("responses", "responses"),
}
"""The driver and the backend of each route. The proxy translates the Responses API for other backends."""

SILENT = ("openai",)
"""The routes without thoughts."""

FAILING = {
    "too-long": ("openai/context", "/v1", "context_too_long"),
    "refused": ("anthropic/status:401", "", "unauthorized"),
}
"""Models that fail, with the reasons of the failures."""


@contextmanager
def running(command: Sequence[str | Path], log: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a process group of its own, which ends with the context."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(**environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(process: subprocess.Popen[bytes], log: Path, condition: Callable[[], bool]) -> None:
    """Wait until a program is ready. Errors: AssertionError with its output if it ends before."""

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        return condition()

    until(is_ready, f"the start of {process.args!r}", MAX_START_S)


def is_listening(port: int) -> bool:
    """Whether a server accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Provide the URL of a proxy in front of a model server."""
    directory = tmp_path_factory.mktemp("litellm")
    server_log, proxy_log, config = (directory / name for name in ("server", "proxy", "config.yaml"))
    with running([sys.executable, "-m", "tests.support.model_server"], server_log) as server:
        wait_for(server, server_log, lambda: server_log.read_text().endswith("\n"))
        base = f"http://127.0.0.1:{int(server_log.read_text())}"
        models = {**BACKENDS, **{name: (model, path) for name, (model, path, _) in FAILING.items()}}
        rows = [
            {
                "model_name": name,
                "litellm_params": {"model": model, "api_base": base + path, "api_key": "sk-backend"},
            }
            for name, (model, path) in models.items()
        ]
        # JSON is YAML, too.
        config.write_text(json.dumps({"model_list": rows, "router_settings": {"num_retries": 0}}))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command: list[str | Path] = [
            LITELLM,
            "-c",
            PROXY,
            "--config",
            config,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        environ = {"LITELLM_MASTER_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        with running(command, proxy_log, **environ) as process:
            wait_for(process, proxy_log, lambda: is_listening(port))
            yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module")
def daemon(proxy: str) -> Iterator[Daemon]:
    """Provide a daemon with a route to each model behind the proxy."""
    with short_home() as home:
        home.mkdir()
        lines = ["[runs]", "max_attempts = 1", "[context]", "keep_messages = 4"]
        routes = {**ROUTES, **{name: ("openai", name) for name in FAILING}}
        for name, (driver, backend) in routes.items():
            lines += [
                f"[routes.{name}]",
                f'driver = "{driver}"',
                'preset = "litellm"',
                f'base_url = "{proxy}"',
                f'model = "{backend}"',
                'auth_ref = "env:LITELLM_KEY"',
            ]
        (home / "config.toml").write_text("\n".join(lines))
        with Daemon(home, environ={"LITELLM_KEY": KEY}) as daemon:
            yield daemon


def ask(daemon: Daemon, route: str, sender: str) -> str:
    """Ask a backend, which thinks, makes two calls at once, and answers when it has their results.

    Returns the session.
    """
    sent = daemon.say(QUESTION, sender=sender, route=route)
    assert sent["status"] == "completed", (route, sent["error"]["message"])
    assert sent["output"] == f"done by {provider_of(BACKENDS[ROUTES[route][1]][0].partition('/')[2])}"
    session_id: str = sent["session_id"]
    return session_id


@pytest.mark.parametrize("route", ROUTES)
def test_a_conversation_with_calls_and_thinking(daemon: Daemon, route: str) -> None:
    """Each backend gets back what it attached, in every later turn, and after a compaction."""
    sender = f"alone-{route}"
    for _ in range(3):
        session_id = ask(daemon, route, sender)
    events = daemon.events(session_id=session_id, types=["message_appended"])
    kinds = [[item["kind"] for item in event["message"]["items"]] for event in events]
    with_calls = [row for row in kinds if "tool_call" in row]
    assert [row.count("tool_call") for row in with_calls] == [2, 2, 2]
    assert all(("thinking" in row) == (route not in SILENT) for row in with_calls)
    daemon.call("session.update", session_id=session_id, route=route)
    compacted = daemon.call("conversation.compact", sender=sender, wait="settled")
    assert compacted["summary"] == "They talked."
    ask(daemon, route, sender)


def test_a_signature_inside_an_id(daemon: Daemon) -> None:
    """LiteLLM hides Gemini's signature in the id of a call; it goes back from there, also after a restart."""
    session_id = ask(daemon, "gemini", sender="ids")
    [message, *_] = daemon.events(session_id=session_id, types=["message_appended"])
    [signed, other] = [item for item in message["message"]["items"] if item["kind"] == "tool_call"]
    assert "__thought__" in signed["provider_data"]["call_id"]
    assert "__thought__" not in signed["call_id"] + other["provider_data"]["call_id"]
    daemon.kill()
    daemon.restart()
    ask(daemon, "gemini", sender="ids")


@pytest.mark.parametrize(
    "routes",
    [
        ["anthropic", "gemini", "openai-responses", "deepseek", "openai"],
        ["gemini-responses", "openai", "anthropic-responses", "deepseek", "openai-responses"],
    ],
)
def test_a_conversation_over_all_backends(daemon: Daemon, routes: list[str]) -> None:
    """A conversation goes over all backends and both drivers, and back."""
    for route in (*routes, *routes):
        ask(daemon, route, sender=routes[0])


@pytest.mark.parametrize("model", FAILING)
def test_a_failure_behind_the_proxy(daemon: Daemon, model: str) -> None:
    """A backend's failure keeps its reason behind the proxy."""
    sent = daemon.say("Hello.", sender=model, route=model)
    assert (sent["status"], sent["error"]["reason"]) == ("failed", FAILING[model][2])


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_can_be_tested(daemon: Daemon, route: str) -> None:
    """The test of a route reaches each backend; these backends call another tool than the offered one."""
    tested = daemon.call("route.test", route_id=route)
    statuses = {check["name"]: check["status"] for check in tested["checks"]}
    assert statuses.pop("tool_call") == "failed"
    assert statuses == dict.fromkeys(("connect", "authenticate", "stream", "usage"), "ok")
