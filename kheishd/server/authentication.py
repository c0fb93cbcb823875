"""Authentication: the identity of a caller and its rights.

On the private socket the kernel identifies the process (``SO_PEERCRED``): the daemon's own user and root have
every right, other users none. On a shared socket, grants give rights to users and groups. Over TCP only a
bearer token gives rights: a local connection proves nothing there.
"""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

from msgspec import Struct

from kheishd.core.token import hash_secret
from kheishd.kernel.call import Caller
from kheishd.objects.node.token import is_valid
from kheishd.store.tables import TOKENS, TOKENS_BY_DIGEST
from protocol.errors.token import OriginForbidden, PeerUnknown, TokenInvalid, TokenMissing
from protocol.lazy import lazy_pattern
from protocol.rpc.method import SCOPES, Scope
from protocol.transcript import DeclaredOrigin

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot

_CREDENTIALS = struct.Struct("3i")
_HOST = lazy_pattern(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/@]+))(?::[0-9]+)?")


class SocketPeer(Struct, frozen=True):
    """The process at the other end of a Unix socket."""

    pid: int
    uid: int
    gid: int


class SocketGrant(Struct, frozen=True):
    """The rights of a user or a group on the shared socket. ``None`` covers every name."""

    uid: int | None = None
    gid: int | None = None
    scopes: tuple[Scope, ...] = ("read", "converse")
    agents: frozenset[str] | None = None
    senders: frozenset[str] | None = None
    origin: DeclaredOrigin | None = None


def peer_of(stream: socket.socket) -> SocketPeer:
    """Return the connected process. Errors: OSError if the socket has none."""
    credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return SocketPeer(*_CREDENTIALS.unpack(credentials))


def find_private_caller(peer: SocketPeer) -> Caller:
    """Return the caller on the private socket. Errors: PeerUnknown for other users."""
    if peer.uid not in (os.geteuid(), 0):
        raise PeerUnknown(hint=f"uid {peer.uid}")
    return Caller(f"uid:{peer.uid}", frozenset(SCOPES))


def find_shared_caller(peer: SocketPeer, grants: tuple[SocketGrant, ...]) -> Caller:
    """Return the caller on a shared socket, by the first grant of its user, else of its group.

    Errors: PeerUnknown without a grant.
    """
    by_uid = [grant for grant in grants if grant.uid == peer.uid]
    by_gid = [grant for grant in grants if grant.uid is None and grant.gid == peer.gid]
    for grant in by_uid + by_gid:
        scopes = frozenset(grant.scopes)
        return Caller(f"uid:{peer.uid}", scopes, grant.agents, grant.senders, origin=grant.origin)
    raise PeerUnknown("no grant of this socket covers the caller's user or group", hint=f"uid {peer.uid}")


# Tokens.


def find_token_caller(store: Snapshot, authorization: str | None, now_ms: int) -> tuple[Caller, int | None]:
    """Return the caller of an ``Authorization`` header, and the expiry of its token.

    Errors: TokenMissing, TokenInvalid.
    """
    kind, _, secret = (authorization or "").partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        raise TokenMissing()
    token_id = store.get(TOKENS_BY_DIGEST, hash_secret(secret.strip()))
    record = None if token_id is None else store.get(TOKENS, token_id)
    if record is None or not is_valid(store, record.token, now_ms):
        raise TokenInvalid()
    grant = record.token.grant
    caller = Caller(
        f"token:{record.token.token_id}",
        frozenset(grant.scopes),
        None if grant.agents is None else frozenset(grant.agents),
        None if grant.senders is None else frozenset(grant.senders),
        record.token.token_id,
        grant.origin,
    )
    return caller, grant.expires_at_ms


# Browsers.


def require_allowed_origin(
    host: str | None, origin: str | None, *, hosts: tuple[str, ...], origins: tuple[str, ...]
) -> None:
    """Reject requests of foreign web pages, which can reach a loopback port but cannot choose these headers.

    ``Host`` must be an address, ``localhost`` or a configured name, so that a foreign name cannot resolve to
    this daemon; ``Origin``, which browsers always send, must be the host itself or configured.

    Errors: OriginForbidden.
    """
    match = _HOST.fullmatch(host or "")
    name = (match[1] or match[2]).lower() if match else ""
    if name not in ("localhost", *hosts) and not _is_address(name):
        raise OriginForbidden(f"requests for the host '{name}' are refused", hint="[listen.tcp] hosts")
    if origin is None or origin in origins:
        return
    if origin not in (f"http://{host}", f"https://{host}"):
        raise OriginForbidden(f"requests from '{origin}' are refused", hint="[listen.tcp] origins")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
