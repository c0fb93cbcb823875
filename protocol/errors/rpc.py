"""Refusals of malformed messages, and of requests that any method may answer."""

from __future__ import annotations

from protocol.errors.refusal import (
    Cancelled,
    Conflict,
    LimitReached,
    NotFound,
    Refusal,
    TooLarge,
    Unprocessable,
)


class ParseError(Refusal, reason="parse_error"):
    """The message is not JSON in UTF-8; send one JSON-RPC 2.0 message or batch per line."""

    code = -32700


class InvalidRequest(Refusal, reason="invalid_request"):
    """The message is JSON but not a JSON-RPC 2.0 request."""

    code = -32600


class MethodNotFound(Refusal, reason="method_not_found"):
    """No such method; rpc.discover lists all methods."""

    code = -32601


class InvalidParams(Refusal, reason="invalid_params"):
    """The params do not match the method's schema; ``field`` names the path."""

    code = -32602


class InternalError(Refusal, reason="internal_error"):
    """The daemon failed while it executed the request; see its log."""


class MessageTooLarge(TooLarge, reason="message_too_large"):
    """The message exceeds 16 MiB; put large content in a file in the workspace."""


class Overloaded(LimitReached, reason="overloaded"):
    """This connection has too many open requests or subscriptions; wait for some to end."""


class RequestNotFound(NotFound, reason="request_not_found"):
    """This connection has no open request with that id; it may have been answered already."""


class RequestCancelled(Cancelled, reason="request_cancelled"):
    """The caller cancelled the request."""


class IdempotencyConflict(Conflict, reason="idempotency_conflict"):
    """That idempotency key was used with other params; use a new key for another request."""


class AlreadyShown(Conflict, reason="already_shown"):
    """The request was executed before, and its secret is shown only once; create a new secret."""


class NotSupported(Unprocessable, reason="not_supported"):
    """This version of the daemon does not support the request."""
