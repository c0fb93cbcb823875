"""The certificate authorities of HTTPS connections."""

from pathlib import Path

import pytest
import trustme

from kheishd.providers.certificates import BUNDLE_VARIABLES, make_tls_context
from kheishd.providers.http_errors import UnsendableRequest


def write_authority(path: Path) -> str:
    """Write the certificate of a new authority and return its path."""
    trustme.CA().cert_pem.write_to_path(path)
    return str(path)


@pytest.mark.parametrize("name", BUNDLE_VARIABLES)
def test_a_bundle_of_the_environment(tmp_path: Path, name: str) -> None:
    """Each variable names the only authorities that are trusted."""
    context = make_tls_context(None, {name: write_authority(tmp_path / "ca.pem")})
    assert len(context.get_ca_certs()) == 1
    assert context.check_hostname


def test_the_file_of_a_route_comes_first(tmp_path: Path) -> None:
    """A route's own file replaces that of the environment."""
    own, other = write_authority(tmp_path / "own.pem"), write_authority(tmp_path / "other.pem")
    [trusted] = make_tls_context(own, {"SSL_CERT_FILE": other}).get_ca_certs(binary_form=True)
    [expected] = make_tls_context(own, {}).get_ca_certs(binary_form=True)
    assert trusted == expected


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_unusable_file(tmp_path: Path, content: str | None) -> None:
    """A file that is missing or holds no certificate is an error that names the key and the file."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UnsendableRequest, match=r"ca_file '.*ca\.pem' is not usable"):
        make_tls_context(str(path), {})


def test_the_authorities_of_the_system() -> None:
    """Without a file, the system's authorities are trusted."""
    assert make_tls_context(None, {"SSL_CERT_FILE": ""}).check_hostname
