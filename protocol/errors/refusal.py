"""The base of every refusal, and its kinds: each kind has one error number."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct

REFUSALS: dict[str, type[Refusal]] = {}
"""Reason to class. Filled while this module is imported and never afterwards."""


class ErrorData(Struct, frozen=True, omit_defaults=True):
    """What ``error.data`` holds on the wire."""

    reason: str
    retryable: bool
    retry_after_ms: int | None = None
    field: str | None = None
    hint: str | None = None


class Refusal(Exception):
    """A request that a rule turned down. The docstring of each class is its default message."""

    number: ClassVar[int] = -32603
    reason: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls, *, reason: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if reason is not None:
            assert reason not in REFUSALS, f"two refusals are called {reason}"
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
        """The refusal as ``error.data``."""
        return ErrorData(self.reason, self.retryable, self.retry_after_ms, self.field, self.hint)


class Unauthenticated(Refusal):
    """Who is asking is not known."""

    number = 1401


class Forbidden(Refusal):
    """The caller may not do this."""

    number = 1403


class NotFound(Refusal):
    """There is no such thing."""

    number = 1404


class Conflict(Refusal):
    """The present state does not allow this."""

    number = 1409


class Gone(Refusal):
    """It was here and is no longer."""

    number = 1410


class TooLarge(Refusal):
    """It is over a limit."""

    number = 1413


class Refused(Refusal):
    """Well-formed, but a rule says no."""

    number = 1422


class TooMany(Refusal):
    """Too many at once; try again later."""

    number = 1429
    retryable = True


class Cancelled(Refusal):
    """The caller took the request back."""

    number = 1499


class NotNow(Refusal):
    """Not possible at the moment; try again later."""

    number = 1503
    retryable = True
