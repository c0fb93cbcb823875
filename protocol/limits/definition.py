"""Limits of definitions."""

from protocol.limits.units import KIB

# A definition as JSON: 64 KiB of instructions, their escapes, and 4 KiB of names. Its event and its record
# are one transaction of 256 KiB (see MAX_UPDATE_BYTES).
MAX_DEFINITION_BYTES = 96 * KIB

# Definitions in the store. Each is in memory: 200 take 20 MiB at most.
MAX_STORED_DEFINITIONS = 200
