"""Every limit on what arrives or is held, in one place, each with its arithmetic.

A thing over its limit is refused with an error that names the limit; nothing is cut in silence.
"""

KIB = 1024
MIB = 1024 * KIB

# One message. A megabyte of text is a long book chapter; 16 of them leave room for a pasted log
# and, base64-encoded (4/3), for a 12 MiB attachment.
LINE_BYTES_MAX = 16 * MIB

# The params of one request, unless the method's row says otherwise. Decoding a megabyte of the smallest
# values there are takes the loop some 50 ms; the largest input takes 768 KiB if every character is escaped
# (six bytes for one), and its metadata another 96.
PARAMS_BYTES_MAX = 1 * MIB

# One JSON-RPC batch. 1,000 small queries fit into a millisecond-sized slice of work each.
BATCH_MESSAGES_MAX = 1_000

# One header line before a message, where a peer frames messages so: 'Content-Length: 16777216'.
HEADER_BYTES_MAX = 4 * KIB

# A request's id is kept while the request is open and repeated in its answer. A UUID has 36 bytes.
ID_BYTES_MAX = 1 * KIB

# How deep a value of a caller's own shape (metadata) may nest. Decoding recurses once a level, and
# Python 3.11 stops at 1,000, of which the callers use up to 100: what was read once must also be
# readable from deeper down.
NESTING_MAX = 128

# What one connection can make the daemon hold. 64 requests that wait (one every few milliseconds
# for a script that pipelines), 1 MiB unsent (what a kernel socket buffer holds, several times over).
OPEN_REQUESTS_MAX = 64
UNSENT_BYTES_MAX = 1 * MIB
SUBSCRIPTIONS_MAX = 256

# Lists. 500 rows of 2 KiB make the 1 MiB at which a page ends early; 5,000 rows examined are
# about two milliseconds of the event loop.
PAGE_ROWS_DEFAULT = 50
PAGE_ROWS_MAX = 500
PAGE_BYTES_MAX = 1 * MIB
PAGE_EXAMINED_MAX = 5_000

# Rows can be large. A filter passes over some 500 MB of journal lines a second, so 8 MiB take 16 ms; other
# rows are decoded whole, at speeds that depend on what is in them, so their time itself is bounded.
PAGE_EXAMINED_BYTES_MAX = 8 * MIB
PAGE_MS_MAX = 30

# Names and small values, in bytes of UTF-8. Two of them and a separator are an LMDB key,
# which may have 511 bytes: 2 x 128 + 2 = 258.
SENDER_BYTES_MAX = 128
AGENT_BYTES_MAX = 128
TITLE_BYTES_MAX = 512
REASON_BYTES_MAX = 2 * KIB
IDEMPOTENCY_KEY_BYTES_MAX = 256
METADATA_BYTES_MAX = 16 * KIB

# What stands in records that every event of their session or run writes again: a model's name, a path, the
# names a scope lists (4 KiB are some 150 of them). With 16 KiB of metadata, 8 KiB of ids of open runs, 8 KiB
# of permissions and a title a session's record stays under 40 KiB; a run's, which has none of these when it
# is accepted, under 8 KiB.
MODEL_BYTES_MAX = 256
PATH_BYTES_MAX = 1 * KIB
SCOPE_BYTES_MAX = 4 * KIB

# How deep sessions nest: each is bounded by all above it, which are looked at whenever it is sent to.
SESSION_DEPTH_MAX = 16

# An agent file: its instructions are kept beside the first run that pins them.
AGENT_FILE_BYTES_MAX = 64 * KIB

# One input, as JSON. Everything a transaction writes stays within 256 KiB (see UPDATE_BYTES_MAX): an
# input of 128 KiB + its metadata of 16 KiB + 64 KiB of instructions, the first time + the session's
# record of 40 KiB + the run's of 8 KiB, once as an event, leave nothing to spare. Larger content is an asset.
INPUT_BYTES_MAX = 128 * KIB
INPUT_ITEMS_MAX = 64

# One part of an import is one transaction, too: what it writes is at most as long as what it reads, and
# 64 KiB are left for the session's own record and events. A line that comes alone may be longer: the
# longest there are hold an answer.
IMPORT_BYTES_MAX = 192 * KIB
IMPORT_LINE_BYTES_MAX = 224 * KIB
IMPORT_LINES_MAX = 500

