"""URLs that may be fetched, read so that nobody can read them otherwise.

What is not plain is refused: a host that one program takes for a name and another for an address is how a
check is made to look at one thing while another is fetched.
"""

import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, urljoin, urlsplit

from msgspec import Struct

from kheishd.kernel.hook import ToolError
from protocol.limits.web import MAX_URL_BYTES

# Blanks and control characters are dropped by some and not by others, and a backslash is a slash to some.
_UNCLEAR = re.compile(r"[\x00-\x20\x7f\\]")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_SAFE = "/%:@!$&'()*+,;=?~"


class Target(Struct, frozen=True):
    """What to fetch: the URL in ASCII without its fragment, and its host: a name or an address, small."""

    url: str
    host: str
    secure: bool


def read(text: str) -> Target:
    """The target that an URL names. Errors: ToolError, which says what to write instead."""
    text = text.strip()
    if len(text.encode(errors="replace")) > MAX_URL_BYTES:
        raise ToolError(f"an URL may have {MAX_URL_BYTES} bytes")
    if _UNCLEAR.search(text):
        raise ToolError(
            "an URL has no blanks, control characters or backslashes; write them as %20 and so on"
        )
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ToolError(f"that is no URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise ToolError("only http:// and https:// can be fetched")
    if "@" in parts.netloc:
        raise ToolError("an URL is no place for a user or a password; leave them out")
    # Brackets are for addresses; older versions of the parser take anything in them.
    host = _checked_v6(host) if "[" in parts.netloc else _host(host)
    place = f"[{host}]" if ":" in host else host
    place += "" if port is None else f":{port}"
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    url = f"{parts.scheme}://{place}{quote(parts.path, safe=_SAFE) or '/'}{query}"
    return Target(url, host, parts.scheme == "https")


def follow(target: Target, location: str) -> Target:
    """The target that a redirect leads to. Errors: ToolError."""
    try:
        return read(urljoin(target.url, location.strip()))
    except ToolError as error:
        raise ToolError(f"{target.url} leads to where nothing is fetched from: {error}") from None
    except ValueError:
        raise ToolError(f"{target.url} leads to what is no URL") from None


def _host(host: str) -> str:
    try:
        name = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise ToolError(f"'{host}' is no name of a host") from None
    if not _NAME.fullmatch(name):
        raise ToolError(f"'{host}' is no name of a host")
    if _NUMBER.fullmatch(name.rstrip(".").rpartition(".")[2]):
        return _checked_v4(name)
    return name


def _checked_v6(host: str) -> str:
    try:
        address = IPv6Address(host)
    except ValueError:
        raise ToolError(f"'{host}' is no address") from None
    if address.scope_id is not None:
        raise ToolError("an address with a zone is not on the internet")
    return str(address)


def _checked_v4(host: str) -> str:
    """A name that ends in a number is an address to whoever connects, in whatever notation: one is taken."""
    try:
        return str(IPv4Address(host))
    except ValueError:
        raise ToolError(f"'{host}' is no address; write it as four decimal numbers") from None
