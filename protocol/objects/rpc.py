"""Methods of the protocol itself."""

from typing import Any

from msgspec import Struct

from protocol.errors.rpc import RequestNotFound
from protocol.rpc.method import Method, NoParams, Params


class Pong(Struct, frozen=True):
    """The daemon's answer to a ping: its version, and the epoch of its journal's cursors."""

    version: str
    epoch: str = ""


class Cancel(Params, frozen=True, kw_only=True):
    """Params of ``rpc.cancel``: the ``id`` of an open request of this connection."""

    id: str | int | float | None


class CancelledRequest(Struct, frozen=True):
    """The request will be answered with ``request_cancelled``, or with its result if that came first."""

    id: str | int | float | None


PING = Method("rpc.ping", "query", NoParams, Pong, "Check that the daemon answers.", scope=None)
DISCOVER = Method(
    "rpc.discover",
    "query",
    NoParams,
    dict[str, Any],
    "Describe every method as an OpenRPC document.",
    scope=None,
)
CANCEL = Method(
    "rpc.cancel",
    "control",
    Cancel,
    CancelledRequest,
    "Cancel an open request of this connection.",
    scope=None,
    errors=(RequestNotFound,),
)

LSP_CANCEL = "$/cancelRequest"
"""The notification by which clients of language servers cancel a request; it has the same params.

Source: https://microsoft.github.io/language-server-protocol/specification, "Cancellation Support".
"""

METHODS = (PING, DISCOVER, CANCEL)
