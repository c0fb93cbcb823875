"""Failures of model calls: one table for HTTP statuses, one for the providers' own names."""

import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.runtime import ModelFailure
from kheishd.providers.error_report import ErrorReport, decompress, parse_error, parse_error_body
from protocol.text import truncate

# The stored part of an error message.
MAX_MESSAGE_BYTES = 2 * 1024
MAX_QUOTE_BYTES = 200
MAX_CLEANED_CHARACTERS = 4 * MAX_MESSAGE_BYTES

RETRYABLE = frozenset(
    (
        "rate_limited",
        "overloaded",
        "connection_failed",
        "timed_out",
        "server_error",
        "bad_response",
        "empty_answer",
    )
)
"""The reasons after which the same request may succeed."""

_STATUSES = {
    401: "unauthorized",
    403: "unauthorized",
    408: "rate_limited",
    409: "rate_limited",
    413: "context_too_long",
    429: "rate_limited",
    # Groq's flexible tier has no capacity.
    498: "overloaded",
    529: "overloaded",
}

# The providers' names of errors (``type``, ``code`` or ``status``), by a part, most specific first.
_NAMES = (
    ("context_length", "context_too_long"),
    ("request_too_large", "context_too_long"),
    ("exceed_context_size", "context_too_long"),
    ("max_tokens_exceeded", "context_too_long"),
    ("rate_limit", "rate_limited"),
    ("ratelimit", "rate_limited"),
    ("too_many_requests", "rate_limited"),
    ("resource_exhausted", "rate_limited"),
    ("quota", "rate_limited"),
    ("throttl", "rate_limited"),
    ("overloaded", "overloaded"),
    ("unavailable", "overloaded"),
    ("capacity", "overloaded"),
    ("authentication", "unauthorized"),
    ("unauthorized", "unauthorized"),
    ("permission", "unauthorized"),
    ("forbidden", "unauthorized"),
    ("api_key", "unauthorized"),
    ("invalid_request", "bad_request"),
    ("invalid_prompt", "bad_request"),
    ("invalid_argument", "bad_request"),
    ("badrequest", "bad_request"),
    ("bad_request", "bad_request"),
    ("validation", "bad_request"),
    ("precondition", "bad_request"),
    ("content_filter", "bad_request"),
    ("policy", "bad_request"),
    ("mismatch", "bad_request"),
    ("not_found", "bad_request"),
    ("timeout", "timed_out"),
    ("deadline", "timed_out"),
)

# Messages of errors without a usable name or status.
_MESSAGES = (
    (re.compile(r"rate.?limit|too many requests", re.IGNORECASE), "rate_limited"),
    (re.compile(r"overloaded|at capacity|temporarily unavailable", re.IGNORECASE), "overloaded"),
)

# Messages for a transcript that is too long. In this order: OpenAI and vLLM; Anthropic; llama.cpp, OpenRouter
# and Ollama; Gemini; xAI; Copilot; Moonshot; Z.AI; TGI and Together; a code without a message; LM Studio;
# vLLM's decoder; Qwen.
_TOO_LONG = re.compile(
    r"maximum context length|context[ _-]?(length|window|size|limit)|reduce the length"
    r"|prompt is too long|too many (input )?tokens|input is too long"
    r"|exceeds? the (available|model'?s?) context"
    r"|input token count.{0,40}(exceeds|but model only supports)"
    r"|maximum prompt length"
    r"|prompt token count.{0,40}exceeds"
    r"|exceeded model token limit"
    r"|prompt exceeds (the )?max(imum)? length"
    r"|inputs?`? tokens \+ `?max_new_tokens|inputs?`? must have less than"
    r"|max_tokens_exceeded"
    r"|context.{0,20}overflow"
    r"|longer than the maximum model length"
    r"|range of input length",
    re.IGNORECASE,
)

# A request that is larger than what a minute may have: OpenAI reports it as a rate limit, which no waiting
# helps against.
_TOO_LARGE_FOR_A_MINUTE = re.compile(r"request too large for", re.IGNORECASE)

