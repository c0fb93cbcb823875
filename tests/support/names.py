"""Host names with addresses that a test chooses, within one run of the event loop."""

import socket
from ipaddress import ip_address
from typing import Any

import trio


class Names(trio.abc.HostnameResolver):
    """A resolver of fixed addresses; ``queries`` are the names looked up."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers = answers
        self.queries: list[str] = []

    async def getaddrinfo(
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """Return the addresses of a name."""
        name = host.decode() if isinstance(host, bytes) else host
        self.queries.append(name)
        if name not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [self._format(address, port) for address in self.answers[name]]

    def _format(self, address: str, port: int) -> tuple[Any, ...]:
        if ip_address(address).version == 4:
            return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        """Reject every address: none has a name."""
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
