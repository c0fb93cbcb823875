"""The claims of a call: the call itself, the commands of its line, and the destinations that it connects to.

Each claim is judged by the rules on its own, and the strictest decision counts. The subject of a destination
is ``net:HOST:PORT``. A rule with the subject ``net:HOST`` or ``net:HOST:PORT`` is about destinations only; a
``*`` in it matches any text. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from protocol.structs import Value

if TYPE_CHECKING:
    from protocol.objects.permission import ClaimKind

NETWORK: Final = "net:"
"""The beginning of the subject of a destination."""


class Claim(Value, frozen=True):
    """One thing that a call asks for, as rules match it."""

    kind: ClaimKind
    subject: str


def destination(host: str, port: int) -> Claim:
    """Return the claim to connect to a host: a name, or an address, which may be of IPv6."""
    host = host.lower().removesuffix(".")
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return Claim("network", f"{NETWORK}{host}:{port}")


def host_of(claim: Claim) -> str:
    """Return the host of a destination, without brackets."""
    host, _ = _split(claim.subject)
    return host.removeprefix("[").removesuffix("]")


def matches_destination(pattern: str, subject: str) -> bool:
    """Whether a rule's ``net:HOST[:PORT]`` matches a destination; without a port, it matches any port."""
    host_pattern, port_pattern = _split(pattern.lower())
    host, port = _split(subject)
    return matches_subject(host_pattern, host) and matches_subject(port_pattern, port or "")


def _split(subject: str) -> tuple[str, str | None]:
    """Return the host and the port of a destination or of a rule's subject; an address has its brackets."""
    text = subject.removeprefix(NETWORK)
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        return host + bracket, rest.removeprefix(":") or None
    if text.count(":") > 1:
        return f"[{text}]", None
    host, _, port = text.partition(":")
    return host.removesuffix("."), port or None


def matches_subject(pattern: str | None, subject: str) -> bool:
    """Whether a rule's subject pattern matches a subject; None matches any, ``*`` any text, even none.

    Linear in the length of both: each piece is searched once, from the left.
    """
    if pattern is None:
        return True
    first, *pieces = pattern.split("*")
    if not pieces:
        return subject == pattern
    last = pieces.pop()
    if len(subject) < len(first) + len(last) or not (subject.startswith(first) and subject.endswith(last)):
        return False
    start, end = len(first), len(subject) - len(last)
    for piece in pieces:
        position = subject.find(piece, start, end)
        if position < 0:
            return False
        start = position + len(piece)
    return True
