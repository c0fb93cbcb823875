"""The protocol about itself: is the daemon there, what can it do, take a request back."""

from functools import cache
from typing import Any

from kheishd import __version__
from kheishd.kernel.call import Call, control, query
from protocol.objects import rpc as rows
from protocol.objects.rpc import Cancel, CancelledRequest, Pong
from protocol.rpc.method import NoParams

_PONG = Pong(__version__)


@query(rows.PING)
def ping(call: Call, params: NoParams) -> Pong:
    """Say that the daemon is there."""
    return _PONG


@query(rows.DISCOVER)
def discover(call: Call, params: NoParams) -> dict[str, Any]:
    """Describe every method."""
    return _document()


@cache
def _document() -> dict[str, Any]:
    """The same for the life of this version; made when it is first asked for."""
    from protocol.rpc.catalogue import METHODS
    from protocol.rpc.openrpc import document

    return document(METHODS.values(), __version__)


@control(rows.CANCEL)
def cancel(call: Call, params: Cancel) -> CancelledRequest:
    """Take back an open request of the connection that this came by."""
    call.connection.cancel_request(params.id)
    return CancelledRequest(params.id)


HANDLERS = (ping, discover, cancel)
