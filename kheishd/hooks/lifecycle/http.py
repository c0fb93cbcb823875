"""Post an event to the server of a hook. Redirects are not followed, and no proxy is used.

Importing this imports the HTTP library, which takes long: a thread does it, when it is first needed.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpcore2

from kheishd.hooks.network.addresses import is_public
from kheishd.hooks.network.connector import AddressForbidden
from kheishd.hooks.web.fetch import PinnedBackend
from protocol import __version__
from protocol.limits.hook import MAX_HOOK_OUTPUT_BYTES
from protocol.structs import Value

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from kheishd.hooks.network.addresses import Address

RETRIED: Final = frozenset((408, 429, 500, 502, 503, 504, 507, 529))
"""The statuses after which a request is sent again, if retries are configured."""


class RequestFailed(Exception):
    """A request without a usable answer. ``retryable``: it may succeed later, after ``retry_after_s``."""

    def __init__(
        self, message: str, *, retryable: bool, status: int | None = None, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.status = status
        self.retry_after_s = retry_after_s


class HookAnswer(Value, frozen=True):
    """The answer of a server."""

    status: int
    body: bytes


def load_tls() -> ssl.SSLContext:
    """Return the settings of TLS, with the system's authorities; this takes a while."""
    return httpcore2.default_ssl_context()


async def post(
    url: str,
    headers: Mapping[str, str],
    content: bytes,
    private_hosts: tuple[str, ...],
    secure: ssl.SSLContext,
) -> HookAnswer:
    """Post an event as JSON; return the answer, whose status is a success. Errors: RequestFailed."""
    parts = urlsplit(url)
    is_private = (parts.hostname or "") in private_hosts

    def is_allowed(address: Address, port: int) -> bool:
        return is_private or is_public(address)

    request_headers: dict[bytes | str, bytes | str] = {
        "host": parts.netloc,
        "user-agent": f"kheish/{__version__}",
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(content)),
    }
    request_headers.update({name: value for name, value in headers.items()})
    try:
        async with (
            httpcore2.AsyncConnectionPool(
                ssl_context=secure, network_backend=PinnedBackend(is_allowed), max_keepalive_connections=0
            ) as pool,
            pool.stream("POST", url, headers=request_headers, content=content) as response,
        ):
            body = bytearray()
            async with aclosing(response.aiter_stream()) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > MAX_HOOK_OUTPUT_BYTES:
                        text = f"the answer is longer than {MAX_HOOK_OUTPUT_BYTES} bytes"
                        raise RequestFailed(text, retryable=False, status=response.status)
            fields = {name.lower(): value for name, value in response.headers}
    except AddressForbidden as forbidden:
        text = f"{forbidden}; list the host in 'private_hosts' if that is meant"
        raise RequestFailed(text, retryable=False) from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
        text = f"no answer from {parts.netloc}: {str(error) or type(error).__name__}"
        raise RequestFailed(text, retryable=True) from None
    if not 200 <= response.status < 300:
        raise RequestFailed(
            f"{parts.netloc} answered with the status {response.status}",
            retryable=response.status in RETRIED,
            status=response.status,
            retry_after_s=_read_seconds(fields.get(b"retry-after", b"")),
        )
    return HookAnswer(response.status, bytes(body))


def _read_seconds(value: bytes) -> float:
    """Return the seconds of a ``Retry-After``; a date is ignored, because it is longer than a hook's time."""
    text = value.strip()
    return float(text) if text.isdigit() and len(text) <= 6 else 0.0
