"""Destinations: one notation for a host and a port."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.hooks.network.destination import parse_destination
from kheishd.kernel.hook import ToolError


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("pypi.org", "net:pypi.org:443"),
        ("PyPI.org.:80", "net:pypi.org:80"),
        ("bücher.example", "net:xn--bcher-kva.example:443"),
        ("_x.a-b:1", "net:_x.a-b:1"),
        ("localhost:65535", "net:localhost:65535"),
        ("8.8.8.8", "net:8.8.8.8:443"),
        ("\uff18.8\u30028.8:53", "net:8.8.8.8:53"),
        ("[::1]", "net:[::1]:443"),
        ("[2606:4700:0:0::1111]:80", "net:[2606:4700::1111]:80"),
        ("[::ffff:127.0.0.1]:80", "net:127.0.0.1:80"),
    ],
)
def test_one_notation(text: str, subject: str) -> None:
    """Every notation of a host leads to the same subject."""
    assert parse_destination(text).subject == subject


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":80",
            ".",
            "a..b",
            "a b",
            "a/b",
            "*.example.org",
            "user@host",
            "http://a",
            "a:b",
            "a:0",
            "a:65536",
        ),
        *("a:080", "a:+1", "a:", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.0.0.1.", "example.0x"),
        *(
            "::1",
            "::1:80",
            "[::1",
            "[fe80::1%eth0]",
            "[x]:1",
            "a\0b",
            "a\nb",
            "é" * 64,
            "a" * 64,
            "a." * 127 + "b",
        ),
    ],
)
def test_invalid_destinations(text: str) -> None:
    """A text that programs could read in different ways is refused."""
    with pytest.raises(ToolError, match="is not"):
        parse_destination(text)


@given(st.text(max_size=30))
def test_any_text(text: str) -> None:
    """Any text is refused or has one meaning, which survives a second parse."""
    try:
        destination = parse_destination(text)
    except ToolError:
        return
    assert parse_destination(str(destination)) == destination
    assert str(destination).isascii()
    assert "*" not in str(destination)
