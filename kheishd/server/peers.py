"""Who is on the other side, and what that allows.

On the private socket the kernel says who it is (``SO_PEERCRED``): the daemon's own user and root may do
everything, anybody else nothing. On a shared socket a grant says what a user or a group may do. Over TCP
a bearer token does, and only that: being on the same machine is no proof of anything there.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

from msgspec import Struct

from kheishd.core.token import digest_of
from kheishd.kernel.call import Caller
from kheishd.objects.node.token import is_valid
from kheishd.store.tables import TOKENS, TOKENS_BY_DIGEST
from protocol.errors.token import OriginForbidden, PeerUnknown, TokenInvalid, TokenMissing
from protocol.rpc.method import SCOPES, Scope

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot

_CREDENTIALS = struct.Struct("3i")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/@]+))(?::[0-9]+)?")


class Peer(Struct, frozen=True):
    """A process on the other side of a Unix socket, as the kernel knows it."""

    pid: int
    uid: int
    gid: int


class Grant(Struct, frozen=True):
    """What a user, or a group, may do over the shared socket. ``None`` covers every name."""

    uid: int | None = None
    gid: int | None = None
    scopes: tuple[Scope, ...] = ("read", "converse")
    agents: frozenset[str] | None = None
    senders: frozenset[str] | None = None


def peer_of(stream: socket.socket) -> Peer:
    """The process that connected. Errors: OSError if the socket has none."""
    credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Peer(*_CREDENTIALS.unpack(credentials))


def private_caller(peer: Peer) -> Caller:
    """The caller on the private socket. Errors: PeerUnknown for another user than ours and root."""
    if peer.uid not in (os.geteuid(), 0):
        raise PeerUnknown(hint=f"uid {peer.uid}")
    return Caller(f"uid:{peer.uid}", frozenset(SCOPES))


def shared_caller(peer: Peer, grants: tuple[Grant, ...]) -> Caller:
    """The caller on a shared socket: by the first grant of its user, else of its group.

    Errors: PeerUnknown if there is none.
    """
    by_uid = [grant for grant in grants if grant.uid == peer.uid]
    by_gid = [grant for grant in grants if grant.uid is None and grant.gid == peer.gid]
    for grant in by_uid + by_gid:
        return Caller(f"uid:{peer.uid}", frozenset(grant.scopes), grant.agents, grant.senders)
    raise PeerUnknown("no grant of this socket covers the caller's user or group", hint=f"uid {peer.uid}")


# Tokens.


def token_caller(store: Snapshot, authorization: str | None, now_ms: int) -> tuple[Caller, int | None]:
    """The caller that an ``Authorization`` header names, and when its token expires.

    Errors: TokenMissing, TokenInvalid.
    """
    kind, _, secret = (authorization or "").partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        raise TokenMissing()
    token_id = store.get(TOKENS_BY_DIGEST, digest_of(secret.strip()))
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
    )
    return caller, grant.expires_at_ms


# Browsers.


def check_origin(
    host: str | None, origin: str | None, *, hosts: tuple[str, ...], origins: tuple[str, ...]
) -> None:
    """Keep web pages out: they may reach a loopback port, but they cannot choose these two headers.

    ``Host`` must be an address, ``localhost`` or a configured name, so that no name of somebody else's
    can be pointed here; ``Origin``, which browsers always send, must be the host itself or configured.

    Errors: OriginForbidden.
    """
    found = _HOST.fullmatch(host or "")
    name = (found[1] or found[2]).lower() if found else ""
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
