"""A blocking JSON-RPC client for the daemon's Unix socket.

One-shot commands must start fast, so this is the standard library and nothing else: no event loop, no
msgspec, params and results as plain dictionaries. A connection is used by one thread.
"""

import json
import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Self

from kheishctl import __version__, exits

SOCKET_NAME = os.path.join("run", "kheishd.sock")

# What the kernel takes as the path of a Unix socket: 108 bytes with the zero at the end.
MAX_PATH_BYTES = 107

# What a message or a backlog of notifications takes at most before we hang up: pages end at a mebibyte, and
# nothing is asked beside a stream. Who sends more is no daemon, or means harm.
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
MAX_KEPT = 10_000

# Bytes asked of the socket at once: a kernel buffer's worth.
READ_BYTES = 256 * 1024

Json = dict[str, Any]
"""A JSON object: params, a result, an event."""


class Failure(Exception):
    """Something that ends a command. ``exit_code`` is the command's; the message says what to do next."""

    exit_code = exits.FAILED

    def describe(self) -> Json:
        """The failure as ``--json`` prints it, in the shape of a JSON-RPC error."""
        return {"code": None, "message": str(self), "data": {"reason": self.reason}}

    reason = "failed"


class NoDaemon(Failure):
    """Nobody listens on the socket."""

    exit_code = exits.NO_DAEMON
    reason = "no_daemon"


class SocketForbidden(Failure):
    """The socket is there and belongs to somebody else."""

    reason = "permission_denied"


class ConnectionLost(Failure):
    """The daemon closed the connection before it answered."""

    exit_code = exits.NO_DAEMON
    reason = "connection_lost"


class NotADaemon(ConnectionLost):
    """Something else than a daemon answers at the socket."""

    reason = "not_a_daemon"

    def __init__(self) -> None:
        super().__init__("what answers at the socket is not a kheish daemon")


class TimedOut(Failure):
    """The daemon took longer to answer than the caller would wait."""

    exit_code = exits.TIMED_OUT
    reason = "timed_out"


class RequestRefused(Failure):
    """The daemon answered with an error: its number, its message and its data."""

    def __init__(self, error: Json) -> None:
        data = error.get("data")
        self.code = error.get("code")
        self.message = str(error.get("message", "the daemon gave no reason"))
        self.data: Json = data if isinstance(data, dict) else {}
        self.note = ""
        super().__init__(self.message)

    @property
    def reason(self) -> str:  # type: ignore[override]
        """The stable name of the refusal."""
        return str(self.data.get("reason", ""))

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later."""
        return bool(self.data.get("retryable"))

    def describe(self) -> Json:
        """The error as the daemon gave it."""
        return {"code": self.code, "message": self.message, "data": self.data}

    def __str__(self) -> str:
        # The path of the param is for programs, which find it in ``data``; people gave no params.
        return f"{self.message}{self.note}"


def home_directory(home: str | None = None) -> str:
    """The daemon's home: ``home``, else $KHEISH_HOME, else $STATE_DIRECTORY, else ``~/.kheish``."""
    chosen = home or os.environ.get("KHEISH_HOME") or os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return os.path.abspath(os.path.expanduser(chosen or "~/.kheish"))


def socket_path(home: str, path: str | None = None) -> str:
    """Where the daemon of ``home`` listens; ``path`` if it was given."""
    return os.path.abspath(os.path.expanduser(path)) if path else os.path.join(home, SOCKET_NAME)


