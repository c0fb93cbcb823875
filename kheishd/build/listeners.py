"""Build the options of the listeners from ``[listen]``."""

import grp
import os
import pwd
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from kheishd.config.sections.listen import ListenSection, SharedGrant, SharedSection, split_address
from kheishd.config.toml import KeyPath
from kheishd.home import Home
from kheishd.server.authentication import SocketGrant
from kheishd.server.listeners import ListenerUnusable, RpcListen, SharedListen, TcpListen

DEFAULT_DIRECTORY = Path("/run/kheish")

NO_PATH = (
    "set it to a path in a directory that other users can enter, such as "
    "/srv/kheish/shared.sock: the home is closed to them"
)


class ListenOptions(Struct, frozen=True):
    """The options of all listeners."""

    rpc: RpcListen
    shared: SharedListen | None
    tcp: TcpListen | None


def build_listen_options(section: ListenSection, home: Home, environ: Mapping[str, str]) -> ListenOptions:
    """Return the options of all listeners.

    Errors: ListenerUnusable for a user or group that does not exist, and for a shared socket without a path.
    """
    shared, tcp = None, None
    if section.shared is not None:
        shared = _make_shared(section.shared, home, environ)
    if section.tcp is not None:
        tcp = TcpListen(
            *split_address(section.tcp.address),
            None if section.tcp.certificate is None else home.resolve(section.tcp.certificate),
            None if section.tcp.key is None else home.resolve(section.tcp.key),
            tuple(section.tcp.hosts),
            tuple(section.tcp.origins),
            section.tcp.insecure,
        )
    return ListenOptions(RpcListen(home.socket), shared, tcp)


def _make_shared(section: SharedSection, home: Home, environ: Mapping[str, str]) -> SharedListen:
    grants = tuple(_make_grant(grant, index) for index, grant in enumerate(section.grants))
    mode = int(section.mode or ("0666" if section.group is None else "0660"), 8)
    if section.path is not None:
        return SharedListen(home.resolve(section.path), mode, section.group, grants)
    # The home and the directory of the private socket are closed to other users.
    directory = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if not directory and os.geteuid() == 0:
        directory = str(DEFAULT_DIRECTORY)
    if not directory:
        raise ListenerUnusable(("listen", "shared", "path"), NO_PATH)
    return SharedListen(Path(directory) / "shared.sock", mode, section.group, grants, makes_directory=True)


def _make_grant(grant: SharedGrant, index: int) -> SocketGrant:
    key = ("listen", "shared", "grants", index)
    return SocketGrant(
        uid=_resolve_id(grant.uid, lambda name: pwd.getpwnam(name).pw_uid, (*key, "uid"), "user"),
        gid=_resolve_id(grant.gid, lambda name: grp.getgrnam(name).gr_gid, (*key, "gid"), "group"),
        scopes=tuple(grant.scopes),
        agents=None if grant.agents is None else frozenset(grant.agents),
        senders=None if grant.senders is None else frozenset(grant.senders),
        origin=grant.origin,
    )


def _resolve_id(
    value: int | str | None, look_up: Callable[[str], int], key: KeyPath, kind: str
) -> int | None:
    """Return a uid or gid by number or name. Errors: ListenerUnusable."""
    if not isinstance(value, str):
        return value
    try:
        return look_up(value)
    except KeyError:
        raise ListenerUnusable(key, f"this machine has no {kind} '{value}'") from None
