"""The daemon is killed with SIGKILL at every commit of a scripted conversation, and nothing differs.

``strace`` delivers the signal at the k-th call of a system call, so the product holds no hooks for this:
at ``fdatasync`` a commit is written but not yet valid; at ``sendto`` (how the writer thread and the loop
tell others) one is on the disk and nobody has been told. After each kill the daemon is started again, the
script goes on with the request it had no answer to, and the journals must be equal.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.journals import comparable

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (Debian: strace)")

PATIENCE_SECONDS = 30.0


class Undone(Exception):
    """The daemon went away before it answered."""


class Victim:
    """A daemon on one home, killed and started again as often as it takes."""

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
        """A connection, once the daemon answers; started again if it died. Errors: AssertionError."""
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
                _breathe(self.process)
                continue
            return peer
        raise AssertionError("the daemon did not come up")

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


def _breathe(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the process to end, a moment at most: what there is to wait for is outside of us."""
    try:
        process.wait(0.01)
    except subprocess.TimeoutExpired:
        pass


def ask(peer: socket.socket, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """One request and its response. Errors: Undone."""
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
    """A client that asks again, with the same idempotency key, whatever it got no answer to."""

    def __init__(self, daemon: Victim) -> None:
        self.daemon = daemon
        self.asked = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.asked += 1
        if method not in ("journal.read", "run.wait", "daemon.doctor"):
            params["idempotency_key"] = f"step-{self.asked}"
        while True:
            with self.daemon.connect() as peer:
                peer.settimeout(PATIENCE_SECONDS)
                try:
                    answer = ask(peer, method, params)
                except Undone:
                    continue
            assert "error" not in answer, answer
            result: dict[str, Any] = answer["result"]
            return result

    def send(self, text: str, *, sender: str = "ada", wait: str = "settled") -> dict[str, Any]:
        return self.call("conversation.send", content=text, sender=sender, wait=wait)

    def play(self) -> None:
        """A conversation with everything in it that this daemon can do."""
        first = self.send("hello")
        self.send("/call no_such_tool {}")
        self.call("session.rename", session_id=first["session_id"], title="A title")
        slow = self.send("/slow 3 100", wait="accepted")
        queued = self.send("never asked", wait="accepted")
        last = self.send("asked after that", wait="accepted")
        self.call("run.cancel", run_id=queued["run_id"])
        for run in (slow, last):
            self.call("run.wait", run_id=run["run_id"])
        self.send("hello from another", sender="bob")
        self.call("conversation.reset", sender="ada")
        self.send("a new conversation")
        token = self.call("token.create", scopes=["read"], check=True)
        assert token["token"]["token_id"]
        self.call("session.end", session_id=first["session_id"])

    def journal(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        after = 0
        while after is not None:
            page = self.call("journal.read", after=after, limit=500)
            events += page["events"]
            after = page["next"]
        return events


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[[str], Victim]]:
    """Makes daemons on homes of their own, and ends them all."""
    made: list[Victim] = []

    def make(name: str) -> Victim:
        (tmp_path / name).mkdir(mode=0o700)
        made.append(Victim(tmp_path / name))
        return made[-1]

    yield make
    for each in made:
        if each.process is not None:
            each.kill()


def strace(*rest: str) -> tuple[str, ...]:
    """The wrapper that runs a daemon under strace, with its threads."""
    return ("strace", "-f", "-qq", *rest)


def play(daemon: Victim, *wrapper: str) -> dict[str, list[str]]:
    """Play the script to its end, and give the journal, which the doctor has found sound."""
    daemon.start(*wrapper)
    script = Script(daemon)
    script.play()
    journal = comparable(script.journal())
    diagnosis = script.call("daemon.doctor", deep=True)
    assert diagnosis["findings"] == []
    return journal


@pytest.mark.parametrize("call", ["fdatasync", "sendto"])
def test_killed_at_every_call_the_work_is_done_once_and_only_once(
    call: str, daemon: Callable[[str], Victim], tmp_path: Path
) -> None:
    """Whatever commit or word the daemon dies at, a restart ends in the same journal."""
    calm = daemon("calm")
    trace = tmp_path / "calls"
    expected = play(calm, *strace("-o", str(trace), "-e", f"trace={call}"))
    calm.stop()
    assert len(expected) == 3, "three sessions"
    threads: dict[str, int] = {}
    for line in trace.read_text().splitlines():
        if f" {call}(" in line:
            thread = line.split()[0]
            threads[thread] = threads.get(thread, 0) + 1
    most = max(threads.values())
    assert most > 15
    deaths = 0
    for k in range(1, most + 1):
        victim = daemon(f"{call}-{k}")
        kill = strace(
            "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={k}"
        )
        assert play(victim, *kill) == expected, f"killed at {call} number {k}"
        deaths += victim.deaths
        victim.kill()
    assert deaths >= most - 2, "nearly every call is reached before the script is over"
