"""Commands to the run machine: values with facts; the machine makes the events of them."""

from collections.abc import Sequence
from typing import Any, Final, Literal

from msgspec import field

from kheishd.core.contract import AnswerCheck
from kheishd.core.fallback import Candidate
from protocol.audience import Audience
from protocol.events.context import CompactStrategy, CompactTrigger
from protocol.events.hook import CallInputChanged, HookContextAdded
from protocol.journal.line import JournalEvent
from protocol.limits.call import MAX_CALLS
from protocol.objects.approval import Preview, Remember
from protocol.objects.memory import RecalledNote
from protocol.objects.permission import Grant, Verdict
from protocol.objects.question import Answer, Question
from protocol.objects.run import CallOutcome, RunError
from protocol.objects.workspace import AgentsFile
from protocol.structs import Value
from protocol.transcript import Authority, InputItem, InputOrigin, Item, ProviderData, Usage

NO_USAGE: Final = Usage()

# The run and its model calls.


class Start(Value, frozen=True):
    """A worker takes up the run."""


class BeginModelCall(Value, frozen=True):
    """A model call begins; ``item_id`` is for its message."""

    item_id: str


class AcceptAnswer(Value, frozen=True):
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
    passed_over: list[str] = field(default_factory=list)


class FailModelCall(Value, frozen=True):
    """The model call has failed. ``retry_at_ms`` is the time of the next attempt; None if there is none.

    ``usage`` is that of an unusable answer. ``move`` is the route and key that are asked next instead.
    ``final_error`` is that of the run, if the failure is its end and others came before.
    """

    error: RunError
    retry_at_ms: int | None
    usage: Usage = NO_USAGE
    move: Candidate | None = None
    final_error: RunError | None = None
    passed_over: list[str] = field(default_factory=list)


class Compaction(Value, frozen=True):
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


class FailedCompaction(Value, frozen=True):
    """A summary that could not be made, with the usage of the attempts."""

    trigger: CompactTrigger
    error: RunError
    usage: Usage = NO_USAGE


class Compact(Value, frozen=True):
    """The context was compacted, or could not be. None: there was nothing to compact."""

    result: Compaction | FailedCompaction | None


# Calls.


class ApprovalAsk(Value, frozen=True):
    """A request to approve a call."""

    approval_id: str
    subject: str = ""
    note: str = ""
    preview: Preview | None = None
    expires_at_ms: int | None = None
    audience: Audience | None = None


class QuestionAsk(Value, frozen=True):
    """The questions of a call to a person, or to an agent."""

    question_id: str
    questions: list[Question]
    expires_at_ms: int | None = None
    audience: Audience | None = None
    to_agent: str | None = None


class CallReturn(Value, frozen=True):
    """The result of a call; the fields are those of ``ToolReturned``."""

    how: CallOutcome
    text: str
    is_error: bool = False
    blob: str | None = None
    bytes: int | None = None
    took_ms: int | None = None
    origins: Sequence[InputOrigin] = ()
    hops: int = 0


class Judgement(Value, frozen=True):
    """The verdict on a new call. ``then`` asks a person, or is the result of a call that may not run."""

    verdict: Verdict
    then: ApprovalAsk | QuestionAsk | CallReturn | None = None


class Judge(Value, frozen=True):
    """New calls were judged, in order."""

    judgements: list[Judgement]


class RenewApproval(Value, frozen=True):
    """The approved state has changed, or the rules have: a person must approve the call again."""

    call_id: str
    ask: ApprovalAsk


class CallTools(Value, frozen=True):
    """Calls begin. ``evidence`` is by call id, in the order of the message."""

    evidence: dict[str, dict[str, Any]]


class Observe(Value, frozen=True):
    """There is more evidence about a running call."""

    call_id: str
    evidence: dict[str, Any]


class ReturnResult(Value, frozen=True):
    """A call has its result; ``events`` are its other changes, ``written`` the files that it wrote."""

    call_id: str
    result: CallReturn
    events: tuple[JournalEvent, ...] = ()
    written: tuple[str, ...] = ()


class ResolveDoubt(Value, frozen=True):
    """The finding about a call during which the daemon died; ``written`` are the files that it wrote."""

    call_id: str
    outcome: Literal["done", "not_done", "unknown"]
    note: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    written: tuple[str, ...] = ()


