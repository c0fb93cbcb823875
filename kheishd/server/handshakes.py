"""Connections over TCP that are not authenticated yet: how many there may be, and for how long.

Without a token, a peer can only occupy a place here. A new peer beyond the limit takes the place of the
oldest one of the address that occupies most, so that a flood displaces itself.
"""

from __future__ import annotations

import resource
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from protocol.limits.rpc import MAX_HANDSHAKES

if TYPE_CHECKING:
    from collections.abc import Iterator

# TLS, the HTTP request and its check take a few round trips, which even a satellite makes in a second each.
HANDSHAKE_S = 5.0


class Handshakes:
    """The open handshakes of one listener, oldest first, with the addresses of their peers."""

    def __init__(self, max_open: int | None = None) -> None:
        # With a low limit of descriptors, handshakes get an eighth of it.
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        allowed = MAX_HANDSHAKES if soft == resource.RLIM_INFINITY else min(MAX_HANDSHAKES, soft // 8)
        self._max_open = allowed if max_open is None else max_open
        self._open: dict[trio.socket.SocketType, str] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, peer: trio.socket.SocketType, address: str) -> None:
        """Register a new peer. Without a free place, another one is closed, which its task notices."""
        while len(self._open) >= self._max_open:
            busiest, _ = Counter(self._open.values()).most_common(1)[0]
            oldest = next(other for other, owner in self._open.items() if owner == busiest)
            del self._open[oldest]
            oldest.close()
        self._open[peer] = address

    @contextmanager
    def time_limit(self, peer: trio.socket.SocketType) -> Iterator[None]:
        """Give the block the time of a handshake; at its end, the peer's place is free."""
        try:
            with trio.move_on_after(HANDSHAKE_S):
                yield
        finally:
            self._open.pop(peer, None)
