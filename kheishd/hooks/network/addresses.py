"""Addresses that are on the public internet.

The check is an allowlist of what is public, not a list of what is private. The standard library's
``is_global`` is used as well, but alone it accepts multicast, and its answer for the special blocks changed
between versions.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

# IANA's special-purpose registries: no address there is a public server.
_SPECIAL_V4 = [
    IPv4Network(block)
    for block in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
]

# All addresses that are assigned to networks, and the special ones among them: documentation, 6to4 …
_ASSIGNED_V6 = IPv6Network("2000::/3")
_SPECIAL_V6 = [ip_network(block) for block in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]

# Blocks that embed an IPv4 address in their last 32 bits: that address counts. The second one is what name
# servers answer with in networks that have no IPv4.
_V4_IN_V6 = [IPv6Network(block) for block in ("::ffff:0:0/96", "64:ff9b::/96")]


def address_of(host: str) -> Address | None:
    """Return the address that a host is, whatever name servers say; None for a name that is resolved.

    Source: RFC 6761, section 6.3, for ``localhost`` and the names below it.
    """
    if host == "localhost" or host.endswith(".localhost"):
        return IPv4Address("127.0.0.1")
    try:
        return ip_address(host)
    except ValueError:
        return None


def extract_v4(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address embeds, else the address itself."""
    if isinstance(address, IPv6Address) and any(address in block for block in _V4_IN_V6):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet."""
    address = extract_v4(address)
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in block for block in _SPECIAL_V4)
    return (
        address.is_global and address in _ASSIGNED_V6 and not any(address in block for block in _SPECIAL_V6)
    )
