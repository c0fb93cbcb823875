"""A provider that sends bytes as the test states them."""

import json
import socket
import threading
from collections import deque
from contextlib import suppress


def stream(text: str) -> bytes:
    """Return a whole answer, in chunks."""
    events = [
        b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n",
        b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n',
    ]
    body = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


class RawProvider:
    """A provider that answers each request with the next bytes; an answer that is ``cut`` closes.

    ``is_asked`` is set once a request has arrived.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.answers: deque[tuple[bytes, bool]] = deque()
        self.connections = 0
        self.is_asked = threading.Event()
        self._listener = listener

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            received = b""
            while data := connection.recv(65_536):
                received += data
                head, end, body = received.partition(b"\r\n\r\n")
                if end and len(body) >= int(head.lower().partition(b"content-length: ")[2].split()[0]):
                    received = b""
                    answer, is_cut = self.answers.popleft()
                    self.is_asked.set()
                    connection.sendall(answer)
                    if is_cut:
                        return
