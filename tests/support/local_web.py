"""A real HTTP server in a thread, for programs that tests start."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType


class LocalWeb:
    """A server on the loopback interface that answers each GET; ``paths`` are those of the requests.

    ``connections`` are those that are open now.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.connections: set[object] = set()
        paths, connections = self.paths, self.connections

        class Handler(BaseHTTPRequestHandler):
            def setup(self) -> None:
                connections.add(self)
                super().setup()

            def finish(self) -> None:
                super().finish()
                connections.discard(self)

            def do_GET(self) -> None:
                paths.append(self.path)
                body = f"page {self.path}\n".encode()
                location = self.path.partition("?to=")[2]
                self.send_response(302 if location else 200)
                if location:
                    self.send_header("location", location)
                self.send_header("content-type", "text/plain")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> LocalWeb:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
