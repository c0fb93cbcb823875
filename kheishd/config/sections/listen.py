"""``[listen]``: sockets besides the private Unix socket, which always exists."""

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from kheishd.config.sections.section import FilePath, Section
from kheishd.config.toml import KeyPath
from kheishd.config.validation import Problem
from protocol.rpc.method import Scope
from protocol.transcript import DeclaredOrigin


class TcpSection(Section, frozen=True):
    """``[listen.tcp]``: the WebSocket listener."""

    address: str = "127.0.0.1:7707"
    """Host and port of the WebSocket listener. Without `[listen.tcp]`, kheishd does not listen on TCP."""

    certificate: FilePath | None = None
    """TLS certificate file (PEM). Requires `key`."""

    key: FilePath | None = None
    """TLS private key file (PEM). Requires `certificate`."""

    origins: list[str] = []
    """Web origins whose pages may connect."""

    hosts: list[str] = []
    """Host names that clients may use, in addition to addresses."""

    insecure: bool = False
    """Allow connections from other machines without TLS."""

    def find_problems(self, path: KeyPath) -> Iterator[Problem]:
        """Yield the problems that the types cannot express."""
        if (self.certificate is None) != (self.key is None):
            yield Problem(path, "certificate and key go together; set both or neither")
        try:
            host, _ = split_address(self.address)
        except ValueError as error:
            yield Problem((*path, "address"), str(error))
            return
        if not is_loopback(host) and self.certificate is None and not self.insecure:
            yield Problem(
                (*path, "address"),
                f"other machines can reach {host} and tokens would travel unencrypted; "
                "set certificate and key, or insecure = true",
            )


class SharedGrant(Section, frozen=True):
    """``[[listen.shared.grants]]``: the rights of a user or a group, by number or name."""

    scopes: list[Scope]
    """Scopes of the user or group."""

    uid: int | str | None = None
    """The user, by number or name. Set either `uid` or `gid`."""

    gid: int | str | None = None
    """The group, by number or name."""

    agents: list[str] | None = None
    """Agents the user or group may address (default: all)."""

    senders: list[str] | None = None
    """Senders the user or group may speak as (default: all)."""

    origin: DeclaredOrigin | None = None
    """Origin of everything the user or group sends, such as `"connector"` (default: as they declare)."""


class SharedSection(Section, frozen=True):
    """``[listen.shared]``: a second Unix socket for other users of this machine."""

    path: FilePath | None = None
    """Path of a second Unix socket for other users, in a directory that they can enter (default:
    `shared.sock` in systemd's `RuntimeDirectory`, or in `/run/kheish` for root). Without
    `[listen.shared]`, there is none."""

    mode: Annotated[str, Meta(pattern="^0?[0-7]{3}$")] | None = None
    """File mode of the socket: which users may open it (default: 0660 with a `group`, else 0666). Their
    grants decide what they may do."""

    group: str | None = None
    """Group that owns the socket."""

    grants: list[SharedGrant] = []
    """Rights of other users: `scopes` for a `uid` or `gid`, optionally limited to `agents` and `senders`."""

    def find_problems(self, path: KeyPath) -> Iterator[Problem]:
        """Yield the problems that the types cannot express."""
        if self.mode is not None and int(self.mode, 8) & 0o111:
            yield Problem((*path, "mode"), "a socket has no execute bits; use 0660 or 0666")
        for index, grant in enumerate(self.grants):
            if (grant.uid is None) == (grant.gid is None):
                yield Problem((*path, "grants", index), "set either uid or gid")


class ListenSection(Section, frozen=True):
    """``[listen]``: sockets besides the private Unix socket, which always exists."""

    tcp: TcpSection | None = None
    shared: SharedSection | None = None

    def find_problems(self, path: KeyPath) -> Iterator[Problem]:
        """Yield the problems that the types cannot express."""
        if self.tcp is not None:
            yield from self.tcp.find_problems((*path, "tcp"))
        if self.shared is not None:
            yield from self.shared.find_problems((*path, "shared"))


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[v6]:port``. Errors: ValueError, a sentence."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("write an IPv6 address in brackets: [::1]:7707")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("expected host:port, such as 127.0.0.1:7707")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    from ipaddress import ip_address

    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
