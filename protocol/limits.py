"""Every limit on what arrives or is held, in one place, each with its arithmetic.

A thing over its limit is refused with an error that names the limit; nothing is cut in silence.
"""

KIB = 1024
MIB = 1024 * KIB

# One message. A megabyte of text is a long book chapter; 16 of them leave room for a pasted log
# and, base64-encoded (4/3), for a 12 MiB attachment.
MAX_LINE_BYTES = 16 * MIB

# The params of one request, unless the method's row says otherwise. Decoding a megabyte of the smallest
# values there are takes the loop some 50 ms; the largest input takes 768 KiB if every character is escaped
# (six bytes for one), and its metadata another 96.
MAX_PARAMS_BYTES = 1 * MIB

# One JSON-RPC batch. 1,000 small queries fit into a millisecond-sized slice of work each.
MAX_BATCH_MESSAGES = 1_000

# One header line before a message, where a peer frames messages so: 'Content-Length: 16777216'.
MAX_HEADER_BYTES = 4 * KIB

# A request's id is kept while the request is open and repeated in its answer. A UUID has 36 bytes.
MAX_ID_BYTES = 1 * KIB

# How deep a value of a caller's own shape (metadata) may nest. Decoding recurses once a level, and
# Python 3.11 stops at 1,000, of which the callers use up to 100: what was read once must also be
# readable from deeper down.
MAX_NESTING = 128

# What one connection can make the daemon hold. 64 requests that wait (one every few milliseconds
# for a script that pipelines), 1 MiB unsent (what a kernel socket buffer holds, several times over).
MAX_OPEN_REQUESTS = 64
MAX_UNSENT_BYTES = 1 * MIB
MAX_SUBSCRIPTIONS = 256

# Lists. 500 rows of 2 KiB make the 1 MiB at which a page ends early; 5,000 rows examined are
# about two milliseconds of the event loop.
DEFAULT_PAGE_ROWS = 50
MAX_PAGE_ROWS = 500
MAX_PAGE_BYTES = 1 * MIB
MAX_PAGE_EXAMINED = 5_000

# Rows can be large. A filter passes over some 500 MB of journal lines a second, so 8 MiB take 16 ms; other
# rows are decoded whole, at speeds that depend on what is in them, so their time itself is bounded.
MAX_PAGE_EXAMINED_BYTES = 8 * MIB
MAX_PAGE_MS = 30

# Names and small values, in bytes of UTF-8. Two of them and a separator are an LMDB key,
# which may have 511 bytes: 2 x 128 + 2 = 258.
MAX_SENDER_BYTES = 128
MAX_AGENT_BYTES = 128
MAX_TITLE_BYTES = 512
MAX_REASON_BYTES = 2 * KIB
MAX_IDEMPOTENCY_KEY_BYTES = 256
MAX_METADATA_BYTES = 16 * KIB

# What stands in records that every event of their session or run writes again: a model's name, a path, the
# names a scope lists (4 KiB are some 150 of them). With 16 KiB of metadata, 8 KiB of ids of open runs, 8 KiB
# of permissions and a title a session's record stays under 40 KiB; a run's, which has none of these when it
# is accepted, under 8 KiB.
MAX_MODEL_BYTES = 256
MAX_PATH_BYTES = 1 * KIB
MAX_SCOPE_BYTES = 4 * KIB

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

# One answer of a model, as JSON in the journal: 192 KiB is about 48,000 tokens of text and leaves 64 KiB
# of its transaction to the records and a checkpoint. What a model sends beyond it is not kept, and the
# answer says so: its stop reason is ``length``.
MAX_ANSWER_BYTES = 192 * KIB

# A checkpoint that travels in the same transaction as an answer.
MAX_CHECKPOINT_BYTES = 48 * KIB

# One transaction function writes at most this much, and a group has at most 256 of them, so a
# commit writes at most 64 MiB.
MAX_UPDATE_BYTES = 256 * KIB
MAX_UPDATE_GROUP = 256

# Idempotency keys are remembered for a week.
IDEMPOTENCY_KEPT_MS = 7 * 24 * 3600 * 1000

# Runs waiting in one session. At a minute a run, 256 are four hours of work.
MAX_QUEUED_RUNS = 256

