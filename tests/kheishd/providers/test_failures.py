"""Failures of providers: one failure per kind of error, always without the credential."""

import gzip
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.kernel.runtime import ModelFailure
from kheishd.providers.failures import (
    MAX_CLEANED_CHARACTERS,
    MAX_MESSAGE_BYTES,
    FailureFactory,
    retry_after,
)

SECRET = 'sk-"quoted"-and-long'
NOW_S = 1_445_412_420.0
"""Wed, 21 Oct 2015 07:27:00 GMT."""


def by_status(status: int, body: Any = None, headers: dict[str, str] | None = None) -> ModelFailure:
    """Return the failure of a status and a body; the body is JSON or bytes."""
    encoded = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
    return FailureFactory("api.test", SECRET).by_status(status, headers or {}, encoded, NOW_S)


@pytest.mark.parametrize(
    ("status", "reason", "retryable"),
    [
        (302, "bad_request", False),
        (400, "bad_request", False),
        (401, "unauthorized", False),
        (402, "quota_exhausted", False),
        (403, "unauthorized", False),
        (404, "bad_request", False),
        (408, "rate_limited", True),
        (409, "rate_limited", True),
        (413, "context_too_long", False),
        (422, "bad_request", False),
        (429, "rate_limited", True),
        (500, "server_error", True),
        (498, "overloaded", True),
        (501, "server_error", False),
        (502, "server_error", True),
        (503, "server_error", True),
        (504, "server_error", True),
        (524, "server_error", True),
        (529, "overloaded", True),
    ],
)
def test_statuses(status: int, reason: str, retryable: bool) -> None:
    """Every status has its reason and is retryable or not."""
    failure = by_status(status)
    assert (failure.reason, failure.retryable, failure.status) == (reason, retryable, status)


@pytest.mark.parametrize(
    "error",
    [
        {
            "error": {
                "message": "too long",
                "type": "invalid_request_error",
                "code": "context_length_exceeded",
            }
        },
        {
            "error": {
                "message": "This model's maximum context length is 8192 tokens. Please reduce the length"
            }
        },
        {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}},
        {"error": {"code": 400, "message": "the request exceeds the available context size", "type": "x"}},
        {"object": "error", "message": "This model's maximum context length is 4096 tokens."},
        {"detail": "Input is too long for requested model."},
        {"error": "input length exceeds the model's context length"},
        {
            "error": {
                "message": "The input token count (1200000) exceeds the maximum number of tokens allowed"
            }
        },
        {"error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."},
        {"error": {"message": "prompt token count of 140000 exceeds the limit of 128000", "code": "invalid"}},
        {"error": {"message": "Invalid request: Your request exceeded model token limit: 131072"}},
        {"error": {"code": "1261", "message": "Prompt exceeds max length"}},
        {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 4096"},
        {"error": "inputs tokens + max_new_tokens must be <= 4097"},
        {"error": {"message": "no", "code": "max_tokens_exceeded"}},
        {"error": "The number of tokens makes the context the overflow"},
        {"error": {"message": "The decoder prompt (length 9) is longer than the maximum model length of 8."}},
        {"error": {"message": "Range of input length should be [1, 30720]", "code": "invalid_parameter"}},
    ],
)
def test_a_too_long_transcript_has_its_reason(error: dict[str, Any]) -> None:
    """Every provider's message for a too long transcript is recognized."""
    assert by_status(400, error).reason == "context_too_long"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}),
        (400, {"error": {"message": "Billing hard limit has been reached", "code": "billing_limit"}}),
        (400, {"error": {"message": "Your credit balance is too low", "type": "invalid_request_error"}}),
        (402, {"error": {"message": "Insufficient Balance", "type": "unknown_error"}}),
        (429, {"error": {"code": "1113", "message": "Insufficient balance or no resource package."}}),
        (429, {"error": {"code": "1113", "message": "余额不足或无可用资源包,请充值。"}}),
        (403, "Your team has either used all available credits or reached its monthly spending limit."),
        (429, {"error": {"message": "Your account org-1 <ak-2> is suspended, please check your plan"}}),
        (403, {"error": {"message": "is not active", "type": "exceeded_current_quota_error"}}),
        (402, {"error": {"message": "Credit limit exceeded.", "type": "credit_limit"}}),
        (412, {"error": {"message": "Account a is suspended, possibly due to reaching a limit"}}),
        (429, {"error": {"message": "ExceededBudget: over budget", "type": "budget_exceeded"}}),
        (429, {"error": "you (a) have reached your weekly usage limit, upgrade for higher limits"}),
        (429, {"error": {"code": 429, "message": "Your prepayment credits are depleted."}}),
    ],
)  # fmt: skip
def test_an_account_without_credit_is_not_waited_for(status: int, error: Any) -> None:
    """An account without credit or quota has a reason of its own, and is not called again."""
    for failure in (by_status(status, error), FailureFactory("api.test", None).by_error(error)):
        if status != 402 or failure.status == 402:
            assert (failure.reason, failure.retryable) == ("quota_exhausted", False)
            assert failure.message.endswith("; the account has no credit or quota left at this provider")


