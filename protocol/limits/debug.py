"""Limits of debug captures."""

from protocol.limits.units import KIB, MIB

# What is captured of a run's model calls for debugging. A request holds a whole conversation: 4 MiB are the
# million tokens of the longest. Three artifacts a call are 21 calls, and 32 MiB hold those of most.
MAX_DEBUG_ARTIFACT_BYTES = 4 * MIB
MAX_DEBUG_RUN_BYTES = 32 * MIB
MAX_DEBUG_ARTIFACTS = 64
MAX_DEBUG_ARTIFACT_ID_BYTES = 128

# And of all runs, unless configured otherwise: a gigabyte is a few thousand calls of long conversations.
DEFAULT_DEBUG_BYTES = 1024 * MIB

# One answer of run.debug: as JSON 64 KiB of it are 384, at worst, and 256 KiB are 1.5 MiB.
DEFAULT_DEBUG_TEXT_BYTES = 64 * KIB
MAX_DEBUG_TEXT_BYTES = 256 * KIB
