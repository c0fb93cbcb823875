"""Limits of outputs, contracts and completion requirements."""

from protocol.limits.units import KIB

# Outputs that calls emit: one output as JSON (128 KiB is a long report; with the records it fits the
# transaction of its result), and the number of outputs that a run's record points to (about 10 bytes each).
MAX_OUTPUT_BYTES = 128 * KIB
MAX_OUTPUTS = 64

# Contracts. A schema of 12 KiB describes about 200 fields. It is part of the instructions of every model call
# of the run. A repair request contains it escaped (at most twice as long) together with the violations (2
# KiB), beside the violating answer, which leaves room for it.
MAX_CONTRACT_BYTES = 12 * KIB
MAX_REPAIR_OVERHEAD_BYTES = 32 * KIB
DEFAULT_REPAIRS = 3
MAX_REPAIRS = 5

# Completion requirements stand in the run's record. Each reminder and each continuation of a truncated answer
# takes a model call.
MAX_REQUIREMENTS = 4
MAX_REQUIRED_PATH_BYTES = 256
MAX_REMINDERS = 2
MAX_CONTINUATIONS = 3
