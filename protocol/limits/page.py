"""Limits of a page of a list."""

from protocol.limits.units import MIB

# Lists. 500 rows of 2 KiB make the 1 MiB at which a page ends early; examining 5,000 rows takes the event
# loop about two milliseconds.
DEFAULT_PAGE_ROWS = 50
MAX_PAGE_ROWS = 500
MAX_PAGE_BYTES = 1 * MIB
MAX_PAGE_EXAMINED_ROWS = 5_000

# Rows can be large. A filter scans about 500 MB of journal lines a second, so 8 MiB take 16 ms. Other rows
# are decoded completely, at speeds that depend on their content, so the time itself is limited, too.
MAX_PAGE_EXAMINED_BYTES = 8 * MIB
MAX_PAGE_MS = 30
