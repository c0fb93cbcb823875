"""The share of other users: the connections of each, and the bytes of unfinished messages of all together.

The daemon's own user and root are exempt. Without these limits, a client with any right could make the daemon
keep the beginning of a long message on each of a thousand connections.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from protocol.errors.rpc import Overloaded
from protocol.limits.rpc import MAX_CALLER_CONNECTIONS, MAX_SMALL_MESSAGE_BYTES, MAX_UNFINISHED_BYTES

if TYPE_CHECKING:
    from kheishd.kernel.call import Caller
    from protocol.errors.refusal import Refusal


class Guest(Protocol):
    """A connection."""

    caller: Caller

    def reject(self, refusal: Refusal) -> None:
        """Send a refusal that answers no request, and stop."""
        ...


def is_own(principal: str) -> bool:
    """Whether a caller is the daemon's own user or root."""
    return principal in ("uid:0", f"uid:{os.geteuid()}")


class Guests:
    """The open connections of other users and tokens, with the bytes of their unfinished messages."""

    def __init__(self) -> None:
        self._unfinished: dict[Guest, int] = {}
        # Their bytes count until their connections have ended: only then is the memory free.
        self._rejected: set[Guest] = set()

    def add(self, connection: Guest) -> None:
        """Count a new connection. Errors: Overloaded if its caller has too many."""
        principal = connection.caller.principal
        if is_own(principal):
            return
        if sum(guest.caller.principal == principal for guest in self._unfinished) >= MAX_CALLER_CONNECTIONS:
            raise Overloaded(f"this caller has {MAX_CALLER_CONNECTIONS} connections already; close some")
        self._unfinished[connection] = 0

    def remove(self, connection: Guest) -> None:
        """Forget a connection that has ended."""
        self._unfinished.pop(connection, None)
        self._rejected.discard(connection)

    def note_unfinished(self, connection: Guest, count: int) -> None:
        """Note the bytes of a connection's unfinished message.

        If all together are too many, the largest one of the caller with most is given up. Connections that
        were given up before, and have not yet ended, are part of the sum.
        """
        if connection not in self._unfinished or connection in self._rejected:
            return
        self._unfinished[connection] = count
        if count <= MAX_SMALL_MESSAGE_BYTES or sum(self._unfinished.values()) <= MAX_UNFINISHED_BYTES:
            return
        open_sizes = {
            guest: size
            for guest, size in self._unfinished.items()
            if size > MAX_SMALL_MESSAGE_BYTES and guest not in self._rejected
        }
        totals: Counter[str] = Counter()
        for guest, size in open_sizes.items():
            totals[guest.caller.principal] += size
        busiest, _ = totals.most_common(1)[0]
        largest = max(
            (guest for guest in open_sizes if guest.caller.principal == busiest), key=open_sizes.__getitem__
        )
        self._rejected.add(largest)
        largest.reject(
            Overloaded(
                f"unfinished messages of more than {MAX_UNFINISHED_BYTES} bytes wait for their end; "
                "send this one again later"
            )
        )
