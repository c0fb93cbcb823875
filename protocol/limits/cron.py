"""Limits of cron entries."""

from protocol.limits.units import MIB

# All entries of a daemon. One timer serves them; the record of an entry is under 1 KiB without its history,
# so that they take 10 MiB of disk, and as much memory at most.
MAX_CRONS = 10_000

# The entries that the agents of one tree have, and how often one of theirs fires at most.
MAX_CRONS_OF_TREE = 128
MIN_AGENT_PERIOD_MS = 60_000

# How often an entry of a client or of the file fires at most: a run takes longer.
MIN_PERIOD_MS = 5_000

# The occurrences in the record of an entry, at up to 400 bytes each: 13 KiB that each firing writes again.
# The journal has all of them.
MAX_OCCURRENCES = 32
MAX_OCCURRENCE_NOTE_BYTES = 256

# Consecutive failures after which an entry is disabled.
MAX_CRON_FAILURES = 5

# Runs of one entry at once, with the overlap policy "parallel".
MAX_PARALLEL_FIRINGS = 16

# Missed due times that are counted one by one, at 50 µs each; beyond, the count is a lower bound.
MAX_COUNTED_MISSES = 100

# Names and texts: the longest zone has 32 bytes, and an expression with lists seldom has 100.
MAX_SCHEDULE_BYTES = 128
MAX_ZONE_BYTES = 64
MAX_CRON_NAME_BYTES = 128

# A period and a grace have at most a year.
MAX_PERIOD_S = 366 * 86_400
MAX_GRACE_S = 366 * 86_400
DEFAULT_GRACE_S = 300

# The next firings that one answer shows, at 50 µs each.
MAX_UPCOMING = 50
DEFAULT_UPCOMING = 5

# The wait before an entry of a single time is tried again, doubled after each refusal: 31 minutes in all.
RETRY_MS = 60_000

# The last time that can be explained, in the year 6429: arithmetic with zones fails in 9999.
MAX_EXPLAINED_MS = 2**47

# The file of entries: 10,000 rows of 200 bytes.
MAX_CRON_FILE_BYTES = 2 * MIB
