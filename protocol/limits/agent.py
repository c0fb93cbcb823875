"""Limits of agents."""

from protocol.limits.units import KIB

# A path is a key of the store, which has at most 511 bytes: the root's id of 128, and eight names of 32
# with a separator and a number of four digits each, are 432.
MAX_AGENT_NAME_BYTES = 32
MAX_AGENT_DEPTH = 8

# A nickname is shown in lists and trees, where it has a column.
MAX_NICKNAME_BYTES = 64

# An agent's own prompt is stored in one transaction of 256 KiB with its task (128 KiB), its instructions (64
# KiB) and its records.
MAX_AGENT_PROMPT_BYTES = 16 * KIB

# A description is a sentence or two; it is in the agent's record.
MAX_AGENT_DESCRIPTION_BYTES = 1 * KIB

# One fan-out: their outputs share one result, of which each still has 4 KiB.
MAX_DELEGATED_TASKS = 16

# The longest wait of one call for agents: a day. Afterwards the agent is told the state, and may wait again.
MAX_WAIT_FOR_AGENTS_SECONDS = 24 * 3600
