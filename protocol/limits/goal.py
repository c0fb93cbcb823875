"""Limits of goals."""

from protocol.limits.units import KIB

# A goal's texts as JSON. Its record is written by the few events of the goal, not by those of runs.
MAX_GOAL_BYTES = 8 * KIB
MAX_GOAL_ITEMS = 16

# Runs that the daemon accepts by itself for one goal. At ten minutes per run, 1,000 are a week of work.
DEFAULT_GOAL_CONTINUATIONS = 20
MAX_GOAL_CONTINUATIONS = 1_000

# The longest time that an agent may let its goal wait: 30 days.
MAX_GOAL_WAIT_SECONDS = 30 * 24 * 3600