# One answer of a model, as JSON in the journal: 192 KiB is about 48,000 tokens of text and leaves 64 KiB
# of its transaction to the records and a checkpoint. What a model sends beyond it is not kept, and the
# answer says so: its stop reason is ``length``.
ANSWER_BYTES_MAX = 192 * KIB

# A checkpoint that travels in the same transaction as an answer.
CHECKPOINT_BYTES_MAX = 48 * KIB

# One transaction function writes at most this much, and a group has at most 256 of them, so a
# commit writes at most 64 MiB.
UPDATE_BYTES_MAX = 256 * KIB
UPDATE_GROUP_MAX = 256

# Idempotency keys are remembered for a week.
IDEMPOTENCY_KEPT_MS = 7 * 24 * 3600 * 1000

# Runs waiting in one session. At a minute a run, 256 are four hours of work.
QUEUED_RUNS_MAX = 256

# Tokens that can exist at once; each is a row, and a list of them is read at every upgrade request.
TOKENS_MAX = 10_000

# Where a caller may wait, and for how long: a day. Longer waiting is asking again.
WAIT_SECONDS_MAX = 24 * 3600

# One message of a model may ask for so many tools; a batch of more is refused whole, call by call. They are
# judged 16 at a time, which is one transaction: of each call a verdict and an approval's event and record,
# with a subject of 1 KiB in two of them, a reason of 512 bytes in all, and a preview of 3 KiB, are 8 KiB at
# most, and the run's record with 256 open calls another 48.
CALLS_MAX = 256
CALLS_JUDGED_MAX = 16

# Calls of one message that wait for people at once, and those of them that are questions. A run that ends
# takes all of them back in one transaction: 256 results of 450 bytes are 112 KiB, 24 events and records of
# approvals 63, those of two questions another 24; 48 are left for the records of session and run.
ASKED_MAX = 24
QUESTIONED_MAX = 2

# What a call adds to the transaction of its message besides itself: some 150 bytes in the run's record or,
# if it is refused at once, a result of 550 in the journal.
CALL_ROOM_BYTES_MAX = 600

# Calls that run side by side: they share the machine, and as many results are saved together when they are
# stopped.
PARALLEL_CALLS_MAX = 16

# Names that models and tools give themselves. 64 and 40 characters are what the strictest providers take
# back; a call's id stands in every event about it.
TOOL_BYTES_MAX = 64
CALL_ID_BYTES_MAX = 40

# What a call works on, and why it was judged as it was.
SUBJECT_BYTES_MAX = 1 * KIB
JUDGED_REASON_BYTES_MAX = 512

# What a verdict keeps of a subject: 16 of them stand in one transaction, each perhaps beside its approval.
VERDICT_SUBJECT_BYTES_MAX = 256

# What a tool takes and gives. 16 MiB is a large log; of it the model reads 32 KiB at once (about 8,000
# tokens), and the rest stands in a blob. As JSON those can be six times as long: 192 KiB fit a transaction.
# Four such logs are what the tools of one run give together, unless it is said otherwise.
TOOL_INPUT_BYTES_MAX = 16 * MIB
TOOL_OUTPUT_BYTES_MAX = 16 * MIB
RUN_OUTPUT_BYTES_DEFAULT = 64 * MIB
TOOL_TEXT_BYTES_MAX = 32 * KIB
EVIDENCE_BYTES_MAX = 4 * KIB

# A command line. Whoever is asked about it sees all of it, with where it would run, in one preview.
COMMAND_BYTES_MAX = 12 * KIB

# What of a command's output its watchers are shown while it runs, and what a restart tells of a command that
# it found cut short. A megabyte is more than anybody reads; the beginning and the end are in the result.
COMMAND_SAID_BYTES_MAX = 1 * MIB
COMMAND_TAIL_BYTES_MAX = 2 * KIB

# A page that is fetched. Its text is some 30,000 tokens at 128 KiB. Browsers and servers agree on URLs of up
# to 2,000 characters; five redirects are more than any honest site needs.
URL_BYTES_MAX = 2 * KIB
WEB_BODY_BYTES_MAX = 128 * KIB
WEB_HEADER_BYTES_MAX = 4 * KIB
WEB_REDIRECTS_MAX = 5

