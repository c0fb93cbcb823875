"""Refusals: the base class, and one class per error number.

A refusal is raised where a rule rejects a request, and the server turns it into a JSON-RPC error. Its
``reason`` is a stable identifier for programs; its ``message`` tells a person what to do next.
"""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct

REFUSALS: dict[str, type[Refusal]] = {}
"""Reason to class. The classes register themselves while ``protocol.errors`` is imported, never afterwards.
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

    number: ClassVar[int] = -32603
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
        self.message = message or " ".join((type(self).__doc__ or "Refused.").split())
        self.field = field
        self.hint = hint
        self.retry_after_ms = retry_after_ms
        super().__init__(self.message)

    def data(self) -> ErrorData:
        """Return the refusal as ``error.data``."""
        return ErrorData(self.reason, self.retryable, self.retry_after_ms, self.field, self.hint)


class Unauthenticated(Refusal):
    """The caller is not authenticated."""

    number = 1401


class Forbidden(Refusal):
    """The caller may not do this."""

    number = 1403


class NotFound(Refusal):
    """The object does not exist."""

    number = 1404


class Conflict(Refusal):
    """The current state does not allow this."""

    number = 1409


class Gone(Refusal):
    """The object existed and is gone."""

    number = 1410


class TooLarge(Refusal):
    """A value exceeds its limit."""

    number = 1413


class Refused(Refusal):
    """The request is well-formed, but a rule rejects it."""

    number = 1422


class TooMany(Refusal):
    """Too many at once; try again later."""

    number = 1429
    retryable = True


class Cancelled(Refusal):
    """The request was cancelled."""

    number = 1499


class NotNow(Refusal):
    """Not possible at the moment; try again later."""

    number = 1503
    retryable = True
