"""Connections to hosts: a name is resolved once, and each of its addresses is checked before any is used.

If a name were resolved for a check and again for the connection, its owner could answer differently the
second time.
"""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

import trio

from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kheishd.hooks.network.addresses import Address

# While there are further addresses, one that does not answer within this time is given up.
MAX_ATTEMPT_SECONDS = 4.0
MAX_ATTEMPTS = 4

# The resolver of the system may take half a minute, and cannot be interrupted. It has threads of its own:
# names without an answer must not delay the daemon's other work, nor those of commands its own fetches.
RESOLVER_THREADS = trio.CapacityLimiter(8)
COMMAND_RESOLVER_THREADS = trio.CapacityLimiter(32)


class AddressForbidden(Exception):
    """A host has an address that must not be connected to."""

    def __init__(self, host: str, address: Address) -> None:
        subject = f"{host} is {address}, which" if host != str(address) else host
        super().__init__(f"{subject} is not on the public internet")
        self.address = address


class HostUnknown(Exception):
    """A name that has no address."""


class Connector(Value, frozen=True):
    """Connections to the hosts whose addresses are ``allowed``, by address and port.

    Names are resolved in ``threads``.
    """

    allowed: Callable[[Address, int], bool]
    threads: trio.CapacityLimiter = RESOLVER_THREADS

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host. Errors: HostUnknown, AddressForbidden."""
        addresses = await resolve(host, port, self.threads)
        for address in addresses:
            if not self.allowed(address, port):
                raise AddressForbidden(host, address)
        return interleave(addresses)[:MAX_ATTEMPTS]

    async def connect(self, host: str, port: int) -> trio.SocketStream:
        """Connect to a host. Errors: HostUnknown, AddressForbidden, OSError."""
        problem: OSError = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
        for address in await self.resolve(host, port):
            try:
                return await _connect(address, port)
            except OSError as error:
                problem = error
        raise problem


async def resolve(host: str, port: int, threads: trio.CapacityLimiter) -> list[Address]:
    """Return the addresses of a host. Errors: HostUnknown."""
    try:
        addresses = await trio.to_thread.run_sync(
            look_up, host, port, abandon_on_cancel=True, limiter=threads
        )
    except (OSError, UnicodeError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        raise HostUnknown(f"{host}: {problem}") from None
    if not addresses:
        raise HostUnknown(f"{host} has no address")
    return addresses


def look_up(host: str, port: int) -> list[Address]:
    """Return the addresses by the system's resolver, which blocks. Errors: OSError, UnicodeError."""
    results = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A zone is part of the address here: no address with one is public.
    return list(dict.fromkeys(ip_address(sockaddr[0]) for *_, sockaddr in results))


def interleave(addresses: Sequence[Address]) -> list[Address]:
    """Return the addresses with the families alternating: if one does not work, the other may."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.version, []).append(address)
    return [address for address in chain(*zip_longest(*families.values())) if address is not None]


async def _connect(address: Address, port: int) -> trio.SocketStream:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    connection = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        with trio.fail_after(MAX_ATTEMPT_SECONDS):
            await connection.connect((str(address), port))
    except trio.TooSlowError:
        connection.close()
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
    except BaseException:
        connection.close()
        raise
    return trio.SocketStream(connection)
