"""Captures contain no credential, and with a redactor no text."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.text.redaction import (
    MIN_DIGEST_CHARACTERS,
    REDACTED,
    Redactor,
    redact_headers,
    redact_url,
)

REDACTOR = Redactor(b"key")
LONG = "What a long sentence this is, to be sure."


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("https://api.test/v1/x?beta=true", "https://api.test/v1/x?beta=true"),
        ("https://me:pw@api.test/v1", f"https://{REDACTED}@api.test/v1"),
        ("https://api.test/v1?a=1&api_key=abc&b=2", f"https://api.test/v1?a=1&api_key={REDACTED}&b=2"),
        ("https://api.test/v1?key=abc#x", f"https://api.test/v1?key={REDACTED}#x"),
        ("no url", "no url"),
    ],
)
def test_redact_url(url: str, redacted: str) -> None:
    """Only the credentials of a URL are redacted."""
    assert redact_url(url) == redacted


def test_redact_headers() -> None:
    """Credentials are redacted always; with a redactor, all values that may hold content are."""
    headers = {"authorization": "x", "content-type": "a/b", "x-title": LONG, "x-other": "Basic abcdefgh12"}
    redacted = {"authorization": REDACTED, "content-type": "a/b", "x-title": LONG, "x-other": REDACTED}
    assert redact_headers(headers) == redacted
    assert redact_headers(headers, REDACTOR) == redacted | {"x-title": REDACTOR.redact_text(LONG)}
    assert redact_headers({"x-ratelimit-remaining-tokens": "7", "Server": "x"}, REDACTOR) == {
        "x-ratelimit-remaining-tokens": "7",
        "Server": "x",
    }


def test_redact_text() -> None:
    """A text becomes its length; a long one also a keyed digest, a short one none."""
    assert REDACTOR.redact_text(LONG) == REDACTOR.redact_text(LONG) != REDACTOR.redact_text(LONG[::-1])
    assert REDACTOR.redact_text(LONG).startswith(f"[{len(LONG)} characters, ")
    assert REDACTOR.redact_text(LONG) != Redactor(b"another").redact_text(LONG)
    assert REDACTOR.redact_text("yes") == REDACTOR.redact_text("not") == "[3 characters]"
    assert REDACTOR.redact_text("\ud800" * MIN_DIGEST_CHARACTERS), "half a character is one"


def test_the_structure_of_a_request_stays() -> None:
    """Types, roles, tool names and numbers stay; texts and the arguments of tools are redacted."""
    value = {
        "model": "claude-sonnet-4-5",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": LONG}]},
            {"role": "assistant", "content": [{"type": "tool_use", "name": "bash", "input": {"name": "me"}}]},
        ],
        "tools": [{"name": "bash", "input_schema": {"type": "object", "properties": {"command": {}}}}],
        "stream": True,
        "max_tokens": 8192,
        "stop": ["\n\nHuman:"],
        "stop_reason": None,
    }
    long = REDACTOR.redact_text(LONG)
    assert REDACTOR.redact_value(value) == value | {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": long}]},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "name": "bash", "input": {"name": "[2 characters]"}}],
            },
        ],
        "stop": ["[8 characters]"],
    }


@pytest.mark.parametrize(
    ("value", "redacted"),
    [
        ({"type": "no word, a sentence"}, {"type": "[19 characters]"}),
        ({"finishReason": "STOP", "text": "hi"}, {"finishReason": "STOP", "text": "[2 characters]"}),
        ({"arguments": {"type": "secret"}}, {"arguments": {"type": "[6 characters]"}}),
        ({"input": [{"role": "x"}]}, {"input": [{"role": "[1 characters]"}]}),
        ({"dear diary, today": 1}, {"[17 characters]": 1}),
        ("text", "[4 characters]"),
        ([1, None, True, 1.5], [1, None, True, 1.5]),
    ],
)
def test_redact_value(value: Any, redacted: Any) -> None:
    """A word stays only in a vocabulary field outside content; field names may be content, too."""
    assert REDACTOR.redact_value(value) == redacted


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.text("xyz ", min_size=8, max_size=50).filter(lambda text: " " in text))
def test_no_text_survives(value: Any, text: str) -> None:
    """A text that is not a single word never survives, at any position in a value."""
    for container in ({"type": text}, {"content": [text]}, [value, text], {text: value}):
        assert text not in str(REDACTOR.redact_value(container))
