"""The HTTP client for providers: a pool of connections to one server, direct or through a proxy.

Import this module in a thread, at first use, because loading the parser takes a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from kheishd.providers.address import split_socket
from kheishd.providers.http_errors import UnsendableRequest
from kheishd.providers.http_pool import ConnectionPool, ServerAddress
from kheishd.providers.proxies import PORTS, find_proxy

if TYPE_CHECKING:
    from kheishd.providers.driver import HttpRequest, SendObserver


class HttpReply(Protocol):
    """The reply to one request: its status and headers, then its body, one network read at a time."""

    status: int
    headers: dict[str, str]

    @property
    def ended(self) -> bool:
        """Whether the body was read to its end."""
        ...

    def take(self) -> bytes:
        """Return received bytes that need no waiting; empty if there are none, or none are known."""
        ...

    async def read(self) -> bytes:
        """Return the received bytes, waiting if there are none; empty at the end.

        Errors: ConnectionBroken; bytes received before an error are returned first.
        """
        ...

    async def aclose(self) -> None:
        """Close the body; the connection is reused if the body was read completely."""
        ...


class Pool(Protocol):
    """A pool of connections to one server."""

    async def send(self, post: HttpRequest, sending: SendObserver | None = None) -> HttpReply:
        """Send a request and wait for the head of its answer.

        Errors: UnsendableRequest, ConnectTimeout, ConnectFailed, ConnectionBroken.
        """
        ...

    async def aclose(self) -> None:
        """Close the idle connections."""
        ...


def make_pool(base_url: str, max_connections: int, ca_file: str | None = None) -> Pool:
    """Return a pool of connections to one URL, through the environment's proxy, if any.

    Errors: UnsendableRequest if the URL, that of the proxy, or the file of authorities is unusable.
    """
    socket, base_url = split_socket(base_url)
    try:
        url = urlsplit(base_url)
        port, _ = url.port, base_url.encode("ascii")
        # The resolver of names raises no OSError for an empty label or one that is too long.
        (url.hostname or "").encode("idna")
    except ValueError as error:
        raise UnsendableRequest(f"not a URL: {error}") from None
    if url.scheme not in PORTS:
        raise UnsendableRequest(f"the URL does not begin with http:// or https:// but with '{url.scheme}'")
    if not url.hostname:
        raise UnsendableRequest("a URL without host")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    authority = host if port is None else f"{host}:{port}"
    tls = None
    if url.scheme == "https":
        # Loading the system's authorities takes a while, and few daemons use a proxy.
        from kheishd.providers.certificates import make_tls_context

        tls = make_tls_context(ca_file)
        tls.set_alpn_protocols(["http/1.1"])
    proxy = find_proxy(url) if socket is None else None
    if proxy is not None:
        from kheishd.providers.http_proxy import ProxyPool

        return ProxyPool(proxy, authority, max_connections, tls)
    address = ServerAddress(url.hostname, PORTS[url.scheme] if port is None else port, authority, socket)
    return ConnectionPool(address, max_connections, tls)
