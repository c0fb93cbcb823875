"""Starting: the true state of a daemon that cannot start, for people, scripts and systemd."""

import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.ctl import Ctl
from tests.support.daemons import PATIENCE_S, Client, Daemon, RpcError, run_kheishd, until

ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="rpc")
os.execv(sys.executable, [sys.executable, "-m", "kheishd", *sys.argv[2:]])
"""


def configure(home: Path, text: str) -> None:
    """Write the configuration of a home."""
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(text)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("default_agnet = 1\n", "config.toml:1: default_agnet: unknown key"),
        (
            "\n[listen.tcp]\naddress = '127.0.0.1:TAKEN'\n",
            "config.toml:3: listen.tcp.address: cannot listen on",
        ),
        (
            "[listen.tcp]\naddress = '127.0.0.1:0'\ncertificate = 'no.pem'\nkey = 'no.pem'\n",
            "config.toml:3: listen.tcp.certificate: cannot read",
        ),
        ("[listen.shared]\npath = '/no/such/s.sock'\n", "config.toml:2: listen.shared.path: "),
    ],
)
def test_start_reports_what_keeps_the_daemon_from_starting(home: Path, config: str, problem: str) -> None:
    """``daemon start`` exits with 3 and names file, line and key; no daemon remains."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        configure(home, config.replace("TAKEN", str(taken.getsockname()[1])))
        started = Ctl(home)("daemon", "start")
    assert (started.code, problem in started.err) == (3, True), started.err
    assert Ctl(home)("status").code == 3


ROOMS = ("kheishd.hooks.", "kheishd.providers.", "kheishd.workers.", "kheishd.connectors.", "kheishd.debug.")
"""The rooms of work that few daemons do in their first second."""

STARTED = {
    "kheishd.debug.captures",
    "kheishd.debug.directories",
    "kheishd.debug.files",
    "kheishd.debug.queue",
    "kheishd.hooks.os",
    "kheishd.hooks.os.shell",
    "kheishd.hooks.os.shell.cgroup",
    "kheishd.hooks.os.shell.health",
    "kheishd.hooks.os.shell.log",
    "kheishd.hooks.os.shell.output",
    "kheishd.hooks.os.umask",
    "kheishd.providers.caller",
    "kheishd.providers.credentials",
    "kheishd.workers.agents",
    "kheishd.workers.expiry",
    "kheishd.workers.goals",
    "kheishd.workers.mail",
    "kheishd.workers.runs",
    "kheishd.workers.runs.worker",
    "kheishd.workers.shells",
    "kheishd.workers.titles",
    "kheishd.workers.worker",
}
"""All modules of these rooms that a start may import; the others are imported at their first use."""

COSTLY = {
    *("argparse", "asyncio", "concurrent", "dataclasses", "difflib", "email", "http", "multiprocessing"),
    *(
        "anyio",
        "click",
        "cryptography",
        "h11",
        "httpcore2",
        "httptools",
        "jsonschema_rs",
        "mcp",
        "prompt_toolkit",
    ),
    *("prompt_toolkit", "rich", "tree_sitter", "tree_sitter_bash", "trio_websocket", "truststore", "yaml"),
}
"""Packages that no start may import. (trio itself imports inspect and ssl.)"""


def test_a_start_imports_little(home: Path) -> None:
    """A daemon imports no code that only some of its work needs until it is ready, and then all of it."""
    configure(home, "[workspace]\nsandbox = 'off'\n")
    with Daemon(home, environ={"PYTHONPROFILEIMPORTTIME": "1"}) as daemon:
        until(lambda: "the state of the sandbox" in daemon.read_log(), "the code of runs is imported")
        log = daemon.read_log()
        daemon.say("hello")
        assert read_imports(daemon.read_log()) == read_imports(log), "the first run imports more"
    before_ready, _, _ = log.partition("kheishd.daemon: ready")
    loaded = read_imports(before_ready)
    assert "kheishd.daemon" in loaded
    assert {name for name in loaded if name.startswith(ROOMS)} <= STARTED
    assert not {name.partition(".")[0] for name in loaded} & COSTLY


def read_imports(log: str) -> set[str]:
    """Return the modules that a daemon's log shows as imported."""
    lines = log.splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


