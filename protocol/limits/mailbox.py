"""Limits of mailboxes."""

from protocol.limits.units import KIB

# The pending messages of one mailbox: 16 runs of 64. The doctor holds their records, 700 bytes each at most,
# in memory. Notices and questions of the agent's children are posted beyond the limit: one for each run.
MAX_PENDING_MAIL = 1_000

# A message. Its payload is written into the journal, and once more as text into the input of the run that
# reads it, where JSON takes up to twice as much.
MAX_MAIL_SUBJECT_BYTES = 256
MAX_MAIL_PAYLOAD_BYTES = 16 * KIB

# The messages of one run. Its transaction writes at most 256 KiB: the input of 64 KiB, 64 ids of 128 bytes,
# the records of 64 messages of 700 bytes with two index rows of 300, 64 KiB of instructions the first time,
# the session's record of 40 KiB and the run's of 8 are 248 KiB.
MAX_MAIL_OF_RUN = 64
MAX_MAIL_INPUT_BYTES = 64 * KIB

# Messages that are dead-lettered in one transaction when their mailbox is closed: an event with 64 ids.
MAX_CLOSED_MAIL = 64

# Runs that may fail with a message in their input.
MAX_MAIL_ATTEMPTS = 3

# The failure of a delivery, in an event and in the record of each message.
MAX_MAIL_NOTE_BYTES = 256

# The error in the notice of a run's end.
MAX_MAIL_ERROR_BYTES = 2 * KIB

# The output in the notice of a run's end; the rest is in the run's outputs.
MAX_NOTICE_OUTPUT_BYTES = 8 * KIB

# A year: an older message has no reader.
MAX_MAIL_TTL_MS = 365 * 24 * 3600 * 1000
