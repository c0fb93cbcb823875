"""Error reports: names, messages, statuses and delays in the published shapes, and compressed bodies."""

import gzip
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.providers.error_report import (
    MAX_BODY_BYTES,
    MAX_SEARCHED_CHARACTERS,
    decompress,
    find_delay_s,
    is_error,
    parse_error,
    parse_error_body,
)


@pytest.mark.parametrize(
    ("body", "name", "message"),
    [
        (b'{"error":{"type":"t","code":"c","message":"m"}}', "t c", "m"),
        (b'{"type":"error","error":{"type":"t","message":"m"}}', "t", "m"),
        (b'{"error":"just a text"}', "", "just a text"),
        (b'{"detail":[{"loc":["body"]}]}', "", '[{"loc":["body"]}]'),
        (b'[{"error":{"code":400,"message":"m","status":"INVALID"}}]', "400 invalid", "m"),
        (b"<html>bad gateway</html>", "", "<html>bad gateway</html>"),
        (
            b"<!DOCTYPE html>\n<html><head><title> 502 Bad Gateway </title></head><body>" + b"x" * 9_000,
            "",
            "a web page with the title '502 Bad Gateway'",
        ),
        (b"say <title>x</title>", "", "say <title>x</title>"),
        (b'{"unknown":1}', "", '{"unknown":1}'),
        (b"\xff\xfe", "", "\ufffd\ufffd"),
        (b"[" * 100_000, "", "[" * MAX_SEARCHED_CHARACTERS),
        (b'{"message":"' + b"m" * 100_000 + b'"}', "", "m" * MAX_SEARCHED_CHARACTERS),
        (b"[]", "", "[]"),
        (b"", "", ""),
    ],
)
def test_bodies(body: bytes, name: str, message: str) -> None:
    """Published error bodies are parsed, a page is named by its title, and any other body is quoted."""
    report = parse_error_body(body)
    assert (report.name, report.message) == (name, message)


def test_the_message_of_the_provider_behind_a_router() -> None:
    """A router's report holds the message of the provider that failed."""
    metadata = {"raw": '{"error":"context window exceeded"}', "provider_name": "x"}
    report = parse_error({"message": "Provider returned error", "code": 400, "metadata": metadata})
    assert report.message == 'Provider returned error: {"error":"context window exceeded"}'
    assert report.status == 400
    assert parse_error({"message": "m", "metadata": {"raw": {"a": 1}}}).message == 'm: {"a":1}'


def test_halves_of_characters_do_not_break_a_message() -> None:
    """A message with half of a surrogate pair is still readable."""
    assert parse_error_body(b'{"error":"no \\ud83d"}').message == "no \ufffd"
    assert parse_error("no \ud83d").message == "no \ufffd"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Please retry in 20.1s.", 20.1),
        ("Please try again in 6m0s. Visit the page", 360.0),
        ("Please try again in 120ms", 0.12),
        ("Try again in 1h2m3.5s", 3723.5),
        ("retry after 30 seconds", 30.0),
        ("Please wait for 2 minutes", 120.0),
        ("Retry request after 5", 5.0),
        ("Please try again later", None),
        ("retry in a moment", None),
        ("", None),
    ],
)
def test_delays_in_messages(text: str, seconds: float | None) -> None:
    """A message that names a delay is understood."""
    assert find_delay_s(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        ({"details": [{"retryDelay": "20.1s"}]}, 20.1),
        ({"details": [{"retryDelay": {"seconds": 7}}]}, 7.0),
        ({"retry_after": 3}, 3.0),
        ({"error": {"metadata": {"retry_after": "2.5"}}}, 2.5),
        ({"retryDelay": "soon"}, None),
    ],
)
def test_delays_in_fields(error: Any, seconds: float | None) -> None:
    """A field that names a delay is found at any place."""
    assert parse_error(error).retry_after_s == (None if seconds is None else pytest.approx(seconds))


@given(st.text())
def test_delays_never_fail(text: str) -> None:
    """Any text has a delay of zero or more, or none."""
    delay_s = find_delay_s(f"retry in {text}")
    assert delay_s is None or delay_s >= 0


@pytest.mark.parametrize("value", [None, {}, [], "", 0, False, {"message": None, "code": ""}])
def test_empty_errors_are_none(value: Any) -> None:
    """Some servers always send an error field, and leave it empty."""
    assert not is_error(value)


@pytest.mark.parametrize("value", ["text", {"message": "m"}, [1], True])
def test_errors(value: Any) -> None:
    """Anything in an error field is an error."""
    assert is_error(value)


def test_decompress() -> None:
    """Every kind of compression is read or named, and no body grows without end."""
    raw = zlib.compressobj(wbits=-15)
    assert decompress(b"text", "") == decompress(b"text", "identity") == b"text"
    assert decompress(zlib.compress(b"text"), "deflate") == b"text"
    assert decompress(raw.compress(b"text") + raw.flush(), "deflate") == b"text"
    assert decompress(gzip.compress(b"text")[:-8], "gzip") == b"text"
    assert decompress(b"\x1f\x8bnothing", "") == b"a damaged body, compressed as gzip"
    assert decompress(b"text", "br") == b"a body compressed as br"
    assert len(decompress(gzip.compress(b"x" * 9_000_000), "gzip")) == MAX_BODY_BYTES
