"""Addresses: the URL of a request, Unix sockets, and the name of a server in messages."""

import pytest

from kheishd.providers.address import find_server, host_of, join_path, path_of, split_socket, target_of


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://api.test/v1", "https://api.test/v1/chat/completions"),
        ("https://api.test/v1/", "https://api.test/v1/chat/completions"),
        (
            "https://x.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
            "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
        ),
        ("http+unix://%2Frun%2Fa.sock/v1", "http+unix://%2Frun%2Fa.sock/v1/chat/completions"),
    ],
)
def test_join_path(base: str, url: str) -> None:
    """A path goes before the query of a base URL."""
    assert join_path(base, "/chat/completions") == url


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http+unix://%2Frun%2Fa%20b.sock/v1/x", ("/run/a b.sock", "http://localhost/v1/x")),
        ("http://127.0.0.1:8080/v1", (None, "http://127.0.0.1:8080/v1")),
    ],
)
def test_split_socket(url: str, parts: tuple[str | None, str]) -> None:
    """The host of an ``http+unix`` URL is the path of a socket, percent-encoded."""
    assert split_socket(url) == parts


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.test/v1", "api.test"),
        ("http://user:secret@127.0.0.1:8080/v1", "127.0.0.1:8080"),
        ("http+unix://%2Frun%2Fa.sock/v1", "/run/a.sock"),
        ("nonsense", "the provider"),
        ("http://[::1", "the provider"),
    ],
)
def test_host_of(url: str, host: str) -> None:
    """Messages name the host, or the socket, and no other part of the URL."""
    assert host_of(url) == host


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://api.test/v1beta/models/m:streamGenerateContent?alt=sse", "https://api.test"),
        ("https://api.test?alt=sse", "https://api.test"),
        ("http+unix://%2Frun%2Fa.sock/v1/messages", "http+unix://%2Frun%2Fa.sock"),
        ("http://[::1]:80/v1", "http://[::1]:80"),
        ("nonsense", "nonsense"),
    ],
)
def test_find_server(url: str, server: str) -> None:
    """Connections are shared by all URLs of one server."""
    assert find_server(url) == server


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://api.test/v1/responses", "/v1/responses"),
        ("https://api.test/d/chat/completions?api-version=1", "/d/chat/completions"),
        ("http+unix://%2Frun%2Fa.sock/v1/messages", "/v1/messages"),
        ("https://api.test", "/"),
    ],
)
def test_path_of(url: str, path: str) -> None:
    """Messages name the requested path, without the host and the query."""
    assert path_of(url) == path


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://api.test/v1/responses", "/v1/responses"),
        ("https://api.test/chat;a?api-version=1", "/chat;a?api-version=1"),
        ("http+unix://%2Frun%2Fa.sock/v1/messages", "/v1/messages"),
        ("https://user:password@api.test?a=b#c", "/?a=b"),
    ],
)
def test_target_of(url: str, target: str) -> None:
    """A request names the path and the query, and nothing of the host."""
    assert target_of(url) == target
