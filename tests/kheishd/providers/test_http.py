"""HTTP connections: how reads are grouped, and when connections are kept or closed."""

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from types import coroutine
from typing import Any
from urllib.parse import quote

import httpcore2
import msgspec
import pytest
import trio
import trustme

from kheishd.providers.driver import HttpRequest
from kheishd.providers.failures import FailureFactory
from kheishd.providers.http import (
    MAX_FIRST_PIECES,
    MAX_PIECES,
    AnnouncingStream,
    HttpReply,
    Pool,
    failure,
    make_pool,
    send,
)
from tests.support.model_server import ModelServer


def model_request(server: ModelServer, model: str) -> HttpRequest:
    """Return a request for a model."""
    body = msgspec.json.encode({"model": model, "messages": []})
    return HttpRequest(f"{server.base_url}/chat/completions", {"x-test": "1"}, body)


@asynccontextmanager
async def pool_to(url: str) -> AsyncIterator[Pool]:
    """Return a connection pool for one URL."""
    async with make_pool(url, 10) as pool:
        yield pool


async def read_all(reply: HttpReply) -> list[bytes]:
    """Return all reads of a body."""
    reads: list[bytes] = []
    while not reply.ended:
        reads.append(await reply.read())
    await reply.aclose()
    return reads


async def serve(
    handler: Callable[[trio.SocketStream], Coroutine[Any, Any, None]], nursery: trio.Nursery
) -> int:
    """Serve a handler on a free port of 127.0.0.1; yield the port."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, handler, [listener])
    port: int = listener.socket.getsockname()[1]
    return port


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_one_write_is_the_first_words_and_the_rest(server: ModelServer) -> None:
    """Fifty pieces that arrive together are read in two parts: the first few, then the others."""
    async with pool_to(server.base_url) as pool:
        reads = await read_all(await send(pool, model_request(server, "chunks:50:60")))
    assert [read.count(b"word") for read in reads] == [MAX_FIRST_PIECES - 1, 51 - MAX_FIRST_PIECES]
    assert reads[-1].endswith(b"data: [DONE]\n\n")


async def test_a_read_is_limited(server: ModelServer) -> None:
    """The size of a read is limited, so that other tasks run between two reads."""
    async with pool_to(server.base_url) as pool:
        reads = await read_all(await send(pool, model_request(server, "chunks:2000:2010")))
    assert max(read.count(b"data: ") for read in reads) <= MAX_PIECES
    assert sum(read.count(b"word") for read in reads) == 2000


async def test_bytes_are_returned_at_once(nursery: trio.Nursery) -> None:
    """A piece is returned when it arrives, even if it ends inside an HTTP chunk."""
    give, get = trio.open_memory_channel[bytes](1)

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        async for data in get:
            await stream.send_all(data)

    port = await serve(handler, nursery)
    async with pool_to(f"http://127.0.0.1:{port}") as pool:
        await give.send(HEAD + b"3\r\none\r\n3\r\ntwo\r\n5\r\nth")
        reply = await send(pool, HttpRequest(f"http://127.0.0.1:{port}/", {}, b"{}"))
        assert await reply.read() == b"onetwoth"
        await give.send(b"ree\r\n0\r\n\r\n")
        assert await reply.read() == b"ree"
        assert await reply.read() == b""
        assert reply.ended
        await reply.aclose()


async def test_a_request_goes_out_in_one_write(nursery: trio.Nursery) -> None:
    """Head and body of a request are sent in one write, so that the server wakes once."""
    reads: list[bytes] = []

    async def handler(stream: trio.SocketStream) -> None:
        reads.append(bytes(await stream.receive_some()))
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    port = await serve(handler, nursery)
    url = f"http://127.0.0.1:{port}/v1"
    async with pool_to(url) as pool:
        await read_all(await send(pool, HttpRequest(f"{url}/chat/completions", {}, b'{"model": "m"}')))
    nursery.cancel_scope.cancel()
    [whole] = reads
    assert whole.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert whole.endswith(b'\r\n\r\n{"model": "m"}')


async def test_an_answer_before_the_request_was_read(nursery: trio.Nursery) -> None:
    """A response is read even if the server closed before it had read the request."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some(1024)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await stream.send_eof()
        while await stream.receive_some():
            pass

    port = await serve(handler, nursery)
    url = f"http://127.0.0.1:{port}/v1"
    async with pool_to(url) as pool:
        reply = await send(pool, HttpRequest(f"{url}/chat/completions", {}, b"x" * 4_000_000))
        assert reply.status == 413
        assert b"".join(await read_all(reply)) == b"no"
    nursery.cancel_scope.cancel()