@contextmanager
def activate(listener: socket.socket, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a daemon with a listening socket, as systemd does."""
    command = [sys.executable, "-c", ACTIVATE, str(listener.fileno()), "--home", str(home)]
    with subprocess.Popen(command, pass_fds=[listener.fileno()], stderr=subprocess.PIPE) as process:
        yield process


def test_clients_learn_why_a_socket_activated_daemon_cannot_start(home: Path) -> None:
    """Clients are answered with the reason instead of left waiting, and the daemon ends with its code.

    After a correction, the next connection starts the daemon, without any other command.
    """
    configure(home, "default_agnet = 1\n")
    path = home.parent / "activated.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with Client(path) as early:
            early.ask("conversation.send", content="hello")
            with activate(listener, home) as process:
                assert "config.toml:1: default_agnet" in refusal(early)["message"]
                shown = Ctl(home)("--socket", str(path), "status")
                assert (shown.code, "config.toml:1: default_agnet" in shown.err) == (1, True), shown.err
                configure(home, "")
                with Client(path) as next_client:
                    next_client.ask("rpc.ping")
                    _, log = process.communicate(timeout=PATIENCE_S)
                    assert (process.returncode, log.count(b"\n")) == (3, 1), log
                    with activate(listener, home) as started:
                        assert next_client.answer(1)["version"]
                        next_client.call("daemon.shutdown")
                        started.communicate(timeout=PATIENCE_S)
                        assert started.returncode == 0


def refusal(client: Client) -> dict[str, Any]:
    """Return the error that the daemon answers."""
    error: dict[str, Any] = client.receive()["error"]
    assert error["data"]["reason"] == "not_started"
    return error


def test_a_socket_activated_daemon_beside_another_one_says_so(daemon: Daemon) -> None:
    """A home that another daemon uses, and a passed descriptor that is no socket, are reported, too."""
    path = daemon.home.parent / "activated.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with Client(path) as client:
            client.send({"jsonrpc": "2.0", "id": 1, "method": "rpc.ping"})
            with activate(listener, daemon.home) as process:
                assert f"the daemon (pid {daemon.pid}) is using {daemon.home}" in refusal(client)["message"]
                process.terminate()
                process.communicate(timeout=PATIENCE_S)
                assert process.returncode == 4
    daemon.stop()
    with (daemon.home / "config.toml").open("w+") as file:
        command = [sys.executable, "-c", ACTIVATE, str(file.fileno()), "--home", str(daemon.home)]
        ended = subprocess.run(command, pass_fds=[file.fileno()], capture_output=True, check=False)
    assert (ended.returncode, b"passed by systemd" in ended.stderr) == (3, True), ended.stderr


SHARED = "[listen.shared]\n[[listen.shared.grants]]\nuid = 65534\nscopes = ['read']\n"

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@only_root
def test_a_granted_user_reaches_the_shared_socket(home: Path) -> None:
    """At its default path, a process of a granted user is served; others are refused by the daemon."""
    configure(home, SHARED)
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        Path(parent).chmod(0o755)
        runtime = Path(parent) / "kheish"
        with Daemon(home, environ={"RUNTIME_DIRECTORY": str(runtime)}) as daemon:
            answers = [call_as(uid, runtime / "shared.sock") for uid in (65534, 65533)]
            assert f"unix:{runtime}/shared.sock" in daemon.call("daemon.status")["listeners"]
    assert json.loads(answers[0])["result"]["version"]
    assert "result" not in answers[1]


def call_as(uid: int, path: Path) -> str:
    """Send a ping as another user."""
    done = subprocess.run(
        ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "socat", "-", f"UNIX:{path}"],
        input='{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}\n',
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.stdout or done.stderr


def test_a_shared_socket_that_nobody_reaches_is_refused(home: Path) -> None:
    """A path in the home, which others cannot enter, ends the start with the remedy, and a reload, too."""
    unreachable = SHARED.replace("\n", "\npath = 'run/shared.sock'\n", 1)
    configure(home, unreachable)
    ended = run_kheishd(home)
    assert ended.returncode == 3
    assert "config.toml:2: listen.shared.path: " in ended.stderr
    assert f"cannot enter {home}/run (mode 0700); choose a path in a directory" in ended.stderr
    configure(home, "")
    with Daemon(home) as daemon:
        configure(home, unreachable)
        with pytest.raises(RpcError, match=r"config\.toml:2: listen\.shared\.path"):
            daemon.call("daemon.reload")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            configure(home, f"[listen.tcp]\naddress = '127.0.0.1:{port}'\n")
            with pytest.raises(RpcError, match=r"config\.toml:2: listen\.tcp\.address: cannot listen"):
                daemon.call("daemon.reload")
        assert daemon.call("daemon.status")["generation"] == 1


def test_a_renewed_certificate_is_used_after_a_reload(home: Path) -> None:
    """New connections get the new certificate; an unusable one is refused, and the last good one stays."""
    authority = trustme.CA()
    configure(home, "[listen.tcp]\naddress = '127.0.0.1:0'\ncertificate = 'c.pem'\nkey = 'k.pem'\n")

    def renew() -> None:
        issued = authority.issue_cert("127.0.0.1")
        (home / "c.pem").write_bytes(issued.cert_chain_pems[0].bytes())
        (home / "k.pem").write_bytes(issued.private_key_pem.bytes())

    renew()
    with Daemon(home) as daemon:
        first = present_certificate(home)
        renew()
        daemon.call("daemon.reload")
        second = present_certificate(home)
        assert second != first
        (home / "c.pem").write_text("nonsense")
        with pytest.raises(RpcError, match=r"config\.toml:3: listen\.tcp\.certificate"):
            daemon.call("daemon.reload")
        assert present_certificate(home) == second


def present_certificate(home: Path) -> str:
    """Return the certificate of the TCP listener."""
    host, _, port = (home / "run" / "tcp").read_text().strip().rpartition(":")
    return ssl.get_server_certificate((host, int(port)), timeout=PATIENCE_S)