def dial(path: str, timeout_s: float | None = None) -> socket.socket:
    """A connected socket.

    Errors: NoDaemon, SocketForbidden, each saying what to do.
    Source: a path too long for the kernel is reached through its directory's file descriptor.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        _connect(connection, path)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        raise NoDaemon(
            f"no daemon is running at {path}; start one with 'kheishctl daemon start', "
            "or name its home with --home"
        ) from None
    except PermissionError:
        connection.close()
        raise SocketForbidden(
            f"permission denied on {path}: it serves only the user who runs the daemon; ask them for a "
            "shared socket ([listen.shared]) and name it with --socket"
        ) from None
    except OSError as error:
        connection.close()
        raise NoDaemon(f"cannot reach a daemon at {path}: {error.strerror or error}") from None
    return connection


def _connect(connection: socket.socket, path: str) -> None:
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        connection.connect(path)
        return
    directory, name = os.path.split(path)
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        connection.connect(f"/proc/self/fd/{descriptor}/{name}")
    finally:
        os.close(descriptor)


class Client:
    """One connection. Requests are answered in turn; notifications that come in between are kept."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._searched = 0
        self._kept: deque[tuple[str, Json]] = deque()
        self._next_id = 0

    @classmethod
    def dial(cls, path: str, timeout_s: float | None = None) -> Self:
        """Connect. Errors: NoDaemon, SocketForbidden."""
        return cls(dial(path, timeout_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; what the daemon does for us goes on."""
        self._socket.close()

    def fileno(self) -> int:
        """The socket, to be waited for beside other things."""
        return self._socket.fileno()

    @property
    def received(self) -> bool:
        """Whether there is something to give that came already: then the socket says nothing of it."""
        return bool(self._kept) or b"\n" in self._buffer

    def call(self, method: str, params: Json | None = None, *, timeout_s: float | None = None) -> Any:
        """Ask and wait for the answer.

        Errors: Refused as the daemon answered, Lost, TimedOut after ``timeout_s``.
        """
        request_id = self.send(method, params)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            message = self._message(deadline)
            if _answers(message, request_id):
                return self._result(message, method)
            self._keep(message)

    def send(self, method: str, params: Json | None = None) -> int:
        """Send a request without waiting; its answer comes by :meth:`messages`. Errors: Lost."""
        self._next_id += 1
        request = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params or {}}
        self._socket.settimeout(None)
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            raise ConnectionLost(
                "the daemon closed the connection; 'kheishctl daemon logs' may say why"
            ) from None
        return self._next_id

    def notifications(self, timeout_s: float | None = None) -> Iterator[tuple[str, Json]]:
        """Notifications as they come, those kept first: method and params.

        Errors: Lost when the connection ends, TimedOut when ``timeout_s`` passes between two.
        """
        while True:
            while self._kept:
                yield self._kept.popleft()
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            self._keep(self._message(deadline))

    def exchange(self, method: str, params: Json | None = None) -> Iterator[tuple[str, Json]]:
        """Ask, and give the notifications as they come; the answer comes among them, named ``result``.

        Errors: Refused, Lost.
        """
        request_id = self.send(method, params)
        while True:
            while self._kept:
                yield self._kept.popleft()
            message = self._message(None)
            if _answers(message, request_id):
                yield "result", self._result(message, method)
            else:
                self._keep(message)

    def _keep(self, message: Json) -> None:
        if "method" in message and "id" not in message:
            if len(self._kept) >= MAX_KEPT:
                raise NotADaemon
            params = message.get("params")
            self._kept.append((str(message["method"]), params if isinstance(params, dict) else {}))

    def _result(self, message: Json, method: str) -> Any:
        if "error" not in message:
            return message.get("result")
        if not isinstance(message["error"], dict):
            raise NotADaemon
        refused = RequestRefused(message["error"])
        if refused.code in (-32601, -32602) and method != "rpc.ping":
            refused.note = self._version_note()
        raise refused

    def _version_note(self) -> str:
        """A sentence if the daemon is of another version, as that explains what it does not know."""
        try:
            version = self.call("rpc.ping", timeout_s=2).get("version", __version__)
        except (Failure, AttributeError):
            return ""
        return "" if version == __version__ else f" ({version_difference(str(version))})"

    def _message(self, deadline: float | None) -> Json:
        return parsed(self._line(deadline))

    def _line(self, deadline: float | None) -> bytes:
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                self._searched = 0
                return line
            self._searched = len(self._buffer)
            if self._searched > MAX_MESSAGE_BYTES:
                raise NotADaemon
            self._buffer += self._receive(deadline)

    def _receive(self, deadline: float | None) -> bytes:
        try:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise TimeoutError
            self._socket.settimeout(remaining)
            data = self._socket.recv(READ_BYTES)
        except TimeoutError:
            raise TimedOut("the daemon did not answer in time; what it was asked for may go on") from None
        except OSError as error:
            raise ConnectionLost(f"the connection to the daemon broke: {error.strerror or error}") from None
        if not data:
            raise ConnectionLost("the daemon closed the connection; 'kheishctl daemon logs' may say why")
        return data


def parsed(line: bytes | bytearray) -> Json:
    """A line as a message. Errors: NotADaemon for what is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise NotADaemon from None
    return message if isinstance(message, dict) else {}


def _answers(message: Json, request_id: int) -> bool:
    """Whether a message is the answer to our only open request: one that could not be read has no id."""
    if "method" in message:
        return False
    return message.get("id") == request_id or (message.get("id") is None and "error" in message)


def version_difference(version: str) -> str:
    """The sentence that names two versions plainly."""
    return f"the daemon is version {version}, this kheishctl is {__version__}"