@pytest.mark.parametrize(
    "message",
    [
        "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000.",
        "Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 9000",
    ],
)
def test_a_request_larger_than_a_minute_is_too_long(message: str) -> None:
    """A request that exceeds the tokens of a whole minute is shortened: it would never be accepted."""
    for status in (413, 429):
        error = {"error": {"message": message, "code": "rate_limit_exceeded"}}
        assert by_status(status, error).reason == "context_too_long"


@pytest.mark.parametrize(
    "error",
    [
        {"message": "You have been rate limited. Your rate limit is 60 queries per minute. Upgrade."},
        {"message": "You exceeded the token rate limit of your pricing tier. Please retry after 20 seconds."},
        {"message": "request reached max request: 3, please try again after 1 seconds"},
        {"message": "Requests rate limit exceeded"},
        {"message": "Service tier capacity exceeded for this model.", "type": "invalid_request_error"},
    ],
)  # fmt: skip
def test_a_rate_limit_is_waited_for(error: dict[str, Any]) -> None:
    """Advice to upgrade does not make a rate limit an unpaid bill."""
    failure = by_status(429, {"error": error})
    assert (failure.reason, failure.retryable) == ("rate_limited", True)


def test_a_router_with_an_upstream_in_trouble_is_asked_again() -> None:
    """An upstream without credit behind a failing router is not the account of the route."""
    assert by_status(502, {"error": {"message": "upstream: insufficient credits"}}).retryable


PER_MINUTE = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan and billing details.\n"
        "* Quota exceeded for metric: generate_content_free_tier_input_token_count, limit: 250000\n"
        "Please retry in 20.1s.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "20.1s"}],
    }
}


@pytest.mark.parametrize("body", [PER_MINUTE, [PER_MINUTE]])
def test_a_limit_per_minute_is_not_a_lack_of_money(body: Any) -> None:
    """Google's limit per minute uses the words of an unpaid bill; it is retried after the named delay."""
    for failure in (by_status(429, body), FailureFactory("api.test", None).by_error(body)):
        assert (failure.reason, failure.retryable, failure.retry_after_s) == ("rate_limited", True, 20.1)
        assert "exceeded your current quota" in failure.message


def test_a_limit_per_minute_without_a_delay_is_retried() -> None:
    """The name of the exhausted quota is enough to know that it is one per minute."""
    quota = {"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}
    error = {"message": "You exceeded your current quota", "status": "RESOURCE_EXHAUSTED", "details": [quota]}
    failure = by_status(429, {"error": error})
    assert (failure.retryable, failure.retry_after_s) == (True, None)


@pytest.mark.parametrize("message", ["Insufficient Balance", "This request requires more credits", "no"])
def test_an_unpaid_bill_is_not_retried(message: str) -> None:
    """A server that asks for money gets no second request, even if it names a delay."""
    assert not by_status(402, {"error": {"message": message}}, {"retry-after": "3"}).retryable
    named = {"error": {"message": message, "code": "insufficient_quota"}}
    assert not by_status(429, named, {"retry-after": "3"}).retryable


def test_the_header_comes_before_the_body() -> None:
    """A delay in a header is more exact than one in a message."""
    assert by_status(429, PER_MINUTE, {"retry-after": "7"}).retry_after_s == 7.0


@pytest.mark.parametrize(
    "error",
    [
        {"code": "tool_use_failed", "message": "Failed to call a function.", "failed_generation": "<x"},
        {"code": "json_validate_failed", "message": "Failed to generate JSON."},
        {"message": "tool call validation failed: attempted to call tool 'x'"},
    ],
)
def test_a_mistake_of_the_model_is_retried(error: dict[str, Any]) -> None:
    """A server that rejects its own model's call gets the request again."""
    for failure in (by_status(400, {"error": error}), FailureFactory("api.test", None).by_error(error)):
        assert (failure.reason, failure.retryable) == ("bad_response", True)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "", "GZIP"])