async def test_connections_are_kept(server: ModelServer) -> None:
    """A connection is reused after its body was read to the end."""
    async with pool_to(server.base_url) as pool:
        for _ in range(3):
            await read_all(await send(pool, model_request(server, "echo")))
    assert server.connections == 1


async def test_leaving_a_parked_read_closes_the_connection(server: ModelServer) -> None:
    """Leaving a body with a parked read closes the connection and leaves no task behind."""
    async with pool_to(server.base_url) as pool:
        reply = await send(pool, model_request(server, "hang-mid"))
        assert b"so far" in await reply.read()
        for _ in range(2):
            await reply.aclose()
        with trio.fail_after(5):
            await server.requests[0].disconnected.wait()
        await read_all(await send(pool, model_request(server, "echo")))
    assert server.connections == 2


async def test_a_read_that_is_cancelled_closes_the_connection(server: ModelServer) -> None:
    """A cancelled read closes the connection."""
    async with pool_to(server.base_url) as pool:
        reply = await send(pool, model_request(server, "hang-mid"))
        await reply.read()
        with trio.move_on_after(0) as scope:
            await reply.read()
        assert scope.cancelled_caught
        await reply.aclose()
        with trio.fail_after(5):
            await server.requests[0].disconnected.wait()


async def test_bytes_before_a_break_are_returned_first(nursery: trio.Nursery) -> None:
    """Good bytes are returned first; invalid bytes after them are an error of the next read."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(HEAD + b"3\r\none\r\nthis is no chunk\r\n")

    port = await serve(handler, nursery)
    async with pool_to(f"http://127.0.0.1:{port}") as pool:
        reply = await send(pool, HttpRequest(f"http://127.0.0.1:{port}/", {}, b"{}"))
        assert await reply.read() == b"one"
        with pytest.raises(httpcore2.RemoteProtocolError):
            await reply.read()
        await reply.aclose()


async def test_a_break_alone_is_an_error(server: ModelServer) -> None:
    """A connection that ends inside the body is an error of the read that reaches the end."""
    async with pool_to(server.base_url) as pool:
        reply = await send(pool, model_request(server, "cut"))
        with pytest.raises(httpcore2.RemoteProtocolError):
            await read_all(reply)
        await reply.aclose()


async def test_the_head(server: ModelServer) -> None:
    """A request has its host and headers; header names of a response are in lower case."""
    async with pool_to(server.base_url) as pool:
        reply = await send(pool, model_request(server, "status:429:retry=7"))
        await read_all(reply)
    assert (reply.status, reply.headers["retry-after"]) == (429, "7")
    headers = server.requests[0].headers
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert headers["accept"] == "text/event-stream, application/json"
    assert (headers["accept-encoding"], headers["x-test"]) == ("identity", "1")


class EventStream(httpcore2.AsyncNetworkStream):
    """A stream whose reads wait for an event of the test."""

    def __init__(self) -> None:
        self.arrived = trio.Event()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Wait for the event, then return bytes."""
        await self.arrived.wait()
        return b"data"


@coroutine
def resume(step: Coroutine[Any, Any, bytes]) -> Generator[Any, Any, bytes]:
    """Await a coroutine that has already started."""
    return (yield from step.__await__())