# What is told of a call that was stopped, and of other texts of which the end says most; 16 calls that run
# side by side have 64 KiB in one transaction.
LAST_WORDS_BYTES_MAX = 4 * KIB

# What is kept of a running tool's output for who follows it late: some 800 lines. A piece that is longer is
# sent from there on, too.
LIVE_CHARACTERS_MAX = 64 * KIB

# What a person is shown of one call, and what the approvals of one transaction hold together.
PREVIEW_BYTES_MAX = 16 * KIB
PREVIEWS_BYTES_MAX = 48 * KIB

# Rules and grants are read at every judgement and stand in records that many events write again: 4 KiB are
# 64 rules about a short command each, or as many grants. A grant that finds no room pushes the oldest out.
RULES_MAX = 64
RULES_BYTES_MAX = 4 * KIB
GRANTS_BYTES_MAX = 4 * KIB
GRANT_USES_MAX = 1_000_000

# Answers to approvals are one transaction: all that one message has waiting. Besides what a person writes,
# each takes an event, a result, a record with its subject and a part of a receipt: 3.1 KiB at most, 75 for
# all; the run's record with 256 open calls takes 48, and the session's, where it remembers, 40. That leaves
# 88 KiB to changed inputs, written once, justifications, written twice, and reasons, three times.
RESOLUTIONS_MAX = ASKED_MAX
RESOLUTIONS_BYTES_MAX = 88 * KIB

# Questions to a person: what fits a screen. Questions and answers stand in the request's record together,
# and the answers in an event and, escaped once more, in the call's result: 12 + 24 + 24 + 48 KiB.
QUESTIONS_MAX = 4
QUESTION_OPTIONS_MAX = 8
QUESTIONS_BYTES_MAX = 12 * KIB
ANSWER_TEXT_BYTES_MAX = 16 * KIB
ANSWERS_BYTES_MAX = 24 * KIB

# Messages that wait for the next model call of a run.
STEERS_MAX = 64

# Tasks of a session. Where some are said to wait for others the open ones are looked through, each once: 256
# are a millisecond. A task takes 8 + 16 + 4 KiB as JSON, 3 for its title and 1 for what it waits for; in its
# transaction stand its event, its record and a receipt, 96 KiB in all.
TASKS_OPEN_MAX = 256
TASK_BLOCKERS_MAX = 32
TASK_DESCRIPTION_BYTES_MAX = 8 * KIB
TASK_OUTPUT_BYTES_MAX = 16 * KIB
TASK_METADATA_BYTES_MAX = 4 * KIB

# Shells in the background: each has a keeper of some 10 MiB, and a file of what it wrote last. That is cut to
# 6 MiB whenever it reaches 8, so of four bytes written three are copied once more. What shells that have
# ended wrote is kept until it is more than 256 MiB together. Nobody reads 8 MiB a second, and a disk takes
# some hundred: a shell that goes on writing more is slowed down.
SHELLS_SESSION_MAX = 8
SHELLS_MAX = 32
SHELL_OUTPUT_BYTES_MAX = 8 * MIB
SHELL_KEPT_BYTES_MAX = 6 * MIB
SHELL_FILES_BYTES_MAX = 256 * MIB
SHELL_SECOND_BYTES_MAX = 8 * MIB
SHELL_TAIL_BYTES_DEFAULT = 8 * KIB
SHELL_TAIL_BYTES_MAX = 256 * KIB

# What a model can be shown where its route does not say: what most models that are offered today take.
CONTEXT_TOKENS_DEFAULT = 200_000

# A summary of a conversation: 16 KiB are some 4,000 tokens, and as JSON 96 KiB at most of its transaction.
SUMMARY_BYTES_MAX = 16 * KIB

# A checkpoint that has a transaction of its own; its key and what it replaces take the rest.
CHECKPOINT_ALONE_BYTES_MAX = 240 * KIB

# How many sessions a session may have branched off, one from another: each is looked up whenever the whole
# of what was said is read.
FORKS_MAX = 64

