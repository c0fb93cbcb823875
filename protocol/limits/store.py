"""Limits of a transaction."""

from protocol.limits.units import KIB

# A checkpoint in the transaction of an answer.
MAX_CHECKPOINT_BYTES = 48 * KIB

# One transaction function writes at most 256 KiB and a group has at most 256 of them, so a commit writes at
# most 64 MiB.
MAX_UPDATE_BYTES = 256 * KIB
MAX_GROUP_UPDATES = 256

# A checkpoint in a transaction of its own; its key and the checkpoint that it replaces take the rest.
MAX_SEPARATE_CHECKPOINT_BYTES = 240 * KIB
