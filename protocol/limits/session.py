"""Limits of sessions, their input and their queue."""

from protocol.limits.units import KIB

# How deep sessions nest: each is bounded by all above it, which are looked at whenever it is sent to.
MAX_SESSION_DEPTH = 16

# An agent file: its instructions are kept beside the first run that pins them.
MAX_AGENT_FILE_BYTES = 64 * KIB

# One input, as JSON. Everything a transaction writes stays within 256 KiB (see MAX_UPDATE_BYTES): an
# input of 128 KiB + its metadata of 16 KiB + 64 KiB of instructions, the first time + the session's
# record of 40 KiB + the run's of 8 KiB, once as an event, leave nothing to spare. Larger content is an asset.
MAX_INPUT_BYTES = 128 * KIB
MAX_INPUT_ITEMS = 64

# One part of an import is one transaction, too: what it writes is at most as long as what it reads, and
# 64 KiB are left for the session's own record and events. A line that comes alone may be longer: the
# longest there are hold an answer.
MAX_IMPORT_BYTES = 192 * KIB
MAX_IMPORT_LINE_BYTES = 224 * KIB
MAX_IMPORT_LINES = 500

# Runs waiting in one session. At a minute a run, 256 are four hours of work.
MAX_QUEUED_RUNS = 256

# Messages that wait for the next model call of a run.
MAX_STEERS = 64

# How many sessions a session may have branched off, one from another: each is looked up whenever the whole
# of what was said is read.
MAX_FORKS = 64
