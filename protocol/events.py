"""The journal: everything that happens, as one tagged union of past-tense facts.

A journal line is one flat JSON object: the envelope's fields, then the event's own, ``type`` first
among them. It is stored as these bytes, hashed as these bytes and sent as these bytes. Readers decode
it twice, each time typed: once as :class:`Envelope`, once as :data:`JournalEvent`; each decoder passes
over the other's fields. A type that this version does not know decodes as :class:`Unknown`.

Rules of evolution: a field is only ever added, with a default; a type keeps its meaning for good.
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from protocol.budget import Cost
from protocol.context import CompactionFailed as CompactionFailed
from protocol.context import ContextCompacted as ContextCompacted
from protocol.contract import BoundContract, FollowUp
from protocol.envelope import Envelope as Envelope
from protocol.envelope import Event as Event
from protocol.given import OutputEmitted as OutputEmitted
from protocol.given import PlanEntered as PlanEntered
from protocol.given import PlanExited as PlanExited
from protocol.given import RequirementSatisfied as RequirementSatisfied
from protocol.given import TodosWritten as TodosWritten
from protocol.ids import Cursor
from protocol.objects.approval import Preview, Remember
from protocol.objects.permission import Grant, PermissionMode, Rule, RuleRef, Verdict
from protocol.objects.question import Answer, Question
from protocol.objects.run import CallOutcome, Outcome, Pinned, RunError, RunKind
from protocol.objects.session import CapabilityScope, ForkOf
from protocol.objects.token import TokenGrant
from protocol.tasks import TaskEvent
from protocol.transcript import InputItem, Message, Usage

DAEMON_STREAM = "daemon"
"""The stream of events that belong to no session. No session may be called so."""


# The daemon.


class DaemonStarted(Event, frozen=True, tag="daemon_started"):
    """The daemon opened its store. ``after_crash``: the last one did not say that it stopped."""

    version: str
    pid: int
    schema: int
    after_crash: bool = False


class DaemonStopped(Event, frozen=True, tag="daemon_stopped"):
    """The daemon stopped in an orderly way."""

    reason: str


class DaemonReloaded(Event, frozen=True, tag="daemon_reloaded"):
    """A new runtime took the old one's place."""

    generation: int
    warnings: list[str] = []


class TokenCreated(Event, frozen=True, tag="token_created"):
    """A bearer token was made; ``digest`` is the SHA-256 of its secret, in hex."""

    token_id: str
    digest: str
    grant: TokenGrant
    name: str = ""
    parent_token_id: str | None = None


class TokenRevoked(Event, frozen=True, tag="token_revoked"):
    """A bearer token no longer opens anything."""

    token_id: str
    reason: str = ""


# A session.


class SessionCreated(Event, frozen=True, tag="session_created"):
    """A session began. ``fork_of``: what was said in it before was said in another one, up to there."""

    agent: str
    sender: str | None = None
    parent_session_id: str | None = None
    root_session_id: str | None = None
    title: str | None = None
    scope: CapabilityScope = CapabilityScope()
    permission_mode: PermissionMode | None = None
    workspace: str | None = None
    route: str | None = None
    model: str | None = None
    metadata: dict[str, Any] = {}
    fork_of: ForkOf | None = None
    input_contract: str | None = None
    output_contract: BoundContract | None = None


class SessionUpdated(Event, frozen=True, tag="session_updated"):
    """Properties of a session changed; ``changes`` holds the new values by name, null for cleared."""

    changes: dict[str, Any]


class SessionRenamed(Event, frozen=True, tag="session_renamed"):
    """A session has a new title; null: none. ``usage`` is what a model took that was asked for one."""

    title: str | None
    usage: Usage = Usage()
    cost: Cost | None = None


class SessionEnded(Event, frozen=True, tag="session_ended"):
    """A session takes no more input."""

    reason: str = ""


class SessionImported(Event, frozen=True, tag="session_imported"):
    """The events that follow came from an export of another session."""

    source_session_id: str
    source_head: str
    source_events: int


class TranscriptImported(Event, frozen=True, tag="transcript_imported"):
    """One message of an imported session."""

    message: Message
    source_cursor: Cursor


class ConversationBound(Event, frozen=True, tag="conversation_bound"):
    """From here on (agent, sender) means this session."""

    agent: str
    sender: str


class ConversationReset(Event, frozen=True, tag="conversation_reset"):
    """(agent, sender) no longer means this session; the next send starts a new one."""

    agent: str
    sender: str


# A run.


