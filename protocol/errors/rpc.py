"""Refusals of JSON-RPC itself and of a connection's requests."""

from __future__ import annotations

from protocol.errors.refusal import Cancelled, Conflict, NotFound, Refusal, Refused, TooLarge, TooMany


class ParseError(Refusal, reason="parse_error"):
    """The message is not JSON in UTF-8; send one JSON-RPC 2.0 message or batch per line."""

    number = -32700


class InvalidRequest(Refusal, reason="invalid_request"):
    """The message is JSON but not a JSON-RPC 2.0 request."""

    number = -32600


class MethodNotFound(Refusal, reason="method_not_found"):
    """There is no such method; rpc.discover lists those there are."""

    number = -32601


class InvalidParams(Refusal, reason="invalid_params"):
    """The params do not have the method's shape; ``field`` names the path."""

    number = -32602


class InternalError(Refusal, reason="internal_error"):
    """Something failed inside the daemon; its log has the details."""


class MessageTooLarge(TooLarge, reason="message_too_large"):
    """The message is over 16 MiB; send large content as assets."""


class Overloaded(TooMany, reason="overloaded"):
    """Too many open requests or subscriptions on this connection; wait for some to end."""


class RequestNotFound(NotFound, reason="request_not_found"):
    """This connection has no open request of that id; perhaps it was already answered."""


class RequestCancelled(Cancelled, reason="request_cancelled"):
    """The request was cancelled by its caller."""


class IdempotencyConflict(Conflict, reason="idempotency_conflict"):
    """That idempotency key was used with other params; use a fresh key for a new request."""


class AlreadyShown(Conflict, reason="already_shown"):
    """The request was carried out before and its secret is shown only once; make a new one."""


class NotSupported(Refused, reason="not_supported"):
    """This version of the daemon cannot do that."""
