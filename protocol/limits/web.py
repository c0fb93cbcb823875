"""Limits of fetched pages."""

from protocol.limits.units import KIB

# A page that is fetched. Its text is some 30,000 tokens at 128 KiB. Browsers and servers agree on URLs of up
# to 2,000 characters; five redirects are more than any honest site needs.
MAX_URL_BYTES = 2 * KIB
MAX_WEB_BODY_BYTES = 128 * KIB
MAX_WEB_HEADER_BYTES = 4 * KIB
MAX_WEB_REDIRECTS = 5
