"""The proxy of the environment, and NO_PROXY with ports and networks."""

from urllib.parse import urlsplit

import pytest

from kheishd.providers.proxies import find_proxy, is_excluded


@pytest.mark.parametrize(
    ("host", "port", "no_proxy", "excluded"),
    [
        ("api.test", 443, "", False),
        ("api.test", 443, "*", True),
        ("api.test", 443, "api.test", True),
        ("API.test", 443, "other, API.TEST ", True),
        ("api.test", 443, "test", True),
        ("api.test", 443, ".test", True),
        ("api.test", 443, "*.test", True),
        ("api.test", 443, "i.test", False),
        ("127.0.0.1", 8080, "127.0.0.1:8080", True),
        ("127.0.0.1", 8081, "127.0.0.1:8080", False),
        ("api.test", 443, ".test:443", True),
        ("api.test", 80, ".test:443", False),
        ("10.1.2.3", 80, "10.0.0.0/8", True),
        ("11.1.2.3", 80, "10.0.0.0/8", False),
        ("10.1.2.3", 80, "10.1.2.3/99", False),
        ("api.test", 80, "10.0.0.0/8", False),
        ("::1", 80, "::1", True),
        ("::1", 80, "[::1]:80", True),
        ("::1", 81, "[::1]:80", False),
        ("fd00::7", 80, "fd00::/8", True),
    ],
)
def test_excluded_hosts(host: str, port: int, no_proxy: str, excluded: bool) -> None:
    """NO_PROXY excludes hosts, domains, addresses and networks, each with a port if it names one."""
    assert is_excluded(host, port, no_proxy) is excluded


def test_an_excluded_port_is_called_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local server on an excluded port is called directly, and one on another port through the proxy."""
    monkeypatch.setenv("http_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1:8080,10.0.0.0/8")
    assert find_proxy(urlsplit("http://127.0.0.1:8080/v1")) is None
    assert find_proxy(urlsplit("http://10.9.9.9/v1")) is None
    proxy = find_proxy(urlsplit("http://127.0.0.1:8081/v1"))
    assert proxy is not None
    assert proxy.url == "http://proxy.test:3128"


def test_the_usual_port_of_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL without a port has the usual port of its scheme."""
    monkeypatch.setenv("https_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("no_proxy", "api.test:443")
    assert find_proxy(urlsplit("https://api.test/v1")) is None
