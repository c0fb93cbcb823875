"""All tables: key layouts and value types, by area.

Each declaration is followed by its key and value. Only records, their indexes and checkpoints can be rebuilt
from the journal (see ``upgrades.NOT_RECORDS``).
"""

from typing import Any, Final

from kheishd.core.run.record import RunRecord
from kheishd.core.sealing import SealedValue
from kheishd.store.records import (
    Binding,
    DaemonRules,
    Receipt,
    SearchTotals,
    SecretRecord,
    StoredDefaultRoute,
    StoredDefinition,
    StoredRoute,
    StoredServer,
    TokenRecord,
    TrustedRoots,
)
from kheishd.store.table import Table
from protocol.objects.agent import ManagedAgent
from protocol.objects.approval import Approval
from protocol.objects.checkpoint import Checkpoint
from protocol.objects.cron import Cron
from protocol.objects.event import EventWait, Publication
from protocol.objects.goal import Goal
from protocol.objects.hook import HookDeadLetter
from protocol.objects.indoubt import Indoubt
from protocol.objects.mailbox import Mail, Mailbox
from protocol.objects.memory import Note, Notebook
from protocol.objects.persona import Persona
from protocol.objects.question import QuestionRequest
from protocol.objects.session import Session
from protocol.objects.task import Task
from protocol.objects.trigger import Trigger

# The journal.

JOURNAL = Table("journal", (str, int), bytes)
"""(stream, cursor) → the entry: its hash, 32 bytes, and its line."""
CURSORS = Table("cursors", (int,), str)
"""(cursor) → the entry's stream."""

# Sessions and runs.

SESSIONS = Table("sessions", (str,), Session)
"""(session id) → the session."""
CHILDREN = Table("children", (str, str), bytes)
"""(parent session id, child session id) → nothing."""
CONVERSATIONS = Table("conversations", (str, str), Binding)
"""(agent, sender) → the session that the conversation is bound to."""
RUNS = Table("runs", (str,), RunRecord)
"""(run id) → the run's record."""
RUNS_BY_SESSION = Table("runs_by_session", (str, int), str)
"""(session id, cursor of acceptance) → run id: a session's runs, in order."""
RUNS_READY = Table("runs_ready", (int,), str)
"""(cursor of acceptance) → run id: the first open run of its session, not waiting for a person."""
RUNS_CANCELLED = Table("runs_cancelled", (int,), str)
"""(cursor of acceptance) → run id: to be stopped, not ended."""
RUNS_TO_CONCLUDE = Table("runs_to_conclude", (int,), str)
"""(cursor of its end) → run id: ended, and its mail or the report of its end is not settled."""
CHECKPOINTS = Table("checkpoints", (str, int), bytes)
"""(session id, cursor) → the folded transcript up to the cursor but for its messages, opaque to the store."""
CHECKPOINT_CHUNKS = Table("checkpoint_chunks", (str, int), bytes)
"""(session id, number) → a part of the messages in the session's checkpoint."""

# Agents.

AGENTS = Table("agents", (str,), ManagedAgent)
"""(id of a spawned agent, that of its session) → the agent."""
AGENTS_BY_PATH = Table("agents_by_path", (str,), str)
"""(path) → agent id."""
AGENTS_BY_NAME = Table("agents_by_name", (str, str), bytes)
"""(name, agent id) → nothing: not closed."""
AGENTS_BY_NICKNAME = Table("agents_by_nickname", (str,), str)
"""(digest of the folded nickname) → agent id."""
AGENTS_BY_TIME = Table("agents_by_time", (int, str, str), bytes)
"""(time of its spawn in ms, root id, agent id) → nothing."""
AGENTS_BY_RUN = Table("agents_by_run", (str, str), bytes)
"""(id of the run that spawned it, agent id) → nothing."""
AGENTS_LIVE = Table("agents_live", (str, str, str), bytes)
"""(root id, parent id, agent id) → nothing: not closed."""
AGENTS_PREPARING = Table("agents_preparing", (str,), bytes)
"""(agent id) → nothing: its worktree is to be made."""
AGENTS_CLOSING = Table("agents_closing", (str,), bytes)
"""(agent id) → nothing: to be closed."""
AGENTS_SETTLED = Table("agents_settled", (str,), bytes)
"""(agent id) → nothing: closes once it has settled, and a run of it has ended."""
AGENTS_TIED = Table("agents_tied", (str, str), bytes)
"""(id of the run that spawned it, agent id) → nothing: closes if that run does not complete."""
SPAWN_RECEIPTS = Table("spawn_receipts", (str, str), str)
"""(parent id, digest of the request's id) → id of the agent that the request spawned."""

# Requests to people, and tasks.

