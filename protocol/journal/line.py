"""The journal line: envelope and event as one flat JSON object.

A line is stored, hashed and sent as the same bytes. Readers decode it twice: once as
:class:`Envelope`, once as :data:`JournalEvent`; each decoder ignores the fields of the other.
A type that this version does not know decodes as :class:`Unknown`.

Rules of evolution: a field is only ever added, with a default; a type never changes its meaning.
"""

import msgspec
from msgspec import Struct

from protocol.events.approval import ApprovalAnswered, ApprovalLapsed, ApprovalRequested
from protocol.events.call import CallProbed, CallsJudged, ToolCalled, ToolObserved, ToolReturned
from protocol.events.context import CompactionFailed, ContextCompacted
from protocol.events.conversation import ConversationBound, ConversationReset
from protocol.events.daemon import DaemonReloaded, DaemonStarted, DaemonStopped
from protocol.events.indoubt import CallDoubted, DoubtSettled
from protocol.events.output import OutputEmitted, RequirementSatisfied
from protocol.events.permission import PermissionsChanged
from protocol.events.plan import PlanEntered, PlanExited, TodosWritten
from protocol.events.question import QuestionAnswered, QuestionAsked, QuestionLapsed
from protocol.events.run import (
    CancelRequested,
    InputReceived,
    MessageAppended,
    ModelAsked,
    ModelFailed,
    RunAccepted,
    RunEnded,
    RunReleased,
    RunStarted,
    Steered,
)
from protocol.events.session import (
    SessionCreated,
    SessionEnded,
    SessionImported,
    SessionRenamed,
    SessionUpdated,
    TranscriptImported,
)
from protocol.events.task import TaskEvent
from protocol.events.token import TokenCreated, TokenRevoked
from protocol.journal.envelope import Envelope


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