class InputReceived(Event, frozen=True, tag="input_received"):
    """Somebody said something; it is on the disk from here on."""

    input_id: str
    items: list[InputItem]
    sender: str | None = None
    guest: str | None = None
    metadata: dict[str, Any] = {}


class RunAccepted(Event, frozen=True, tag="run_accepted"):
    """A run will answer an input, or do what else its ``kind`` says, with what is pinned."""

    input_id: str
    agent: str
    pinned: Pinned
    sender: str | None = None
    guest: str | None = None
    kind: RunKind = "input"


class RunStarted(Event, frozen=True, tag="run_started"):
    """A worker took the run up. ``alone``: no other beside it, as it brought the daemon down before."""

    start: int
    alone: bool = False


class ModelAsked(Event, frozen=True, tag="model_asked"):
    """A model call begins; ``item_id`` names the message it will give, ``attempt`` counts from 1."""

    item_id: str
    step: int
    attempt: int


class ModelFailed(Event, frozen=True, tag="model_failed"):
    """A model call failed and will be made again at ``retry_at_ms``."""

    item_id: str
    step: int
    attempt: int
    error: RunError
    retry_at_ms: int


class MessageAppended(Event, frozen=True, tag="message_appended"):
    """A message was added to the transcript.

    ``stop_reason``: ``end``, ``length``, ``tool_calls``, ``refusal``, or ``cancelled`` for the part of
    an answer that had arrived when it was stopped. ``because``: the daemon says this, as a user, to have the
    model answer again.
    """

    item_id: str
    message: Message
    usage: Usage = Usage()
    stop_reason: str = "end"
    model: str | None = None
    because: FollowUp | None = None
    cost: Cost | None = None


class CallsJudged(Event, frozen=True, tag="calls_judged"):
    """Calls of the newest message were judged, before any of them ran. The audit of permissions."""

    item_id: str
    verdicts: list[Verdict]


class ApprovalRequested(Event, frozen=True, tag="approval_requested"):
    """A call waits for a person's yes or no; ``number`` is which of its message, from 0."""

    approval_id: str
    call_id: str
    tool: str
    number: int
    message_cursor: Cursor
    subject: str = ""
    reason: str = ""
    preview: Preview | None = None
    expires_at_ms: int | None = None
    agent: str = ""
    sender: str | None = None


class ApprovalAnswered(Event, frozen=True, tag="approval_answered"):
    """Somebody answered an approval. ``grant``: what is remembered of it, by the run or its session."""

    approval_id: str
    call_id: str
    decision: Literal["allow", "deny"]
    updated_input: dict[str, Any] | None = None
    reason: str = ""
    justification: str = ""
    remember: Remember = "once"
    grant: Grant | None = None


class ApprovalLapsed(Event, frozen=True, tag="approval_lapsed"):
    """An approval is no longer asked for. ``withdrawn``: the run ended; ``renewed``: it is asked anew."""

    approval_id: str
    call_id: str
    how: Literal["expired", "withdrawn", "renewed"]


class PermissionsChanged(Event, frozen=True, tag="permissions_changed"):
    """Rules were added and removed, grants revoked: of a run, a session, or the whole daemon.

    Whose they are is where the event stands: a run's has its ``run_id``, the daemon's is in its stream.
    """

    add: list[Rule] = []
    remove: list[RuleRef] = []
    revoke: list[str] = []


class QuestionAsked(Event, frozen=True, tag="question_asked"):
    """A call asks a person something; the answer will be its result."""

    question_id: str
    call_id: str
    questions: list[Question]
    expires_at_ms: int | None = None
    agent: str = ""
    sender: str | None = None


class QuestionAnswered(Event, frozen=True, tag="question_answered"):
    """Somebody answered, or declined to."""

    question_id: str
    call_id: str
    answers: list[Answer] = []
    declined: bool = False
    justification: str = ""


class QuestionLapsed(Event, frozen=True, tag="question_lapsed"):
    """A question is no longer asked."""

    question_id: str
    call_id: str
    how: Literal["cancelled", "expired", "withdrawn"]
    justification: str = ""


class ToolCalled(Event, frozen=True, tag="tool_called"):
    """A call begins; written before it does anything. ``evidence`` tells later whether it took effect."""

    call_id: str
    tool: str
    attempt: int = 1
    evidence: dict[str, Any] = {}


class ToolObserved(Event, frozen=True, tag="tool_observed"):
    """More evidence about a call that has begun, such as its process id."""

    call_id: str
    evidence: dict[str, Any]


