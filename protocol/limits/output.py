"""Limits of outputs, contracts and completion requirements."""

from protocol.limits.units import KIB

# What a run gives by calls: one output as JSON (128 KiB is a long report; with the records it fits the
# transaction of its result), and how many of them its record points at (some 10 bytes each).
MAX_OUTPUT_BYTES = 128 * KIB
MAX_OUTPUTS = 64

# Contracts. A schema of 12 KiB describes some 200 fields; it stands in the instructions of every model call
# of the run and, escaped (twice as long at most) and with what is wrong (2 KiB), in a message beside an
# answer that does not fit, for which that answer leaves room. What does not fit is asked for again.
MAX_CONTRACT_BYTES = 12 * KIB
MAX_CONTRACT_ROOM_BYTES = 32 * KIB
DEFAULT_REPAIRS = 3
MAX_REPAIRS = 5

# What a run must have done; it stands in its record. How often it is reminded, and how often an answer that
# was cut at its length limit is gone on with, each of them by a model call.
MAX_REQUIREMENTS = 4
MAX_REQUIRED_PATH_BYTES = 256
MAX_REMINDERS = 2
MAX_CONTINUATIONS = 3
