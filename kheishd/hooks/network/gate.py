"""The gate of one command: decides about each connection, makes it, and counts it.

The rules judge the destination as the command named it, and then each address of it. An address that is not
on the public internet, or is this machine's own, is closed unless a rule names exactly that address: so no
owner of a name can lead a command to a service of this machine. ``localhost`` has no owner, so a rule for
exactly that name opens its loopback addresses, too. The daemon's own ports are always closed.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from kheishd.core.permissions.claims import Claim
from kheishd.hooks.network.addresses import extract_v4
from kheishd.hooks.network.connector import COMMAND_RESOLVER_THREADS, AddressForbidden, Connector
from kheishd.hooks.network.destination import Destination
from kheishd.hooks.network.interfaces import is_foreign_and_public, is_own
from protocol.limits.network import MAX_COMMAND_ATTEMPTS, MAX_LISTED_HOSTS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from kheishd.core.permissions.judge import Ruling
    from kheishd.hooks.network.addresses import Address

# The resolver of the system and four attempts to connect.
MAX_CONNECT_SECONDS: Final = 45.0

# A program that tries again and again costs the daemon a judgement each time: after some refusals, it waits.
MAX_FAST_REFUSALS: Final = 64
REFUSAL_SECONDS: Final = 0.1

REMEDY: Final = "name it in the argument 'network' of the call, so that a rule or a person can allow it"
CLOSED: Final = "it is not on the public internet, and only a rule for exactly {subject} opens it"
OWN: Final = "it is a port of the daemon itself"


class Refused(Exception):
    """A connection that the command may not make; the message is for its output."""


class Gate:
    """The gate of one command.

    ``judge`` judges a destination by the current rules; ``own_ports`` are the TCP ports of the daemon.
    ``connected`` and ``refused`` count connections by destination; ``closed`` are the addresses of those that
    no person is asked about. ``is_served``: the command has a port that leads here.
    """

    def __init__(self, judge: Callable[[Claim], Ruling], own_ports: Collection[int] = ()) -> None:
        self._judge = judge
        self._own_ports = own_ports
        self._attempts = trio.Semaphore(MAX_COMMAND_ATTEMPTS)
        self._refusals = 0
        self.is_served = False
        self.connected: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self.closed: dict[str, str] = {}

    async def connect(self, destination: Destination) -> trio.SocketStream:
        """Connect to a destination. Errors: Refused, HostUnknown, OSError."""
        ruling = self._judge_host(destination)
        if ruling.decision != "allow":
            denied = ruling.note or ruling.why if ruling.decision == "deny" else "no rule allows it"
            await self._refuse(destination, f"{denied}; {REMEDY}")
        connector = Connector(partial(self._is_allowed, destination), COMMAND_RESOLVER_THREADS)
        try:
            async with self._attempts:
                with trio.fail_after(MAX_CONNECT_SECONDS):
                    stream = await connector.connect(destination.host, destination.port)
        except AddressForbidden as forbidden:
            address = Destination(str(forbidden.address), destination.port)
            closed = self._is_own_port(forbidden.address, destination.port)
            subject = address.subject
            if _is_loopback_by_name(destination, forbidden.address):
                subject = f"{destination.subject} or {subject}"
            cause = OWN if closed else CLOSED.format(subject=subject)
            ruling = self._judge_host(Destination(str(extract_v4(forbidden.address)), destination.port))
            if ruling.base == "deny":
                cause = ruling.note or ruling.why
            elif len(self.closed) < MAX_LISTED_HOSTS:
                self.closed[str(destination)] = str(address)
            await self._refuse(destination, cause if address == destination else f"it is {address}: {cause}")
        except trio.TooSlowError:
            raise TimeoutError(errno.ETIMEDOUT, "no answer in time") from None
        _count(self.connected, str(destination))
        return stream

    async def _refuse(self, destination: Destination, cause: str) -> None:
        """Count a refusal, and raise it. Errors: Refused."""
        _count(self.refused, str(destination))
        self._refusals += 1
        if self._refusals > MAX_FAST_REFUSALS:
            await trio.sleep(REFUSAL_SECONDS)
        raise Refused(f"kheish: this command may not connect to {destination}: {cause}")

    def _judge_host(self, destination: Destination) -> Ruling:
        return self._judge(Claim("network", destination.subject))

    def _is_allowed(self, destination: Destination, address: Address, port: int) -> bool:
        """Whether an address of an allowed destination may be connected to."""
        if self._is_own_port(address, port):
            return False
        # Rules name the address to which the connection leads in the end.
        ruling = self._judge_host(Destination(str(extract_v4(address)), port))
        if ruling.base == "deny":
            return False
        if is_foreign_and_public(address):
            return True
        if _is_loopback_by_name(destination, address):
            ruling = self._judge_host(destination)
        return ruling.decision == "allow" and ruling.exact

    def _is_own_port(self, address: Address, port: int) -> bool:
        return port in self._own_ports and is_own(address)


def _is_loopback_by_name(destination: Destination, address: Address) -> bool:
    """Whether a loopback address was reached by the name that is always this machine."""
    return destination.host == "localhost" and address.is_loopback


def _count(hosts: dict[str, int], host: str) -> None:
    """Count a use of a host; beyond the limit of hosts, all others are counted together."""
    if host not in hosts and len(hosts) >= MAX_LISTED_HOSTS:
        host = "others"
    hosts[host] = hosts.get(host, 0) + 1
