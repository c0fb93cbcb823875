"""The installed daemon as a process of its own, for tests that drive it from outside."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SECONDS_MAX = 60.0


class RunningDaemon:
    """A daemon that runs. ``log`` is what it writes to stderr."""

    def __init__(self, home: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.home = home
        self.process = process
        self.log = log
        self.socket = home / "run" / "kheishd.sock"

    def call(self, method: str, **params: Any) -> Any:
        """The result of one call by a connection of its own. Errors: AssertionError with the refusal."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SECONDS_MAX)
            connection.connect(str(self.socket))
            request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(connection.makefile("rb").readline())
        assert "result" in answer, answer
        return answer["result"]

    def tcp_address(self) -> str:
        """Where it listens for WebSockets, as ``host:port``."""
        return (self.home / "run" / "tcp").read_text().strip()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS_MAX)


def environment(**more: str) -> dict[str, str]:
    """The environment of a program under test: ours without what would change where it looks."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("KHEISH_", "PYTHON"))}
    return {**own, **more}


@contextmanager
def running_daemon(home: Path, config: str | None = None) -> Iterator[RunningDaemon]:
    """The daemon on ``home`` once it answers; killed when left if it still runs.

    ``config`` becomes its ``config.toml``; None leaves what is there.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if config is not None:
        (home / "config.toml").write_text(config)
    log = home.parent / f"{home.name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [BIN / "kheishd", "--home", home], env=environment(), stdout=output, stderr=output
        )
    daemon = RunningDaemon(home, process, log)
    try:
        _until_answering(daemon)
        yield daemon
    finally:
        process.kill()
        process.wait()


def _until_answering(daemon: RunningDaemon) -> None:
    # Another process's readiness can only be asked for; each refusal costs ten milliseconds.
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline and daemon.process.poll() is None:
        try:
            daemon.call("rpc.ping")
            return
        except OSError:
            time.sleep(0.01)
    raise AssertionError(f"the daemon does not answer:\n{daemon.log.read_text(errors='replace')}")