# An account without credit or quota: waiting does not help, only payment, or another day. Google uses the
# words of the first expression for limits per minute, too, and then says how long to wait. In this order:
# OpenAI and Google; Anthropic; DeepSeek, Z.AI and Moonshot; OpenRouter and xAI; Together; Fireworks; LiteLLM;
# Ollama.
_UNPAID_NAMES = (
    "insufficient_quota",
    "billing",
    "payment_required",
    "insufficient_balance",
    "exceeded_current_quota",
    "budget_exceeded",
)
_UNPAID = re.compile(
    r"exceeded (your )?current quota|billing hard limit|prepayment credits"
    r"|credit balance"
    r"|insufficient[ _](balance|credits?|funds|quota)|余额不足"
    r"|requires? more credits|(add|purchase|buy) (more )?credits?|used all available credits|spending limit"
    r"|credit limit exceeded|payment required"
    r"|account .{0,120}suspended"
    r"|budget has been exceeded|(exceeded|over) budget"
    r"|(hourly|daily|weekly|monthly|session|your) usage limit|usage limit reached",
    re.IGNORECASE,
)
_PER_MINUTE = re.compile(r"per[ _-]?minute", re.IGNORECASE)

# The model's own mistakes, which its server reports as errors of the request: another attempt may succeed.
_MISTAKES_OF_MODEL = re.compile(
    r"tool_use_failed|output_parse_failed|json_validate_failed|failed to call a function"
    r"|tool call validation failed|failed to parse tool call|error parsing tool call",
    re.IGNORECASE,
)

# Unknown things other than the path: a model, OpenRouter's endpoints of one, an item of a response.
_OTHER_UNKNOWN = re.compile(r"model|endpoints|\bitem\b", re.IGNORECASE)

# Statuses whose reason is certain, whatever the message mentions.
_CERTAIN_STATUSES = (401, 402, 403, 408, 409, 429)


RESPONSES_HINT = 'set driver = "responses" in the route, which speaks that API'
UNPAID_HINT = "the account has no credit or quota left at this provider"


