"""Limits of tasks."""

from protocol.limits.units import KIB

# Tasks of a session. Where some are said to wait for others the open ones are looked through, each once: 256
# are a millisecond. A task takes 8 + 16 + 4 KiB as JSON, 3 for its title and 1 for what it waits for; in its
# transaction stand its event, its record and a receipt, 96 KiB in all.
MAX_TASKS_OPEN = 256
MAX_TASK_BLOCKERS = 32
MAX_TASK_DESCRIPTION_BYTES = 8 * KIB
MAX_TASK_OUTPUT_BYTES = 16 * KIB
MAX_TASK_METADATA_BYTES = 4 * KIB
