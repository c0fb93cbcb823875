"""The certificate authorities that HTTPS connections trust."""

import os
import ssl
from collections.abc import Mapping

import httpcore2

BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""The variables that name a file of authorities instead of the system's, the first that is set."""


def make_tls_context(ca_file: str | None, environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Return the TLS settings: a route's own authorities, else the environment's, else the system's.

    Errors: UnsupportedProtocol for a file that cannot be read or holds no certificate.
    """
    bundles = ((name, environ.get(name)) for name in BUNDLE_VARIABLES)
    source, path = next(((name, path) for name, path in (("ca_file", ca_file), *bundles) if path), ("", None))
    if path is None:
        return httpcore2.default_ssl_context()
    try:
        is_directory = os.path.isdir(path)
        return ssl.create_default_context(
            cafile=None if is_directory else path, capath=path if is_directory else None
        )
    except (OSError, ValueError) as error:
        raise httpcore2.UnsupportedProtocol(f"{source} '{path}' is not usable: {error}") from None
