"""Requests through a proxy: how reads are grouped, and the library's errors."""

from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any

import httpcore2
import pytest
import trio

from kheishd.providers.driver import HttpRequest
from kheishd.providers.http_errors import (
    ConnectFailed,
    ConnectionBroken,
    ConnectTimeout,
    UnsendableRequest,
)
from kheishd.providers.http_proxy import AnnouncingStream, translated
from tests.support.http_calls import HEAD, model_request, pool_to, read_all, serve
from tests.support.model_server import ModelServer


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
        reads = await read_all(await pool.send(HttpRequest("http://api.test/v1/x", {}, (b"{}",))))
    assert reads == [b"ok"]
    assert requests[0].startswith(b"POST http://api.test/v1/x HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpwQHNz" in requests[0]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with pool_to(server.base_url) as pool:
        await read_all(await pool.send(model_request(server, "echo")))
    assert len(server.requests) == 1


async def test_a_proxy_that_refuses_the_tunnel(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """A proxy that refuses to connect to the server is a failed connection."""

    async def proxy(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{await serve(proxy, nursery)}")
    monkeypatch.delenv("no_proxy", raising=False)
    async with pool_to("https://api.test/v1") as pool:
        with pytest.raises(ConnectFailed, match="403"):
            await pool.send(HttpRequest("https://api.test/v1/x", {}, (b"{}",)))


async def test_a_proxy_that_breaks_off(monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> None:
    """Pieces before the end of the connection are returned first; then it is broken."""

    async def proxy(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(HEAD + b"3\r\none\r\n")
        await stream.aclose()

    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{await serve(proxy, nursery)}")
    monkeypatch.delenv("no_proxy", raising=False)
    async with pool_to("http://api.test/v1") as pool:
        reply = await pool.send(HttpRequest("http://api.test/v1/x", {}, (b"{}",)))
        assert await reply.read() == b"one"
        with pytest.raises(ConnectionBroken):
            await reply.read()
        await reply.aclose()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpcore2.UnsupportedProtocol("x"), UnsendableRequest),
        (httpcore2.LocalProtocolError("x"), UnsendableRequest),
        (httpcore2.ConnectError("x"), ConnectFailed),
        (httpcore2.ProxyError("x"), ConnectFailed),
        (httpcore2.ConnectTimeout("x"), ConnectTimeout),
        (httpcore2.ReadError("x"), ConnectionBroken),
        (httpcore2.RemoteProtocolError("x"), ConnectionBroken),
        (KeyError("x"), KeyError),
    ],
)
def test_errors_of_the_library(error: Exception, expected: type[Exception]) -> None:
    """Errors of the library become the client's own; a fault of the daemon stays one."""
    with pytest.raises(expected), translated():
        raise error
