"""The listener for Prometheus, asked by a real HTTP client."""

import http.client
from collections.abc import AsyncIterator

import pytest
import trio

from kheishd.server import metrics
from kheishd.server.metrics import serve_metrics


@pytest.fixture
async def port(nursery: trio.Nursery) -> AsyncIterator[int]:
    """Serve a text on a free port."""
    yield await nursery.start(serve_metrics, "127.0.0.1", 0, lambda: "kheish_x 1\n")
    nursery.cancel_scope.cancel()


async def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, str]:
    """Send a request; return the status and the body."""

    def request() -> tuple[int, str]:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        client.request(method, path, headers=headers)
        answer = client.getresponse()
        text = answer.read().decode()
        client.close()
        return answer.status, text

    return await trio.to_thread.run_sync(request)


@pytest.mark.parametrize(
    ("method", "path", "host", "status"),
    [
        ("GET", "/metrics", "127.0.0.1", 200),
        ("GET", "/metrics?x=1", "localhost:9464", 200),
        ("GET", "/metrics", "[::1]:9464", 200),
        ("GET", "/", "localhost", 404),
        ("POST", "/metrics", "localhost", 405),
        ("GET", "/metrics", "evil.example", 403),
        ("GET", "/metrics", "127.evil.example:9464", 403),
    ],
)
async def test_answers(port: int, method: str, path: str, host: str, status: int) -> None:
    """Only GET and HEAD of /metrics under a name of this machine are answered with the metrics."""
    answered, text = await ask(port, method, path, Host=host)
    assert (answered, text == "kheish_x 1\n") == (status, status == 200)


async def test_a_connection_is_kept(port: int) -> None:
    """A collector asks again on the same connection; HEAD has no body."""

    def request() -> list[tuple[str, bytes]]:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        bodies = []
        for method in ("GET", "HEAD", "GET"):
            client.request(method, "/metrics")
            answer = client.getresponse()
            bodies.append((method, answer.read()))
        client.close()
        return bodies

    bodies = await trio.to_thread.run_sync(request)
    assert bodies == [("GET", b"kheish_x 1\n"), ("HEAD", b""), ("GET", b"kheish_x 1\n")]


async def test_garbage_and_floods_are_cut(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not HTTP, a head without an end and a connection too many are closed without an answer."""
    for garbage in (b"\0\0\0\n\n", b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 2 * metrics.MAX_HEAD_BYTES):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(garbage)
        with trio.fail_after(10):
            try:
                assert await stream.receive_some() == b""
            except trio.BrokenResourceError:
                pass
        await stream.aclose()
    assert (await ask(port, "GET", "/metrics"))[0] == 200
    streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(metrics.MAX_CONNECTIONS + 1)]
    with trio.fail_after(10):
        assert await streams[-1].receive_some() == b""
    for stream in streams:
        await stream.aclose()
