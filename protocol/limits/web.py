"""Limits of fetched pages."""

from protocol.limits.units import KIB

# A fetched page. Its text has about 30,000 tokens at 128 KiB. Browsers and servers agree on URLs of up to
# 2,000 characters; honest sites need no more than five redirects.
MAX_URL_BYTES = 2 * KIB
MAX_WEB_BODY_BYTES = 128 * KIB
MAX_WEB_HEADER_BYTES = 4 * KIB
MAX_WEB_REDIRECTS = 5