class ToolReturned(Event, frozen=True, tag="tool_returned"):
    """A call has its one result. ``text`` is what the model reads; all of it is what ``blob`` names.

    ``how``: ``returned``, ``failed``, ``denied`` (it never ran), ``in_doubt``, ``stopped`` or ``answered``
    (by a person).
    """

    call_id: str
    tool: str
    how: CallOutcome
    text: str
    is_error: bool = False
    blob: str | None = None
    bytes: int | None = None
    took_ms: int | None = None


class CallDoubted(Event, frozen=True, tag="call_doubted"):
    """The daemon died while a call ran, and nobody can tell whether it took effect."""

    indoubt_id: str
    call_id: str
    tool: str
    number: int
    message_cursor: Cursor
    called_at_ms: int
    note: str = ""
    evidence: dict[str, Any] = {}
    agent: str = ""
    sender: str | None = None


class DoubtSettled(Event, frozen=True, tag="doubt_settled"):
    """What became of a call in doubt. ``note`` is what the model is told."""

    indoubt_id: str
    call_id: str
    tool: str
    outcome: Literal["done", "not_done"]
    justification: str = ""
    note: str = ""


class CallProbed(Event, frozen=True, tag="call_probed"):
    """The daemon died in a call, and the tool's probe found that it took no effect: it runs again."""

    call_id: str
    tool: str
    note: str = ""
    evidence: dict[str, Any] = {}


class Steered(Event, frozen=True, tag="steered"):
    """Somebody said something to the run in flight; the model reads it before its next answer."""

    steer_id: str
    items: list[InputItem]
    sender: str | None = None


class RunReleased(Event, frozen=True, tag="run_released"):
    """A worker put the run down in an orderly way; it goes on at the daemon's next start."""

    reason: str = ""


class CancelRequested(Event, frozen=True, tag="cancel_requested"):
    """Somebody wants the run stopped; ``outcome`` is what it will be called."""

    outcome: Literal["cancelled", "interrupted"]
    reason: str = ""


class RunEnded(Event, frozen=True, tag="run_ended"):
    """The run is over, with an outcome and, if it failed, the error."""

    outcome: Outcome
    error: RunError | None = None
    reason: str = ""


class Unknown(Struct, frozen=True):
    """An event of a type that this version does not know."""

    type: str


JournalEvent = (
    DaemonStarted
    | DaemonStopped
    | DaemonReloaded
    | TokenCreated
    | TokenRevoked
    | SessionCreated
    | SessionUpdated
    | SessionRenamed
    | SessionEnded
    | SessionImported
    | TranscriptImported
    | ConversationBound
    | ConversationReset
    | InputReceived
    | RunAccepted
    | RunStarted
    | ModelAsked
    | ModelFailed
    | MessageAppended
    | CallsJudged
    | ApprovalRequested
    | ApprovalAnswered
    | ApprovalLapsed
    | PermissionsChanged
    | QuestionAsked
    | QuestionAnswered
    | QuestionLapsed
    | ToolCalled
    | ToolObserved
    | ToolReturned
    | CallDoubted
    | DoubtSettled
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
    | RunReleased
    | CancelRequested
    | RunEnded
)


class _TypeOnly(Struct, frozen=True):
    type: str


_encoder = msgspec.json.Encoder()
_envelope = msgspec.json.Decoder(Envelope)
_event = msgspec.json.Decoder(JournalEvent)
_type = msgspec.json.Decoder(_TypeOnly)
EVENT_TYPES: frozenset[str] = frozenset(
    str(variant.__struct_config__.tag) for variant in JournalEvent.__args__
)


def encode_line(envelope: Envelope, event: JournalEvent) -> bytes:
    """A journal line: one flat JSON object, without a newline."""
    return _encoder.encode(envelope)[:-1] + b"," + _encoder.encode(event)[1:]


def decode_envelope(line: bytes | memoryview) -> Envelope:
    """The envelope of a journal line. Errors: msgspec.DecodeError if it is none."""
    return _envelope.decode(line)


def decode_event(line: bytes | memoryview) -> JournalEvent | Unknown:
    """The event of a journal line; ``Unknown`` for a type of another version.

    Errors: msgspec.DecodeError if it is no journal line, or one of a known type in a wrong shape.
    """
    try:
        event: JournalEvent = _event.decode(line)
        return event
    except msgspec.ValidationError:
        name = _type.decode(line).type
        if name in EVENT_TYPES:
            raise
        return Unknown(name)
