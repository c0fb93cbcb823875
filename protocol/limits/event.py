"""Limits of the event bus: events, triggers, and runs that wait for an event."""

from protocol.limits.units import KIB

# ``agent:``, the name of an agent (128 bytes), a colon and a topic fit; a key of the store has 511 bytes.
MAX_EVENT_SOURCE_BYTES = 256
MAX_EVENT_TOPIC_BYTES = 64

# An event is written into the journal, and into the input of each run that it wakes, where JSON in JSON takes
# up to twice as much: 32 + 64 KiB, 64 KiB of instructions the first time and 48 KiB of records fit into the
# 256 KiB of a transaction.
MAX_EVENT_PAYLOAD_BYTES = 32 * KIB

# Events that are not delivered to all their triggers yet. A page of 1,000 records of 400 bytes; the daemon's
# own events, one for each run that ends, are published beyond the limit.
MAX_OPEN_EVENTS = 1_000

# The doctor holds the records of all triggers in memory: 10,000 of 5 KiB at most.
MAX_TRIGGERS = 10_000

# The triggers that the agent of one session made by itself.
MAX_SESSION_TRIGGERS = 16

# Parts of the record of a trigger, which is written anew with each delivery: 2 KiB besides its prompt. A note
# is that of its last problem.
MAX_TRIGGER_NAME_BYTES = 128
MAX_TRIGGER_FILTER_FIELDS = 16
MAX_TRIGGER_FILTER_BYTES = 1 * KIB
MAX_TRIGGER_NOTE_BYTES = 512

# The file of subscriptions: a thousand rows of 1 KiB.
MAX_SUBSCRIPTIONS_FILE_BYTES = 1024 * KIB

# An hour: an event that is held longer is no news.
MAX_COALESCE_SECONDS = 3_600

# The events of a chain: an event wakes a run, which publishes an event, and so on. A legitimate chain has a
# step per agent of a team; a loop of two agents stops after four rounds.
MAX_EVENT_HOPS = 8

# The targets that one transaction wakes, each with a run's events and records of about 6 KiB.
MAX_FANOUT_TARGETS = 32

# A target that cannot take an event now, such as a session whose queue is full, is tried again so often, each
# time after twice as long: 5 s to 10.7 minutes, 21 minutes together.
MAX_EVENT_ATTEMPTS = 8
EVENT_RETRY_MS = 5_000

# The output of a run in the event of its end; the rest is in the run's outputs.
MAX_EVENT_OUTPUT_BYTES = 8 * KIB

# What is left of the transaction of a run's end for its other events and records: 48 KiB of records and
# 16 KiB of events. An answer that needs the rest is left out of the event.
MAX_RUN_END_BYTES = 64 * KIB

# The patterns that a run listens to between its waits, in its record, which each of its events writes anew:
# 2 KiB for a run that waits, nothing for others.
MAX_AWAITED_SOURCES = 8

# A week: a run that waits longer should be woken by a trigger instead.
MAX_EVENT_WAIT_SECONDS = 7 * 24 * 3_600
DEFAULT_EVENT_WAIT_SECONDS = 3_600
