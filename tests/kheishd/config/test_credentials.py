"""Credentials are recognized by their name or their form."""

import pytest

from kheishd.config.credentials import is_credential

CREDENTIALS = (
    "authorization Proxy-Authorization x-api-key api-key x-goog-api-key Cookie set-cookie"
    " x-amz-security-token accessToken client_secret passwd"
)


@pytest.mark.parametrize("name", CREDENTIALS.split())
def test_credential_names(name: str) -> None:
    """These names mean credentials, whatever the value is."""
    assert is_credential(name)


@pytest.mark.parametrize("name", ["max_tokens", "x-ratelimit-remaining-tokens", "monkey", "content-type"])
def test_other_names(name: str) -> None:
    """Other names mean a credential only if the value looks like one."""
    assert not is_credential(name, "Basic rules")
    assert is_credential(name, "Bearer abcdefgh")
