"""Errors of an HTTP exchange, and the model failures that they become."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kheishd.kernel.runtime import ModelFailure
    from kheishd.providers.failures import FailureFactory

# A host that does not accept a connection within this time is unreachable.
MAX_CONNECT_SECONDS = 30.0

# The reasons of OpenSSL for an answer that is no TLS, such as an error page of an HTTP server.
_ANSWERS_WITHOUT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")


class UnsendableRequest(Exception):
    """The request, its URL, its proxy or its certificate authorities are unusable."""


class ConnectTimeout(Exception):
    """The server did not accept a connection within MAX_CONNECT_SECONDS."""


class ConnectFailed(Exception):
    """There is no connection to the server."""


class ConnectionBroken(Exception):
    """The connection ended before the response did, or its bytes are no HTTP."""


def failure_of(error: Exception, failures: FailureFactory) -> ModelFailure | None:
    """Return an error of an exchange or of the network as a failure; None for a fault of the daemon."""
    match error:
        case UnsendableRequest():
            return failures.broke(f"the request cannot be sent: {error}", "bad_request")
        case ConnectTimeout():
            return failures.broke(f"no connection within {MAX_CONNECT_SECONDS:g} s")
        case ConnectFailed():
            return failures.broke(f"no connection: {_find_message(error)}")
        case ConnectionBroken() | OSError():
            return failures.broke(f"the connection broke: {_find_message(error)}")
        case _:
            return None


def _find_message(error: BaseException) -> str:
    """Return the message of the operating system or of TLS below an error, else the error's own."""
    message = ""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            # The attempts to connect to several addresses of one host.
            cause = cause.exceptions[0]
        message = message or str(cause)
        match cause:
            case ssl.SSLCertVerificationError():
                return f"its certificate is not trusted ({cause.verify_message}); see the route's ca_file"
            case ssl.SSLError() if cause.reason in _ANSWERS_WITHOUT_TLS:
                return "the server does not speak TLS; check the https:// of the route's base_url"
            case OSError() if not isinstance(cause, ssl.SSLError) and cause.errno is not None:
                # The negative codes are those of name resolution.
                return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
            case _:
                cause = cause.__cause__ or cause.__context__
    return message or type(error).__name__
