"""Fetch a page: follow redirects, each validated like the first URL, and limit the size.

Connections go only to addresses that were checked (see ``network.connector``).

Importing this imports the HTTP library, which takes long: a thread does it, when it is first needed.
"""

import re
import ssl
from collections.abc import Callable, Iterable
from contextlib import aclosing
from urllib.parse import urlsplit

import httpcore2
import trio
from msgspec import field

from kheishd.hooks.network.addresses import Address
from kheishd.hooks.network.connector import MAX_ATTEMPT_SECONDS, AddressForbidden, Connector, HostUnknown
from kheishd.hooks.web.urls import Target, follow_redirect
from kheishd.kernel.hook import ToolError
from protocol import __version__
from protocol.limits.web import MAX_WEB_BODY_BYTES, MAX_WEB_REDIRECTS
from protocol.structs import Value

MAX_FETCH_SECONDS = 15.0

REDIRECTS = frozenset((301, 302, 303, 307, 308))

# Text, and formats that are text.
_READABLE = re.compile(r"text/.+|application/(json|xml|javascript|yaml|x-yaml|x-ndjson)|.+/.+\+(json|xml)")

HEADERS: dict[bytes | str, bytes | str] = {
    "user-agent": f"kheish/{__version__}",
    "accept": "text/html, text/plain, application/json, application/xml;q=0.9, text/*;q=0.8, */*;q=0.1",
    # An uncompressed body cannot expand beyond its size.
    "accept-encoding": "identity",
}


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """A network backend that connects to allowed addresses only."""

    def __init__(self, allowed: Callable[[Address, int], bool]) -> None:
        self._connector = Connector(allowed)
        self._inner = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's own signature.
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to a host if all of its addresses are allowed. Errors: AddressForbidden, ConnectError."""
        try:
            addresses = await self._connector.resolve(host, port)
        except HostUnknown as error:
            raise httpcore2.ConnectError(str(error)) from None
        problem: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._inner.connect_tcp(
                    str(address), port, MAX_ATTEMPT_SECONDS, local_address, socket_options or ()
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                problem = error
        raise problem


class FetchedPage(Value, frozen=True):
    """A fetched page. ``truncated``: the body was longer. ``downgraded``: a redirect led from TLS to none."""

    target: Target
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    truncated: bool
    redirects: list[str] = field(default_factory=list)
    downgraded: bool = False

    @property
    def content_type(self) -> str:
        """The content type that the server declares, with its parameters."""
        return _header(self.headers, "content-type")


def _header(headers: list[tuple[str, str]], name: str) -> str:
    """Return the first value of a header; empty if there is none."""
    return next((value for key, value in headers if key == name), "")


async def fetch(
    target: Target,
    allowed: Callable[[Address, int], bool],
    secure: ssl.SSLContext,
    admit: Callable[[Target], None] = lambda target: None,
) -> FetchedPage:
    """Fetch a page from an allowed address and port.

    Args:   ``admit`` raises ToolError for a target to which no redirect may lead.
    Errors: ToolError.
    """
    with trio.move_on_after(MAX_FETCH_SECONDS):
        try:
            return await _fetch(target, allowed, secure, admit)
        except AddressForbidden as forbidden:
            raise ToolError(f"{forbidden}; nothing is fetched from there") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
            raise ToolError(f"{target.host} could not be fetched from: {_describe(error)}") from None
    raise ToolError(f"{target.host} took longer than {MAX_FETCH_SECONDS:g} s")


async def _fetch(
    target: Target,
    allowed: Callable[[Address, int], bool],
    secure: ssl.SSLContext,
    admit: Callable[[Target], None],
) -> FetchedPage:
    redirects: list[str] = []
    downgraded = False
    async with httpcore2.AsyncConnectionPool(
        ssl_context=secure, network_backend=PinnedBackend(allowed), max_keepalive_connections=0
    ) as pool:
        while True:
            request_headers = {"host": urlsplit(target.url).netloc, **HEADERS}
            async with pool.stream("GET", target.url, headers=request_headers) as response:
                headers = [
                    (name.decode("latin-1").lower(), value.decode(errors="replace"))
                    for name, value in response.headers
                ]
                location = _header(headers, "location")
                if response.status not in REDIRECTS or not location:
                    body, truncated = await _read_body(response, headers, target)
                    return FetchedPage(
                        target, response.status, headers, body, truncated, redirects, downgraded
                    )
            if len(redirects) == MAX_WEB_REDIRECTS:
                raise ToolError(f"more than {MAX_WEB_REDIRECTS} redirects; the last one leads to {location}")
            followed = follow_redirect(target, location)
            admit(followed)
            downgraded = downgraded or (target.secure and not followed.secure)
            target = followed
            redirects.append(target.url)


async def _read_body(
    response: httpcore2.Response, headers: list[tuple[str, str]], target: Target
) -> tuple[bytes, bool]:
    """Return the body up to the limit, and whether there is more. Errors: ToolError if it is not text."""
    encoding = _header(headers, "content-encoding") or "identity"
    if encoding != "identity":
        raise ToolError(f"{target.host} answers in the encoding {encoding}, though identity was requested")
    kind = _header(headers, "content-type").partition(";")[0].strip().lower()
    if kind and not _READABLE.fullmatch(kind):
        raise ToolError(f"{target.url} is {kind}; only text, JSON and XML can be read")
    body = bytearray()
    async with aclosing(response.aiter_stream()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > MAX_WEB_BODY_BYTES:
                break
    if not kind and b"\0" in body:
        raise ToolError(f"{target.url} is not text; only text, JSON and XML can be read")
    return bytes(body[:MAX_WEB_BODY_BYTES]), len(body) > MAX_WEB_BODY_BYTES


def _describe(error: BaseException) -> str:
    """Return the message of an error, or of its nearest cause that has one, such as a certificate's."""
    cause: BaseException | None = error
    while cause is not None:
        if str(cause):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