def test_a_compressed_body_is_read(encoding: str) -> None:
    """An error keeps its message and its class though its server compressed it unasked."""
    body = gzip.compress(msgspec.json.encode({"error": {"message": "prompt is too long: 9 > 8"}}))
    failure = by_status(400, body, {"content-encoding": encoding})
    assert failure.reason == "context_too_long"
    assert "9 > 8" in failure.message


@pytest.mark.parametrize(
    ("secret", "auth_ref", "source"),
    [(SECRET, "env:KEY", "the credential is env:KEY"), (None, None, "the route has no auth_ref")],
)
def test_a_refused_credential_is_named(secret: str | None, auth_ref: str | None, source: str) -> None:
    """The message names the reference of a refused credential, or the missing key of the route."""
    failure = FailureFactory("api.test", secret, auth_ref).by_status(401, {}, b"Wrong key.", NOW_S)
    assert failure.message == f"api.test answered 401: Wrong key; {source}"


@pytest.mark.parametrize("status", [404, 405])
def test_an_unknown_path_is_named(status: int) -> None:
    """The message names a path that the server does not know, but not for an unknown model."""
    failures = FailureFactory("api.test", SECRET)
    failure = failures.by_status(status, {}, b"404 page not found", NOW_S, "/chat/completions")
    assert failure.message == (
        f"api.test answered {status}: 404 page not found; the request went to /chat/completions: "
        "check the route's base_url and driver"
    )
    page = b"<html><title>Not Found</title><body>Find the best models here</body></html>"
    assert "base_url" in failures.by_status(status, {}, page, NOW_S, "/api/chat/completions").message
    for message in ("model 'qwen' not found", "No endpoints found that support tool use"):
        body = msgspec.json.encode({"error": {"message": message}})
        assert "base_url" not in failures.by_status(status, {}, body, NOW_S, "/v1/x").message


def test_a_redirect_names_its_target() -> None:
    """The target is shown without user, password and query, because these may be secrets."""
    failure = by_status(307, b"", {"location": "https://user:pw@other.test/v1/chat?key=1"})
    assert "https://other.test/v1/chat;" in failure.message
    assert "pw" not in failure.message
    assert "key" not in failure.message
    assert "/v2/chat" in by_status(308, b"", {"location": "/v2/chat"}).message
    assert "without a target" in by_status(301).message
    assert "invalid address" in by_status(301, b"", {"location": "http://[::1"}).message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 60.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Wed, 21 Oct 99999 07:00:00 GMT"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Milliseconds, seconds and dates are parsed; any other value is ignored."""
    assert retry_after(headers, NOW_S) == seconds
    assert by_status(429, headers=headers).retry_after_s == seconds


@given(st.text())
def test_retry_after_never_fails(value: str) -> None:
    """Every value of the header is parsed to a non-negative time or to nothing."""
    seconds = retry_after({"retry-after": value, "retry-after-ms": value}, NOW_S)
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, "overloaded", True),
        ({"type": "api_error", "message": "Internal server error"}, "server_error", True),
        ({"type": "rate_limit_error", "message": "slow down"}, "rate_limited", True),
        ({"type": "authentication_error", "message": "no"}, "unauthorized", False),
        ({"type": "permission_error", "message": "no"}, "unauthorized", False),
        ({"type": "invalid_request_error", "message": "no"}, "bad_request", False),
        ({"type": "invalid_request_error", "message": "prompt is too long"}, "context_too_long", False),
        ({"type": "request_too_large", "message": "no"}, "context_too_long", False),
        ({"type": "timeout_error", "message": "no"}, "timed_out", True),
        ({"code": 429, "message": "no"}, "rate_limited", True),
        ({"code": 502, "message": "no"}, "server_error", True),
        ({"code": "insufficient_quota", "message": "no"}, "quota_exhausted", False),
        ({"status": "INVALID_ARGUMENT", "message": "no"}, "bad_request", False),
        ({"type": "BadRequestError", "message": "no"}, "bad_request", False),
        ({"status": "DEADLINE_EXCEEDED", "message": "no"}, "timed_out", True),
        ({"code": "429", "message": "no"}, "rate_limited", True),
        ({"message": "Rate limit reached for requests"}, "rate_limited", True),
        ({"detail": "The model is at capacity"}, "overloaded", True),
        ({"error": "no", "error_type": "validation"}, "bad_request", False),
        ({"error": "Model is overloaded", "error_type": "overloaded"}, "overloaded", True),
        ({"statusCode": 429, "message": "Try again in 20 seconds."}, "rate_limited", True),
        ({"object": "error", "message": "no", "code": 400}, "bad_request", False),
        ("a text", "server_error", True),
        (None, "server_error", True),
        ({}, "server_error", True),
    ],
)
def test_errors_inside_a_stream(error: Any, reason: str, retryable: bool) -> None:
    """An error object within a stream is classified by its type."""
    failure = FailureFactory("api.test", None).by_error(error)
    assert (failure.reason, failure.retryable) == (reason, retryable)


