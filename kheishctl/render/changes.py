"""Display changes: one class for each kind of change that a session's display can show.

Text in a change is not sanitized unless its class says so; the code that shows it must sanitize it.
"""

from kheishctl.contract import Json
from kheishctl.values import ClientValue


class StartedInput(ClientValue):
    """An input whose run has started."""

    text: str
    sender: str
    run_id: str


class QueuedInput(ClientValue):
    """An accepted input whose run is behind other runs in the queue."""

    text: str
    sender: str
    run_id: str


class AnswerText(ClientValue):
    """More text of the answer."""

    text: str


class ReasoningText(ClientValue):
    """More text of the reasoning."""

    text: str


class AnswerRestart(ClientValue):
    """A new model call: the text of the answer so far is void."""


class MessageEnd(ClientValue):
    """The end of a message, with its stop reason."""

    stop_reason: str


class Notice(ClientValue):
    """A note for the person."""

    text: str


class RunEnd(ClientValue):
    """The end of a run."""

    run_id: str
    status: str
    error: str


class CallRequest(ClientValue):
    """A tool call that the model requests. ``summary`` is a sanitized line about its arguments."""

    call_id: str
    tool: str
    summary: str


class CallVerdict(ClientValue):
    """The verdict on a call (``allow``, ``ask`` or ``deny``) and its source."""

    call_id: str
    tool: str
    decision: str
    source: str


class CallStart(ClientValue):
    """The start of a call."""

    call_id: str
    tool: str
    summary: str
    at_ms: int


class CallOutput(ClientValue):
    """More output of a running call; ``fresh`` voids its output so far."""

    call_id: str
    text: str
    fresh: bool


class CallEnd(ClientValue):
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


class ApprovalOpening(ClientValue):
    """A call that needs approval; ``approval`` has the fields of the ``approval.get`` result."""

    approval: Json


class ApprovalClosing(ClientValue):
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


class QuestionOpening(ClientValue):
    """An agent's question; ``question`` has the fields of the ``question.get`` result."""

    question: Json


class QuestionClosing(ClientValue):
    """A question that is no longer pending. ``outcome``: ``answered``, ``declined``, or a lapse."""

    question_id: str
    outcome: str
    actor: str = ""
    answer: str = ""
    agent_path: str = ""


class DoubtOpening(ClientValue):
    """A call in doubt; ``doubt`` has the fields of the ``indoubt.get`` result."""

    doubt: Json


class DoubtClosing(ClientValue):
    """The resolution of a call in doubt."""

    indoubt_id: str
    tool: str
    outcome: str
    actor: str
    note: str


class ChildProgress(ClientValue):
    """The progress of an agent below the session's. ``is_settled``: its run has ended."""

    agent_id: str
    path: str
    status: str
    tokens: int
    line: str
    is_settled: bool


class SteerText(ClientValue):
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
    | ChildProgress
)