APPROVALS = Table("approvals", (str,), Approval)
"""(approval id) → the approval."""
APPROVALS_WAITING = Table("approvals_waiting", (int,), str)
"""(cursor of the request) → approval id: pending."""
QUESTIONS = Table("questions", (str,), QuestionRequest)
"""(question id) → the questions of one call."""
QUESTIONS_WAITING = Table("questions_waiting", (int,), str)
"""(cursor of the question) → question id: pending."""
QUESTIONS_TO_AGENTS = Table("questions_to_agents", (int,), str)
"""(cursor of the question) → question id: pending, asked of an agent."""
INDOUBTS = Table("indoubts", (str,), Indoubt)
"""(in-doubt id) → the call in doubt."""
INDOUBTS_OPEN = Table("indoubts_open", (int,), str)
"""(cursor of its beginning) → in-doubt id: open."""
TASKS = Table("tasks", (str,), Task)
"""(task id) → the task."""
TASKS_OPEN = Table("tasks_open", (str, str, str), bytes)
"""(session id, digest of the folded title, task id) → nothing: an open task that is no shell."""
TASKS_WAITING = Table("tasks_waiting", (str, str), bytes)
"""(id of a task, id of an open task blocked by it) → nothing."""
SHELLS_LIVE = Table("shells_live", (int,), str)
"""(cursor of its creation) → task id: a shell that has not ended."""
SHELLS_STOPPING = Table("shells_stopping", (int,), str)
"""(cursor of its creation) → task id: a shell to be stopped, not ended."""
RECORDS_BY_SESSION = Table("records_by_session", (str, str, int), str)
"""(session id, kind, cursor of its beginning) → id of an approval, question, in-doubt call or task."""
RECORDS_BY_RUN = Table("records_by_run", (str, str, int), str)
"""(run id, kind, cursor of its beginning) → id of an approval, question or in-doubt call."""
DEADLINES = Table("deadlines", (int, str, str), bytes)
"""(time in ms, kind, id) → nothing: a record that expires then."""

# Checkpoints of workspace files.

FILE_CHECKPOINTS = Table("file_checkpoints", (str,), Checkpoint)
"""(checkpoint id) → the checkpoint, without contents."""
FILE_CHECKPOINTS_BY_AGE = Table("file_checkpoints_by_age", (int,), str)
"""(cursor of its beginning) → checkpoint id."""
FILE_CONTENTS = Table("file_contents", (str, int), bytes)
"""(SHA-256 of a file's content, hex; number of the chunk) → the chunk."""
FILE_CONTENT_USES = Table("file_content_uses", (str, str), bytes)
"""(SHA-256 of a file's content, hex; checkpoint id) → nothing."""
FILE_CONTENT_TOTALS = Table("file_content_totals", (str,), int)
"""("*") → the bytes of all contents."""

# Mail.

MAIL = Table("mail", (str,), Mail)
"""(recipient's session id/message id) → the message, without its content."""
MAIL_BY_STATE = Table("mail_by_state", (str, str, int), str)
"""(recipient's session id, state, cursor of the post) → key of the message."""
MAILBOXES = Table("mailboxes", (str,), Mailbox)
"""(session id) → the numbers of messages to the session's agent."""
MAILBOXES_DUE = Table("mailboxes_due", (str, int), str)
"""(session id, 1 if it has ended) → session id: a mailbox with pending messages."""

# Goals.

GOALS = Table("goals", (str,), Goal)
"""(session id) → the session's goal."""
GOALS_OPEN = Table("goals_open", (str,), bytes)
"""(session id) → nothing: a goal that the daemon has to look after."""

# Personas.

PERSONAS = Table("personas", (str,), Persona)
"""(persona id) → the persona."""

# Hooks.

HOOK_DEAD_LETTERS = Table("hook_dead_letters", (str,), HookDeadLetter)
"""(dead letter id) → the failure of a lifecycle hook."""
HOOK_DEAD_LETTERS_BY_AGE = Table("hook_dead_letters_by_age", (int,), str)
"""(cursor of the failure) → dead letter id."""
# Cron.

CRONS = Table("crons", (str,), Cron)
"""(cron id) → the entry with its newest occurrences."""
CRONS_DUE = Table("crons_due", (int, str), bytes)
"""(time in ms, cron id) → nothing: an active entry that is to be looked at then."""
CRONS_LIVE = Table("crons_live", (str, str), bytes)
"""(run id, cron id) → nothing: an occurrence whose run has not ended."""
CRONS_FAILING = Table("crons_failing", (str,), bytes)
"""(cron id) → nothing: its last firings failed."""
CRONS_BY_AUTHOR = Table("crons_by_author", (str, str), bytes)
"""(root session id, cron id) → nothing: created by an agent of the tree; ``file/`` is the file of entries."""
# Secrets.

