"""Helpers for tests of HTTP connections: a pool, a whole body, and servers that send raw bytes."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import trio

from kheishd.providers.driver import HttpRequest
from kheishd.providers.http import HttpReply, Pool, make_pool
from tests.support.model_server import ModelServer

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def model_request(server: ModelServer, model: str) -> HttpRequest:
    """Return a request for a model."""
    body = msgspec.json.encode({"model": model, "messages": []})
    return HttpRequest(f"{server.base_url}/chat/completions", {"x-test": "1"}, (body,))


@asynccontextmanager
async def pool_to(url: str, ca_file: str | None = None) -> AsyncIterator[Pool]:
    """Provide a connection pool for one URL."""
    pool = make_pool(url, 10, ca_file)
    try:
        yield pool
    finally:
        await pool.aclose()


async def read_all(reply: HttpReply) -> list[bytes]:
    """Return all reads of a body, and close it in any case."""
    reads: list[bytes] = []
    try:
        while not reply.ended:
            reads.append(await reply.read())
    finally:
        await reply.aclose()
    return reads


async def serve(
    handler: Callable[[trio.SocketStream], Coroutine[Any, Any, None]], nursery: trio.Nursery
) -> int:
    """Serve a handler on a free port of 127.0.0.1; return the port."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, handler, [listener])
    port: int = listener.socket.getsockname()[1]
    return port


class RawServer:
    """A server that answers each request with the next of its ``answers``, byte for byte.

    ``is_closing``: it closes a connection after one answer. ``streams`` are its connections, oldest first.
    """

    def __init__(self, *answers: bytes, is_closing: bool = False) -> None:
        self.url = ""
        self.streams: list[trio.SocketStream] = []
        self.requests: list[bytes] = []
        self._answers = deque(answers)
        self._is_closing = is_closing

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Pool]:
        """Serve, and provide a pool of connections to this server."""
        async with trio.open_nursery() as nursery:
            self.url = f"http://127.0.0.1:{await serve(self._handle, nursery)}"
            async with pool_to(self.url) as pool:
                yield pool
            nursery.cancel_scope.cancel()

    async def ask(self, pool: Pool, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Return the status and the whole body of the next answer."""
        with trio.fail_after(10):
            reply = await pool.send(HttpRequest(f"{self.url}/v1", headers or {}, (b"{}",)))
            return reply.status, b"".join(await read_all(reply))

    async def _handle(self, stream: trio.SocketStream) -> None:
        self.streams.append(stream)
        # A client closes a connection whose answer it rejects.
        async with stream:
            with suppress(trio.BrokenResourceError):
                await self._answer(stream)

    async def _answer(self, stream: trio.SocketStream) -> None:
        while request := await stream.receive_some():
            while not request.endswith(b"\r\n\r\n{}"):
                request += await stream.receive_some()
            self.requests.append(bytes(request))
            await stream.send_all(self._answers.popleft())
            if self._is_closing:
                return
