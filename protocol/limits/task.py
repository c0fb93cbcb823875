"""Limits of tasks."""

from protocol.limits.units import KIB

# Open tasks of a session. Checking blockers reads each open task once: 256 take a millisecond. A task takes 8
# + 16 + 4 KiB as JSON, 3 KiB for its title and 1 KiB for its blockers; its transaction holds its event, its
# record and a receipt, 96 KiB in all.
MAX_OPEN_TASKS = 256
MAX_TASK_BLOCKERS = 32
MAX_TASK_DESCRIPTION_BYTES = 8 * KIB
MAX_TASK_OUTPUT_BYTES = 16 * KIB
MAX_TASK_METADATA_BYTES = 4 * KIB
