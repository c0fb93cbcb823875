"""The HTTP side of a command's port, with a real server."""

from collections.abc import AsyncIterator

import pytest
import trio

from protocol.limits.network import MAX_PROXY_HEAD_BYTES
from tests.support.gates import make_gate
from tests.support.proxies import echo_server, open_proxy, read_all
from tests.support.web_server import WebServer, answer, web_server


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    """Provide a server."""
    async with web_server() as web:
        yield web


async def ask(port: int, *parts: bytes, ends: bool = False) -> bytes:
    """Return everything that the proxy answers."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for part in parts:
            await stream.send_all(part)
        if ends:
            await stream.send_eof()
        return await read_all(stream)


def get(url: str, *headers: str, version: str = "1.1") -> bytes:
    """Return a request for a URL."""
    return "\r\n".join((f"GET {url} HTTP/{version}", "host: forged.example", *headers, "", "")).encode()


async def test_a_tunnel() -> None:
    """Everything after the head is relayed, and the end of each direction."""
    async with echo_server() as server, open_proxy(make_gate(f"127.0.0.1:{server}")) as port:
        for version in ("1.0", "1.1"):
            head = f"CONNECT 127.0.0.1:{server} HTTP/{version}\r\nHost: x\r\nProxy-Authorization: y\r\n\r\n"
            whole = head.encode() + b"\x16\x03binary"
            for parts in ([whole], [whole[index : index + 1] for index in range(len(whole))]):
                done = await ask(port, *parts, ends=True)
                assert done == b"HTTP/1.1 200 Connection established\r\n\r\n\x16\x03binarybye"


async def test_a_request(web: WebServer) -> None:
    """The server sees the path and its own host; headers for the proxy do not pass."""
    page = answer(b"page", x="y", keep_alive="timeout=5", connection="x-hop", x_hop="1")
    web.answers["/a%20b?c=d//e"] = page
    gate = make_gate(f"127.0.0.1:{web.port}")
    async with open_proxy(gate) as port:
        sent = get(
            web.url("/a%20b?c=d//e#part"),
            *("Proxy-Connection: keep-alive", "Proxy-Authorization: secret"),
            *(
                "Connection: X-Mine, content-length",
                "X-Mine: 1",
                "TE: trailers",
                "Upgrade: h2c",
                "Cookie: a=b",
            ),
        )
        done = await ask(port, sent)
    head, _, body = done.partition(b"\r\n\r\n")
    assert body == b"page"
    assert b"\r\nx: y\r\n" in head
    assert b"x-hop" not in head.lower()
    assert b"keep-alive" not in head.lower()
    first, *lines = web.requests[0].strip().split("\r\n")
    assert first == "GET /a%20b?c=d//e HTTP/1.1"
    assert dict(line.lower().split(": ") for line in lines) == {
        "host": f"127.0.0.1:{web.port}",
        "cookie": "a=b",
        "connection": "close",
    }
    assert gate.connected == {f"127.0.0.1:{web.port}": 1}


async def test_bodies_in_both_directions(web: WebServer) -> None:
    """Bodies of any framing pass, while they arrive."""

    async def echo(stream: trio.abc.Stream) -> None:
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += await stream.receive_some()
        await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\n" + body)

    web.answers["/"] = echo
    chunks = b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\nx-trailer: 1\r\n\r\n"
    async with open_proxy(make_gate(f"127.0.0.1:{web.port}")) as port:
        head = f"POST {web.url()} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        done = await ask(port, head, chunks)
    assert b"first" in done
    assert b"second" in done
    assert done.startswith(b"HTTP/1.1 200")


async def test_only_the_request_that_was_judged_is_sent(web: WebServer) -> None:
    """A second request on the connection is not sent to the server of the first."""
    web.answers["/"] = answer(b"one")
    async with open_proxy(make_gate(f"127.0.0.1:{web.port}")) as port:
        done = await ask(port, get(web.url()) + get("http://other.example/smuggled"))
    assert done.endswith(b"one")
    assert done.count(b"HTTP/1.1") == 1
    assert len(web.requests) == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        get("http://example.org/"),
        get("http://user:password@example.org/", version="1.0"),
        get("http://EXAMPLE.org.:80"),
        b"POST http://example.org/ HTTP/1.1\r\nhost: x\r\ncontent-length: 5000000\r\n\r\n" + bytes(500_000),
    ],
)
async def test_refused_destinations(sent: bytes) -> None:
    """A destination that no rule allows is refused with the remedy, even while the client still sends."""
    gate = make_gate()
    async with open_proxy(gate) as port:
        done = await ask(port, sent)
    assert done.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"kheish: this command may not connect to example.org:" in done
    assert b"name it in the argument 'network'" in done
    assert sum(gate.refused.values()) == 1
    assert gate.connected == {}


@pytest.mark.parametrize(
    "sent",
    [
        *(
            get(url)
            for url in ("/", "https://a.example/", "ftp://a.example/", "http:///x", "http://a:0/", "*")
        ),
        *(get(url) for url in ("http://127.1/", "http://[::1/", "http://a.example@/", "http://a%00b/")),
        *(f"CONNECT {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode() for target in ("a", "a:x", ":1", "a/b:1")),
        b"CONNECT a:443 HTTP/1.1\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"GET http://a/\r\n\r\n",
        b"\0" * 100 + b"\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nhost: x\r\nx: " + b"y" * MAX_PROXY_HEAD_BYTES,
    ],
)
async def test_requests_that_are_none(sent: bytes) -> None:
    """What is not a request to a proxy is rejected with a reason, and judged not at all."""
    gate = make_gate()
    async with open_proxy(gate) as port:
        done = await ask(port, sent)
    assert done.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"kheish: not a request to a proxy: " in done
    assert (gate.connected, gate.refused) == ({}, {})


async def test_servers_that_do_not_answer(web: WebServer) -> None:
    """A server that cannot be reached, and one that speaks no HTTP, are reported with status 502."""
    web.answers["/"] = b"SSH-2.0-OpenSSH_9\r\n\r\n"
    web.answers["/none"] = b""
    web.answers["/cut"] = answer(b"whole page")[:-4]
    gate = make_gate(f"127.0.0.1:{web.port}", "127.0.0.1:1", "nothing.invalid:80")
    async with open_proxy(gate) as port:
        for url in (web.url(), web.url("/none"), "http://127.0.0.1:1/", "http://nothing.invalid/"):
            assert (await ask(port, get(url))).startswith(b"HTTP/1.1 502 Bad Gateway\r\n"), url
        # The length in the head tells the client that the body is not complete.
        assert (await ask(port, get(web.url("/cut")))).endswith(b"\r\n\r\nwhole ")


async def test_an_interim_answer_passes(web: WebServer) -> None:
    """A client that waits for 100 Continue gets it from the server."""

    async def wait(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await stream.receive_some()
        await stream.send_all(answer(bytes(body)))

    web.answers["/"] = wait
    async with open_proxy(make_gate(f"127.0.0.1:{web.port}")) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            head = f"PUT {web.url()} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
            await stream.send_all(head.encode())
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
            await stream.send_all(b"body")
            assert (await read_all(stream)).endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize(
    ("method", "sent", "body"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", b""),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"3\r\nabc\r\n0\r\n\r\n",
        ),
        ("GET", b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"d\r\nuntil the end\r\n0\r\n\r\n"),
        ("DELETE", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
    ],
)
async def test_framings_of_answers(web: WebServer, method: str, sent: bytes, body: bytes) -> None:
    """The end of each answer is known to the client, whatever its framing."""
    web.answers["/"] = sent
    async with open_proxy(make_gate(f"127.0.0.1:{web.port}")) as port:
        done = await ask(port, get(web.url()).replace(b"GET", method.encode(), 1))
    assert done.partition(b"\r\n\r\n")[2] == body
    assert done.startswith(sent[:12].replace(b"1.0", b"1.1"))


async def test_a_server_that_switches_protocols(web: WebServer) -> None:
    """An upgrade that nobody asked for is an error of the server."""
    web.answers["/"] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nraw"
    async with open_proxy(make_gate(f"127.0.0.1:{web.port}")) as port:
        assert (await ask(port, get(web.url()))).startswith(b"HTTP/1.1 502 ")
