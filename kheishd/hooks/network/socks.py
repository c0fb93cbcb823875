"""SOCKS 5, without authentication: the command CONNECT, for names and addresses.

Source: RFC 1928.
"""

from __future__ import annotations

import errno
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from kheishd.hooks.network.connector import HostUnknown
from kheishd.hooks.network.destination import Destination, parse_address, parse_name
from kheishd.hooks.network.gate import Refused
from kheishd.hooks.network.relay import relay
from kheishd.kernel.hook import ToolError

if TYPE_CHECKING:
    from kheishd.hooks.network.gate import Gate
    from kheishd.hooks.network.relay import Incoming

VERSION: Final = 5
NO_AUTHENTICATION: Final = 0
NO_ACCEPTABLE_METHOD: Final = 0xFF
CONNECT: Final = 1
V4, NAME, V6 = 1, 3, 4

SUCCEEDED: Final = 0
FAILED: Final = 1
NOT_ALLOWED: Final = 2
HOST_UNREACHABLE: Final = 4
REFUSED: Final = 5
COMMAND_UNKNOWN: Final = 7
ADDRESS_UNKNOWN: Final = 8


class _Rejected(Exception):
    """A request that is answered with an error code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


async def read_request(incoming: Incoming) -> Destination | None:
    """Read a greeting and a request; None if it was rejected. Errors: EndOfStream."""
    _, count = await incoming.read_exactly(2)
    if NO_AUTHENTICATION not in await incoming.read_exactly(count):
        await incoming.finish(bytes((VERSION, NO_ACCEPTABLE_METHOD)))
        return None
    await incoming.stream.send_all(bytes((VERSION, NO_AUTHENTICATION)))
    try:
        return await read_destination(incoming)
    except _Rejected as rejected:
        await incoming.finish(_reply(rejected.code))
        return None


async def serve_socks(incoming: Incoming, destination: Destination, gate: Gate) -> None:
    """Connect to the destination of a request, and relay."""
    try:
        outgoing = await gate.connect(destination)
    except Refused:
        await incoming.finish(_reply(NOT_ALLOWED))
    except HostUnknown:
        await incoming.finish(_reply(HOST_UNREACHABLE))
    except OSError as error:
        code = REFUSED if error.errno == errno.ECONNREFUSED else HOST_UNREACHABLE
        await incoming.finish(_reply(code))
    else:
        async with outgoing:
            await incoming.stream.send_all(_reply(SUCCEEDED))
            await relay(incoming, outgoing)


async def read_destination(incoming: Incoming) -> Destination:
    """Read the request proper. Errors: _Rejected, EndOfStream."""
    version, command, _, kind = await incoming.read_exactly(4)
    if version != VERSION:
        raise _Rejected(FAILED)
    if kind == NAME:
        [size] = await incoming.read_exactly(1)
        host = (await incoming.read_exactly(size)).decode("latin-1")
    elif kind in (V4, V6):
        packed = await incoming.read_exactly(4 if kind == V4 else 16)
        host = str(IPv4Address(packed) if kind == V4 else IPv6Address(packed))
    else:
        raise _Rejected(ADDRESS_UNKNOWN)
    port = int.from_bytes(await incoming.read_exactly(2), "big")
    if command != CONNECT:
        raise _Rejected(COMMAND_UNKNOWN)
    try:
        host = parse_address(host) if ":" in host else parse_name(host)
    except ToolError:
        raise _Rejected(ADDRESS_UNKNOWN) from None
    if port == 0:
        raise _Rejected(ADDRESS_UNKNOWN)
    return Destination(host, port)


def _reply(code: int) -> bytes:
    """Return a reply; the bound address, which no client needs, is zero."""
    return bytes((VERSION, code, 0, V4, 0, 0, 0, 0, 0, 0))
