"""Limits of tool calls."""

from protocol.limits.units import KIB, MIB

# Tool calls in one message of a model; a larger batch is refused, call by call. Calls are judged 16 at a time
# in one transaction: each adds a verdict and an approval's event and record, with a subject of 1 KiB in two
# of them, facts of 512 bytes in two, a note of 512 bytes and a preview of 3 KiB, at most 9 KiB together; the
# run's record with 256 open calls takes another 48 KiB.
MAX_CALLS = 256
MAX_JUDGED_CALLS = 16

# Calls of one message that wait for people, and how many of them may be questions. A run that ends withdraws
# them in one transaction: 256 results of 450 bytes are 112 KiB, 18 events and records of approvals with their
# audiences and votes 63 KiB, those of two questions 24 KiB; 48 KiB remain for the records of session and run.
MAX_WAITING_CALLS = 18
MAX_WAITING_QUESTIONS = 2

# The room of a call in the transaction of its message besides the call itself: about 150 bytes in the run's
# record or, if it is refused at once, a result of 550 bytes in the journal.
MAX_CALL_OVERHEAD_BYTES = 600

# Calls that run in parallel share the machine, and their results are saved together when they are stopped.
MAX_PARALLEL_CALLS = 16

# Names that tools and models choose. 64 and 40 characters are the limits of the strictest providers; a call's
# id is part of every event about it.
MAX_TOOL_BYTES = 64
MAX_CALL_ID_BYTES = 40

# The subject of a call, and the note of its verdict.
MAX_SUBJECT_BYTES = 1 * KIB
MAX_JUDGED_REASON_BYTES = 512

# The subject in a verdict: 16 verdicts share a transaction, each possibly with its approval.
MAX_VERDICT_SUBJECT_BYTES = 256

# The circumstances of a call, in its approval's event and record and in a grant: a directory and a few hosts.
# Longer ones are replaced by their digest.
MAX_FACTS_BYTES = 512

# The input and output of a tool. 16 MiB is a large log; the model reads 32 KiB of it at once (about 8,000
# tokens), and a blob holds the rest. As JSON, 32 KiB can take six times as much: 192 KiB fit a transaction.
# By default, the tools of one run may return four such logs together.
MAX_TOOL_INPUT_BYTES = 16 * MIB
MAX_TOOL_OUTPUT_BYTES = 16 * MIB
DEFAULT_RUN_OUTPUT_BYTES = 64 * MIB
MAX_TOOL_TEXT_BYTES = 32 * KIB
MAX_EVIDENCE_BYTES = 4 * KIB

# The end of the output of a stopped call and of similar texts; 16 parallel calls take 64 KiB of one
# transaction.
MAX_STOPPED_TEXT_BYTES = 4 * KIB

# The buffered output of a running tool for late followers: about 800 lines. Longer pieces are sent from their
# end, too.
MAX_LIVE_CHARACTERS = 64 * KIB

# The preview of one call, and all previews of one transaction.
MAX_PREVIEW_BYTES = 16 * KIB
MAX_PREVIEWS_BYTES = 48 * KIB
