"""A real HTTP server on the loopback address; the test sets the bytes of the answer for each path."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

Answer = bytes | Callable[[trio.abc.Stream], Awaitable[None]]


class WebServer:
    """The server: its ``answers`` by path, and the heads of the ``requests`` that it received."""

    def __init__(self, port: int, scheme: str) -> None:
        self.port = port
        self.scheme = scheme
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """Return the URL of a path."""
        return f"{self.scheme}://{host}:{self.port}{path}"

    async def handle(self, stream: trio.abc.Stream, secure: ssl.SSLContext | None) -> None:
        """Answer one request, then close the connection."""
        if secure is not None:
            stream = trio.SSLStream(stream, secure, server_side=True, https_compatible=True)
        try:
            async with stream:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += await stream.receive_some()
                self.requests.append(head.decode())
                answer = self.answers[head.split()[1].decode()]
                await (stream.send_all(answer) if isinstance(answer, bytes) else answer(stream))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


def answer(body: bytes, kind: str = "text/plain", status: int = 200, **headers: str) -> bytes:
    """Return a complete answer. Underscores in header names are dashes."""
    lines = [f"HTTP/1.1 {status} OK", f"content-length: {len(body)}"]
    lines += [f"content-type: {kind}"] if kind else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    """Return an answer that redirects the client."""
    return answer(b"moved", status=status, location=location)


@asynccontextmanager
async def web_server(
    secure: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[WebServer]:
    """Provide a server on a free port, with TLS if there is a context."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host=host)
        server = WebServer(listener.socket.getsockname()[1], "http" if secure is None else "https")
        handle = partial(server.handle, secure=secure)
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield server
        nursery.cancel_scope.cancel()
