"""Refusals: the base class, and one class per error code.

A refusal is raised where a rule rejects a request, and the server turns it into a JSON-RPC error. Its
``reason`` is a stable identifier for programs; its ``message`` tells a person what to do next.
"""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct

REFUSALS: dict[str, type[Refusal]] = {}
"""All refusals by reason. The classes register themselves while ``protocol.errors`` is imported, never later.
"""


class ErrorData(Struct, frozen=True, omit_defaults=True):
    """The ``error.data`` object of the wire."""

    reason: str
    retryable: bool
    retry_after_ms: int | None = None
    field: str | None = None
    hint: str | None = None


class Refusal(Exception):
    """A rejected request. The docstring of each subclass is its default message."""

    code: ClassVar[int] = -32603
    reason: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls, *, reason: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if reason is not None:
            assert reason not in REFUSALS, f"two refusals have the reason {reason}"
            cls.reason = reason
            REFUSALS[reason] = cls

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        hint: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        self.message = message or " ".join((type(self).__doc__ or "Unprocessable.").split())
        self.field = field
        self.hint = hint
        self.retry_after_ms = retry_after_ms
        super().__init__(self.message)

    def data(self) -> ErrorData:
        """Return the refusal as ``error.data``."""
        return ErrorData(self.reason, self.retryable, self.retry_after_ms, self.field, self.hint)


class Unauthenticated(Refusal):
    """The caller is not authenticated."""

    code = 1401


class Forbidden(Refusal):
    """The caller lacks the right to do this."""

    code = 1403


class NotFound(Refusal):
    """The object does not exist."""

    code = 1404


class Conflict(Refusal):
    """The object's current state does not allow this."""

    code = 1409


class Gone(Refusal):
    """The object no longer exists."""

    code = 1410


class TooLarge(Refusal):
    """A value exceeds its limit."""

    code = 1413


class Unprocessable(Refusal):
    """The request is well-formed, but a rule rejects it."""

    code = 1422


class LimitReached(Refusal):
    """A limit is reached; try again later."""

    code = 1429
    retryable = True


class Cancelled(Refusal):
    """The request was cancelled."""

    code = 1499


class Unavailable(Refusal):
    """Temporarily unavailable; try again later."""

    code = 1503
    retryable = True
