"""Limits of sessions, their input and their queue."""

from protocol.limits.units import KIB

# The nesting of sessions: every send reads all sessions above, because each of them limits it.
MAX_SESSION_DEPTH = 16

# An agent file. Its instructions are stored beside the first run that pins them.
MAX_AGENT_FILE_BYTES = 64 * KIB

# One input, as JSON. A transaction writes at most 256 KiB (see MAX_UPDATE_BYTES): an input of 128 KiB, its
# metadata of 16 KiB, 64 KiB of instructions the first time, the session's record of 40 KiB and the run's of 8
# KiB use all of it. If all are that long and 6 KiB of skills are active, the input is refused. Larger content
# belongs in a file.
MAX_INPUT_BYTES = 128 * KIB
MAX_INPUT_ITEMS = 64

# One part of an import is one transaction, too: it writes at most as much as it reads, and 64 KiB remain for
# the session's own record and events. A line that is sent alone may be longer: the longest lines hold an
# answer.
MAX_IMPORT_BYTES = 192 * KIB
MAX_IMPORT_LINE_BYTES = 224 * KIB
MAX_IMPORT_LINES = 500

# What a part writes: its messages, and the inputs that wait for a later part. 16 KiB remain for other events.
MAX_IMPORTED_BYTES = 240 * KIB

# Queued runs of one session. At a minute per run, 256 are four hours of work.
MAX_QUEUED_RUNS = 256

# Messages that wait for the next model call of a run.
MAX_STEERS = 64

# The length of a chain of forks: reading a complete history looks up each of them.
MAX_FORKS = 64
