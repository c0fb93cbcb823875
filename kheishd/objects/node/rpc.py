"""The protocol itself: ping the daemon, describe its methods, cancel a request."""

from functools import cache
from typing import Any

from kheishd import __version__
from kheishd.kernel.call import Call, control, query
from protocol.objects import rpc as rows
from protocol.objects.rpc import Cancel, CancelledRequest, Pong
from protocol.rpc.method import NoParams


@query(rows.PING)
def ping(call: Call, params: NoParams) -> Pong:
    """Answer with the daemon's version and epoch."""
    return Pong(__version__, call.state.epoch)


@query(rows.DISCOVER)
def discover(call: Call, params: NoParams) -> dict[str, Any]:
    """Describe every method."""
    return _make_document()


@cache
def _make_document() -> dict[str, Any]:
    """Return the OpenRPC document, made once on first use."""
    from protocol.rpc.catalogue import METHODS
    from protocol.rpc.openrpc import make_document

    return make_document(METHODS.values(), __version__)


@control(rows.CANCEL)
def cancel(call: Call, params: Cancel) -> CancelledRequest:
    """Cancel an open request of the caller's connection."""
    call.connection.cancel_request(params.id)
    return CancelledRequest(params.id)


HANDLERS = (ping, discover, cancel)
