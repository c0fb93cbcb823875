"""Host names with addresses that a test chooses."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from kheishd.hooks.network import connector


class Names:
    """A resolver of fixed addresses in place of the system's; ``queries`` are the names looked up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: list[str]) -> None:
        self.answers = answers
        self.queries: list[str] = []
        self._system = connector.look_up
        monkeypatch.setattr(connector, "look_up", self.look_up)

    def look_up(self, host: str, port: int) -> list[IPv4Address | IPv6Address]:
        """Return the addresses of a name; an address in any notation is that address."""
        self.queries.append(host)
        if host in self.answers:
            return [ip_address(address) for address in self.answers[host]]
        if host[-1].isdigit() or ":" in host:
            return self._system(host, port)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
