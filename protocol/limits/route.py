"""Limits of routes."""

from protocol.limits.units import KIB

# The settings of a stored route as JSON. Its event and its record with all revisions are one transaction of
# 256 KiB (see MAX_UPDATE_BYTES): 18 times 8 KiB.
MAX_ROUTE_BYTES = 8 * KIB

# The earlier revisions of a stored route that are kept; older ones are dropped.
MAX_ROUTE_REVISIONS = 16

# Routes in the store. Each is in memory, without its earlier revisions: 200 take 1.6 MiB at most.
MAX_STORED_ROUTES = 200
