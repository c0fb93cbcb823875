"""What of an exchange is written down: no credential, and behind a veil no text."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.text.redaction import (
    REDACTED,
    SHORT_CHARACTERS,
    Redactor,
    shown_headers,
    shown_url,
)

VEIL = Redactor(b"key")
LONG = "What a long sentence this is, to be sure."


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://api.test/v1/x?beta=true", "https://api.test/v1/x?beta=true"),
        ("https://me:pw@api.test/v1", f"https://{REDACTED}@api.test/v1"),
        ("https://api.test/v1?a=1&api_key=abc&b=2", f"https://api.test/v1?a=1&api_key={REDACTED}&b=2"),
        ("https://api.test/v1?key=abc#x", f"https://api.test/v1?key={REDACTED}#x"),
        ("no url", "no url"),
    ],
)
def test_urls(url: str, shown: str) -> None:
    """An URL stays what it is but for credentials."""
    assert shown_url(url) == shown


def test_headers() -> None:
    """Credentials are never shown; behind a veil only headers that say how it went are."""
    headers = {"authorization": "x", "content-type": "a/b", "x-title": LONG, "x-other": "Basic abcdefgh12"}
    shown = {"authorization": REDACTED, "content-type": "a/b", "x-title": LONG, "x-other": REDACTED}
    assert shown_headers(headers) == shown
    assert shown_headers(headers, VEIL) == shown | {"x-title": VEIL.text(LONG)}
    assert shown_headers({"x-ratelimit-remaining-tokens": "7", "Server": "x"}, VEIL) == {
        "x-ratelimit-remaining-tokens": "7",
        "Server": "x",
    }


def test_a_veiled_text() -> None:
    """Its length is told, and of a long one a digest that only the same key gives; of a short one none."""
    assert VEIL.text(LONG) == VEIL.text(LONG) != VEIL.text(LONG[::-1])
    assert VEIL.text(LONG).startswith(f"[{len(LONG)} characters, ")
    assert VEIL.text(LONG) != Redactor(b"another").text(LONG)
    assert VEIL.text("yes") == VEIL.text("not") == "[3 characters]"
    assert VEIL.text("\ud800" * SHORT_CHARACTERS), "half a character is one"


def test_the_structure_stays() -> None:
    """Types, roles, names of tools and numbers are told; texts are not, nor what a tool is called with."""
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
    long = VEIL.text(LONG)
    assert VEIL.value(value) == value | {
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
    ("value", "veiled"),
    [
        ({"type": "no word, a sentence"}, {"type": "[19 characters]"}),
        ({"arguments": {"type": "secret"}}, {"arguments": {"type": "[6 characters]"}}),
        ({"input": [{"role": "x"}]}, {"input": [{"role": "[1 characters]"}]}),
        ({"dear diary, today": 1}, {"[17 characters]": 1}),
        ("text", "[4 characters]"),
        ([1, None, True, 1.5], [1, None, True, 1.5]),
    ],
)
def test_what_is_content(value: Any, veiled: Any) -> None:
    """A word is one only where the protocol has it, and names of fields may be content, too."""
    assert VEIL.value(value) == veiled


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.text("xyz ", min_size=8, max_size=50).filter(lambda text: " " in text))
def test_no_text_gets_through(value: Any, text: str) -> None:
    """Wherever a text stands that is no single word, it is not there afterwards."""
    for where in ({"type": text}, {"content": [text]}, [value, text], {text: value}):
        assert text not in str(VEIL.value(where))
