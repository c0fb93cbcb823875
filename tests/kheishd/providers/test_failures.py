"""Failures of providers: one failure per kind of error, and never the credential."""

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
    parse_error_body,
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
        (402, "bad_request", False),
        (403, "unauthorized", False),
        (404, "bad_request", False),
        (408, "rate_limited", True),
        (409, "rate_limited", True),
        (413, "context_too_long", False),
        (422, "bad_request", False),
        (429, "rate_limited", True),
        (500, "server_error", True),
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
    ],
)
def test_a_transcript_too_long_is_told_apart(error: dict[str, Any]) -> None:
    """Every provider's message for a too long transcript is recognized."""
    assert by_status(400, error).reason == "context_too_long"


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}},
        {"error": {"message": "Your credit balance is too low"}},
    ],
)
def test_an_exhausted_quota_is_not_waited_for(error: dict[str, Any]) -> None:
    """An exhausted quota is not retried."""
    failure = by_status(429, error)
    assert (failure.reason, failure.retryable) == ("rate_limited", False)


@pytest.mark.parametrize(
    ("body", "name", "message"),
    [
        (b'{"error":{"type":"t","code":"c","message":"m"}}', "t c", "m"),
        (b'{"type":"error","error":{"type":"t","message":"m"}}', "t", "m"),
        (b'{"error":"just a text"}', "", "just a text"),
        (b'{"detail":[{"loc":["body"]}]}', "", '[{"loc":["body"]}]'),
        (b'[{"error":{"code":400,"message":"m","status":"INVALID"}}]', "400 invalid", "m"),
        (b"<html>bad gateway</html>", "", "<html>bad gateway</html>"),
        (b'{"unknown":1}', "", '{"unknown":1}'),
        (b"\xff\xfe", "", "\ufffd\ufffd"),
        (b"[" * 100_000, "", "[" * 100_000),
        (b"[]", "", "[]"),
        (b"", "", ""),
    ],
)
def test_bodies(body: bytes, name: str, message: str) -> None:
    """Published error bodies are parsed; any other body is quoted."""
    assert parse_error_body(body) == (name, message)


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
        ({"code": "insufficient_quota", "message": "no"}, "rate_limited", False),
        ("a text", "server_error", True),
        (None, "server_error", True),
        ({}, "server_error", True),
    ],
)
def test_errors_inside_a_stream(error: Any, reason: str, retryable: bool) -> None:
    """An error object within a stream is classified by its type."""
    failure = FailureFactory("api.test", None).by_error(error)
    assert (failure.reason, failure.retryable) == (reason, retryable)


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


def test_a_message_of_megabytes_is_cut_before_it_is_cleaned() -> None:
    """A huge message is truncated before it is sanitised, but after the credential is redacted."""
    failures = FailureFactory("api.test", SECRET)
    long = failures.clean("x" * 1_000_000)
    assert len(long.encode()) <= MAX_MESSAGE_BYTES
    assert failures.clean(" " * (MAX_CLEANED_CHARACTERS - 8) + SECRET + "y" * 1_000_000) == "[credent"