# Answers of people.


class ApprovalAnswer(Value, frozen=True):
    """A person's answer to the approval of a call."""

    call_id: str
    decision: Literal["allow", "deny"]
    updated_input: dict[str, Any] | None = None
    note: str = ""
    justification: str = ""
    remember: Remember = "once"
    grant: Grant | None = None


class AnswerApprovals(Value, frozen=True):
    """A person has answered approvals."""

    answers: list[ApprovalAnswer]


class ExpireApproval(Value, frozen=True):
    """Nobody has answered the approval of a call in time: the call is denied."""

    call_id: str


class AnswerQuestion(Value, frozen=True):
    """A person has answered the questions of a call, or declined; ``reply`` is the call's result.

    ``origins`` are those of the answer if it is no person's own.
    """

    call_id: str
    answers: list[Answer]
    declined: bool
    justification: str
    reply: str
    origins: Sequence[InputOrigin] = ()


class AwaitEvent(Value, frozen=True):
    """A running call waits for an event on the bus, as a row; the fields are those of ``EventAwaited``."""

    call_id: str
    wait_id: str
    source: str
    after: int
    expires_at_ms: int


class EndWait(Value, frozen=True):
    """A call no longer waits for an event: one came, none came in time, or a message came first.

    ``result`` is that of the call; the other fields are those of ``EventWaitEnded``.
    """

    result: ReturnResult
    how: Literal["delivered", "expired", "interrupted"]
    event_id: str | None = None
    event_cursor: int | None = None
    hops: int = 0
    source: str = ""


class AbandonQuestion(Value, frozen=True):
    """Nobody will answer the questions of a call: the run is cancelled."""

    call_id: str
    how: Literal["cancelled", "expired"]
    note: str
    justification: str = ""


# Intervention and the end.


class Steer(Value, frozen=True):
    """A client, a schedule or a trigger sends a message to the run, for its next model call."""

    steer_id: str
    items: list[InputItem]
    sender: str | None
    origin: InputOrigin = "person"
    source: str = ""
    authority: Authority | None = None
    origins: Sequence[InputOrigin] = ()
    hops: int = 0


class NoteAgentsFiles(Value, frozen=True):
    """The run read the ``AGENTS.md`` files of its workspace. ``text`` is the blob with their text."""

    files: list[AgentsFile]
    text: str | None


class NoteHooks(Value, frozen=True):
    """Lifecycle hooks have changed the input of new calls, or added texts to the transcript."""

    events: tuple[CallInputChanged | HookContextAdded, ...]


class NoteRecall(Value, frozen=True):
    """The run is given notes that fit its input. ``text`` is the blob with their text."""

    notes: list[RecalledNote]
    text: str
    origins: list[InputOrigin]


class RequestCancel(Value, frozen=True):
    """A client requests that the run stops."""

    outcome: Literal["cancelled", "interrupted"]
    note: str = ""


class EndEarly(Value, frozen=True):
    """The effect of the run was stopped, after a request or at a limit; ``items`` had arrived by then.

    ``results`` are those of the calls that were running. ``error`` is the limit, if that stopped the run.
    """

    items: list[Item]
    results: tuple[ReturnResult, ...] = ()
    error: RunError | None = None


class Release(Value, frozen=True):
    """The worker releases the run because the daemon stops; ``results`` are those of the stopped calls."""

    note: str
    results: tuple[ReturnResult, ...] = ()


class Fail(Value, frozen=True):
    """The run cannot continue."""

    error: RunError


class Interrupt(Value, frozen=True):
    """The configuration forbids that the run continues after a restart."""

    error: RunError


class EndRestored(Value, frozen=True):
    """The store was restored from a backup in which the run was open. It must not continue.

    ``note`` is about the backup; it is added to the results of the run's open calls.
    """

    error: RunError
    note: str


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
    | AwaitEvent
    | EndWait
    | Steer
    | NoteAgentsFiles
    | NoteHooks
    | NoteRecall
    | RequestCancel
    | EndEarly
    | Release
    | Fail
    | Interrupt
    | EndRestored
)
