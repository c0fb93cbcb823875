"""URLs that may be fetched.

A URL is parsed so strictly that no other program can understand it differently: a host that one program takes
for a name and another for an address makes a check look at one host while another is fetched.
"""

import re
from urllib.parse import quote, urljoin, urlsplit

from msgspec import Struct

from kheishd.hooks.network.destination import Destination, parse_address, parse_name
from kheishd.kernel.hook import ToolError
from protocol.limits.web import MAX_URL_BYTES

# Programs differ in which blanks and control characters they drop, and some take a backslash for a slash.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f\\]")
_SAFE = "/%:@!$&'()*+,;=?~"


class Target(Struct, frozen=True):
    """The target of a fetch: the URL in ASCII without its fragment, and its host in lower case."""

    url: str
    host: str
    secure: bool
    port: int

    @property
    def destination(self) -> Destination:
        """The destination of the connection."""
        return Destination(self.host, self.port)


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
    if port == 0:
        raise ToolError("that is not a URL: there is no port 0")
    # Brackets are for addresses; older versions of the parser accept any text in them.
    host = parse_address(host) if "[" in parts.netloc else parse_name(host)
    authority = f"[{host}]" if ":" in host else host
    authority += "" if port is None else f":{port}"
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    url = f"{parts.scheme}://{authority}{quote(parts.path, safe=_SAFE) or '/'}{query}"
    secure = parts.scheme == "https"
    return Target(url, host, secure, port or (443 if secure else 80))


def follow_redirect(target: Target, location: str) -> Target:
    """Return the target that a redirect leads to. Errors: ToolError."""
    try:
        return parse_url(urljoin(target.url, location.strip()))
    except ToolError as error:
        raise ToolError(f"{target.url} redirects to a URL that is not fetched: {error}") from None
    except ValueError:
        raise ToolError(f"{target.url} redirects to an invalid URL") from None
