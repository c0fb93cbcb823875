"""What is shown of a session as it happens: one kind of piece for each thing that a person may want to know.

Texts are as somebody wrote them unless it says otherwise: whoever shows them makes them harmless.
"""

from dataclasses import dataclass

from kheishctl.client import Json


@dataclass(frozen=True, slots=True)
class StartedInput:
    """An input is now being answered: what was said, and by whom."""

    text: str
    sender: str
    run_id: str


@dataclass(frozen=True, slots=True)
class QueuedInput:
    """An input was accepted and waits until the runs before it have ended."""

    text: str
    sender: str
    run_id: str


@dataclass(frozen=True, slots=True)
class AnswerText:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningText:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class AnswerRestart:
    """What was said of this answer is void: the model was asked again."""


@dataclass(frozen=True, slots=True)
class MessageEnd:
    """A message is whole; ``stop_reason`` says why it ends where it does."""

    stop_reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should know."""

    text: str


@dataclass(frozen=True, slots=True)
class RunEnd:
    """A run is over."""

    run_id: str
    status: str
    error: str


@dataclass(frozen=True, slots=True)
class CallRequest:
    """The model asks for a call of a tool. Here and below, ``about`` is harmless and one line."""

    call_id: str
    tool: str
    about: str


@dataclass(frozen=True, slots=True)
class CallVerdict:
    """A call was judged: ``allow``, ``ask`` or ``deny``, and what decided."""

    call_id: str
    tool: str
    decision: str
    why: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call runs, since then."""

    call_id: str
    tool: str
    about: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class CallOutput:
    """More of what a call writes while it runs; ``fresh``: what was shown of it before is void."""

    call_id: str
    text: str
    fresh: bool


@dataclass(frozen=True, slots=True)
class CallResult:
    """A call has its result. ``why`` is the verdict that denied it; ``told``: that it ends so is known."""

    call_id: str
    tool: str
    about: str
    how: str
    text: str
    took_ms: int | None = None
    why: str = ""
    told: bool = False


@dataclass(frozen=True, slots=True)
class ApprovalOpening:
    """A call waits for a person's yes or no; ``approval`` has the fields of the contract's view."""

    approval: Json


@dataclass(frozen=True, slots=True)
class ApprovalClosing:
    """An approval waits no longer. ``how``: ``allow``, ``deny``, or how it lapsed. ``by``: who answered."""

    approval_id: str
    tool: str
    about: str
    how: str
    by: str = ""
    reason: str = ""
    remember: str = "once"


@dataclass(frozen=True, slots=True)
class QuestionOpening:
    """An agent asks a person; ``question`` has the fields of the contract's request."""

    question: Json


@dataclass(frozen=True, slots=True)
class QuestionClosing:
    """A question waits no longer. ``how``: ``answered``, ``declined``, or how it lapsed."""

    question_id: str
    how: str
    by: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class DoubtOpening:
    """Nobody knows whether a call took effect; ``doubt`` has the fields of the contract's view."""

    doubt: Json


@dataclass(frozen=True, slots=True)
class DoubtClosing:
    """It is known what became of a call in doubt."""

    indoubt_id: str
    tool: str
    outcome: str
    by: str
    note: str


@dataclass(frozen=True, slots=True)
class SteerText:
    """Something was said to the run in flight."""

    text: str
    sender: str


Piece = (
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
    | CallResult
    | ApprovalOpening
    | ApprovalClosing
    | QuestionOpening
    | QuestionClosing
    | DoubtOpening
    | DoubtClosing
    | SteerText
)
