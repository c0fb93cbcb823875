"""Fetching pages from a real server: redirects, limits and errors; and connections to checked addresses."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpcore2
import pytest
import trio
import trustme

from kheishd.hooks.network.addresses import Address, is_public
from kheishd.hooks.network.connector import AddressForbidden
from kheishd.hooks.web import fetch as fetching
from kheishd.hooks.web.fetch import FetchedPage, PinnedBackend, fetch
from kheishd.hooks.web.urls import parse_url
from kheishd.kernel.hook import ToolError
from protocol import __version__
from protocol.limits.web import MAX_WEB_BODY_BYTES
from tests.support.names import Names
from tests.support.web_server import WebServer, answer, redirect, web_server


def loopback(address: Address, port: int = 0) -> bool:
    """Whether an address is this machine's own."""
    return address.is_loopback


def public(address: Address, port: int) -> bool:
    """Whether an address is on the public internet."""
    return is_public(address)


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    """Provide a server."""
    async with web_server() as web:
        yield web


async def fetched(url: str, secure: ssl.SSLContext | None = None) -> FetchedPage:
    """Fetch a page from this machine."""
    return await fetch(parse_url(url), loopback, secure or httpcore2.default_ssl_context())


async def test_a_page(web: WebServer) -> None:
    """A page has its status, headers and body; the server learns no more than it must."""
    web.answers["/a%20b?q"] = answer(b"gr\xfcn", "text/plain; charset=latin1", 404, x_y="z")
    page = await fetched(web.url("/a%20b?q#part"))
    assert (page.status, page.body, page.truncated) == (404, b"gr\xfcn", False)
    assert page.headers[-1] == ("x-y", "z")
    assert page.content_type == "text/plain; charset=latin1"
    assert (page.redirects, page.downgraded) == ([], False)
    first, *lines = web.requests[0].strip().split("\r\n")
    assert first == "GET /a%20b?q HTTP/1.1"
    names = dict(line.lower().split(": ") for line in lines)
    assert names.keys() == {"host", "user-agent", "accept", "accept-encoding"}
    assert names["host"] == f"127.0.0.1:{web.port}"
    assert names["user-agent"] == f"kheish/{__version__}"
    assert names["accept-encoding"] == "identity"


async def test_an_address_of_the_other_family() -> None:
    """The host header is the host of the URL."""
    try:
        async with web_server(host="::1") as web:
            web.answers["/"] = answer(b"six")
            assert (await fetched(web.url(host="[::1]"))).body == b"six"
            assert f"\r\nhost: [::1]:{web.port}\r\n" in web.requests[0].lower()
    except* OSError as errors:
        pytest.skip(f"this machine has no IPv6: {errors.exceptions[0]}")


async def test_redirects_are_followed(web: WebServer) -> None:
    """Redirects are followed relative to each page, and listed."""
    web.answers["/1"] = redirect("2", 301)
    web.answers["/2"] = redirect("/3?x", 307)
    web.answers["/3?x"] = redirect(web.url("/4"), 303)
    web.answers["/4"] = answer(b"here")
    page = await fetched(web.url("/1"))
    assert page.body == b"here"
    assert page.redirects == [web.url("/2"), web.url("/3?x"), web.url("/4")]
    assert page.target.url == web.url("/4")


async def test_not_without_end(web: WebServer) -> None:
    """Five redirects are followed."""
    web.answers |= {f"/{number}": redirect(f"/{number + 1}") for number in range(6)}
    web.answers["/6"] = answer(b"six")
    assert (await fetched(web.url("/1"))).body == b"six"
    with pytest.raises(ToolError, match="more than 5 redirects; the last one leads to /6"):
        await fetched(web.url("/0"))