class FailureFactory:
    """A factory of failures from a provider's errors. It removes the credential from their messages.

    ``auth_ref`` names the credential in the message about a refused one.
    """

    def __init__(self, host: str, secret: str | None, auth_ref: str | None = None) -> None:
        self._host = host
        self._secret = secret
        self._auth_ref = auth_ref

    def by_status(
        self, status: int, headers: Mapping[str, str], body: bytes, now_s: float, path: str = ""
    ) -> ModelFailure:
        """Return the failure of an HTTP error.

        ``now_s`` is the wall clock, for dates. The message names the requested ``path`` if the server does
        not know it.
        """
        report = parse_error_body(decompress(body, headers.get("content-encoding", "").strip().lower()))
        message = f"{self._host} answered {status}: {report.message or 'nothing more'}"
        if 300 <= status <= 399:
            message = f"{self._host} answered {status}: {_describe_redirect(headers.get('location'))}"
        elif status in (404, 405) and not _OTHER_UNKNOWN.search(f"{report.name} {report.message}"):
            message = self._add_hint(
                message, f"the request went to {path}: check the route's base_url and driver"
            )
        return self._make(message, status, report, retry_after(headers, now_s))

    def by_error(self, error: Any) -> ModelFailure:
        """Return the failure of an error object inside a stream, or of an object that holds one."""
        return self._by_report(parse_error(error))

    def by_body(self, data: bytes) -> ModelFailure:
        """Return the failure of an error that came as the data of an event, or as a body with status 200."""
        return self._by_report(parse_error_body(data))

    def _by_report(self, report: ErrorReport) -> ModelFailure:
        if report.status is not None:
            message = f"{self._host} answered {report.status}: {report.message or report.name}"
        else:
            message = f"{self._host} sent an error: {report.message or report.name or 'without a message'}"
        return self._make(message, report.status, report, None)

    def _make(
        self, message: str, status: int | None, report: ErrorReport, retry_after_s: float | None
    ) -> ModelFailure:
        delay_s = retry_after_s if retry_after_s is not None else report.retry_after_s
        reason = find_reason(status, report)
        if _is_unpaid(status, report, delay_s):
            reason = "quota_exhausted"
            message = self._add_hint(message, UNPAID_HINT)
        elif reason == "unauthorized":
            source = f"the credential is {self._auth_ref}" if self._secret else "the route has no auth_ref"
            message = self._add_hint(message, source)
        elif reason == "bad_request" and "v1/responses" in report.message:
            message = self._add_hint(message, RESPONSES_HINT)
        return ModelFailure(
            reason,
            self.clean(message),
            retryable=reason in RETRYABLE and status not in (501, 505),
            status=status,
            retry_after_s=delay_s,
        )

    def _add_hint(self, message: str, hint: str) -> str:
        """Return a clean message with a hint.

        It is cleaned before it is shortened: a part of the credential would not be recognized.
        """
        shortened = truncate(self.clean(message), MAX_MESSAGE_BYTES // 2)
        return f"{shortened.rstrip(' .')}; {hint}"

    def broke(self, problem: str, reason: str = "connection_failed") -> ModelFailure:
        """Return the failure of an exchange without an answer."""
        return ModelFailure(reason, self.clean(f"{self._host}: {problem}"), retryable=reason in RETRYABLE)

    def malformed(self, problem: str, data: bytes) -> ModelFailure:
        """Return the failure of an answer that violates the provider's protocol, with its beginning."""
        beginning = truncate(self.clean(data.decode(errors="replace")), MAX_QUOTE_BYTES)
        return ModelFailure("bad_response", f"{self._host} sent {problem}: {beginning}", retryable=True)

    def clean(self, message: str) -> str:
        """Return a message on one line, without the credential and within MAX_MESSAGE_BYTES."""
        if self._secret:
            for form in (self._secret, msgspec.json.encode(self._secret).decode()[1:-1]):
                message = message.replace(form, "[credential]")
            # In any other spelling, before a part of it is left.
            message = Scrubber((self._secret,)).scrub_text(message)
        # Truncate first: half a megabyte, character by character, takes a tenth of a second.
        message = message[:MAX_CLEANED_CHARACTERS]
        line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
        return truncate(line, MAX_MESSAGE_BYTES)


def find_reason(status: int | None, report: ErrorReport) -> str:
    """Return the reason of a failure: from its status, the provider's name for it, or its message."""
    described = f"{report.name} {report.message}"
    if status == 400 and "API_KEY_INVALID" in report.text:
        # Google's status for a wrong key.
        return "unauthorized"
    if status == 429 and _TOO_LARGE_FOR_A_MINUTE.search(report.message):
        return "context_too_long"
    if status in _CERTAIN_STATUSES:
        return "context_too_long" if "context_length" in report.name else _STATUSES.get(status, "bad_request")
    if "context_length" in report.name or _TOO_LONG.search(described):
        return "context_too_long"
    if _MISTAKES_OF_MODEL.search(described):
        return "bad_response"
    if status is not None:
        reason = _STATUSES.get(status) or ("server_error" if status >= 500 else "bad_request")
        return "rate_limited" if reason == "bad_request" and "resource_exhausted" in report.name else reason
    by_name = (reason for part, reason in _NAMES if part in report.name)
    if report.name:
        return next(by_name, "server_error")
    return next((reason for words, reason in _MESSAGES if words.search(report.message)), "server_error")


def _is_unpaid(status: int | None, report: ErrorReport, delay_s: float | None) -> bool:
    if status == 402 or any(name in report.name for name in _UNPAID_NAMES):
        return True
    if status is not None and status >= 500:
        return False
    waits = delay_s is not None or _PER_MINUTE.search(report.text) is not None
    return _UNPAID.search(report.message) is not None and not waits


def _describe_redirect(location: str | None) -> str:
    if not location:
        return "a redirect without a target"
    try:
        target = urlsplit(location)
        host = target.netloc.rpartition("@")[2]
    except ValueError:
        return "a redirect to an invalid address"
    place = f"{target.scheme}://{host}{target.path}" if host else target.path
    return f"a redirect to {place}; redirects are not followed, so the route's base_url must name the target"


def retry_after(headers: Mapping[str, str], now_s: float) -> float | None:
    """Return the seconds that a provider asks to wait: milliseconds, seconds or a date (RFC 9110)."""
    milliseconds = _parse_number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _parse_number(value)
    if seconds is not None or value is None:
        return seconds
    # Imported here, because it takes five milliseconds at start and most providers send seconds.
    from email.utils import parsedate_to_datetime

    try:
        return max(parsedate_to_datetime(value).timestamp() - now_s, 0.0)
    except (ValueError, OverflowError, OSError):
        return None


def _parse_number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return max(number, 0.0) if math.isfinite(number) else None
