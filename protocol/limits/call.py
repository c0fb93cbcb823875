"""Limits of tool calls."""

from protocol.limits.units import KIB, MIB

# One message of a model may ask for so many tools; a batch of more is refused whole, call by call. They are
# judged 16 at a time, which is one transaction: of each call a verdict and an approval's event and record,
# with a subject of 1 KiB in two of them, a reason of 512 bytes in all, and a preview of 3 KiB, are 8 KiB at
# most, and the run's record with 256 open calls another 48.
MAX_CALLS = 256
MAX_CALLS_JUDGED = 16

# Calls of one message that wait for people at once, and those of them that are questions. A run that ends
# takes all of them back in one transaction: 256 results of 450 bytes are 112 KiB, 24 events and records of
# approvals 63, those of two questions another 24; 48 are left for the records of session and run.
MAX_WAITING_CALLS = 24
MAX_WAITING_QUESTIONS = 2

# What a call adds to the transaction of its message besides itself: some 150 bytes in the run's record or,
# if it is refused at once, a result of 550 in the journal.
MAX_CALL_ROOM_BYTES = 600

# Calls that run side by side: they share the machine, and as many results are saved together when they are
# stopped.
MAX_PARALLEL_CALLS = 16

# Names that models and tools give themselves. 64 and 40 characters are what the strictest providers take
# back; a call's id stands in every event about it.
MAX_TOOL_BYTES = 64
MAX_CALL_ID_BYTES = 40

# What a call works on, and why it was judged as it was.
MAX_SUBJECT_BYTES = 1 * KIB
MAX_JUDGED_REASON_BYTES = 512

# What a verdict keeps of a subject: 16 of them stand in one transaction, each perhaps beside its approval.
MAX_VERDICT_SUBJECT_BYTES = 256

# What a tool takes and gives. 16 MiB is a large log; of it the model reads 32 KiB at once (about 8,000
# tokens), and the rest stands in a blob. As JSON those can be six times as long: 192 KiB fit a transaction.
# Four such logs are what the tools of one run give together, unless it is said otherwise.
MAX_TOOL_INPUT_BYTES = 16 * MIB
MAX_TOOL_OUTPUT_BYTES = 16 * MIB
DEFAULT_RUN_OUTPUT_BYTES = 64 * MIB
MAX_TOOL_TEXT_BYTES = 32 * KIB
MAX_EVIDENCE_BYTES = 4 * KIB

# What is told of a call that was stopped, and of other texts of which the end says most; 16 calls that run
# side by side have 64 KiB in one transaction.
MAX_LAST_WORDS_BYTES = 4 * KIB

# What is kept of a running tool's output for who follows it late: some 800 lines. A piece that is longer is
# sent from there on, too.
MAX_LIVE_CHARACTERS = 64 * KIB

# What a person is shown of one call, and what the approvals of one transaction hold together.
MAX_PREVIEW_BYTES = 16 * KIB
MAX_PREVIEWS_BYTES = 48 * KIB
