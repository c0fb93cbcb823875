"""The daemon's side of a Unix socket, scripted by a test line by line."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE_S = 30.0

Message = dict[str, Any]
Script = Callable[["Peer"], object]


class Peer:
    """The daemon's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE_S)
        self._socket = connection
        self._lines = connection.makefile("rb")

    def request(self) -> Message:
        """Return the next request. Errors: AssertionError if the client disconnected."""
        line = self._line()
        assert line, "the client hung up"
        message: Message = json.loads(line)
        return message

    def has_hung_up(self) -> bool:
        """Wait for a further line or the end of the connection; return whether the client has hung up."""
        return not self._line()

    def _line(self) -> bytes:
        """Read the next line; return an empty one if the client hung up, even with unread data."""
        try:
            return self._lines.readline()
        except ConnectionResetError:
            return b""

    def raw(self, data: bytes) -> None:
        """Send bytes unchanged."""
        self._socket.sendall(data)

    def send(self, message: Message) -> None:
        """Send one message."""
        self.raw(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def answer(self, request: Message, result: Any) -> None:
        """Answer a request with a result."""
        self.send({"id": request["id"], "result": result})

    def refuse(self, request: Message, code: int, message: str, **data: Any) -> None:
        """Answer a request with an error."""
        self.send({"id": request["id"], "error": {"code": code, "message": message, "data": data}})

    def notify(self, method: str, **params: Any) -> None:
        """Send a notification."""
        self.send({"method": method, "params": params})

    def hang_up(self) -> None:
        """End the connection for the readers on both sides."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()


@contextmanager
def serve_scripts(path: Path, *scripts: Script) -> Iterator[None]:
    """Serve one connection after another, each by its script; the test raises the errors of the scripts."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(PATIENCE_S)
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            for script in scripts:
                peer = Peer(listener.accept()[0])
                try:
                    script(peer)
                finally:
                    peer.close()
        except BaseException as failure:  # Raised again in the test's thread.
            failures.append(failure)
        finally:
            listener.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join(PATIENCE_S)
        path.unlink(missing_ok=True)
    if failures:
        raise failures[0]
