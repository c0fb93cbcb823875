"""URLs: which may be fetched, and that a URL has one meaning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.hooks.web.urls import follow_redirect, parse_url
from kheishd.kernel.hook import ToolError
from protocol.limits.web import MAX_URL_BYTES


@pytest.mark.parametrize(
    ("text", "url", "host"),
    [
        ("https://example.org", "https://example.org/", "example.org"),
        (
            "  HTTP://Example.ORG:8080/a b#c ".replace(" b", "%20b"),
            "http://example.org:8080/a%20b",
            "example.org",
        ),
        ("https://example.org./x?q=a+b&c=%C3%BC", "https://example.org/x?q=a+b&c=%C3%BC", "example.org"),
        ("https://example.org?q", "https://example.org/?q", "example.org"),
        (
            "https://bücher.example/grün?ö=ü#ä",
            "https://xn--bcher-kva.example/gr%C3%BCn?%C3%B6=%C3%BC",
            "xn--bcher-kva.example",
        ),
        ("http://8.8.8.8/", "http://8.8.8.8/", "8.8.8.8"),
        ("http://[2606:4700:0:0::1111]:80/", "http://[2606:4700::1111]:80/", "2606:4700::1111"),
        ("http://[::ffff:8.8.8.8]/", "http://8.8.8.8/", "8.8.8.8"),
        ("http://\uff11.1\u30021.1/", "http://1.1.1.1/", "1.1.1.1"),
        (
            "https://example.org/[x]|^`{}\"<>'",
            "https://example.org/%5Bx%5D%7C%5E%60%7B%7D%22%3C%3E'",
            "example.org",
        ),
    ],
)
def test_what_may_be_fetched(text: str, url: str, host: str) -> None:
    """A URL is normalized to its form on the wire."""
    target = parse_url(text)
    assert (target.url, target.host, target.secure) == (url, host, url.startswith("https"))


@pytest.mark.parametrize(
    ("url", "destination"),
    [
        ("http://a.example/", "a.example:80"),
        ("https://a.example./", "a.example:443"),
        ("https://a.example:80/", "a.example:80"),
        ("http://[2606:4700::1111]:8080/", "[2606:4700::1111]:8080"),
    ],
)
def test_the_destination(url: str, destination: str) -> None:
    """The destination of a URL is its host and its port, or that of its scheme."""
    assert str(parse_url(url).destination) == destination


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "only http"),
        ("example.org", "only http"),
        ("ftp://example.org/", "only http"),
        ("file:///etc/passwd", "only http"),
        ("javascript:alert(1)", "only http"),
        ("http://", "not a host name"),
        ("http:///path", "not a host name"),
        ("http://user@example.org/", "user or a password is not fetched"),
        ("http://user:pass@example.org/", "user or a password is not fetched"),
        ("http://@example.org/", "user or a password is not fetched"),
        ("http://example.org\\@127.0.0.1/", "backslashes"),
        ("http://example.org/a b", "blanks"),
        ("http://exam\tple.org/", "blanks"),
        ("http://example.org/\r\nhost: x", "blanks"),
        ("http://example.org:99999/", "that is not a URL"),
        ("http://example.org:0/", "that is not a URL"),
        ("http://example.org:x/", "that is not a URL"),
        ("http://[::1/", "that is not a URL"),
        ("http://[fe80::1%25eth0]/", "zone"),
        ("http://[fe80::1%eth0]/", "zone"),
        ("http://[::g]/", "that is not a URL|is not an address"),
        ("http://[v1.x]/", "that is not a URL|is not an address"),
        ("http://127.1/", "four decimal numbers"),
        ("http://2130706433/", "four decimal numbers"),
        ("http://0x7f000001/", "four decimal numbers"),
        ("http://0177.0.0.1/", "four decimal numbers"),
        ("http://127.0.0.0x1/", "four decimal numbers"),
        ("http://127.0.0.1./", "four decimal numbers"),
        ("http://example.0x/", "four decimal numbers"),
        ("http://%31%32%37.0.0.1/", "not a host name"),
        ("http://exa%00mple.org/", "not a host name"),
        ("http://a..b/", "not a host name"),
        ("http://" + "a" * 64 + ".org/", "not a host name"),
        ("http://example.org/" + "a" * MAX_URL_BYTES, f"may have {MAX_URL_BYTES} bytes"),
    ],
)
def test_what_may_not(text: str, cause: str) -> None:
    """An invalid URL is refused with a reason."""
    with pytest.raises(ToolError, match=cause):
        parse_url(text)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/x", "https://example.org/x"),
        ("y?z", "https://example.org/a/y?z"),
        ("//other.example/", "https://other.example/"),
        ("http://other.example", "http://other.example/"),
        (" #only", "https://example.org/a/b"),
    ],
)
def test_redirects(location: str, url: str) -> None:
    """A location is resolved against the page that sent it."""
    assert follow_redirect(parse_url("https://example.org/a/b"), location).url == url


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "http://127.1/", "//user@example.org/", "http://[x/"]
)
def test_redirects_to_nowhere(location: str) -> None:
    """A redirect is validated like a first URL, and the error names the page that sent it."""
    with pytest.raises(ToolError, match=r"^https://example.org/a redirects to "):
        follow_redirect(parse_url("https://example.org/a"), location)


@given(st.text(max_size=40))
def test_whatever_is_written(text: str) -> None:
    """Any text is refused or has one meaning, which survives a second parse, in ASCII."""
    for item in (text, f"http://{text}", f"http://example.org/{text}", f"http://{text}.example.org/"):
        try:
            target = parse_url(item)
        except ToolError:
            continue
        assert target.url.isascii()
        assert "@" not in target.url.split("/")[2]
        assert parse_url(target.url) == target
