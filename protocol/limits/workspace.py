"""Limits of trusted roots and of the instructions in them."""

# One record holds all trusted roots, and each run reads it: 64 roots of at most 1 KiB and their notes of 512
# bytes are 96 KiB at worst, usually 6 KiB.
MAX_TRUSTED_ROOTS = 64
MAX_ROOT_NOTE_BYTES = 512