# Tokens that can exist at once; each is a row, and a list of them is read at every upgrade request.
MAX_TOKENS = 10_000

# Where a caller may wait, and for how long: a day. Longer waiting is asking again.
MAX_WAIT_SECONDS = 24 * 3600

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

# A command line. Whoever is asked about it sees all of it, with where it would run, in one preview.
MAX_COMMAND_BYTES = 12 * KIB

# What of a command's output its watchers are shown while it runs, and what a restart tells of a command that
# it found cut short. A megabyte is more than anybody reads; the beginning and the end are in the result.
MAX_COMMAND_SAID_BYTES = 1 * MIB
MAX_COMMAND_TAIL_BYTES = 2 * KIB

# A page that is fetched. Its text is some 30,000 tokens at 128 KiB. Browsers and servers agree on URLs of up
# to 2,000 characters; five redirects are more than any honest site needs.
MAX_URL_BYTES = 2 * KIB
MAX_WEB_BODY_BYTES = 128 * KIB
MAX_WEB_HEADER_BYTES = 4 * KIB
MAX_WEB_REDIRECTS = 5

# What is told of a call that was stopped, and of other texts of which the end says most; 16 calls that run
# side by side have 64 KiB in one transaction.
MAX_LAST_WORDS_BYTES = 4 * KIB

# What is kept of a running tool's output for who follows it late: some 800 lines. A piece that is longer is
# sent from there on, too.
MAX_LIVE_CHARACTERS = 64 * KIB

# What a person is shown of one call, and what the approvals of one transaction hold together.
MAX_PREVIEW_BYTES = 16 * KIB
MAX_PREVIEWS_BYTES = 48 * KIB

# Rules and grants are read at every judgement and stand in records that many events write again: 4 KiB are
# 64 rules about a short command each, or as many grants. A grant that finds no room pushes the oldest out.
MAX_RULES = 64
MAX_RULES_BYTES = 4 * KIB
MAX_GRANTS_BYTES = 4 * KIB
MAX_GRANT_USES = 1_000_000

# Answers to approvals are one transaction: all that one message has waiting. Besides what a person writes,
# each takes an event, a result, a record with its subject and a part of a receipt: 3.1 KiB at most, 75 for
# all; the run's record with 256 open calls takes 48, and the session's, where it remembers, 40. That leaves
# 88 KiB to changed inputs, written once, justifications, written twice, and reasons, three times.
MAX_RESOLUTIONS = MAX_WAITING_CALLS
MAX_RESOLUTIONS_BYTES = 88 * KIB

# Questions to a person: what fits a screen. Questions and answers stand in the request's record together,
# and the answers in an event and, escaped once more, in the call's result: 12 + 24 + 24 + 48 KiB.
MAX_QUESTIONS = 4
MAX_QUESTION_OPTIONS = 8
MAX_QUESTIONS_BYTES = 12 * KIB
MAX_ANSWER_TEXT_BYTES = 16 * KIB
MAX_ANSWERS_BYTES = 24 * KIB

# Messages that wait for the next model call of a run.
MAX_STEERS = 64

# Tasks of a session. Where some are said to wait for others the open ones are looked through, each once: 256
# are a millisecond. A task takes 8 + 16 + 4 KiB as JSON, 3 for its title and 1 for what it waits for; in its
# transaction stand its event, its record and a receipt, 96 KiB in all.
MAX_TASKS_OPEN = 256
MAX_TASK_BLOCKERS = 32
MAX_TASK_DESCRIPTION_BYTES = 8 * KIB
MAX_TASK_OUTPUT_BYTES = 16 * KIB
MAX_TASK_METADATA_BYTES = 4 * KIB

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

# What a model can be shown where its route does not say: what most models that are offered today take.
DEFAULT_CONTEXT_TOKENS = 200_000

# A summary of a conversation: 16 KiB are some 4,000 tokens, and as JSON 96 KiB at most of its transaction.
MAX_SUMMARY_BYTES = 16 * KIB

# A checkpoint that has a transaction of its own; its key and what it replaces take the rest.
MAX_CHECKPOINT_ALONE_BYTES = 240 * KIB

# How many sessions a session may have branched off, one from another: each is looked up whenever the whole
# of what was said is read.
MAX_FORKS = 64