# What file tools do at once. A source file is rarely longer than 128 KiB; none that a person edits has 4 MiB.
# Hashing 64 MiB takes a tenth of a second and looking at 100,000 directory entries half of one, so both end
# within the five seconds of a tool.
READ_BYTES_MAX = 128 * KIB
EDIT_BYTES_MAX = 4 * MIB
HASHED_BYTES_MAX = 64 * MIB
WALKED_ENTRIES_MAX = 100_000

# What a search gives: 200 paths or lines of a hundred bytes are 20 KiB, of the 32 that a model reads at once.
# Of a long line the 512 bytes around the match are shown. What ripgrep says of all its matches is a few
# times as long as they are; a line of its output holds a line of the file.
FOUND_MAX = 200
PATTERN_BYTES_MAX = 1 * KIB
PATTERN_ALTERNATIVES_MAX = 64
MATCH_BYTES_MAX = 512
GREP_OUTPUT_BYTES_MAX = 16 * MIB
GREP_LINE_BYTES_MAX = 256 * KIB

# One patch. Two digests of each file (2 x 67 bytes as JSON) are its evidence: 24 x 134 bytes fit into 4 KiB.
# Old and new contents of all files are in memory, together at most twice 16 MiB.
PATCH_HUNKS_MAX = 128
PATCH_FILES_MAX = 24
PATCH_BYTES_MAX = 16 * MIB

# What a change looks like: 256 KiB are some 5,000 lines, more than anybody reads; what is longer says so.
DIFF_BYTES_MAX = 256 * KIB
DIFF_LINES_MAX = 1_000

# What is captured of a run's model calls for debugging. A request holds a whole conversation: 4 MiB are the
# million tokens of the longest. Three artifacts a call are 21 calls, and 32 MiB hold those of most.
DEBUG_ARTIFACT_BYTES_MAX = 4 * MIB
DEBUG_RUN_BYTES_MAX = 32 * MIB
DEBUG_ARTIFACTS_MAX = 64
DEBUG_ARTIFACT_ID_BYTES_MAX = 128

# And of all runs, unless configured otherwise: a gigabyte is a few thousand calls of long conversations.
DEBUG_BYTES_DEFAULT = 1024 * MIB

# One answer of run.debug: as JSON 64 KiB of it are 384, at worst, and 256 KiB are 1.5 MiB.
DEBUG_TEXT_BYTES_DEFAULT = 64 * KIB
DEBUG_TEXT_BYTES_MAX = 256 * KIB

# What a run gives by calls: one output as JSON (128 KiB is a long report; with the records it fits the
# transaction of its result), and how many of them its record points at (some 10 bytes each).
OUTPUT_BYTES_MAX = 128 * KIB
OUTPUTS_MAX = 64

# What an agent means to do. A list of 64 things of a line each is more than anybody follows, and stands in
# the instructions of every model call; a plan is a document, shown whole to whoever is to agree.
TODOS_MAX = 64
TODO_BYTES_MAX = 512
TODOS_BYTES_MAX = 16 * KIB
PLAN_BYTES_MAX = 48 * KIB
PLAN_SUMMARY_BYTES_MAX = 512

# Contracts. A schema of 12 KiB describes some 200 fields; it stands in the instructions of every model call
# of the run and, escaped (twice as long at most) and with what is wrong (2 KiB), in a message beside an
# answer that does not fit, for which that answer leaves room. What does not fit is asked for again.
CONTRACT_BYTES_MAX = 12 * KIB
CONTRACT_ROOM_BYTES_MAX = 32 * KIB
REPAIRS_DEFAULT = 3
REPAIRS_MAX = 5

# What a run must have done; it stands in its record. How often it is reminded, and how often an answer that
# was cut at its length limit is gone on with, each of them by a model call.
REQUIREMENTS_MAX = 4
REQUIRED_PATH_BYTES_MAX = 256
REMINDERS_MAX = 2
CONTINUATIONS_MAX = 3

# Budgets: more tokens than anybody pays for, a month of time in hand, a million units of money in micros. At
# the highest price, 10**12 micros a million tokens, 10**12 tokens cost 10**18 micros: that fits eight bytes.
BUDGET_TOKENS_MAX = 10**12
WALL_SECONDS_MAX = 31 * 24 * 3600
MICROS_MAX = 10**12
