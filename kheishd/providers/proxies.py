"""The proxy of the environment, and the hosts that NO_PROXY excludes."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from kheishd.providers.http_errors import UnsendableRequest
from protocol.structs import Value

if TYPE_CHECKING:
    from urllib.parse import SplitResult

PORTS = {"http": 80, "https": 443}
"""The port of a URL without one, by its scheme."""


class HttpProxy(Value, frozen=True):
    """A proxy: its URL, and its user and password, which ``repr`` omits."""

    url: str
    auth: tuple[str, str] | None

    def __repr__(self) -> str:
        return f"HttpProxy({self.url!r})"


def find_proxy(url: SplitResult) -> HttpProxy | None:
    """Return the proxy for a URL; None without one. Errors: UnsendableRequest for an unusable one."""
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or is_excluded(url.hostname or "", url.port or PORTS.get(url.scheme), proxies.get("no", "")):
        return None
    try:
        address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        port = address.port or (443 if address.scheme == "https" else 8080)
        address.geturl().encode("ascii")
    except ValueError:
        address = None
    if address is None or not address.hostname:
        # The original message quotes the URL, which may hold a password; '#' truncates a URL.
        raise UnsendableRequest(
            "the proxy in the environment is not a URL; write '#' in a password as '%23'"
        ) from None
    if address.scheme not in PORTS:
        raise UnsendableRequest("the proxy in the environment is not an HTTP proxy")
    auth = (unquote(address.username), unquote(address.password or "")) if address.username else None
    return HttpProxy(f"{address.scheme}://{address.hostname}:{port}", auth)


def is_excluded(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether a NO_PROXY list excludes a host.

    Shape: ``*``; a host or a domain, with or without a dot before it; an address or a network in CIDR form;
    any but a network with ``:port``.
    """
    return any(_matches(host.lower().rstrip("."), port, entry) for entry in no_proxy.lower().split(","))


def _matches(host: str, port: int | None, entry: str) -> bool:
    entry = entry.strip()
    if entry == "*":
        return True
    address = _parse_address(host)
    if address is not None and "/" in entry:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, entry_port = _split_port(entry)
    if not name or (entry_port and entry_port != str(port)):
        return False
    if address is not None:
        return address == _parse_address(name)
    domain = name.removeprefix("*").lstrip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _split_port(entry: str) -> tuple[str, str]:
    """Return the name and the port of an entry; an IPv6 address has a port only after brackets."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest.removeprefix(":")
    if entry.count(":") > 1:
        return entry, ""
    name, _, port = entry.partition(":")
    return name, port


def _parse_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
