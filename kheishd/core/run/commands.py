"""Commands to the run machine: what a worker or a handler wants done with a run. Values only."""

from dataclasses import dataclass
from typing import Literal

from kheishd.core.contract import AnswerCheck
from protocol.events.approval import ApprovalAnswered, ApprovalRequested
from protocol.events.call import CallProbed, ToolCalled, ToolObserved, ToolReturned
from protocol.events.context import CompactionFailed, ContextCompacted
from protocol.events.indoubt import IndoubtOpened, IndoubtResolved
from protocol.events.output import RequirementSatisfied
from protocol.events.question import QuestionAnswered, QuestionAsked, QuestionLapsed
from protocol.journal.line import JournalEvent
from protocol.limits.call import MAX_CALLS
from protocol.objects.permission import Verdict
from protocol.objects.run import RunError
from protocol.transcript import InputItem, Item, Usage


@dataclass(frozen=True, slots=True)
class Start:
    """A worker takes the run up."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The model is about to be asked; ``item_id`` is for the message it will give."""

    item_id: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The model answered. Its calls have ids that differ.

    ``cut``: it said more than is kept. ``max_calls`` is how many calls one message may hold. ``checked`` is
    what was found out about the answer of a run that an output contract binds and that has emitted nothing.
    """

    items: list[Item]
    usage: Usage
    stop_reason: str
    model: str | None
    cut: bool = False
    max_calls: int = MAX_CALLS
    checked: AnswerCheck | None = None


@dataclass(frozen=True, slots=True)
class Errored:
    """The model call failed. ``retry_at_ms`` is when to try again; None: not at all."""

    error: RunError
    retry_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Compact:
    """Less of the session is shown from here on, or no summary could be had. None: nothing was to be done."""

    event: ContextCompacted | CompactionFailed | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """How one new call was judged, and what follows at once: a person is asked, or it has its result."""

    verdict: Verdict
    asks: ApprovalRequested | QuestionAsked | None = None
    result: ToolReturned | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """Some new calls were judged, in order."""

    judgements: list[Judgement]


@dataclass(frozen=True, slots=True)
class Renew:
    """What was approved is not what is there any more: ask again."""

    approval: ApprovalRequested


@dataclass(frozen=True, slots=True)
class CallTools:
    """Calls are about to run."""

    called: list[ToolCalled]


@dataclass(frozen=True, slots=True)
class Observe:
    """Something was learned about a call that runs."""

    observed: ToolObserved


@dataclass(frozen=True, slots=True)
class Return:
    """A call has its result; ``events`` are what it changed besides."""

    returned: ToolReturned
    events: tuple[JournalEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Settle:
    """What was found out about a call that the daemon died in: its events, in order."""

    events: tuple[CallProbed | IndoubtOpened | IndoubtResolved | RequirementSatisfied | ToolReturned, ...]


@dataclass(frozen=True, slots=True)
class Resolve:
    """A person answered approvals. Denied calls get ``results``, in the same order."""

    answers: list[ApprovalAnswered]
    results: list[ToolReturned]


@dataclass(frozen=True, slots=True)
class Lapse:
    """Nobody answered an approval in time: its call is denied."""

    approval_id: str
    result: ToolReturned


@dataclass(frozen=True, slots=True)
class Reply:
    """A person answered a question, or declined to: that is its call's result."""

    answer: QuestionAnswered
    result: ToolReturned


@dataclass(frozen=True, slots=True)
class Abandon:
    """Nobody will answer a question: the run is cancelled."""

    lapsed: QuestionLapsed
    reason: str


@dataclass(frozen=True, slots=True)
class Steer:
    """Somebody says something to the run before its model is asked again."""

    steer_id: str
    items: list[InputItem]
    sender: str | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody wants the run stopped."""

    outcome: Literal["cancelled", "interrupted"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The effect of a run that is to be cancelled has stopped; ``items`` had arrived by then.

    ``results`` are those of calls that were running. ``error``: nobody asked for it to be cancelled, but it
    may not go on.
    """

    items: list[Item]
    results: tuple[Return, ...] = ()
    error: RunError | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """The worker puts the run down because the daemon stops; ``results`` are those of calls it stopped."""

    reason: str
    results: tuple[Return, ...] = ()


@dataclass(frozen=True, slots=True)
class Fail:
    """The run cannot go on."""

    error: RunError


@dataclass(frozen=True, slots=True)
class Interrupt:
    """The run is not to go on after a restart, because the configuration says so."""

    error: RunError


Command = (
    Start
    | Ask
    | Answered
    | Errored
    | Compact
    | Judge
    | Renew
    | CallTools
    | Observe
    | Return
    | Settle
    | Resolve
    | Lapse
    | Reply
    | Abandon
    | Steer
    | Cancel
    | Stopped
    | Release
    | Fail
    | Interrupt
)
