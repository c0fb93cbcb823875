"""A daemon that tests kill and restart, and the wrapper that kills it at chosen system calls."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 30.0


class Undone(Exception):
    """The daemon ended before it answered."""


class Victim:
    """A daemon on one home that is killed and restarted."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None
        self.deaths = 0

    def start(self, *wrapper: str) -> None:
        environ = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "kheishd", "--home", str(self.home), "--log-level", "error"],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def connect(self) -> socket.socket:
        """Connect once the daemon answers; restart it if it has died. Errors: AssertionError."""
        limit = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < limit:
            assert self.process is not None
            if self.process.poll() is not None:
                self.deaths += 1
                self.start()
            peer = socket.socket(socket.AF_UNIX)
            try:
                peer.connect(str(self.home / "run" / "kheishd.sock"))
            except OSError:
                peer.close()
                self.breathe()
                continue
            return peer
        raise AssertionError("the daemon did not come up")

    def breathe(self) -> None:
        """Wait briefly; return at once if the daemon dies."""
        assert self.process is not None
        _breathe(self.process)

    def stop(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)


def _breathe(process: subprocess.Popen[bytes]) -> None:
    """Wait briefly for the process to end."""
    try:
        process.wait(0.01)
    except subprocess.TimeoutExpired:
        pass


def ask(peer: socket.socket, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Send one request and return its response. Errors: Undone."""
    try:
        peer.sendall(
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"
        )
        with peer.makefile("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                answer = json.loads(line)
                if answer.get("id") == 1:
                    return dict(answer)
    except OSError as error:
        raise Undone from error
    raise Undone


class Script:
    """A client that repeats each unanswered request with the same idempotency key."""

    def __init__(self, daemon: Victim) -> None:
        self.daemon = daemon
        self.asked = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.asked += 1
        if method not in ("journal.read", "run.wait", "daemon.doctor"):
            params["idempotency_key"] = f"step-{self.asked}"
        return self.call_again(method, params)

    def call_again(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Repeat a call until it is answered; return the result."""
        while True:
            with self.daemon.connect() as peer:
                peer.settimeout(PATIENCE_SECONDS)
                try:
                    answer = ask(peer, method, params)
                except Undone:
                    continue
            if "error" in answer and _passes(answer["error"]["data"]):
                self.daemon.breathe()
                continue
            assert "error" not in answer, answer
            result: dict[str, Any] = answer["result"]
            return result

    def send(self, text: str, *, sender: str = "ada", wait: str = "settled") -> dict[str, Any]:
        return self.call("conversation.send", content=text, sender=sender, wait=wait)

    def journal(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        after = 0
        while after is not None:
            page = self.call("journal.read", after=after, limit=500)
            events += page["events"]
            after = page["next"]
        return events


def _passes(data: dict[str, Any]) -> bool:
    """Whether the cause of a refusal is temporary: a full disk, or a stopping daemon."""
    return bool(data["retryable"]) or data["reason"] == "storage_failed"


def strace(*rest: str) -> tuple[str, ...]:
    """Return the command that runs a daemon and its threads under strace."""
    return ("strace", "-f", "-qq", *rest)