@pytest.mark.parametrize(
    "location", ["http://10.0.0.1/", "http://169.254.169.254/latest/meta-data", "http://inside/"]
)
async def test_a_redirect_to_where_nothing_is_fetched_from(
    web: WebServer, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each redirect is checked like the first URL."""
    Names(monkeypatch, inside=["192.168.1.1"])
    web.answers["/"] = redirect(location)
    with pytest.raises(ToolError, match="is not on the public internet; nothing is fetched from there"):
        await fetched(web.url())


async def test_a_redirect_that_leads_nowhere(web: WebServer) -> None:
    """A redirect to an invalid URL is an error; one without a location is a page."""
    web.answers["/"] = redirect("file:///etc/passwd")
    with pytest.raises(ToolError, match="redirects to a URL that is not fetched: only http"):
        await fetched(web.url())
    web.answers["/page"] = answer(b"choose", status=302)
    assert (await fetched(web.url("/page"))).body == b"choose"


async def test_nothing_private(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default no connection to this machine is made."""
    Names(monkeypatch, example=["127.0.0.1"])
    for host in ("127.0.0.1", "example"):
        with pytest.raises(ToolError, match="is not on the public internet"):
            await fetch(parse_url(web.url(host=host)), public, httpcore2.default_ssl_context())
    assert web.requests == []


async def test_no_proxy(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is not used: it could reach what the tool must not."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    web.answers["/"] = answer(b"direct")
    assert (await fetched(web.url())).body == b"direct"


@pytest.mark.parametrize("length", [MAX_WEB_BODY_BYTES, MAX_WEB_BODY_BYTES + 1, 5 * MAX_WEB_BODY_BYTES])
async def test_no_more_is_read_than_is_wanted(web: WebServer, length: int) -> None:
    """The body is cut at its limit, declared or not, and marked as truncated."""
    web.answers["/declared"] = answer(b"x" * length)

    async def endless(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n" + b"x" * length)

    web.answers["/undeclared"] = endless
    for path in ("/declared", "/undeclared"):
        page = await fetched(web.url(path))
        assert page.body == b"x" * min(length, MAX_WEB_BODY_BYTES)
        assert page.truncated is (length > MAX_WEB_BODY_BYTES)


async def test_a_body_without_end(web: WebServer) -> None:
    """The connection to an endless body is closed."""
    remaining = trio.Event()

    async def endless(stream: trio.abc.Stream) -> None:
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        try:
            while True:
                await stream.send_all(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        finally:
            remaining.set()

    web.answers["/"] = endless
    assert (await fetched(web.url())).truncated
    with trio.fail_after(10):
        await remaining.wait()


@pytest.mark.parametrize(
    "kind",
    [
        "text/html",
        "text/plain; charset=utf-8",
        "application/json",
        "application/ld+json",
        "image/svg+xml",
        "TEXT/CSV",
        "",
    ],
)
async def test_kinds_that_are_read(web: WebServer, kind: str) -> None:
    """Text, JSON and XML are read, also without a declared type."""
    web.answers["/"] = answer(b"<x/>", kind)
    assert (await fetched(web.url())).body == b"<x/>"


@pytest.mark.parametrize(
    ("kind", "body", "cause"),
    [
        ("image/png", b"x", "is image/png; only text, JSON and XML"),
        ("application/octet-stream", b"x", "is application/octet-stream; only"),
        ("application/pdf; charset=utf-8", b"x", "is application/pdf; only"),
        ("", b"\x7fELF\0", "is not text"),
    ],
)
async def test_kinds_that_are_not(web: WebServer, kind: str, body: bytes, cause: str) -> None:
    """Other types are refused by name."""
    web.answers["/"] = answer(body, kind)
    with pytest.raises(ToolError, match=cause):
        await fetched(web.url())


async def test_what_is_packed_is_not_unpacked(web: WebServer) -> None:
    """A compressed body is refused: it was not requested, and may expand."""
    web.answers["/"] = answer(b"\x1f\x8b", content_encoding="gzip")
    with pytest.raises(ToolError, match="answers in the encoding gzip, though identity was requested"):
        await fetched(web.url())
    web.answers["/same"] = answer(b"same", content_encoding="identity")
    assert (await fetched(web.url("/same"))).body == b"same"


@pytest.mark.parametrize(
    ("bytes_", "cause"),
    [
        (b"", "Server disconnected"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "illegal status line"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\ncontent-type: text/plain\r\n\r\nshort", "peer closed"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 200_000, "."),
    ],
)
async def test_servers_that_make_no_sense(web: WebServer, bytes_: bytes, cause: str) -> None:
    """Protocol errors are reported with their reason."""
    web.answers["/"] = bytes_
    with pytest.raises(ToolError, match=f"127.0.0.1 could not be fetched from: .*{cause}"):
        await fetched(web.url())


async def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name and a refused connection are reported."""
    Names(monkeypatch)
    with pytest.raises(
        ToolError, match="nobody could not be fetched from: nobody: Name or service not known"
    ):
        await fetched("http://nobody/")
    with pytest.raises(ToolError, match=r"attempts to connect to 127\.0\.0\.1:1 failed"):
        await fetched("http://127.0.0.1:1/")


async def test_a_server_that_takes_its_time(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole fetch has one time limit."""
    monkeypatch.setattr(fetching, "MAX_FETCH_SECONDS", 0.2)

    async def slow(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
        await trio.sleep_forever()

    web.answers["/"] = slow
    with pytest.raises(ToolError, match=r"127\.0\.0\.1 took longer than 0.2 s"):
        await fetched(web.url())


async def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate is verified by its issuer and name; a downgrade is noted."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("example").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    Names(monkeypatch, example=["127.0.0.1"], other=["127.0.0.1"])
    async with web_server(context) as web, web_server() as plain:
        web.answers["/"] = answer(b"secret")
        web.answers["/down"] = redirect(plain.url("/"))
        plain.answers["/"] = answer(b"plain")
        with pytest.raises(ToolError, match="certificate verify failed"):
            await fetched(web.url(host="example"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        trusting = httpcore2.default_ssl_context()
        assert (await fetched(web.url(host="example"), trusting)).body == b"secret"
        with pytest.raises(ToolError, match="ostname mismatch"):
            await fetched(web.url(host="other"), trusting)
        page = await fetched(web.url("/down", host="example"), trusting)
        assert (page.body, page.downgraded) == (b"plain", True)


# Connections.


async def listening(nursery: trio.Nursery, host: str = "127.0.0.1") -> int:
    """Provide the port of a server that greets."""

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(stream.socket.getsockname()[0].encode())

    [listener] = await trio.open_tcp_listeners(0, host=host)
    nursery.start_soon(trio.serve_listeners, greet, [listener])
    port: int = listener.socket.getsockname()[1]
    return port


async def greeting(backend: PinnedBackend, host: str, port: int) -> bytes:
    """Return the greeting of the server that a connection leads to."""
    stream = await backend.connect_tcp(host, port)
    try:
        return await stream.read(100)
    finally:
        await stream.aclose()


async def test_a_name_is_looked_up_once(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is resolved once: the checked address is the connected one."""
    port = await listening(nursery)
    names = Names(monkeypatch, example=["127.0.0.2"])
    checked: list[str] = []

    def allowed(address: Address, port: int) -> bool:
        checked.append(str(address))
        names.answers["example"] = ["127.0.0.1"]
        return True

    with pytest.raises(httpcore2.ConnectError):
        await greeting(PinnedBackend(allowed), "example", port)
    assert (checked, names.queries) == (["127.0.0.2"], ["example"])
    assert await greeting(PinnedBackend(allowed), "example", port) == b"127.0.0.1"


@pytest.mark.parametrize(
    "answers", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["8.8.8.8", "::1"], ["10.0.0.1", "8.8.8.8"]]
)
async def test_one_forbidden_address_is_enough(answers: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One forbidden address of a name forbids all."""
    Names(monkeypatch, example=answers)
    with pytest.raises(AddressForbidden, match=r"^example is .*, which is not on the public internet$"):
        await PinnedBackend(public).connect_tcp("example", 1)


async def test_an_address_is_looked_at_like_a_name() -> None:
    """An address in the system's own notation is checked, too."""
    with pytest.raises(AddressForbidden, match=r"^127\.0\.0\.1 is not on the public internet$"):
        await PinnedBackend(public).connect_tcp("127.0.0.1", 1)
    for host in ("0177.0.0.1", "127.1", "::ffff:127.0.0.1"):
        with pytest.raises(AddressForbidden, match="127"):
            await PinnedBackend(public).connect_tcp(host, 1)


async def test_the_next_address_is_tried(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """If one address refuses, the next is tried, with both families in turn."""
    port = await listening(nursery)
    Names(monkeypatch, example=["::1", "127.0.0.9", "127.0.0.8", "127.0.0.1"])
    assert await greeting(PinnedBackend(loopback), "example", port) == b"127.0.0.1"


async def test_not_all_of_many_are_tried(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a few of a hundred addresses are tried."""
    port = await listening(nursery)
    many = [f"127.0.1.{number}" for number in range(1, 100)]
    Names(monkeypatch, example=[*many, "127.0.0.1"])
    with pytest.raises(httpcore2.ConnectError):
        await PinnedBackend(loopback).connect_tcp("example", port)


async def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name is reported."""
    Names(monkeypatch, empty=[])
    with pytest.raises(httpcore2.ConnectError, match="nobody: Name or service not known"):
        await PinnedBackend(public).connect_tcp("nobody", 1)
    with pytest.raises(httpcore2.ConnectError, match="empty has no address"):
        await PinnedBackend(public).connect_tcp("empty", 1)
