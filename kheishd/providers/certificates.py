"""The certificate authorities that HTTPS connections trust."""

import os
import ssl
from collections.abc import Mapping

from kheishd.providers.http_errors import UnsendableRequest

BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""The variables that name a file of authorities instead of the system's, the first that is set."""


def make_tls_context(ca_file: str | None, environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Return the TLS settings: a route's own authorities, else the environment's, else the system's.

    Errors: UnsendableRequest for a file that cannot be read or holds no certificate.
    """
    bundles = ((name, environ.get(name)) for name in BUNDLE_VARIABLES)
    source, path = next(((name, path) for name, path in (("ca_file", ca_file), *bundles) if path), ("", None))
    if path is None:
        # Imported here, because a route without TLS does not need the library.
        import httpcore2

        return httpcore2.default_ssl_context()
    try:
        is_directory = os.path.isdir(path)
        return ssl.create_default_context(
            cafile=None if is_directory else path, capath=path if is_directory else None
        )
    except (OSError, ValueError) as error:
        raise UnsendableRequest(f"{source} '{path}' is not usable: {error}") from None
