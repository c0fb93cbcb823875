"""Limits of commands and background shells."""

from protocol.limits.units import KIB, MIB

# A command line. Whoever is asked about it sees all of it, with where it would run, in one preview.
MAX_COMMAND_BYTES = 12 * KIB

# What of a command's output its watchers are shown while it runs, and what a restart tells of a command that
# it found cut short. A megabyte is more than anybody reads; the beginning and the end are in the result.
MAX_COMMAND_SAID_BYTES = 1 * MIB
MAX_COMMAND_TAIL_BYTES = 2 * KIB

# Shells in the background: each has a keeper of some 10 MiB, and a file of what it wrote last. That is cut to
# 6 MiB whenever it reaches 8, so of four bytes written three are copied once more. What shells that have
# ended wrote is kept until it is more than 256 MiB together. Nobody reads 8 MiB a second, and a disk takes
# some hundred: a shell that goes on writing more is slowed down.
MAX_SHELLS_SESSION = 8
MAX_SHELLS = 32
MAX_SHELL_OUTPUT_BYTES = 8 * MIB
MAX_SHELL_KEPT_BYTES = 6 * MIB
MAX_SHELL_FILES_BYTES = 256 * MIB
MAX_SHELL_SECOND_BYTES = 8 * MIB
DEFAULT_SHELL_TAIL_BYTES = 8 * KIB
MAX_SHELL_TAIL_BYTES = 256 * KIB
