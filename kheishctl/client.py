"""A blocking JSON-RPC client for the daemon's Unix socket.

One-shot commands must start fast, so this module uses only the standard library: no event loop, no message
types; params and results are dictionaries. One thread uses a connection.
"""

import json
import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Self

from kheishctl import exit_codes
from kheishctl.contract import Json
from kheishctl.hints import HINTS
from kheishctl.render.daemon import describe_version_difference
from protocol import __version__

SOCKET_NAME = os.path.join("run", "kheishd.sock")
LOCK_NAME = "kheishd.lock"
STATE_NAME = "state"
MAX_LOCK_BYTES = 32

# The kernel's limit for the path of a Unix socket: 108 bytes with the zero at the end.
MAX_SOCKET_PATH_BYTES = 107

# The longest message and backlog before the client hangs up. Pages end at a mebibyte, and the client calls
# no other method beside a stream, so a peer that sends more is broken or hostile.
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
MAX_PENDING_NOTIFICATIONS = 10_000

# Bytes per read of the socket: the size of a kernel buffer.
READ_BYTES = 256 * 1024


class Failure(Exception):
    """A failure that ends a command with ``exit_code``; the message states the next action."""

    exit_code = exit_codes.FAILED
    reason = "failed"

    @property
    def text(self) -> str:
        """The message without a hint."""
        return str(self)

    def describe(self) -> Json:
        """Return the failure in the shape of a JSON-RPC error."""
        return {"code": None, "message": str(self), "data": {"reason": self.reason}}


class NoDaemon(Failure):
    """A socket on which no daemon listens."""

    exit_code = exit_codes.NO_DAEMON
    reason = "no_daemon"


class SocketForbidden(Failure):
    """A socket of another user."""

    reason = "permission_denied"


class ConnectionLost(Failure):
    """A connection that ended before the answer."""

    exit_code = exit_codes.NO_DAEMON
    reason = "connection_lost"


class StreamFailed(Failure):
    """The daemon could not continue a subscription; another one would fail at the same event."""

    def __init__(self) -> None:
        super().__init__(
            "the daemon could not continue the stream of events; 'kheishctl daemon logs' says why, and "
            "'kheishctl status' whether the store is damaged"
        )


class NotADaemon(ConnectionLost):
    """A socket on which another program answers."""

    reason = "not_a_daemon"

    def __init__(self) -> None:
        super().__init__("the program that answers on the socket is not a kheish daemon")


class TimedOut(Failure):
    """An answer that took longer than the caller was willing to wait."""

    exit_code = exit_codes.TIMED_OUT
    reason = "timed_out"


class RequestRefused(Failure):
    """A request that the daemon answered with an error."""

    def __init__(self, error: Json) -> None:
        data = error.get("data")
        self.code = error.get("code")
        self.message = str(error.get("message", "the daemon gave no reason"))
        self.data: Json = data if isinstance(data, dict) else {}
        self.note = ""
        super().__init__(self.message)

    @property
    def reason(self) -> str:  # type: ignore[override]
        """The stable identifier of the refusal."""
        return str(self.data.get("reason", ""))

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later."""
        return bool(self.data.get("retryable"))

    def describe(self) -> Json:
        """Return the error exactly as the daemon sent it."""
        return {"code": self.code, "message": self.message, "data": self.data}

    @property
    def text(self) -> str:
        """The message without a hint."""
        # The path of an invalid param is for programs. People typed options: they read the param's name.
        message, _, name = self.message.rpartition(" at $.params.")
        if not message or " " in name:
            return f"{self.message}{self.note}"
        return f"{name}: {message[:1].lower()}{message[1:]}{self.note}"

    def __str__(self) -> str:
        words = HINTS.get(self.reason)
        return self.text if words is None else f"{self.text} (see: {' '.join(('kheishctl', *words))})"


def resolve_home(home: str | None = None) -> str:
    """Return the daemon's home: ``home``, else $KHEISH_HOME, else $STATE_DIRECTORY, else ``~/.kheish``."""
    path = home or os.environ.get("KHEISH_HOME") or os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return os.path.abspath(os.path.expanduser(path or "~/.kheish"))


def resolve_socket(home: str, path: str | None = None) -> str:
    """Return ``path``, else the socket of the daemon of ``home``."""
    return os.path.abspath(os.path.expanduser(path)) if path else os.path.join(home, SOCKET_NAME)


