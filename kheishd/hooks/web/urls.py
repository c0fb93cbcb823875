"""URLs and addresses that may be fetched.

A URL is parsed so strictly that no other program can understand it differently: a host that one program takes
for a name and another for an address makes a check look at one host while another is fetched.

Addresses must be on the public internet. The check is an allowlist of what is public, not a list of what is
private. The standard library's ``is_global`` is used as well, but alone it accepts multicast, and its answer
for the special blocks changed between versions.
"""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from urllib.parse import quote, urljoin, urlsplit

from msgspec import Struct

from kheishd.kernel.hook import ToolError
from protocol.limits.web import MAX_URL_BYTES

# Programs differ in which blanks and control characters they drop, and some take a backslash for a slash.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f\\]")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_SAFE = "/%:@!$&'()*+,;=?~"


class Target(Struct, frozen=True):
    """The target of a fetch: the URL in ASCII without its fragment, and its host in lower case."""

    url: str
    host: str
    secure: bool


def parse_url(text: str) -> Target:
    """Parse a URL. Errors: ToolError, which says what to write instead."""
    text = text.strip()
    if len(text.encode(errors="replace")) > MAX_URL_BYTES:
        raise ToolError(f"a URL may have {MAX_URL_BYTES} bytes")
    if _AMBIGUOUS.search(text):
        raise ToolError("a URL has no blanks, control characters or backslashes; write them as %20 and so on")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ToolError(f"that is not a URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise ToolError("only http:// and https:// can be fetched")
    if "@" in parts.netloc:
        raise ToolError("a URL with a user or a password is not fetched; leave them out")
    # Brackets are for addresses; older versions of the parser accept any text in them.
    host = _require_v6(host) if "[" in parts.netloc else _require_host(host)
    authority = f"[{host}]" if ":" in host else host
    authority += "" if port is None else f":{port}"
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    url = f"{parts.scheme}://{authority}{quote(parts.path, safe=_SAFE) or '/'}{query}"
    return Target(url, host, parts.scheme == "https")


def follow_redirect(target: Target, location: str) -> Target:
    """Return the target that a redirect leads to. Errors: ToolError."""
    try:
        return parse_url(urljoin(target.url, location.strip()))
    except ToolError as error:
        raise ToolError(f"{target.url} redirects to a URL that is not fetched: {error}") from None
    except ValueError:
        raise ToolError(f"{target.url} redirects to an invalid URL") from None


def _require_host(host: str) -> str:
    try:
        name = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise ToolError(f"'{host}' is not a host name") from None
    if not _NAME.fullmatch(name):
        raise ToolError(f"'{host}' is not a host name")
    if not _NUMBER.fullmatch(name.rstrip(".").rpartition(".")[2]):
        return name
    # A name that ends in a number is an address to the resolver, in any notation: one notation is accepted.
    try:
        return str(IPv4Address(name))
    except ValueError:
        raise ToolError(f"'{name}' is not an address; write it as four decimal numbers") from None


def _require_v6(host: str) -> str:
    try:
        address = IPv6Address(host)
    except ValueError:
        raise ToolError(f"'{host}' is not an address") from None
    if address.scope_id is not None:
        raise ToolError("an address with a zone is not on the internet")
    return str(address)


# Addresses.

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
