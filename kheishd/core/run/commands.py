"""Commands to the run machine: values with facts; the machine makes the events of them."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from kheishd.core.contract import AnswerCheck
from protocol.events.context import CompactStrategy, CompactTrigger
from protocol.journal.line import JournalEvent
from protocol.limits.call import MAX_CALLS
from protocol.objects.approval import Preview, Remember
from protocol.objects.permission import Grant, Verdict
from protocol.objects.question import Answer, Question
from protocol.objects.run import CallOutcome, RunError
from protocol.transcript import InputItem, Item, ProviderData, Usage

NO_USAGE: Final = Usage()

# The run and its model calls.


@dataclass(frozen=True, slots=True)
class Start:
    """A worker takes up the run."""


@dataclass(frozen=True, slots=True)
class BeginModelCall:
    """A model call begins; ``item_id`` is for its message."""

    item_id: str


@dataclass(frozen=True, slots=True)
class AcceptAnswer:
    """The model has answered; its calls have distinct ids. ``provider_data`` is that of the message.

    ``cut``: the answer was truncated here. ``max_calls`` is the limit of calls per message. ``checked`` is
    the check of the answer if the run has an output contract and has not emitted an output.
    """

    items: list[Item]
    usage: Usage
    stop_reason: str
    model: str | None
    cut: bool = False
    max_calls: int = MAX_CALLS
    checked: AnswerCheck | None = None
    provider_data: ProviderData | None = None


@dataclass(frozen=True, slots=True)
class FailModelCall:
    """The model call has failed. ``retry_at_ms`` is the time of the next attempt; None if there is none.

    ``usage`` is that of an unusable answer.
    """

    error: RunError
    retry_at_ms: int | None
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True)
class Compaction:
    """A reduction of the model's context; the fields are those of ``ContextCompacted``."""

    upto: int
    strategy: CompactStrategy
    trigger: CompactTrigger
    summary: str = ""
    tools: list[str] = field(default_factory=list)
    pre_tokens: int = 0
    post_tokens: int = 0
    usage: Usage = NO_USAGE
    model: str | None = None


@dataclass(frozen=True, slots=True)
class FailedCompaction:
    """A summary that could not be made, with the usage of the attempts."""

    trigger: CompactTrigger
    error: RunError
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True)
class Compact:
    """The context was compacted, or could not be. None: there was nothing to compact."""

    result: Compaction | FailedCompaction | None


# Calls.


@dataclass(frozen=True, slots=True)
class ApprovalAsk:
    """A request to approve a call."""

    approval_id: str
    subject: str = ""
    note: str = ""
    preview: Preview | None = None
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class QuestionAsk:
    """The questions of a call to a person."""

    question_id: str
    questions: list[Question]
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class CallReturn:
    """The result of a call; the fields are those of ``ToolReturned``."""

    how: CallOutcome
    text: str
    is_error: bool = False
    blob: str | None = None
    bytes: int | None = None
    took_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a new call. ``then`` asks a person, or is the result of a call that may not run."""

    verdict: Verdict
    then: ApprovalAsk | QuestionAsk | CallReturn | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """New calls were judged, in order."""

    judgements: list[Judgement]


@dataclass(frozen=True, slots=True)
class RenewApproval:
    """The approved state has changed, or the rules have: a person must approve the call again."""

    call_id: str
    ask: ApprovalAsk


@dataclass(frozen=True, slots=True)
class CallTools:
    """Calls begin. ``evidence`` is by call id, in the order of the message."""

    evidence: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Observe:
    """There is more evidence about a running call."""

    call_id: str
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReturnResult:
    """A call has its result; ``events`` are its other changes, ``written`` the files that it wrote."""

    call_id: str
    result: CallReturn
    events: tuple[JournalEvent, ...] = ()
    written: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResolveDoubt:
    """The finding about a call during which the daemon died; ``written`` are the files that it wrote."""

    call_id: str
    outcome: Literal["done", "not_done", "unknown"]
    note: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    written: tuple[str, ...] = ()


# Answers of people.


@dataclass(frozen=True, slots=True)
class ApprovalAnswer:
    """A person's answer to the approval of a call."""

    call_id: str
    decision: Literal["allow", "deny"]
    updated_input: dict[str, Any] | None = None
    note: str = ""
    justification: str = ""
    remember: Remember = "once"
    grant: Grant | None = None


@dataclass(frozen=True, slots=True)
class AnswerApprovals:
    """A person has answered approvals."""

    answers: list[ApprovalAnswer]


@dataclass(frozen=True, slots=True)
class ExpireApproval:
    """Nobody has answered the approval of a call in time: the call is denied."""

    call_id: str


@dataclass(frozen=True, slots=True)
class AnswerQuestion:
    """A person has answered the questions of a call, or declined; ``reply`` is the call's result."""

    call_id: str
    answers: list[Answer]
    declined: bool
    justification: str
    reply: str


@dataclass(frozen=True, slots=True)
class AbandonQuestion:
    """Nobody will answer the questions of a call: the run is cancelled."""

    call_id: str
    how: Literal["cancelled", "expired"]
    note: str
    justification: str = ""


# Intervention and the end.


@dataclass(frozen=True, slots=True)
class Steer:
    """A client sends a message to the run, for its next model call."""

    steer_id: str
    items: list[InputItem]
    sender: str | None


@dataclass(frozen=True, slots=True)
class RequestCancel:
    """A client requests that the run stops."""

    outcome: Literal["cancelled", "interrupted"]
    note: str = ""


@dataclass(frozen=True, slots=True)
class EndEarly:
    """The effect of the run was stopped, after a request or at a limit; ``items`` had arrived by then.

    ``results`` are those of the calls that were running. ``error`` is the limit, if that stopped the run.
    """

    items: list[Item]
    results: tuple[ReturnResult, ...] = ()
    error: RunError | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """The worker releases the run because the daemon stops; ``results`` are those of the stopped calls."""

    note: str
    results: tuple[ReturnResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Fail:
    """The run cannot continue."""

    error: RunError


@dataclass(frozen=True, slots=True)
class Interrupt:
    """The configuration forbids that the run continues after a restart."""

    error: RunError


Command = (
    Start
    | BeginModelCall
    | AcceptAnswer
    | FailModelCall
    | Compact
    | Judge
    | RenewApproval
    | CallTools
    | Observe
    | ReturnResult
    | ResolveDoubt
    | AnswerApprovals
    | ExpireApproval
    | AnswerQuestion
    | AbandonQuestion
    | Steer
    | RequestCancel
    | EndEarly
    | Release
    | Fail
    | Interrupt
)