def dial(path: str, timeout_s: float | None = None) -> socket.socket:
    """Return a connected socket.

    Errors: NoDaemon, SocketForbidden; both state the next action.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        _connect(connection, path)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        holder = find_lock_holder(path)
        if holder is not None:
            raise NoDaemon(
                f"the daemon (pid {holder}) does not listen on {path}: it is starting or stopping, or that "
                "file was removed. Try again, or stop it with 'kheishctl daemon stop' and start it"
            ) from None
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


def find_lock_holder(path: str) -> int | None:
    """Return the pid of the daemon that has locked the home of a socket; None if none has.

    Locks are looked up, not tried: to hold one for a moment could make a daemon's start fail. If the lock
    file was removed, the directory of the store is still locked.
    Source: /proc/locks, proc(5).
    """
    run_dir = os.path.dirname(path)
    try:
        with open("/proc/locks") as table:
            rows = [line.split() for line in table]
    except OSError:
        return None
    # The device is no help: some file systems state another one here.
    holders = {(row[5].rpartition(":")[2], row[4]) for row in rows if row[1] == "FLOCK"}
    with suppress(OSError, UnicodeDecodeError), open(os.path.join(run_dir, LOCK_NAME), "rb") as lock:
        pid = lock.read(MAX_LOCK_BYTES).strip().decode()
        if (str(os.fstat(lock.fileno()).st_ino), pid) in holders:
            return int(pid)
    with suppress(OSError):
        status = os.stat(os.path.join(os.path.dirname(run_dir), STATE_NAME))
        for inode, pid in holders:
            if inode == str(status.st_ino) and _has_open(pid, status):
                return int(pid)
    return None


def _has_open(pid: str, status: os.stat_result) -> bool:
    """Whether a process has a file open."""
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), status):
                    return True
    return False


def _connect(connection: socket.socket, path: str) -> None:
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        connection.connect(path)
        return
    # A path that is too long for the kernel is reached through its directory's file descriptor.
    directory, name = os.path.split(path)
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        connection.connect(f"/proc/self/fd/{descriptor}/{name}")
    finally:
        os.close(descriptor)


class Client:
    """One connection. It makes one call at a time and keeps the notifications that arrive meanwhile."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._searched = 0
        self._pending: deque[tuple[str, Json]] = deque()
        self._calls_made = 0
        # Ids of requests are unique, so that one finds the events and log lines that it led to.
        self._id_head = os.urandom(6).hex()

    @classmethod
    def dial(cls, path: str, timeout_s: float | None = None) -> Self:
        """Connect. Errors: NoDaemon, SocketForbidden."""
        return cls(dial(path, timeout_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the daemon continues its work."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the socket's descriptor, to wait for it together with others."""
        return self._socket.fileno()

    @property
    def has_pending(self) -> bool:
        """Whether a message has arrived already, so that waiting for the socket would miss it."""
        return bool(self._pending) or b"\n" in self._buffer

    def call(self, method: str, params: Json | None = None, *, timeout_s: float | None = None) -> Any:
        """Call a method and wait for its answer.

        Errors: RequestRefused, ConnectionLost, TimedOut after ``timeout_s``.
        """
        request_id = self.send(method, params)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            message = self._read_message(deadline)
            if _is_answer_to(message, request_id):
                return self._unpack_result(message, method)
            self._keep(message)

    def send(self, method: str, params: Json | None = None) -> str:
        """Send a request and return its id without waiting. Errors: ConnectionLost."""
        self._calls_made += 1
        request_id = f"{self._id_head}-{self._calls_made}"
        request = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}
        self._socket.settimeout(None)
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            raise ConnectionLost(
                "the daemon closed the connection; 'kheishctl daemon logs' may say why"
            ) from None
        return request_id

    def notifications(self, timeout_s: float | None = None) -> Iterator[tuple[str, Json]]:
        """Yield the method and params of each notification, pending ones first.

        Errors: ConnectionLost, StreamFailed, TimedOut when ``timeout_s`` passes between two notifications.
        """
        while True:
            while self._pending:
                yield self._pending.popleft()
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            self._keep(self._read_message(deadline))

    def exchange(self, method: str, params: Json | None = None) -> Iterator[tuple[str, Json]]:
        """Call a method and yield notifications; its result is yielded among them, named ``result``.

        Errors: RequestRefused, ConnectionLost.
        """
        request_id = self.send(method, params)
        while True:
            while self._pending:
                yield self._pending.popleft()
            message = self._read_message(None)
            if _is_answer_to(message, request_id):
                yield "result", self._unpack_result(message, method)
            else:
                self._keep(message)

    def _keep(self, message: Json) -> None:
        if "method" in message and "id" not in message:
            if len(self._pending) >= MAX_PENDING_NOTIFICATIONS:
                raise NotADaemon
            params = message.get("params")
            params = params if isinstance(params, dict) else {}
            if is_failed_end(message["method"], params):
                raise StreamFailed
            self._pending.append((str(message["method"]), params))

    def _unpack_result(self, message: Json, method: str) -> Any:
        if "error" not in message:
            return message.get("result")
        if not isinstance(message["error"], dict):
            raise NotADaemon
        refused = RequestRefused(message["error"])
        if refused.code in (-32601, -32602) and method != "rpc.ping":
            # A daemon of another version may not know the method or a param.
            try:
                version = str(self.call("rpc.ping", timeout_s=2).get("version", __version__))
            except (Failure, AttributeError):
                version = __version__
            if version != __version__:
                refused.note = f" ({describe_version_difference(version)})"
        raise refused

    def _read_message(self, deadline: float | None) -> Json:
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                self._searched = 0
                return parse_message(line)
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
            raise TimedOut("the daemon did not answer in time; the request may still be executed") from None
        except OSError as error:
            raise ConnectionLost(f"the connection to the daemon broke: {error.strerror or error}") from None
        if not data:
            raise ConnectionLost("the daemon closed the connection; 'kheishctl daemon logs' may say why")
        return data


def is_failed_end(method: str, params: Json) -> bool:
    """Whether a notification says that the daemon could not continue a subscription."""
    return method == "journal.end" and params.get("reason") == "failed"


def parse_message(line: bytes | bytearray) -> Json:
    """Return the message of a line. Errors: NotADaemon if the line is not JSON."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise NotADaemon from None
    return message if isinstance(message, dict) else {}


def _is_answer_to(message: Json, request_id: str) -> bool:
    """Whether a message answers the open request; an error about an unreadable request has no id."""
    if "method" in message:
        return False
    return message.get("id") == request_id or (message.get("id") is None and "error" in message)
