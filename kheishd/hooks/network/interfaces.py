"""The addresses of this machine's own interfaces: also a public one leads to its own services."""

import re
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from kheishd.hooks.network.addresses import Address, extract_v4, is_public
from protocol.limits.units import MIB

PROC_NET: Final = Path("/proc/net")
# A table of routes has some kilobytes; that of a router may have megabytes.
MAX_TABLE_BYTES: Final = 16 * MIB

# An entry of the table of routes: an address, and on a later line that it is the machine's own.
_LOCAL_V4: Final = re.compile(rb"\|-- ([0-9.]+)\n(?:\s+/\d+ .*\n)*?\s+/32 host LOCAL")


def is_foreign_and_public(address: Address) -> bool:
    """Whether an address is on the public internet, and not one of this machine."""
    return is_public(address) and extract_v4(address) not in read_own_addresses()


def is_own(address: Address) -> bool:
    """Whether a connection to an address leads to this machine."""
    address = extract_v4(address)
    return address.is_loopback or address.is_unspecified or address in read_own_addresses()


def read_own_addresses(proc_net: Path = PROC_NET) -> frozenset[Address]:
    """Return the addresses of all interfaces now; those of a table that cannot be read are missing.

    Source: ``fib_trie`` and ``if_inet6`` of proc(5).
    """
    own: set[Address] = set()
    with suppress(OSError), (proc_net / "fib_trie").open("rb") as table:
        own |= {IPv4Address(match.decode()) for match in _LOCAL_V4.findall(table.read(MAX_TABLE_BYTES))}
    with suppress(OSError), (proc_net / "if_inet6").open("rb") as table:
        rows = [line.split() for line in table.read(MAX_TABLE_BYTES).splitlines()]
        own |= {IPv6Address(bytes.fromhex(row[0].decode())) for row in rows if row}
    return frozenset(own)
