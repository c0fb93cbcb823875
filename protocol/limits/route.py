"""Limits of routes."""

from protocol.limits.units import KIB

# The settings of a stored route as JSON. Its event and its record with all revisions are one transaction of
# 256 KiB (see MAX_UPDATE_BYTES): 18 times 8 KiB.
MAX_ROUTE_BYTES = 8 * KIB

# The earlier revisions of a stored route that are kept; older ones are dropped.
MAX_ROUTE_REVISIONS = 16

# Routes in the store. Each is in memory, without its earlier revisions: 200 take 1.6 MiB at most.
MAX_STORED_ROUTES = 200

# The routes after the first one of a chain, and the keys of a route. A run pins all of them when it is
# accepted: 4 more routes of 8 KiB leave 200 KiB of that transaction to the input. A call asks up to 5 times 8
# keys before the run pauses.
MAX_FALLBACKS = 4
MAX_KEYS = 8

# How long a key is passed over after a failure, unless the provider says: 5 s, doubled with each further
# failure, up to 5 minutes. The provider's own delay is respected up to an hour.
DEFAULT_COOLDOWN_SECONDS = 5
MAX_COOLDOWN_SECONDS = 300
MAX_PROVIDER_COOLDOWN_SECONDS = 3600

# The part of each failure in the error of a run whose whole chain has failed: 45 of them are at most 12 KiB.
MAX_CHAIN_FAILURE_BYTES = 256

# The routes and keys that a call passed over, as its event lists them: at most 2 KiB beside an answer.
MAX_PASSED_OVER = 8
