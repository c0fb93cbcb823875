"""Build the options of the listeners from ``[listen]``."""

import grp
import pwd
from collections.abc import Callable

from msgspec import Struct

from kheishd.config.sections.listen import ListenSection, SharedGrant, split_address
from kheishd.home import Home
from kheishd.server.authentication import SocketGrant
from kheishd.server.listeners import RpcListen, SharedListen, TcpListen
from protocol.errors.daemon import ConfigInvalid


class ListenOptions(Struct, frozen=True):
    """The options of all listeners."""

    rpc: RpcListen
    shared: SharedListen | None
    tcp: TcpListen | None


def build_listen_options(section: ListenSection, home: Home) -> ListenOptions:
    """Return the options of all listeners. Errors: ConfigInvalid for a user or group that does not exist."""
    shared, tcp = None, None
    if section.shared is not None:
        grants = tuple(_make_grant(grant, index) for index, grant in enumerate(section.shared.grants))
        path, mode = home.resolve(section.shared.path), int(section.shared.mode, 8)
        shared = SharedListen(path, mode, section.shared.group, grants)
    if section.tcp is not None:
        tcp = TcpListen(
            *split_address(section.tcp.address),
            None if section.tcp.certificate is None else home.resolve(section.tcp.certificate),
            None if section.tcp.key is None else home.resolve(section.tcp.key),
            tuple(section.tcp.hosts),
            tuple(section.tcp.origins),
        )
    return ListenOptions(RpcListen(home.socket), shared, tcp)


def _make_grant(grant: SharedGrant, index: int) -> SocketGrant:
    field = f"listen.shared.grants[{index}]"
    return SocketGrant(
        uid=_resolve_id(grant.uid, lambda name: pwd.getpwnam(name).pw_uid, f"{field}.uid", "user"),
        gid=_resolve_id(grant.gid, lambda name: grp.getgrnam(name).gr_gid, f"{field}.gid", "group"),
        scopes=tuple(grant.scopes),
        agents=None if grant.agents is None else frozenset(grant.agents),
        senders=None if grant.senders is None else frozenset(grant.senders),
    )


def _resolve_id(value: int | str | None, look_up: Callable[[str], int], field: str, kind: str) -> int | None:
    """Return a uid or gid by number or name. Errors: ConfigInvalid."""
    if not isinstance(value, str):
        return value
    try:
        return look_up(value)
    except KeyError:
        raise ConfigInvalid(f"{field}: this machine has no {kind} '{value}'", field=field) from None
