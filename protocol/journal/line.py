"""The journal line: envelope and event as one flat JSON object.

A line is stored, hashed and sent as the same bytes. Readers decode it twice: once as :class:`Envelope`, once
as :data:`JournalEvent`; each decoder ignores the fields of the other. A type that this version does not know
decodes as :class:`Unknown`.

Rules of evolution: a field is only ever added, with a default, and a type never changes its meaning. Any
other change begins a new format, and :mod:`protocol.journal.upgrade` reads the older ones.
"""

from typing import Any

import msgspec
from msgspec import Struct

from protocol.events.agent import (
    AgentClosed,
    AgentCloseRequested,
    AgentPrepared,
    AgentRenamed,
    AgentSpawned,
    ChildSpawned,
)
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed, ApprovalRequested, ApprovalVoted
from protocol.events.budget import BudgetReserved, BudgetSettled
from protocol.events.call import CallProbed, CallsJudged, ToolCalled, ToolObserved, ToolReturned
from protocol.events.checkpoint import CheckpointDropped, CheckpointReverted, CheckpointSaved
from protocol.events.context import CompactionFailed, ContextCompacted
from protocol.events.conversation import ConversationBound, ConversationUnbound
from protocol.events.cron import CronEvent, CronReported
from protocol.events.daemon import DaemonReloaded, DaemonRestored, DaemonStarted, DaemonStopped
from protocol.events.definition import DefinitionDeleted, DefinitionStored
from protocol.events.event import (
    EventAwaited,
    EventDelivered,
    EventPublished,
    EventReturned,
    EventWaitEnded,
)
from protocol.events.goal import GoalCleared, GoalContinued, GoalReviewed, GoalSet, GoalUpdated
from protocol.events.hook import CallInputChanged, HookContextAdded, HookFailed, HookFailureResolved
from protocol.events.indoubt import IndoubtOpened, IndoubtResolved
from protocol.events.mailbox import (
    MailAcknowledged,
    MailDeadLettered,
    MailDelivered,
    MailPosted,
    MailRequeued,
)
from protocol.events.mcp import McpServerDeleted, McpServerStored
from protocol.events.memory import NotebookChanged, NoteDeleted, NoteWritten
from protocol.events.output import OutputEmitted, RequirementSatisfied
from protocol.events.permission import PermissionsChanged
from protocol.events.persona import PersonaBound, PersonaCreated, PersonaDeleted, PersonaUpdated
from protocol.events.plan import PlanEntered, PlanExited, TodosWritten
from protocol.events.question import QuestionAnswered, QuestionAsked, QuestionLapsed, QuestionVoted
from protocol.events.route import DefaultRouteChanged, RouteDeleted, RouteStored
from protocol.events.run import (
    AgentsFilesLoaded,
    CancelRequested,
    InputReceived,
    MessageAppended,
    ModelAsked,
    ModelFailed,
    NotesRecalled,
    RunAccepted,
    RunConcluded,
    RunEnded,
    RunReleased,
    RunStarted,
    Steered,
)
from protocol.events.secret import SecretDeleted, SecretsResealed, SecretStored
from protocol.events.session import (
    SessionCreated,
    SessionEnded,
    SessionImported,
    SessionRenamed,
    SessionUpdated,
    TranscriptImported,
)
from protocol.events.skill import DefaultSkillsResolved, SkillActivated, SkillDeactivated
from protocol.events.task import TaskEvent
from protocol.events.token import TokenCreated, TokenRevoked
from protocol.events.trigger import TriggerChanged, TriggerCreated, TriggerDeleted, TriggerFired
from protocol.events.workspace import WorkspaceTrusted, WorkspaceUntrusted
from protocol.journal.envelope import Envelope
from protocol.journal.upgrade import TAGS, upgrade
from protocol.lazy import LazyDecoder


class Unknown(Struct, frozen=True):
    """An event of a type that this version does not know."""

    type: str


