"""Limits of debug captures."""

from protocol.limits.units import KIB, MIB

# Debug captures of a run's model calls. A request holds a whole conversation: 4 MiB are the million tokens of
# the longest. With three artifacts per call, 64 artifacts are 21 calls, and 32 MiB hold most of them
# completely.
MAX_DEBUG_ARTIFACT_BYTES = 4 * MIB
MAX_DEBUG_RUN_BYTES = 32 * MIB
MAX_DEBUG_ARTIFACTS = 64
MAX_DEBUG_ARTIFACT_ID_BYTES = 128

# Debug captures of all runs, unless configured otherwise: a gigabyte is a few thousand calls of long
# conversations.
DEFAULT_DEBUG_BYTES = 1024 * MIB

# One answer of run.debug: as JSON, 64 KiB take at most 384 KiB, and 256 KiB at most 1.5 MiB.
DEFAULT_DEBUG_TEXT_BYTES = 64 * KIB
MAX_DEBUG_TEXT_BYTES = 256 * KIB
