"""A real ``kheishd`` process, and a plain client for it: a blocking socket and JSON lines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

# The timeout of every wait: long, because a loaded machine is slow, but a hang must fail the test.
PATIENCE_S = 30.0
LOOK_S = 0.005


def until(condition: Callable[[], bool], description: str, patience_s: float = PATIENCE_S) -> None:
    """Wait for a condition in another process. Errors: AssertionError on a timeout."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {description}"
        time.sleep(LOOK_S)


class RpcError(Exception):
    """An error answered by the daemon."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: dict[str, Any] = error.get("data") or {}

    @property
    def reason(self) -> str:
        """The stable identifier of the refusal."""
        return str(self.data.get("reason"))


class Client:
    """A connection; notifications received while waiting for a response are kept in ``notes``."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.notes: list[dict[str, Any]] = []
        self._lines = self.socket.makefile("rb")
        self._next = 0

    def call(self, method: str, **params: Any) -> Any:
        """Call a method and return its result. Errors: RpcError; EOFError if the connection is closed."""
        return self.answer(self.ask(method, **params))

    def ask(self, method: str, **params: Any) -> int:
        """Send a request without waiting for its response; return its id."""
        self._next += 1
        self.send({"jsonrpc": "2.0", "id": self._next, "method": method, "params": params})
        return self._next

    def answer(self, request_id: int | str) -> Any:
        """Return the result of an earlier request. Errors: RpcError, EOFError."""
        while True:
            message = self.receive()
            if "method" in message:
                self.notes.append(message)
            elif message["id"] == request_id:
                if "error" in message:
                    raise RpcError(message["error"])
                return message["result"]

    def note(self, method: str) -> dict[str, Any]:
        """Return the params of the next notification of a method."""
        while True:
            message = self.notes.pop(0) if self.notes else self.receive()
            if message.get("method") == method:
                params: dict[str, Any] = message["params"]
                return params

    def send(self, message: Any) -> None:
        """Send one message."""
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Any:
        """Return the next message. Errors: EOFError."""
        line = self._lines.readline()
        if not line:
            raise EOFError("the daemon closed the connection")
        return json.loads(line)

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Daemon:
    """A daemon process on a home, which can be killed, stopped and restarted; ``log`` is its log file."""

    def __init__(
        self,
        home: Path,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        before: tuple[str, ...] = (),
    ) -> None:
        self.home = home
        self.socket = home / "run" / "kheishd.sock"
        self.log = home.parent / "log"
        self._arguments = arguments
        self._environ = environ or {}
        self._before = before
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None

    # Starting and stopping.

    def start(self, *, wait: bool = True) -> Daemon:
        """Start the daemon and wait until it answers. Errors: AssertionError with the log if it does not."""
        assert self._process is None, "the daemon is already running"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("KHEISH")}
        environ |= self._environ
        command = [*self._before, sys.executable, "-m", "kheishd", "--home", str(self.home), *self._arguments]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stderr=log)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait until the daemon answers a ping."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.call("rpc.ping")
                return
            except (OSError, EOFError):
                self._forget_client()
                assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.read_log()}"
                assert time.monotonic() < deadline, f"not ready: {self.read_log()}"
                time.sleep(LOOK_S)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def restart(self) -> Daemon:
        """Start the daemon again after ``kill`` or ``stop``."""
        return self.start()

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end; return the exit code."""
        code = self.process.wait(PATIENCE_S)
        self._process = None
        self._forget_client()
        return code

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None, "the daemon is not running"
        return self._process

    @property
    def pid(self) -> int:
        """The id of the running process."""
        return self.process.pid

    def read_log(self) -> str:
        """Return the log of all processes so far."""
        return self.log.read_text()

    # Calls.

    def connect(self) -> Client:
        """Return a new connection."""
        return Client(self.socket)

    def call(self, method: str, **params: Any) -> Any:
        """Call a method over a connection that is kept. Errors: RpcError."""
        if self._client is None:
            self._client = self.connect()
        return self._client.call(method, **params)

    def say(self, text: str, **params: Any) -> Any:
        """Send to a conversation, and wait until the run has settled."""
        return self.call("conversation.send", content=text, wait="settled", **params)

    def events(self, **params: Any) -> list[dict[str, Any]]:
        """Return the whole journal, or the events that ``params`` select."""
        events: list[dict[str, Any]] = []
        after: Any = None
        while True:
            page = self.call(
                "journal.read", limit=500, **params, **({} if after is None else {"after": after})
            )
            events += page["events"]
            if page["next"] is None:
                return events
            after = page["next"]

    def _forget_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self) -> Daemon:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill()
        if error is not None and self.log.exists():
            print(self.read_log())


@contextmanager
def short_home() -> Iterator[Path]:
    """Return the path of a home in a short temporary directory, which also has space for a log."""
    parent = Path(tempfile.mkdtemp(prefix="kh-", dir="/tmp"))
    try:
        yield parent / "home"
    finally:
        shutil.rmtree(parent)


def run_kheishd(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ``kheishd`` to its end."""
    command = [sys.executable, "-m", "kheishd", "--home", str(home), *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, **environ},
        check=False,
    )