JournalEvent = (
    DaemonStarted
    | DaemonStopped
    | DaemonReloaded
    | DaemonRestored
    | GoalSet
    | GoalUpdated
    | GoalReviewed
    | GoalContinued
    | GoalCleared
    | CronEvent
    | CronReported
    | NoteWritten
    | NoteDeleted
    | NotebookChanged
    | DefinitionStored
    | DefinitionDeleted
    | RouteStored
    | RouteDeleted
    | DefaultRouteChanged
    | McpServerStored
    | McpServerDeleted
    | TokenCreated
    | TokenRevoked
    | WorkspaceTrusted
    | WorkspaceUntrusted
    | PersonaCreated
    | PersonaUpdated
    | PersonaDeleted
    | SessionCreated
    | SessionUpdated
    | SessionRenamed
    | SessionEnded
    | PersonaBound
    | SessionImported
    | TranscriptImported
    | AgentSpawned
    | AgentPrepared
    | ChildSpawned
    | AgentRenamed
    | AgentCloseRequested
    | AgentClosed
    | BudgetReserved
    | BudgetSettled
    | ConversationBound
    | ConversationUnbound
    | InputReceived
    | RunAccepted
    | RunStarted
    | ModelAsked
    | ModelFailed
    | MessageAppended
    | CallsJudged
    | ApprovalRequested
    | ApprovalVoted
    | ApprovalAnswered
    | ApprovalLapsed
    | PermissionsChanged
    | QuestionAsked
    | QuestionVoted
    | QuestionAnswered
    | QuestionLapsed
    | ToolCalled
    | ToolObserved
    | ToolReturned
    | IndoubtOpened
    | CheckpointSaved
    | CheckpointReverted
    | CheckpointDropped
    | IndoubtResolved
    | CallProbed
    | Steered
    | ContextCompacted
    | CompactionFailed
    | OutputEmitted
    | RequirementSatisfied
    | TodosWritten
    | PlanEntered
    | PlanExited
    | TaskEvent
    | MailPosted
    | MailDelivered
    | MailAcknowledged
    | MailRequeued
    | MailDeadLettered
    | SkillActivated
    | SkillDeactivated
    | AgentsFilesLoaded
    | NotesRecalled
    | DefaultSkillsResolved
    | RunReleased
    | CancelRequested
    | RunEnded
    | RunConcluded
    | HookFailed
    | HookFailureResolved
    | HookContextAdded
    | CallInputChanged
    | SecretStored
    | SecretDeleted
    | SecretsResealed
    | EventPublished
    | EventDelivered
    | EventAwaited
    | EventReturned
    | EventWaitEnded
    | TriggerCreated
    | TriggerChanged
    | TriggerFired
    | TriggerDeleted
)


class _TypeOnly(Struct, frozen=True):
    type: str


_encoder = msgspec.json.Encoder()

_envelope: LazyDecoder[Envelope] = LazyDecoder(Envelope)

_event: LazyDecoder[JournalEvent] = LazyDecoder(JournalEvent)

_type: LazyDecoder[_TypeOnly] = LazyDecoder(_TypeOnly)

_object: LazyDecoder[dict[str, Any]] = LazyDecoder(dict[str, Any])

EVENT_TYPES: frozenset[str] = frozenset(
    str(variant.__struct_config__.tag) for variant in JournalEvent.__args__
)

TAG_VALUES: dict[str, frozenset[str]] = {
    "type": EVENT_TYPES | TAGS.keys() | {"workspace_file"},
    "kind": frozenset(
        "text thinking tool_call tool_result asset input compaction mailbox task shell diff command call"
        " network output request events answer query mutation control note archive"
        " opaque api_key oauth undo redo".split()
    ),
    "role": frozenset(("user", "assistant", "tool")),
}
"""The values of the fields that name a variant of a value: without them, a line could not be decoded."""


FORMAT = 2
"""The format of the lines that this version writes."""

_PREFIX = b'{"format":%d' % FORMAT


def encode_line(envelope: Envelope, event: JournalEvent) -> bytes:
    """Return a journal line: one flat JSON object, without a newline."""
    return b"%b,%b,%b" % (_PREFIX, _encoder.encode(envelope)[1:-1], _encoder.encode(event)[1:])


def decode_envelope(line: bytes | memoryview) -> Envelope:
    """Return the envelope of a journal line. Errors: msgspec.DecodeError if it has none."""
    return _envelope.decode(line)


def decode_event(line: bytes | memoryview) -> JournalEvent | Unknown:
    """Return the event of a journal line; ``Unknown`` for a type that this version does not know.

    Errors: msgspec.DecodeError if this is no journal line, or if a known type has a wrong shape.
    """
    if line[: len(_PREFIX)] != _PREFIX:
        return _decode_old_event(line)
    try:
        return _event.decode(line)
    except msgspec.ValidationError:
        name = _type.decode(line).type
        if name in EVENT_TYPES:
            raise
        return Unknown(name)


def _decode_old_event(line: bytes | memoryview) -> JournalEvent | Unknown:
    old = _type.decode(line).type
    name = TAGS.get(old, old)
    if name not in EVENT_TYPES:
        return Unknown(old)
    event: JournalEvent = msgspec.convert(upgrade(_object.decode(line)), JournalEvent)
    return event