SECRETS = Table("secrets", (str,), SecretRecord)
"""(slot id) → the slot, without its value."""
SECRET_VALUES = Table("secret_values", (str,), SealedValue)
"""(slot id) → the slot's value, encrypted; it is in no event."""
# Bus.

PUBLICATIONS = Table("publications", (str,), Publication)
"""(event id) → the event on the bus, without its payload, and its deliveries."""
BUS_FANOUT = Table("bus_fanout", (int,), str)
"""(cursor of the event) → event id: not delivered to all its triggers yet."""
BUS_LISTENERS = Table("bus_listeners", (str, str, str), bytes)
"""("exact" or "prefix", the source or its beginning, id) → nothing: a trigger, wait or run that listens."""
EVENT_WAITS = Table("event_waits", (str,), EventWait)
"""(wait id) → a call that waits for an event, or did."""
TRIGGERS = Table("triggers", (str,), Trigger)
"""(trigger id) → the trigger."""
TRIGGERS_OF_FILE = Table("triggers_of_file", (str,), bytes)
"""(trigger id) → nothing: events/subscriptions.toml defines it."""
TRIGGERS_DUE = Table("triggers_due", (int, str), bytes)
"""(time in ms, trigger id) → nothing: a trigger that delivers then the events that it holds."""
TRIGGERS_TROUBLED = Table("triggers_troubled", (str,), bytes)
"""(trigger id) → nothing: its last event was refused or stopped."""

# Memory.

NOTES = Table("notes", (int,), Note)
"""(cursor of its first event) → the note."""
NOTES_BY_NAME = Table("notes_by_name", (str, str), int)
"""(agent, digest of a folded name or alias) → number of the note."""
NOTES_BY_KIND = Table("notes_by_kind", (str, str, int), bytes)
"""(agent, kind, number of the note) → nothing."""
NOTE_POSTINGS = Table("note_postings", (str, str, int), bytes)
"""(agent, term, number of a note that contains it) → how often, and the number of terms in the note."""
NOTEBOOKS = Table("notebooks", (str,), Notebook)
"""(agent) → the totals of its notes."""

# The index of messages: a cache of the journal, which ``session.search`` extends when it is used.

MESSAGE_POSTINGS = Table("message_postings", (str, str, int), bytes)
"""(agent, term, cursor of a message that contains it) → how often, its length, digests of session, sender."""
SEARCH_TOTALS = Table("search_totals", (str,), SearchTotals)
"""(agent) → its messages in the index. ("*") → the extent of the index."""
WHOLE_INDEX: Final = "*"
"""The key of the whole index in it: no agent has this name."""

# The daemon.

TOKENS = Table("tokens", (str,), TokenRecord)
"""(token id) → the token."""
TOKENS_BY_DIGEST = Table("tokens_by_digest", (str,), str)
"""(SHA-256 of a secret, hex) → token id."""
PERMISSIONS = Table("permissions", (str,), DaemonRules)
"""("daemon") → the permission rules of the whole daemon; sessions and runs hold their own."""
TRUSTED_ROOTS = Table("trusted_roots", (str,), TrustedRoots)
"""("daemon") → the roots that clients trust."""
DEFINITIONS = Table("definitions", (str,), StoredDefinition)
"""(name) → the definition of an agent that is in the store; files are not in a table."""
# Routes.

ROUTES = Table("routes", (str,), StoredRoute)
"""(route id) → the route that is in the store, with its revisions; those of the file are not in a table."""
DEFAULT_ROUTE = Table("default_route", (str,), StoredDefaultRoute)
"""("daemon") → the default route, if a client has set it."""

# MCP servers.

MCP_SERVERS = Table("mcp_servers", (str,), StoredServer)
"""(name) → the server that is in the store; those of the file and of agents are not in a table."""

# Requests and content.

RECEIPTS = Table("receipts", (str, str, str), Receipt)
"""(principal, method, digest of the idempotency key) → the digest of the params, and the result."""
RECEIPTS_BY_AGE = Table("receipts_by_age", (int, str, str, str), bytes)
"""(time in ms, principal, method, digest of the key) → nothing: the receipts, to delete expired ones."""
BLOBS = Table("blobs", (str, int), bytes)
"""(SHA-256 of the blob, hex; number of the chunk) → the chunk."""
META = Table("meta", (str,), bytes)
"""(name) → a property of the store: its schema, version, identity."""

TABLES: Final[tuple[Table[Any], ...]] = tuple(
    table for table in tuple(globals().values()) if isinstance(table, Table)
)
"""All of the above, in their order."""