async def test_a_step_is_parked_before_it_waits() -> None:
    """A step that would read is parked before it waits; awaited later, it continues."""
    inner = EventStream()
    stream = AnnouncingStream(inner)

    async def step() -> bytes:
        return await stream.read(10)

    parked = step()
    with trio.fail_after(5):
        assert await stream.ahead(parked) is None
    inner.arrived.set()
    assert await resume(parked) == b"data"
    assert await stream.read(10) == b"data", "and outside of 'ahead' nothing is announced"


async def test_other_waits_are_passed_on() -> None:
    """A wait for anything but the network is passed on, with its errors and its cancellation."""
    stream = AnnouncingStream(EventStream())

    async def step(error: Exception | None) -> bytes:
        try:
            await trio.lowlevel.checkpoint()
            if error is not None:
                raise error
            await trio.lowlevel.checkpoint()
        except ValueError:
            await trio.lowlevel.checkpoint()
        return b"done"

    assert await stream.ahead(step(None)) == b"done"
    assert await stream.ahead(step(ValueError())) == b"done"
    with pytest.raises(KeyError):
        await stream.ahead(step(KeyError()))
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.ahead(step(None))
    assert scope.cancelled_caught


async def test_errors_of_a_wait_are_passed_on() -> None:
    """An error that arrives during a wait is raised at the wait and may be caught there."""

    @coroutine
    def odd() -> Generator[Any, Any, None]:
        yield "odd"

    async def step() -> bytes:
        try:
            await odd()
        except LookupError:
            return b"caught"
        return b"not"

    driven = AnnouncingStream(EventStream()).ahead(step())
    assert driven.send(None) == "odd"
    with pytest.raises(StopIteration) as done:
        driven.throw(LookupError())
    assert done.value.value == b"caught"


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (httpcore2.UnsupportedProtocol("x"), "bad_request", False),
        (httpcore2.LocalProtocolError("x"), "bad_request", False),
        (httpcore2.ConnectError("x"), "connection_failed", True),
        (httpcore2.ConnectTimeout("x"), "connection_failed", True),
        (httpcore2.ProxyError("x"), "connection_failed", True),
        (httpcore2.ReadError("x"), "connection_failed", True),
        (httpcore2.RemoteProtocolError("x"), "connection_failed", True),
        (OSError("x"), "connection_failed", True),
    ],
)
def test_failures(error: Exception, reason: str, retryable: bool) -> None:
    """Every network error has its reason."""
    error_failure = failure(error, FailureFactory("api.test", None))
    assert error_failure is not None
    assert (error_failure.reason, error_failure.retryable) == (reason, retryable)


def test_a_provider_that_does_not_pick_up() -> None:
    """The note of a connect timeout states the time waited, not the library's exception."""
    error_failure = failure(
        httpcore2.ConnectTimeout("cancelled due to deadline"), FailureFactory("api.test", None)
    )
    assert error_failure is not None
    assert error_failure.message == "api.test: no connection within 30 s"


def test_an_unusable_file_of_authorities(tmp_path: Path) -> None:
    """The message names the key and the file."""
    with pytest.raises(httpcore2.UnsupportedProtocol) as raised:
        make_pool("https://api.test", 1, str(tmp_path / "ca.pem"))
    error_failure = failure(raised.value, FailureFactory("api.test", None))
    assert error_failure is not None
    assert f"ca_file '{tmp_path}/ca.pem' is not usable" in error_failure.message


def test_our_own_faults_are_no_failures() -> None:
    """A bug in our code is not reported as a network failure."""
    assert failure(KeyError("x"), FailureFactory("api.test", None)) is None


@pytest.mark.parametrize(
    "url", ["nonsense", "http://", "http://[::1", "http://x:port/", "http://münchen.test/"]
)
def test_an_invalid_url(url: str) -> None:
    """An invalid URL is refused before anything is sent."""
    with pytest.raises(httpcore2.UnsupportedProtocol):
        make_pool(url, 1)


# Proxies and certificates come from the environment.


