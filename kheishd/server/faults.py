"""What becomes of an exception at the border: one table for every transport."""

import logging

from protocol.errors.refusal import Refusal
from protocol.errors.rpc import InternalError

log = logging.getLogger(__name__)


def refusal_of(error: Exception, doing: str) -> Refusal:
    """The refusal that a client is told of.

    A refusal is itself. Anything else is a fault of ours: logged with its traceback, told as -32603
    without details, and nobody but this request is harmed. (Params that do not decode were already
    turned into ``InvalidParams`` where they were decoded; a stored record that does not is a fault.)
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        return refusal_of(error.exceptions[0], doing)
    log.error("%s failed", doing, exc_info=error)
    return InternalError()
