"""Limits of a transaction."""

from protocol.limits.units import KIB

# A checkpoint in the transaction of an answer.
MAX_CHECKPOINT_BYTES = 48 * KIB

# One transaction function writes at most 256 KiB and a group has at most 256 of them, so a commit writes at
# most 64 MiB.
MAX_UPDATE_BYTES = 256 * KIB
MAX_GROUP_UPDATES = 256

# A run's next effect begins in the transaction of the events before it if this much is free: the evidence of
# 16 calls takes 64 KiB, the records of the session and of a run with 256 open calls 88 KiB.
MAX_BEGIN_BYTES = 160 * KIB

# A checkpoint, or the end of a longer one, in a transaction of its own; the keys of the rows that it replaces
# take the rest. A longer one is written in chunks before that, each in a transaction of its own.
MAX_SEPARATE_CHECKPOINT_BYTES = 240 * KIB
MAX_CHECKPOINT_CHUNK_BYTES = 192 * KIB
