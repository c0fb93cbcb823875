"""Destinations of connections: a host and a port in one notation, so that two texts for one host are equal.

Rules compare text. So a host is parsed so strictly that no program can understand it differently: names in
lower case, in ASCII and without a trailing dot, addresses in their canonical notation only.
"""

import re
from ipaddress import IPv4Address, IPv6Address

from kheishd.kernel.hook import ToolError
from protocol.limits.network import MAX_HOST_BYTES
from protocol.structs import Value

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")

DEFAULT_PORT = 443


class Destination(Value, frozen=True):
    """A host, which is a name or an address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def subject(self) -> str:
        """The subject that permission rules match."""
        return f"net:{self}"


def parse_destination(text: str, default_port: int | None = DEFAULT_PORT) -> Destination:
    """Parse ``HOST`` or ``HOST:PORT``; an IPv6 address has brackets. Errors: ToolError."""
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, "" if default_port is None else str(default_port)
    if not _PORT.fullmatch(port) or int(port) > 65_535:
        raise ToolError(f"'{text}' is not a host and a port, such as example.org:443")
    if host.startswith("[") and host.endswith("]"):
        return Destination(parse_address(host[1:-1]), int(port))
    return Destination(parse_name(host), int(port))


def parse_name(host: str) -> str:
    """Return the canonical form of a host name or an IPv4 address. Errors: ToolError."""
    try:
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        raise ToolError(f"'{host}' is not a host name") from None
    if len(name) > MAX_HOST_BYTES or not _NAME.fullmatch(name):
        raise ToolError(f"'{host}' is not a host name")
    if not _NUMBER.fullmatch(name.rpartition(".")[2]):
        return name
    # A name that ends in a number is an address to the resolver, in any notation: one notation is accepted.
    try:
        return str(IPv4Address(host.encode("idna").decode("ascii")))
    except ValueError:
        raise ToolError(f"'{host}' is not an address; write it as four decimal numbers") from None


def parse_address(host: str) -> str:
    """Return the canonical form of an IPv6 address; an IPv4 address if it is one. Errors: ToolError."""
    try:
        address = IPv6Address(host)
    except ValueError:
        raise ToolError(f"'{host}' is not an address") from None
    if address.scope_id is not None:
        raise ToolError("an address with a zone is not on the internet")
    return str(address.ipv4_mapped or address)
