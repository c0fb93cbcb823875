"""Which addresses are on the public internet: those that anybody may be asked to fetch from.

A list of what is public, not of what is private. The standard library's ``is_global`` is asked as well, but
alone it says yes to multicast, and what it says of the special blocks changed between versions.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address

# The special-purpose registries of IANA: nothing there is somebody's server for everybody.
_SPECIAL_V4 = [
    IPv4Network(block)
    for block in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
]

# All that was ever given out to networks, and what of it is special: protocols, documentation, 6to4.
_GIVEN_OUT_V6 = IPv6Network("2000::/3")
_SPECIAL_V6 = [ip_network(block) for block in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]

# Where an IPv4 address is written as an IPv6 one, in its last 32 bits: what counts is that address. The
# second is what name servers answer with in networks that have no IPv4.
_V4_WITHIN_V6 = [IPv6Network(block) for block in ("::ffff:0:0/96", "64:ff9b::/96")]


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet."""
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in block for block in _SPECIAL_V4)
    if any(address in block for block in _V4_WITHIN_V6):
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return (
        address.is_global and address in _GIVEN_OUT_V6 and not any(address in block for block in _SPECIAL_V6)
    )