# What file tools do at once. A source file is rarely longer than 128 KiB; none that a person edits has 4 MiB.
# Hashing 64 MiB takes a tenth of a second and looking at 100,000 directory entries half of one, so both end
# within the five seconds of a tool.
MAX_READ_BYTES = 128 * KIB
MAX_EDIT_BYTES = 4 * MIB
MAX_HASHED_BYTES = 64 * MIB
MAX_WALKED_ENTRIES = 100_000

# What a search gives: 200 paths or lines of a hundred bytes are 20 KiB, of the 32 that a model reads at once.
# Of a long line the 512 bytes around the match are shown. What ripgrep says of all its matches is a few
# times as long as they are; a line of its output holds a line of the file.
MAX_MATCHES = 200
MAX_PATTERN_BYTES = 1 * KIB
MAX_PATTERN_ALTERNATIVES = 64
MAX_MATCH_BYTES = 512
MAX_GREP_OUTPUT_BYTES = 16 * MIB
MAX_GREP_LINE_BYTES = 256 * KIB

# One patch. Two digests of each file (2 x 67 bytes as JSON) are its evidence: 24 x 134 bytes fit into 4 KiB.
# Old and new contents of all files are in memory, together at most twice 16 MiB.
MAX_PATCH_HUNKS = 128
MAX_PATCH_FILES = 24
MAX_PATCH_BYTES = 16 * MIB

# What a change looks like: 256 KiB are some 5,000 lines, more than anybody reads; what is longer says so.
MAX_DIFF_BYTES = 256 * KIB
MAX_DIFF_LINES = 1_000

# What is captured of a run's model calls for debugging. A request holds a whole conversation: 4 MiB are the
# million tokens of the longest. Three artifacts a call are 21 calls, and 32 MiB hold those of most.
MAX_DEBUG_ARTIFACT_BYTES = 4 * MIB
MAX_DEBUG_RUN_BYTES = 32 * MIB
MAX_DEBUG_ARTIFACTS = 64
MAX_DEBUG_ARTIFACT_ID_BYTES = 128

# And of all runs, unless configured otherwise: a gigabyte is a few thousand calls of long conversations.
DEFAULT_DEBUG_BYTES = 1024 * MIB

# One answer of run.debug: as JSON 64 KiB of it are 384, at worst, and 256 KiB are 1.5 MiB.
DEFAULT_DEBUG_TEXT_BYTES = 64 * KIB
MAX_DEBUG_TEXT_BYTES = 256 * KIB

# What a run gives by calls: one output as JSON (128 KiB is a long report; with the records it fits the
# transaction of its result), and how many of them its record points at (some 10 bytes each).
MAX_OUTPUT_BYTES = 128 * KIB
MAX_OUTPUTS = 64

# What an agent means to do. A list of 64 things of a line each is more than anybody follows, and stands in
# the instructions of every model call; a plan is a document, shown whole to whoever is to agree.
MAX_TODOS = 64
MAX_TODO_BYTES = 512
MAX_TODOS_BYTES = 16 * KIB
MAX_PLAN_BYTES = 48 * KIB
MAX_PLAN_SUMMARY_BYTES = 512

# Contracts. A schema of 12 KiB describes some 200 fields; it stands in the instructions of every model call
# of the run and, escaped (twice as long at most) and with what is wrong (2 KiB), in a message beside an
# answer that does not fit, for which that answer leaves room. What does not fit is asked for again.
MAX_CONTRACT_BYTES = 12 * KIB
MAX_CONTRACT_ROOM_BYTES = 32 * KIB
DEFAULT_REPAIRS = 3
MAX_REPAIRS = 5

# What a run must have done; it stands in its record. How often it is reminded, and how often an answer that
# was cut at its length limit is gone on with, each of them by a model call.
MAX_REQUIREMENTS = 4
MAX_REQUIRED_PATH_BYTES = 256
MAX_REMINDERS = 2
MAX_CONTINUATIONS = 3

# Budgets: more tokens than anybody pays for, a month of time in hand, a million units of money in micros. At
# the highest price, 10**12 micros a million tokens, 10**12 tokens cost 10**18 micros: that fits eight bytes.
MAX_BUDGET_TOKENS = 10**12
MAX_WORK_SECONDS = 31 * 24 * 3600
MAX_MICROS = 10**12