def test_a_wrong_key_of_google() -> None:
    """Google refuses a wrong key with the status of a wrong request; its details name the key."""
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    error = {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT", "details": details}
    assert by_status(400, {"error": error}).reason == "unauthorized"
    assert by_status(400, {"error": {**error, "details": []}}).reason == "bad_request"


def test_the_credential_is_taken_out() -> None:
    """A credential that the provider repeats, plain or inside JSON, is redacted in the message."""
    for body in (
        {"error": {"message": f"Incorrect API key provided: {SECRET}."}},
        f"plain {SECRET} text".encode(),
        {"unknown": f"key {SECRET}"},
        {"error": {"message": "x" * (MAX_MESSAGE_BYTES - 10) + SECRET}},
    ):
        message = by_status(401, body).message
        assert SECRET not in message
        assert "quoted" not in message
        assert "sk-" not in message
    assert "[credential]" in by_status(401, f"plain {SECRET} text".encode()).message


def test_messages_are_one_line_and_short() -> None:
    """A long text with control characters becomes one line within the limit."""
    message = by_status(500, b"first\r\nsecond\x00\x1b[31m" + "ü".encode() * 10_000).message
    assert message.startswith("api.test answered 500: first second")
    assert len(message.encode()) <= MAX_MESSAGE_BYTES
    assert message.isprintable()


def test_an_empty_body_is_said_to_be_empty() -> None:
    """The message of an empty body says that the body is empty."""
    assert by_status(503).message == "api.test answered 503: nothing more"


def test_broke() -> None:
    """A broken exchange is retryable unless the request caused it."""
    failures = FailureFactory("api.test", SECRET)
    assert failures.broke("no connection").retryable
    assert not failures.broke("not a URL", "bad_request").retryable
    assert failures.broke(f"x {SECRET}").message == "api.test: x [credential]"


def test_a_huge_message_is_truncated_before_it_is_sanitized() -> None:
    """A huge message is truncated before it is sanitized, but after the credential is redacted."""
    failures = FailureFactory("api.test", SECRET)
    long = failures.clean("x" * 1_000_000)
    assert len(long.encode()) <= MAX_MESSAGE_BYTES
    assert failures.clean(" " * (MAX_CLEANED_CHARACTERS - 8) + SECRET + "y" * 1_000_000) == "[credent"


def test_a_model_of_the_responses_api_only() -> None:
    """A refusal that names the Responses API says how a route uses it."""
    message = "Function tools are not supported in /v1/chat/completions. To use them, use /v1/responses."
    body = msgspec.json.encode({"error": {"message": message, "type": "invalid_request_error"}})
    failure = FailureFactory("api.test", None).by_status(400, {}, body, 0.0)
    assert failure.reason == "bad_request"
    hint = 'set driver = "responses" in the route, which speaks that API'
    assert failure.message == f"api.test answered 400: {message.removesuffix('.')}; {hint}"


def test_an_encoded_credential_at_the_cut() -> None:
    """A provider that repeats the credential in base64 at the limit of a message shows no part of it."""
    import base64

    secret = "key-0123456789-abcdefghij"
    encoded = base64.b64encode(secret.encode()).decode()
    message = "x " * 1000 + encoded
    failure = FailureFactory("api.test", secret).by_error({"message": message})
    assert encoded[:8] not in str(failure)