async def test_a_proxy(server: ModelServer, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> None:
    """A request uses the proxy and its password, unless the host is excluded."""
    requests: list[bytes] = []

    async def proxy(stream: trio.SocketStream) -> None:
        requests.append(await stream.receive_some())
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    port = await serve(proxy, nursery)
    monkeypatch.setenv("http_proxy", f"http://user:p%40ss@127.0.0.1:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    async with pool_to("http://api.test/v1") as pool:
        reads = await read_all(await send(pool, HttpRequest("http://api.test/v1/x", {}, b"{}")))
    assert reads == [b"ok"]
    assert requests[0].startswith(b"POST http://api.test/v1/x HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpwQHNz" in requests[0]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with pool_to(server.base_url) as pool:
        await read_all(await send(pool, model_request(server, "echo")))
    assert len(server.requests) == 1


@pytest.mark.parametrize("password", ["hunter2#x", "hun/ter2", "hun[ter2", "hünter2"])
def test_the_password_of_a_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    """The note about an invalid proxy contains no password, because run errors are public."""
    monkeypatch.setenv("http_proxy", f"http://user:{password}@127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(httpcore2.UnsupportedProtocol) as caught:
        make_pool("http://example.org/v1", 1)
    assert str(caught.value).startswith("the proxy in the environment is not a URL")
    assert not any(part in str(caught.value) for part in ("hun", "ter2", "xfc"))
    # The cause and context of an exception are logged with it.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_proxy_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unsupported kind of proxy is refused, not bypassed."""
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(httpcore2.UnsupportedProtocol, match="not an HTTP proxy"):
        make_pool("http://api.test/v1", 1)


async def test_tls(monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, tmp_path: Any) -> None:
    """TLS connections are read in the same way, and certificates are verified."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def handler(stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await secure.receive_some()
            await secure.send_all(HEAD + b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
        except trio.BrokenResourceError:
            pass

    port = await serve(handler, nursery)
    url = f"https://127.0.0.1:{port}"
    async with pool_to(url) as pool:
        with pytest.raises(httpcore2.ConnectError) as raised:
            await send(pool, HttpRequest(f"{url}/", {}, b"{}"))
    tls_failure = failure(raised.value, FailureFactory("api.test", None))
    assert tls_failure is not None
    assert "its certificate is not trusted (unable to get local issuer certificate)" in tls_failure.message
    assert "ca_file" in tls_failure.message
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with pool_to(url) as pool:
        assert b"".join(await read_all(await send(pool, HttpRequest(f"{url}/", {}, b"{}")))) == b"onetwo"
    monkeypatch.delenv("SSL_CERT_FILE")
    async with make_pool(url, 1, str(tmp_path / "ca.pem")) as pool:
        assert b"".join(await read_all(await send(pool, HttpRequest(f"{url}/", {}, b"{}")))) == b"onetwo"


async def test_a_server_without_tls(nursery: trio.Nursery) -> None:
    """The failure of https:// to a server that answers without TLS names the key to check."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    url = f"https://127.0.0.1:{await serve(handler, nursery)}"
    async with pool_to(url) as pool:
        with pytest.raises(httpcore2.ConnectError) as raised:
            await send(pool, HttpRequest(f"{url}/", {}, b"{}"))
    tls_failure = failure(raised.value, FailureFactory("api.test", None))
    assert tls_failure is not None
    assert "the server does not speak TLS; check the https://" in tls_failure.message


async def test_a_unix_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on a Unix socket is called without a proxy, and its connections are kept."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    path = tmp_path / "a model.sock"
    url = f"http+unix://{quote(str(path), safe='')}/v1"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        server = ModelServer(listener)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve)
            async with pool_to(url) as pool:
                for _ in range(2):
                    body = msgspec.json.encode({"model": "echo", "messages": []})
                    reply = await send(pool, HttpRequest(f"{url}/chat/completions", {}, body))
                    assert b"echo" in b"".join(await read_all(reply))
            nursery.cancel_scope.cancel()
    assert server.connections == 1
    assert [(request.path, request.headers["host"]) for request in server.requests] == [
        ("/v1/chat/completions", "localhost")
    ] * 2
