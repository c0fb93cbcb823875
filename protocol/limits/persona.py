"""Limits of personas."""

from protocol.limits.units import KIB

# A soul is a section of the instructions of every model call, about 16,000 tokens. It is stored once, in the
# transaction of its persona's change, beside a record and an event of 20 KiB each: 104 KiB of 256.
MAX_SOUL_BYTES = 64 * KIB

# The names in a persona's scope and its default skills: a session's record holds a copy.
MAX_PERSONA_NAMES_BYTES = 2 * KIB
MAX_DEFAULT_SKILLS = 32
MAX_DISPLAY_NAME_BYTES = 256

# A replay of the daemon's stream holds all of them: at most 20 KiB each.
MAX_PERSONAS = 1_000
