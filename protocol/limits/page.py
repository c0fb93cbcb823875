"""Limits of a page of a list."""

from protocol.limits.units import MIB

# Lists. 500 rows of 2 KiB make the 1 MiB at which a page ends early; 5,000 rows examined are
# about two milliseconds of the event loop.
DEFAULT_PAGE_ROWS = 50
MAX_PAGE_ROWS = 500
MAX_PAGE_BYTES = 1 * MIB
MAX_PAGE_EXAMINED = 5_000

# Rows can be large. A filter passes over some 500 MB of journal lines a second, so 8 MiB take 16 ms; other
# rows are decoded whole, at speeds that depend on what is in them, so their time itself is bounded.
MAX_PAGE_EXAMINED_BYTES = 8 * MIB
MAX_PAGE_MS = 30
