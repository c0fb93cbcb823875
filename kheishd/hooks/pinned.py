"""Connections to addresses that were looked at: what is checked is what is connected to.

A name is looked up once, here, where connections are made. Were it looked up for a check and again to
connect, whoever owns the name could answer differently the second time.

Importing this imports the HTTP library, which takes a while: it is done in a thread, when first needed.
"""

import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from itertools import chain, zip_longest

import httpcore2
import trio

from kheishd.hooks.addresses import Address

# An address that does not answer by then is not waited for while there are others.
MAX_ATTEMPT_SECONDS = 4.0
MAX_ATTEMPTS = 4


class Forbidden(Exception):
    """A host has an address that must not be connected to."""

    def __init__(self, host: str, address: Address) -> None:
        who = f"{host} is {address}, which" if host != str(address) else host
        super().__init__(f"{who} is not on the public internet")


class Backend(httpcore2.AsyncNetworkBackend):
    """Trio's connections, to allowed addresses only."""

    def __init__(self, allowed: Callable[[Address], bool]) -> None:
        self._allowed = allowed
        self._inner = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's own signature.
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to a host if all of its addresses are allowed. Errors: Forbidden, ConnectError."""
        addresses = await _look_up(host, port)
        for address in addresses:
            if not self._allowed(address):
                raise Forbidden(host, address)
        problem: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in _alternating(addresses)[:MAX_ATTEMPTS]:
            try:
                return await self._inner.connect_tcp(
                    str(address), port, MAX_ATTEMPT_SECONDS, local_address, socket_options or ()
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                problem = error
        raise problem


async def _look_up(host: str, port: int) -> list[Address]:
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore2.ConnectError(f"{host}: {error.strerror or error}") from None
    # What an address was given for, such as a zone, is part of the address here: none that has one is public.
    return list(dict.fromkeys(ip_address(place[0]) for *_, place in found))


def _alternating(addresses: list[Address]) -> list[Address]:
    """One of each family in turn: where one does not work, the other may."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.version, []).append(address)
    return [address for address in chain(*zip_longest(*families.values())) if address is not None]
