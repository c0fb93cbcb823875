"""Failures of model calls: one table for HTTP statuses, one for the providers' own names."""

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from kheishd.kernel.runtime import ModelFailure
from protocol.text import truncate

# The stored part of an error message, and the part of an error body that is read for it.
MAX_MESSAGE_BYTES = 2 * 1024
MAX_CLEANED_CHARACTERS = 4 * MAX_MESSAGE_BYTES
MAX_BODY_BYTES = 64 * 1024

RETRYABLE = frozenset(
    ("rate_limited", "overloaded", "connection_failed", "timed_out", "server_error", "bad_response")
)
"""The reasons after which the same request may succeed."""

_STATUSES = {
    401: "unauthorized",
    403: "unauthorized",
    408: "rate_limited",
    409: "rate_limited",
    413: "context_too_long",
    429: "rate_limited",
    529: "overloaded",
}

# The providers' names of errors (``type`` or ``code``), by a part of the name, most specific first.
_NAMES = (
    ("context_length", "context_too_long"),
    ("request_too_large", "context_too_long"),
    ("exceed_context_size", "context_too_long"),
    ("rate_limit", "rate_limited"),
    ("quota", "rate_limited"),
    ("overloaded", "overloaded"),
    ("unavailable", "overloaded"),
    ("authentication", "unauthorized"),
    ("permission", "unauthorized"),
    ("api_key", "unauthorized"),
    ("invalid_request", "bad_request"),
    ("not_found", "bad_request"),
    ("timeout", "timed_out"),
)

# Messages for a transcript that is too long: OpenAI and vLLM, Anthropic, llama.cpp, OpenRouter, Ollama.
_TOO_LONG = re.compile(
    r"maximum context length|context[ _-]?(length|window|size)|prompt is too long|too many (input )?tokens"
    r"|input is too long|exceeds? the (available|model'?s?) context|reduce the length",
    re.IGNORECASE,
)

# A limit that waiting does not lift: someone has to pay.
_EXHAUSTED = re.compile(r"insufficient_quota|exceeded your current quota|credit balance", re.IGNORECASE)


class FailureFactory:
    """A maker of failures from the errors of one provider, without its credential in them."""

    def __init__(self, host: str, secret: str | None) -> None:
        self._host = host
        self._secret = secret

    def by_status(self, status: int, headers: Mapping[str, str], body: bytes, now_s: float) -> ModelFailure:
        """Return the failure of an HTTP error. ``now_s`` is the wall clock, for dates."""
        name, message = parse_error_body(body)
        reason = _STATUSES.get(status) or ("server_error" if status >= 500 else "bad_request")
        if reason == "bad_request" and _is_too_long(name, message):
            reason = "context_too_long"
        lasting = _EXHAUSTED.search(f"{name} {message}") is not None or status in (501, 505)
        return ModelFailure(
            reason,
            self.clean(f"{self._host} answered {status}: {message or 'nothing more'}"),
            retryable=reason in RETRYABLE and not lasting,
            status=status,
            retry_after_s=retry_after(headers, now_s),
        )

    def by_error(self, error: Any) -> ModelFailure:
        """Return the failure of an error object inside a stream."""
        code = error.get("code") if isinstance(error, dict) else None
        name, message = _parts(error)
        if isinstance(code, int) and 400 <= code <= 599:
            return self.by_status(code, {}, msgspec.json.encode({"error": error}), 0.0)
        reason = next((reason for part, reason in _NAMES if part in name), "server_error")
        if _is_too_long(name, message):
            reason = "context_too_long"
        lasting = _EXHAUSTED.search(f"{name} {message}") is not None
        text = self.clean(f"{self._host} broke off: {message or name or 'without a reason'}")
        return ModelFailure(reason, text, retryable=reason in RETRYABLE and not lasting)

    def broke(self, problem: str, reason: str = "connection_failed") -> ModelFailure:
        """Return the failure of an exchange without an answer."""
        return ModelFailure(reason, self.clean(f"{self._host}: {problem}"), retryable=reason in RETRYABLE)

    def clean(self, message: str) -> str:
        """Return a message on one line, without the credential and within MAX_MESSAGE_BYTES."""
        if self._secret:
            for form in (self._secret, msgspec.json.encode(self._secret).decode()[1:-1]):
                message = message.replace(form, "[credential]")
        # Truncate first: half a megabyte, character by character, takes a tenth of a second.
        message = message[:MAX_CLEANED_CHARACTERS]
        line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
        return truncate(line, MAX_MESSAGE_BYTES)


def parse_error_body(body: bytes) -> tuple[str, str]:
    """Return the name and the message of an error body in one of the published shapes, else its text."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", body.decode(errors="replace")
    if isinstance(decoded, list) and decoded:
        decoded = decoded[0]
    error = decoded.get("error", decoded) if isinstance(decoded, dict) else decoded
    name, message = _parts(error)
    return name, message or body.decode(errors="replace")


def _parts(error: Any) -> tuple[str, str]:
    if not isinstance(error, dict):
        return "", error if isinstance(error, str) else ""
    names = [str(error[key]) for key in ("type", "code", "status") if error.get(key)]
    message = next((error[key] for key in ("message", "detail", "error") if error.get(key)), "")
    text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
    return " ".join(names).lower(), text


def _is_too_long(name: str, message: str) -> bool:
    return "context_length" in name or _TOO_LONG.search(message) is not None


def retry_after(headers: Mapping[str, str], now_s: float) -> float | None:
    """Return the seconds that a provider asks to wait: milliseconds, seconds or a date (RFC 9110)."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    # Imported here, because it takes five milliseconds at start and most providers send seconds.
    from email.utils import parsedate_to_datetime

    try:
        return max(parsedate_to_datetime(value).timestamp() - now_s, 0.0)
    except (ValueError, OverflowError, OSError):
        return None


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return max(number, 0.0) if math.isfinite(number) else None
