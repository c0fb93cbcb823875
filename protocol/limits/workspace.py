"""Limits of trusted roots and of the instructions in them."""

from protocol.limits.units import KIB

# One record holds all trusted roots, and each run reads it: 64 roots of at most 1 KiB and their notes of 512
# bytes are 96 KiB at worst, usually 6 KiB.
MAX_TRUSTED_ROOTS = 64
MAX_ROOT_NOTE_BYTES = 512

# The AGENTS.md files that a run reads, all together: about 16,000 tokens, a tenth of a usual window. A run
# has the global one and those of at most 31 directories; their paths and sizes are in one event of the run.
MAX_AGENTS_BYTES = 64 * KIB
MAX_AGENTS_FILES = 32
