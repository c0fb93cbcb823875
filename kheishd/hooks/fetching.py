"""Fetching a page: redirects followed, each looked at anew, and no more read than is wanted.

Importing this imports the HTTP library, which takes a while: it is done in a thread, when first needed.
"""

import re
import ssl
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpcore2
import trio

from kheishd.hooks.addresses import Address
from kheishd.hooks.pinned import Backend, Forbidden
from kheishd.hooks.urls import Target, follow
from kheishd.kernel.hook import ToolError
from protocol import __version__
from protocol.limits.web import MAX_WEB_BODY_BYTES, MAX_WEB_REDIRECTS

MAX_SECONDS = 15.0

REDIRECTS = frozenset((301, 302, 303, 307, 308))

# Text, and what is text by another name.
_READABLE = re.compile(r"text/.+|application/(json|xml|javascript|yaml|x-yaml|x-ndjson)|.+/.+\+(json|xml)")

HEADERS: dict[bytes | str, bytes | str] = {
    "user-agent": f"kheish/{__version__}",
    "accept": "text/html, text/plain, application/json, application/xml;q=0.9, text/*;q=0.8, */*;q=0.1",
    # What is not packed cannot be more than it looks.
    "accept-encoding": "identity",
}


@dataclass(frozen=True, slots=True)
class Page:
    """What was fetched. ``truncated``: more was there than was read. ``downgraded``: TLS was given up."""

    target: Target
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    truncated: bool
    redirects: list[str] = field(default_factory=list)
    downgraded: bool = False

    @property
    def content_type(self) -> str:
        """What the server says it is, with its parameters."""
        return header(self.headers, "content-type")


def header(headers: list[tuple[str, str]], name: str) -> str:
    """The first value of a header; empty if there is none."""
    return next((value for each, value in headers if each == name), "")


async def fetch(target: Target, allowed: Callable[[Address], bool], secure: ssl.SSLContext) -> Page:
    """Fetch a page from where it is allowed to. Errors: ToolError."""
    with trio.move_on_after(MAX_SECONDS):
        try:
            return await _fetch(target, allowed, secure)
        except Forbidden as forbidden:
            raise ToolError(f"{forbidden}; nothing is fetched from there") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
            raise ToolError(f"{target.host} could not be fetched from: {_told(error)}") from None
    raise ToolError(f"{target.host} took longer than {MAX_SECONDS:g} s")


async def _fetch(target: Target, allowed: Callable[[Address], bool], secure: ssl.SSLContext) -> Page:
    redirects: list[str] = []
    downgraded = False
    async with httpcore2.AsyncConnectionPool(
        ssl_context=secure, network_backend=Backend(allowed), max_keepalive_connections=0
    ) as pool:
        while True:
            async with pool.stream("GET", target.url, headers=_headers(target)) as response:
                headers = _decoded(response)
                location = header(headers, "location")
                if response.status not in REDIRECTS or not location:
                    body, truncated = await _read(response, headers, target)
                    return Page(target, response.status, headers, body, truncated, redirects, downgraded)
            if len(redirects) == MAX_WEB_REDIRECTS:
                raise ToolError(f"more than {MAX_WEB_REDIRECTS} redirects; the last one leads to {location}")
            followed = follow(target, location)
            downgraded = downgraded or (target.secure and not followed.secure)
            target = followed
            redirects.append(target.url)


def _headers(target: Target) -> dict[bytes | str, bytes | str]:
    return {"host": urlsplit(target.url).netloc, **HEADERS}


def _decoded(response: httpcore2.Response) -> list[tuple[str, str]]:
    return [
        (name.decode("latin-1").lower(), value.decode(errors="replace")) for name, value in response.headers
    ]


async def _read(
    response: httpcore2.Response, headers: list[tuple[str, str]], target: Target
) -> tuple[bytes, bool]:
    """The body as far as it is wanted, and whether there is more. Errors: ToolError for what is no text."""
    packed = header(headers, "content-encoding") or "identity"
    if packed != "identity":
        raise ToolError(f"{target.host} answers with {packed}, though it was asked for what is not packed")
    kind = header(headers, "content-type").partition(";")[0].strip().lower()
    if kind and not _READABLE.fullmatch(kind):
        raise ToolError(f"{target.url} is {kind}; only text, JSON and XML can be read")
    body = bytearray()
    async with aclosing(response.aiter_stream()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > MAX_WEB_BODY_BYTES:
                break
    if not kind and b"\0" in body:
        raise ToolError(f"{target.url} is no text; only text, JSON and XML can be read")
    return bytes(body[:MAX_WEB_BODY_BYTES]), len(body) > MAX_WEB_BODY_BYTES


def _told(error: BaseException) -> str:
    """What an error says, or the one behind it that says something: a certificate's, for one."""
    cause: BaseException | None = error
    while cause is not None:
        if str(cause):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
