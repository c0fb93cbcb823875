"""Why a model call failed, from what a provider answered: one table for statuses, one for its own words."""

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from kheishd.kernel.runtime import ModelFailure

# What of a provider's complaint is kept, and what is read of it to find the part that matters.
MAX_MESSAGE_BYTES = 2 * 1024
MAX_CLEANED_CHARACTERS = 4 * MAX_MESSAGE_BYTES
MAX_BODY_BYTES = 64 * 1024

RETRYABLE = frozenset(
    ("rate_limited", "overloaded", "connection_failed", "timed_out", "server_error", "bad_response")
)
"""The reasons after which the same request may well succeed."""

_STATUSES = {
    401: "unauthorized",
    403: "unauthorized",
    408: "rate_limited",
    409: "rate_limited",
    413: "context_too_long",
    429: "rate_limited",
    529: "overloaded",
}

# What providers call their errors (``type`` or ``code``), by a part of the name, most telling first.
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

# How providers say that a transcript is too long: OpenAI and vLLM, Anthropic, llama.cpp, OpenRouter, Ollama.
_TOO_LONG = re.compile(
    r"maximum context length|context[ _-]?(length|window|size)|prompt is too long|too many (input )?tokens"
    r"|input is too long|exceeds? the (available|model'?s?) context|reduce the length",
    re.IGNORECASE,
)

# A limit that no waiting lifts: it takes someone to pay.
_EXHAUSTED = re.compile(r"insufficient_quota|exceeded your current quota|credit balance", re.IGNORECASE)


class Refusing:
    """Makes failures of what one provider says, never with the credential in them."""

    def __init__(self, host: str, secret: str | None) -> None:
        self._host = host
        self._secret = secret

    def by_status(self, status: int, headers: Mapping[str, str], body: bytes, now_s: float) -> ModelFailure:
        """The failure of an answer that is no success. ``now_s`` is the wall clock, for dates."""
        name, message = explain(body)
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
        """The failure that an error object inside a stream stands for."""
        code = error.get("code") if isinstance(error, dict) else None
        name, message = _parts(error)
        if isinstance(code, int) and 400 <= code <= 599:
            return self.by_status(code, {}, msgspec.json.encode({"error": error}), 0.0)
        reason = next((known for part, known in _NAMES if part in name), "server_error")
        if _is_too_long(name, message):
            reason = "context_too_long"
        lasting = _EXHAUSTED.search(f"{name} {message}") is not None
        said = self.clean(f"{self._host} broke off: {message or name or 'without saying why'}")
        return ModelFailure(reason, said, retryable=reason in RETRYABLE and not lasting)

    def broke(self, what: str, reason: str = "connection_failed") -> ModelFailure:
        """The failure of an exchange that came to no answer."""
        return ModelFailure(reason, self.clean(f"{self._host}: {what}"), retryable=reason in RETRYABLE)

    def clean(self, message: str) -> str:
        """A message on one line, without the credential and within MAX_MESSAGE_BYTES."""
        if self._secret:
            for form in (self._secret, msgspec.json.encode(self._secret).decode()[1:-1]):
                message = message.replace(form, "[credential]")
        # Cut first: half a megabyte, character by character, holds the loop up for a tenth of a second.
        message = message[:MAX_CLEANED_CHARACTERS]
        line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
        encoded = line.encode()
        if len(encoded) <= MAX_MESSAGE_BYTES:
            return line
        return encoded[: MAX_MESSAGE_BYTES - 3].decode(errors="ignore") + "…"


def explain(body: bytes) -> tuple[str, str]:
    """The name and the sentence of an error body, as the published shapes hold them; else its text."""
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
    said = next((error[key] for key in ("message", "detail", "error") if error.get(key)), "")
    return " ".join(names).lower(), said if isinstance(said, str) else msgspec.json.encode(said).decode()


def _is_too_long(name: str, message: str) -> bool:
    return "context_length" in name or _TOO_LONG.search(message) is not None


def retry_after(headers: Mapping[str, str], now_s: float) -> float | None:
    """How long a provider asks to be left alone, in seconds: milliseconds, seconds or a date (RFC 9110)."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    # Imported here, as it costs a start five milliseconds and most providers give seconds.
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
