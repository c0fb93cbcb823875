"""Pools of connections: unusable URLs, proxies and certificates, TLS, and Unix sockets."""

import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import trio
import trustme

from kheishd.providers.driver import HttpRequest
from kheishd.providers.failures import FailureFactory
from kheishd.providers.http import make_pool
from kheishd.providers.http_errors import ConnectFailed, UnsendableRequest, failure_of
from tests.support.http_calls import HEAD, pool_to, read_all, serve
from tests.support.model_server import ModelServer


def test_an_unusable_file_of_authorities(tmp_path: Path) -> None:
    """The message names the key and the file."""
    with pytest.raises(UnsendableRequest) as raised:
        make_pool("https://api.test", 1, str(tmp_path / "ca.pem"))
    error_failure = failure_of(raised.value, FailureFactory("api.test", None))
    assert error_failure is not None
    assert f"ca_file '{tmp_path}/ca.pem' is not usable" in error_failure.message


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "http://",
        "http://[::1",
        "http://x:port/",
        "http://x:99999/",
        "ftp://x/",
        "http://a..b/",
        f"http://{'a' * 64}.test/",
        "http://münchen.test/",
    ],
)
def test_an_invalid_url(url: str) -> None:
    """An invalid URL is refused before anything is sent."""
    with pytest.raises(UnsendableRequest):
        make_pool(url, 1)


@pytest.mark.parametrize("password", ["hunter2#x", "hun/ter2", "hun[ter2", "hünter2"])
def test_the_password_of_a_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    """The note about an invalid proxy contains no password, because run errors are public."""
    monkeypatch.setenv("http_proxy", f"http://user:{password}@127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(UnsendableRequest) as caught:
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
    with pytest.raises(UnsendableRequest, match="not an HTTP proxy"):
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
        with pytest.raises(ConnectFailed) as raised:
            await pool.send(HttpRequest(f"{url}/", {}, (b"{}",)))
    tls_failure = failure_of(raised.value, FailureFactory("api.test", None))
    assert tls_failure is not None
    assert "its certificate is not trusted (unable to get local issuer certificate)" in tls_failure.message
    assert "ca_file" in tls_failure.message
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with pool_to(url) as pool:
        assert b"".join(await read_all(await pool.send(HttpRequest(f"{url}/", {}, (b"{}",))))) == b"onetwo"
    monkeypatch.delenv("SSL_CERT_FILE")
    async with pool_to(url, str(tmp_path / "ca.pem")) as pool:
        assert b"".join(await read_all(await pool.send(HttpRequest(f"{url}/", {}, (b"{}",))))) == b"onetwo"


async def test_a_server_without_tls(nursery: trio.Nursery) -> None:
    """The failure of https:// to a server that answers without TLS names the key to check."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    url = f"https://127.0.0.1:{await serve(handler, nursery)}"
    async with pool_to(url) as pool:
        with pytest.raises(ConnectFailed) as raised:
            await pool.send(HttpRequest(f"{url}/", {}, (b"{}",)))
    tls_failure = failure_of(raised.value, FailureFactory("api.test", None))
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
                    reply = await pool.send(HttpRequest(f"{url}/chat/completions", {}, (body,)))
                    assert b"echo" in b"".join(await read_all(reply))
            nursery.cancel_scope.cancel()
    assert server.connections == 1
    assert [(request.path, request.headers["host"]) for request in server.requests] == [
        ("/v1/chat/completions", "localhost")
    ] * 2


async def test_bytes_after_an_answer_over_tls(nursery: trio.Nursery, tmp_path: Path) -> None:
    """Bytes that TLS received with the end of an answer, in another record, are not the next answer."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    fine = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"
    connections: list[trio.SocketStream] = []

    async def handler(stream: trio.SocketStream) -> None:
        # A TLS connection in memory, whose records are sent in one write.
        connections.append(stream)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secure = context.wrap_bio(incoming, outgoing, server_side=True)
        is_established = False
        while received := await stream.receive_some():
            incoming.write(received)
            try:
                if not is_established:
                    secure.do_handshake()
                    is_established = True
                secure.read(65_536)
                secure.write(fine + b"fine")
                if len(connections) == 1:
                    secure.write(fine + b"evil")
            except ssl.SSLWantReadError:
                pass
            if records := outgoing.read():
                await stream.send_all(records)

    url = f"https://127.0.0.1:{await serve(handler, nursery)}"
    async with pool_to(url, str(tmp_path / "ca.pem")) as pool:
        for _ in range(3):
            reply = await pool.send(HttpRequest(f"{url}/", {}, (b"{}",)))
            assert b"".join(await read_all(reply)) == b"fine"
    assert len(connections) == 2, "the second connection is kept"
