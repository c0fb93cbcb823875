"""Display changes: one class for each kind of change that a session's display can show.

Text in a change is not sanitized unless its class says so; the code that shows it must sanitize it.
"""

from dataclasses import dataclass

from kheishctl.contract import Json


@dataclass(frozen=True, slots=True)
class StartedInput:
    """An input whose run has started."""

    text: str
    sender: str
    run_id: str


@dataclass(frozen=True, slots=True)
class QueuedInput:
    """An accepted input whose run is behind other runs in the queue."""

    text: str
    sender: str
    run_id: str


@dataclass(frozen=True, slots=True)
class AnswerText:
    """More text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningText:
    """More text of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class AnswerRestart:
    """A new model call: the text of the answer so far is void."""


@dataclass(frozen=True, slots=True)
class MessageEnd:
    """The end of a message, with its stop reason."""

    stop_reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A note for the person."""

    text: str


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a run."""

    run_id: str
    status: str
    error: str


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A tool call that the model requests. ``summary`` is a sanitized line about its arguments."""

    call_id: str
    tool: str
    summary: str


@dataclass(frozen=True, slots=True)
class CallVerdict:
    """The verdict on a call (``allow``, ``ask`` or ``deny``) and its source."""

    call_id: str
    tool: str
    decision: str
    source: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The start of a call."""

    call_id: str
    tool: str
    summary: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class CallOutput:
    """More output of a running call; ``fresh`` voids its output so far."""

    call_id: str
    text: str
    fresh: bool


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The result of a call.

    ``denied_by`` is the source of the verdict that denied it; ``denial_shown``: the denial was already shown.
    """

    call_id: str
    tool: str
    summary: str
    outcome: str
    text: str
    took_ms: int | None = None
    denied_by: str = ""
    denial_shown: bool = False


@dataclass(frozen=True, slots=True)
class ApprovalOpening:
    """A call that needs approval; ``approval`` has the fields of the ``approval.get`` result."""

    approval: Json


@dataclass(frozen=True, slots=True)
class ApprovalClosing:
    """An approval that is no longer pending.

    ``outcome``: ``allow``, ``deny``, or the way it lapsed. ``actor``: the person who answered.
    """

    approval_id: str
    tool: str
    summary: str
    outcome: str
    actor: str = ""
    note: str = ""
    remember: str = "once"


@dataclass(frozen=True, slots=True)
class QuestionOpening:
    """An agent's question; ``question`` has the fields of the ``question.get`` result."""

    question: Json


@dataclass(frozen=True, slots=True)
class QuestionClosing:
    """A question that is no longer pending. ``outcome``: ``answered``, ``declined``, or a lapse."""

    question_id: str
    outcome: str
    actor: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class DoubtOpening:
    """A call in doubt; ``doubt`` has the fields of the ``indoubt.get`` result."""

    doubt: Json


@dataclass(frozen=True, slots=True)
class DoubtClosing:
    """The resolution of a call in doubt."""

    indoubt_id: str
    tool: str
    outcome: str
    actor: str
    note: str


@dataclass(frozen=True, slots=True)
class SteerText:
    """A message to the running run."""

    text: str
    sender: str


DisplayChange = (
    StartedInput
    | QueuedInput
    | AnswerText
    | ReasoningText
    | AnswerRestart
    | MessageEnd
    | Notice
    | RunEnd
    | CallRequest
    | CallVerdict
    | CallStart
    | CallOutput
    | CallEnd
    | ApprovalOpening
    | ApprovalClosing
    | QuestionOpening
    | QuestionClosing
    | DoubtOpening
    | DoubtClosing
    | SteerText
)
