"""Limits of commands and background shells."""

from protocol.limits.units import KIB, MIB

# A command line. A person who approves it sees all of it and its directory in one preview.
MAX_COMMAND_BYTES = 12 * KIB

# The live output of a command for its followers, and the end of the output in the report after a crash. A
# megabyte is more than anybody reads; the result holds the beginning and the end.
MAX_COMMAND_LIVE_BYTES = 1 * MIB
MAX_COMMAND_TAIL_BYTES = 2 * KIB

# How long it may take to see that all processes of a killed command are gone. A killed process is gone in
# milliseconds unless the kernel holds it.
MAX_KILL_SECONDS = 5

# Background shells. Each has a keeper process of some megabytes and a file of its newest output, which is cut
# to 6 MiB whenever it reaches 8 MiB: three of four bytes written to disk are copies. The output of
# ended shells is kept up to 256 MiB together. Nobody reads 8 MiB a second, and a disk writes about a hundred:
# a shell that keeps writing faster is slowed down.
MAX_SESSION_SHELLS = 8
MAX_SHELLS = 32
MAX_SHELL_OUTPUT_BYTES = 8 * MIB
MAX_SHELL_KEPT_BYTES = 6 * MIB
MAX_SHELL_FILES_BYTES = 256 * MIB
MAX_SHELL_BYTES_PER_SECOND = 8 * MIB
DEFAULT_SHELL_TAIL_BYTES = 8 * KIB
MAX_SHELL_TAIL_BYTES = 256 * KIB
