"""Error objects and error bodies of providers, in all published shapes, as one report."""

from __future__ import annotations

import re
import zlib
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kheishd.core.text.surrogates import join_surrogates
from kheishd.providers.lenient import clean_json, load_json

# The part of an error body that is read for its message.
MAX_BODY_BYTES = 64 * 1024

# The part of a name, a message or a text that is searched, which takes up to a microsecond per character.
MAX_SEARCHED_CHARACTERS = 32 * 1024

_NAMES = ("type", "code", "status", "error_type")
_MESSAGES = ("message", "detail", "error", "msg", "errorMessage")
_FIRST_BYTES_OF_GZIP = b"\x1f\x8b"

# "Please retry in 20.1s", "try again in 6m0s", "retry after 3 seconds".
_DELAY_IN_TEXT = re.compile(
    r"(?:retry|try again|wait)\s+(?:\w+\s+)?(?:in|after|for)\s+"
    r"((?:\d+(?:\.\d+)?\s*(?:ms|milliseconds?|hours?|h|minutes?|mins?|m|seconds?|secs?|s)?[\s,]*)+)",
    re.IGNORECASE,
)
_PART_OF_DELAY = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|milli|h|m|s|$)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "milli": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_DELAY_FIELDS = ("retrydelay", "retry_delay", "retryafter", "retry_after")

# A proxy's error page, which is long.
_TITLE = re.compile(r"^\s*<.{0,2000}?<title[^>]*>([^<]{1,200})</title>", re.IGNORECASE | re.DOTALL)

# The levels of an error object that are searched for a delay.
MAX_DEPTH = 8


class ErrorReport(Struct, frozen=True):
    """The name of an error, its message, its HTTP status and the delay that the provider asks for.

    ``text`` is everything that the provider sent, for searches.
    """

    name: str = ""
    message: str = ""
    status: int | None = None
    retry_after_s: float | None = None
    text: str = ""


def is_error(value: Any) -> bool:
    """Whether the value of an ``error`` field reports an error: some servers always send an empty one."""
    return any(value.values()) if isinstance(value, dict) else bool(value)


def is_error_object(decoded: Any) -> bool:
    """Whether a JSON value in the place of an answer reports an error."""
    if isinstance(decoded, list):
        return bool(decoded) and is_error_object(decoded[0])
    if not isinstance(decoded, dict):
        return False
    if is_error(decoded.get("error")) or "error" in (decoded.get("object"), decoded.get("type")):
        return True
    # A message alone is an error, but with a type it may be an event of a kind that is not known here.
    kind = str(decoded.get("type") or decoded.get("object") or "")
    has_message = any(isinstance(decoded.get(key), str) and decoded[key] for key in ("message", "msg"))
    return (has_message or bool(decoded.get("detail"))) and (not kind or "error" in kind.lower())


def parse_error_body(body: bytes) -> ErrorReport:
    """Return the report of an error body in one of the published shapes, else its text as the message."""
    text = body[:MAX_BODY_BYTES].decode(errors="replace")[:MAX_SEARCHED_CHARACTERS]
    try:
        report = parse_error(clean_json(load_json(body)))
    except ValueError:
        title = _TITLE.search(text)
        message = f"a web page with the title '{title[1].strip()}'" if title is not None else text
        return ErrorReport("", message, None, find_delay_s(text), text)
    return report if report.message else replace(report, message=text)


def parse_error(decoded: Any) -> ErrorReport:
    """Return the report of an error object, or of an object that holds one.

    Its texts are truncated to MAX_SEARCHED_CHARACTERS.
    """
    while isinstance(decoded, list) and decoded:
        decoded = decoded[0]
    if isinstance(decoded, str):
        text = join_surrogates(decoded[:MAX_SEARCHED_CHARACTERS])
        return ErrorReport("", text, None, find_delay_s(text), text)
    if not isinstance(decoded, dict):
        return ErrorReport()
    inner = decoded.get("error")
    error: dict[str, Any] = inner if isinstance(inner, dict) and is_error(inner) else decoded
    message = next((error[key] for key in _MESSAGES if error.get(key)), "")
    text = _to_text(decoded)[:MAX_SEARCHED_CHARACTERS]
    codes = (str(error.get(key)) for key in ("code", "status", "status_code", "statusCode"))
    return ErrorReport(
        name=" ".join(str(error[key]) for key in _NAMES if error.get(key)).lower()[:MAX_SEARCHED_CHARACTERS],
        message=_add_upstream(error, message if isinstance(message, str) else _to_text(message))[
            :MAX_SEARCHED_CHARACTERS
        ],
        status=next((int(text) for text in codes if re.fullmatch(r"[45]\d\d", text)), None),
        retry_after_s=_find_delay_field(decoded, MAX_DEPTH) or find_delay_s(text),
        text=text,
    )


def _add_upstream(error: dict[str, Any], message: str) -> str:
    """Return a router's message with that of the provider behind it."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return f"{message}: {raw if isinstance(raw, str) else _to_text(raw)}" if raw else message


def _to_text(value: Any) -> str:
    try:
        return msgspec.json.encode(clean_json(value)).decode()
    except (ValueError, OverflowError, RecursionError):
        # Nested too deeply, or a number of more than 64 bits.
        return ""


# Delays.


def find_delay_s(text: str) -> float | None:
    """Return the delay in seconds that a message asks for, such as "Please retry in 20.1s"."""
    match = _DELAY_IN_TEXT.search(text[:MAX_BODY_BYTES])
    return _parse_delay(match[1]) if match is not None else None


def _find_delay_field(value: Any, depth: int) -> float | None:
    """Return the delay of a field such as Google's ``retryDelay``, wherever it is."""
    if depth == 0 or not isinstance(value, dict | list):
        return None
    if isinstance(value, dict):
        for name, field in value.items():
            if name.lower() in _DELAY_FIELDS:
                # Google's libraries send an object of seconds and nanoseconds, too.
                text = str(field.get("seconds", "") if isinstance(field, dict) else field)
                if (delay_s := _parse_delay(text)) is not None:
                    return delay_s
    elements = value.values() if isinstance(value, dict) else value
    return next(
        (delay_s for element in elements if (delay_s := _find_delay_field(element, depth - 1)) is not None),
        None,
    )


def _parse_delay(text: str) -> float | None:
    parts = _PART_OF_DELAY.findall(text.strip(" ,."))
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts) if parts else None


# Compression.


def decompress(body: bytes, encoding: str) -> bytes:
    """Return the readable form of an error body; some servers and proxies compress it unasked."""
    if "gzip" not in encoding and "deflate" not in encoding and not body.startswith(_FIRST_BYTES_OF_GZIP):
        return body if encoding in ("", "identity") else f"a body compressed as {encoding}".encode()
    # Gzip and zlib have a header; the deflate of some servers has none.
    for window_bits in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):
        try:
            return zlib.decompressobj(window_bits).decompress(body, MAX_BODY_BYTES)
        except zlib.error:
            continue
    return f"a damaged body, compressed as {encoding or 'gzip'}".encode()
